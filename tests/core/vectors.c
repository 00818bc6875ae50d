#include "vectors.h"
#include "tinysplit/tinysplit.h"

#include <string.h>

#define FIELDS 40
#define BYTES 2048

struct field {
    const char *key, *value;
    size_t key_len, value_len;
};

struct vector {
    struct field fields[FIELDS];
    uint32_t count;
};

static const struct ts_crc crc = {NULL, ts_crc16_small, ts_crc32_small};

static struct {
    void (*print)(const char *line);
    char line[256];
    size_t len;
    bool failed;
} out;

static void say(const char *text) {
    size_t n = strlen(text);
    if (n > sizeof out.line - 1 - out.len) {
        n = sizeof out.line - 1 - out.len;
    }
    memcpy(out.line + out.len, text, n);
    out.len += n;
    out.line[out.len] = '\0';
}

static void say_hex(uint32_t v, uint32_t digits) {
    char text[9];
    for (uint32_t i = 0; i < digits; i++) {
        text[i] = "0123456789abcdef"[v >> 4 * (digits - 1 - i) & 15u];
    }
    text[digits] = '\0';
    say(text);
}

static const struct field *get(const struct vector *v, const char *key) {
    for (uint32_t i = 0; i < v->count; i++) {
        if (v->fields[i].key_len == strlen(key) && memcmp(v->fields[i].key, key, v->fields[i].key_len) == 0) {
            return &v->fields[i];
        }
    }
    return NULL;
}

static bool is(const struct vector *v, const char *key, const char *value) {
    const struct field *f = get(v, key);
    return f != NULL && f->value_len == strlen(value) && memcmp(f->value, value, f->value_len) == 0;
}

static uint64_t parse_number(const char **at, const char *end) {
    uint64_t n = 0;
    while (*at < end && **at >= '0' && **at <= '9') {
        n = n * 10 + (uint64_t)(*(*at)++ - '0');
    }
    return n;
}

static uint64_t number(const struct vector *v, const char *key) {
    const struct field *f = get(v, key);
    const char *at = f != NULL ? f->value : NULL;
    return f != NULL ? parse_number(&at, at + f->value_len) : UINT64_MAX;
}

static uint32_t digit(char c) {
    return c >= 'a' ? (uint32_t)(c - 'a' + 10) : (uint32_t)(c - '0');
}

/* Bytes up to the next space. */
static uint32_t parse_hex(const char **at, const char *end, uint8_t *bytes) {
    uint32_t n = 0;
    while (*at + 1 < end && **at != ' ' && n < BYTES) {
        bytes[n++] = (uint8_t)(digit((*at)[0]) << 4 | digit((*at)[1]));
        *at += 2;
    }
    return n;
}

static uint32_t hex(const struct vector *v, const char *key, uint8_t *bytes) {
    const struct field *f = get(v, key);
    const char *at = f != NULL ? f->value : NULL;
    return f != NULL ? parse_hex(&at, at + f->value_len, bytes) : 0;
}

static void expect(bool ok, const char *what) {
    if (!ok) {
        out.failed = true;
        say(" FAILED:");
        say(what);
    }
}

static void expect_number(const struct vector *v, const char *key, uint64_t got) {
    if (get(v, key) != NULL) {
        expect(number(v, key) == got, key);
        say_hex((uint32_t)got, 8);
    }
}

static void expect_bytes(const struct vector *v, const char *key, const uint8_t *got, size_t len) {
    static uint8_t want[BYTES];
    uint32_t n = hex(v, key, want);
    expect(n == len && memcmp(want, got, len) == 0, key);
    say(" ");
    say_hex(ts_crc32_small(NULL, 0, got, len), 8);
}

static bool encodes(const struct vector *v) {
    return !is(v, "encode", "no");
}

static void run_crc(const struct vector *v) {
    const struct field *f = get(v, "data");
    const uint8_t *data = (const uint8_t *)f->value;
    expect_number(v, "crc16", ts_crc16_small(NULL, TS_CRC16_INIT, data, f->value_len));
    expect_number(v, "crc32", ts_crc32_small(NULL, 0, data, f->value_len));
}

