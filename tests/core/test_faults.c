/* What a hostile or broken world does: damage, replay, garbage, jumping clocks, restarts in the middle. */
#include "check.h"
#include "network.h"

#define RECORD 512

static struct {
    uint8_t bytes[300];
    size_t len;
    uint8_t from, to;
} record[RECORD];
static uint32_t recorded;

static void keep(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len) {
    (void)net;
    if (recorded < RECORD && len <= sizeof record[0].bytes) {
        memcpy(record[recorded].bytes, bytes, len);
        record[recorded].len = len;
        record[recorded].from = from;
        record[recorded++].to = to;
    }
}

static struct host *host(struct net *net, uint32_t i) {
    return &net->hosts[i];
}

static uint32_t wanted;

static bool head_done(struct net *net) {
    return net->hosts[0].results + net->hosts[0].failures >= wanted;
}

/* One inference from fresh nodes, each frame preceded by every copy of it with one bit wrong. */
static void every_single_bit_error_in_a_live_session_is_harmless(void **state) {
    (void)state;
    struct net *net = net_new(1);
    uint32_t seen[12] = {0};
    host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1));
    host_start(host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1));
    net->tap = keep;
    recorded = 0;
    net->cut = true; /* frames travel by hand below */
    uint32_t next = 0;
    bool asked = false;
    for (uint32_t turn = 0; turn < 4000 && host(net, 0)->results < 3; turn++) {
        net_run(net, 1000, NULL);
        if (host(net, 0)->ups > 0 && (!asked || host(net, 0)->results > 0)) {
            asked = true;
            host_infer(host(net, 0), 1 + host(net, 0)->results, 400, 0);
        }
        for (; next < recorded; next++) {
            uint8_t copy[300];
            uint8_t kind = record[next].bytes[0] >> 4;
            seen[kind]++;
            for (size_t bit = 0; bit < 8 * record[next].len && seen[kind] <= 3; bit++) {
                memcpy(copy, record[next].bytes, record[next].len);
                copy[bit / 8] ^= (uint8_t)(1u << (bit % 8));
                net_inject(net, record[next].from, record[next].to, copy, record[next].len);
            }
            net_inject(net, record[next].from, record[next].to, record[next].bytes, record[next].len);
        }
    }
    assert_int_equal(host(net, 0)->results, 3);
    assert_int_equal(host(net, 0)->failures + host(net, 0)->inexact, 0);
    assert_int_equal(host(net, 0)->downs + host(net, 1)->downs, 0);
    assert_true(seen[TS_F_HELLO] && seen[TS_F_HELLO_ACK] && seen[TS_F_DATA] && seen[TS_F_ACK] && seen[TS_F_PING] &&
                seen[TS_F_PONG]);
    net_free(net);
}

/* Starts a head and a tail and runs one inference of so many bytes; returns how many frames that took, all kept. */
static uint32_t keep_one_inference(struct net *net, uint32_t bytes) {
    recorded = 0;
    net->tap = keep;
    host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1));
    host_start(host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1));
    net_run(net, 100000, NULL);
    host_infer(host(net, 0), 1, bytes, 0);
    wanted = 1;
    assert_true(net_run(net, 1000000, head_done));
    return recorded;
}

static void replayed_session_is_harmless(void **state) {
    (void)state;
    struct net *net = net_new(2);
    uint32_t old = keep_one_inference(net, 2000);
    assert_true(old > 12);
    host_start(host(net, 0)); /* a new session */
    net_run(net, 500000, NULL);
    uint32_t ups = host(net, 0)->ups + host(net, 1)->ups;
    uint32_t invoked = host(net, 1)->invoked;
    uint32_t results = host(net, 0)->results;
    for (uint32_t i = 0; i < old; i++) { /* all of it again, twice, in a live session */
        net_inject(net, record[i].from, record[i].to, record[i].bytes, record[i].len);
        net_inject(net, record[i].from, record[i].to, record[i].bytes, record[i].len);
        net_run(net, 3000, NULL);
    }
    assert_int_equal(host(net, 0)->ups + host(net, 1)->ups, ups);
    assert_int_equal(host(net, 1)->invoked, invoked);
    assert_int_equal(host(net, 0)->results, results);
    host_infer(host(net, 0), 2, 2000, 0);
    wanted = results + 1;
    assert_true(net_run(net, 1000000, head_done));
    assert_int_equal(host(net, 0)->results, results + 1);
    assert_int_equal(host(net, 0)->inexact, 0);
    /* And of the session that is up: duplicates. */
    uint32_t all = recorded;
    invoked = host(net, 1)->invoked;
    for (uint32_t i = old; i < all; i++) {
        net_inject(net, record[i].from, record[i].to, record[i].bytes, record[i].len);
        net_run(net, 3000, NULL);
    }
    assert_int_equal(host(net, 1)->invoked, invoked);
    assert_int_equal(host(net, 0)->results, results + 1);
    assert_int_equal(host(net, 0)->downs, 0);
    net_free(net);
}

