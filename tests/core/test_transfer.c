/* Fragmentation, selective repeat, pacing and their bounds. */
#include "check.h"
#include "network.h"

static const struct ts_crc crc = {NULL, ts_crc16_small, ts_crc32_small};
static const uint32_t sid = 77;

static int any_kind(const void *ctx, uint8_t kind) {
    (void)ctx;
    return kind == 99 ? TS_E_UNSUPPORTED : TS_OK;
}

static uint8_t body[1 << 17];
static uint8_t buffer[1 << 17];

static void fill(struct net *net) {
    for (uint32_t i = 0; i < sizeof body; i++) {
        body[i] = (uint8_t)net_random(net);
    }
}

static struct ts_frame fragment_of(struct ts_tx *tx, uint32_t fragment, uint32_t piece, uint8_t *payload) {
    struct ts_frame f = {.kind = TS_F_DATA,
                         .message = (uint16_t)tx->id,
                         .fragment = (uint16_t)fragment,
                         .flags = fragment + 1 == tx->fragments ? TS_DATA_LAST : 0,
                         .payload = payload};
    f.payload_len = ts_tx_payload(tx, fragment, piece, payload);
    return f;
}

static enum ts_rx_verdict give(struct ts_rx *rx, uint32_t piece, uint32_t max, const struct ts_frame *f, int *code) {
    const struct ts_rx_rules rules = {&crc, sid, piece, max, any_kind, NULL};
    return ts_rx_data(rx, &rules, f, code);
}

static void fragments_in_any_order_make_the_message(void **state) {
    (void)state;
    struct net *net = net_new(21);
    fill(net);
    for (uint32_t n = 0; n < 500; n++) {
        static uint8_t payload[2000];
        uint32_t piece = 120 + net_random(net) % 1300;
        uint32_t len = net_random(net) % (piece * 60 - 16);
        struct ts_tx tx = {.kind = TS_CONTROL, .body = body, .len = len};
        struct ts_rx rx = {.buffer = buffer};
        assert_true(ts_tx_begin(&tx, &crc, sid, 5, 0, piece));
        ts_rx_begin(&rx, 5, 0);
        memset(buffer, 0, sizeof buffer);
        enum ts_rx_verdict last = TS_RX_DROP;
        uint32_t completes = 0;
        for (uint32_t sent = 0; last != TS_RX_COMPLETE; sent++) {
            assert_true(sent < 100000);
            int code = TS_OK;
            struct ts_frame f = fragment_of(&tx, net_random(net) % tx.fragments, piece, payload);
            last = give(&rx, piece, sizeof buffer, &f, &code);
            assert_true(last != TS_RX_REJECT && last != TS_RX_DROP);
            completes += last == TS_RX_COMPLETE;
        }
        assert_int_equal(completes, 1);
        assert_memory_equal(buffer, body, len);
    }
    net_free(net);
}

static void receiver_drops_what_contradicts(void **state) {
    (void)state;
    uint8_t payload[400] = {0};
    int code = TS_OK;
    struct ts_tx tx = {.kind = TS_CONTROL, .body = body, .len = 300};
    struct ts_rx rx = {.buffer = buffer};
    ts_tx_begin(&tx, &crc, sid, 1, 0, 100);
    ts_rx_begin(&rx, 1, 0);
    struct ts_frame f = fragment_of(&tx, 0, 100, payload);
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_STORED);
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_DUP);
    f = fragment_of(&tx, 1, 100, payload);
    f.payload_len = 99; /* short and not the last */
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_DROP);
    f.payload_len = 101;
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_DROP);
    f.payload_len = 100;
    f.flags = TS_DATA_LAST; /* another total than the envelope's */
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_DROP);
    f = fragment_of(&tx, 3, 100, payload);
    f.payload_len = 100;
    f.flags = 0; /* the last one without LAST */
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_DROP);
    f.fragment = 4; /* beyond the end */
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_DROP);
    f.fragment = 1 + TS_WINDOW; /* beyond the window */
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_DROP);
    struct ts_rx fresh = {.buffer = buffer}; /* and before any total is known */
    ts_rx_begin(&fresh, 1, 0);
    f.fragment = TS_WINDOW;
    assert_int_equal(give(&fresh, 100, sizeof buffer, &f, &code), TS_RX_DROP);
    f.fragment = TS_WINDOW - 1;
    assert_int_equal(give(&fresh, 100, sizeof buffer, &f, &code), TS_RX_GAP);
    f = fragment_of(&tx, 3, 100, payload);
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_GAP);
    f = fragment_of(&tx, 2, 100, payload);
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_STORED);
    f = fragment_of(&tx, 1, 100, payload);
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_COMPLETE);
}

