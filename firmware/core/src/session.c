#include "tinysplit/session.h"

#include <string.h>

#define MS 1000u
#define HELLO_GAP_US (100u * MS)
#define HELLO_GAP_MAX_US (1000u * MS)
#define PENDING_US (3000u * MS)
#define RTO_MAX_US (2000u * MS)
#define PARTIAL_US (10000u * MS)
#define PING_ANSWER_US (1000u * MS)
#define RESET_GAP_US (10u * MS)
#define RETRY_US (1u * MS)
#define CLOCK_FRESH_US (60000u * MS)
#define MIN_CWND 4u
#define FLAT_PROBES 3u
#define MAX_REORDER 16u
#define MAX_TRIES 3u

/* Outcomes of message ids that are not error codes. */
#define O_UNKNOWN 0xFFFFu
#define O_ABANDONED 0xFFFEu
#define O_PARTIAL 0xFFFDu
#define O_HELD 0xFFFCu

static uint32_t or_default(uint32_t value, uint32_t otherwise) {
    return value != 0 ? value : otherwise;
}

static uint32_t min32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

static uint32_t span_us(uint32_t ms, uint32_t otherwise_ms) {
    return min32(or_default(ms, otherwise_ms), TS_MAX_SPAN_US / MS) * MS;
}

/* The caller's clock may jump. Own time stands still when it goes back, and
 * goes on by half an hour at most. */
static void set_time(struct ts_endpoint *ep, uint64_t raw) {
    if (raw > ep->raw) {
        uint64_t ahead = raw - ep->raw;
        ep->now = ts_after(ep->now, ahead > TS_MAX_SPAN_US ? TS_MAX_SPAN_US : (uint32_t)ahead);
    }
    ep->raw = raw;
}

static const struct ts_link *link_of(const struct ts_endpoint *ep, const struct ts_session *s) {
    return &ep->cfg->links[s->addr.link];
}

static bool same_addr(const struct ts_addr *a, const struct ts_addr *b) {
    return a->link == b->link && a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

static uint16_t index_of(const struct ts_endpoint *ep, const struct ts_session *s) {
    return (uint16_t)(s - ep->cfg->sessions);
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

/* Extends 16 bits of the wire to the number nearest to `near`. */
static uint32_t extend(uint16_t wire, uint32_t near) {
    uint32_t ahead = (wire - near) & 0xFFFFu;
    return near + ahead - (ahead >= 0x8000u ? 0x10000u : 0u);
}

static bool id_above(uint32_t a, uint32_t b) {
    return (int32_t)(a - b) > 0;
}

/* ---- output ---- */

static int transmit(struct ts_endpoint *ep, const struct ts_addr *to, const uint8_t *bytes, size_t len) {
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

static int transmit_control(struct ts_endpoint *ep, const struct ts_addr *to, const struct ts_keys *keys,
                            const struct ts_frame *f) {
    uint8_t bytes[TS_CONTROL_FRAME_BYTES];
    return transmit(ep, to, bytes, ts_frame_encode(&ep->cfg->crc, keys->sid, keys->seed, f, bytes));
}

static void emit(struct ts_endpoint *ep, const struct ts_event *e) {
    ep->on_event(ep->event_ctx, e);
}

static void emit_session(struct ts_endpoint *ep, const struct ts_session *s, enum ts_event_type type, uint16_t code) {
    struct ts_event e = {.type = type, .session = index_of(ep, s), .code = code};
    emit(ep, &e);
}

static void send_ping(struct ts_endpoint *ep, struct ts_session *s) {
    struct ts_frame f = {.kind = TS_F_PING, .seq = (uint16_t)(s->ping_seq + 1u), .t1 = ep->raw};
    if (transmit_control(ep, &s->addr, &s->keys, &f) == TS_OK) {
        s->ping_seq = f.seq;
        s->ping_t1 = f.t1;
        s->ping_waiting = true;
    }
    s->ping_at = ep->now;
}

/* ---- sending messages ---- */

static uint32_t oldest_live(const struct ts_session *s) {
    uint32_t oldest = s->next_id;
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        if (s->tx[i].state == TS_TX_SENDING && id_above(oldest, s->tx[i].id)) {
            oldest = s->tx[i].id;
        }
    }
    return oldest;
}

static uint32_t inflight(const struct ts_session *s) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        n += s->tx[i].state == TS_TX_SENDING ? s->tx[i].inflight : 0;
    }
    return n;
}

static void finish_tx(struct ts_endpoint *ep, struct ts_session *s, struct ts_tx *tx, uint16_t code, uint32_t detail) {
    struct ts_event e = {.type = TS_EV_SENT,
                         .session = index_of(ep, s),
                         .code = code,
                         .detail = detail,
                         .token = tx->token,
                         .fragments_sent = tx->fragments_sent,
                         .fragments_resent = tx->fragments_resent};
    tx->state = TS_TX_FREE;
    emit(ep, &e);
}

/* Ends a message that the peer may still wait for. */
static void give_up(struct ts_endpoint *ep, struct ts_session *s, struct ts_tx *tx, uint16_t code) {
    if (tx->state == TS_TX_SENDING) {
        s->abandoned_id = tx->id;
    }
    finish_tx(ep, s, tx, code, 0);
}

