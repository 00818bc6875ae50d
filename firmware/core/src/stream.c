#include "tinysplit/stream.h"

#include <string.h>

/* CRC16 over any bytes and the complement of their CRC16. Without the complement zeros at the end would
 * go unseen. */
#define WIRE_RESIDUE 0x1D0Fu

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

void ts_wire_init(struct ts_wire *w, const struct ts_crc *crc, uint8_t *buffer, uint32_t mtu) {
    memset(w, 0, sizeof *w);
    w->crc = crc;
    w->buffer = buffer;
    w->mtu = mtu;
    w->longest = mtu + 2u + (mtu + 2u) / 254u + 1u;
}

/* Length of what COBS bytes hold if they are COBS and the CRC16 over all of it is as it must be, else 0. */
static uint32_t check(const struct ts_wire *w) {
    uint16_t sum = TS_CRC16_INIT;
    uint32_t n = 0;
    for (uint32_t at = 0; at < w->len;) {
        uint32_t code = w->buffer[at];
        if (code > w->len - at) {
            return 0;
        }
        sum = w->crc->crc16(w->crc->ctx, sum, w->buffer + at + 1, code - 1u);
        n += code - 1u;
        at += code;
        if (code < 255u && at < w->len) {
            static const uint8_t zero = 0;
            sum = w->crc->crc16(w->crc->ctx, sum, &zero, 1);
            n++;
        }
    }
    return sum == WIRE_RESIDUE ? n : 0;
}

/* Takes COBS bytes that passed check() apart where they lie. */
static void unstuff(uint8_t *bytes, uint32_t len) {
    uint32_t n = 0;
    for (uint32_t at = 0; at < len;) {
        uint32_t code = bytes[at];
        for (uint32_t end = at + code; ++at < end;) {
            bytes[n++] = bytes[at];
        }
        if (code < 255u && at < len) {
            bytes[n++] = 0;
        }
    }
}

/* What was collected is no frame: it was text all along. */
static void give_up(struct ts_wire *w, ts_frame_fn text, void *ctx) {
    if (w->len > 0) {
        w->dropped++;
        text(ctx, w->buffer, w->len);
    }
    w->len = 0;
}

static void end_of_piece(struct ts_wire *w, ts_frame_fn frame, ts_frame_fn text, void *ctx) {
    uint32_t n = check(w);
    if (n < 2 || n - 2 > w->mtu) {
        give_up(w, text, ctx);
        return; /* and this 0x00 opens the next piece */
    }
    unstuff(w->buffer, w->len);
    w->len = 0;
    w->collecting = false;
    if (n > 2) {
        frame(ctx, w->buffer, n - 2);
    }
}

void ts_wire_read(struct ts_wire *w, const uint8_t *data, size_t len, ts_frame_fn frame, ts_frame_fn text, void *ctx) {
    size_t run = 0; /* where the text that is not given yet begins */
    for (size_t i = 0; i < len; i++) {
        if (!w->collecting) {
            if (data[i] == 0) {
                if (i > run) {
                    text(ctx, data + run, i - run);
                }
                w->collecting = true;
            }
            continue;
        }
        if (data[i] == 0) {
            end_of_piece(w, frame, text, ctx);
        } else {
            w->buffer[w->len++] = data[i];
            if (w->len > w->longest) {
                give_up(w, text, ctx);
                w->collecting = false;
            }
        }
        run = i + 1;
    }
    if (!w->collecting && len > run) {
        text(ctx, data + run, len - run);
    }
}

struct stuffing {
    uint8_t *out;
    size_t at, code;
};

static void stuff(struct stuffing *s, const uint8_t *bytes, size_t len) {
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] != 0) {
            s->out[s->at++] = bytes[i];
        }
        if (bytes[i] == 0 || s->at - s->code == 255) {
            s->out[s->code] = (uint8_t)(s->at - s->code);
            s->code = s->at++;
        }
    }
}

static size_t finish(struct stuffing *s) {
    s->out[s->code] = (uint8_t)(s->at - s->code);
    s->out[s->at++] = 0;
    return s->at;
}

size_t ts_cobs_encode(const uint8_t *frame, size_t len, uint8_t *out) {
    struct stuffing s = {.out = out, .at = 1};
    stuff(&s, frame, len);
    return finish(&s);
}

size_t ts_wire_encode(const struct ts_crc *crc, const uint8_t *frame, size_t len, uint8_t *out) {
    uint16_t sum = (uint16_t)~crc->crc16(crc->ctx, TS_CRC16_INIT, frame, len);
    const uint8_t tail[] = {(uint8_t)(sum >> 8), (uint8_t)sum};
    struct stuffing s = {.out = out, .at = 2, .code = 1};
    out[0] = 0;
    stuff(&s, frame, len);
    stuff(&s, tail, sizeof tail);
    return finish(&s);
}
