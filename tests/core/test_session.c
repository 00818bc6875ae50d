/* Sessions: opening, refusing, ending, coming back, clocks and credit. */
#include "check.h"
#include "network.h"

static struct host *host(struct net *net, uint32_t i) {
    return &net->hosts[i];
}

static int say_to(struct net *net, uint8_t from, const uint8_t *body, uint32_t len, uint32_t timeout_ms) {
    struct host *h = host(net, from);
    int code = ts_send(&h->node.ep, host_now(h), 0, TS_CONTROL, body, len, timeout_ms, 1);
    h->wake = net->now;
    return code;
}

static void opening_brings_both_up(void **state) {
    (void)state;
    struct net *net = net_pair(1);
    struct ts_session *a = &host(net, 0)->sessions[0];
    struct ts_session *b = &host(net, 1)->sessions[0];
    assert_int_equal(a->keys.sid, b->keys.sid);
    assert_int_equal(a->frame_size, 250);
    assert_int_equal(b->peer.role, TS_ROLE_HEAD);
    assert_true(a->inference && b->inference);
    net_free(net);
}

static void lost_hello_is_repeated(void **state) {
    (void)state;
    struct net *net = net_new(2);
    net->loss = 5000;
    host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1));
    host_start(host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1));
    net_run(net, 15000000, NULL);
    assert_true(host(net, 0)->ups >= 1 && host(net, 1)->ups >= 1);
    net_free(net);
}

static void absent_peer_is_named(void **state) {
    (void)state;
    struct net *net = net_new(3);
    host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1));
    uint8_t body[10] = {0};
    assert_int_equal(say_to(net, 0, body, sizeof body, 3000), TS_OK);
    net_run(net, 2900000, NULL);
    assert_int_equal(host(net, 0)->sent_failed, 0);
    net_run(net, 200000, NULL);
    assert_int_equal(host(net, 0)->last_sent_code, TS_E_NO_PEER);
    net_run(net, 2000000, NULL);
    assert_int_equal(host(net, 0)->last_down, TS_E_NO_PEER);
    host_start(host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1)); /* it turns up later */
    net_run(net, 3000000, NULL);
    assert_int_equal(host(net, 0)->ups, 1);
    net_free(net);
}

static void refusals_are_named_and_fast(void **state) {
    (void)state;
    const struct {
        uint8_t role, stage, stages, bundle, refuse;
        uint16_t mtu;
        uint32_t code;
    } cases[] = {
        {TS_ROLE_TAIL, 1, 2, 9, 0, 250, TS_E_BUNDLE_MISMATCH},    {TS_ROLE_TAIL, 2, 3, 1, 0, 250, TS_E_STAGE_MISMATCH},
        {TS_ROLE_HEAD, 0, 2, 1, 0, 250, TS_E_STAGE_MISMATCH},     {TS_ROLE_TAIL, 1, 2, 1, 1, 250, TS_E_REFUSED},
        {TS_ROLE_BRIDGE, 255, 0, 1, 0, 250, TS_E_STAGE_MISMATCH},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct net *net = net_new(4);
        host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1));
        struct host *h = host_setup(net, 1, cases[i].role, cases[i].stage, cases[i].stages, -1);
        h->cfg.endpoint.bundle[0] = cases[i].bundle;
        h->cfg.endpoint.refuse = cases[i].refuse != 0;
        host_start(h);
        net_run(net, 20000, NULL);
        assert_int_equal(host(net, 0)->last_down, cases[i].code);
        assert_int_equal(host(net, 0)->ups + h->ups, 0);
        assert_int_equal(h->sessions[0].state, TS_S_DOWN); /* refusing costs no state */
        net_free(net);
    }
}

static void refusal_ends_what_was_queued(void **state) {
    (void)state;
    struct net *net = net_new(5);
    uint8_t body[4] = {0};
    host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1));
    host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1)->cfg.endpoint.bundle[5] = 77;
    host_start(host(net, 1));
    say_to(net, 0, body, sizeof body, 0);
    net_run(net, 20000, NULL);
    assert_int_equal(host(net, 0)->last_sent_code, TS_E_BUNDLE_MISMATCH);
    net_free(net);
}