static void run_hello(const struct vector *v, const uint8_t *in, uint32_t len, bool ok) {
    struct ts_hello h;
    uint8_t kind = (uint8_t)number(v, "kind");
    bool decoded = ts_hello_decode(&crc, kind, in, len, &h);
    expect(decoded == ok, "verdict");
    if (!decoded) {
        return;
    }
    expect_number(v, "version_max", h.version_max);
    expect_number(v, "version_min", h.version_min);
    expect_number(v, "nonce_i", h.nonce_i);
    expect_number(v, "nonce_a", h.nonce_a);
    expect_number(v, "mtu", h.mtu);
    expect_number(v, "window", h.window);
    expect_number(v, "max_message", h.max_message);
    expect_number(v, "slots", h.slots);
    expect_number(v, "role", h.role);
    expect_number(v, "stage", h.stage);
    expect_number(v, "stage_count", h.stage_count);
    expect_number(v, "codecs", h.codecs);
    expect_number(v, "ack_delay", h.ack_delay);
    expect_number(v, "idle_timeout", h.idle_timeout);
    expect_number(v, "status", h.status);
    expect_bytes(v, "bundle", h.bundle, sizeof h.bundle);
    if (encodes(v)) {
        uint8_t bytes[TS_HELLO_BYTES];
        ts_hello_encode(&crc, kind, &h, bytes);
        expect_bytes(v, "hex", bytes, sizeof bytes);
    }
}

static void run_frame(const struct vector *v, const uint8_t *in, uint32_t len, bool ok) {
    static uint8_t bytes[BYTES];
    struct ts_frame f;
    memset(&f, 0, sizeof f);
    uint32_t sid = (uint32_t)number(v, "sid");
    bool decoded = ts_frame_decode(&crc, sid, ts_seed(&crc, sid), in, len, &f);
    expect(decoded == ok, "verdict");
    if (!decoded) {
        return;
    }
    expect_number(v, "kind", f.kind);
    expect_number(v, "flags", f.flags);
    expect_number(v, "attempt", f.attempt);
    expect_number(v, "message", f.message);
    expect_number(v, "fragment", f.fragment);
    expect_number(v, "base", f.base);
    expect_number(v, "echo", f.echo);
    expect_number(v, "delay", f.delay);
    expect_number(v, "limit", f.limit);
    expect_number(v, "oldest", f.oldest);
    expect_number(v, "code", f.code);
    expect_number(v, "detail", f.detail);
    expect_number(v, "seq", f.seq);
    expect_number(v, "t1", f.t[0]);
    expect_number(v, "t2", f.t[1]);
    expect_number(v, "t3", f.t[2]);
    if (get(v, "payload") != NULL) {
        expect_bytes(v, "payload", f.payload, f.payload_len);
    }
    expect_bytes(v, "hex", bytes, ts_frame_encode(&crc, sid, ts_seed(&crc, sid), &f, bytes));
}

static void run_forward(const struct vector *v, const uint8_t *in, uint32_t len, bool ok) {
    static uint8_t bytes[BYTES];
    struct ts_forward f;
    bool decoded = ts_forward_decode(&crc, in, len, &f);
    expect(decoded == ok, "verdict");
    if (decoded) {
        expect_bytes(v, "addr", f.addr, f.addr_len);
        expect_bytes(v, "inner", f.inner, f.inner_len);
        expect_bytes(v, "hex", bytes, ts_forward_encode(&crc, &f, bytes, sizeof bytes));
    }
}

static void run_credit(const struct vector *v, const uint8_t *in, uint32_t len, bool ok) {
    uint8_t bytes[TS_CREDIT_BYTES];
    uint8_t window = 0;
    uint16_t count = 0;
    bool decoded = ts_credit_decode(&crc, in, len, &window, &count);
    expect(decoded == ok, "verdict");
    if (decoded) {
        expect(window == number(v, "window"), "window");
        expect(count == number(v, "count"), "count");
        ts_credit_encode(&crc, window, count, bytes);
        expect_bytes(v, "hex", bytes, sizeof bytes);
    }
}

static void run_message(const struct vector *v, const uint8_t *in, uint32_t len, bool ok) {
    static uint8_t bytes[BYTES];
    struct ts_envelope env;
    uint32_t sid = (uint32_t)number(v, "sid");
    bool decoded = len >= TS_ENVELOPE && ts_envelope_decode(in, &env) && env.len == len - TS_ENVELOPE &&
                   ts_envelope_check(&crc, sid, &env, in + TS_ENVELOPE);
    expect(decoded == ok, "verdict");
    if (!decoded) {
        return;
    }
    expect_number(v, "kind", env.kind);
    expect_number(v, "ttl", env.ttl_ms);
    expect_number(v, "id", env.id);
    expect_bytes(v, "body", in + TS_ENVELOPE, env.len);
    memcpy(bytes + TS_ENVELOPE, in + TS_ENVELOPE, env.len);
    ts_envelope_encode(&crc, sid, &env, in + TS_ENVELOPE, env.len, bytes);
    expect_bytes(v, "hex", bytes, len);
}

