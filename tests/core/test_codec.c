/* Codec 1: tensors there and back, bytes that are none, and nodes that speak it. */
#include "check.h"
#include "network.h"

static struct ts_codec codec;
static uint32_t seed;

static uint32_t rand32(void) {
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

/* Sums of uniform numbers, as wide as asked for, around a centre: positive ones only, if `relu`. */
static void fill(uint8_t *data, uint32_t n, uint32_t width, bool relu) {
    for (uint32_t i = 0; i < n; i++) {
        int32_t d = 0;
        for (uint32_t j = 0; j < 4 && width > 0; j++) {
            d += (int32_t)(rand32() % (2 * width + 1)) - (int32_t)width;
        }
        d = relu ? (d > 0 ? d : 0) - 128 : d;
        data[i] = (uint8_t)(d > 127 ? 127 : d < -128 ? -128 : d);
    }
}

/* Into memory of exactly its length, so that ASan sees a byte too far. */
static void there_and_back(const uint8_t *data, uint32_t n, struct ts_near near) {
    uint8_t *exact = malloc(n + 1);
    uint32_t len = ts_codec_encode(&codec, data, n, near, exact);
    assert_in_range(len, 1, n + 1);
    uint8_t *coded = malloc(len);
    memcpy(coded, exact, len);
    uint8_t *back = malloc(n > 0 ? n : 1);
    uint32_t got = 0;
    assert_int_equal(ts_codec_decode(&codec, coded, len, back, n, &got), TS_OK);
    assert_int_equal(got, n);
    assert_memory_equal(back, data, n);
    if (n > 0) {
        assert_int_equal(ts_codec_decode(&codec, coded, len, back, n - 1, &got), TS_E_TOO_LARGE);
    }
    free(exact);
    free(coded);
    free(back);
}

static void every_tensor_comes_back(void **state) {
    (void)state;
    static uint8_t data[3000];
    for (seed = 1; seed < 400; seed++) {
        uint32_t kept = seed;
        uint32_t n = rand32() % (seed % 10 == 0 ? sizeof data : 300);
        struct ts_near near = {0, 0};
        if (rand32() % 2 != 0) {
            near.left = (uint16_t)(1 + rand32() % 40);
            near.above = (uint16_t)(1 + rand32() % 400);
        }
        fill(data, n, 1u << rand32() % 8 >> 1, rand32() % 2 != 0);
        there_and_back(data, n, near);
        seed = kept;
    }
}

static void damage_is_found_or_harmless(void **state) {
    (void)state;
    static uint8_t data[600];
    static uint8_t coded[sizeof data + 1];
    uint32_t refused = 0;
    for (seed = 1; seed < 3000; seed++) {
        uint32_t kept = seed;
        struct ts_near near = {(uint16_t)(seed % 2 * 4), (uint16_t)(seed % 2 * 40)};
        fill(data, sizeof data, 5, seed % 3 == 0);
        uint32_t len = ts_codec_encode(&codec, data, sizeof data, near, coded);
        for (uint32_t flips = 1 + rand32() % 3; flips > 0; flips--) {
            coded[rand32() % len] ^= (uint8_t)(1u << rand32() % 8);
        }
        len = rand32() % 2 != 0 ? len : rand32() % (len + 1);
        uint8_t *exact = malloc(len > 0 ? len : 1);
        uint8_t *back = malloc(sizeof data);
        memcpy(exact, coded, len);
        uint32_t n = 0;
        int code = ts_codec_decode(&codec, exact, len, back, sizeof data, &n);
        assert_true(code == TS_OK || code == TS_E_MALFORMED || code == TS_E_TOO_LARGE);
        assert_true(code != TS_OK || n <= sizeof data);
        refused += code != TS_OK;
        free(exact);
        free(back);
        seed = kept;
    }
    assert_true(refused > 1500);
}

static void neighbours_are_those_of_large_images(void **state) {
    (void)state;
    const uint32_t shapes[][5] = {
        /* 1, h, w, c, bytes */
        {1, 10, 10, 24, 2400},
        {1, 9, 11, 24, 2376},
        {1, 10, 10, 24, 9600},
        {1, 100, 100, 656, 6560000},
        {2, 10, 10, 24, 4800},
        {1, 65536, 65536, 65536, 0},
        {1, 65535, 65535, 1, 4294836225u},
        {1, 0, 0, 0, 0},
    };
    const uint16_t left[] = {24, 0, 0, 0, 0, 0, 1, 0};
    for (uint32_t i = 0; i < sizeof left / sizeof *left; i++) {
        struct ts_near near = ts_near_of(shapes[i], 4, shapes[i][4]);
        assert_int_equal(near.left, left[i]);
        assert_int_equal(near.above, left[i] * shapes[i][2]);
    }
    assert_int_equal(ts_near_of(shapes[0], 3, 2400).left, 0);
}

static struct host *host(struct net *net, uint32_t i) {
    return &net->hosts[i];
}

static uint32_t wanted;

static bool head_done(struct net *net) {
    return net->hosts[0].results + net->hosts[0].failures >= wanted;
}

/* A chain whose nodes of the mask speak codec 1, on inputs of which little is known beforehand if `noise`. */
static struct net *chain(uint8_t nodes, uint32_t coding, bool noise) {
    struct net *net = net_new(3);
    net->mask = noise ? 0 : 7;
    for (uint8_t i = 0; i < nodes; i++) {
        uint8_t role = i == 0 ? TS_ROLE_HEAD : i + 1 == nodes ? TS_ROLE_TAIL : TS_ROLE_RELAY;
        struct host *h = host_setup(net, i, role, i, nodes, i + 1 == nodes ? -1 : i + 1);
        if ((coding >> i & 1u) != 0) {
            host_code(h);
        }
        host_start(h);
    }
    net_run(net, 500000, NULL);
    return net;
}

static void infer(struct net *net, uint32_t len) {
    uint32_t id = ++wanted;
    assert_int_equal(host_infer(host(net, 0), id, len, 0), TS_OK);
    assert_true(net_run(net, 11000000, head_done));
}

static void the_codec_is_what_both_speak(void **state) {
    (void)state;
    uint64_t bytes[4];
    for (uint32_t coding = 0; coding < 4; coding++) {
        struct net *net = chain(2, coding, false);
        uint64_t before = net->bytes;
        wanted = 0;
        infer(net, 5000);
        bytes[coding] = net->bytes - before;
        assert_int_equal(host(net, 0)->sessions[0].codec, coding == 3 ? TS_CODEC_RANGE : TS_CODEC_RAW);
        assert_int_equal(host(net, 0)->results, 1);
        assert_int_equal(host(net, 0)->inexact, 0);
        net_free(net);
    }
    assert_true(bytes[1] >= bytes[0] && bytes[2] >= bytes[0]);
    assert_true(bytes[3] + 2500 < bytes[0]); /* the boundary, not the result */
}

static void relays_code_anew(void **state) {
    (void)state;
    for (uint32_t coding = 0; coding < 16; coding++) {
        struct net *net = chain(4, coding, coding % 2 != 0);
        net->loss = 1000;
        net->corrupt = 100;
        for (wanted = 0; wanted < 5;) {
            infer(net, 3000);
        }
        assert_int_equal(host(net, 0)->results, 5);
        assert_int_equal(host(net, 0)->inexact, 0);
        net_free(net);
    }
}

static void coding_counts_as_encode_and_decode(void **state) {
    (void)state;
    struct net *net = chain(2, 3, false);
    struct host *tail = host(net, 1);
    tail->async = true;
    tail->invoke_us = 10000;
    wanted = 0;
    assert_int_equal(host_infer(host(net, 0), 1, 2000, 0), TS_OK);
    net_run(net, 8000, NULL);
    assert_int_equal(host(net, 0)->jobs[0].phases.duration_us[TS_P_ENCODE], CODING_US);
    assert_int_equal(tail->jobs[0].state, TS_J_RUNNING);
    assert_int_equal(tail->jobs[0].phases.duration_us[TS_P_DECODE], CODING_US);
    assert_int_equal(tail->jobs[0].phases.duration_us[TS_P_QUEUE], 0);
    /* The input is decoded: its slot can take the next boundary already. */
    for (uint32_t i = 0; i < TS_RX_SLOTS; i++) {
        assert_int_equal(tail->sessions[0].rx[i].state, TS_RX_FREE);
    }
    wanted = 1;
    assert_true(net_run(net, 1000000, head_done));
    assert_int_equal(host(net, 0)->inexact, 0);
    net_free(net);
}

static void several_inferences_keep_apart(void **state) {
    (void)state;
    struct net *net = chain(3, 7, false);
    for (uint32_t i = 0; i < 3; i++) {
        host(net, i)->async = true;
        host(net, i)->invoke_us = 20000;
    }
    net->loss = 1500;
    uint32_t begun = 0;
    for (wanted = 1; wanted <= 20; wanted++) {
        while (begun < 20 && begun < wanted + 2) {
            begun++;
            assert_int_equal(host_infer(host(net, 0), begun, 1000 + begun, 0), TS_OK);
        }
        assert_true(net_run(net, 11000000, head_done));
    }
    assert_int_equal(host(net, 0)->results, 20);
    assert_int_equal(host(net, 0)->inexact, 0);
    net_free(net);
}

static void a_boundary_made_before_the_session_goes_raw(void **state) {
    (void)state;
    struct net *net = net_new(5);
    net->mask = 7;
    struct host *head = host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1);
    host_code(head);
    host_start(head);
    wanted = 0;
    assert_int_equal(host_infer(head, ++wanted, 3000, 0), TS_OK);
    net_run(net, 300000, NULL);
    assert_int_equal(head->jobs[0].state, TS_J_SENDING);
    struct host *tail = host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1);
    host_code(tail);
    host_start(tail);
    assert_true(net_run(net, 5000000, head_done));
    assert_int_equal(head->sessions[0].codec, TS_CODEC_RANGE);
    assert_int_equal(head->results, 1);
    assert_int_equal(head->inexact, 0);
    net_free(net);
}