/* Answers every HELLO as another version would. */
static uint8_t answer_max, answer_min;
static uint16_t answer_status;

static void other_version(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len) {
    struct ts_hello h;
    uint8_t reply[TS_HELLO_BYTES];
    const struct ts_crc *crc = &net->hosts[0].cfg.endpoint.crc;
    (void)to;
    if (from == 0 && ts_hello_decode(crc, TS_F_HELLO, bytes, len, &h)) {
        h.version_max = answer_max;
        h.version_min = answer_min;
        h.status = answer_status;
        h.nonce_a = answer_status == 0 ? 5 : 0;
        h.role = TS_ROLE_TAIL;
        h.stage = 1;
        ts_hello_encode(crc, TS_F_HELLO_ACK, &h, reply);
        net_post(net, 1, 0, reply, sizeof reply);
    }
}

static void other_versions_are_named(void **state) {
    (void)state;
    const uint16_t codes[] = {TS_E_VERSION_OLDER, TS_E_VERSION_NEWER};
    for (size_t i = 0; i < 2; i++) {
        struct net *net = net_new(6);
        answer_max = answer_min = i == 0 ? 2 : 0;
        answer_status = codes[i];
        net->tap = other_version;
        host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1));
        net_run(net, 50000, NULL);
        assert_int_equal(host(net, 0)->last_down, codes[i]);
        net_free(net);
    }
}

static void accepting_answer_with_nonsense_is_dropped(void **state) {
    (void)state;
    struct net *net = net_new(7);
    answer_max = 2; /* a version that was not offered */
    answer_min = 1;
    answer_status = 0;
    net->tap = other_version;
    host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1));
    net_run(net, 6000000, NULL);
    assert_int_equal(host(net, 0)->ups, 0);
    assert_int_equal(host(net, 0)->last_down, TS_E_NO_PEER);
    net_free(net);
}

static void silent_peer_is_lost(void **state) {
    (void)state;
    struct net *net = net_pair(8);
    net->cut = true;
    net_run(net, 14000000, NULL);
    assert_int_equal(host(net, 0)->downs + host(net, 1)->downs, 0);
    net_run(net, 2000000, NULL);
    assert_int_equal(host(net, 0)->last_down, TS_E_PEER_LOST);
    assert_int_equal(host(net, 1)->last_down, TS_E_PEER_LOST);
    net->cut = false;
    net_run(net, 3000000, NULL);
    assert_int_equal(host(net, 0)->ups, 2);
    assert_int_equal(host(net, 1)->ups, 2);
    net_free(net);
}

static void idle_session_stays_up(void **state) {
    (void)state;
    struct net *net = net_pair(9);
    net->other_frames = 0;
    net_run(net, 600000000, NULL);
    assert_int_equal(host(net, 0)->downs + host(net, 1)->downs, 0);
    assert_true(net->other_frames <= 4 * 120 + 4); /* a PING and a PONG each five seconds at most from both */
    net_free(net);
}

static void restarted_acceptor_is_found_out(void **state) {
    (void)state;
    struct net *net = net_pair(10);
    uint8_t body[3000];
    memset(body, 7, sizeof body);
    net_run(net, 100000, NULL);
    host_start(host(net, 1)); /* forgets everything */
    say_to(net, 0, body, sizeof body, 0);
    net_run(net, 1000000, NULL);
    assert_int_equal(host(net, 0)->last_down, TS_E_RESET);
    assert_int_equal(host(net, 0)->ups, 2);
    assert_int_equal(host(net, 0)->sent_ok, 1);
    assert_int_equal(host(net, 1)->messages, 1);
    net_free(net);
}

static void restarted_initiator_replaces_its_session(void **state) {
    (void)state;
    struct net *net = net_pair(11);
    net_run(net, 10000, NULL);
    host_start(host(net, 0));
    net_run(net, 100000, NULL);
    assert_int_equal(host(net, 1)->last_down, TS_E_REPLACED);
    assert_int_equal(host(net, 1)->ups, 2);
    assert_int_equal(host(net, 1)->sessions[1].state, TS_S_DOWN); /* same slot, not another */
    net_free(net);
}

