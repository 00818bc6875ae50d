#include "tinysplit/transfer.h"

#include <string.h>

_Static_assert(TS_WINDOW % 32 == 0 && TS_WINDOW >= 32 && TS_WINDOW <= 256, "TS_WINDOW");

/* In ts_tx.attempt: the number, and whether that transmission was a probe. */
#define ATTEMPT 3u
#define ATTEMPT_PROBE 4u

static bool bit_get(const struct ts_bits *b, uint32_t i) {
    return i < TS_WINDOW && (b->w[i / 32] >> (i % 32) & 1u) != 0;
}

static void bit_set(struct ts_bits *b, uint32_t i) {
    if (i < TS_WINDOW) {
        b->w[i / 32] |= 1u << (i % 32);
    }
}

static void bit_clear(struct ts_bits *b, uint32_t i) {
    if (i < TS_WINDOW) {
        b->w[i / 32] &= ~(1u << (i % 32));
    }
}

/* Drops bit 0 and moves the others down by one. */
static void bits_shift(struct ts_bits *b) {
    for (uint32_t i = 0; i < TS_BIT_WORDS; i++) {
        b->w[i] = b->w[i] >> 1 | (i + 1 < TS_BIT_WORDS ? b->w[i + 1] << 31 : 0);
    }
}

static bool order_before(uint16_t a, uint16_t b) {
    return (int16_t)(uint16_t)(a - b) < 0;
}

void ts_rtt_sample(struct ts_rtt *rtt, uint32_t sample_us) {
    uint32_t r = sample_us > 60000000u ? 60000000u : sample_us;
    rtt->latest_us = r;
    if (!rtt->known) {
        rtt->known = true;
        rtt->srtt_us = r;
        rtt->rttvar_us = r / 2;
        return;
    }
    uint32_t delta = r > rtt->srtt_us ? r - rtt->srtt_us : rtt->srtt_us - r;
    rtt->rttvar_us = rtt->rttvar_us - rtt->rttvar_us / 4 + delta / 4;
    rtt->srtt_us = rtt->srtt_us - rtt->srtt_us / 8 + r / 8;
}

uint32_t ts_rtt_of(const struct ts_frame *ack, uint32_t sent_at, uint32_t now_us) {
    uint32_t age = now_us - sent_at;
    uint32_t delay = 16u * ack->delay;
    return age > delay ? age - delay : 0;
}

bool ts_tx_begin(struct ts_tx *tx, const struct ts_crc *crc, uint32_t sid, uint32_t id, uint16_t ttl_ms,
                 uint32_t piece) {
    uint32_t fragments = tx->len / piece + (tx->len % piece + TS_ENVELOPE + piece - 1) / piece;
    if (fragments > TS_MAX_FRAGMENT + 1u) {
        return false;
    }
    struct ts_envelope env = {.kind = tx->kind, .ttl_ms = ttl_ms, .id = id};
    ts_envelope_encode(crc, sid, &env, tx->body, tx->len, tx->envelope);
    tx->state = TS_TX_SENDING;
    tx->id = id;
    tx->fragments = fragments;
    tx->base = tx->next = 0;
    memset(&tx->acked, 0, sizeof tx->acked);
    memset(&tx->lost, 0, sizeof tx->lost);
    tx->inflight = tx->order_next = tx->order_seen = tx->poll_order = tx->since_ackreq = 0;
    tx->probes = 0;
    tx->timer = tx->loss_at = 0;
    return true;
}

bool ts_tx_pick(const struct ts_tx *tx, uint32_t window, uint32_t but, uint32_t *fragment) {
    struct ts_bits lost = tx->lost;
    bit_clear(&lost, but - tx->base);
    for (uint32_t i = 0; i < TS_BIT_WORDS; i++) {
        if (lost.w[i] != 0) {
            *fragment = tx->base + 32 * i;
            while (!bit_get(&lost, *fragment - tx->base)) {
                (*fragment)++;
            }
            return true;
        }
    }
    *fragment = tx->next + (but == tx->next);
    return *fragment < tx->fragments && *fragment - tx->base < window;
}

bool ts_tx_probe(const struct ts_tx *tx, bool oldest, uint32_t *fragment) {
    for (uint32_t n = tx->next - tx->base; n > 0; n--) {
        uint32_t i = oldest ? tx->next - tx->base - n : n - 1;
        if (!bit_get(&tx->acked, i) && !bit_get(&tx->lost, i)) {
            *fragment = tx->base + i;
            return true;
        }
    }
    return false;
}

