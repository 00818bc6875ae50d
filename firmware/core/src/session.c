#include "internal.h"

#include <string.h>

#define IDLE_MS 15000u
#define HELLO_GAP_US (100u * MS)
#define HELLO_GAP_MAX_US (1000u * MS)
#define PENDING_US (3000u * MS)
#define PING_ANSWER_US (1000u * MS)
#define RESET_GAP_US (10u * MS)
#define CLOCK_FRESH_US (60000u * MS)
#define CLOCK_PING_US (50000u * MS)
#define MAX_ROUNDS 4u

uint32_t ts__span_us(uint32_t ms, uint32_t otherwise_ms) {
    return min32(or_default(ms, otherwise_ms), TS_MAX_SPAN_US / MS) * MS;
}

/* The caller's clock may jump. Own time stands still when it goes back, and
 * goes on by half an hour at most. */
void ts__set_time(struct ts_endpoint *ep, uint64_t raw) {
    if (raw > ep->raw) {
        uint64_t ahead = raw - ep->raw;
        ep->now = ts_after(ep->now, ahead > TS_MAX_SPAN_US ? TS_MAX_SPAN_US : (uint32_t)ahead);
    }
    ep->raw = raw;
}

/* A point in own time by the caller's clock. */
uint64_t ts__wake_at(const struct ts_endpoint *ep, uint32_t at) {
    return at == 0 ? TS_NEVER : ep->raw + (ts_due(ep->now, at) ? 0 : at - ep->now);
}

/* Extends 16 bits of the wire to the number nearest to `near`. */
uint32_t ts__extend(uint16_t wire, uint32_t near) {
    uint32_t ahead = (wire - near) & 0xFFFFu;
    return near + ahead - (ahead >= 0x8000u ? 0x10000u : 0u);
}

int ts__transmit(struct ts_endpoint *ep, const struct ts_addr *to, const uint8_t *bytes, size_t len) {
    int code = ep->cfg->send(ep->cfg->ctx, to, bytes, len);
    ep->busy = true;
    if (code == TS_E_WOULD_BLOCK) {
        ep->stats.blocked++;
        return code;
    }
    if (code != TS_OK) {
        ep->stats.send_errors++;
    }
    ep->stats.frames_out++;
    ep->stats.bytes_out += (uint32_t)len;
    return TS_OK;
}

int ts__transmit_control(struct ts_endpoint *ep, const struct ts_addr *to, const struct ts_keys *keys,
                         const struct ts_frame *f) {
    uint8_t bytes[TS_CONTROL_FRAME_BYTES];
    return ts__transmit(ep, to, bytes, ts_frame_encode(&ep->cfg->crc, keys->sid, keys->seed, f, bytes));
}

void ts__emit(struct ts_endpoint *ep, const struct ts_event *e) {
    ep->on_event(ep->event_ctx, e);
}

void ts__ping(struct ts_endpoint *ep, struct ts_session *s) {
    struct ts_frame f = {.kind = TS_F_PING, .seq = (uint16_t)(s->ping_seq + 1u), .t = {ep->raw}};
    s->ping_waiting = ts__transmit_control(ep, &s->addr, &s->keys, &f) == TS_OK;
    s->ping_seq = f.seq;
    s->ping_t1 = f.t[0];
    s->ping_at = ep->now;
}