static void a_broken_connection_ends_the_session_at_once(void **state) {
    (void)state;
    struct net *net = net_pair(21);
    uint8_t body[5000];
    memset(body, 9, sizeof body);
    net_run(net, 100000, NULL);
    say_to(net, 0, body, sizeof body, 0);
    net_run(net, 500, NULL);
    struct ts_addr elsewhere = host_addr(3);
    ts_gone(&host(net, 0)->node.ep, host_now(host(net, 0)), &elsewhere);
    assert_int_equal(host(net, 0)->downs, 0); /* nobody's connection */
    struct ts_addr tail = host_addr(1), head = host_addr(0);
    ts_gone(&host(net, 0)->node.ep, host_now(host(net, 0)), &tail);
    ts_gone(&host(net, 1)->node.ep, host_now(host(net, 1)), &head);
    assert_int_equal(host(net, 0)->last_down, TS_E_SEND_FAILED);
    assert_int_equal(host(net, 1)->last_down, TS_E_SEND_FAILED);
    assert_int_equal(host(net, 1)->sessions[0].state, TS_S_DOWN);
    net_run(net, 2000000, NULL);
    /* The initiator kept its message and sent it in the next session. */
    assert_int_equal(host(net, 0)->ups, 2);
    assert_int_equal(host(net, 0)->sent_ok, 1);
    assert_int_equal(host(net, 1)->messages, 1);
    assert_int_equal(host(net, 1)->last_len, sizeof body);
    net_free(net);
}

static void a_broken_connection_forgets_a_pending_hello(void **state) {
    (void)state;
    struct net *net = net_new(22);
    host_start(host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1));
    struct ts_hello hello = {.version_max = 1,
                             .version_min = 1,
                             .nonce_i = 77,
                             .mtu = 250,
                             .window = 32,
                             .max_message = 100,
                             .slots = 2,
                             .role = TS_ROLE_HOST,
                             .stage = TS_NO_STAGE,
                             .codecs = 1};
    uint8_t frame[TS_HELLO_BYTES];
    ts_hello_encode(&host(net, 1)->cfg.endpoint.crc, TS_F_HELLO, &hello, frame);
    net_inject(net, 0, 1, frame, sizeof frame);
    assert_int_equal(host(net, 1)->sessions[0].state, TS_S_PENDING);
    struct ts_addr from = host_addr(0);
    ts_gone(&host(net, 1)->node.ep, host_now(host(net, 1)), &from);
    assert_int_equal(host(net, 1)->sessions[0].state, TS_S_DOWN);
    assert_int_equal(host(net, 1)->downs, 0); /* it never was up */
    net_run(net, 4000000, NULL);
    assert_int_equal(host(net, 1)->downs, 0);
    net_free(net);
}

static void close_is_told(void **state) {
    (void)state;
    struct net *net = net_pair(12);
    uint8_t body[5000] = {0};
    say_to(net, 0, body, sizeof body, 0);
    net_run(net, 500, NULL);
    ts_close(&host(net, 0)->node.ep, host_now(host(net, 0)), 0);
    net_run(net, 100000, NULL);
    assert_int_equal(host(net, 0)->last_down, TS_E_CLOSED);
    assert_int_equal(host(net, 0)->last_sent_code, TS_E_CLOSED);
    assert_int_equal(host(net, 1)->last_down, TS_E_CLOSED);
    assert_int_equal(host(net, 1)->sessions[0].state, TS_S_DOWN);
    net_free(net);
}

static void pending_hello_is_forgotten(void **state) {
    (void)state;
    struct net *net = net_new(13);
    uint8_t bytes[TS_HELLO_BYTES];
    struct host *h = host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1);
    host_start(h);
    struct ts_hello hello = {.version_max = 1,
                             .version_min = 1,
                             .slots = 2,
                             .role = TS_ROLE_HEAD,
                             .stage_count = 2,
                             .mtu = 250,
                             .window = 64,
                             .codecs = 1,
                             .nonce_i = 5,
                             .max_message = 100,
                             .bundle = {1, 2, 3}};
    for (uint8_t peer = 0; peer < 3; peer += 2) {
        ts_hello_encode(&h->cfg.endpoint.crc, TS_F_HELLO, &hello, bytes);
        net_inject(net, peer, 1, bytes, sizeof bytes);
    }
    net_inject(net, 3, 1, bytes, sizeof bytes); /* busy */
    assert_int_equal(h->sessions[0].state, TS_S_PENDING);
    assert_int_equal(h->sessions[1].state, TS_S_PENDING);
    net_run(net, 3100000, NULL);
    assert_int_equal(h->sessions[0].state, TS_S_DOWN);
    assert_int_equal(h->sessions[1].state, TS_S_DOWN);
    net_free(net);
}

