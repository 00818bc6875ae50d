/* A bridge: a node that hands frames on between a host's wire and a radio, SPEC.md section 8.
 * Boards of other roles need none of this. */
#ifndef TINYSPLIT_BRIDGE_H
#define TINYSPLIT_BRIDGE_H

#include "tinysplit/node.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A frame on a bridge's wire: the frame of the radio and whom it is to or from. */
struct ts_forward {
    const uint8_t *addr;
    const uint8_t *inner;
    uint32_t addr_len, inner_len;
};

/* Writes a FORWARD; returns its length, 0 if it does not fit in cap or the address
 * length is not 1..15. inner may not overlap out. */
size_t ts_forward_encode(const struct ts_crc *crc, const struct ts_forward *forward, uint8_t *out, size_t cap);

/* True, with the parts pointing into `in`, if the bytes are a valid FORWARD. */
bool ts_forward_decode(const struct ts_crc *crc, const uint8_t *in, size_t len, struct ts_forward *forward);

/* Length of a CREDIT, SPEC.md section 8.1. */
#define TS_CREDIT_BYTES 6

/* Writes a CREDIT of TS_CREDIT_BYTES. window 0: a host's question. */
void ts_credit_encode(const struct ts_crc *crc, uint8_t window, uint16_t count, uint8_t *out);

/* True, with the fields filled in, if the bytes are a valid CREDIT. */
bool ts_credit_decode(const struct ts_crc *crc, const uint8_t *in, size_t len, uint8_t *window, uint16_t *count);

/* A frame of the host that waits for the radio. */
struct ts_bridge_slot {
    struct ts_addr to;
    uint16_t len;
    uint8_t *frame; /* the radio link's mtu bytes, the caller's */
};

struct ts_bridge {
    struct ts_node node; /* for the host's own session */
    uint8_t host_link, radio_link;
    struct ts_addr host;          /* where the host was last heard */
    struct ts_bridge_slot *slots; /* the caller's, a ring */
    uint8_t slot_count, first, waiting;
    uint16_t received; /* FORWARDs of the host, by its own count */
    bool owes;         /* the host has not been told of the last change */
};

/* Sets up a bridge of role TS_ROLE_BRIDGE without jobs. Frames of host_link are the host's, those of
 * radio_link go to it. The host link's mtu is at least the radio's plus 19. Returns TS_OK,
 * TS_E_INVALID, TS_E_NO_MEMORY. */
int ts_bridge_init(struct ts_bridge *bridge, const struct ts_node_config *cfg, uint8_t host_link, uint8_t radio_link,
                   uint64_t now_us);

/* Gives the bridge room for count frames, 1..255, that the radio cannot take at once. Call it after
 * ts_bridge_init. Without it such frames are dropped, and the host is told to send one at a time. */
void ts_bridge_queue(struct ts_bridge *bridge, struct ts_bridge_slot *slots, uint8_t count);

/* Does what is due, that of the node included: what ts_node_poll is to other roles. */
uint64_t ts_bridge_poll(struct ts_bridge *bridge, uint64_t now_us);

/* Takes a frame from either link. Any bytes are safe. */
void ts_bridge_on_datagram(struct ts_bridge *bridge, uint64_t now_us, const struct ts_addr *from, const uint8_t *frame,
                           size_t len);

#ifdef __cplusplus
}
#endif

#endif
