#include "tinysplit/codec.h"

#include "internal.h"
#include "tinysplit/node.h"

#include <string.h>

#define FORM_RAW 0u
#define FORM_PLAIN 1u
#define FORM_NEAR 2u
#define HEADER 5u
#define NEAR_HEADER 9u
#define MAX_BYTES 0xFFFFFFu
#define MIN_PIXELS 100u

/* Contexts, SPEC.md 14.1. */
#define C_NOT_ZERO 0u
#define C_SIGN 7u
#define C_CLASS 10u
#define C_FIRST 66u

#define TOP (1u << 24)
#define TAUGHT 31u

/* The coder and the model in one: out is written when encoding, in read when decoding. */
struct coder {
    uint16_t *p;
    uint8_t *n;
    uint32_t range;
    uint32_t low; /* decoding: code */
    uint32_t at;  /* bytes written, or read */
    uint32_t end; /* bytes there is room for, or there are */
    uint8_t *out;
    const uint8_t *in;
};

/* Five to eight bits are coded for a value, and what is called for each of them must not cost a call, nor keep the
 * coder's numbers in memory: on an ESP32-S3 that is a third of the time. */
#define INLINE static inline __attribute__((always_inline))

INLINE uint32_t bit_length(uint32_t x) {
    return x == 0 ? 0 : 32u - (uint32_t)__builtin_clz(x);
}

INLINE void start(struct coder *c, struct ts_codec *codec, uint8_t *out, const uint8_t *in, uint32_t end) {
    for (uint32_t i = 0; i < TS_CODEC_CONTEXTS; i++) {
        codec->u.context.p[i] = 0x8000;
        codec->u.context.n[i] = 0;
    }
    *c = (struct coder){
        .p = codec->u.context.p, .n = codec->u.context.n, .range = UINT32_MAX, .end = end, .out = out, .in = in};
}

/* Where a bit divides the range, and what the bit teaches its context. */
INLINE uint32_t bound_of(const struct coder *c, uint32_t context) {
    return (c->range >> 12) * ((uint32_t)c->p[context] >> 4);
}

INLINE void learn(struct coder *c, uint32_t context, uint32_t bit) {
    uint32_t p = c->p[context];
    uint32_t taught = c->n[context];
    uint32_t shift = 32u - (uint32_t)__builtin_clz(taught + 1);
    c->p[context] = (uint16_t)(bit != 0 ? p - (p >> shift) : p + ((0xFFFFu - p) >> shift));
    if (taught < TAUGHT) {
        c->n[context] = (uint8_t)(taught + 1);
    }
}

INLINE void write_byte(struct coder *c) {
    if (c->at < c->end) {
        c->out[c->at] = (uint8_t)(c->low >> 24);
    }
    c->at += c->at <= c->end; /* one beyond the end stands for too long */
}

static __attribute__((noinline)) void carry(uint8_t *out, uint32_t at) {
    while (at > 0 && ++out[--at] == 0) {
    }
}

INLINE void add(struct coder *c, uint32_t amount) {
    c->low += amount;
    if (c->low < amount) {
        carry(c->out, c->at < c->end ? c->at : c->end);
    }
}

INLINE void shift_out(struct coder *c) {
    while (c->range < TOP) {
        write_byte(c);
        c->low <<= 8;
        c->range <<= 8;
    }
}

INLINE void put_bit(struct coder *c, uint32_t context, uint32_t bit) {
    uint32_t bound = bound_of(c, context);
    if (bit != 0) {
        add(c, bound);
        c->range -= bound;
        learn(c, context, 1);
    } else {
        c->range = bound;
        learn(c, context, 0);
    }
    shift_out(c);
}

INLINE void read_byte(struct coder *c) {
    c->low = c->low << 8 | (c->at < c->end ? c->in[c->at] : 0u);
    c->at++;
}

INLINE void shift_in(struct coder *c) {
    while (c->range < TOP) {
        read_byte(c);
        c->range <<= 8;
    }
}

INLINE uint32_t get_bit(struct coder *c, uint32_t context) {
    uint32_t bound = bound_of(c, context);
    uint32_t bit = c->low >= bound;
    if (bit != 0) {
        c->low -= bound;
        c->range -= bound;
        learn(c, context, 1);
    } else {
        c->range = bound;
        learn(c, context, 0);
    }
    shift_in(c);
    return bit;
}

/* A value by its neighbours: how far they are from the centre. */
struct around {
    int32_t sum;
    uint32_t class; /* k of SPEC.md 14.1 */
};

INLINE int32_t distance(const uint8_t *values, uint32_t i, uint32_t before, int32_t centre) {
    return i >= before ? (int8_t)values[i - before] - centre : 0;
}

INLINE struct around look_around(const uint8_t *values, uint32_t i, struct ts_near near, int32_t centre) {
    struct around r = {0, 0};
    if (near.left != 0) {
        int32_t a = distance(values, i, near.left, centre);
        int32_t b = distance(values, i, near.above, centre);
        uint32_t length = bit_length((uint32_t)((a < 0 ? -a : a) + (b < 0 ? -b : b)));
        r.sum = a + b;
        r.class = length < 4 ? length != 0 : length > 8 ? 6 : length - 2;
    }
    return r;
}