static void run_coded(const struct vector *v, const uint8_t *in, uint32_t len, bool ok) {
    static struct ts_codec codec;
    static uint8_t tensor[BYTES];
    static uint8_t coded[BYTES + 1];
    uint32_t n = 0;
    int code = ts_codec_decode(&codec, in, len, tensor, (uint32_t)number(v, "limit"), &n);
    expect(code == (ok ? TS_OK : is(v, "verdict", "too_large") ? TS_E_TOO_LARGE : TS_E_MALFORMED), "verdict");
    if (code != TS_OK) {
        return;
    }
    expect_bytes(v, "tensor", tensor, n);
    struct ts_near near = {.left = (uint16_t)number(v, "left"), .above = (uint16_t)number(v, "above")};
    if (!is(v, "encode", "no")) {
        expect_bytes(v, "hex", coded, ts_codec_encode(&codec, tensor, n, near, coded));
    }
}

static void run_tensors(const struct vector *v, uint8_t kind, const uint8_t *in, uint32_t len, bool ok) {
    static uint8_t bytes[BYTES];
    struct ts_tensors t;
    bool decoded = ts_tensors_decode(kind, in, len, &t);
    expect(decoded == ok, "verdict");
    if (!decoded) {
        return;
    }
    expect_number(v, "inference", t.inference);
    expect_number(v, "codec", t.codec);
    expect_number(v, "stage", t.stage);
    const struct field *f = get(v, "tensors");
    const char *at = f->value;
    const uint8_t *data = t.data;
    for (uint32_t i = 0; i < t.count; i++) {
        uint32_t n = parse_hex(&at, f->value + f->value_len, bytes);
        expect(n == t.bytes[i] && memcmp(bytes, data, n) == 0, "tensors");
        data += t.bytes[i];
        at++;
    }
    expect(at >= f->value + f->value_len, "tensors");
    if (kind == TS_RESULT) {
        f = get(v, "phases");
        at = f->value;
        for (uint32_t i = 0; i < t.phase_count; i++) {
            uint8_t stage;
            uint8_t phase;
            uint32_t us;
            ts_phase_read(t.phases + TS_PHASE_BYTES * i, &stage, &phase, &us);
            expect(parse_number(&at, f->value + f->value_len) == stage && *at++ == '/', "phases");
            expect(parse_number(&at, f->value + f->value_len) == phase && *at++ == '/', "phases");
            expect(parse_number(&at, f->value + f->value_len) == us, "phases");
            at++;
        }
        expect(at >= f->value + f->value_len, "phases");
    }
    uint32_t head = ts_tensors_encode(kind, &t, bytes);
    memcpy(bytes + head, in + head, len - head);
    expect_bytes(v, "hex", bytes, len);
}

static void run_error(const struct vector *v, const uint8_t *in, uint32_t len, bool ok) {
    uint8_t bytes[TS_ERROR_MAX_BYTES];
    struct ts_error_body e;
    bool decoded = ts_error_decode(in, len, &e);
    expect(decoded == ok, "verdict");
    if (decoded) {
        const struct field *f = get(v, "text");
        expect_number(v, "inference", e.inference);
        expect_number(v, "code", e.code);
        expect_number(v, "stage", e.stage);
        expect(f->value_len == e.text_len && memcmp(f->value, e.text, e.text_len) == 0, "text");
        expect_bytes(v, "hex", bytes, ts_error_encode(&e, bytes));
    }
}

static void run_blob(const struct vector *v, const uint8_t *in, uint32_t len, bool ok) {
    uint8_t bytes[64];
    struct ts_blob b;
    bool decoded = ts_blob_decode(in, len, &b);
    expect(decoded == ok, "verdict");
    if (decoded) {
        expect_number(v, "id", b.id);
        expect_number(v, "offset", b.offset);
        expect_number(v, "total", b.total);
        expect_bytes(v, "data", b.data, b.len);
        ts_blob_encode(&b, bytes);
        memcpy(bytes + TS_BLOB_HEADER, b.data, b.len);
        expect_bytes(v, "hex", bytes, len);
    }
}

struct frames {
    const struct field *want;
    const char *at;
    uint32_t count;
};

static void on_frame(void *ctx, const uint8_t *frame, size_t len) {
    static uint8_t want[BYTES];
    struct frames *frames = ctx;
    uint32_t n = parse_hex(&frames->at, frames->want->value + frames->want->value_len, want);
    expect(n == len && memcmp(want, frame, len) == 0, "frame");
    frames->at++;
    frames->count++;
    say(" ");
    say_hex(ts_crc32_small(NULL, 0, frame, len), 8);
}