uint16_t ts_tx_payload(const struct ts_tx *tx, uint32_t fragment, uint32_t piece, uint8_t *out) {
    uint32_t offset = fragment * piece;
    uint32_t len = TS_ENVELOPE + tx->len - offset < piece ? TS_ENVELOPE + tx->len - offset : piece;
    uint32_t head = fragment == 0 ? TS_ENVELOPE : 0;
    memcpy(out, tx->envelope, head);
    if (len > head) {
        memcpy(out + head, tx->body + (fragment == 0 ? 0 : offset - TS_ENVELOPE), len - head);
    }
    return (uint16_t)len;
}

void ts_tx_sent(struct ts_tx *tx, uint32_t fragment, uint32_t now_us) {
    uint32_t slot = fragment % TS_WINDOW;
    if (fragment == tx->next) {
        tx->next++;
        tx->attempt[slot] = 0;
        tx->inflight++;
    } else {
        tx->attempt[slot] = (tx->attempt[slot] + 1u) & ATTEMPT;
        tx->fragments_resent++;
        if (bit_get(&tx->lost, fragment - tx->base)) {
            bit_clear(&tx->lost, fragment - tx->base);
            tx->inflight++;
        } else {
            tx->attempt[slot] |= ATTEMPT_PROBE;
        }
    }
    tx->fragments_sent++;
    tx->order[slot] = tx->order_next++;
    tx->sent_at[slot] = now_us;
}

static uint32_t mark_acked(struct ts_tx *tx, uint32_t i) {
    if (bit_get(&tx->acked, i)) {
        return 0;
    }
    bit_set(&tx->acked, i);
    if (bit_get(&tx->lost, i)) {
        bit_clear(&tx->lost, i);
    } else {
        tx->inflight--;
    }
    return 1;
}

struct ts_ack_outcome ts_tx_ack(struct ts_tx *tx, const struct ts_frame *ack, bool polled, uint32_t now_us) {
    struct ts_ack_outcome out = {0};
    bool complete = (ack->flags & TS_ACK_COMPLETE) != 0;
    if (ack->base > tx->next || (complete && (ack->base != tx->fragments || ack->payload_len != 0))) {
        return out;
    }
    for (uint32_t j = 8u * ack->payload_len; j > 0; j--) {
        if (((uint32_t)ack->payload[(j - 1) / 8] >> ((j - 1) % 8) & 1u) != 0) {
            if (ack->base + j >= tx->next) {
                return out;
            }
            break;
        }
    }
    out.valid = true;
    out.complete = complete;

    uint32_t slot = ack->echo % TS_WINDOW;
    bool echoed = ack->echo >= tx->base && ack->echo < tx->next && (tx->attempt[slot] & ATTEMPT) == ack->attempt;
    if (echoed || polled) {
        uint16_t order = polled ? tx->poll_order : tx->order[slot];
        if (echoed) {
            out.sampled = true;
            out.sample_us = ts_rtt_of(ack, tx->sent_at[slot], now_us);
        }
        out.spurious =
            echoed && (ack->flags & TS_ACK_DUP) != 0 && ack->attempt > 0 && tx->attempt[slot] < ATTEMPT_PROBE;
        if (tx->order_seen == 0 || order_before(tx->order_seen, (uint16_t)(order + 1u))) {
            tx->order_seen = (uint16_t)(order + 1u);
        }
    }
    if (complete) {
        return out;
    }

    for (uint32_t fragment = tx->base; fragment < ack->base; fragment++) {
        out.newly_acked += mark_acked(tx, fragment - tx->base);
    }
    for (uint32_t j = 0; j < 8u * ack->payload_len; j++) {
        uint32_t fragment = ack->base + 1u + j;
        if (((uint32_t)ack->payload[j / 8] >> (j % 8) & 1u) != 0 && fragment >= tx->base) {
            out.newly_acked += mark_acked(tx, fragment - tx->base);
        }
    }
    while (bit_get(&tx->acked, 0)) {
        bits_shift(&tx->acked);
        bits_shift(&tx->lost);
        tx->base++;
    }
    return out;
}

void ts_tx_detect(struct ts_tx *tx, const struct ts_rtt *rtt, uint32_t reorder, uint32_t now_us) {
    tx->loss_at = 0;
    if (tx->order_seen == 0) {
        return;
    }
    uint16_t seen = (uint16_t)(tx->order_seen - 1u);
    uint32_t base_us = rtt->srtt_us > rtt->latest_us ? rtt->srtt_us : rtt->latest_us;
    uint32_t wait_us = base_us + base_us / 8 + 1;
    for (uint32_t f = tx->base; f < tx->next; f++) {
        uint32_t i = f - tx->base;
        uint16_t order = tx->order[f % TS_WINDOW];
        if (bit_get(&tx->acked, i) || bit_get(&tx->lost, i) || !order_before(order, seen)) {
            continue;
        }
        uint32_t age = now_us - tx->sent_at[f % TS_WINDOW];
        if ((uint16_t)(seen - order) >= reorder || (rtt->known && age >= wait_us)) {
            bit_set(&tx->lost, i);
            tx->inflight--;
        } else if (rtt->known) {
            tx->loss_at = ts_sooner(tx->loss_at, ts_after(now_us, wait_us - age));
        }
    }
}