/* How long to wait after this many probes in a row without an answer. */
static uint32_t rto(const struct ts_endpoint *ep, const struct ts_session *s, uint32_t probes) {
    const struct ts_link *link = link_of(ep, s);
    uint32_t us = or_default(link->rto_initial_us, 250u * MS);
    if (s->rtt.known) {
        uint32_t var = 4 * s->rtt.rttvar_us;
        us = s->rtt.srtt_us + (var > MS ? var : MS) + s->peer_ack_delay_us;
        us = us > or_default(link->rto_min_us, 5u * MS) ? us : or_default(link->rto_min_us, 5u * MS);
    }
    us = min32(us, RTO_MAX_US);
    uint32_t doublings = probes > FLAT_PROBES ? probes - FLAT_PROBES : 0;
    return doublings > 8 ? RTO_MAX_US : min32(us << doublings, RTO_MAX_US);
}

static bool send_poll(struct ts_endpoint *ep, struct ts_session *s, uint32_t id, uint16_t order) {
    struct ts_frame f = {.kind = TS_F_POLL,
                         .attempt = (uint8_t)((s->poll_seq + 1u) & 3u),
                         .message = (uint16_t)id,
                         .oldest = (uint16_t)oldest_live(s)};
    if (transmit_control(ep, &s->addr, &s->keys, &f) != TS_OK) {
        return false;
    }
    s->poll_seq = f.attempt;
    s->poll_message = (uint16_t)id;
    s->poll_order = order;
    s->poll_at = ep->now;
    return true;
}

/* Sends one fragment; false if the link is full. */
static bool send_fragment(struct ts_endpoint *ep, struct ts_session *s, struct ts_tx *tx, uint32_t fragment,
                          bool probe) {
    const struct ts_link *link = link_of(ep, s);
    uint32_t piece = s->frame_size - TS_DATA_OVERHEAD;
    uint32_t slot = fragment % TS_WINDOW;
    bool fresh = fragment == tx->next;
    struct ts_frame f = {.kind = TS_F_DATA,
                         .message = (uint16_t)tx->id,
                         .fragment = (uint16_t)fragment,
                         .attempt = fresh ? 0 : (tx->attempt[slot] + 1u) & 3u,
                         .flags = fragment + 1 == tx->fragments ? TS_DATA_LAST : 0,
                         .payload = ep->cfg->frame + 6};
    /* Ask for an ACK when nothing more of this message can follow now. */
    uint32_t window = min32(s->peer_window, TS_WINDOW);
    bool more = !probe && inflight(s) + 1 < s->cwnd && ts_tx_more(tx, window, fragment);
    if (!more || tx->since_ackreq + 1u >= window / 2) {
        f.flags |= TS_DATA_ACKREQ;
    }
    f.payload_len = ts_tx_payload(tx, fragment, piece, ep->cfg->frame + 6);
    size_t len = ts_frame_encode(&ep->cfg->crc, s->keys.sid, s->keys.seed, &f, ep->cfg->frame);
    if (transmit(ep, &s->addr, ep->cfg->frame, len) != TS_OK) {
        s->retry_at = ts_after(ep->now, RETRY_US);
        return false;
    }
    ep->stats.data_out++;
    ep->stats.data_resent += fresh ? 0 : 1;
    tx->since_ackreq = (f.flags & TS_DATA_ACKREQ) != 0 ? 0 : (uint16_t)(tx->since_ackreq + 1u);
    ts_tx_sent(tx, fragment, ep->now);
    tx->timer = ts_after(ep->now, rto(ep, s, tx->probes));
    if (link->pace_ns_per_byte != 0) {
        uint32_t earliest = ep->now - link->pace_burst_us;
        uint32_t from = s->pace_at == 0 || ts_due(earliest, s->pace_at) ? earliest : s->pace_at;
        s->pace_at = ts_after(from, (uint32_t)len * link->pace_ns_per_byte / 1000u);
    }
    return true;
}

/* Gives queued messages ids, in the order they were queued, as far as the peer lets it. */
static void start_queued(struct ts_endpoint *ep, struct ts_session *s) {
    bool blocked = false;
    for (uint32_t n = 0; n < TS_TX_SLOTS; n++) {
        struct ts_tx *tx = NULL;
        for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
            if (s->tx[i].state == TS_TX_QUEUED && (tx == NULL || id_above(tx->queued, s->tx[i].queued))) {
                tx = &s->tx[i];
            }
        }
        if (tx == NULL) {
            break;
        }
        if (tx->len > s->peer_max_message) {
            finish_tx(ep, s, tx, TS_E_TOO_LARGE, s->peer_max_message);
            continue;
        }
        if (id_above(s->next_id, s->limit) || s->next_id - oldest_live(s) >= TS_MAX_LIVE) {
            blocked = true;
            break;
        }
        uint32_t ttl = ts_due(ep->now, tx->deadline) ? 0 : min32((tx->deadline - ep->now) / MS, 65535u);
        if (!ts_tx_begin(tx, &ep->cfg->crc, s->keys.sid, s->next_id, (uint16_t)(ttl > 0 ? ttl : 1),
                         s->frame_size - TS_DATA_OVERHEAD)) {
            finish_tx(ep, s, tx, TS_E_TOO_LARGE, s->peer_max_message);
            continue;
        }
        s->next_id++;
    }
    if (!blocked) {
        s->blocked_at = 0;
        s->blocked_probes = 0;
    } else if (s->blocked_at == 0) {
        s->blocked_at = ts_after(ep->now, rto(ep, s, s->blocked_probes));
    }
}

