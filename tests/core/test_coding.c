/* Checksums, frame coding, message bodies, phases and streams beyond the vectors. */
#include "check.h"
#include "network.h"

static const struct ts_crc crc = {NULL, ts_crc16_small, ts_crc32_small};
static const uint32_t sid = 0x0b67ef2d;

static void fast_checksums_equal_small_ones(void **state) {
    (void)state;
    static struct ts_crc_fast t;
    static uint8_t data[3000];
    struct net *net = net_new(3);
    ts_crc_fast_init(&t);
    for (uint32_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)net_random(net);
    }
    for (uint32_t len = 0; len < 40; len++) {
        for (uint32_t at = 0; at < 8; at++) {
            assert_int_equal(ts_crc16_fast(&t, 0x1234, data + at, len), ts_crc16_small(NULL, 0x1234, data + at, len));
            assert_int_equal(ts_crc32_fast(&t, 99, data + at, len), ts_crc32_small(NULL, 99, data + at, len));
        }
    }
    assert_int_equal(ts_crc32_fast(&t, 0, data, sizeof data), ts_crc32_small(NULL, 0, data, sizeof data));
    uint32_t first = ts_crc32_small(NULL, 0, data, 1234);
    assert_int_equal(ts_crc32_small(NULL, first, data + 1234, sizeof data - 1234),
                     ts_crc32_small(NULL, 0, data, sizeof data));
    net_free(net);
}

/* One frame of every kind of a session, as long as that kind gets. */
static size_t frame_of_kind(uint8_t kind, uint8_t *out) {
    static uint8_t payload[1444];
    memset(payload, 0xA5, sizeof payload);
    struct ts_frame f = {.kind = kind,
                         .message = 7,
                         .fragment = 3,
                         .base = 2,
                         .echo = 5,
                         .delay = 1,
                         .limit = 9,
                         .oldest = 6,
                         .code = 10,
                         .seq = 77,
                         .detail = 4096,
                         .t = {1, 2, 3},
                         .payload = payload,
                         .payload_len = kind == TS_F_DATA  ? sizeof payload
                                        : kind == TS_F_ACK ? TS_ACK_BITMAP_BYTES
                                                           : 0};
    return ts_frame_encode(&crc, sid, ts_seed(&crc, sid), &f, out);
}