static void receiver_rejects_by_name(void **state) {
    (void)state;
    uint8_t payload[200];
    int code = TS_OK;
    struct ts_tx tx = {.kind = TS_CONTROL, .body = body, .len = 300};
    struct ts_rx rx = {.buffer = buffer};
    ts_tx_begin(&tx, &crc, sid, 1, 0, 100);
    ts_rx_begin(&rx, 1, 0);
    struct ts_frame f = fragment_of(&tx, 0, 100, payload);
    assert_int_equal(give(&rx, 100, 299, &f, &code), TS_RX_REJECT);
    assert_int_equal(code, TS_E_TOO_LARGE);
    payload[0] = 99;
    ts_rx_begin(&rx, 1, 0);
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_REJECT);
    assert_int_equal(code, TS_E_UNSUPPORTED);
    payload[1] = 1;
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_REJECT);
    assert_int_equal(code, TS_E_MALFORMED);
    ts_rx_begin(&rx, 2, 0); /* the envelope says 1 */
    f = fragment_of(&tx, 0, 100, payload);
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_REJECT);
    assert_int_equal(code, TS_E_MALFORMED);
    ts_rx_begin(&rx, 1, 0); /* stored beyond the buffer before fragment 0 told the length */
    f = fragment_of(&tx, 2, 100, payload);
    assert_int_equal(give(&rx, 100, 200, &f, &code), TS_RX_REJECT);
    assert_int_equal(code, TS_E_TOO_LARGE);
    ts_rx_begin(&rx, 1, 0);
    f = fragment_of(&tx, 0, 100, payload);
    f.flags = TS_DATA_LAST; /* the envelope says four fragments */
    assert_int_equal(give(&rx, 100, 300, &f, &code), TS_RX_REJECT);
    assert_int_equal(code, TS_E_INTEGRITY);
    ts_rx_begin(&rx, 1, 0);
    for (uint32_t i = 0; i < 4; i++) {
        f = fragment_of(&tx, i, 100, payload);
        payload[50] ^= (uint8_t)(i == 2);
        assert_int_equal(give(&rx, 100, 300, &f, &code), i < 3 ? TS_RX_STORED : TS_RX_REJECT);
    }
    assert_int_equal(code, TS_E_INTEGRITY);
}

static void sender_drops_acks_that_cannot_be(void **state) {
    (void)state;
    uint32_t fragment;
    const uint8_t bits[TS_ACK_BITMAP_BYTES] = {0x10};
    struct ts_tx tx = {.kind = TS_CONTROL, .body = body, .len = 1000};
    ts_tx_begin(&tx, &crc, sid, 1, 0, 100);
    for (uint32_t i = 0; i < 4; i++) {
        assert_true(ts_tx_pick(&tx, TS_WINDOW, TS_NO_FRAGMENT, &fragment));
        assert_int_equal(fragment, i);
        ts_tx_sent(&tx, fragment, 100 + i);
    }
    struct ts_frame ack = {.kind = TS_F_ACK, .base = 5, .echo = TS_ECHO_NONE, .payload = bits};
    assert_false(ts_tx_ack(&tx, &ack, false, 500).valid); /* acknowledges what was not sent */
    ack.base = 0;
    ack.payload_len = 1; /* bit 4: fragment 5 */
    assert_false(ts_tx_ack(&tx, &ack, false, 500).valid);
    ack.payload_len = 0;
    ack.flags = TS_ACK_COMPLETE;
    assert_false(ts_tx_ack(&tx, &ack, false, 500).valid);
    ack.base = 4;
    assert_false(ts_tx_ack(&tx, &ack, false, 500).valid); /* complete needs all eleven */
    ack.flags = 0;
    ack.echo = 3;
    struct ts_ack_outcome out = ts_tx_ack(&tx, &ack, false, 603);
    assert_true(out.valid && out.sampled);
    assert_int_equal(out.sample_us, 500);
    assert_int_equal(out.newly_acked, 4);
    assert_int_equal(tx.inflight, 0);
}

