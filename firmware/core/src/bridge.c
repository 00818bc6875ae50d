#include "tinysplit/bridge.h"
#include "internal.h"

#include <string.h>

static uint16_t seal(const struct ts_crc *crc, const uint8_t *data, size_t len) {
    return crc->crc16(crc->ctx, ts_seed(crc, 0), data, len);
}

size_t ts_forward_encode(const struct ts_crc *crc, const struct ts_forward *f, uint8_t *out, size_t cap) {
    if (f->addr_len < 1 || f->addr_len > 15 || f->inner_len < 1 || f->inner_len > TS_MAX_MTU ||
        f->addr_len + f->inner_len + 3 > cap) {
        return 0;
    }
    size_t len = 1u + f->addr_len + f->inner_len;
    out[0] = (uint8_t)((uint32_t)TS_F_FORWARD << 4 | f->addr_len);
    memcpy(out + 1, f->addr, f->addr_len);
    memcpy(out + 1 + f->addr_len, f->inner, f->inner_len);
    ts_put16(out + len, seal(crc, out, len));
    return len + 2;
}

bool ts_forward_decode(const struct ts_crc *crc, const uint8_t *in, size_t len, struct ts_forward *f) {
    if (len < 5 || len > TS_MAX_MTU + 18u || in[0] >> 4 != TS_F_FORWARD || (in[0] & 15u) == 0 ||
        len < 4u + (in[0] & 15u) || ts_get16(in + len - 2) != seal(crc, in, len - 2)) {
        return false;
    }
    f->addr = in + 1;
    f->addr_len = in[0] & 15u;
    f->inner = in + 1 + f->addr_len;
    f->inner_len = (uint32_t)len - 3u - f->addr_len;
    return f->inner[0] >> 4 != TS_F_FORWARD;
}

void ts_credit_encode(const struct ts_crc *crc, uint8_t window, uint16_t count, uint8_t *out) {
    out[0] = TS_F_FORWARD << 4;
    out[1] = window;
    ts_put16(out + 2, count);
    ts_put16(out + 4, seal(crc, out, 4));
}

bool ts_credit_decode(const struct ts_crc *crc, const uint8_t *in, size_t len, uint8_t *window, uint16_t *count) {
    if (len != TS_CREDIT_BYTES || in[0] != TS_F_FORWARD << 4 || ts_get16(in + 4) != seal(crc, in, 4)) {
        return false;
    }
    *window = in[1];
    *count = ts_get16(in + 2);
    return true;
}

static int send_by_radio(const struct ts_bridge *b, const struct ts_addr *to, const uint8_t *frame, size_t len) {
    const struct ts_config *cfg = &b->node.cfg->endpoint;
    return cfg->send(cfg->ctx, to, frame, len);
}

/* Hands waiting frames to the radio, until it is full. */
static void drain(struct ts_bridge *b) {
    while (b->waiting > 0) {
        const struct ts_bridge_slot *slot = &b->slots[b->first];
        if (send_by_radio(b, &slot->to, slot->frame, slot->len) == TS_E_WOULD_BLOCK) {
            return;
        }
        b->first = (uint8_t)(b->first + 1u < b->slot_count ? b->first + 1u : 0);
        b->waiting--;
        b->owes = true;
    }
}

/* Hands a frame to the radio now, or keeps it; no room for it is the host's fault. */
static void to_radio(struct ts_bridge *b, const struct ts_addr *to, const struct ts_forward *f) {
    b->received++;
    drain(b);
    if (b->waiting == 0) {
        b->owes = true;
        if (send_by_radio(b, to, f->inner, f->inner_len) != TS_E_WOULD_BLOCK) {
            return;
        }
    }
    if (b->waiting == b->slot_count) {
        b->node.ep.stats.dropped++;
        b->owes = true;
        return;
    }
    uint32_t at = (uint32_t)b->first + b->waiting;
    struct ts_bridge_slot *slot = &b->slots[at < b->slot_count ? at : at - b->slot_count];
    slot->to = *to;
    slot->len = (uint16_t)f->inner_len;
    memcpy(slot->frame, f->inner, f->inner_len);
    b->waiting++;
}