static void pay_owed(struct ts_endpoint *ep, struct ts_session *s);

/* Sends what may be sent now. */
static void pump(struct ts_endpoint *ep, struct ts_session *s) {
    if (s->state != TS_S_UP || (s->retry_at != 0 && !ts_due(ep->now, s->retry_at))) {
        return;
    }
    s->retry_at = 0;
    if (s->pace_at != 0 && ts_due(ep->now - link_of(ep, s)->pace_burst_us, s->pace_at)) {
        s->pace_at = 0;
    }
    pay_owed(ep, s);
    if (s->abandoned_id != 0 && send_poll(ep, s, s->abandoned_id, 0)) {
        s->abandoned_id = 0;
    }
    start_queued(ep, s);
    uint32_t window = min32(s->peer_window, TS_WINDOW);
    while ((s->pace_at == 0 || ts_due(ep->now, s->pace_at)) && inflight(s) < s->cwnd) {
        struct ts_tx *best = NULL;
        uint32_t fragment = 0;
        for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
            struct ts_tx *tx = &s->tx[i];
            uint32_t f;
            if (tx->state != TS_TX_SENDING || !ts_tx_pick(tx, window, &f)) {
                continue;
            }
            bool later = best != NULL && (tx->kind == TS_BLOB) == (best->kind == TS_BLOB) ? id_above(tx->id, best->id)
                                                                                          : tx->kind == TS_BLOB;
            if (best == NULL || !later) {
                best = tx;
                fragment = f;
            }
        }
        if (best == NULL || !send_fragment(ep, s, best, fragment, false)) {
            break;
        }
    }
}

/* Nothing was acknowledged for too long: find out what the peer has. */
static void probe(struct ts_endpoint *ep, struct ts_session *s, struct ts_tx *tx) {
    uint32_t fragment;
    if (!ts_tx_probe(tx, &fragment)) {
        tx->timer = 0;
        return;
    }
    if (tx->probes < 16) {
        tx->probes++;
    }
    if (tx->probes == 1) {
        send_fragment(ep, s, tx, fragment, true);
    } else {
        send_poll(ep, s, tx->id, tx->order_next);
        send_ping(ep, s);
    }
    if (tx->probes == FLAT_PROBES + 1) {
        s->cwnd = (uint16_t)(s->cwnd / 2 > MIN_CWND ? s->cwnd / 2 : MIN_CWND);
    }
    tx->timer = ts_after(ep->now, rto(ep, s, tx->probes));
}

/* ---- receiving messages ---- */

static uint32_t limit_now(const struct ts_session *s) {
    return s->slots_told + s->released;
}

static uint16_t *outcome_of(struct ts_session *s, uint32_t id) {
    return &s->outcome[id % TS_MAX_LIVE];
}

static struct ts_rx *rx_of(struct ts_session *s, uint32_t id) {
    for (uint32_t i = 0; i < TS_RX_SLOTS; i++) {
        if (s->rx[i].state != TS_RX_FREE && s->rx[i].id == id) {
            return &s->rx[i];
        }
    }
    return NULL;
}

/* Sends what there is to say about a message: REJECT or ACK. */
static void answer(struct ts_endpoint *ep, struct ts_session *s, uint32_t id, uint16_t echo, uint8_t attempt,
                   bool dup) {
    uint8_t bitmap[TS_ACK_BITMAP_BYTES];
    uint16_t outcome = id_above(id, s->highest) ? O_UNKNOWN : *outcome_of(s, id);
    uint32_t limit = limit_now(s);
    struct ts_frame f = {.kind = TS_F_ACK,
                         .message = (uint16_t)id,
                         .limit = (uint16_t)limit,
                         .echo = echo,
                         .attempt = attempt,
                         .flags = dup ? TS_ACK_DUP : 0};
    if (outcome == TS_OK || outcome == O_HELD) {
        f.flags |= TS_ACK_COMPLETE;
        f.base = s->fragments_of[id % TS_MAX_LIVE];
    } else if (outcome == O_PARTIAL) {
        struct ts_rx *rx = rx_of(s, id);
        if (rx != NULL) {
            ts_rx_ack(rx, &f, bitmap);
        }
    } else if (outcome < O_HELD) {
        f.kind = TS_F_REJECT;
        f.flags = f.attempt = 0;
        f.code = outcome;
        f.detail = outcome == TS_E_TOO_LARGE ? ep->cfg->max_message : 0;
    }
    uint8_t bit = (uint8_t)(1u << (id % TS_MAX_LIVE));
    if (transmit_control(ep, &s->addr, &s->keys, &f) == TS_OK) {
        s->owed = (uint8_t)(s->owed & ~bit);
        s->limit_told = limit;
    } else {
        s->owed = (uint8_t)(s->owed | bit);
        s->retry_at = ts_after(ep->now, RETRY_US);
    }
}