INLINE uint32_t sign_context(const struct around *r) {
    return C_SIGN + (r->sum > 0 ? 1u : r->sum < 0 ? 2u : 0u);
}

INLINE void put_value(struct coder *c, const struct around *r, int32_t d, bool with_sign) {
    put_bit(c, C_NOT_ZERO + r->class, d != 0);
    if (d == 0) {
        return;
    }
    uint32_t m = (uint32_t)(d < 0 ? -d : d);
    uint32_t t = bit_length(m) - 1;
    uint32_t node = 1;
    for (uint32_t level = 3; level-- > 0;) {
        uint32_t bit = t >> level & 1u;
        put_bit(c, C_CLASS + 8 * r->class + node, bit);
        node = 2 * node + bit;
    }
    if (with_sign) {
        put_bit(c, sign_context(r), d < 0);
    }
    if (t >= 1) {
        put_bit(c, C_FIRST + t, m >> (t - 1) & 1u);
    }
    if (t >= 2) {
        c->range >>= t - 1;
        add(c, c->range * (m & ((1u << (t - 1)) - 1)));
        shift_out(c);
    }
}

/* False if no encoder writes this. */
INLINE bool get_value(struct coder *c, const struct around *r, bool with_sign, int32_t *d) {
    *d = 0;
    if (get_bit(c, C_NOT_ZERO + r->class) == 0) {
        return true;
    }
    uint32_t node = 1;
    for (uint32_t level = 0; level < 3; level++) {
        node = 2 * node + get_bit(c, C_CLASS + 8 * r->class + node);
    }
    uint32_t t = node - 8;
    uint32_t m = 1u << t;
    bool negative = with_sign && get_bit(c, sign_context(r)) != 0;
    if (t >= 1) {
        m |= get_bit(c, C_FIRST + t) << (t - 1);
    }
    if (t >= 2) {
        c->range >>= t - 1;
        /* low / range by subtraction: of six bits at most, and not every chip divides. */
        for (uint32_t bit = t - 1; bit-- > 0;) {
            uint32_t part = c->range << bit;
            if (c->low >= part) {
                c->low -= part;
                m |= 1u << bit;
            }
        }
        if (c->low >= c->range) {
            return false;
        }
        shift_in(c);
    }
    *d = negative ? -(int32_t)m : (int32_t)m;
    return true;
}

/* The most frequent value, the lowest of several. */
static int32_t find_centre(uint16_t *frequency, const uint8_t *data, uint32_t n) {
    memset(frequency, 0, 256 * sizeof *frequency);
    for (uint32_t i = 0; i < n; i++) {
        uint16_t *f = &frequency[data[i] ^ 0x80u];
        *f = (uint16_t)(*f + (*f != 0xFFFF));
    }
    uint32_t best = 0;
    for (uint32_t v = 1; v < 256; v++) {
        best = frequency[v] > frequency[best] ? v : best;
    }
    return (int32_t)best - 128;
}

struct ts_near ts_near_of(const uint32_t *shape, uint32_t dims, uint32_t bytes) {
    struct ts_near near = {0, 0};
    /* With these bounds no product wraps, whatever the dimensions are. */
    if (dims != 4 || shape[0] != 1 || shape[1] > UINT16_MAX || shape[2] > UINT16_MAX || shape[3] > UINT16_MAX) {
        return near;
    }
    uint32_t row = shape[2] * shape[3];
    if (shape[1] * shape[2] >= MIN_PIXELS && row >= 1 && row <= UINT16_MAX && row * shape[1] == bytes) {
        near.left = (uint16_t)shape[3];
        near.above = (uint16_t)row;
    }
    return near;
}

uint32_t ts_codec_encode(struct ts_codec *codec, const uint8_t *data, uint32_t n, struct ts_near near, uint8_t *out) {
    uint32_t header = near.left != 0 ? NEAR_HEADER : HEADER;
    if (n > header && n <= MAX_BYTES) {
        int32_t centre = find_centre(codec->u.frequency, data, n);
        struct coder c;
        start(&c, codec, out + header, NULL, n - header);
        for (uint32_t i = 0; i < n && c.at <= c.end; i++) {
            struct around r = look_around(data, i, near, centre);
            put_value(&c, &r, (int8_t)data[i] - centre, centre != INT8_MIN);
        }
        add(&c, TOP - 1);
        write_byte(&c);
        if (c.at <= c.end) {
            out[0] = near.left != 0 ? FORM_NEAR : FORM_PLAIN;
            out[1] = (uint8_t)centre;
            ts_put16(out + 2, n);
            out[4] = (uint8_t)(n >> 16);
            if (near.left != 0) {
                ts_put16(out + 5, near.left);
                ts_put16(out + 7, near.above);
            }
            return header + c.at;
        }
    }
    out[0] = FORM_RAW;
    if (n > 0) {
        memcpy(out + 1, data, n);
    }
    return n + 1;
}

