/* What virtual nodes take from this machine: time, random numbers, the packet port of a radio. */
#ifndef TINYSPLIT_VIRTUAL_MACHINE_H
#define TINYSPLIT_VIRTUAL_MACHINE_H

#include "tinysplit/tinysplit.h"

/* Monotonic, microseconds. */
uint64_t vb_now_us(void);

/* For ts_config.random. */
uint32_t vb_random(void *ctx);

/* Longest packet of a radio's port. */
#define VB_PACKET_BYTES (1u + TS_ADDR_BYTES + TS_MAX_MTU)

/* Hands a frame to a radio's port; returns as ts_config.send does. A full socket is a radio whose queue is
 * full; its smallest buffer holds a few frames. */
int vb_packet_send(int fd, const struct ts_addr *to, const uint8_t *frame, size_t len);

/* Takes a frame from a radio's port: 1 and *from (link untouched), *frame (within buffer of VB_PACKET_BYTES)
 * and *len; 0: there is none; -1: the radio is gone. */
int vb_packet_read(int fd, uint8_t *buffer, struct ts_addr *from, const uint8_t **frame, size_t *len);

#endif