static bool same_addr(const struct ts_addr *a, const struct ts_addr *b) {
    return a->link == b->link && a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

static uint32_t nonce(const struct ts_endpoint *ep) {
    uint32_t n = ep->cfg->random(ep->cfg->ctx);
    return n != 0 ? n : 1;
}

static void set_keys(const struct ts_endpoint *ep, struct ts_keys *k, uint32_t nonce_i, uint32_t nonce_a) {
    k->nonce_i = nonce_i;
    k->nonce_a = nonce_a;
    k->sid = ts_sid(&ep->cfg->crc, nonce_i, nonce_a);
    k->seed = ts_seed(&ep->cfg->crc, k->sid);
}

static void emit_session(struct ts_endpoint *ep, const struct ts_session *s, enum ts_event_type type, uint16_t code) {
    struct ts_event e = {.type = type, .session = index_of(ep, s), .code = code};
    ts__emit(ep, &e);
}

/* True if the peer holds our bundle; all zero is none. */
static bool same_bundle(const struct ts_endpoint *ep, const struct ts_hello *peer) {
    const uint8_t *own = ep->cfg->bundle;
    uint8_t any = 0;
    for (uint32_t i = 0; i < TS_BUNDLE_BYTES; i++) {
        any |= own[i];
    }
    return any != 0 && memcmp(peer->bundle, own, TS_BUNDLE_BYTES) == 0;
}

static uint32_t own_codecs(const struct ts_endpoint *ep) {
    return ep->cfg->codecs | 1u;
}

/* The highest codec both speak; they have one in common. */
static uint8_t choose_codec(const struct ts_endpoint *ep, const struct ts_hello *peer) {
    uint8_t codec = 15;
    while ((peer->codecs & own_codecs(ep)) >> codec == 0) {
        codec--;
    }
    return codec;
}

/* SPEC.md 2.2, what row 5 asks of both ends' numbers. */
static bool in_range(const struct ts_hello *h) {
    return h->window >= 1 && h->window <= 256 && h->slots >= 1 && h->slots <= TS_MAX_LIVE &&
           h->role <= TS_ROLE_BRIDGE && h->codecs != 0 && h->version_min <= h->version_max;
}

static void own_hello(const struct ts_endpoint *ep, uint8_t link, uint8_t slots, struct ts_hello *h) {
    const struct ts_config *cfg = ep->cfg;
    memset(h, 0, sizeof *h);
    h->version_max = h->version_min = TS_PROTOCOL_VERSION;
    h->slots = slots;
    h->role = cfg->role;
    h->stage = cfg->stage;
    h->stage_count = cfg->stage_count;
    h->mtu = cfg->links[link].mtu;
    h->window = TS_WINDOW;
    h->max_message = cfg->max_message;
    h->codecs = (uint16_t)own_codecs(ep);
    h->ack_delay = (uint16_t)min32((cfg->ack_delay_us + 99u) / 100u, 0xFFFFu);
    h->idle_timeout = (uint16_t)min32(or_default(cfg->idle_timeout_ms, IDLE_MS) / 100u, 0xFFFFu);
    memcpy(h->bundle, cfg->bundle, TS_BUNDLE_BYTES);
}

/* Puts a session into its first moment of being up. */
static void begin(struct ts_endpoint *ep, struct ts_session *s, const struct ts_keys *keys, const struct ts_hello *peer,
                  uint8_t slots) {
    const struct ts_link *link = link_of(ep, s);
    uint32_t own_idle = ts__span_us(ep->cfg->idle_timeout_ms, IDLE_MS);
    uint32_t peer_idle = ts__span_us(peer->idle_timeout * 100u, 0);
    memset(&s->heard, 0, offsetof(struct ts_session, rx) - offsetof(struct ts_session, heard));
    memset(s->outcome, 0xFF, sizeof s->outcome); /* O_ABANDONED */
    s->state = TS_S_UP;
    s->last_error = TS_OK;
    s->keys = *keys;
    s->peer = *peer;
    s->inference = same_bundle(ep, peer);
    s->frame_size = (uint16_t)min32(link->mtu, peer->mtu);
    s->idle_us = peer_idle != 0 ? min32(own_idle, peer_idle) : own_idle;
    s->codec = choose_codec(ep, peer);
    s->reorder = (uint8_t)or_default(link->reorder, 3);
    s->cwnd = (uint16_t)ts__full_window(ep, s);
    s->heard_at = s->ping_at = ep->now;
    s->next_id = 1;
    s->limit = peer->slots;
    s->slots_told = slots;
    s->limit_told = slots;
}

static void start_opening(struct ts_endpoint *ep, struct ts_session *s, uint32_t at) {
    s->state = TS_S_OPENING;
    s->keys.nonce_i = nonce(ep);
    s->hello_at = at;
    s->hello_gap_us = HELLO_GAP_US;
    s->hello_repeated = false;
    s->hello_sent_at = 0;
    s->connect_by = ts_after(at, ts__span_us(ep->cfg->connect_timeout_ms, 5000));
}

/* Ends a session or an attempt. An initiator that keeps it opens it again. */
static void end_session(struct ts_endpoint *ep, struct ts_session *s, uint16_t code) {
    bool keep = s->initiator && s->keep;
    s->last_error = code;
    for (uint32_t i = 0; i < TS_RX_SLOTS; i++) {
        if (s->rx[i].state == TS_RX_PARTIAL) {
            s->rx[i].state = TS_RX_FREE;
        }
        s->rx[i].id = 0;
    }
    s->state = s->pending.until != 0 ? TS_S_PENDING : TS_S_DOWN;
    if (keep) {
        for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
            s->tx[i].state = s->tx[i].state == TS_TX_SENDING ? TS_TX_QUEUED : s->tx[i].state;
        }
        uint32_t pause = ts__span_us(ep->cfg->retry_pause_ms, 1000);
        start_opening(ep, s, code == TS_E_RESET ? ep->now : ts_after(ep->now, pause));
    } else {
        ts__fail_all(ep, s, code);
    }
    emit_session(ep, s, TS_EV_DOWN, code);
}

