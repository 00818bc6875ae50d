#include "tinysplit/frame.h"

#include <string.h>

#define MAGIC 0x53u

/* A field in one byte: where it lies in the struct, and above that how wide it is. Fields lie one
 * behind the other on the wire. */
#define U8(type, member) offsetof(struct type, member)
#define U16(type, member) (0x40u | offsetof(struct type, member))
#define U32(type, member) (0x80u | offsetof(struct type, member))
#define WIDTH_OF(field) (1u << ((field) >> 6))
#define OFFSET_OF(field) ((field) & 0x3fu)
#define END 0xc0u

static const uint8_t hello_fields[] = {
    U8(ts_hello, version_max), U8(ts_hello, version_min),   U32(ts_hello, nonce_i),     U32(ts_hello, nonce_a),
    U16(ts_hello, mtu),        U16(ts_hello, window),       U32(ts_hello, max_message), U8(ts_hello, slots),
    U8(ts_hello, role),        U8(ts_hello, stage),         U8(ts_hello, stage_count),  U16(ts_hello, codecs),
    U16(ts_hello, ack_delay),  U16(ts_hello, idle_timeout), U16(ts_hello, status),      END};

/* Frames of a session, from TS_F_DATA on. */
static const struct layout {
    uint8_t flags; /* bits that may be set */
    uint8_t bytes; /* without payload or times, with the CRC16 */
    uint8_t fields[6];
} layouts[] = {
    {0xf, 8, {U16(ts_frame, message), U16(ts_frame, fragment), END}},
    {0xf,
     14,
     {U16(ts_frame, message), U16(ts_frame, base), U16(ts_frame, echo), U16(ts_frame, delay), U16(ts_frame, limit),
      END}},
    {0x3, 8, {U16(ts_frame, message), U16(ts_frame, oldest), END}},
    {0x0, 14, {U16(ts_frame, message), U16(ts_frame, code), U16(ts_frame, limit), U32(ts_frame, detail), END}},
    {0x0, 10, {U16(ts_frame, seq), U32(ts_frame, sid), END}},
    {0x0, 10, {U16(ts_frame, seq), U32(ts_frame, sid), END}},
    {0x0, 10, {U16(ts_frame, seq), U32(ts_frame, sid), END}},
    {0x0, 10, {U16(ts_frame, code), U32(ts_frame, sid), END}},
};

static void put_fields(const uint8_t *field, const void *record, uint8_t *out) {
    for (; *field != END; field++) {
        const void *at = (const uint8_t *)record + OFFSET_OF(*field);
        uint32_t width = WIDTH_OF(*field);
        uint32_t v = width == 4 ? *(const uint32_t *)at : width == 2 ? *(const uint16_t *)at : *(const uint8_t *)at;
        for (; width > 0; width--, v >>= 8) {
            *out++ = (uint8_t)v;
        }
    }
}

static void get_fields(const uint8_t *field, void *record, const uint8_t *in) {
    for (; *field != END; field++) {
        void *at = (uint8_t *)record + OFFSET_OF(*field);
        uint32_t width = WIDTH_OF(*field);
        if (width == 4) {
            *(uint32_t *)at = ts_get32(in);
        } else if (width == 2) {
            *(uint16_t *)at = ts_get16(in);
        } else {
            *(uint8_t *)at = *in;
        }
        in += width;
    }
}

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
    put_fields(hello_fields, h, out + 2);
    memcpy(out + 32, h->bundle, TS_BUNDLE_BYTES);
    ts_put32(out + 64, crc->crc32(crc->ctx, 0, out, 64));
}

bool ts_hello_decode(const struct ts_crc *crc, uint8_t kind, const uint8_t *in, size_t len, struct ts_hello *h) {
    if (len < TS_HELLO_BYTES || len > TS_HELLO_MAX_BYTES || in[0] != kind << 4 || in[1] != MAGIC ||
        ts_get32(in + len - 4) != crc->crc32(crc->ctx, 0, in, len - 4)) {
        return false;
    }
    get_fields(hello_fields, h, in + 2);
    memcpy(h->bundle, in + 32, TS_BUNDLE_BYTES);
    return true;
}

/* What a frame of this kind carries behind its fields: t1, t2 and t3 of a PONG, t1 of a PING. */
static uint32_t times_of(uint32_t kind) {
    return kind == TS_F_PONG ? 3 : kind == TS_F_PING ? 1 : 0;
}

size_t ts_frame_encode(const struct ts_crc *crc, uint32_t sid, uint16_t seed, const struct ts_frame *f, uint8_t *out) {
    const struct layout *layout = &layouts[f->kind - TS_F_DATA];
    size_t len = layout->bytes - 2u;
    uint32_t low = f->kind == TS_F_POLL ? f->attempt : f->flags | (uint32_t)f->attempt << 2;
    out[0] = (uint8_t)((uint32_t)f->kind << 4 | (low & layout->flags));
    out[1] = (uint8_t)sid;
    put_fields(layout->fields, f, out + 2);
    if (f->kind >= TS_F_PING) {
        ts_put32(out + 4, sid);
    }
    for (uint32_t i = 0; i < times_of(f->kind); i++, len += 8) {
        ts_put64(out + len, f->t[i]);
    }
    if (f->kind <= TS_F_ACK && f->payload_len > 0) {
        if (f->payload != out + len) {
            memcpy(out + len, f->payload, f->payload_len);
        }
        len += f->payload_len;
    }
    ts_put16(out + len, crc16_of(crc, seed, out, len));
    return len + 2;
}

bool ts_frame_decode(const struct ts_crc *crc, uint32_t sid, uint16_t seed, const uint8_t *in, size_t len,
                     struct ts_frame *f) {
    uint32_t kind = in[0] >> 4;
    if (len < 8 || kind < TS_F_DATA || kind > TS_F_BYE) {
        return false;
    }
    const struct layout *layout = &layouts[kind - TS_F_DATA];
    uint32_t low = in[0] & 15u;
    uint32_t wrong = low & ~(uint32_t)layout->flags;
    uint32_t times = times_of(kind);
    size_t fixed = layout->bytes + 8u * times;
    size_t most = kind == TS_F_DATA ? TS_MAX_MTU : kind == TS_F_ACK ? fixed + TS_ACK_BITMAP_BYTES : fixed;
    if (len < fixed + (kind == TS_F_DATA) || len > most || wrong != 0 || in[1] != (uint8_t)sid ||
        ts_get16(in + len - 2) != crc16_of(crc, seed, in, len - 2)) {
        return false;
    }
    f->kind = (uint8_t)kind;
    f->flags = low & 3u;
    f->attempt = (uint8_t)(kind == TS_F_POLL ? low : low >> 2);
    get_fields(layout->fields, f, in + 2);
    for (uint32_t i = 0; i < times; i++) {
        f->t[i] = ts_get64(in + 8 + 8u * i);
    }
    f->payload = in + fixed - 2;
    f->payload_len = (uint16_t)(len - fixed);
    return kind == TS_F_DATA     ? f->fragment <= TS_MAX_FRAGMENT
           : kind == TS_F_REJECT ? f->code != TS_OK
                                 : kind < TS_F_PING || f->sid == sid;
}