void ts_rx_begin(struct ts_rx *rx, uint32_t id, uint32_t now_us) {
    uint8_t *buffer = rx->buffer;
    memset(rx, 0, sizeof *rx);
    rx->buffer = buffer;
    rx->state = TS_RX_PARTIAL;
    rx->id = id;
    rx->first_at = rx->last_at = now_us;
}

/* Reads the envelope out of fragment 0; returns a code of SPEC.md 3.2, rows 14 to 17. */
static int open_envelope(struct ts_rx *rx, const struct ts_rx_rules *rules, const struct ts_frame *data) {
    if (!ts_envelope_decode(data->payload, &rx->env) || rx->env.id != rx->id) {
        return TS_E_MALFORMED;
    }
    int code = rules->allowed(rules->ctx, rx->env.kind);
    if (code != TS_OK) {
        return code;
    }
    if (rx->env.len > rules->max_message) {
        return TS_E_TOO_LARGE;
    }
    uint32_t total = (TS_ENVELOPE + rx->env.len + rules->piece - 1) / rules->piece;
    if ((rx->total != 0 && rx->total != total) || rx->top > total) {
        return TS_E_INTEGRITY;
    }
    rx->total = total;
    return TS_OK;
}

enum ts_rx_verdict ts_rx_data(struct ts_rx *rx, const struct ts_rx_rules *rules, const struct ts_frame *data,
                              int *code) {
    uint32_t piece = rules->piece;
    uint32_t fragment = data->fragment;
    bool last = (data->flags & TS_DATA_LAST) != 0;
    if (data->payload_len > piece || (!last && data->payload_len != piece) ||
        (fragment == 0 && data->payload_len < TS_ENVELOPE)) {
        return TS_RX_DROP;
    }
    if (fragment < rx->base) {
        return TS_RX_DUP;
    }
    if (fragment - rx->base >= TS_WINDOW) {
        return TS_RX_DROP;
    }
    if (last ? (rx->total != 0 && rx->total != fragment + 1) || rx->top > fragment + 1
             : rx->total != 0 && fragment + 1 >= rx->total) {
        return TS_RX_DROP;
    }
    if (bit_get(&rx->have, fragment - rx->base)) {
        return TS_RX_DUP;
    }
    if (fragment == 0) {
        *code = open_envelope(rx, rules, data);
        if (*code == TS_OK && last != (rx->total == 1)) {
            *code = TS_E_INTEGRITY;
        }
        if (*code != TS_OK) {
            return TS_RX_REJECT;
        }
    }
    uint32_t head = fragment == 0 ? TS_ENVELOPE : 0;
    uint32_t offset = fragment == 0 ? 0 : fragment * piece - TS_ENVELOPE;
    uint32_t len = data->payload_len - head;
    if (offset > rules->max_message || len > rules->max_message - offset) {
        *code = TS_E_TOO_LARGE;
        return TS_RX_REJECT;
    }
    if (len > 0) {
        memcpy(rx->buffer + offset, data->payload + head, len);
    }
    if (last) {
        rx->total = fragment + 1;
    }
    bool gap = fragment > rx->top;
    if (fragment >= rx->top) {
        rx->top = fragment + 1;
    }
    rx->bytes += data->payload_len;
    bit_set(&rx->have, fragment - rx->base);
    while (bit_get(&rx->have, 0)) {
        bits_shift(&rx->have);
        rx->base++;
    }
    if (rx->total == 0 || rx->base != rx->total) {
        return gap ? TS_RX_GAP : TS_RX_STORED;
    }
    if (rx->bytes != TS_ENVELOPE + rx->env.len || !ts_envelope_check(rules->crc, rules->sid, &rx->env, rx->buffer)) {
        *code = TS_E_INTEGRITY;
        return TS_RX_REJECT;
    }
    return TS_RX_COMPLETE;
}

void ts_rx_ack(const struct ts_rx *rx, struct ts_frame *ack, uint8_t *bitmap) {
    ack->base = (uint16_t)rx->base;
    ack->payload = bitmap;
    ack->payload_len = 0;
    if (rx->top <= rx->base) {
        return;
    }
    uint32_t bits = rx->top - rx->base - 1;
    memset(bitmap, 0, TS_ACK_BITMAP_BYTES);
    for (uint32_t j = 0; j < bits; j++) {
        if (bit_get(&rx->have, j + 1)) {
            bitmap[j / 8] = (uint8_t)(bitmap[j / 8] | 1u << (j % 8));
            ack->payload_len = (uint16_t)(j / 8 + 1);
        }
    }
}