static void every_single_bit_error_of_every_frame_kind_is_seen(void **state) {
    (void)state;
    static uint8_t bytes[1500];
    for (uint8_t kind = TS_F_DATA; kind <= TS_F_BYE; kind++) {
        struct ts_frame f;
        size_t len = frame_of_kind(kind, bytes);
        assert_true(ts_frame_decode(&crc, sid, ts_seed(&crc, sid), bytes, len, &f));
        for (size_t bit = 0; bit < 8 * len; bit++) {
            bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            assert_false(ts_frame_decode(&crc, sid, ts_seed(&crc, sid), bytes, len, &f));
            bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
    }
}

static void every_single_bit_error_of_hello_and_forward_is_seen(void **state) {
    (void)state;
    uint8_t bytes[TS_HELLO_BYTES];
    for (uint8_t kind = TS_F_HELLO; kind <= TS_F_HELLO_ACK; kind++) {
        struct ts_hello h = {.version_max = 1, .version_min = 1, .slots = 2, .mtu = 250, .window = 64, .nonce_i = 1};
        ts_hello_encode(&crc, kind, &h, bytes);
        assert_true(ts_hello_decode(&crc, kind, bytes, sizeof bytes, &h));
        for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
            bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            assert_false(ts_hello_decode(&crc, kind, bytes, sizeof bytes, &h));
            bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
    }
    static uint8_t frame[300];
    static uint8_t inner[250];
    const uint8_t mac[6] = {1, 2, 3, 4, 5, 6};
    struct ts_forward f = {.addr = mac, .addr_len = 6, .inner = inner};
    f.inner_len = (uint32_t)frame_of_kind(TS_F_PONG, inner);
    size_t len = ts_forward_encode(&crc, &f, frame, sizeof frame);
    for (size_t bit = 0; bit < 8 * len; bit++) {
        frame[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_false(ts_forward_decode(&crc, frame, len, &f));
        frame[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    assert_true(ts_forward_decode(&crc, frame, len, &f));
}

static void truncated_and_extended_frames_are_dropped(void **state) {
    (void)state;
    static uint8_t bytes[1600];
    for (uint8_t kind = TS_F_DATA; kind <= TS_F_BYE; kind++) {
        struct ts_frame f;
        size_t len = frame_of_kind(kind, bytes);
        for (size_t cut = 0; cut < len; cut++) {
            assert_false(ts_frame_decode(&crc, sid, ts_seed(&crc, sid), bytes, cut, &f));
        }
        bytes[len] = 0;
        assert_false(ts_frame_decode(&crc, sid, ts_seed(&crc, sid), bytes, len + 1, &f));
    }
}

static void data_overhead_stays_in_bounds(void **state) {
    (void)state;
    /* 5,488 bytes of tensor: all header bytes of the data frames, envelope and tensor header included. */
    const struct {
        uint32_t mtu, per_mille;
    } links[] = {{250, 40}, {1452, 15}, {1470, 15}, {512, 40}};
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        uint32_t message = TS_ENVELOPE + TS_TENSOR_HEADER(1) + 5488;
        uint32_t piece = links[i].mtu - TS_DATA_OVERHEAD;
        uint32_t frames = (message + piece - 1) / piece;
        uint32_t extra = message - 5488 + frames * TS_DATA_OVERHEAD;
        assert_true(extra * 1000 <= 5488 * links[i].per_mille);
    }
}

static void phases_keep_what_was_measured(void **state) {
    (void)state;
    struct ts_phases p = {.known = 0};
    uint8_t records[TS_PHASES * TS_PHASE_BYTES];
    uint8_t stage;
    uint8_t phase;
    uint32_t us;
    assert_int_equal(ts_phase_write(&p, 4, records, TS_PHASES), 0);
    ts_phase_set(&p, TS_P_INVOKE, 123456);
    ts_phase_set(&p, TS_P_DOWNSTREAM, UINT32_MAX);
    assert_int_equal(ts_phase_write(&p, 4, records, TS_PHASES), 2);
    ts_phase_read(records + TS_PHASE_BYTES, &stage, &phase, &us);
    assert_int_equal(stage, 4);
    assert_int_equal(phase, TS_P_DOWNSTREAM);
    assert_int_equal(us, UINT32_MAX);
    assert_int_equal(ts_phase_write(&p, 4, records, 1), 1);
}

static void error_text_is_cut(void **state) {
    (void)state;
    char text[200];
    uint8_t body[TS_ERROR_MAX_BYTES];
    memset(text, 'x', sizeof text);
    struct ts_error_body e = {.inference = 1, .code = 19, .text = text, .text_len = 200};
    assert_int_equal(ts_error_encode(&e, body), TS_ERROR_MAX_BYTES);
    assert_true(ts_error_decode(body, TS_ERROR_MAX_BYTES, &e));
    assert_int_equal(e.text_len, TS_MAX_ERROR_TEXT);
}

static void no_body_decodes_beyond_its_end(void **state) {
    (void)state;
    /* Random bodies in buffers of exactly their length: ASan sees any byte too far. */
    struct net *net = net_new(5);
    for (uint32_t n = 0; n < 200000; n++) {
        uint32_t len = net_random(net) % 80;
        uint8_t *body = malloc(len + 1);
        for (uint32_t i = 0; i < len; i++) {
            body[i] = net_random(net) % 4 != 0 ? (uint8_t)(net_random(net) % 3) : (uint8_t)net_random(net);
        }
        uint8_t *exact = realloc(body, len > 0 ? len : 1);
        struct ts_tensors t;
        struct ts_error_body e;
        struct ts_blob b;
        for (uint8_t kind = TS_TENSOR; kind <= TS_RESULT; kind++) {
            if (ts_tensors_decode(kind, exact, len, &t)) {
                assert_true(t.data >= exact && t.data + t.total <= exact + len);
                assert_true(t.phases + t.phase_count * TS_PHASE_BYTES == exact + len);
            }
        }
        if (ts_error_decode(exact, len, &e)) {
            assert_true((const uint8_t *)e.text + e.text_len == exact + len);
        }
        if (ts_blob_decode(exact, len, &b)) {
            assert_true(b.data + b.len == exact + len);
        }
        free(exact);
    }
    net_free(net);
}

struct collected {
    uint8_t bytes[8192];
    size_t len;
    uint32_t frames;
};

static void collect(void *ctx, const uint8_t *frame, size_t len) {
    struct collected *c = ctx;
    memcpy(c->bytes + c->len, frame, len);
    c->len += len;
    c->frames++;
}

static void cobs_brings_random_frames_back_in_any_pieces(void **state) {
    (void)state;
    struct net *net = net_new(11);
    for (uint32_t n = 0; n < 2000; n++) {
        static uint8_t frame[1200];
        static uint8_t stream[TS_COBS_MAX(1200)];
        static uint8_t buffer[1200];
        static struct collected got;
        struct ts_stream s;
        uint32_t len = 1 + net_random(net) % sizeof frame;
        for (uint32_t i = 0; i < len; i++) {
            frame[i] = net_random(net) % 3 == 0 ? 0 : (uint8_t)net_random(net);
        }
        if (n % 4 == 0) {
            memset(frame, 1, len);
        }
        size_t total = ts_cobs_encode(frame, len, stream);
        assert_true(total <= TS_COBS_MAX(len));
        got.len = got.frames = 0;
        ts_stream_init(&s, true, buffer, sizeof buffer);
        for (size_t at = 0; at < total;) {
            size_t step = 1 + net_random(net) % 50;
            step = step < total - at ? step : total - at;
            ts_stream_read(&s, stream + at, step, collect, &got);
            at += step;
        }
        assert_int_equal(got.frames, 1);
        assert_int_equal(got.len, len);
        assert_memory_equal(got.bytes, frame, len);
    }
    net_free(net);
}

static void cobs_survives_garbage(void **state) {
    (void)state;
    struct net *net = net_new(12);
    static uint8_t buffer[64];
    static struct collected got;
    struct ts_stream s;
    ts_stream_init(&s, true, buffer, sizeof buffer);
    for (uint32_t n = 0; n < 300000; n++) {
        uint8_t byte = net_random(net) % 20 == 0 ? 0 : (uint8_t)net_random(net);
        got.len = 0;
        ts_stream_read(&s, &byte, 1, collect, &got);
    }
    assert_true(s.dropped > 0);
    const uint8_t good[] = {0, 3, 7, 8, 0};
    got.frames = 0;
    ts_stream_read(&s, good, sizeof good, collect, &got);
    assert_true(got.frames >= 1);
    assert_int_equal(got.bytes[got.len - 1], 8);
    net_free(net);
}

struct wire_end {
    struct collected frames, text;
};

static void wire_frame(void *ctx, const uint8_t *frame, size_t len) {
    collect(&((struct wire_end *)ctx)->frames, frame, len);
}

static void wire_text(void *ctx, const uint8_t *text, size_t len) {
    collect(&((struct wire_end *)ctx)->text, text, len);
}

/* Whatever bytes were lost or damaged before: every frame that comes out went in, no text without zeros is
 * lost, and the first whole frame after the damage is read. */
static void a_wire_is_in_step_again_within_one_frame(void **state) {
    (void)state;
    static uint8_t buffer[TS_WIRE_MAX(300)];
    static uint8_t frame[300];
    static uint8_t bytes[4096];
    static struct wire_end got;
    struct net *net = net_new(13);
    for (uint32_t n = 0; n < 20000; n++) {
        uint32_t len = 1 + net_random(net) % sizeof frame;
        for (uint32_t i = 0; i < len; i++) {
            frame[i] = net_random(net) % 4 == 0 ? 0 : (uint8_t)net_random(net);
        }
        struct ts_wire w;
        ts_wire_init(&w, &crc, buffer, sizeof frame);
        size_t at = ts_wire_encode(&crc, frame, len, bytes);
        assert_true(at <= TS_WIRE_MAX(len));
        uint32_t damage = net_random(net) % 4;
        size_t where = net_random(net) % at;
        if (damage == 0) { /* a byte lost */
            memmove(bytes + where, bytes + where + 1, at - where - 1);
            at--;
        } else if (damage == 1) { /* a bit flipped */
            bytes[where] ^= (uint8_t)(1u << net_random(net) % 8);
        } else if (damage == 2) { /* a byte too many */
            memmove(bytes + where + 1, bytes + where, at - where);
            bytes[where] = (uint8_t)net_random(net);
            at++;
        }
        size_t line = at;
        for (uint32_t i = net_random(net) % 40; i > 0; i--) {
            bytes[at++] = (uint8_t)(' ' + net_random(net) % 90);
        }
        size_t line_end = at;
        at += ts_wire_encode(&crc, frame, len, bytes + at);
        memset(&got, 0, sizeof got);
        for (size_t i = 0; i < at;) {
            size_t step = 1 + net_random(net) % 60;
            step = step < at - i ? step : at - i;
            ts_wire_read(&w, bytes + i, step, wire_frame, wire_text, &got);
            i += step;
        }
        assert_true(got.frames.frames >= 1 && got.frames.frames <= 2);
        assert_int_equal(got.frames.len, got.frames.frames * len);
        for (size_t i = 0; i < got.frames.len; i += len) {
            assert_memory_equal(got.frames.bytes + i, frame, len);
        }
        assert_true(damage < 3 || got.frames.frames == 2);
        assert_true(got.text.len >= line_end - line);
        assert_memory_equal(got.text.bytes + got.text.len - (line_end - line), bytes + line, line_end - line);
    }
    net_free(net);
}

/* A single 0x00, as a reset or another program leaves it: what follows a silence is a line again. */
static void a_wire_gives_up_a_frame_after_a_silence(void **state) {
    (void)state;
    static uint8_t buffer[TS_WIRE_MAX(64)];
    static const uint8_t left[] = "\0\x7fleft";
    static const uint8_t line[] = "{}\n";
    static struct wire_end got;
    struct ts_wire w;
    memset(&got, 0, sizeof got);
    ts_wire_init(&w, &crc, buffer, 64);
    ts_wire_silence(&w, wire_text, &got);
    assert_int_equal(w.dropped, 0);
    ts_wire_read(&w, left, sizeof left - 1, wire_frame, wire_text, &got);
    assert_int_equal(got.text.len, 0);
    ts_wire_silence(&w, wire_text, &got);
    assert_int_equal(w.dropped, 1);
    assert_int_equal(got.text.len, sizeof left - 2);
    assert_memory_equal(got.text.bytes, left + 1, sizeof left - 2);
    ts_wire_read(&w, line, sizeof line - 1, wire_frame, wire_text, &got);
    assert_int_equal(got.text.len, sizeof left - 2 + sizeof line - 1);
    assert_int_equal(got.frames.frames, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_checksums_equal_small_ones),
        cmocka_unit_test(every_single_bit_error_of_every_frame_kind_is_seen),
        cmocka_unit_test(every_single_bit_error_of_hello_and_forward_is_seen),
        cmocka_unit_test(truncated_and_extended_frames_are_dropped),
        cmocka_unit_test(data_overhead_stays_in_bounds),
        cmocka_unit_test(phases_keep_what_was_measured),
        cmocka_unit_test(error_text_is_cut),
        cmocka_unit_test(no_body_decodes_beyond_its_end),
        cmocka_unit_test(cobs_brings_random_frames_back_in_any_pieces),
        cmocka_unit_test(cobs_survives_garbage),
        cmocka_unit_test(a_wire_is_in_step_again_within_one_frame),
        cmocka_unit_test(a_wire_gives_up_a_frame_after_a_silence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
