"""Which boards are there: on serial ports, on the network, in reach of Bluetooth."""
