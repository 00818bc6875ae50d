/* IP addresses of peers: text, sockets' form, and the core's.
 *
 * One form for both families: an IPv6 address, with IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), on sockets that
 * take both. So a peer has one name whichever way it came. */
#ifndef INET_H
#define INET_H

#include <stdbool.h>

#include "lwip/sockets.h"
#include "tinysplit/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* True, and *out filled, from "192.0.2.1:4000" or "[2001:db8::1]:4000". Numbers only: names would have to wait for a
 * name server. */
bool inet_parse(const char *text, struct sockaddr_in6 *out);

/* 18 bytes: address and port as on the wire. */
void inet_to_addr(const struct sockaddr_in6 *from, struct ts_addr *to);

/* False if it is not an address of inet_to_addr. scope is for link-local peers, network_scope(). */
bool inet_from_addr(const struct ts_addr *from, uint32_t scope, struct sockaddr_in6 *to);

/* A socket of this type (SOCK_DGRAM, SOCK_STREAM) for both families, non-blocking, bound to the port if it is not 0;
 * -1 and errno on failure. */
int inet_socket(int type, uint16_t port);

#ifdef __cplusplus
}
#endif

#endif
