#include "tinysplit/message.h"

#include <string.h>

static uint32_t message_crc(const struct ts_crc *crc, uint32_t sid, const uint8_t *head, const uint8_t *body,
                            uint32_t len) {
    uint8_t bytes[4];
    ts_put32(bytes, sid);
    uint32_t c = crc->crc32(crc->ctx, 0, bytes, sizeof bytes);
    c = crc->crc32(crc->ctx, c, head, TS_ENVELOPE - 4);
    return len > 0 ? crc->crc32(crc->ctx, c, body, len) : c;
}

static void put_head(const struct ts_envelope *env, uint8_t *out) {
    out[0] = env->kind;
    out[1] = 0;
    ts_put16(out + 2, env->ttl_ms);
    ts_put32(out + 4, env->id);
    ts_put32(out + 8, env->len);
}

void ts_envelope_encode(const struct ts_crc *crc, uint32_t sid, struct ts_envelope *env, const uint8_t *body,
                        uint32_t len, uint8_t *out) {
    env->len = len;
    put_head(env, out);
    env->crc = message_crc(crc, sid, out, body, len);
    ts_put32(out + 12, env->crc);
}

bool ts_envelope_decode(const uint8_t *in, struct ts_envelope *env) {
    env->kind = in[0];
    env->ttl_ms = ts_get16(in + 2);
    env->id = ts_get32(in + 4);
    env->len = ts_get32(in + 8);
    env->crc = ts_get32(in + 12);
    return in[1] == 0;
}

bool ts_envelope_check(const struct ts_crc *crc, uint32_t sid, const struct ts_envelope *env, const uint8_t *body) {
    uint8_t head[TS_ENVELOPE];
    put_head(env, head);
    return message_crc(crc, sid, head, body, env->len) == env->crc;
}

uint32_t ts_tensors_encode(uint8_t kind, const struct ts_tensors *t, uint8_t *out) {
    ts_put32(out, t->inference);
    out[4] = t->count;
    out[5] = kind == TS_RESULT ? t->phase_count : t->codec;
    out[6] = t->stage;
    out[7] = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        ts_put32(out + 8 + 4 * i, t->bytes[i]);
    }
    return TS_TENSOR_HEADER(t->count);
}

bool ts_tensors_decode(uint8_t kind, const uint8_t *body, uint32_t len, struct ts_tensors *t) {
    memset(t, 0, sizeof *t);
    if (len >= 4) {
        t->inference = ts_get32(body);
    }
    if (len < TS_TENSOR_HEADER(1) || body[4] < 1 || body[4] > TS_MAX_TENSORS || body[7] != 0 ||
        len < TS_TENSOR_HEADER(body[4])) {
        return false;
    }
    t->count = body[4];
    t->stage = body[6];
    uint32_t rest = len - TS_TENSOR_HEADER(t->count);
    if (kind == TS_RESULT) {
        t->phase_count = body[5];
        if (t->phase_count > TS_MAX_PHASES || (uint32_t)t->phase_count * TS_PHASE_BYTES > rest) {
            return false;
        }
        rest -= (uint32_t)t->phase_count * TS_PHASE_BYTES;
    } else {
        t->codec = body[5];
    }
    for (uint32_t i = 0; i < t->count; i++) {
        t->bytes[i] = ts_get32(body + 8 + 4 * i);
        if (t->bytes[i] > rest - t->total) {
            return false;
        }
        t->total += t->bytes[i];
    }
    t->data = body + TS_TENSOR_HEADER(t->count);
    t->phases = t->data + t->total;
    return t->total == rest;
}

uint32_t ts_error_encode(const struct ts_error_body *e, uint8_t *out) {
    uint8_t text_len = e->text_len > TS_MAX_ERROR_TEXT ? TS_MAX_ERROR_TEXT : e->text_len;
    ts_put32(out, e->inference);
    ts_put16(out + 4, e->code);
    out[6] = e->stage;
    out[7] = text_len;
    if (text_len > 0) {
        memcpy(out + 8, e->text, text_len);
    }
    return 8u + text_len;
}

bool ts_error_decode(const uint8_t *body, uint32_t len, struct ts_error_body *e) {
    if (len < 8 || body[7] > TS_MAX_ERROR_TEXT || len != 8u + body[7] || ts_get16(body + 4) == TS_OK) {
        return false;
    }
    e->inference = ts_get32(body);
    e->code = ts_get16(body + 4);
    e->stage = body[6];
    e->text_len = body[7];
    e->text = (const char *)(body + 8);
    return true;
}

void ts_blob_encode(const struct ts_blob *b, uint8_t *out) {
    ts_put32(out, b->id);
    ts_put32(out + 4, b->offset);
    ts_put32(out + 8, b->total);
}

bool ts_blob_decode(const uint8_t *body, uint32_t len, struct ts_blob *b) {
    if (len < TS_BLOB_HEADER) {
        return false;
    }
    b->id = ts_get32(body);
    b->offset = ts_get32(body + 4);
    b->total = ts_get32(body + 8);
    b->len = len - TS_BLOB_HEADER;
    b->data = body + TS_BLOB_HEADER;
    return b->offset <= b->total && b->len <= b->total - b->offset;
}
