#define _GNU_SOURCE /* NOLINT(cert-dcl51-cpp,bugprone-reserved-identifier): ppoll */
#include "bridge.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "machine.h"

#define HOST_LINK 0
#define RADIO_LINK 1
#define OUT_BYTES 65536u
#define TEXT_BYTES 65536u
#define FORWARD_BYTES 19u /* around a frame at most: SPEC.md section 8 */
#define PACKETS_PER_STEP 64

struct vbridge {
    struct vbridge_config config;
    struct ts_crc_fast tables;
    struct ts_link links[2];
    struct ts_node_config node_config;
    struct ts_session session;
    struct ts_bridge bridge;
    struct ts_bridge_slot *slots;
    struct ts_wire wire;
    uint8_t *slot_memory, *frame, *wire_memory, *packet;
    uint8_t out[OUT_BYTES];
    size_t out_len;
    bool framed; /* a frame was sent since the last line of text */
    uint8_t text[TEXT_BYTES];
    _Alignas(16) uint8_t messages[TS_RX_MEMORY(1, 16)]; /* a bridge refuses every kind */
    size_t text_len;
};

static int send_frame(void *ctx, const struct ts_addr *to, const uint8_t *frame, size_t len) {
    vbridge *b = ctx;
    if (to->link == RADIO_LINK) {
        return vb_packet_send(b->config.packet_fd, to, frame, len);
    }
    if (b->out_len + TS_WIRE_MAX(len) > OUT_BYTES) {
        return TS_E_WOULD_BLOCK;
    }
    b->out_len += ts_wire_encode(b->wire.crc, frame, len, b->out + b->out_len);
    b->framed = true;
    return TS_OK;
}

static void on_frame(void *ctx, const uint8_t *frame, size_t len) {
    vbridge *b = ctx;
    static const struct ts_addr host = {.link = HOST_LINK, .len = 1};
    ts_bridge_on_datagram(&b->bridge, vb_now_us(), &host, frame, len);
}

static void on_text(void *ctx, const uint8_t *text, size_t len) {
    vbridge *b = ctx;
    size_t take = len < TEXT_BYTES - b->text_len ? len : TEXT_BYTES - b->text_len;
    memcpy(b->text + b->text_len, text, take);
    b->text_len += take;
}

static bool set_up(vbridge *b) {
    const struct vbridge_config *c = &b->config;
    struct ts_config *e = &b->node_config.endpoint;
    uint16_t wire_mtu = (uint16_t)(c->radio_mtu + FORWARD_BYTES);
    b->links[HOST_LINK] = (struct ts_link){.mtu = wire_mtu, .reorder = 1};
    b->links[RADIO_LINK] = (struct ts_link){.mtu = c->radio_mtu};
    ts_crc_fast_init(&b->tables);
    b->slots = calloc(c->slots, sizeof *b->slots);
    b->slot_memory = malloc((size_t)c->slots * c->radio_mtu);
    b->frame = malloc(wire_mtu);
    b->wire_memory = malloc(TS_WIRE_MAX((size_t)wire_mtu));
    b->packet = malloc(VB_PACKET_BYTES);
    e->ctx = b;
    e->crc = (struct ts_crc){&b->tables, ts_crc16_fast, ts_crc32_fast};
    e->send = send_frame;
    e->random = vb_random;
    e->role = TS_ROLE_BRIDGE;
    e->stage = TS_NO_STAGE;
    e->links = b->links;
    e->link_count = 2;
    e->sessions = &b->session;
    e->session_count = 1;
    e->rx_memory = b->messages;
    e->rx_memory_bytes = sizeof b->messages;
    e->max_message = 16;
    e->frame = b->frame;
    e->frame_bytes = wire_mtu;
    if (b->slots == NULL || b->slot_memory == NULL || b->frame == NULL || b->wire_memory == NULL || b->packet == NULL ||
        ts_bridge_init(&b->bridge, &b->node_config, HOST_LINK, RADIO_LINK, vb_now_us()) != TS_OK) {
        return false;
    }
    for (unsigned i = 0; i < c->slots; i++) {
        b->slots[i].frame = b->slot_memory + (size_t)i * c->radio_mtu;
    }
    ts_bridge_queue(&b->bridge, b->slots, c->slots);
    ts_wire_init(&b->wire, &e->crc, b->wire_memory, wire_mtu);
    return true;
}