static void clocks_are_compared(void **state) {
    (void)state;
    const uint64_t offsets[] = {0, 5000000000u, 1u << 20};
    for (size_t i = 0; i < 3; i++) {
        struct net *net = net_new(14);
        net->jitter_us = 400;
        host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1);
        host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1);
        host(net, 0)->clock_offset_us = 1234567;
        host(net, 1)->clock_offset_us = offsets[i];
        host_start(host(net, 0));
        host_start(host(net, 1));
        net_run(net, 60000000, NULL);
        const struct ts_clock *c = &host(net, 0)->sessions[0].clock;
        int64_t want = (int64_t)offsets[i] - 1234567;
        assert_true(c->known);
        assert_true(llabs(c->offset_us - want) <= c->uncertainty_us + 1);
        assert_true(c->uncertainty_us <= 1400);
        net_free(net);
    }
}

static void held_messages_hold_the_sender_back(void **state) {
    (void)state;
    struct net *net = net_pair(15);
    uint8_t body[100] = {1};
    struct host *tail = host(net, 1);
    tail->hold = true;
    say_to(net, 0, body, sizeof body, 60000);
    say_to(net, 0, body, sizeof body, 60000);
    net_run(net, 50000, NULL);
    assert_int_equal(host(net, 0)->sent_ok, 2); /* two slots */
    say_to(net, 0, body, sizeof body, 60000);
    net_run(net, 5000000, NULL);
    assert_int_equal(host(net, 0)->sent_ok, 2);
    assert_int_equal(tail->messages, 2);
    net->data_frames = 0;
    net->cut = true; /* the ACK that tells of the free slot is lost */
    ts_release(&tail->node.ep, host_now(tail), tail->held_session, tail->held_slot);
    net->cut = false;
    net_run(net, 2500000, NULL); /* a POLL asks again */
    assert_int_equal(host(net, 0)->sent_ok, 3);
    assert_int_equal(net->data_frames, 1);
    net_free(net);
}

static void released_slot_is_told_at_once(void **state) {
    (void)state;
    struct net *net = net_pair(31);
    uint8_t body[100] = {1};
    struct host *tail = host(net, 1);
    tail->hold = true;
    for (uint32_t i = 0; i < 2; i++) {
        say_to(net, 0, body, sizeof body, 60000);
        net_run(net, 10000, NULL);
    }
    say_to(net, 0, body, sizeof body, 60000);
    net_run(net, 3000000, NULL);
    ts_release(&tail->node.ep, host_now(tail), tail->held_session, tail->held_slot);
    net_run(net, 4100, NULL); /* two round trips */
    assert_int_equal(host(net, 0)->sent_ok, 3);
    net_free(net);
}

/* A one-fragment message with any id, from host 0 to host 1, past host 0's own state. */
static void forge(struct net *net, uint32_t id, uint16_t fragment) {
    uint8_t bytes[250];
    uint8_t payload[242] = {0};
    const struct ts_crc *crc = &host(net, 0)->cfg.endpoint.crc;
    const struct ts_keys *k = &host(net, 0)->sessions[0].keys;
    struct ts_envelope env = {.kind = TS_CONTROL, .id = id};
    struct ts_frame f = {
        .kind = TS_F_DATA, .message = (uint16_t)id, .fragment = fragment, .payload = payload, .payload_len = 242};
    if (fragment == 0) {
        ts_envelope_encode(crc, k->sid, &env, payload, 0, payload);
        f.payload_len = TS_ENVELOPE;
        f.flags = TS_DATA_LAST;
    }
    net_inject(net, 0, 1, bytes, ts_frame_encode(crc, k->sid, k->seed, &f, bytes));
}

