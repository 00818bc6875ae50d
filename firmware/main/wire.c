/* The host's wire of a bridge: frames among the lines of a console, SPEC.md section 9. console.c takes the bytes apart;
 * the host is known by the console that it uses. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "app.h"
#include "link.h"

/* A wire keeps order, and loses bytes when one end is too slow. */
#define WIRE_RTO_MIN_US 100000u

static atomic_bool running;
static atomic_uint dropped, failed;

void wire_received(unsigned console, const uint8_t *frame, size_t len) {
    if (!atomic_load(&running) || len == 0 || len > LINK_FRAME_BYTES) {
        return;
    }
    struct link_rx *rx = link_rx_take();
    if (rx == NULL) {
        atomic_fetch_add(&dropped, 1);
        return;
    }
    rx->from = (struct ts_addr){.link = LINK_WIRE, .len = 1, .bytes = {(uint8_t)console}};
    rx->len = (uint16_t)len;
    memcpy(rx->bytes, frame, len);
    link_rx_post(rx);
}

static esp_err_t start(const struct settings *settings, struct ts_link *link) {
    (void)settings;
    *link =
        (struct ts_link){.mtu = LINK_FRAME_BYTES, .window = LINK_WINDOW, .reorder = 1, .rto_min_us = WIRE_RTO_MIN_US};
    atomic_store(&running, true);
    return ESP_OK;
}

static bool peer(const char *text, struct ts_addr *out) {
    (void)text;
    (void)out;
    return false; /* a host opens its session itself */
}

static int send_frame(const struct ts_addr *to, const uint8_t *frame, size_t len) {
    if (!atomic_load(&running) || to->len != 1 || to->bytes[0] >= CONSOLES) {
        return TS_E_SEND_FAILED;
    }
    int code = console_send_frame(to->bytes[0], frame, len);
    if (code != TS_OK && code != TS_E_WOULD_BLOCK) {
        atomic_fetch_add(&failed, 1);
    }
    return code;
}

static void stop(void) {
    atomic_store(&running, false);
}

static void describe(struct link_status *out) {
    memset(out, 0, sizeof *out);
    out->up = atomic_load(&running);
    out->mtu = LINK_FRAME_BYTES;
    out->rx_dropped = atomic_load(&dropped);
    out->tx_failed = atomic_load(&failed);
    (void)snprintf(out->phy, sizeof out->phy, "serial");
}

const struct link_port link_wire = {
    .name = "wire", .start = start, .peer = peer, .send = send_frame, .stop = stop, .describe = describe};
