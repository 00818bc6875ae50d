#include "tinysplit/frame.h"

#include <string.h>

#define MAGIC 0x53u

static uint16_t crc16_of(const struct ts_crc *crc, uint16_t seed, const uint8_t *data, size_t len) {
    return crc->crc16(crc->ctx, seed, data, len);
}

uint32_t ts_sid(const struct ts_crc *crc, uint32_t nonce_i, uint32_t nonce_a) {
    uint8_t bytes[8];
    ts_put32(bytes, nonce_i);
    ts_put32(bytes + 4, nonce_a);
    return crc->crc32(crc->ctx, 0, bytes, sizeof bytes);
}

uint16_t ts_seed(const struct ts_crc *crc, uint32_t sid) {
    uint8_t bytes[4];
    ts_put32(bytes, sid);
    return crc16_of(crc, TS_CRC16_INIT, bytes, sizeof bytes);
}

void ts_hello_encode(const struct ts_crc *crc, uint8_t kind, const struct ts_hello *h, uint8_t *out) {
    out[0] = (uint8_t)(kind << 4);
    out[1] = MAGIC;
    out[2] = h->version_max;
    out[3] = h->version_min;
    ts_put32(out + 4, h->nonce_i);
    ts_put32(out + 8, h->nonce_a);
    ts_put16(out + 12, h->mtu);
    ts_put16(out + 14, h->window);
    ts_put32(out + 16, h->max_message);
    out[20] = h->slots;
    out[21] = h->role;
    out[22] = h->stage;
    out[23] = h->stage_count;
    ts_put16(out + 24, h->codecs);
    ts_put16(out + 26, h->ack_delay);
    ts_put16(out + 28, h->idle_timeout);
    ts_put16(out + 30, h->status);
    memcpy(out + 32, h->bundle, TS_BUNDLE_BYTES);
    ts_put32(out + 64, crc->crc32(crc->ctx, 0, out, 64));
}

bool ts_hello_decode(const struct ts_crc *crc, uint8_t kind, const uint8_t *in, size_t len, struct ts_hello *h) {
    if (len < TS_HELLO_BYTES || len > TS_HELLO_MAX_BYTES || in[0] != kind << 4 || in[1] != MAGIC ||
        ts_get32(in + len - 4) != crc->crc32(crc->ctx, 0, in, len - 4)) {
        return false;
    }
    h->version_max = in[2];
    h->version_min = in[3];
    h->nonce_i = ts_get32(in + 4);
    h->nonce_a = ts_get32(in + 8);
    h->mtu = ts_get16(in + 12);
    h->window = ts_get16(in + 14);
    h->max_message = ts_get32(in + 16);
    h->slots = in[20];
    h->role = in[21];
    h->stage = in[22];
    h->stage_count = in[23];
    h->codecs = ts_get16(in + 24);
    h->ack_delay = ts_get16(in + 26);
    h->idle_timeout = ts_get16(in + 28);
    h->status = ts_get16(in + 30);
    memcpy(h->bundle, in + 32, TS_BUNDLE_BYTES);
    return true;
}

size_t ts_frame_encode(const struct ts_crc *crc, uint32_t sid, uint16_t seed, const struct ts_frame *f, uint8_t *out) {
    size_t len = 0;
    uint32_t low = f->flags;
    switch (f->kind) {
    case TS_F_DATA:
        low |= (uint32_t)f->attempt << 2;
        ts_put16(out + 2, f->message);
        ts_put16(out + 4, f->fragment);
        if (f->payload != out + 6) {
            memcpy(out + 6, f->payload, f->payload_len);
        }
        len = 6u + f->payload_len;
        break;
    case TS_F_ACK:
        low |= (uint32_t)f->attempt << 2;
        ts_put16(out + 2, f->message);
        ts_put16(out + 4, f->base);
        ts_put16(out + 6, f->echo);
        ts_put16(out + 8, f->delay);
        ts_put16(out + 10, f->limit);
        if (f->payload_len > 0) {
            memcpy(out + 12, f->payload, f->payload_len);
        }
        len = 12u + f->payload_len;
        break;
    case TS_F_POLL:
        low |= f->attempt;
        ts_put16(out + 2, f->message);
        ts_put16(out + 4, f->oldest);
        len = 6;
        break;
    case TS_F_REJECT:
        ts_put16(out + 2, f->message);
        ts_put16(out + 4, f->code);
        ts_put16(out + 6, f->limit);
        ts_put32(out + 8, f->detail);
        len = 12;
        break;
    default: /* PING, PONG, RESET, BYE */
        ts_put16(out + 2, f->kind == TS_F_BYE ? f->code : f->seq);
        ts_put32(out + 4, sid);
        len = 8;
        if (f->kind == TS_F_PING || f->kind == TS_F_PONG) {
            ts_put64(out + 8, f->t1);
            len = 16;
        }
        if (f->kind == TS_F_PONG) {
            ts_put64(out + 16, f->t2);
            ts_put64(out + 24, f->t3);
            len = 32;
        }
        break;
    }
    out[0] = (uint8_t)(((uint32_t)f->kind << 4) | (low & 15u));
    out[1] = (uint8_t)sid;
    ts_put16(out + len, crc16_of(crc, seed, out, len));
    return len + 2;
}