/* The next HELLO, or PING in its place: each wait is twice the one before. */
static void space_hello(struct ts_endpoint *ep, struct ts_session *s) {
    s->hello_at = ts_after(ep->now, s->hello_gap_us);
    s->hello_gap_us = min32(2 * s->hello_gap_us, HELLO_GAP_MAX_US);
}

static void send_hello(struct ts_endpoint *ep, struct ts_session *s) {
    uint8_t bytes[TS_HELLO_BYTES];
    struct ts_hello h;
    own_hello(ep, s->addr.link, ts__free_slots(s), &h);
    h.nonce_i = s->keys.nonce_i;
    ts_hello_encode(&ep->cfg->crc, TS_F_HELLO, &h, bytes);
    if (h.slots == 0 || ts__transmit(ep, &s->addr, bytes, sizeof bytes) != TS_OK) {
        s->hello_at = ts_after(ep->now, HELLO_GAP_US);
        return;
    }
    s->slots_told = h.slots;
    s->hello_repeated = s->hello_sent_at != 0;
    s->hello_sent_at = ep->now;
    space_hello(ep, s);
}

/* SPEC.md 2.2, rows 2 to 9. */
static int judge_hello(const struct ts_endpoint *ep, const struct ts_hello *h) {
    const struct ts_config *cfg = ep->cfg;
    if (h->version_min > TS_PROTOCOL_VERSION) {
        return TS_E_VERSION_NEWER;
    }
    if (h->version_max < TS_PROTOCOL_VERSION) {
        return TS_E_VERSION_OLDER;
    }
    if (h->mtu < TS_MIN_MTU) {
        return TS_E_MTU_TOO_SMALL;
    }
    if (!in_range(h)) {
        return TS_E_MALFORMED;
    }
    if (cfg->refuse) {
        return TS_E_REFUSED;
    }
    bool host = h->role == TS_ROLE_HOST;
    bool neighbour = (h->role == TS_ROLE_HEAD || h->role == TS_ROLE_RELAY) &&
                     (cfg->role == TS_ROLE_RELAY || cfg->role == TS_ROLE_TAIL) && h->stage + 1 == cfg->stage &&
                     h->stage_count == cfg->stage_count;
    if (cfg->role == TS_ROLE_HOST || (!host && !neighbour)) {
        return TS_E_STAGE_MISMATCH;
    }
    if (!host && !same_bundle(ep, h)) {
        return TS_E_BUNDLE_MISMATCH;
    }
    return (h->codecs & own_codecs(ep)) != 0 ? TS_OK : TS_E_CODEC_MISMATCH;
}

