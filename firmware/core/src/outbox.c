#include "internal.h"

#include <string.h>

#define MIN_CWND 4u
#define FLAT_PROBES 3u
#define HALVING_PROBE 4u
#define PROBE_CYCLE 8u
#define MAX_CLEAR 4u
#define MAX_REORDER 16u
#define MAX_TRIES 3u
#define MAX_PROBES (3 * PROBE_CYCLE)

static uint32_t oldest_live(const struct ts_session *s) {
    uint32_t oldest = s->next_id;
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        if (s->tx[i].state == TS_TX_SENDING && id_above(oldest, s->tx[i].id)) {
            oldest = s->tx[i].id;
        }
    }
    return oldest;
}

static uint32_t inflight_of(const struct ts_session *s) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        n += s->tx[i].state == TS_TX_SENDING ? s->tx[i].inflight : 0;
    }
    return n;
}

static uint32_t window_of(const struct ts_session *s) {
    return min32(s->peer.window, TS_WINDOW);
}

/* Fragments in flight where nothing was lost. */
uint32_t ts__full_window(const struct ts_endpoint *ep, const struct ts_session *s) {
    return min32(or_default(link_of(ep, s)->window, 32), window_of(s));
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
    ts__emit(ep, &e);
}

/* Ends a message that the peer may still wait for. */
static void give_up(struct ts_endpoint *ep, struct ts_session *s, struct ts_tx *tx, uint16_t code) {
    if (tx->state == TS_TX_SENDING) {
        s->tell = true;
        s->knocks = 0;
        s->knock_at = ts_after(ep->now, 0);
        s->poll_at = 0; /* no answer to an earlier POLL counts */
    }
    finish_tx(ep, s, tx, code, 0);
}

/* One more in a row; at the end of the count it starts over where the waits have their full length.
 * True if a PING goes with it: the 2nd, 10th, 18th ... */
static bool count_probe(uint8_t *probes) {
    *probes = (uint8_t)(*probes < MAX_PROBES ? *probes + 1u : MAX_PROBES - PROBE_CYCLE + 1u);
    return *probes % PROBE_CYCLE == 2;
}

/* How long to wait for an answer after this many probes in a row; the doubling ends at most_us. */
static uint32_t rto_of(const struct ts_endpoint *ep, const struct ts_session *s, uint32_t probes, uint32_t most_us) {
    const struct ts_link *link = link_of(ep, s);
    uint32_t us = or_default(link->rto_initial_us, 250u * MS);
    if (s->rtt.known) {
        uint32_t var = 4 * s->rtt.rttvar_us;
        us = s->rtt.srtt_us + (var > MS ? var : MS) + 100u * s->peer.ack_delay;
        us = us > or_default(link->rto_min_us, 5u * MS) ? us : or_default(link->rto_min_us, 5u * MS);
    }
    us = min32(us, RTO_MAX_US);
    for (uint32_t i = FLAT_PROBES; i < probes && us < most_us; i++) {
        us = min32(2 * us, most_us);
    }
    return us;
}

static bool poll_peer(struct ts_endpoint *ep, struct ts_session *s, uint32_t id) {
    struct ts_frame f = {.kind = TS_F_POLL,
                         .attempt = (uint8_t)((s->poll_seq + 1u) & 3u),
                         .message = (uint16_t)id,
                         .oldest = (uint16_t)oldest_live(s)};
    if (ts__transmit_control(ep, &s->addr, &s->keys, &f) != TS_OK) {
        s->retry_at = ts_after(ep->now, RETRY_US);
        return false;
    }
    s->poll_seq = f.attempt;
    s->poll_message = (uint16_t)id;
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
    uint32_t other;
    bool more = !probe && inflight_of(s) + 1 < s->cwnd && ts_tx_pick(tx, window_of(s), fragment, &other);
    if (!more || tx->since_ackreq + 1u >= window_of(s) / 2) {
        f.flags |= TS_DATA_ACKREQ;
    }
    f.payload_len = ts_tx_payload(tx, fragment, piece, ep->cfg->frame + 6);
    size_t len = ts_frame_encode(&ep->cfg->crc, s->keys.sid, s->keys.seed, &f, ep->cfg->frame);
    if (ts__transmit(ep, &s->addr, ep->cfg->frame, len) != TS_OK) {
        s->retry_at = ts_after(ep->now, RETRY_US);
        return false;
    }
    ep->stats.data_out++;
    ep->stats.data_resent += fresh ? 0 : 1;
    tx->since_ackreq = (f.flags & TS_DATA_ACKREQ) != 0 ? 0 : (uint16_t)(tx->since_ackreq + 1u);
    ts_tx_sent(tx, fragment, ep->now);
    tx->timer = ts_after(ep->now, rto_of(ep, s, tx->probes, PROBE_MAX_US));
    if (link->pace_ns_per_byte != 0) {
        uint32_t earliest = ep->now - link->pace_burst_us;
        uint32_t from = s->pace_at == 0 || ts_due(earliest, s->pace_at) ? earliest : s->pace_at;
        s->pace_at = ts_after(from, (uint32_t)len * link->pace_ns_per_byte / 1000u);
    }
    return true;
}

