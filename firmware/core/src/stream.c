#include "tinysplit/stream.h"

#include <string.h>

void ts_stream_init(struct ts_stream *s, bool cobs, uint8_t *buffer, uint32_t mtu) {
    memset(s, 0, sizeof *s);
    s->buffer = buffer;
    s->cap = mtu;
    s->cobs = cobs;
}

static void cobs_append(struct ts_stream *s, uint8_t byte) {
    if (s->len < s->cap) {
        s->buffer[s->len++] = byte;
    } else {
        s->skip = true;
    }
}

static void cobs_read(struct ts_stream *s, uint8_t byte, ts_frame_fn frame, void *ctx) {
    if (byte == 0) {
        if (s->skip || s->want > 0) {
            s->dropped++;
        } else if (s->len > 0) {
            frame(ctx, s->buffer, s->len);
        }
        s->len = 0;
        s->want = 0;
        s->skip = false;
        s->zero = false;
    } else if (s->skip) {
        return;
    } else if (s->want == 0) {
        /* A code byte. The zero that the block before it stood for is due only now: the last one has none. */
        if (s->zero) {
            cobs_append(s, 0);
        }
        s->want = byte - 1u;
        s->zero = byte != 0xff;
    } else {
        cobs_append(s, byte);
        s->want--;
    }
}

int ts_stream_read(struct ts_stream *s, const uint8_t *data, size_t len, ts_frame_fn frame, void *ctx) {
    if (s->cobs) {
        for (size_t i = 0; i < len; i++) {
            cobs_read(s, data[i], frame, ctx);
        }
        return TS_OK;
    }
    while (len > 0) {
        if (s->prefix < TS_PREFIX_BYTES) {
            s->want |= (uint32_t)*data++ << (8u * s->prefix++);
            len--;
            if (s->prefix == TS_PREFIX_BYTES) {
                if (s->want > s->cap) {
                    return TS_E_MALFORMED;
                }
                if (s->want == 0) {
                    s->prefix = 0;
                }
            }
            continue;
        }
        size_t take = s->want - s->len < len ? s->want - s->len : len;
        memcpy(s->buffer + s->len, data, take);
        s->len += (uint32_t)take;
        data += take;
        len -= take;
        if (s->len == s->want) {
            frame(ctx, s->buffer, s->len);
            s->len = 0;
            s->want = 0;
            s->prefix = 0;
        }
    }
    return TS_OK;
}

size_t ts_cobs_encode(const uint8_t *frame, size_t len, uint8_t *out) {
    size_t code = 0;
    size_t at = 1;
    for (size_t i = 0; i < len; i++) {
        if (frame[i] != 0) {
            out[at++] = frame[i];
        }
        if (frame[i] == 0 || at - code == 255) {
            out[code] = (uint8_t)(at - code);
            code = at++;
        }
    }
    out[code] = (uint8_t)(at - code);
    out[at++] = 0;
    return at;
}