static void pay_owed(struct ts_endpoint *ep, struct ts_session *s) {
    for (uint32_t i = 0; i < TS_MAX_LIVE && s->owed != 0; i++) {
        if ((s->owed >> ((s->highest - i) % TS_MAX_LIVE) & 1u) != 0) {
            answer(ep, s, s->highest - i, TS_ECHO_NONE, 0, false);
        }
    }
}

static void release_id(struct ts_session *s, uint32_t id, uint16_t outcome) {
    if (!id_above(s->highest - TS_MAX_LIVE + 1, id)) {
        *outcome_of(s, id) = outcome;
    }
    s->released++;
}

/* Frees what an unfinished message holds. */
static void abandon(struct ts_session *s, uint32_t id) {
    uint16_t outcome = *outcome_of(s, id);
    if (outcome != O_UNKNOWN && outcome != O_PARTIAL) {
        return;
    }
    struct ts_rx *rx = outcome == O_PARTIAL ? rx_of(s, id) : NULL;
    if (rx != NULL) {
        rx->state = TS_RX_FREE;
    }
    release_id(s, id, O_ABANDONED);
}

/* Moves the highest id seen up to id; those that fall out of the live span are over. */
static void raise_highest(struct ts_session *s, uint32_t id) {
    while (id_above(id, s->highest)) {
        uint32_t out = s->highest + 1 - TS_MAX_LIVE;
        if (id_above(out, 0)) {
            abandon(s, out);
        }
        s->highest++;
        *outcome_of(s, s->highest) = O_UNKNOWN;
        s->owed = (uint8_t)(s->owed & ~(1u << (s->highest % TS_MAX_LIVE)));
    }
}

struct kind_ctx {
    const struct ts_endpoint *ep;
    const struct ts_session *s;
};

static int kind_allowed(const void *ctx, uint8_t kind) {
    const struct kind_ctx *k = ctx;
    const struct ts_config *cfg = k->ep->cfg;
    bool ok = false;
    switch (kind) {
    case TS_TENSOR:
        if (!k->s->initiator && cfg->role != TS_ROLE_BRIDGE && !k->s->inference) {
            return TS_E_BUNDLE_MISMATCH;
        }
        ok = !k->s->initiator && cfg->role != TS_ROLE_BRIDGE;
        break;
    case TS_RESULT:
    case TS_ERROR:
        ok = k->s->initiator;
        break;
    case TS_CONTROL:
        ok = cfg->accept_control;
        break;
    case TS_BLOB:
        ok = cfg->accept_blob;
        break;
    default:
        ok = kind >= TS_PRIVATE && cfg->accept_private;
        break;
    }
    return ok ? TS_OK : TS_E_UNSUPPORTED;
}

static void deliver(struct ts_endpoint *ep, struct ts_session *s, struct ts_rx *rx) {
    struct ts_event e = {.type = TS_EV_MESSAGE,
                         .session = index_of(ep, s),
                         .slot = (uint8_t)(rx - s->rx),
                         .kind = rx->env.kind,
                         .ttl_ms = rx->env.ttl_ms,
                         .body = rx->buffer,
                         .len = rx->env.len,
                         .receive_us = rx->last_at - rx->first_at};
    emit(ep, &e);
}

static void on_data(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    uint32_t id = extend(f->message, s->highest);
    if (!id_above(id, 0) || id_above(s->highest - TS_MAX_LIVE + 1, id) || id_above(id, limit_now(s))) {
        ep->stats.dropped++;
        return;
    }
    raise_highest(s, id);
    uint16_t *outcome = outcome_of(s, id);
    if (*outcome == O_ABANDONED) {
        ep->stats.dropped++;
        return;
    }
    if (*outcome != O_UNKNOWN && *outcome != O_PARTIAL) {
        ep->stats.duplicates++;
        answer(ep, s, id, f->fragment, f->attempt, true);
        return;
    }
    struct ts_rx *rx = rx_of(s, id);
    if (rx == NULL) {
        for (uint32_t i = 0; i < TS_RX_SLOTS && rx == NULL; i++) {
            rx = s->rx[i].state == TS_RX_FREE ? &s->rx[i] : NULL;
        }
        if (rx == NULL) {
            ep->stats.dropped++;
            return;
        }
        ts_rx_begin(rx, id, ep->now);
        *outcome = O_PARTIAL;
    }
    int code = TS_OK;
    struct kind_ctx ctx = {ep, s};
    enum ts_rx_verdict verdict = ts_rx_data(rx, &ep->cfg->crc, s->keys.sid, s->frame_size - TS_DATA_OVERHEAD,
                                            ep->cfg->max_message, f, kind_allowed, &ctx, &code);
    if (verdict == TS_RX_DROP) {
        ep->stats.dropped++;
        return;
    }
    rx->last_at = ep->now;
    if (verdict == TS_RX_REJECT) {
        rx->state = TS_RX_FREE;
        release_id(s, id, (uint16_t)code);
    } else if (verdict == TS_RX_COMPLETE) {
        rx->state = TS_RX_HELD;
        *outcome = O_HELD;
        s->fragments_of[id % TS_MAX_LIVE] = (uint16_t)rx->total;
    } else if (verdict == TS_RX_DUP) {
        ep->stats.duplicates++;
    } else if (verdict == TS_RX_STORED && (f->flags & TS_DATA_ACKREQ) == 0) {
        return;
    }
    answer(ep, s, id, f->fragment, f->attempt, verdict == TS_RX_DUP);
    if (verdict == TS_RX_COMPLETE) {
        deliver(ep, s, rx);
    }
}

