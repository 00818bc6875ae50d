/* What both ends do when frames that hold the state together are lost: give-ups, limits, timers. */
#include "check.h"
#include "network.h"

static uint8_t body[NET_MESSAGE];

static int say(struct net *net, uint32_t len, uint32_t timeout_ms) {
    struct host *h = &net->hosts[0];
    h->wake = net->now;
    return ts_send(&h->node.ep, host_now(h), 0, TS_CONTROL, body, len, timeout_ms, 1);
}

/* Frames of this kind are lost while `losing`; counted in either case. */
static uint8_t watched;
static bool losing;
static uint32_t seen;

static void watch(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len) {
    (void)to;
    (void)len;
    bool hit = from == 0 && bytes[0] >> 4 == watched;
    seen += hit;
    net->cut = hit && losing;
}

static struct net *watched_pair(uint64_t seed, uint8_t kind) {
    struct net *net = net_pair(seed);
    net_run(net, 100000, NULL);
    watched = kind;
    losing = true;
    seen = 0;
    net->tap = watch;
    return net;
}

static void giving_up_all_slots_frees_the_receiver(void **state) {
    (void)state;
    struct net *net = watched_pair(1, TS_F_DATA);
    uint32_t slots = TS_RX_SLOTS < TS_TX_SLOTS ? TS_RX_SLOTS : TS_TX_SLOTS;
    for (uint32_t i = 0; i < slots; i++) {
        assert_int_equal(say(net, 1000, 500), TS_OK);
    }
    net_run(net, 1000000, NULL);
    assert_int_equal(net->hosts[0].sent_failed, slots);
    assert_int_equal(net->hosts[1].messages, 0);
    losing = false;
    say(net, 1000, 3000);
    net_run(net, 1000000, NULL);
    assert_int_equal(net->hosts[0].sent_ok, 1);
    net_free(net);
}

static void lost_word_of_giving_up_is_repeated(void **state) {
    (void)state;
    struct net *net = watched_pair(2, TS_F_POLL);
    struct host *h = &net->hosts[0];
    say(net, 8000, 5000);
    net_run(net, 1500, NULL); /* the tail has some of it */
    ts_cancel(&h->node.ep, host_now(h), 0, 1);
    h->wake = net->now;
    net_run(net, 300000, NULL);
    assert_int_equal(net->hosts[1].sessions[0].rx[0].state, TS_RX_PARTIAL);
    assert_true(seen >= 3);
    losing = false;
    net_run(net, 600000, NULL);
    assert_int_equal(net->hosts[1].sessions[0].rx[0].state, TS_RX_FREE);
    seen = 0;
    net_run(net, 3000000, NULL); /* and then it is told */
    assert_int_equal(seen, 0);
    net_free(net);
}

static void asking_a_busy_peer_for_room_backs_off(void **state) {
    (void)state;
    struct net *net = watched_pair(3, TS_F_POLL);
    losing = false;
    net->hosts[1].hold = true;
    for (uint32_t i = 0; i < TS_RX_SLOTS; i++) {
        say(net, 100, 60000);
        net_run(net, 20000, NULL);
    }
    say(net, 100, 60000);
    net_run(net, 10000000, NULL); /* every POLL is answered, none with more room */
    assert_in_range(seen, 15, 35);
    net_free(net);
}

static void limit_that_nobody_can_mean_is_dropped(void **state) {
    (void)state;
    struct net *net = net_pair(4);
    struct ts_session *s = &net->hosts[0].sessions[0];
    const struct ts_crc *crc = &net->hosts[0].cfg.endpoint.crc;
    uint8_t bytes[TS_CONTROL_FRAME_BYTES];
    struct ts_frame ack = {.kind = TS_F_ACK, .message = 9, .echo = TS_ECHO_NONE, .limit = TS_RX_SLOTS + 1};
    uint32_t dropped = net->hosts[0].node.ep.stats.dropped;
    net_inject(net, 1, 0, bytes, ts_frame_encode(crc, s->keys.sid, s->keys.seed, &ack, bytes));
    ack.kind = TS_F_REJECT;
    ack.code = TS_E_UNSUPPORTED;
    net_inject(net, 1, 0, bytes, ts_frame_encode(crc, s->keys.sid, s->keys.seed, &ack, bytes));
    assert_int_equal(s->limit, TS_RX_SLOTS);
    assert_int_equal(net->hosts[0].node.ep.stats.dropped, dropped + 2);
    net_free(net);
}