static void run_stream(const struct vector *v, bool cobs, const uint8_t *in, uint32_t len, bool ok) {
    static uint8_t buffer[BYTES];
    static uint8_t bytes[BYTES];
    static const struct field none = {"", "", 0, 0};
    struct ts_stream s;
    struct frames frames = {get(v, "frames"), NULL, 0};
    if (frames.want == NULL) {
        frames.want = &none;
    }
    /* All at once, and byte by byte. */
    for (uint32_t step = len; step >= 1; step = step > 1 ? 1 : 0) {
        int code = TS_OK;
        frames.at = frames.want->value;
        ts_stream_init(&s, cobs, buffer, (uint32_t)number(v, "mtu"));
        for (uint32_t i = 0; i < len && code == TS_OK; i += step) {
            code = ts_stream_read(&s, in + i, step, on_frame, &frames);
        }
        expect((code == TS_OK) == ok, "verdict");
        expect(frames.at >= frames.want->value + frames.want->value_len, "frames");
    }
    if (ok && encodes(v)) {
        frames.at = frames.want->value;
        uint32_t n = parse_hex(&frames.at, frames.want->value + frames.want->value_len, buffer);
        if (cobs) {
            expect_bytes(v, "hex", bytes, ts_cobs_encode(buffer, n, bytes));
        } else {
            ts_put16(bytes, n);
            memcpy(bytes + 2, buffer, n);
            expect_bytes(v, "hex", bytes, n + 2u);
        }
    }
}

struct wire_text {
    struct frames frames;
    uint8_t bytes[BYTES];
    size_t len;
};

static void on_wire_frame(void *ctx, const uint8_t *frame, size_t len) {
    on_frame(&((struct wire_text *)ctx)->frames, frame, len);
}

static void on_text(void *ctx, const uint8_t *text, size_t len) {
    struct wire_text *got = ctx;
    memcpy(got->bytes + got->len, text, len);
    got->len += len;
}

static void run_wire(const struct vector *v, const uint8_t *in, uint32_t len) {
    static uint8_t buffer[TS_WIRE_MAX(BYTES)];
    static struct wire_text got;
    static const struct field none = {"", "", 0, 0};
    const struct field *want = get(v, "frames") != NULL ? get(v, "frames") : &none;
    struct ts_wire w;
    /* All at once, and byte by byte. */
    for (uint32_t step = len; step >= 1; step = step > 1 ? 1 : 0) {
        got.frames = (struct frames){want, want->value, 0};
        got.len = 0;
        ts_wire_init(&w, &crc, buffer, (uint32_t)number(v, "mtu"));
        for (uint32_t i = 0; i < len; i += step) {
            ts_wire_read(&w, in + i, step, on_wire_frame, on_text, &got);
        }
        expect(got.frames.at >= want->value + want->value_len, "frames");
        expect_bytes(v, "text", got.bytes, got.len);
        expect(w.dropped == number(v, "dropped"), "dropped");
    }
    if (encodes(v)) {
        const char *at = want->value;
        uint32_t n = parse_hex(&at, want->value + want->value_len, got.bytes);
        expect_bytes(v, "hex", buffer, ts_wire_encode(&crc, got.bytes, n, buffer));
    }
}

/* An acceptor to be asked. */
static struct {
    uint8_t reply[TS_HELLO_MAX_BYTES];
    size_t len;
} judge;

static int judge_send(void *ctx, const struct ts_addr *to, const uint8_t *frame, size_t len) {
    (void)ctx;
    (void)to;
    memcpy(judge.reply, frame, len);
    judge.len = len;
    return TS_OK;
}

static uint32_t judge_random(void *ctx) {
    (void)ctx;
    return 0xA1B2C3D4u;
}

static void judge_event(void *ctx, const struct ts_event *e) {
    (void)ctx;
    (void)e;
}