/* Gives queued messages ids, in the order they were queued, as far as the peer lets it. */
static bool start_queued(struct ts_endpoint *ep, struct ts_session *s) {
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
        if (tx->len > s->peer.max_message) {
            finish_tx(ep, s, tx, TS_E_TOO_LARGE, s->peer.max_message);
            continue;
        }
        if (id_above(s->next_id, s->limit) || s->next_id - oldest_live(s) >= TS_MAX_LIVE) {
            blocked = true;
            break;
        }
        uint32_t left = ts_due(ep->now, tx->deadline) ? 0 : min32((tx->deadline - ep->now) / MS, 65535u);
        uint32_t ttl = tx->kind != TS_TENSOR ? 0 : left > 0 ? left : 1;
        if (!ts_tx_begin(tx, &ep->cfg->crc, s->keys.sid, s->next_id, (uint16_t)ttl, s->frame_size - TS_DATA_OVERHEAD)) {
            finish_tx(ep, s, tx, TS_E_TOO_LARGE, s->peer.max_message);
            continue;
        }
        s->next_id++;
    }
    return blocked;
}

/* POLLs of no message in flight: the peer has to hear what was given up, or may have more room. */
static void knock(struct ts_endpoint *ep, struct ts_session *s, bool blocked) {
    uint32_t oldest = oldest_live(s);
    if (!s->tell && !(blocked && oldest == s->next_id)) {
        s->knock_at = 0;
        s->knocks = 0;
    } else if (s->knock_at == 0) {
        s->knock_at = ts_after(ep->now, rto_of(ep, s, 0, 0));
    } else if (ts__reached(ep, s->knock_at) && poll_peer(ep, s, oldest)) {
        if (count_probe(&s->knocks)) {
            ts__ping(ep, s);
        }
        s->knock_at = ts_after(ep->now, rto_of(ep, s, s->knocks, PROBE_MAX_US));
    }
}

/* Nothing was acknowledged for too long: find out what the peer has. */
static void probe(struct ts_endpoint *ep, struct ts_session *s, struct ts_tx *tx) {
    uint32_t fragment;
    if (count_probe(&tx->probes)) {
        ts__ping(ep, s);
    }
    bool first = tx->probes == 1;
    if ((first || tx->probes % PROBE_CYCLE == 0) && ts_tx_probe(tx, !first, &fragment)) {
        send_fragment(ep, s, tx, fragment, true);
    } else if (poll_peer(ep, s, tx->id)) {
        tx->poll_order = tx->order_next++;
    }
    if (tx->probes == HALVING_PROBE) {
        s->cwnd = (uint16_t)(s->cwnd / 2 > MIN_CWND ? s->cwnd / 2 : MIN_CWND);
    }
    tx->timer = ts_after(ep->now, rto_of(ep, s, tx->probes, PROBE_MAX_US));
}

/* The fragment to send next, and of which message: lost ones first, then older messages, BLOBs last. */
static struct ts_tx *pick(struct ts_session *s, uint32_t *fragment) {
    struct ts_tx *best = NULL;
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        struct ts_tx *tx = &s->tx[i];
        uint32_t f;
        if (tx->state != TS_TX_SENDING || !ts_tx_pick(tx, window_of(s), TS_NO_FRAGMENT, &f)) {
            continue;
        }
        bool later = best != NULL && (tx->kind == TS_BLOB) == (best->kind == TS_BLOB) ? id_above(tx->id, best->id)
                                                                                      : tx->kind == TS_BLOB;
        if (best == NULL || !later) {
            best = tx;
            *fragment = f;
        }
    }
    return best;
}

/* Sends what may be sent now. */
static void pump(struct ts_endpoint *ep, struct ts_session *s) {
    if (s->retry_at != 0 && !ts__reached(ep, s->retry_at)) {
        return;
    }
    s->retry_at = 0;
    if (s->pace_at != 0 && ts_due(ep->now - link_of(ep, s)->pace_burst_us, s->pace_at)) {
        s->pace_at = 0;
    }
    ts__pay_owed(ep, s);
    knock(ep, s, start_queued(ep, s));
    struct ts_tx *tx;
    uint32_t fragment;
    while (inflight_of(s) < s->cwnd && (tx = pick(s, &fragment)) != NULL &&
           (s->pace_at == 0 || ts__reached(ep, s->pace_at)) && send_fragment(ep, s, tx, fragment, false)) {
    }
}

/* Deadlines, timers, and all that can be sent. */
void ts__tick_outbox(struct ts_endpoint *ep, struct ts_session *s) {
    bool up = s->state == TS_S_UP;
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        struct ts_tx *tx = &s->tx[i];
        if (tx->state != TS_TX_FREE && ts__reached(ep, tx->deadline)) {
            give_up(ep, s, tx, up ? TS_E_DEADLINE : (uint16_t)or_default(s->last_error, TS_E_NO_PEER));
        }
        if (up && tx->state == TS_TX_SENDING) {
            if (ts__reached(ep, tx->loss_at)) {
                ts_tx_detect(tx, &s->rtt, s->reorder, ep->now);
            }
            if (ts__reached(ep, tx->timer)) {
                probe(ep, s, tx);
            }
        }
    }
    if (up) {
        pump(ep, s);
    }
}