static void frames_of_two_sessions_interleaved(void **state) {
    (void)state;
    /* An old run's fragments arrive between a new run's, from the same address. */
    struct net *net = net_new(3);
    uint32_t old = keep_one_inference(net, 4000);
    host_start(host(net, 0));
    net_run(net, 500000, NULL);
    net->tap = NULL;
    host_infer(host(net, 0), 9, 4000, 0);
    for (uint32_t i = 0; i < old; i++) {
        net_run(net, 200, NULL);
        net_inject(net, record[i].from, record[i].to, record[i].bytes, record[i].len);
    }
    wanted = 2;
    assert_true(net_run(net, 1000000, head_done));
    assert_int_equal(host(net, 0)->results, 2);
    assert_int_equal(host(net, 0)->inexact, 0);
    net_free(net);
}

static void garbage_flood_does_not_stop_work(void **state) {
    (void)state;
    struct net *net = net_pair(4);
    uint32_t ups = host(net, 0)->ups + host(net, 1)->ups;
    for (wanted = 1; wanted <= 10; wanted++) {
        host_infer(host(net, 0), wanted, 3000, 0);
        for (uint32_t n = 0; n < 3000; n++) {
            uint8_t junk[300];
            uint32_t len = net_random(net) % sizeof junk;
            for (uint32_t i = 0; i < len; i++) {
                junk[i] = (uint8_t)net_random(net);
            }
            if (len > 1 && n % 2 == 0) { /* the right kind and tag */
                junk[0] = (uint8_t)((1 + n % 11) << 4);
                junk[1] = (uint8_t)host(net, 0)->sessions[0].keys.sid;
            }
            net_inject(net, (uint8_t)(n % 3), n / 2 % 2 == 0 ? 0 : 1, junk, len);
            if (n % 100 == 0) {
                net_run(net, 300, NULL);
            }
        }
        assert_true(net_run(net, 2000000, head_done));
    }
    assert_int_equal(host(net, 0)->results, 10);
    assert_int_equal(host(net, 0)->inexact, 0);
    assert_int_equal(host(net, 0)->ups + host(net, 1)->ups, ups);
    net_free(net);
}

static void strangers_ping_is_answered_sparingly(void **state) {
    (void)state;
    struct net *net = net_pair(5);
    const struct ts_crc *crc = &host(net, 0)->cfg.endpoint.crc;
    net_run(net, 100000, NULL);
    net->other_frames = 0;
    for (uint32_t i = 0; i < 100; i++) {
        uint8_t bytes[TS_CONTROL_FRAME_BYTES];
        struct ts_frame ping = {.kind = TS_F_PING, .seq = (uint16_t)i, .t = {1}};
        size_t len = ts_frame_encode(crc, 99 + i, ts_seed(crc, 99 + i), &ping, bytes);
        net_inject(net, 3, 1, bytes, len);
    }
    assert_int_equal(net->other_frames, 1);
    net_free(net);
}

