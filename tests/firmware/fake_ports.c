/* Ports that a test does not look at: link.c lists them all. Defined weakly, so that a real one takes its place. */
#include "link.h"

#define ABSENT(port, scheme) __attribute__((weak)) const struct link_port port = {.name = scheme}

ABSENT(link_udp, "udp");
ABSENT(link_tcp, "tcp");
ABSENT(link_espnow, "espnow");
ABSENT(link_ble, "ble");
ABSENT(link_wire, "wire");