static struct ts_session *find(const struct ts_endpoint *ep, const struct ts_addr *addr, bool initiator) {
    for (uint32_t i = 0; i < ep->cfg->session_count; i++) {
        struct ts_session *s = &ep->cfg->sessions[i];
        if (s->state != TS_S_DOWN && s->initiator == initiator && same_addr(&s->addr, addr)) {
            return s;
        }
    }
    return NULL;
}

static struct ts_session *find_free(const struct ts_endpoint *ep) {
    for (uint32_t i = 0; i < ep->cfg->session_count; i++) {
        struct ts_session *s = &ep->cfg->sessions[i];
        if (s->state == TS_S_DOWN && ts__free_slots(s) > 0) {
            return s;
        }
    }
    return NULL;
}

static void on_hello(struct ts_endpoint *ep, const struct ts_addr *from, const uint8_t *in, size_t len) {
    struct ts_hello h;
    if (!ts_hello_decode(&ep->cfg->crc, TS_F_HELLO, in, len, &h) || h.nonce_a != 0 || h.nonce_i == 0 ||
        h.status != TS_OK) {
        ep->stats.dropped++;
        return;
    }
    int code = judge_hello(ep, &h);
    struct ts_session *s = code == TS_OK ? find(ep, from, false) : NULL;
    uint32_t nonce_a = 0;
    uint8_t slots = TS_RX_SLOTS;
    if (s != NULL && s->state == TS_S_UP && s->keys.nonce_i == h.nonce_i) {
        nonce_a = s->keys.nonce_a;
        slots = s->slots_told;
    } else if (s != NULL && s->pending.until != 0 && s->pending.keys.nonce_i == h.nonce_i) {
        nonce_a = s->pending.keys.nonce_a;
        slots = s->pending.slots;
    } else if (code == TS_OK) {
        if (s == NULL) {
            s = find_free(ep);
            if (s != NULL) {
                s->addr = *from;
                s->initiator = false;
                s->state = TS_S_PENDING;
            }
        }
        slots = s != NULL ? ts__free_slots(s) : 0;
        if (s != NULL && slots > 0) {
            nonce_a = nonce(ep);
            set_keys(ep, &s->pending.keys, h.nonce_i, nonce_a);
            s->pending.hello = h;
            s->pending.slots = slots;
            s->pending.until = ts_after(ep->now, PENDING_US);
        } else {
            code = TS_E_BUSY;
        }
    }
    uint8_t bytes[TS_HELLO_BYTES];
    struct ts_hello reply;
    own_hello(ep, from->link, slots, &reply);
    reply.nonce_i = h.nonce_i;
    reply.nonce_a = nonce_a;
    reply.status = (uint16_t)code;
    reply.codecs = (uint16_t)(code == TS_OK ? 1u << choose_codec(ep, &h) : 0);
    ts_hello_encode(&ep->cfg->crc, TS_F_HELLO_ACK, &reply, bytes);
    ts__transmit(ep, from, bytes, sizeof bytes);
}

static void on_hello_ack(struct ts_endpoint *ep, const struct ts_addr *from, const uint8_t *in, size_t len) {
    struct ts_hello h;
    struct ts_session *s = find(ep, from, true);
    if (s == NULL || s->state != TS_S_OPENING || s->hello_sent_at == 0 ||
        !ts_hello_decode(&ep->cfg->crc, TS_F_HELLO_ACK, in, len, &h) || h.nonce_i != s->keys.nonce_i) {
        ep->stats.dropped++;
        return;
    }
    if (h.status != TS_OK) {
        uint16_t code = h.status;
        if (code != TS_E_BUSY && code != TS_E_REFUSED) {
            ts__fail_all(ep, s, code);
        }
        end_session(ep, s, code);
        return;
    }
    if (h.version_max != TS_PROTOCOL_VERSION || h.nonce_a == 0 || h.mtu < TS_MIN_MTU || !in_range(&h) ||
        (h.codecs & (h.codecs - 1u)) != 0 || (h.codecs & ~own_codecs(ep)) != 0) {
        ep->stats.dropped++;
        return;
    }
    struct ts_keys keys;
    set_keys(ep, &keys, h.nonce_i, h.nonce_a);
    begin(ep, s, &keys, &h, s->slots_told);
    if (!s->hello_repeated) {
        ts_rtt_sample(&s->rtt, ep->now - s->hello_sent_at);
    }
    s->hello_gap_us = HELLO_GAP_US;
    space_hello(ep, s);
    ts__ping(ep, s);
    emit_session(ep, s, TS_EV_UP, TS_OK);
}

