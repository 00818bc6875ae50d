/* A bridge on a PC: ts_bridge between a serial wire and a radio's packet port. One thread per bridge. */
#ifndef TINYSPLIT_VIRTUAL_BRIDGE_H
#define TINYSPLIT_VIRTUAL_BRIDGE_H

#include "tinysplit/tinysplit.h"

struct vbridge_config {
    int packet_fd;      /* as in vb_config */
    int wire_fd;        /* the wire, non-blocking; stays the caller's */
    uint16_t radio_mtu; /* longest frame of the radio */
    uint8_t slots;      /* frames kept for the radio, 1..255 */
};

typedef struct vbridge vbridge;

/* Returns NULL if there is no memory or the core refuses the config. */
vbridge *vbridge_new(const struct vbridge_config *config);
void vbridge_free(vbridge *bridge);

/* Serves wire, radio and timers for at most timeout_us. Returns as soon as text waits (1), the wire is
 * gone (2) or waiting fails (-1); 0: the time is over. */
int vbridge_step(vbridge *bridge, int64_t timeout_us);

/* Takes text that came on the wire, at most cap bytes; returns how many. */
size_t vbridge_take_text(vbridge *bridge, uint8_t *text, size_t cap);

/* Puts a line of text, its end included, on the wire; dropped whole if the wire has not taken what came
 * before it. */
void vbridge_say(vbridge *bridge, const uint8_t *line, size_t len);

void vbridge_get_stats(vbridge *bridge, struct ts_stats *stats);

#endif