int ts_codec_decode(struct ts_codec *codec, const uint8_t *in, uint32_t len, uint8_t *out, uint32_t cap, uint32_t *n) {
    if (len < 1 || in[0] > FORM_NEAR) {
        return TS_E_MALFORMED;
    }
    if (in[0] == FORM_RAW) {
        *n = len - 1;
        if (*n > cap) {
            return TS_E_TOO_LARGE;
        }
        if (*n > 0) {
            memcpy(out, in + 1, *n);
        }
        return TS_OK;
    }
    uint32_t header = in[0] == FORM_NEAR ? NEAR_HEADER : HEADER;
    if (len <= header) {
        return TS_E_MALFORMED;
    }
    int32_t centre = (int8_t)in[1];
    struct ts_near near = {0, 0};
    *n = ts_get16(in + 2) | (uint32_t)in[4] << 16;
    if (in[0] == FORM_NEAR) {
        near.left = ts_get16(in + 5);
        near.above = ts_get16(in + 7);
    }
    if (*n == 0 || (in[0] == FORM_NEAR && (near.left == 0 || near.above == 0))) {
        return TS_E_MALFORMED;
    }
    if (*n > cap) {
        return TS_E_TOO_LARGE;
    }
    struct coder c;
    start(&c, codec, NULL, in + header, len - header);
    for (uint32_t i = 0; i < 4; i++) {
        read_byte(&c);
    }
    for (uint32_t i = 0; i < *n; i++) {
        struct around r = look_around(out, i, near, centre);
        int32_t d;
        bool valid = get_value(&c, &r, centre != INT8_MIN, &d);
        if (!valid || centre + d < INT8_MIN || centre + d > INT8_MAX || c.at > c.end + 3) {
            return TS_E_MALFORMED;
        }
        out[i] = (uint8_t)(centre + d);
    }
    return c.at == c.end + 3 ? TS_OK : TS_E_MALFORMED;
}

static uint64_t time_of(const struct ts_node *node) {
    const struct ts_coding *coding = node->cfg->coding;
    return coding->clock_us != NULL ? coding->clock_us(node->cfg->endpoint.ctx) : 0;
}

static uint8_t *place_of(const struct ts_node *node, const struct ts_job *job) {
    return node->cfg->coding->memory + (size_t)(job - node->cfg->jobs) * node->cfg->coding->stride;
}

static uint32_t spend(struct ts_node *node, uint64_t began) {
    uint32_t spent_us = (uint32_t)(time_of(node) - began);
    ts__set_time(&node->ep, node->ep.raw + spent_us); /* time that passed */
    return spent_us;
}

static uint8_t *pack(struct ts_node *node, struct ts_job *job, struct ts_tensors *t) {
    uint64_t began = time_of(node);
    struct ts_coding *coding = node->cfg->coding;
    const uint8_t *from = t->data;
    uint8_t *data = place_of(node, job) + TS_CODING_HEADROOM;
    t->data = data;
    t->total = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        uint32_t raw = t->bytes[i];
        t->bytes[i] = ts_codec_encode(&coding->codec, from, raw, coding->near[i], data + t->total);
        t->total += t->bytes[i];
        from += raw;
        coding->raw_bytes += raw;
    }
    coding->coded_bytes += t->total;
    ts_phase_set(&job->phases, TS_P_ENCODE, job->phases.duration_us[TS_P_ENCODE] + spend(node, began));
    return data;
}

static int unpack(struct ts_node *node, struct ts_job *job) {
    uint64_t began = time_of(node);
    struct ts_coding *coding = node->cfg->coding;
    struct ts_tensors *t = &job->input;
    const uint8_t *from = t->data;
    uint8_t *data = place_of(node, job);
    int code = TS_OK;
    t->data = data;
    t->total = 0;
    for (uint32_t i = 0; i < t->count && code == TS_OK; i++) {
        uint32_t coded = t->bytes[i];
        code =
            ts_codec_decode(&coding->codec, from, coded, data + t->total, coding->max_input - t->total, &t->bytes[i]);
        t->total += code == TS_OK ? t->bytes[i] : 0;
        from += coded;
    }
    spend(node, began);
    job->mark = node->ep.now;
    return code;
}

int ts_coding_init(struct ts_coding *coding, uint8_t *memory, size_t memory_bytes, uint16_t job_count,
                   uint32_t max_input, uint32_t max_output) {
    memset(coding, 0, sizeof *coding);
    coding->memory = memory;
    coding->max_input = max_input;
    coding->stride = TS_CODING_STRIDE(max_input, max_output);
    coding->job_count = job_count;
    coding->pack = pack;
    coding->unpack = unpack;
    return memory_bytes < TS_CODING_MEMORY(job_count, max_input, max_output) ? TS_E_NO_MEMORY : TS_OK;
}