static void rtt_follows_rfc6298(void **state) {
    (void)state;
    struct ts_rtt rtt = {.known = false};
    ts_rtt_sample(&rtt, 800);
    assert_int_equal(rtt.srtt_us, 800);
    assert_int_equal(rtt.rttvar_us, 400);
    ts_rtt_sample(&rtt, 1600);
    assert_int_equal(rtt.rttvar_us, 500); /* 3/4 * 400 + 1/4 * 800 */
    assert_int_equal(rtt.srtt_us, 900);   /* 7/8 * 800 + 1/8 * 1600 */
}

static void a_retransmission_gives_no_wrong_sample(void **state) {
    (void)state;
    struct ts_tx tx = {.kind = TS_CONTROL, .body = body, .len = 50};
    ts_tx_begin(&tx, &crc, sid, 1, 0, 100);
    ts_tx_sent(&tx, 0, 1000);
    ts_tx_sent(&tx, 0, 900000);
    struct ts_frame ack = {.kind = TS_F_ACK, .base = 1, .flags = TS_ACK_COMPLETE, .echo = 0, .attempt = 0};
    struct ts_ack_outcome out = ts_tx_ack(&tx, &ack, false, 900100);
    assert_true(out.complete);
    assert_false(out.sampled); /* the first transmission caused it, and its time is gone */
}

static uint32_t wanted;

static bool both_done(struct net *net) {
    return net->hosts[0].sent_ok + net->hosts[0].sent_failed >= wanted && net->hosts[1].messages >= wanted;
}

static struct net *pair_with(uint64_t seed, uint16_t mtu, uint32_t delay_us) {
    struct net *net = net_new(seed);
    net->delay_us = delay_us;
    host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1)->link.mtu = mtu;
    host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1)->link.mtu = mtu;
    host_start(&net->hosts[0]);
    host_start(&net->hosts[1]);
    net_run(net, 500000, NULL);
    assert_int_equal(net->hosts[1].ups, 1);
    return net;
}

static void send_body(struct net *net, uint32_t len) {
    struct host *h = &net->hosts[0];
    assert_int_equal(ts_send(&h->node.ep, host_now(h), 0, TS_CONTROL, body, len, 0, 1), TS_OK);
    h->wake = net->now;
}

static void data_frames_under_loss_stay_in_bounds(void **state) {
    (void)state;
    const uint16_t mtus[] = {250, 512, 1452};
    const uint32_t losses[] = {0, 100, 500, 1000, 2000, 3000};
    for (size_t m = 0; m < 3; m++) {
        for (size_t l = 0; l < 6; l++) {
            struct net *net = pair_with(31 + m * 10 + l, mtus[m], 3000);
            uint64_t took = 0;
            net->loss = losses[l];
            net->data_frames = net->other_frames = 0;
            for (wanted = 1; wanted <= 1000; wanted++) {
                for (uint32_t i = 0; i < 5488; i += 4) {
                    ts_put32(body + i, net_random(net));
                }
                uint64_t start = net->now;
                send_body(net, 5488 + 12);
                assert_true(net_run(net, 30000000, both_done));
                took += net->now - start;
                assert_int_equal(net->hosts[1].last_len, 5500);
                assert_memory_equal(net->hosts[1].last_body, body, 5500);
            }
            assert_int_equal(net->hosts[0].sent_ok, 1000);
            double n = (5516 + mtus[m] - 9) / (mtus[m] - 8);
            double ratio = net->data_frames / 1000.0 / (n / (1 - losses[l] / 1e4));
            print_message("mtu %4u, loss %4.1f %%: %6.3f data frames per message, %.3f x n/(1-p), %.2f others, %.1f ms "
                          "(RTT 6 ms)\n",
                          mtus[m], losses[l] / 100.0, net->data_frames / 1000.0, ratio, net->other_frames / 1000.0,
                          (double)took / 1e6);
            assert_true(ratio <= (losses[l] == 0 ? 1.0 : 1.10));
            net_free(net);
        }
    }
}

static void reordering_alone_costs_few_repeats(void **state) {
    (void)state;
    struct net *net = pair_with(41, 250, 3000);
    net->reorder = 2000;
    net->data_frames = 0;
    for (wanted = 1; wanted <= 300; wanted++) {
        send_body(net, 5500);
        assert_true(net_run(net, 30000000, both_done));
        assert_memory_equal(net->hosts[1].last_body, body, 5500);
    }
    print_message("reorder 20 %%: %.2f data frames for 23\n", net->data_frames / 300.0);
    assert_true(net->data_frames < 300 * 23 * 1.2);
    net_free(net);
}