static void message_beyond_the_limit_is_dropped(void **state) {
    (void)state;
    struct net *net = net_pair(32);
    forge(net, 3, 0);
    assert_int_equal(host(net, 1)->messages, 0);
    forge(net, 2, 0);
    assert_int_equal(host(net, 1)->messages, 1);
    forge(net, 3, 0);
    assert_int_equal(host(net, 1)->messages, 2);
    net_free(net);
}

static void abandoned_message_stays_abandoned(void **state) {
    (void)state;
    struct net *net = net_pair(33);
    uint8_t bytes[TS_CONTROL_FRAME_BYTES];
    const struct ts_crc *crc = &host(net, 0)->cfg.endpoint.crc;
    const struct ts_keys *k = &host(net, 0)->sessions[0].keys;
    struct ts_session *s = &host(net, 1)->sessions[0];
    struct ts_frame poll = {.kind = TS_F_POLL, .message = 1, .oldest = 2};
    forge(net, 1, 3);
    assert_int_equal(s->rx[0].state, TS_RX_PARTIAL);
    net_inject(net, 0, 1, bytes, ts_frame_encode(crc, k->sid, k->seed, &poll, bytes));
    assert_int_equal(s->rx[0].state, TS_RX_FREE);
    forge(net, 1, 4);
    assert_int_equal(s->rx[0].state, TS_RX_FREE);
    forge(net, 2, 3); /* left alone, this one goes by itself */
    net_run(net, 11000000, NULL);
    assert_int_equal(s->rx[0].state, TS_RX_FREE);
    assert_int_equal(s->released, 2);
    net_free(net);
}

static void reset_needs_the_last_ping(void **state) {
    (void)state;
    struct net *net = net_pair(34);
    uint8_t bytes[TS_CONTROL_FRAME_BYTES];
    struct ts_session *s = &host(net, 0)->sessions[0];
    const struct ts_crc *crc = &host(net, 0)->cfg.endpoint.crc;
    s->ping_waiting = true;
    struct ts_frame f = {.kind = TS_F_RESET, .seq = (uint16_t)(s->ping_seq + 1)};
    net_inject(net, 1, 0, bytes, ts_frame_encode(crc, s->keys.sid, s->keys.seed, &f, bytes));
    assert_int_equal(host(net, 0)->downs, 0);
    f.seq--;
    net_inject(net, 1, 0, bytes, ts_frame_encode(crc, s->keys.sid, s->keys.seed, &f, bytes));
    assert_int_equal(host(net, 0)->downs, 1);
    net_free(net);
}

static uint8_t last_hello_ack[TS_HELLO_BYTES];

static void keep_hello_ack(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len) {
    (void)net;
    (void)from;
    (void)to;
    if (bytes[0] >> 4 == TS_F_HELLO_ACK && len == sizeof last_hello_ack) {
        memcpy(last_hello_ack, bytes, len);
    }
}

static void repeated_hello_gets_the_same_answer(void **state) {
    (void)state;
    struct net *net = net_pair(35);
    uint8_t bytes[TS_HELLO_BYTES];
    struct ts_hello h = {.version_max = 1,
                         .version_min = 1,
                         .slots = 2,
                         .role = TS_ROLE_HEAD,
                         .stage_count = 2,
                         .mtu = 250,
                         .window = 64,
                         .codecs = 1,
                         .max_message = 100,
                         .bundle = {1, 2, 3}};
    const struct ts_crc *crc = &host(net, 0)->cfg.endpoint.crc;
    net->tap = keep_hello_ack;
    h.nonce_i = host(net, 1)->sessions[0].keys.nonce_i;
    ts_hello_encode(crc, TS_F_HELLO, &h, bytes);
    net_inject(net, 0, 1, bytes, sizeof bytes);
    assert_int_equal(ts_get32(last_hello_ack + 8), host(net, 1)->sessions[0].keys.nonce_a);
    assert_int_equal(host(net, 1)->sessions[0].pending.until, 0);
    h.nonce_i = 12345; /* another one is answered, and changes nothing yet */
    ts_hello_encode(crc, TS_F_HELLO, &h, bytes);
    net_inject(net, 0, 1, bytes, sizeof bytes);
    uint32_t nonce_a = ts_get32(last_hello_ack + 8);
    net_inject(net, 0, 1, bytes, sizeof bytes);
    assert_int_equal(ts_get32(last_hello_ack + 8), nonce_a);
    assert_int_not_equal(nonce_a, host(net, 1)->sessions[0].keys.nonce_a);
    assert_int_equal(host(net, 1)->downs, 0);
    net_free(net);
}