static void on_ping(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    struct ts_frame pong = {.kind = TS_F_PONG, .seq = f->seq, .t = {f->t[0], ep->raw, ep->raw}};
    ts__transmit_control(ep, &s->addr, &s->keys, &pong);
}

static bool on_pong(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    if (!s->ping_waiting || f->seq != s->ping_seq || f->t[0] != s->ping_t1) {
        return false;
    }
    s->ping_waiting = false;
    uint32_t rtt_us = ep->now - s->ping_at;
    uint32_t held_us = (uint32_t)(f->t[2] - f->t[1]);
    if (held_us > rtt_us) { /* a clock that went back, here or there */
        return true;
    }
    uint32_t travel_us = rtt_us - held_us;
    ts_rtt_sample(&s->rtt, travel_us);
    if (!s->clock.known || travel_us / 2 <= s->clock.uncertainty_us || ep->now - s->clock.at > CLOCK_FRESH_US) {
        /* ((t2 - t1) + (t3 - t4)) / 2, with t3 = t2 + held and t4 = t1 + rtt. */
        s->clock.offset_us = (int64_t)(f->t[1] - f->t[0] - travel_us / 2);
        s->clock.uncertainty_us = travel_us / 2;
        s->clock.known = true;
        s->clock.at = ep->now;
    }
    return true;
}

/* False if the frame is to be dropped. */
static bool on_session_frame(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    s->heard_at = ep->now;
    s->heard = true;
    switch (f->kind) {
    case TS_F_DATA:
        return ts__on_data(ep, s, f);
    case TS_F_ACK:
        return ts__on_ack(ep, s, f);
    case TS_F_POLL:
        return ts__on_poll(ep, s, f);
    case TS_F_REJECT:
        return ts__on_reject(ep, s, f);
    case TS_F_PING:
        on_ping(ep, s, f);
        return true;
    case TS_F_PONG:
        return on_pong(ep, s, f);
    case TS_F_RESET:
        if (f->seq != s->ping_seq || !s->ping_waiting) {
            return false;
        }
        end_session(ep, s, TS_E_RESET);
        return true;
    default:
        end_session(ep, s, TS_E_CLOSED);
        return true;
    }
}

static bool decode(const struct ts_endpoint *ep, const struct ts_keys *keys, const uint8_t *in, size_t len,
                   struct ts_frame *f) {
    return ts_frame_decode(&ep->cfg->crc, keys->sid, keys->seed, in, len, f);
}

/* A PING, of 8 bytes at least, of a session that is not known here: tell its sender. */
static void on_stranger(struct ts_endpoint *ep, const struct ts_addr *from, const uint8_t *in, size_t len) {
    struct ts_keys keys = {.sid = ts_get32(in + 4)};
    struct ts_frame f;
    ep->stats.dropped++;
    keys.seed = ts_seed(&ep->cfg->crc, keys.sid);
    bool quiet = ep->reset_at == 0 || ts_due(ep->now, ep->reset_at);
    if (in[0] == TS_F_PING << 4 && quiet && decode(ep, &keys, in, len, &f)) {
        struct ts_frame reset = {.kind = TS_F_RESET, .seq = f.seq};
        ep->reset_at = ts_after(ep->now, RESET_GAP_US);
        ts__transmit_control(ep, from, &keys, &reset);
    }
}