static void on_poll(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    uint32_t oldest = extend(f->oldest, s->highest);
    uint32_t id = extend(f->message, s->highest);
    if (id_above(oldest, s->highest + TS_MAX_LIVE) || id_above(s->highest - TS_MAX_LIVE + 1, id)) {
        ep->stats.dropped++;
        return;
    }
    if (id_above(oldest, s->highest + 1)) {
        raise_highest(s, oldest - 1);
    }
    for (uint32_t i = 0; i < TS_MAX_LIVE; i++) {
        uint32_t below = s->highest - i;
        if (id_above(oldest, below) && id_above(below, 0)) {
            abandon(s, below);
        }
    }
    answer(ep, s, id, TS_ECHO_POLL, f->attempt, false);
}

/* ---- feedback ---- */

static struct ts_tx *tx_of(struct ts_session *s, uint16_t message) {
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        if (s->tx[i].state == TS_TX_SENDING && (uint16_t)s->tx[i].id == message) {
            return &s->tx[i];
        }
    }
    return NULL;
}

static void learn_limit(struct ts_session *s, uint16_t wire) {
    uint32_t limit = extend(wire, s->limit);
    /* A peer cannot owe more than its slots beyond what was ever started. */
    if (id_above(limit, s->limit) && !id_above(limit, s->next_id + TS_MAX_LIVE)) {
        s->limit = limit;
        s->blocked_probes = 0;
        s->blocked_at = 0;
    }
}

static void on_ack(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    learn_limit(s, f->limit);
    struct ts_tx *tx = tx_of(s, f->message);
    if (tx == NULL) {
        return;
    }
    bool polled = s->poll_message == f->message && s->poll_at != 0 && s->poll_seq == f->attempt;
    struct ts_ack_outcome out = ts_tx_ack(tx, f, polled, s->poll_order, s->poll_at, ep->now);
    if (!out.valid) {
        ep->stats.dropped++;
        return;
    }
    if (out.sampled) {
        ts_rtt_sample(&s->rtt, out.sample_us);
    }
    if (out.spurious && s->reorder < MAX_REORDER) {
        s->reorder++;
    }
    uint32_t most = min32(min32(or_default(link_of(ep, s)->window, 32), TS_WINDOW), s->peer_window);
    s->cwnd = (uint16_t)min32(s->cwnd + out.newly_acked, most);
    if (out.complete) {
        finish_tx(ep, s, tx, TS_OK, 0);
        return;
    }
    tx->probes = 0;
    ts_tx_detect(tx, &s->rtt, s->reorder, ep->now);
    tx->timer = tx->inflight > 0 ? ts_after(ep->now, rto(ep, s, 0)) : 0;
}

static void on_reject(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    learn_limit(s, f->limit);
    struct ts_tx *tx = tx_of(s, f->message);
    if (tx == NULL) {
        return;
    }
    if (f->code == TS_E_INTEGRITY && ++tx->tries < MAX_TRIES) {
        tx->state = TS_TX_QUEUED;
        return;
    }
    finish_tx(ep, s, tx, f->code, f->detail);
}

/* ---- sessions ---- */

static uint8_t free_slots(const struct ts_session *s) {
    uint8_t n = 0;
    for (uint32_t i = 0; i < TS_RX_SLOTS; i++) {
        n = (uint8_t)(n + (s->rx[i].state != TS_RX_HELD));
    }
    return n;
}

static bool has_bundle(const uint8_t *bundle) {
    uint8_t any = 0;
    for (uint32_t i = 0; i < TS_BUNDLE_BYTES; i++) {
        any |= bundle[i];
    }
    return any != 0;
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
    h->codecs = (uint16_t)(cfg->codecs | 1u);
    h->ack_delay = (uint16_t)min32((cfg->ack_delay_us + 99u) / 100u, 0xFFFFu);
    h->idle_timeout = (uint16_t)min32(or_default(cfg->idle_timeout_ms, 15000) / 100u, 0xFFFFu);
    memcpy(h->bundle, cfg->bundle, TS_BUNDLE_BYTES);
}