static void poll_beyond_the_next_id_is_dropped(void **state) {
    (void)state;
    struct net *net = net_pair(5);
    struct ts_session *s = &net->hosts[1].sessions[0];
    const struct ts_crc *crc = &net->hosts[1].cfg.endpoint.crc;
    uint8_t bytes[TS_CONTROL_FRAME_BYTES];
    struct ts_frame poll = {.kind = TS_F_POLL, .message = 1, .oldest = TS_RX_SLOTS + 2};
    net_inject(net, 0, 1, bytes, ts_frame_encode(crc, s->keys.sid, s->keys.seed, &poll, bytes));
    assert_int_equal(s->highest, 0);
    poll.oldest = TS_RX_SLOTS + 1;
    net_inject(net, 0, 1, bytes, ts_frame_encode(crc, s->keys.sid, s->keys.seed, &poll, bytes));
    assert_int_equal(s->highest, TS_RX_SLOTS);
    assert_int_equal(s->released, TS_RX_SLOTS);
    net_free(net);
}

static bool first_sent(struct net *net) {
    return net->hosts[0].sent_ok + net->hosts[0].sent_failed > 0;
}

static void message_survives_the_receivers_patience(void **state) {
    (void)state;
    struct net *net = net_pair(6);
    net_run(net, 100000, NULL);
    say(net, 8000, 30000);
    net_run(net, 1500, NULL);
    net->cut = true; /* longer than the partial timeout, shorter than the idle timeout */
    net_run(net, 11000000, NULL);
    assert_int_equal(net->hosts[1].sessions[0].rx[0].state, TS_RX_FREE);
    net->cut = false;
    assert_true(net_run(net, 5000000, first_sent));
    net_run(net, 2000000, NULL);
    assert_int_equal(net->hosts[0].downs, 0);
    assert_int_equal(net->hosts[0].sent_ok, 1);
    assert_int_equal(net->hosts[1].messages, 1);
    net_free(net);
}

static void acceptor_knows_the_round_trip_before_it_sends(void **state) {
    (void)state;
    struct net *net = net_pair(7);
    net_run(net, 10000, NULL);
    assert_true(net->hosts[1].sessions[0].rtt.known);
    assert_true(net->hosts[1].sessions[0].clock.known);
    net_free(net);
}

static void duplicated_acks_give_one_sample(void **state) {
    (void)state;
    struct net *net = net_pair(8);
    net_run(net, 100000, NULL);
    net->duplicate = 10000;
    for (uint32_t i = 0; i < 50; i++) {
        say(net, 8000, 0);
        net_run(net, 200000, NULL);
    }
    assert_int_equal(net->hosts[0].sent_ok, 50);
    assert_in_range(net->hosts[0].sessions[0].rtt.srtt_us, 1900, 2200);
    net_free(net);
}

static uint32_t wanted;

static bool all_sent(struct net *net) {
    return net->hosts[0].sent_ok + net->hosts[0].sent_failed >= wanted;
}

/* About half of all probes go unanswered here: rows of ten are common enough to meet. */
static void live_link_never_meets_the_deadline(void **state) {
    (void)state;
    for (uint32_t slow = 0; slow < 2; slow++) {
        struct net *net = net_pair(9);
        net->delay_us = slow != 0 ? 120000 : 3000;
        net->loss = 3000;
        net->corrupt = 300;
        uint64_t longest = 0;
        for (wanted = 1; wanted <= 4000; wanted++) {
            uint64_t start = net->now;
            assert_int_equal(say(net, slow != 0 ? 200 : 1000, 0), TS_OK);
            assert_true(net_run(net, 20000000, all_sent));
            longest = net->now - start > longest ? net->now - start : longest;
        }
        print_message("RTT %u ms, loss 30 %% each way, corruption 3 %%: longest of 4,000 took %.2f s\n",
                      2 * net->delay_us / 1000, (double)longest / 1e6);
        assert_int_equal(net->hosts[0].sent_failed, 0);
        net_free(net);
    }
}