/* Tells the host how many of its frames are over. */
static void tell(struct ts_bridge *b) {
    uint8_t credit[TS_CREDIT_BYTES];
    const struct ts_config *cfg = &b->node.cfg->endpoint;
    uint8_t window = b->slot_count > 0 ? b->slot_count : 1;
    ts_credit_encode(&cfg->crc, window, (uint16_t)(b->received - b->waiting), credit);
    b->owes = b->host.len > 0 && cfg->send(cfg->ctx, &b->host, credit, sizeof credit) == TS_E_WOULD_BLOCK;
}

/* Between the host's wire and the radio, without a look at what is inside. */
static void forward(struct ts_bridge *b, const struct ts_addr *from, const uint8_t *frame, size_t len) {
    const struct ts_config *cfg = &b->node.cfg->endpoint;
    struct ts_forward f = {.addr = from->bytes, .addr_len = from->len, .inner = frame, .inner_len = (uint32_t)len};
    if (from->link != b->host_link) {
        size_t wrapped =
            b->host.len == 0 ? 0 : ts_forward_encode(&cfg->crc, &f, cfg->frame, cfg->links[b->host_link].mtu);
        if (wrapped == 0) {
            b->node.ep.stats.dropped++;
        } else {
            cfg->send(cfg->ctx, &b->host, cfg->frame, wrapped);
        }
        return;
    }
    uint8_t window;
    uint16_t count;
    if (ts_credit_decode(&cfg->crc, frame, len, &window, &count)) {
        b->host = *from;
        b->received = count; /* the wire keeps order: what has not come is lost */
        tell(b);
        return;
    }
    struct ts_addr to = {.link = b->radio_link};
    if (!ts_forward_decode(&cfg->crc, frame, len, &f)) {
        b->node.ep.stats.dropped++;
        return;
    }
    b->host = *from;
    if (f.inner_len > cfg->links[b->radio_link].mtu) {
        b->received++;
        b->owes = true;
        b->node.ep.stats.dropped++;
        return;
    }
    to.len = (uint8_t)f.addr_len;
    memcpy(to.bytes, f.addr, f.addr_len);
    to_radio(b, &to, &f);
}

void ts_bridge_queue(struct ts_bridge *b, struct ts_bridge_slot *slots, uint8_t count) {
    b->slots = slots;
    b->slot_count = count;
    b->first = b->waiting = 0;
}

uint64_t ts_bridge_poll(struct ts_bridge *b, uint64_t now_us) {
    drain(b);
    if (b->owes) {
        tell(b);
    }
    uint64_t due = ts_node_poll(&b->node, now_us);
    uint64_t again = now_us + RETRY_US;
    return (b->waiting > 0 || b->owes) && again < due ? again : due;
}

int ts_bridge_init(struct ts_bridge *b, const struct ts_node_config *cfg, uint8_t host_link, uint8_t radio_link,
                   uint64_t now_us) {
    memset(b, 0, sizeof *b);
    b->host_link = host_link;
    b->radio_link = radio_link;
    if (host_link >= cfg->endpoint.link_count || radio_link >= cfg->endpoint.link_count) {
        return TS_E_INVALID;
    }
    return ts_node_init(&b->node, cfg, now_us);
}

void ts_bridge_on_datagram(struct ts_bridge *b, uint64_t now_us, const struct ts_addr *from, const uint8_t *frame,
                           size_t len) {
    if (len > 0 && (from->link != b->host_link || frame[0] >> 4 == TS_F_FORWARD)) {
        forward(b, from, frame, len);
    } else {
        ts_node_on_datagram(&b->node, now_us, from, frame, len);
    }
}
