#include "internal.h"

#include <string.h>

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
    if (ts__transmit_control(ep, &s->addr, &s->keys, &f) == TS_OK) {
        s->owed = (uint8_t)(s->owed & ~bit);
        s->limit_told = limit;
    } else {
        s->owed = (uint8_t)(s->owed | bit);
        s->retry_at = ts_after(ep->now, RETRY_US);
    }
}

void ts__pay_owed(struct ts_endpoint *ep, struct ts_session *s) {
    for (uint32_t i = 0; i < TS_MAX_LIVE && s->owed != 0; i++) {
        if (((uint32_t)s->owed >> ((s->highest - i) % TS_MAX_LIVE) & 1u) != 0) {
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
    ts__emit(ep, &e);
}

bool ts__on_data(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    uint32_t id = ts__extend(f->message, s->highest);
    if (f->payload_len + TS_DATA_OVERHEAD > s->frame_size || !id_above(id, 0) ||
        id_above(s->highest - TS_MAX_LIVE + 1, id) || id_above(id, limit_now(s))) {
        return false;
    }
    raise_highest(s, id);
    uint16_t *outcome = outcome_of(s, id);
    if (*outcome == O_ABANDONED) {
        return false;
    }
    if (*outcome != O_UNKNOWN && *outcome != O_PARTIAL) {
        ep->stats.duplicates++;
        answer(ep, s, id, f->fragment, f->attempt, true);
        return true;
    }
    struct ts_rx *rx = rx_of(s, id);
    if (rx == NULL) {
        for (uint32_t i = 0; i < TS_RX_SLOTS && rx == NULL; i++) {
            rx = s->rx[i].state == TS_RX_FREE ? &s->rx[i] : NULL;
        }
        if (rx == NULL) {
            return false;
        }
        ts_rx_begin(rx, id, ep->now);
        *outcome = O_PARTIAL;
    }
    int code = TS_OK;
    struct kind_ctx ctx = {ep, s};
    const struct ts_rx_rules rules = {.crc = &ep->cfg->crc,
                                      .sid = s->keys.sid,
                                      .piece = s->frame_size - TS_DATA_OVERHEAD,
                                      .max_message = ep->cfg->max_message,
                                      .allowed = kind_allowed,
                                      .ctx = &ctx};
    enum ts_rx_verdict verdict = ts_rx_data(rx, &rules, f, &code);
    if (verdict == TS_RX_DROP) {
        return false;
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
        return true;
    }
    answer(ep, s, id, f->fragment, f->attempt, verdict == TS_RX_DUP);
    if (verdict == TS_RX_COMPLETE) {
        deliver(ep, s, rx);
    }
    return true;
}

bool ts__on_poll(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f) {
    uint32_t oldest = ts__extend(f->oldest, s->highest);
    uint32_t id = ts__extend(f->message, s->highest);
    /* A sender that gave up all it had in flight names the id after the limit. */
    if (id_above(oldest, limit_now(s) + 1) || id_above(s->highest - TS_MAX_LIVE + 1, id)) {
        return false;
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
    return true;
}

/* Unfinished messages that got nothing for too long; their sender may begin anew. */
void ts__expire_partial(struct ts_endpoint *ep, struct ts_session *s) {
    for (uint32_t i = 0; i < TS_RX_SLOTS; i++) {
        struct ts_rx *rx = &s->rx[i];
        if (rx->state == TS_RX_PARTIAL && ts__reached(ep, ts_after(rx->last_at, PARTIAL_US))) {
            rx->state = TS_RX_FREE;
            release_id(s, rx->id, TS_E_DEADLINE);
            answer(ep, s, rx->id, TS_ECHO_NONE, 0, false);
        }
    }
}

uint8_t ts__free_slots(const struct ts_session *s) {
    uint8_t n = 0;
    for (uint32_t i = 0; i < TS_RX_SLOTS; i++) {
        n = (uint8_t)(n + (s->rx[i].state != TS_RX_HELD));
    }
    return n;
}

void ts_release(struct ts_endpoint *ep, uint64_t now_us, uint16_t session, uint8_t slot) {
    struct ts_session *s = ts__enter(ep, now_us, session);
    if (s == NULL || slot >= TS_RX_SLOTS || s->rx[slot].state != TS_RX_HELD) {
        return;
    }
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