static struct {
    const uint8_t *bytes;
    uint32_t len;
} form;

/* What a head sends that is not to be trusted. */
static uint8_t *hostile_pack(struct ts_node *node, struct ts_job *job, struct ts_tensors *t) {
    (void)job;
    uint8_t *data = node->cfg->coding->memory + TS_CODING_HEADROOM;
    memcpy(data, form.bytes, form.len);
    t->data = data;
    t->bytes[0] = t->total = form.len;
    return data;
}

static void answered(const uint8_t *bytes, uint32_t len, uint32_t code) {
    struct net *net = chain(2, 3, false);
    struct host *head = host(net, 0);
    uint8_t *(*honest)(struct ts_node *, struct ts_job *, struct ts_tensors *) = head->coding.pack;
    form.bytes = bytes;
    form.len = len;
    head->coding.pack = hostile_pack;
    wanted = 0;
    infer(net, 100);
    assert_int_equal(head->last_code, code);
    assert_int_equal(head->last_stage, 1);
    assert_int_equal(host(net, 1)->invoked, 0);
    head->coding.pack = honest;
    infer(net, 500); /* as ever */
    assert_int_equal(head->results, 1);
    assert_int_equal(head->inexact, 0);
    net_free(net);
}

static void hostile_forms_are_answered_by_name(void **state) {
    (void)state;
    const uint8_t nothing[] = {3};
    const uint8_t cut[] = {1, 0x80, 40, 0, 0, 0x11, 0x22};
    const uint8_t bomb[] = {1, 0x80, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0};
    answered(nothing, sizeof nothing, TS_E_MALFORMED);
    answered(cut, sizeof cut, TS_E_MALFORMED);
    answered(bomb, sizeof bomb, TS_E_TOO_LARGE);
}