static struct ts_tx *tx_of(struct ts_session *s, uint16_t message) {
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        if (s->tx[i].state == TS_TX_SENDING && (uint16_t)s->tx[i].id == message) {
            return &s->tx[i];
        }
    }
    return NULL;
}

/* False if no receiver could say that: each id is released once, and beyond these it has its slots. */
static bool learn_limit(struct ts_session *s, uint16_t wire) {
    uint32_t limit = ts__extend(wire, s->limit);
    if (id_above(limit, s->next_id - 1 + s->peer.slots)) {
        return false;
    }
    if (id_above(limit, s->limit)) {
        s->limit = limit;
        s->knocks = 0;
        s->knock_at = 0;
    }
    return true;
}

bool ts__on_ack(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    if (!learn_limit(s, f->limit)) {
        return false;
    }
    bool polled =
        f->echo == TS_ECHO_POLL && s->poll_at != 0 && s->poll_message == f->message && s->poll_seq == f->attempt;
    struct ts_tx *tx = tx_of(s, f->message);
    /* In a longer row seq and attempt have come round: nobody knows which one was answered. */
    bool clear = (tx != NULL ? tx->probes : s->knocks) <= MAX_CLEAR;
    if (polled) {
        if (clear) {
            ts_rtt_sample(&s->rtt, ts_rtt_of(f, s->poll_at, ep->now));
        }
        s->poll_at = 0;
        s->tell = false;
        if (s->knock_at != 0) { /* heard, but no more room: not so soon again */
            s->knock_at = ts_after(ep->now, rto_of(ep, s, s->knocks, KNOCK_MAX_US));
        }
    }
    if (tx == NULL) {
        return true;
    }
    struct ts_ack_outcome out = ts_tx_ack(tx, f, polled, ep->now);
    if (!out.valid) {
        return false;
    }
    if (out.sampled && clear) {
        ts_rtt_sample(&s->rtt, out.sample_us);
    }
    if (out.spurious && s->reorder < MAX_REORDER) {
        s->reorder++;
    }
    s->cwnd = (uint16_t)min32(s->cwnd + out.newly_acked, ts__full_window(ep, s));
    if (out.complete) {
        finish_tx(ep, s, tx, TS_OK, 0);
        return true;
    }
    tx->probes = 0;
    ts_tx_detect(tx, &s->rtt, s->reorder, ep->now);
    tx->timer = tx->inflight > 0 || tx->next == tx->fragments ? ts_after(ep->now, rto_of(ep, s, 0, 0)) : 0;
    return true;
}

bool ts__on_reject(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    if (!learn_limit(s, f->limit)) {
        return false;
    }
    struct ts_tx *tx = tx_of(s, f->message);
    if (tx == NULL) {
        return true;
    }
    if ((f->code == TS_E_INTEGRITY || f->code == TS_E_DEADLINE) && ++tx->tries < MAX_TRIES) {
        tx->state = TS_TX_QUEUED;
        return true;
    }
    finish_tx(ep, s, tx, f->code, f->detail);
    return true;
}

void ts__fail_all(struct ts_endpoint *ep, struct ts_session *s, uint16_t code) {
    for (uint32_t i = 0; i < TS_TX_SLOTS; i++) {
        if (s->tx[i].state != TS_TX_FREE) {
            finish_tx(ep, s, &s->tx[i], code, 0);
        }
    }
}

int ts_send(struct ts_endpoint *ep, uint64_t now_us, uint16_t session, uint8_t kind, const uint8_t *body, uint32_t len,
            uint32_t timeout_ms, uint32_t token) {
    struct ts_session *s = ts__enter(ep, now_us, session);
    if (s == NULL || (body == NULL && len > 0) || len > UINT32_MAX / 2 ||
        (s->state != TS_S_UP && !(s->state == TS_S_OPENING && s->initiator))) {
        return TS_E_INVALID;
    }
    uint32_t timeout_us = ts__span_us(timeout_ms, or_default(ep->cfg->message_timeout_ms, TIMEOUT_MS));
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
            ep->busy = true;
            return TS_OK;
        }
    }
    return TS_E_NO_SLOT;
}

void ts_cancel(struct ts_endpoint *ep, uint64_t now_us, uint16_t session, uint32_t token) {
    struct ts_session *s = ts__enter(ep, now_us, session);
    for (uint32_t i = 0; s != NULL && i < TS_TX_SLOTS; i++) {
        if (s->tx[i].state != TS_TX_FREE && s->tx[i].token == token) {
            give_up(ep, s, &s->tx[i], TS_E_CANCELLED);
        }
    }
}
