#include "internal.h"

#include <string.h>

#define HELLO_GAP_US (100u * MS)
#define HELLO_GAP_MAX_US (1000u * MS)
#define PENDING_US (3000u * MS)
#define PING_ANSWER_US (1000u * MS)
#define RESET_GAP_US (10u * MS)
#define CLOCK_FRESH_US (60000u * MS)
#define CLOCK_PING_US (50000u * MS)

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

/* Extends 16 bits of the wire to the number nearest to `near`. */
uint32_t ts__extend(uint16_t wire, uint32_t near) {
    uint32_t ahead = (wire - near) & 0xFFFFu;
    return near + ahead - (ahead >= 0x8000u ? 0x10000u : 0u);
}

int ts__transmit(struct ts_endpoint *ep, const struct ts_addr *to, const uint8_t *bytes, size_t len) {
    int code = ep->cfg->send(ep->cfg->ctx, to, bytes, len);
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
    struct ts_frame f = {.kind = TS_F_PING, .seq = (uint16_t)(s->ping_seq + 1u), .t1 = ep->raw};
    if (ts__transmit_control(ep, &s->addr, &s->keys, &f) == TS_OK) {
        s->ping_seq = f.seq;
        s->ping_t1 = f.t1;
        s->ping_waiting = true;
    }
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

/* True if the peer holds our bundle. */
static bool same_bundle(const struct ts_endpoint *ep, const struct ts_hello *peer) {
    static const uint8_t none[TS_BUNDLE_BYTES];
    return memcmp(peer->bundle, none, TS_BUNDLE_BYTES) != 0 &&
           memcmp(peer->bundle, ep->cfg->bundle, TS_BUNDLE_BYTES) == 0;
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
    h->idle_timeout = (uint16_t)min32(or_default(cfg->idle_timeout_ms, 15000) / 100u, 0xFFFFu);
    memcpy(h->bundle, cfg->bundle, TS_BUNDLE_BYTES);
}

/* Puts a session into its first moment of being up. */
static void begin(struct ts_endpoint *ep, struct ts_session *s, const struct ts_keys *keys, const struct ts_hello *peer,
                  uint8_t slots) {
    const struct ts_link *link = link_of(ep, s);
    uint32_t own_idle = ts__span_us(ep->cfg->idle_timeout_ms, 15000);
    uint32_t peer_idle = ts__span_us(peer->idle_timeout * 100u, 0);
    s->state = TS_S_UP;
    s->heard = false;
    s->last_error = TS_OK;
    s->keys = *keys;
    s->version = TS_PROTOCOL_VERSION;
    s->peer_role = peer->role;
    s->peer_stage = peer->stage;
    s->inference = same_bundle(ep, peer);
    s->frame_size = (uint16_t)min32(link->mtu, peer->mtu);
    s->peer_window = peer->window;
    s->peer_slots = peer->slots;
    s->peer_max_message = peer->max_message;
    s->peer_ack_delay_us = peer->ack_delay * 100u;
    s->idle_us = peer_idle != 0 ? min32(own_idle, peer_idle) : own_idle;
    s->codec = choose_codec(ep, peer);
    s->reorder = link->reorder != 0 ? link->reorder : 3;
    s->cwnd = (uint16_t)min32(min32(or_default(link->window, 32), TS_WINDOW), peer->window);
    memset(&s->rtt, 0, sizeof s->rtt);
    memset(&s->clock, 0, sizeof s->clock);
    s->ping_waiting = false;
    s->heard_at = ep->now;
    s->ping_at = ep->now;
    s->hello_at = 0;
    s->next_id = 1;
    s->limit = peer->slots;
    s->pace_at = s->retry_at = s->knock_at = s->poll_at = 0;
    s->tell = false;
    s->knocks = s->poll_seq = 0;
    s->highest = s->released = 0;
    s->slots_told = slots;
    s->limit_told = slots;
    s->owed = 0;
    for (uint32_t i = 0; i < TS_MAX_LIVE; i++) {
        s->outcome[i] = O_ABANDONED;
    }
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
    s->hello_at = ts_after(ep->now, s->hello_gap_us);
    s->hello_gap_us = min32(2 * s->hello_gap_us, HELLO_GAP_MAX_US);
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
    h.mtu = (uint16_t)min32(h.mtu, TS_MAX_MTU);
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
    h.mtu = (uint16_t)min32(h.mtu, TS_MAX_MTU);
    struct ts_keys keys;
    uint32_t rtt_us = ep->now - s->hello_sent_at;
    bool sample = !s->hello_repeated;
    set_keys(ep, &keys, h.nonce_i, h.nonce_a);
    begin(ep, s, &keys, &h, s->slots_told);
    if (sample) {
        ts_rtt_sample(&s->rtt, rtt_us);
    }
    s->hello_gap_us = HELLO_GAP_US;
    s->hello_at = ts_after(ep->now, s->hello_gap_us);
    ts__ping(ep, s);
    emit_session(ep, s, TS_EV_UP, TS_OK);
}

static void on_ping(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    struct ts_frame pong = {.kind = TS_F_PONG, .seq = f->seq, .t1 = f->t1, .t2 = ep->raw, .t3 = ep->raw};
    ts__transmit_control(ep, &s->addr, &s->keys, &pong);
}

static void on_pong(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    if (!s->ping_waiting || f->seq != s->ping_seq || f->t1 != s->ping_t1) {
        ep->stats.dropped++;
        return;
    }
    s->ping_waiting = false;
    uint64_t rtt_us = ep->raw - f->t1;
    uint64_t held_us = f->t3 - f->t2;
    /* A clock that went back, here or there, makes these huge. */
    if (rtt_us > TS_MAX_SPAN_US || held_us > rtt_us) {
        return;
    }
    uint32_t travel_us = (uint32_t)rtt_us - (uint32_t)held_us;
    ts_rtt_sample(&s->rtt, travel_us);
    if (!s->clock.known || travel_us / 2 <= s->clock.uncertainty_us || ep->now - s->clock.at > CLOCK_FRESH_US) {
        /* ((t2 - t1) + (t3 - t4)) / 2, with t3 = t2 + held and t4 = t1 + rtt. */
        s->clock.offset_us = (int64_t)(f->t2 - f->t1 - travel_us / 2);
        s->clock.uncertainty_us = travel_us / 2;
        s->clock.known = true;
        s->clock.at = ep->now;
    }
}

static void on_session_frame(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    s->heard_at = ep->now;
    s->heard = true;
    switch (f->kind) {
    case TS_F_DATA:
        if (f->payload_len + TS_DATA_OVERHEAD > s->frame_size) {
            ep->stats.dropped++;
        } else {
            ts__on_data(ep, s, f);
        }
        break;
    case TS_F_ACK:
        ts__on_ack(ep, s, f);
        break;
    case TS_F_POLL:
        ts__on_poll(ep, s, f);
        break;
    case TS_F_REJECT:
        ts__on_reject(ep, s, f);
        break;
    case TS_F_PING:
        on_ping(ep, s, f);
        break;
    case TS_F_PONG:
        on_pong(ep, s, f);
        break;
    case TS_F_RESET:
        if (f->seq == s->ping_seq && s->ping_waiting) {
            end_session(ep, s, TS_E_RESET);
        }
        break;
    default:
        end_session(ep, s, TS_E_CLOSED);
        break;
    }
}

/* A PING of a session that is not known here: tell its sender. */
static void on_stranger(struct ts_endpoint *ep, const struct ts_addr *from, const uint8_t *in, size_t len) {
    struct ts_keys keys = {0};
    struct ts_frame f;
    ep->stats.dropped++;
    if (in[0] != TS_F_PING << 4 || !ts_frame_named_sid(in, len, &keys.sid) ||
        (ep->reset_at != 0 && !ts_due(ep->now, ep->reset_at))) {
        return;
    }
    keys.seed = ts_seed(&ep->cfg->crc, keys.sid);
    if (ts_frame_decode(&ep->cfg->crc, keys.sid, keys.seed, in, len, &f)) {
        struct ts_frame reset = {.kind = TS_F_RESET, .seq = f.seq};
        ep->reset_at = ts_after(ep->now, RESET_GAP_US);
        ts__transmit_control(ep, from, &keys, &reset);
    }
}

/* Callbacks may have queued messages for any session. */
static void pump_others(struct ts_endpoint *ep) {
    if (ep->queued) {
        ep->queued = false;
        for (uint32_t i = 0; i < ep->cfg->session_count; i++) {
            ts__pump(ep, &ep->cfg->sessions[i]);
        }
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
        struct ts_session *opened = find(ep, from, true);
        if (opened != NULL) {
            ts__pump(ep, opened);
        }
        pump_others(ep);
        return;
    }
    for (uint32_t i = 0; i < ep->cfg->session_count; i++) {
        struct ts_session *s = &ep->cfg->sessions[i];
        struct ts_frame f;
        if (s->state < TS_S_PENDING || !same_addr(&s->addr, from)) {
            continue;
        }
        bool opened = false;
        bool known = s->state == TS_S_UP && ts_frame_decode(&ep->cfg->crc, s->keys.sid, s->keys.seed, frame, len, &f);
        if (!known && s->pending.until != 0 &&
            ts_frame_decode(&ep->cfg->crc, s->pending.keys.sid, s->pending.keys.seed, frame, len, &f)) {
            if (s->state == TS_S_UP) {
                end_session(ep, s, TS_E_REPLACED);
            }
            s->pending.until = 0;
            begin(ep, s, &s->pending.keys, &s->pending.hello, s->pending.slots);
            emit_session(ep, s, TS_EV_UP, TS_OK);
            known = opened = true;
        }
        if (known) {
            on_session_frame(ep, s, &f);
            if (opened && s->state == TS_S_UP) {
                ts__ping(ep, s); /* the first RESULT should know the round-trip time */
            }
            ts__pump(ep, s);
            pump_others(ep);
            return;
        }
    }
    on_stranger(ep, from, frame, len);
}

/* When to ask whether the peer is still there, and what its clock says. */
static uint32_t keepalive_at(const struct ts_session *s) {
    uint32_t quiet = ts_after(s->heard_at, s->idle_us / 3);
    uint32_t asked = ts_after(s->ping_at, PING_ANSWER_US);
    uint32_t later = ts_sooner(quiet, asked) == quiet ? asked : quiet;
    return ts_sooner(later, ts_after(s->ping_at, CLOCK_PING_US));
}

static void tick_up(struct ts_endpoint *ep, struct ts_session *s) {
    if (ts_due(ep->now, ts_after(s->heard_at, s->idle_us))) {
        end_session(ep, s, TS_E_PEER_LOST);
        return;
    }
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        struct ts_tx *tx = &s->tx[i];
        if (tx->state != TS_TX_SENDING) {
            continue;
        }
        if (ts_due(ep->now, tx->loss_at)) {
            ts_tx_detect(tx, &s->rtt, s->reorder, ep->now);
        }
        if (ts_due(ep->now, tx->timer)) {
            ts__probe(ep, s, tx);
        }
    }
    ts__expire_partial(ep, s);
    if (!s->heard && ts_due(ep->now, s->hello_at)) {
        ts__ping(ep, s);
        s->hello_gap_us = min32(2 * s->hello_gap_us, HELLO_GAP_MAX_US);
        s->hello_at = ts_after(ep->now, s->hello_gap_us);
    }
    if (ts_due(ep->now, keepalive_at(s))) {
        ts__ping(ep, s);
    }
}

