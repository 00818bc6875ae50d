"""The control plane over MQTT: boards that take commands, and those who send them."""