static void forged_reset_and_bye_need_the_session(void **state) {
    (void)state;
    struct net *net = net_pair(6);
    const struct ts_crc *crc = &host(net, 0)->cfg.endpoint.crc;
    uint32_t sid = host(net, 0)->sessions[0].keys.sid;
    for (uint8_t kind = TS_F_RESET; kind <= TS_F_BYE; kind++) {
        for (uint32_t guess = 1; guess < 200; guess++) {
            uint8_t bytes[TS_CONTROL_FRAME_BYTES];
            struct ts_frame f = {.kind = kind, .seq = host(net, 0)->sessions[0].ping_seq};
            net_inject(net, 1, 0, bytes, ts_frame_encode(crc, sid + guess, ts_seed(crc, sid + guess), &f, bytes));
        }
    }
    assert_int_equal(host(net, 0)->downs, 0);
    net_free(net);
}

static void clock_may_jump(void **state) {
    (void)state;
    const int64_t jumps[] = {-1000000000, -1, 900000, 3600000000, -3600000000, 86400000000};
    struct net *net = net_new(7);
    for (uint8_t i = 0; i < 2; i++) {
        host_setup(net, i, i == 0 ? TS_ROLE_HEAD : TS_ROLE_TAIL, i, 2, i == 0 ? 1 : -1)->clock_offset_us = UINT64_C(1)
                                                                                                           << 40;
        host_start(host(net, i));
    }
    net_run(net, 100000, NULL);
    for (uint32_t j = 0; j < 12; j++) {
        struct host *h = host(net, j % 2);
        uint32_t before = host(net, 0)->results + host(net, 0)->failures;
        assert_int_equal(host_infer(host(net, 0), 1 + j, 4000, 3000), TS_OK);
        net_run(net, 1500, NULL);
        h->clock_offset_us += (uint64_t)jumps[j / 2];
        h->wake = net->now;
        wanted = before + 1;
        assert_true(net_run(net, 8000000, head_done)); /* a result or a named error, in time */
        assert_int_equal(host(net, 0)->log[1 + j], 1);
        net_run(net, 3000000, NULL); /* and the session comes back */
        assert_int_equal(host(net, 0)->sessions[0].state, TS_S_UP);
    }
    assert_int_equal(host(net, 0)->inexact, 0);
    assert_true(host(net, 0)->results >= 6);
    net_free(net);
}

static void own_time_wraps_unnoticed(void **state) {
    (void)state;
    struct net *net = net_pair(8);
    for (uint32_t i = 0; i < 2; i++) { /* both ends 3 s before their 32 bits wrap */
        struct host *h = host(net, i);
        uint32_t ahead = UINT32_MAX - 3000000u - h->node.ep.now;
        h->node.ep.now += ahead;
        struct ts_session *s = &h->sessions[0];
        s->heard_at += ahead;
        s->ping_at += ahead;
    }
    for (wanted = 1; wanted <= 50; wanted++) {
        host_infer(host(net, 0), wanted, 2000, 0);
        assert_true(net_run(net, 1000000, head_done));
        net_run(net, 200000, NULL);
    }
    net_run(net, 60000000, NULL);
    assert_int_equal(host(net, 0)->results, 50);
    assert_int_equal(host(net, 0)->downs + host(net, 1)->downs, 0);
    net_free(net);
}

static void session_lasts_longer_than_its_time(void **state) {
    (void)state;
    struct net *net = net_pair(9);
    for (uint32_t hour = 0; hour < 5; hour++) { /* 2^32 us are 71 minutes */
        net_run(net, 3600000000u, NULL);
        wanted = hour + 1;
        host_infer(host(net, 0), wanted, 2000, 0);
        assert_true(net_run(net, 1000000, head_done));
    }
    assert_int_equal(host(net, 0)->results, 5);
    assert_int_equal(host(net, 0)->downs + host(net, 1)->downs, 0);
    net_free(net);
}

static void busy_session_keeps_pace_and_clock_for_hours(void **state) {
    (void)state;
    struct net *net = net_new(10);
    host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1)->link.pace_ns_per_byte = 100;
    host_start(host(net, 0));
    host_start(host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1));
    net_run(net, 100000, NULL);
    for (wanted = 1; wanted <= 6000; wanted++) { /* one each two seconds: never quiet for a keep-alive */
        host_infer(host(net, 0), wanted, 300, 0);
        assert_true(net_run(net, 50000, head_done));
        net_run(net, 2000000, NULL);
    }
    assert_int_equal(host(net, 0)->results, 6000);
    assert_int_equal(host(net, 0)->downs, 0);
    assert_true(host(net, 0)->node.ep.now - host(net, 0)->sessions[0].clock.at < 130000000);
    net_free(net);
}