static uint32_t next_of(const struct ts_session *s) {
    uint32_t next = s->pending.until;
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        next = s->tx[i].state != TS_TX_FREE ? ts_sooner(next, s->tx[i].deadline) : next;
    }
    if (s->state == TS_S_OPENING) {
        return ts_sooner(next, ts_sooner(s->hello_at, s->connect_by));
    }
    if (s->state != TS_S_UP) {
        return next;
    }
    next = ts_sooner(next, ts_after(s->heard_at, s->idle_us));
    next = ts_sooner(next, keepalive_at(s));
    next = ts_sooner(next, s->knock_at);
    next = s->heard ? next : ts_sooner(next, s->hello_at);
    for (uint32_t i = 0; i < TS_RX_SLOTS; i++) {
        next = s->rx[i].state == TS_RX_PARTIAL ? ts_sooner(next, ts_after(s->rx[i].last_at, PARTIAL_US)) : next;
    }
    bool paced = false;
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        const struct ts_tx *tx = &s->tx[i];
        uint32_t fragment;
        if (tx->state == TS_TX_SENDING) {
            next = ts_sooner(next, ts_sooner(tx->timer, tx->loss_at));
            paced = paced || (ts__inflight(s) < s->cwnd && ts_tx_pick(tx, min32(s->peer_window, TS_WINDOW), &fragment));
        }
    }
    /* What could not be sent just now waits for one of these two. */
    return ts_sooner(next, s->retry_at != 0 ? s->retry_at : paced ? s->pace_at : 0);
}