bool ts_frame_named_sid(const uint8_t *in, size_t len, uint32_t *sid) {
    if (len < 10 || (in[0] >> 4) < TS_F_PING || (in[0] >> 4) > TS_F_BYE) {
        return false;
    }
    *sid = ts_get32(in + 4);
    return true;
}

/* Lengths and flags that each kind may have, before its checksum is looked at. */
static bool shape_ok(const uint8_t *in, size_t len) {
    uint32_t low = in[0] & 15u;
    switch (in[0] >> 4) {
    case TS_F_DATA:
        return len >= 9 && len <= TS_MAX_MTU;
    case TS_F_ACK:
        return len >= 14 && len <= 14 + TS_ACK_BITMAP_BYTES;
    case TS_F_POLL:
        return len == 8 && low < 4;
    case TS_F_REJECT:
        return len == 14 && low == 0;
    case TS_F_PING:
        return len == 18 && low == 0;
    case TS_F_PONG:
        return len == 34 && low == 0;
    case TS_F_RESET:
    case TS_F_BYE:
        return len == 10 && low == 0;
    default:
        return false;
    }
}

bool ts_frame_decode(const struct ts_crc *crc, uint32_t sid, uint16_t seed, const uint8_t *in, size_t len,
                     struct ts_frame *f) {
    if (len < 8 || !shape_ok(in, len) || in[1] != (uint8_t)sid ||
        ts_get16(in + len - 2) != crc16_of(crc, seed, in, len - 2)) {
        return false;
    }
    uint8_t low = in[0] & 15u;
    f->kind = in[0] >> 4;
    f->flags = low & 3u;
    f->attempt = (uint8_t)(low >> 2);
    f->message = ts_get16(in + 2);
    switch (f->kind) {
    case TS_F_DATA:
        f->fragment = ts_get16(in + 4);
        f->payload = in + 6;
        f->payload_len = (uint16_t)(len - TS_DATA_OVERHEAD);
        return f->fragment <= TS_MAX_FRAGMENT;
    case TS_F_ACK:
        f->base = ts_get16(in + 4);
        f->echo = ts_get16(in + 6);
        f->delay = ts_get16(in + 8);
        f->limit = ts_get16(in + 10);
        f->payload = in + 12;
        f->payload_len = (uint16_t)(len - 14);
        return true;
    case TS_F_POLL:
        f->flags = 0;
        f->attempt = low;
        f->oldest = ts_get16(in + 4);
        return true;
    case TS_F_REJECT:
        f->code = ts_get16(in + 4);
        f->limit = ts_get16(in + 6);
        f->detail = ts_get32(in + 8);
        return f->code != TS_OK;
    default:
        break;
    }
    f->code = f->seq = f->message;
    f->sid = ts_get32(in + 4);
    if (f->kind == TS_F_PING || f->kind == TS_F_PONG) {
        f->t1 = ts_get64(in + 8);
    }
    if (f->kind == TS_F_PONG) {
        f->t2 = ts_get64(in + 16);
        f->t3 = ts_get64(in + 24);
    }
    return f->sid == sid;
}