/* What a sender says to a peer that is silent: D and the fragment, P for POLL, a for PING. */
static char row[200];

static void note_row(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len) {
    (void)to;
    (void)len;
    (void)net;
    char one[16] = "";
    uint32_t kind = bytes[0] >> 4;
    if (from == 0 && kind == TS_F_DATA) {
        snprintf(one, sizeof one, " D%u", ts_get16(bytes + 4));
    } else if (from == 0) {
        snprintf(one, sizeof one, "%s", kind == TS_F_POLL ? " P" : kind == TS_F_PING ? " a" : " ?");
    }
    strncat(row, one, sizeof row - strlen(row) - 1);
}

static void row_of_probes_is_data_now_and_then(void **state) {
    (void)state;
    struct net *net = net_pair(10);
    net_run(net, 100000, NULL);
    net->cut = true;
    net->tap = note_row;
    row[0] = '\0';
    say(net, 700, 0);
    net_run(net, 1500000, NULL);
    assert_non_null(strstr(row, " D0 D1 D2 D2 a P P P P P P D0 P a P P P P P P D0 P a P"));
    net_free(net);
}

/* Half of all frames lost and more, each way: three of four probes or more go unanswered. */
static void rows_of_probes_end_before_the_deadline(void **state) {
    (void)state;
    static const uint32_t cases[][2] = {{5000, 5500}, {6000, 200}};
    for (uint32_t i = 0; i < 2; i++) {
        struct net *net = net_pair(11);
        net->delay_us = 50000;
        uint64_t longest = 0;
        for (wanted = 1; wanted <= 520; wanted++) {
            net->loss = wanted > 20 ? cases[i][0] : 0; /* the first learn the round trip */
            uint64_t start = net->now;
            assert_int_equal(say(net, cases[i][1], 0), TS_OK);
            assert_true(net_run(net, 20000000, all_sent));
            longest = net->now - start > longest ? net->now - start : longest;
        }
        print_message("RTT 100 ms, loss %u %% each way, %u bytes: longest of 500 took %.2f s\n", cases[i][0] / 100,
                      cases[i][1], (double)longest / 1e6);
        assert_int_equal(net->hosts[0].sent_failed, 0);
        net_free(net);
    }
}

static void round_trip_that_grew_suddenly_is_learnt(void **state) {
    (void)state;
    struct net *net = net_pair(12);
    net_run(net, 100000, NULL);
    assert_true(net->hosts[0].sessions[0].rtt.srtt_us < 10000);
    net->delay_us = 225000;
    for (wanted = 1; wanted <= 30; wanted++) {
        assert_int_equal(say(net, 100, 0), TS_OK);
        assert_true(net_run(net, 20000000, all_sent));
        net_run(net, 1000000, NULL);
    }
    assert_in_range(net->hosts[0].sessions[0].rtt.srtt_us, 400000, 500000);
    net_free(net);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(giving_up_all_slots_frees_the_receiver),
        cmocka_unit_test(lost_word_of_giving_up_is_repeated),
        cmocka_unit_test(asking_a_busy_peer_for_room_backs_off),
        cmocka_unit_test(limit_that_nobody_can_mean_is_dropped),
        cmocka_unit_test(poll_beyond_the_next_id_is_dropped),
        cmocka_unit_test(message_survives_the_receivers_patience),
        cmocka_unit_test(acceptor_knows_the_round_trip_before_it_sends),
        cmocka_unit_test(duplicated_acks_give_one_sample),
        cmocka_unit_test(live_link_never_meets_the_deadline),
        cmocka_unit_test(row_of_probes_is_data_now_and_then),
        cmocka_unit_test(rows_of_probes_end_before_the_deadline),
        cmocka_unit_test(round_trip_that_grew_suddenly_is_learnt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