void ts_on_datagram(struct ts_endpoint *ep, uint64_t now_us, const struct ts_addr *from, const uint8_t *frame,
                    size_t len) {
    ts__set_time(ep, now_us);
    ep->stats.frames_in++;
    ep->stats.bytes_in += (uint32_t)len;
    if (len < 8 || from->link >= ep->cfg->link_count || from->len > TS_ADDR_BYTES) {
        ep->stats.dropped++;
        return;
    }
    if (frame[0] >> 4 == TS_F_HELLO) {
        on_hello(ep, from, frame, len);
        return;
    }
    if (frame[0] >> 4 == TS_F_HELLO_ACK) {
        on_hello_ack(ep, from, frame, len);
        return;
    }
    for (uint32_t i = 0; i < ep->cfg->session_count; i++) {
        struct ts_session *s = &ep->cfg->sessions[i];
        struct ts_frame f;
        if (s->state < TS_S_PENDING || !same_addr(&s->addr, from)) {
            continue;
        }
        bool opened = false;
        bool known = s->state == TS_S_UP && decode(ep, &s->keys, frame, len, &f);
        if (!known && s->pending.until != 0 && decode(ep, &s->pending.keys, frame, len, &f)) {
            if (s->state == TS_S_UP) {
                end_session(ep, s, TS_E_REPLACED);
            }
            s->pending.until = 0;
            begin(ep, s, &s->pending.keys, &s->pending.hello, s->pending.slots);
            emit_session(ep, s, TS_EV_UP, TS_OK);
            known = opened = true;
        }
        if (known) {
            ep->stats.dropped += !on_session_frame(ep, s, &f);
            if (opened && s->state == TS_S_UP) {
                ts__ping(ep, s); /* the first RESULT should know the round-trip time */
            }
            return;
        }
    }
    on_stranger(ep, from, frame, len);
}

/* True if a point in time is there. If not, the endpoint wakes by then. */
bool ts__reached(struct ts_endpoint *ep, uint32_t at) {
    if (ts_due(ep->now, at)) {
        ep->busy = true;
        return true;
    }
    ep->wake = ts_sooner(ep->wake, at);
    return false;
}

/* When to ask whether the peer is still there, and what its clock says. */
static uint32_t keepalive_at(const struct ts_session *s) {
    uint32_t quiet = ts_after(s->heard_at, s->idle_us / 3);
    uint32_t asked = ts_after(s->ping_at, PING_ANSWER_US);
    uint32_t later = ts_sooner(quiet, asked) == quiet ? asked : quiet;
    return ts_sooner(later, ts_after(s->ping_at, CLOCK_PING_US));
}

static void tick_up(struct ts_endpoint *ep, struct ts_session *s) {
    if (ts__reached(ep, ts_after(s->heard_at, s->idle_us))) {
        end_session(ep, s, TS_E_PEER_LOST);
        return;
    }
    ts__expire_partial(ep, s);
    if (!s->heard && ts__reached(ep, s->hello_at)) {
        ts__ping(ep, s);
        space_hello(ep, s);
    }
    if (ts__reached(ep, keepalive_at(s))) {
        ts__ping(ep, s);
    }
}

static void tick(struct ts_endpoint *ep, struct ts_session *s) {
    if (ts__reached(ep, s->pending.until)) {
        s->pending.until = 0;
        s->state = s->state == TS_S_PENDING ? TS_S_DOWN : s->state;
    }
    if (s->state == TS_S_OPENING && ts__reached(ep, s->connect_by)) {
        end_session(ep, s, TS_E_NO_PEER);
    }
    if (s->state == TS_S_OPENING && ts__reached(ep, s->hello_at)) {
        send_hello(ep, s);
    }
    if (s->state == TS_S_UP) {
        tick_up(ep, s);
    }
    ts__tick_outbox(ep, s);
}

uint64_t ts_poll(struct ts_endpoint *ep, uint64_t now_us) {
    ts__set_time(ep, now_us);
    ep->reset_at = ts_due(ep->now, ep->reset_at) ? 0 : ep->reset_at;
    /* What was done may have set timers, and callbacks may have queued messages: until all is quiet. */
    for (uint32_t round = 0; round < MAX_ROUNDS; round++) {
        ep->wake = 0;
        ep->busy = false;
        for (uint32_t n = 0; n < ep->cfg->session_count; n++) {
            tick(ep, &ep->cfg->sessions[n]);
        }
        if (!ep->busy) {
            return ts__wake_at(ep, ep->wake);
        }
    }
    return ep->raw;
}