static void run_judge(const struct vector *v, const uint8_t *in, uint32_t len) {
    static struct ts_session session;
    static uint8_t rx[TS_RX_MEMORY(1, 256)];
    static uint8_t frame[250];
    static const struct ts_link link = {.mtu = 250};
    static struct ts_endpoint ep;
    const struct ts_addr from = {.link = 0, .len = 1, .bytes = {7}};
    struct ts_hello h;
    struct ts_config cfg = {.crc = crc,
                            .send = judge_send,
                            .random = judge_random,
                            .role = (uint8_t)number(v, "acceptor_role"),
                            .stage = (uint8_t)number(v, "acceptor_stage"),
                            .stage_count = (uint8_t)number(v, "acceptor_stage_count"),
                            .codecs = (uint16_t)number(v, "acceptor_codecs"),
                            .refuse = number(v, "acceptor_refuse") != 0,
                            .links = &link,
                            .link_count = 1,
                            .sessions = &session,
                            .session_count = 1,
                            .rx_memory = rx,
                            .rx_memory_bytes = sizeof rx,
                            .max_message = 256,
                            .frame = frame,
                            .frame_bytes = sizeof frame};
    for (uint32_t i = 0; i < TS_BUNDLE_BYTES; i++) {
        cfg.bundle[i] = is(v, "acceptor_bundle", "same") ? (uint8_t)i : 0;
    }
    expect(ts_endpoint_init(&ep, &cfg, judge_event, NULL, 0) == TS_OK, "init");
    judge.len = 0;
    ts_on_datagram(&ep, 1, &from, in, len);
    if (is(v, "status", "drop")) {
        expect(judge.len == 0, "drop");
        return;
    }
    bool answered = ts_hello_decode(&crc, TS_F_HELLO_ACK, judge.reply, judge.len, &h);
    expect(answered, "answer");
    if (answered) {
        expect_number(v, "status", h.status);
        expect((h.nonce_a == 0) == (h.status != TS_OK), "nonce");
        expect((session.state == TS_S_PENDING) == (h.status == TS_OK), "state");
    }
}

static void run_vector(const struct vector *v) {
    static uint8_t in[BYTES];
    uint32_t len = hex(v, "hex", in);
    bool ok = is(v, "verdict", "ok");
    if (is(v, "type", "crc")) {
        run_crc(v);
    } else if (is(v, "type", "sid")) {
        expect_number(v, "sid", ts_sid(&crc, (uint32_t)number(v, "nonce_i"), (uint32_t)number(v, "nonce_a")));
    } else if (is(v, "type", "hello")) {
        run_hello(v, in, len, ok);
    } else if (is(v, "type", "frame")) {
        run_frame(v, in, len, ok);
    } else if (is(v, "type", "forward")) {
        run_forward(v, in, len, ok);
    } else if (is(v, "type", "credit")) {
        run_credit(v, in, len, ok);
    } else if (is(v, "type", "message")) {
        run_message(v, in, len, ok);
    } else if (is(v, "type", "tensor")) {
        run_tensors(v, TS_TENSOR, in, len, ok);
    } else if (is(v, "type", "coded")) {
        run_coded(v, in, len, ok);
    } else if (is(v, "type", "result")) {
        run_tensors(v, TS_RESULT, in, len, ok);
    } else if (is(v, "type", "error")) {
        run_error(v, in, len, ok);
    } else if (is(v, "type", "blob")) {
        run_blob(v, in, len, ok);
    } else if (is(v, "type", "prefix")) {
        run_stream(v, false, in, len, ok);
    } else if (is(v, "type", "cobs")) {
        run_stream(v, true, in, len, ok);
    } else if (is(v, "type", "wire")) {
        run_wire(v, in, len);
    } else if (is(v, "type", "judge")) {
        run_judge(v, in, len);
    } else {
        expect(false, "type");
    }
}

uint32_t vectors_run(const char *text, size_t len, void (*print)(const char *line), uint32_t *count) {
    const char *end = text + len;
    struct vector v = {.count = 0};
    uint32_t failures = 0;
    *count = 0;
    while (text < end || v.count > 0) {
        const char *stop = text;
        while (stop < end && *stop != '\n') {
            stop++;
        }
        if (stop > text && *text != '#') {
            const char *colon = text;
            while (colon < stop && *colon != ':') {
                colon++;
            }
            if (v.count < FIELDS && colon < stop) {
                const char *value = colon + 1 < stop && colon[1] == ' ' ? colon + 2 : colon + 1;
                v.fields[v.count++] = (struct field){text, value, (size_t)(colon - text), (size_t)(stop - value)};
            }
        } else if (stop == text && v.count > 0) {
            char name[64];
            size_t n = v.fields[0].value_len < sizeof name - 1 ? v.fields[0].value_len : sizeof name - 1;
            memcpy(name, v.fields[0].value, n);
            name[n] = '\0';
            out.len = 0;
            out.failed = false;
            say(name);
            say(" ");
            run_vector(&v);
            print(out.line);
            failures += out.failed ? 1 : 0;
            (*count)++;
            v.count = 0;
        }
        text = stop < end ? stop + 1 : end;
    }
    return failures;
}