uint64_t ts_poll(struct ts_endpoint *ep, uint64_t now_us) {
    uint32_t next = 0;
    ts__set_time(ep, now_us);
    ep->reset_at = ts_due(ep->now, ep->reset_at) ? 0 : ep->reset_at;
    for (uint32_t n = 0; n < ep->cfg->session_count; n++) {
        struct ts_session *s = &ep->cfg->sessions[n];
        if (ts_due(ep->now, s->pending.until)) {
            s->pending.until = 0;
            s->state = s->state == TS_S_PENDING ? TS_S_DOWN : s->state;
        }
        for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
            if (s->tx[i].state != TS_TX_FREE && ts_due(ep->now, s->tx[i].deadline)) {
                uint16_t code = s->last_error != TS_OK ? s->last_error : TS_E_NO_PEER;
                ts__give_up(ep, s, &s->tx[i], s->state == TS_S_UP ? TS_E_DEADLINE : code);
            }
        }
        if (s->state == TS_S_OPENING && ts_due(ep->now, s->connect_by)) {
            end_session(ep, s, TS_E_NO_PEER);
        }
        if (s->state == TS_S_OPENING && ts_due(ep->now, s->hello_at)) {
            send_hello(ep, s);
        }
        if (s->state == TS_S_UP) {
            tick_up(ep, s);
        }
        ts__pump(ep, s);
    }
    pump_others(ep);
    for (uint32_t n = 0; n < ep->cfg->session_count; n++) {
        next = ts_sooner(next, next_of(&ep->cfg->sessions[n]));
    }
    if (ep->queued) {
        return ep->raw;
    }
    if (next == 0) {
        return TS_NEVER;
    }
    return ep->raw + (ts_due(ep->now, next) ? 0 : next - ep->now);
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

void ts_close(struct ts_endpoint *ep, uint64_t now_us, uint16_t session) {
    ts__set_time(ep, now_us);
    if (session >= ep->cfg->session_count || ep->cfg->sessions[session].state == TS_S_DOWN) {
        return;
    }
    struct ts_session *s = &ep->cfg->sessions[session];
    if (s->state == TS_S_UP) {
        struct ts_frame bye = {.kind = TS_F_BYE};
        ts__transmit_control(ep, &s->addr, &s->keys, &bye);
    }
    s->keep = false;
    s->pending.until = 0;
    end_session(ep, s, TS_E_CLOSED);
}