static void message_longer_than_the_window_gets_through(void **state) {
    (void)state;
    struct net *net = pair_with(43, 128, 1000);
    net->loss = 1000;
    fill(net);
    wanted = 1;
    send_body(net, NET_MESSAGE); /* 69 fragments of 120 */
    assert_true(net_run(net, 30000000, both_done));
    assert_int_equal(net->hosts[1].last_len, NET_MESSAGE);
    assert_memory_equal(net->hosts[1].last_body, body, NET_MESSAGE);
    net_free(net);
}

static void empty_and_odd_lengths_get_through(void **state) {
    (void)state;
    struct net *net = pair_with(44, 250, 1000);
    const uint32_t lengths[] = {0, 1, 225, 226, 227, 467, 468, 469, 8191, 8192};
    for (uint32_t i = 0; i < 10; i++) {
        wanted = i + 1;
        send_body(net, lengths[i]);
        assert_true(net_run(net, 1000000, both_done));
        assert_int_equal(net->hosts[1].last_len, lengths[i]);
        assert_memory_equal(net->hosts[1].last_body, body, lengths[i]);
    }
    net_free(net);
}

static void pace_is_kept(void **state) {
    (void)state;
    struct net *net = net_new(45);
    host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1)->link.pace_ns_per_byte = 8000; /* 1 Mbit/s */
    host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1);
    host_start(&net->hosts[0]);
    host_start(&net->hosts[1]);
    net_run(net, 100000, NULL);
    uint64_t start = net->now;
    wanted = 1;
    send_body(net, 5500);
    assert_true(net_run(net, 10000000, both_done));
    uint64_t frames_us = (5516 + 23 * 8 - 200) * 8; /* the first goes at once */
    assert_true(net->now - start >= frames_us);
    assert_true(net->now - start < frames_us + 10000);
    net_free(net);
}

/* Damages one DATA frame so that its own CRC16 fits: only the message's CRC32 can tell. */
static uint32_t damage_left;

static void damage(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len) {
    (void)to;
    uint8_t copy[TS_MAX_MTU];
    struct ts_frame f;
    const struct ts_keys *k = &net->hosts[0].sessions[0].keys;
    net->cut = false;
    if (from != 0 || damage_left == 0 ||
        !ts_frame_decode(&net->hosts[0].cfg.endpoint.crc, k->sid, k->seed, bytes, len, &f) || f.kind != TS_F_DATA ||
        f.fragment != 1) {
        return;
    }
    damage_left--;
    memcpy(copy, bytes, len);
    copy[60] ^= 1;
    ts_put16(copy + len - 2, ts_crc16_small(NULL, k->seed, copy, len - 2));
    net->cut = true; /* the real one is lost; the damaged one arrives in its place */
    net_inject(net, 0, 1, copy, len);
}

static void damage_that_frames_miss_is_found_by_the_message(void **state) {
    (void)state;
    for (uint32_t times = 1; times <= 3; times++) {
        struct net *net = pair_with(46, 250, 1000);
        net->tap = damage;
        damage_left = times;
        send_body(net, 1000);
        net_run(net, 5000000, NULL);
        assert_int_equal(damage_left, 0);
        if (times < 3) {
            assert_int_equal(net->hosts[0].sent_ok, 1);
            assert_int_equal(net->hosts[1].messages, 1);
            assert_memory_equal(net->hosts[1].last_body, body, 1000);
        } else {
            assert_int_equal(net->hosts[0].last_sent_code, TS_E_INTEGRITY);
            assert_int_equal(net->hosts[1].messages, 0);
        }
        net_free(net);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fragments_in_any_order_make_the_message),
        cmocka_unit_test(receiver_drops_what_contradicts),
        cmocka_unit_test(receiver_rejects_by_name),
        cmocka_unit_test(sender_drops_acks_that_cannot_be),
        cmocka_unit_test(rtt_follows_rfc6298),
        cmocka_unit_test(a_retransmission_gives_no_wrong_sample),
        cmocka_unit_test(data_frames_under_loss_stay_in_bounds),
        cmocka_unit_test(reordering_alone_costs_few_repeats),
        cmocka_unit_test(message_longer_than_the_window_gets_through),
        cmocka_unit_test(empty_and_odd_lengths_get_through),
        cmocka_unit_test(pace_is_kept),
        cmocka_unit_test(damage_that_frames_miss_is_found_by_the_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
