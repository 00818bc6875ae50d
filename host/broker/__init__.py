"""An MQTT 3.1.1 broker for boards and those who command them, so that none has to be installed.

`packets.py` is the protocol's bytes, `broker.py` what a broker decides, `access.py` who may do
what; none of them does I/O. `server.py` is the edge: sockets, clocks, threads and files.

It is our own since no broker that pip installs keeps a node to its own topics (CONTRIBUTING.md,
Decisions). Sections named in comments are those of the standard: MQTT Version 3.1.1, OASIS
Standard, 29 October 2014.
"""