/* Puts a session into its first moment of being up. */
static void begin(struct ts_endpoint *ep, struct ts_session *s, const struct ts_keys *keys, const struct ts_hello *peer,
                  uint8_t slots) {
    const struct ts_link *link = link_of(ep, s);
    uint32_t own_idle = span_us(ep->cfg->idle_timeout_ms, 15000);
    uint32_t peer_idle = span_us(peer->idle_timeout * 100u, 0);
    s->state = TS_S_UP;
    s->heard = false;
    s->last_error = TS_OK;
    s->keys = *keys;
    s->version = TS_PROTOCOL_VERSION;
    s->peer_role = peer->role;
    s->peer_stage = peer->stage;
    s->inference = has_bundle(peer->bundle) && memcmp(peer->bundle, ep->cfg->bundle, TS_BUNDLE_BYTES) == 0;
    s->frame_size = (uint16_t)min32(link->mtu, peer->mtu);
    s->peer_window = peer->window;
    s->peer_max_message = peer->max_message;
    s->peer_ack_delay_us = peer->ack_delay * 100u;
    s->idle_us = peer_idle != 0 ? min32(own_idle, peer_idle) : own_idle;
    uint32_t common = peer->codecs & (ep->cfg->codecs | 1u);
    s->codec = 0;
    while (common >> 1 >> s->codec != 0) {
        s->codec++;
    }
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
    s->pace_at = s->retry_at = 0;
    s->blocked_at = s->poll_at = 0;
    s->abandoned_id = 0;
    s->blocked_probes = s->poll_seq = 0;
    s->highest = s->released = 0;
    s->slots_told = slots;
    s->limit_told = slots;
    s->owed = 0;
    for (uint32_t i = 0; i < TS_MAX_LIVE; i++) {
        s->outcome[i] = O_ABANDONED;
    }
}

static void fail_queued(struct ts_endpoint *ep, struct ts_session *s, uint16_t code) {
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        if (s->tx[i].state != TS_TX_FREE) {
            finish_tx(ep, s, &s->tx[i], code, 0);
        }
    }
}

static void start_opening(struct ts_endpoint *ep, struct ts_session *s, uint32_t at) {
    s->state = TS_S_OPENING;
    s->keys.nonce_i = nonce(ep);
    s->hello_at = at;
    s->hello_gap_us = HELLO_GAP_US;
    s->hello_repeated = false;
    s->hello_sent_at = 0;
    s->connect_by = ts_after(at, span_us(ep->cfg->connect_timeout_ms, 5000));
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
        uint32_t pause = span_us(ep->cfg->retry_pause_ms, 1000);
        start_opening(ep, s, code == TS_E_RESET ? ep->now : ts_after(ep->now, pause));
    } else {
        fail_queued(ep, s, code);
    }
    emit_session(ep, s, TS_EV_DOWN, code);
}

static void send_hello(struct ts_endpoint *ep, struct ts_session *s) {
    uint8_t bytes[TS_HELLO_BYTES];
    struct ts_hello h;
    own_hello(ep, s->addr.link, free_slots(s), &h);
    h.nonce_i = s->keys.nonce_i;
    ts_hello_encode(&ep->cfg->crc, TS_F_HELLO, &h, bytes);
    if (h.slots == 0 || transmit(ep, &s->addr, bytes, sizeof bytes) != TS_OK) {
        s->hello_at = ts_after(ep->now, HELLO_GAP_US);
        return;
    }
    s->slots_told = h.slots;
    s->hello_repeated = s->hello_sent_at != 0;
    s->hello_sent_at = ep->now;
    s->hello_at = ts_after(ep->now, s->hello_gap_us);
    s->hello_gap_us = min32(2 * s->hello_gap_us, HELLO_GAP_MAX_US);
}

/* SPEC.md 2.2, rows 2 to 8. */
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
    if (h->window < 1 || h->window > 256 || h->slots < 1 || h->slots > TS_MAX_LIVE || h->role > TS_ROLE_BRIDGE ||
        h->codecs == 0 || h->version_min > h->version_max) {
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
    if (!host && (!has_bundle(h->bundle) || memcmp(h->bundle, cfg->bundle, TS_BUNDLE_BYTES) != 0)) {
        return TS_E_BUNDLE_MISMATCH;
    }
    return (h->codecs & (cfg->codecs | 1u)) != 0 ? TS_OK : TS_E_CODEC_MISMATCH;
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
        if (s->state == TS_S_DOWN && free_slots(s) > 0) {
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
        if (s == NULL && (s = find_free(ep)) != NULL) {
            s->addr = *from;
            s->initiator = false;
            s->state = TS_S_PENDING;
        }
        slots = s != NULL ? free_slots(s) : 0;
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
    uint32_t common = code == TS_OK ? h.codecs & reply.codecs : 0;
    while ((common & (common - 1u)) != 0) {
        common &= common - 1u;
    }
    reply.codecs = (uint16_t)common;
    ts_hello_encode(&ep->cfg->crc, TS_F_HELLO_ACK, &reply, bytes);
    transmit(ep, from, bytes, sizeof bytes);
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
            fail_queued(ep, s, code);
        }
        end_session(ep, s, code);
        return;
    }
    if (h.version_max != TS_PROTOCOL_VERSION || h.nonce_a == 0 || h.mtu < TS_MIN_MTU || h.window < 1 ||
        h.window > 256 || h.slots < 1 || h.slots > TS_MAX_LIVE || h.codecs == 0 ||
        (h.codecs & (h.codecs - 1u)) != 0 || (h.codecs & ~(ep->cfg->codecs | 1u)) != 0) {
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
    send_ping(ep, s);
    emit_session(ep, s, TS_EV_UP, TS_OK);
}