static void many_messages_keep_their_order_of_ids(void **state) {
    (void)state;
    struct net *net = net_pair(16);
    uint8_t body[700];
    memset(body, 3, sizeof body);
    net->loss = 1000;
    /* More than 2^16 would take long; start close to the wrap of the wire's ids on both sides. */
    host(net, 0)->sessions[0].next_id = 65530;
    host(net, 0)->sessions[0].limit = 65531;
    host(net, 1)->sessions[0].highest = 65529;
    host(net, 1)->sessions[0].released = 65529;
    for (uint32_t i = 1; i <= 40; i++) {
        assert_int_equal(say_to(net, 0, body, sizeof body, 0), TS_OK);
        net_run(net, 500000, NULL);
        assert_int_equal(host(net, 1)->messages, i);
    }
    net_run(net, 500000, NULL);
    assert_int_equal(host(net, 0)->sent_ok, 40);
    assert_int_equal(host(net, 0)->sessions[0].next_id, 65570);
    net_free(net);
}

static void full_link_is_tried_again(void **state) {
    (void)state;
    struct net *net = net_pair(17);
    uint8_t body[2000] = {4};
    host(net, 0)->full = true;
    say_to(net, 0, body, sizeof body, 0);
    net_run(net, 300000, NULL);
    assert_int_equal(host(net, 1)->messages, 0);
    assert_true(host(net, 0)->node.ep.stats.blocked > 0);
    assert_true(host(net, 0)->node.ep.stats.blocked < 1000); /* no busy loop */
    host(net, 1)->full = true;                               /* and the ACKs cannot leave */
    host(net, 0)->full = false;
    net_run(net, 50000, NULL);
    assert_int_equal(host(net, 1)->messages, 1);
    assert_int_equal(host(net, 0)->sent_ok, 0);
    host(net, 1)->full = false;
    net_run(net, 50000, NULL);
    assert_int_equal(host(net, 0)->sent_ok, 1);
    assert_int_equal(host(net, 0)->sent_failed, 0);
    net_free(net);
}

static void cancelled_message_frees_the_receiver(void **state) {
    (void)state;
    struct net *net = net_pair(18);
    uint8_t body[8000] = {4};
    for (uint32_t i = 0; i < 6; i++) {
        say_to(net, 0, body, sizeof body, 0);
        net_run(net, 1100, NULL); /* some fragments are there */
        ts_cancel(&host(net, 0)->node.ep, host_now(host(net, 0)), 0, 1);
        assert_int_equal(host(net, 0)->last_sent_code, TS_E_CANCELLED);
        host(net, 0)->wake = net->now;
        net_run(net, 20000, NULL);
        assert_int_equal(host(net, 1)->sessions[0].rx[0].state, TS_RX_FREE);
    }
    assert_int_equal(host(net, 1)->messages, 0);
    say_to(net, 0, body, sizeof body, 0);
    net_run(net, 50000, NULL);
    assert_int_equal(host(net, 1)->messages, 1);
    net_free(net);
}

static void unwanted_kinds_are_rejected_by_name(void **state) {
    (void)state;
    struct net *net = net_pair(19);
    uint8_t body[500] = {0};
    struct host *h = host(net, 0);
    const uint8_t kinds[] = {TS_RESULT, TS_ERROR, 0, 6, 127, TS_PRIVATE};
    for (size_t i = 0; i < sizeof kinds; i++) {
        assert_int_equal(ts_send(&h->node.ep, host_now(h), 0, kinds[i], body, sizeof body, 0, 1), TS_OK);
        h->wake = net->now;
        net_run(net, 50000, NULL);
        assert_int_equal(h->sent_failed, i + 1);
        assert_int_equal(h->last_sent_code, TS_E_UNSUPPORTED);
    }
    assert_int_equal(host(net, 1)->messages, 0);
    net_free(net);
}