static void what_cannot_work_is_refused(void **state) {
    (void)state;
    struct net *net = net_new(6);
    struct host *h = host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1);
    h->cfg.endpoint.codecs = TS_CODECS_RAW | TS_CODECS_RANGE; /* and no memory for it */
    assert_int_equal(ts_node_init(&h->node, &h->cfg, 0), TS_E_INVALID);
    host_code(h);
    h->cfg.endpoint.codecs = 4;
    assert_int_equal(ts_node_init(&h->node, &h->cfg, 0), TS_E_INVALID);
    h->cfg.endpoint.codecs = TS_CODECS_RAW;
    assert_int_equal(ts_node_init(&h->node, &h->cfg, 0), TS_OK);
    assert_int_equal(ts_coding_init(&h->coding, h->coded, TS_CODING_MEMORY(2, 500, 400) - 1, 2, 500, 400),
                     TS_E_NO_MEMORY);
    assert_int_equal(ts_coding_init(&h->coding, h->coded, TS_CODING_MEMORY(2, 500, 400), 2, 500, 400), TS_OK);
    net_free(net);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tensor_comes_back),
        cmocka_unit_test(damage_is_found_or_harmless),
        cmocka_unit_test(neighbours_are_those_of_large_images),
        cmocka_unit_test(the_codec_is_what_both_speak),
        cmocka_unit_test(relays_code_anew),
        cmocka_unit_test(coding_counts_as_encode_and_decode),
        cmocka_unit_test(several_inferences_keep_apart),
        cmocka_unit_test(a_boundary_made_before_the_session_goes_raw),
        cmocka_unit_test(hostile_forms_are_answered_by_name),
        cmocka_unit_test(what_cannot_work_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