static void on_ping(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    struct ts_frame pong = {
        .kind = TS_F_PONG, .seq = f->seq, .t1 = f->t1, .t2 = ep->raw, .t3 = ep->raw};
    transmit_control(ep, &s->addr, &s->keys, &pong);
}

static void on_pong(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    if (!s->ping_waiting || f->seq != s->ping_seq || f->t1 != s->ping_t1) {
        ep->stats.dropped++;
        return;
    }
    s->ping_waiting = false;
    uint64_t held = f->t3 - f->t2;
    uint64_t rtt_us = ep->raw - f->t1;
    if (ep->raw < f->t1 || f->t3 < f->t2 || held > rtt_us || rtt_us - held > UINT32_MAX) {
        return;
    }
    ts_rtt_sample(&s->rtt, (uint32_t)(rtt_us - held));
    uint32_t uncertainty = (uint32_t)(rtt_us - held) / 2;
    if (!s->clock.known || uncertainty <= s->clock.uncertainty_us || ep->now - s->clock.at > CLOCK_FRESH_US) {
        /* Differences of unsigned clocks, halved before they are added: no overflow. */
        int64_t forth = (int64_t)(f->t2 - f->t1);
        int64_t back = (int64_t)(f->t3 - ep->raw);
        s->clock.offset_us = forth / 2 + back / 2;
        s->clock.uncertainty_us = uncertainty;
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
            on_data(ep, s, f);
        }
        break;
    case TS_F_ACK:
        on_ack(ep, s, f);
        break;
    case TS_F_POLL:
        on_poll(ep, s, f);
        break;
    case TS_F_REJECT:
        on_reject(ep, s, f);
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
    if (in[0] != TS_F_PING << 4 || !ts_frame_named_sid(in, len, &keys.sid) || (ep->reset_at != 0 && !ts_due(ep->now, ep->reset_at))) {
        return;
    }
    keys.seed = ts_seed(&ep->cfg->crc, keys.sid);
    if (ts_frame_decode(&ep->cfg->crc, keys.sid, keys.seed, in, len, &f)) {
        struct ts_frame reset = {.kind = TS_F_RESET, .seq = f.seq};
        ep->reset_at = ts_after(ep->now, RESET_GAP_US);
        transmit_control(ep, from, &keys, &reset);
    }
}

/* Callbacks may have queued messages for any session. */
static void pump_others(struct ts_endpoint *ep) {
    if (ep->queued) {
        ep->queued = false;
        for (uint32_t i = 0; i < ep->cfg->session_count; i++) {
            pump(ep, &ep->cfg->sessions[i]);
        }
    }
}

void ts_on_datagram(struct ts_endpoint *ep, uint64_t now_us, const struct ts_addr *from, const uint8_t *in,
                    size_t len) {
    set_time(ep, now_us);
    ep->stats.frames_in++;
    ep->stats.bytes_in += (uint32_t)len;
    if (len < 8 || from->link >= ep->cfg->link_count || from->len > TS_ADDR_BYTES) {
        ep->stats.dropped++;
        return;
    }
    if (in[0] >> 4 == TS_F_HELLO) {
        on_hello(ep, from, in, len);
        return;
    }
    if (in[0] >> 4 == TS_F_HELLO_ACK) {
        on_hello_ack(ep, from, in, len);
        struct ts_session *opened = find(ep, from, true);
        if (opened != NULL) {
            pump(ep, opened);
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
        bool known = s->state == TS_S_UP && ts_frame_decode(&ep->cfg->crc, s->keys.sid, s->keys.seed, in, len, &f);
        if (!known && s->pending.until != 0 &&
            ts_frame_decode(&ep->cfg->crc, s->pending.keys.sid, s->pending.keys.seed, in, len, &f)) {
            if (s->state == TS_S_UP) {
                end_session(ep, s, TS_E_REPLACED);
            }
            s->pending.until = 0;
            begin(ep, s, &s->pending.keys, &s->pending.hello, s->pending.slots);
            emit_session(ep, s, TS_EV_UP, TS_OK);
            known = true;
        }
        if (known) {
            on_session_frame(ep, s, &f);
            pump(ep, s);
            pump_others(ep);
            return;
        }
    }
    on_stranger(ep, from, in, len);
}

/* ---- time ---- */

/* When to ask whether the peer is still there, and what its clock says. */
static uint32_t keepalive_at(const struct ts_session *s) {
    uint32_t quiet = ts_after(s->heard_at, s->idle_us / 3);
    uint32_t asked = ts_after(s->ping_at, PING_ANSWER_US);
    uint32_t later = ts_sooner(quiet, asked) == quiet ? asked : quiet;
    return ts_sooner(later, ts_after(s->ping_at, CLOCK_FRESH_US));
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
            probe(ep, s, tx);
        }
    }
    for (uint32_t i = 0; i < TS_RX_SLOTS; i++) {
        if (s->rx[i].state == TS_RX_PARTIAL && ts_due(ep->now, ts_after(s->rx[i].last_at, PARTIAL_US))) {
            abandon(s, s->rx[i].id);
        }
    }
    if (ts_due(ep->now, s->blocked_at)) {
        send_poll(ep, s, s->next_id, 0);
        if (s->blocked_probes > 0) {
            send_ping(ep, s);
        }
        s->blocked_probes = (uint8_t)(s->blocked_probes < 16 ? s->blocked_probes + 1 : 16);
        s->blocked_at = ts_after(ep->now, rto(ep, s, s->blocked_probes));
    }
    if (!s->heard && ts_due(ep->now, s->hello_at)) {
        send_ping(ep, s);
        s->hello_gap_us = min32(2 * s->hello_gap_us, HELLO_GAP_MAX_US);
        s->hello_at = ts_after(ep->now, s->hello_gap_us);
    }
    if (ts_due(ep->now, keepalive_at(s))) {
        send_ping(ep, s);
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
    next = ts_sooner(next, s->blocked_at);
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
            paced = paced || (inflight(s) < s->cwnd && ts_tx_pick(tx, min32(s->peer_window, TS_WINDOW), &fragment));
        }
    }
    /* What could not be sent just now waits for one of these two. */
    return ts_sooner(next, s->retry_at != 0 ? s->retry_at : paced ? s->pace_at : 0);
}