static void only_so_many_messages_are_queued(void **state) {
    (void)state;
    struct net *net = net_pair(20);
    uint8_t body[10] = {0};
    assert_int_equal(say_to(net, 0, body, sizeof body, 0), TS_OK);
    assert_int_equal(say_to(net, 0, body, sizeof body, 0), TS_OK);
    assert_int_equal(say_to(net, 0, body, sizeof body, 0), TS_E_NO_SLOT);
    struct ts_endpoint *ep = &host(net, 0)->node.ep;
    assert_int_equal(ts_send(ep, net->now, 9, TS_CONTROL, body, 1, 0, 1), TS_E_INVALID);
    assert_int_equal(ts_send(ep, net->now, 1, TS_CONTROL, body, 1, 0, 1), TS_E_INVALID);
    assert_int_equal(ts_send(ep, net->now, 0, TS_CONTROL, NULL, 1, 0, 1), TS_E_INVALID);
    net_free(net);
}

static void config_that_cannot_work_is_refused(void **state) {
    (void)state;
    struct net *net = net_new(21);
    struct host *h = host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1);
    struct ts_node_config good = h->cfg;
    assert_int_equal(ts_node_init(&h->node, &h->cfg, 0), TS_OK);
    h->cfg.endpoint.rx_memory_bytes--;
    assert_int_equal(ts_node_init(&h->node, &h->cfg, 0), TS_E_NO_MEMORY);
    h->cfg = good;
    h->cfg.out_memory_bytes = 100;
    assert_int_equal(ts_node_init(&h->node, &h->cfg, 0), TS_E_NO_MEMORY);
    h->cfg = good;
    h->cfg.endpoint.frame_bytes = 249;
    assert_int_equal(ts_node_init(&h->node, &h->cfg, 0), TS_E_NO_MEMORY);
    h->cfg = good;
    h->link.mtu = TS_MIN_MTU - 1;
    assert_int_equal(ts_node_init(&h->node, &h->cfg, 0), TS_E_INVALID);
    h->link.mtu = TS_MAX_MTU + 1;
    assert_int_equal(ts_node_init(&h->node, &h->cfg, 0), TS_E_INVALID);
    h->link.mtu = 250;
    h->cfg.invoke = NULL;
    assert_int_equal(ts_node_init(&h->node, &h->cfg, 0), TS_E_INVALID);
    net_free(net);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_brings_both_up),
        cmocka_unit_test(lost_hello_is_repeated),
        cmocka_unit_test(absent_peer_is_named),
        cmocka_unit_test(refusals_are_named_and_fast),
        cmocka_unit_test(refusal_ends_what_was_queued),
        cmocka_unit_test(other_versions_are_named),
        cmocka_unit_test(accepting_answer_with_nonsense_is_dropped),
        cmocka_unit_test(silent_peer_is_lost),
        cmocka_unit_test(idle_session_stays_up),
        cmocka_unit_test(restarted_acceptor_is_found_out),
        cmocka_unit_test(restarted_initiator_replaces_its_session),
        cmocka_unit_test(a_broken_connection_ends_the_session_at_once),
        cmocka_unit_test(a_broken_connection_forgets_a_pending_hello),
        cmocka_unit_test(close_is_told),
        cmocka_unit_test(pending_hello_is_forgotten),
        cmocka_unit_test(clocks_are_compared),
        cmocka_unit_test(held_messages_hold_the_sender_back),
        cmocka_unit_test(released_slot_is_told_at_once),
        cmocka_unit_test(message_beyond_the_limit_is_dropped),
        cmocka_unit_test(abandoned_message_stays_abandoned),
        cmocka_unit_test(reset_needs_the_last_ping),
        cmocka_unit_test(repeated_hello_gets_the_same_answer),
        cmocka_unit_test(many_messages_keep_their_order_of_ids),
        cmocka_unit_test(full_link_is_tried_again),
        cmocka_unit_test(cancelled_message_frees_the_receiver),
        cmocka_unit_test(unwanted_kinds_are_rejected_by_name),
        cmocka_unit_test(only_so_many_messages_are_queued),
        cmocka_unit_test(config_that_cannot_work_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