int ts_endpoint_init(struct ts_endpoint *ep, const struct ts_config *cfg, ts_event_fn on_event, void *event_ctx,
                     uint64_t now_us) {
    memset(ep, 0, sizeof *ep);
    ep->cfg = cfg;
    ep->on_event = on_event;
    ep->event_ctx = event_ctx;
    ep->raw = now_us;
    ep->now = 1;
    if (cfg->send == NULL || cfg->random == NULL || cfg->crc.crc16 == NULL || cfg->crc.crc32 == NULL ||
        on_event == NULL || cfg->link_count == 0 || cfg->session_count == 0 || cfg->max_message == 0 ||
        cfg->max_message > UINT32_MAX / 2 || cfg->role > TS_ROLE_BRIDGE) {
        return TS_E_INVALID;
    }
    for (uint32_t i = 0; i < cfg->link_count; i++) {
        if (cfg->links[i].mtu < TS_MIN_MTU || cfg->links[i].mtu > TS_MAX_MTU) {
            return TS_E_INVALID;
        }
        if (cfg->links[i].mtu > cfg->frame_bytes) {
            return TS_E_NO_MEMORY;
        }
    }
    if (cfg->rx_memory_bytes < TS_RX_MEMORY(cfg->session_count, cfg->max_message)) {
        return TS_E_NO_MEMORY;
    }
    memset(cfg->sessions, 0, cfg->session_count * sizeof *cfg->sessions);
    for (uint32_t i = 0; i < cfg->session_count; i++) {
        for (uint32_t j = 0; j < TS_RX_SLOTS; j++) {
            cfg->sessions[i].rx[j].buffer =
                cfg->rx_memory + ((size_t)i * TS_RX_SLOTS + j) * TS_RX_STRIDE(cfg->max_message);
        }
    }
    return TS_OK;
}

int ts_connect(struct ts_endpoint *ep, uint64_t now_us, const struct ts_addr *peer, bool keep) {
    ts__set_time(ep, now_us);
    if (peer->link >= ep->cfg->link_count || peer->len > TS_ADDR_BYTES) {
        return -TS_E_INVALID;
    }
    struct ts_session *s = find_free(ep);
    if (s == NULL) {
        return -TS_E_BUSY;
    }
    s->addr = *peer;
    s->initiator = true;
    s->keep = keep;
    s->last_error = TS_OK;
    start_opening(ep, s, ep->now);
    return index_of(ep, s);
}

/* A session of the caller's, at this time; NULL if there is none of that index. */
struct ts_session *ts__enter(struct ts_endpoint *ep, uint64_t now_us, uint16_t session) {
    ts__set_time(ep, now_us);
    return session < ep->cfg->session_count ? &ep->cfg->sessions[session] : NULL;
}

void ts_close(struct ts_endpoint *ep, uint64_t now_us, uint16_t session) {
    struct ts_session *s = ts__enter(ep, now_us, session);
    if (s == NULL || s->state == TS_S_DOWN) {
        return;
    }
    if (s->state == TS_S_UP) {
        struct ts_frame bye = {.kind = TS_F_BYE};
        ts__transmit_control(ep, &s->addr, &s->keys, &bye);
    }
    s->keep = false;
    s->pending.until = 0;
    end_session(ep, s, TS_E_CLOSED);
}

void ts_gone(struct ts_endpoint *ep, uint64_t now_us, const struct ts_addr *peer) {
    ts__set_time(ep, now_us);
    for (uint32_t i = 0; i < ep->cfg->session_count; i++) {
        struct ts_session *s = &ep->cfg->sessions[i];
        if (s->state < TS_S_PENDING || !same_addr(&s->addr, peer)) {
            continue;
        }
        s->pending.until = 0;
        if (s->state == TS_S_UP) {
            end_session(ep, s, TS_E_SEND_FAILED);
        } else {
            s->state = TS_S_DOWN;
        }
    }
}