uint64_t ts_poll(struct ts_endpoint *ep, uint64_t now_us) {
    uint32_t next = 0;
    set_time(ep, now_us);
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
                give_up(ep, s, &s->tx[i], s->state == TS_S_UP ? TS_E_DEADLINE : code);
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
        pump(ep, s);
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

/* ---- what the owner asks for ---- */

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
    set_time(ep, now_us);
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
    set_time(ep, now_us);
    if (session >= ep->cfg->session_count || ep->cfg->sessions[session].state == TS_S_DOWN) {
        return;
    }
    struct ts_session *s = &ep->cfg->sessions[session];
    if (s->state == TS_S_UP) {
        struct ts_frame bye = {.kind = TS_F_BYE};
        transmit_control(ep, &s->addr, &s->keys, &bye);
    }
    s->keep = false;
    s->pending.until = 0;
    end_session(ep, s, TS_E_CLOSED);
}

int ts_send(struct ts_endpoint *ep, uint64_t now_us, uint16_t session, uint8_t kind, const uint8_t *body,
            uint32_t len, uint32_t timeout_ms, uint32_t token) {
    set_time(ep, now_us);
    if (session >= ep->cfg->session_count || (body == NULL && len > 0) || len > UINT32_MAX / 2) {
        return TS_E_INVALID;
    }
    struct ts_session *s = &ep->cfg->sessions[session];
    if (s->state != TS_S_UP && !(s->state == TS_S_OPENING && s->initiator)) {
        return TS_E_INVALID;
    }
    uint32_t timeout_us = span_us(timeout_ms, or_default(ep->cfg->message_timeout_ms, 10000));
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        struct ts_tx *tx = &s->tx[i];
        if (tx->state == TS_TX_FREE) {
            tx->state = TS_TX_QUEUED;
            tx->kind = kind;
            tx->tries = 0;
            tx->body = body;
            tx->len = len;
            tx->token = token;
            tx->id = 0;
            tx->queued = s->queued++;
            tx->fragments_sent = tx->fragments_resent = 0;
            tx->deadline = ts_after(ep->now, timeout_us);
            ep->queued = true;
            return TS_OK;
        }
    }
    return TS_E_NO_SLOT;
}

void ts_cancel(struct ts_endpoint *ep, uint64_t now_us, uint16_t session, uint32_t token) {
    set_time(ep, now_us);
    if (session >= ep->cfg->session_count) {
        return;
    }
    struct ts_session *s = &ep->cfg->sessions[session];
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        if (s->tx[i].state != TS_TX_FREE && s->tx[i].token == token) {
            give_up(ep, s, &s->tx[i], TS_E_CANCELLED);
        }
    }
}

void ts_release(struct ts_endpoint *ep, uint64_t now_us, uint16_t session, uint8_t slot) {
    set_time(ep, now_us);
    if (session >= ep->cfg->session_count || slot >= TS_RX_SLOTS ||
        ep->cfg->sessions[session].rx[slot].state != TS_RX_HELD) {
        return;
    }
    struct ts_session *s = &ep->cfg->sessions[session];
    struct ts_rx *rx = &s->rx[slot];
    rx->state = TS_RX_FREE;
    rx->waiting = false;
    if (rx->id == 0 || s->state != TS_S_UP) {
        return;
    }
    release_id(s, rx->id, TS_OK);
    if (!id_above(s->limit_told, s->highest)) {
        answer(ep, s, rx->id, TS_ECHO_NONE, 0, false);
    }
}