static void killed_in_mid_transfer_and_back(void **state) {
    (void)state;
    for (uint32_t moment = 0; moment < 40; moment++) {
        for (uint32_t who = 0; who < 2; who++) {
            struct net *net = net_pair(100 + moment);
            host(net, 1)->async = true;
            host(net, 1)->invoke_us = 5000;
            uint32_t begun = 1;
            host_infer(host(net, 0), 1, 5488, 9000);
            net_run(net, 400 * moment, NULL);
            host_kill(host(net, who));
            net_run(net, 50000 * (moment % 4), NULL);
            uint32_t over = host(net, 0)->results + host(net, 0)->failures;
            host_start(host(net, who));
            if (who == 0) {
                host_infer(host(net, 0), 2, 5488, 9000);
                begun = 1;
                (void)begun;
                wanted = over + 1;
            } else {
                wanted = 1;
            }
            assert_true(net_run(net, 9500000, head_done));
            assert_int_equal(host(net, 0)->failures, 0);
            assert_int_equal(host(net, 0)->inexact, 0);
            assert_int_equal(host(net, 0)->results, wanted);
            net_free(net);
        }
    }
}

static void peer_that_lies_about_limits_is_contained(void **state) {
    (void)state;
    /* ACKs that offer far too much, POLLs from the far future, DATA beyond the limit. */
    struct net *net = net_pair(11);
    struct host *tail = host(net, 1);
    const struct ts_crc *crc = &tail->cfg.endpoint.crc;
    const struct ts_keys *k = &tail->sessions[0].keys;
    uint8_t bytes[300];
    static uint8_t payload[242];
    for (uint32_t i = 0; i < 65536; i += 13) {
        struct ts_frame data = {.kind = TS_F_DATA,
                                .message = (uint16_t)i,
                                .fragment = (uint16_t)(i * 7 % 300),
                                .payload = payload,
                                .payload_len = 242,
                                .flags = (uint8_t)(i & 3)};
        net_inject(net, 0, 1, bytes, ts_frame_encode(crc, k->sid, k->seed, &data, bytes));
        struct ts_frame poll = {.kind = TS_F_POLL, .message = (uint16_t)(i * 31), .oldest = (uint16_t)(i * 17)};
        net_inject(net, 0, 1, bytes, ts_frame_encode(crc, k->sid, k->seed, &poll, bytes));
        struct ts_frame ack = {.kind = TS_F_ACK,
                               .message = (uint16_t)i,
                               .base = (uint16_t)i,
                               .limit = (uint16_t)(i * 5),
                               .payload = payload,
                               .payload_len = (uint16_t)(i % 33)};
        net_inject(net, 0, 1, bytes, ts_frame_encode(crc, k->sid, k->seed, &ack, bytes));
        net_inject(net, 1, 0, bytes, ts_frame_encode(crc, k->sid, k->seed, &ack, bytes));
        assert_true(tail->sessions[0].limit - tail->sessions[0].next_id <= TS_MAX_LIVE);
    }
    assert_int_equal(tail->messages, 0);
    net_free(net);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_single_bit_error_in_a_live_session_is_harmless),
        cmocka_unit_test(replayed_session_is_harmless),
        cmocka_unit_test(frames_of_two_sessions_interleaved),
        cmocka_unit_test(garbage_flood_does_not_stop_work),
        cmocka_unit_test(strangers_ping_is_answered_sparingly),
        cmocka_unit_test(forged_reset_and_bye_need_the_session),
        cmocka_unit_test(clock_may_jump),
        cmocka_unit_test(own_time_wraps_unnoticed),
        cmocka_unit_test(session_lasts_longer_than_its_time),
        cmocka_unit_test(busy_session_keeps_pace_and_clock_for_hours),
        cmocka_unit_test(killed_in_mid_transfer_and_back),
        cmocka_unit_test(peer_that_lies_about_limits_is_contained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
