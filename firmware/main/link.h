/* Links: what every network port of the board offers, and the way of a frame to the link task.
 *
 * One task, the link task, owns the core's ts_node. Frames come in on whatever task their driver
 * uses; it takes a buffer from a static pool, fills it and posts it. Nothing on that way allocates
 * or waits. The link task's loop is
 *
 *     for (;;) {
 *         struct link_rx *rx = link_rx_wait(ts_node_poll(&node, now_us()));
 *         if (rx != NULL) {
 *             ts_node_on_datagram(&node, now_us(), &rx->from, rx->bytes, rx->len);
 *             link_rx_give(rx);
 *         }
 *     }
 *
 * and `send` of a port is only ever called from it.
 *
 * The ports read these members of struct settings (settings.h), all of them in the terms of
 * host/boards/control.schema.json: name, listen, next, mtu, window, wifi_*, espnow_*, ble_*. */
#ifndef LINK_H
#define LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "esp_err.h"
#include "sdkconfig.h"
#include "tinysplit/session.h"

#ifdef __cplusplus
extern "C" {
#endif

struct settings;

/* The longest frame of any link: an ESP-NOW v2 body and what FORWARD puts around it on a bridge's wire
 * (SPEC.md section 8: the radio's mtu plus 19). */
#define LINK_FRAME_BYTES 1492u

/* Frame buffers, in internal memory. A peer may have a whole window in flight (LINK_WINDOW), and acknowledgements of
 * another session come between. */
#if CONFIG_SPIRAM
#define LINK_RX_FRAMES 24u
#define LINK_WINDOW 16u
#else
#define LINK_RX_FRAMES 12u
#define LINK_WINDOW 8u
#endif

/* Index of a link in ts_config.links. Every role has the first; a bridge has both. */
#define LINK_RADIO 0u
#define LINK_WIRE 1u

struct link_rx {
    struct ts_addr from;
    uint16_t len;
    uint8_t bytes[LINK_FRAME_BYTES];
};

/* How a link stands, for `info` and telemetry. Zero where a member means nothing to that link. */
struct link_status {
    bool up;              /* an address, or the radio is on the air */
    uint8_t peers;        /* connections, or known peers */
    uint16_t mtu;         /* longest frame */
    char address[64];     /* what another node's `next` would say, as far as it is known here */
    char phy[12];         /* "11n", "LR", "2M", "1M", "eth" */
    uint8_t channel;      /* 802.11 */
    int8_t rssi_dbm;      /* last heard */
    uint8_t version;      /* ESP-NOW: 1 or 2 */
    uint32_t rate_kbps;   /* ESP-NOW: of the peer to the next stage */
    uint32_t interval_us; /* BLE: connection interval granted */
    uint16_t latency;     /* BLE: connection events the peripheral may skip */
    uint16_t att_mtu;     /* BLE */
    uint16_t data_bytes;  /* BLE: longest link-layer payload granted */
    uint32_t reconnects;  /* since start */
    uint32_t rx_dropped;  /* frames in for which there was no buffer */
    uint32_t tx_failed;   /* frames the link took and reported lost */
    char error[80];       /* why it is not up, for people; empty if nothing is wrong */
};

/* One transport. All functions but the driver's own callbacks run on the link task or before it starts. */
struct link_port {
    const char *name; /* scheme of its addresses: "udp" */

    /* Brings it up as far as can be done at once; never waits for a network or a peer. Fills *link: mtu, window,
     * reorder, rto_min_us, pace. Frames may be posted from now on. */
    esp_err_t (*start)(const struct settings *settings, struct ts_link *link);

    /* The address of the next stage from the text behind "scheme://": true and *out (link LINK_RADIO), or false if it
     * is none. After start, once. A link with connections opens one to it from now on, again whenever it breaks. */
    bool (*peer)(const char *text, struct ts_addr *out);

    /* TS_OK; TS_E_WOULD_BLOCK: full, link_wake comes when there is room; TS_E_SEND_FAILED: there is no way to
     * this peer now. Never waits. */
    int (*send)(const struct ts_addr *to, const uint8_t *frame, size_t len);

    void (*stop)(void);
    void (*describe)(struct link_status *out);
};

extern const struct link_port link_udp, link_tcp, link_espnow, link_ble;

/* The host's wire of a bridge: frames between the lines of the console. It has one peer and needs no `peer`. */
extern const struct link_port link_wire;

/* Who this node is, as BLE's advertisement and status tell it (SPEC.md sections 13.2 and 13.3) and mDNS. */
struct link_identity {
    uint8_t role, stage, stage_count; /* as in ts_config */
    uint8_t bundle[TS_BUNDLE_BYTES];
    char version[32]; /* of the firmware: "0.1.0" */
};

/* Before the ports start. Until then: a bridge without a bundle, version 0.0.0. */
void link_identify(const struct link_identity *who);
const struct link_identity *link_identity(void);

/* The port of a scheme ("udp", without "://"), NULL if this build has none. */
const struct link_port *link_port_named(const char *scheme);

/* Sets up pool and queue. Before any port starts, once. */
esp_err_t link_init(void);

/* From any task, not from an interrupt: */
struct link_rx *link_rx_take(void); /* a free frame buffer; NULL if none: then the frame is dropped, as a radio would */
void link_rx_post(struct link_rx *rx); /* to the link task */
void link_wake(void);                  /* writable again, a connection changed, or the engine is done */
void link_gone(uint8_t place); /* the connection the radio's port knows as `place` (below 32) ended; before the place is
                                  given to another */

/* Of the link task: the next frame; NULL when woken, or at until_us of esp_timer's clock, or after LINK_WAIT_MS at the
 * latest, so that the task can feed its watchdog. */
#define LINK_WAIT_MS 1000u
struct link_rx *link_rx_wait(uint64_t until_us);
uint32_t link_gone_take(void); /* those ended since the last call, a bit each: to be told to the core before the frame
                                  that link_rx_wait just returned, which may be of the next connection there */
void link_rx_give(struct link_rx *rx); /* a buffer back to the pool, by whoever has it */

/* For ports: called on the link task before it waits, to write what could not be written yet. True if something still
 * cannot: then it is called again in LINK_RETRY_US, and the core is polled. NULL: none. */
#define LINK_RETRY_US 1000u
#define LINK_PORTS 2u
typedef bool (*link_flush_fn)(void);
void link_on_wait(uint8_t link, link_flush_fn flush);

#ifdef __cplusplus
}
#endif

#endif