vbridge *vbridge_new(const struct vbridge_config *config) {
    vbridge *b = calloc(1, sizeof *b);
    if (b == NULL) {
        return NULL;
    }
    b->config = *config;
    if (config->slots == 0 || !set_up(b)) {
        vbridge_free(b);
        return NULL;
    }
    return b;
}

void vbridge_free(vbridge *b) {
    if (b == NULL) {
        return;
    }
    free(b->slots);
    free(b->slot_memory);
    free(b->frame);
    free(b->wire_memory);
    free(b->packet);
    free(b);
}

/* False: the wire is gone. */
static bool flush(vbridge *b) {
    while (b->out_len > 0) {
        ssize_t sent = write(b->config.wire_fd, b->out, b->out_len);
        if (sent < 0) {
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
        }
        memmove(b->out, b->out + sent, b->out_len - (size_t)sent);
        b->out_len -= (size_t)sent;
    }
    return true;
}

static bool read_wire(vbridge *b) {
    uint8_t buffer[4096];
    ssize_t got = read(b->config.wire_fd, buffer, sizeof buffer);
    if (got <= 0) {
        return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
    }
    ts_wire_read(&b->wire, buffer, (size_t)got, on_frame, on_text, b);
    return true;
}

static bool read_radio(vbridge *b) {
    struct ts_addr from = {.link = RADIO_LINK};
    const uint8_t *frame;
    size_t len;
    for (int i = 0; i < PACKETS_PER_STEP; i++) {
        int got = vb_packet_read(b->config.packet_fd, b->packet, &from, &frame, &len);
        if (got <= 0) {
            return got == 0;
        }
        ts_bridge_on_datagram(&b->bridge, vb_now_us(), &from, frame, len);
    }
    return true;
}

int vbridge_step(vbridge *b, int64_t timeout_us) {
    uint64_t now = vb_now_us();
    uint64_t end = now + (uint64_t)timeout_us;
    bool radio = true;
    for (;;) {
        uint64_t due = ts_bridge_poll(&b->bridge, now);
        if (!flush(b)) {
            return 2;
        }
        if (b->text_len > 0) {
            return 1;
        }
        now = vb_now_us();
        if (now >= end) {
            return 0;
        }
        due = due < end ? due : end;
        struct timespec wait = {0};
        if (due > now) {
            wait.tv_sec = (time_t)((due - now) / 1000000u);
            wait.tv_nsec = (long)((due - now) % 1000000u * 1000u);
        }
        struct pollfd fds[] = {
            {.fd = b->config.wire_fd, .events = (short)(POLLIN | (b->out_len > 0 ? POLLOUT : 0))},
            {.fd = radio ? b->config.packet_fd : -1, .events = POLLIN},
        };
        int ready = ppoll(fds, 2, &wait, NULL);
        if (ready < 0 && errno != EINTR) {
            return -1;
        }
        if (ready > 0 && fds[0].revents != 0 && !read_wire(b)) {
            return 2;
        }
        if (ready > 0 && fds[1].revents != 0) {
            radio = read_radio(b);
        }
        now = vb_now_us();
    }
}

size_t vbridge_take_text(vbridge *b, uint8_t *text, size_t cap) {
    size_t take = b->text_len < cap ? b->text_len : cap;
    memcpy(text, b->text, take);
    memmove(b->text, b->text + take, b->text_len - take);
    b->text_len -= take;
    return take;
}

void vbridge_say(vbridge *b, const uint8_t *line, size_t len) {
    size_t sync = b->framed ? TS_WIRE_SYNC_BYTES : 0;
    if (b->out_len + sync + len > OUT_BYTES) {
        return;
    }
    memcpy(b->out + b->out_len, TS_WIRE_SYNC, sync);
    memcpy(b->out + b->out_len + sync, line, len);
    b->out_len += sync + len;
    b->framed = false;
}

void vbridge_get_stats(vbridge *b, struct ts_stats *stats) {
    *stats = b->bridge.node.ep.stats;
}
