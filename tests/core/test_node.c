/* Nodes: inferences through heads, relays, tails and bridges. */
#include "check.h"
#include "network.h"

static struct host *host(struct net *net, uint32_t i) {
    return &net->hosts[i];
}

static uint32_t wanted;

static bool head_done(struct net *net) {
    return net->hosts[0].results + net->hosts[0].failures >= wanted;
}

static void inference_comes_back_exact(void **state) {
    (void)state;
    struct net *net = net_pair(1);
    host(net, 1)->invoke_us = 5000;
    for (wanted = 1; wanted <= 20; wanted++) {
        assert_int_equal(host_infer(host(net, 0), wanted, 5488, 0), TS_OK);
        assert_true(net_run(net, 1000000, head_done));
    }
    assert_int_equal(host(net, 0)->results, 20);
    assert_int_equal(host(net, 0)->inexact, 0);
    assert_true(host(net, 0)->phases_seen >= 4);
    net_free(net);
}

static void chain(struct net *net, uint8_t nodes) {
    for (uint8_t i = 0; i < nodes; i++) {
        uint8_t role = i == 0 ? TS_ROLE_HEAD : i + 1 == nodes ? TS_ROLE_TAIL : TS_ROLE_RELAY;
        host_start(host_setup(net, i, role, i, nodes, i + 1 == nodes ? -1 : i + 1));
    }
    net_run(net, 500000, NULL);
}

static void chains_of_relays_work(void **state) {
    (void)state;
    for (uint8_t nodes = 3; nodes <= 4; nodes++) {
        struct net *net = net_new(nodes);
        chain(net, nodes);
        net->loss = 1000;
        for (wanted = 1; wanted <= 30; wanted++) {
            assert_int_equal(host_infer(host(net, 0), wanted, 3000, 0), TS_OK);
            assert_true(net_run(net, 11000000, head_done));
        }
        assert_int_equal(host(net, 0)->results, 30);
        assert_int_equal(host(net, 0)->inexact, 0);
        assert_true(host(net, 0)->phases_seen >= 4 * (nodes - 1));
        net_free(net);
    }
}

static void pipelining_overlaps_engine_and_link(void **state) {
    (void)state;
    uint64_t took[2];
    for (uint32_t depth = 1; depth <= 2; depth++) {
        struct net *net = net_pair(5);
        for (uint32_t i = 0; i < 2; i++) {
            host(net, i)->async = true;
            host(net, i)->invoke_us = 20000;
        }
        net->delay_us = 5000;
        uint64_t start = net->now;
        uint32_t begun = 0;
        for (wanted = 1; wanted <= 20; wanted++) {
            while (begun < 20 && begun < wanted - 1 + depth) {
                assert_int_equal(host_infer(host(net, 0), ++begun, 1000, 0), TS_OK);
            }
            assert_true(net_run(net, 1000000, head_done));
        }
        took[depth - 1] = net->now - start;
        assert_int_equal(host(net, 0)->results, 20);
        assert_int_equal(host(net, 0)->inexact, 0);
        net_free(net);
    }
    print_message("20 inferences: %.0f ms one by one, %.0f ms pipelined\n", took[0] / 1e3, took[1] / 1e3);
    assert_true(took[1] * 3 < took[0] * 2);
}

static void several_tensors_keep_their_order(void **state) {
    (void)state;
    struct net *net = net_pair(6);
    static uint8_t data[600];
    for (uint32_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)(1 * 31u + i * 7u + (i >> 8));
    }
    host(net, 0)->asked[1] = 600;
    struct ts_tensors t = {.count = 3, .bytes = {100, 499, 1}, .total = 600, .data = data};
    assert_int_equal(ts_node_infer(&host(net, 0)->node, host_now(host(net, 0)), 1, &t, 0), TS_OK);
    host(net, 0)->wake = net->now;
    wanted = 1;
    assert_true(net_run(net, 1000000, head_done));
    assert_int_equal(host(net, 0)->results, 1);
    assert_int_equal(host(net, 0)->inexact, 0);
    net_free(net);
}

static void engine_failures_reach_the_head_by_name(void **state) {
    (void)state;
    for (uint8_t bad = 0; bad < 3; bad++) {
        struct net *net = net_new(7);
        chain(net, 3);
        host(net, bad)->invoke_code = TS_E_INVOKE_FAILED;
        host_infer(host(net, 0), 1, 100, 0);
        wanted = 1;
        assert_true(net_run(net, 500000, head_done));
        assert_int_equal(host(net, 0)->last_code, TS_E_INVOKE_FAILED);
        assert_int_equal(host(net, 0)->last_stage, bad);
        net_free(net);
    }
}

static void boundary_too_large_is_named(void **state) {
    (void)state;
    struct net *net = net_new(8);
    host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1));
    host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1)->cfg.endpoint.max_message = 1000;
    host_start(host(net, 1));
    net_run(net, 100000, NULL);
    host_infer(host(net, 0), 1, 2000, 0);
    wanted = 1;
    assert_true(net_run(net, 10000, head_done)); /* known from HELLO: nothing was sent */
    assert_int_equal(host(net, 0)->last_code, TS_E_TOO_LARGE);
    assert_int_equal(net->data_frames, 0);
    net_free(net);
}

static void result_too_large_is_named(void **state) {
    (void)state;
    struct net *net = net_new(9);
    host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1)->cfg.endpoint.max_message = 1000;
    host_start(host(net, 0));
    host_start(host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1));
    net_run(net, 100000, NULL);
    host_infer(host(net, 0), 1, 2000, 0);
    wanted = 1;
    assert_true(net_run(net, 500000, head_done));
    assert_int_equal(host(net, 0)->last_code, TS_E_TOO_LARGE);
    assert_int_equal(host(net, 0)->last_stage, 1);
    net_free(net);
}

static void output_beyond_its_buffer_is_an_engine_failure(void **state) {
    (void)state;
    struct net *net = net_new(10);
    host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1)->cfg.max_output = 1000;
    host_start(host(net, 0));
    host_start(host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1));
    net_run(net, 100000, NULL);
    host_infer(host(net, 0), 1, 2000, 0);
    wanted = 1;
    assert_true(net_run(net, 500000, head_done));
    assert_int_equal(host(net, 0)->last_code, TS_E_INVOKE_FAILED);
    net_free(net);
}

static void deadline_is_kept_and_named(void **state) {
    (void)state;
    struct net *net = net_pair(11);
    host(net, 1)->async = true;
    host(net, 1)->invoke_us = 3000000;
    host_infer(host(net, 0), 1, 100, 700);
    wanted = 1;
    uint64_t start = net->now;
    assert_true(net_run(net, 2000000, head_done));
    assert_int_equal(host(net, 0)->last_code, TS_E_DEADLINE);
    assert_true(net->now - start <= 710000);
    /* The tail's engine is still at work; the next inference waits for it and is exact. */
    host_infer(host(net, 0), 2, 100, 9000);
    wanted = 2;
    assert_true(net_run(net, 9000000, head_done));
    assert_int_equal(host(net, 0)->results, 1);
    assert_int_equal(host(net, 0)->inexact, 0);
    assert_int_equal(host(net, 0)->log[1], 1);
    net_free(net);
}

static void tail_that_never_comes_is_named(void **state) {
    (void)state;
    struct net *net = net_new(12);
    host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1));
    host_infer(host(net, 0), 1, 100, 1500);
    wanted = 1;
    assert_true(net_run(net, 1600000, head_done));
    assert_int_equal(host(net, 0)->last_code, TS_E_NO_PEER);
    net_free(net);
}

static void relay_without_its_tail_says_so(void **state) {
    (void)state;
    struct net *net = net_new(13);
    chain(net, 3);
    host_kill(host(net, 2));
    host(net, 1)->cfg.endpoint.idle_timeout_ms = 15000;
    net_run(net, 40000000, NULL);
    host_infer(host(net, 0), 1, 100, 2000);
    wanted = 1;
    assert_true(net_run(net, 3500000, head_done));
    assert_int_equal(host(net, 0)->failures, 1);
    assert_true(host(net, 0)->last_code == TS_E_NO_PEER || host(net, 0)->last_code == TS_E_PEER_LOST ||
                host(net, 0)->last_code == TS_E_DEADLINE);
    net_free(net);
}

static void jobs_and_ids_are_limited(void **state) {
    (void)state;
    struct net *net = net_pair(14);
    for (uint32_t i = 1; i <= NET_JOBS; i++) {
        assert_int_equal(host_infer(host(net, 0), i, 100, 0), TS_OK);
    }
    assert_int_equal(host_infer(host(net, 0), 1, 100, 0), TS_E_DUPLICATE);
    assert_int_equal(host_infer(host(net, 0), 50, 100, 0), TS_E_NO_SLOT);
    struct ts_tensors none = {.count = 0};
    assert_int_equal(ts_node_infer(&host(net, 0)->node, host_now(host(net, 0)), 51, &none, 0), TS_E_INVALID);
    assert_int_equal(host_infer(host(net, 1), 1, 100, 0), TS_OK); /* a tail may start one by hand */
    net_run(net, 1000000, NULL);
    assert_int_equal(host(net, 0)->results, NET_JOBS);
    assert_int_equal(host(net, 0)->inexact, 0);
    net_free(net);
}

static void two_heads_share_a_tail(void **state) {
    (void)state;
    struct net *net = net_new(15);
    host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 2));
    host_start(host_setup(net, 1, TS_ROLE_HEAD, 0, 2, 2));
    host_start(host_setup(net, 2, TS_ROLE_TAIL, 1, 2, -1));
    net_run(net, 500000, NULL);
    net->loss = 1000;
    for (uint32_t i = 1; i <= 50; i++) {
        host_infer(host(net, 0), i, 1000, 0); /* the same ids from both */
        host_infer(host(net, 1), i, 2000, 0);
        net_run(net, 1000000, NULL);
    }
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(host(net, i)->results, 50);
        assert_int_equal(host(net, i)->inexact, 0);
    }
    /* A third one finds it busy, and gets in once a place is free. */
    host_start(host_setup(net, 3, TS_ROLE_HEAD, 0, 2, 2));
    net_run(net, 300000, NULL);
    assert_int_equal(host(net, 3)->last_down, TS_E_BUSY);
    host_kill(host(net, 0));
    net_run(net, 20000000, NULL);
    assert_int_equal(host(net, 3)->ups, 1);
    net_free(net);
}

static void two_heads_with_the_same_ids_through_one_relay(void **state) {
    (void)state;
    struct net *net = net_new(16);
    host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 3, 2));
    host_start(host_setup(net, 1, TS_ROLE_HEAD, 0, 3, 2));
    static struct ts_session sessions[3];
    static uint8_t rx[TS_RX_MEMORY(3, NET_MESSAGE)];
    struct host *relay = host_setup(net, 2, TS_ROLE_RELAY, 1, 3, 3);
    relay->cfg.endpoint.sessions = sessions;
    relay->cfg.endpoint.session_count = 3;
    relay->cfg.endpoint.rx_memory = rx;
    relay->cfg.endpoint.rx_memory_bytes = sizeof rx;
    host_start(relay);
    host_setup(net, 3, TS_ROLE_TAIL, 2, 3, -1)->async = true; /* both are there at once */
    host(net, 3)->invoke_us = 20000;
    host_start(host(net, 3));
    net_run(net, 500000, NULL);
    for (uint32_t i = 1; i <= 20; i++) {
        host_infer(host(net, 0), i, 1000, 0);
        host_infer(host(net, 1), i, 999, 0);
        net_run(net, 1000000, NULL);
    }
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(host(net, i)->results, 20);
        assert_int_equal(host(net, i)->inexact, 0);
    }
    net_free(net);
}

static void waiting_inference_survives_a_tail_restart(void **state) {
    (void)state;
    struct net *net = net_pair(17);
    host(net, 1)->async = true;
    host(net, 1)->invoke_us = 500000;
    host_infer(host(net, 0), 1, 2000, 9000);
    net_run(net, 100000, NULL);
    assert_int_equal(host(net, 0)->jobs[0].state, TS_J_WAITING);
    host_start(host(net, 1)); /* it forgets what it was asked */
    /* Nothing is in flight, so the head learns of it by its next keep-alive. */
    wanted = 1;
    assert_true(net_run(net, 9000000, head_done));
    assert_int_equal(host(net, 0)->results, 1);
    assert_int_equal(host(net, 0)->inexact, 0);
    net_free(net);
}

static void inference_twice_is_answered(void **state) {
    (void)state;
    struct net *net = net_pair(23);
    struct host *h = host(net, 0);
    static uint8_t body[TS_TENSOR_HEADER(1) + 10];
    struct ts_tensors t = {.inference = 1, .count = 1, .bytes = {10}};
    host(net, 1)->async = true;
    host(net, 1)->invoke_us = 500000;
    ts_tensors_encode(TS_TENSOR, &t, body);
    host_infer(h, 1, 100, 0);
    net_run(net, 50000, NULL);
    assert_int_equal(ts_send(&h->node.ep, host_now(h), 0, TS_TENSOR, body, sizeof body, 0, 1), TS_OK);
    h->wake = net->now;
    wanted = 1;
    assert_true(net_run(net, 100000, head_done));
    assert_int_equal(h->last_code, TS_E_DUPLICATE);
    net_free(net);
}

static void engine_keeps_its_buffers_when_the_head_is_gone(void **state) {
    (void)state;
    struct net *net = net_pair(24);
    struct host *tail = host(net, 1);
    tail->async = true;
    tail->invoke_us = 300000;
    host_infer(host(net, 0), 1, 3000, 0);
    net_run(net, 100000, NULL);
    assert_int_equal(tail->jobs[0].state, TS_J_RUNNING);
    host_start(host(net, 0));
    net_run(net, 50000, NULL);
    assert_int_equal(tail->jobs[0].state, TS_J_DRAINING);
    host_infer(host(net, 0), 2, 3000, 0);
    host_infer(host(net, 0), 3, 3000, 0);
    wanted = 2;
    assert_true(net_run(net, 2000000, head_done));
    net_run(net, 50000, NULL); /* the last ACK */
    assert_int_equal(tail->jobs[0].state, TS_J_FREE);
    assert_int_equal(host(net, 0)->results, 2);
    assert_int_equal(host(net, 0)->inexact, 0);
    net_free(net);
}

static void tensors_wait_for_a_free_job(void **state) {
    (void)state;
    struct net *net = net_new(25);
    host_start(host_setup(net, 0, TS_ROLE_HEAD, 0, 2, 1));
    struct host *tail = host_setup(net, 1, TS_ROLE_TAIL, 1, 2, -1);
    tail->cfg.job_count = 1;
    tail->async = true;
    tail->invoke_us = 50000;
    host_start(tail);
    net_run(net, 100000, NULL);
    for (uint32_t i = 1; i <= NET_JOBS; i++) {
        assert_int_equal(host_infer(host(net, 0), i, 1000, 0), TS_OK);
    }
    wanted = NET_JOBS;
    assert_true(net_run(net, 2000000, head_done));
    assert_int_equal(host(net, 0)->results, NET_JOBS);
    assert_int_equal(host(net, 0)->inexact, 0);
    net_free(net);
}

/* One inference, cancelled when the head's job and the tail's are in these states. */
static void cancelled_at(enum ts_job_state state, enum ts_job_state below, uint32_t after_us) {
    struct net *net = net_pair(26);
    struct host *h = host(net, 0);
    host(net, 0)->async = host(net, 1)->async = true;
    host(net, 0)->invoke_us = 5000;
    host(net, 1)->invoke_us = 20000;
    assert_int_equal(host_infer(h, 1, 5000, 0), TS_OK);
    net_run(net, after_us, NULL);
    assert_int_equal(h->jobs[0].state, state);
    assert_int_equal(host(net, 1)->jobs[0].state, below);
    assert_int_equal(h->failures, 0);
    assert_int_equal(ts_node_cancel(&h->node, host_now(h), 1), TS_OK);
    h->wake = net->now;
    assert_int_equal(h->failures, 1);
    assert_int_equal(h->last_code, TS_E_CANCELLED);
    assert_int_equal(h->last_stage, 0);
    assert_int_equal(ts_node_cancel(&h->node, host_now(h), 1), TS_E_INVALID);
    /* All jobs can be had again: at once, but for the one that an engine has in its hands. */
    uint32_t busy = state == TS_J_RUNNING;
    for (uint32_t i = 2; i < 2 + NET_JOBS - busy; i++) {
        assert_int_equal(host_infer(h, i, 5000, 0), TS_OK);
    }
    assert_int_equal(host_infer(h, 50, 5000, 0), TS_E_NO_SLOT);
    net_run(net, 5000000, NULL);
    assert_int_equal(h->results, NET_JOBS - busy);
    assert_int_equal(h->inexact, 0);
    assert_int_equal(h->failures, 1);
    assert_int_equal(h->log[1], 1);
    for (uint32_t i = 0; i < NET_JOBS; i++) {
        assert_int_equal(h->jobs[i].state, TS_J_FREE);
        assert_int_equal(host(net, 1)->jobs[i].state, TS_J_FREE);
    }
    net_free(net);
}

static void cancelled_while_queued(void **state) {
    (void)state;
    cancelled_at(TS_J_QUEUED, TS_J_FREE, 0);
}

static void cancelled_in_the_engine(void **state) {
    (void)state;
    cancelled_at(TS_J_RUNNING, TS_J_FREE, 3000);
}

static void cancelled_while_sending(void **state) {
    (void)state;
    cancelled_at(TS_J_SENDING, TS_J_FREE, 5500);
}

static void cancelled_while_waiting(void **state) {
    (void)state;
    cancelled_at(TS_J_WAITING, TS_J_RUNNING, 20000);
}

static void cancelled_while_its_result_returns(void **state) {
    (void)state;
    cancelled_at(TS_J_WAITING, TS_J_RETURNING, 26500);
}

static void only_own_inferences_can_be_cancelled(void **state) {
    (void)state;
    struct net *net = net_pair(27);
    struct host *tail = host(net, 1);
    tail->async = true;
    tail->invoke_us = 20000;
    assert_int_equal(ts_node_cancel(&host(net, 0)->node, host_now(host(net, 0)), 1), TS_E_INVALID);
    host_infer(host(net, 0), 1, 100, 0);
    net_run(net, 10000, NULL);
    assert_int_equal(tail->jobs[0].state, TS_J_RUNNING);
    assert_int_equal(ts_node_cancel(&tail->node, host_now(tail), 1), TS_E_INVALID);
    wanted = 1;
    assert_true(net_run(net, 1000000, head_done));
    assert_int_equal(host(net, 0)->results, 1);
    net_run(net, 50000, NULL);
    assert_int_equal(ts_node_cancel(&host(net, 0)->node, host_now(host(net, 0)), 1), TS_E_INVALID);
    assert_int_equal(host(net, 0)->log[1], 1);
    net_free(net);
}

static void malformed_tensor_is_answered(void **state) {
    (void)state;
    struct net *net = net_pair(18);
    struct host *h = host(net, 0);
    uint8_t body[20] = {1, 0, 0, 0, 9};
    /* By hand, past the head's own node, so that the ERROR finds nobody and is only counted. */
    assert_int_equal(ts_send(&h->node.ep, host_now(h), 0, TS_TENSOR, body, sizeof body, 0, 1), TS_OK);
    h->wake = net->now;
    net_run(net, 100000, NULL);
    assert_int_equal(h->sent_ok, 1);
    assert_int_equal(host(net, 1)->node.malformed, 1);
    assert_int_equal(host(net, 1)->jobs[0].state, TS_J_FREE);
    assert_int_equal(host(net, 1)->invoked, 0);
    net_free(net);
}

static void other_codec_is_answered(void **state) {
    (void)state;
    struct net *net = net_pair(19);
    host_code(host(net, 0));
    host(net, 0)->sessions[0].codec = TS_CODEC_RANGE; /* a head that does not keep to what was agreed */
    host_infer(host(net, 0), 1, 100, 0);
    wanted = 1;
    assert_true(net_run(net, 500000, head_done));
    assert_int_equal(host(net, 0)->last_code, TS_E_CODEC_MISMATCH);
    net_free(net);
}

static void host_feeds_a_head(void **state) {
    (void)state;
    struct net *net = net_new(20);
    host_start(host_setup(net, 1, TS_ROLE_HEAD, 0, 2, 2));
    host_start(host_setup(net, 2, TS_ROLE_TAIL, 1, 2, -1));
    struct host *h = host_setup(net, 0, TS_ROLE_HOST, TS_NO_STAGE, 0, 1);
    host_start(h);
    net_run(net, 500000, NULL);
    assert_int_equal(h->ups, 1);
    /* An image as TENSOR to stage 0; its RESULT is no inference of this host's node, so it is only counted. */
    static uint8_t body[TS_TENSOR_HEADER(1) + 500];
    struct ts_tensors t = {.inference = 4, .count = 1, .stage = TS_NO_STAGE, .bytes = {500}};
    ts_tensors_encode(TS_TENSOR, &t, body);
    assert_int_equal(ts_send(&h->node.ep, host_now(h), 0, TS_TENSOR, body, sizeof body, 0, 1), TS_OK);
    h->wake = net->now;
    net_run(net, 500000, NULL);
    assert_int_equal(host(net, 1)->invoked, 1);
    assert_int_equal(host(net, 2)->invoked, 1);
    assert_int_equal(host(net, 1)->jobs[0].state, TS_J_FREE);
    net_free(net);
}

/* A bridge between two in-memory links: hosts 0 (link 0 at the bridge) and 1 (link 1). */
static struct {
    uint8_t frames[8][600];
    size_t len[8];
    struct ts_addr to[8];
    uint32_t count;
} wire;

static int wire_send(void *ctx, const struct ts_addr *to, const uint8_t *frame, size_t len) {
    (void)ctx;
    memcpy(wire.frames[wire.count % 8], frame, len);
    wire.len[wire.count % 8] = len;
    wire.to[wire.count++ % 8] = *to;
    return TS_OK;
}

static void bridge_forwards_without_looking(void **state) {
    (void)state;
    struct net *net = net_new(22);
    static const struct ts_link links[2] = {{.mtu = 600}, {.mtu = 250}};
    struct host *b = host_setup(net, 0, TS_ROLE_BRIDGE, TS_NO_STAGE, 0, -1);
    b->cfg.endpoint.links = links;
    b->cfg.endpoint.link_count = 2;
    b->cfg.endpoint.send = wire_send;
    struct ts_bridge bridge;
    assert_int_equal(ts_bridge_init(&bridge, &b->cfg, 0, 2, 0), TS_E_INVALID);
    assert_int_equal(ts_bridge_init(&bridge, &b->cfg, 0, 1, 0), TS_OK);
    const struct ts_crc *crc = &b->cfg.endpoint.crc;
    const struct ts_addr usb = {.link = 0, .len = 1, .bytes = {9}};
    const struct ts_addr mac = {.link = 1, .len = 6, .bytes = {2, 0, 0, 0, 0, 5}};
    const uint8_t inner[] = {0x33, 1, 2, 3, 4};
    uint8_t frame[600];
    wire.count = 0;
    ts_bridge_on_datagram(&bridge, 1, &mac, inner, sizeof inner); /* nobody to give it to yet */
    assert_int_equal(wire.count, 0);
    struct ts_forward f = {mac.bytes, inner, 6, sizeof inner};
    size_t len = ts_forward_encode(crc, &f, frame, sizeof frame);
    ts_bridge_on_datagram(&bridge, 1, &usb, frame, len);
    assert_int_equal(wire.count, 1);
    assert_int_equal(wire.to[0].link, 1);
    assert_memory_equal(wire.to[0].bytes, mac.bytes, 6);
    assert_int_equal(wire.len[0], sizeof inner);
    assert_memory_equal(wire.frames[0], inner, sizeof inner);
    ts_bridge_on_datagram(&bridge, 2, &mac, inner, sizeof inner);
    assert_int_equal(wire.count, 2);
    assert_int_equal(wire.to[1].link, 0);
    assert_memory_equal(wire.frames[1], frame, len);
    frame[3] ^= 1; /* damaged on the wire */
    ts_bridge_on_datagram(&bridge, 3, &usb, frame, len);
    static uint8_t big[251];
    f.inner = big;
    f.inner_len = sizeof big;
    len = ts_forward_encode(crc, &f, frame, sizeof frame);
    ts_bridge_on_datagram(&bridge, 3, &usb, frame, len); /* too long for the radio */
    assert_int_equal(wire.count, 2);
    assert_int_equal(bridge.node.ep.stats.dropped, 3);
    net_free(net);
}

struct slow_radio {
    uint32_t room, sent, to_host;
    uint8_t last[16];
    uint8_t window;
    uint16_t count; /* of the last CREDIT */
};

static int slow_send(void *ctx, const struct ts_addr *to, const uint8_t *frame, size_t len) {
    static const struct ts_crc crc = {NULL, ts_crc16_small, ts_crc32_small};
    struct slow_radio *r = ctx;
    if (to->link == 0) {
        assert_true(ts_credit_decode(&crc, frame, len, &r->window, &r->count));
        r->to_host++;
        return TS_OK;
    }
    if (r->room == 0) {
        return TS_E_WOULD_BLOCK;
    }
    r->room--;
    r->sent++;
    memcpy(r->last, frame, len < sizeof r->last ? len : sizeof r->last);
    return TS_OK;
}

static void bridge_keeps_what_the_radio_cannot_take_and_says_so(void **state) {
    (void)state;
    struct net *net = net_new(28);
    static const struct ts_link links[2] = {{.mtu = 600}, {.mtu = 250}};
    static uint8_t memory[3][250];
    struct ts_bridge_slot slots[3];
    struct slow_radio radio = {.room = 1};
    struct host *b = host_setup(net, 0, TS_ROLE_BRIDGE, TS_NO_STAGE, 0, -1);
    b->cfg.endpoint.links = links;
    b->cfg.endpoint.link_count = 2;
    b->cfg.endpoint.send = slow_send;
    b->cfg.endpoint.ctx = &radio;
    struct ts_bridge bridge;
    assert_int_equal(ts_bridge_init(&bridge, &b->cfg, 0, 1, 0), TS_OK);
    for (unsigned i = 0; i < 3; i++) {
        slots[i].frame = memory[i];
    }
    ts_bridge_queue(&bridge, slots, 3);
    const struct ts_crc *crc = &b->cfg.endpoint.crc;
    const struct ts_addr usb = {.link = 0, .len = 1, .bytes = {9}};
    const uint8_t mac[] = {2, 0, 0, 0, 0, 5};
    uint8_t frame[600];
    ts_credit_encode(crc, 0, 1000, frame); /* a host that has been there for long */
    ts_bridge_on_datagram(&bridge, 1, &usb, frame, TS_CREDIT_BYTES);
    assert_int_equal(radio.window, 3);
    assert_int_equal(radio.count, 1000);
    for (uint8_t n = 0; n < 5; n++) { /* one for the radio, three to keep, one too many */
        const uint8_t inner[] = {0x33, n};
        struct ts_forward f = {mac, inner, 6, sizeof inner};
        size_t len = ts_forward_encode(crc, &f, frame, sizeof frame);
        ts_bridge_on_datagram(&bridge, 2, &usb, frame, len);
    }
    assert_int_equal(radio.sent, 1);
    assert_int_equal(bridge.node.ep.stats.dropped, 1);
    assert_true(ts_bridge_poll(&bridge, 3) <= 1003);
    assert_int_equal(radio.count, 1002);
    radio.room = 2;
    ts_bridge_poll(&bridge, 4);
    assert_int_equal(radio.sent, 3);
    assert_int_equal(radio.last[1], 2); /* in order */
    assert_int_equal(radio.count, 1004);
    uint32_t told = radio.to_host;
    ts_bridge_poll(&bridge, 5);
    assert_int_equal(radio.to_host, told); /* nothing new */
    radio.room = 9;
    ts_bridge_poll(&bridge, 6);
    assert_int_equal(radio.count, 1005);
    assert_int_equal(radio.last[1], 3);
    ts_credit_encode(crc, 0, 1007, frame); /* two were lost on the wire */
    ts_bridge_on_datagram(&bridge, 7, &usb, frame, TS_CREDIT_BYTES);
    assert_int_equal(radio.count, 1007);
    net_free(net);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inference_comes_back_exact),
        cmocka_unit_test(chains_of_relays_work),
        cmocka_unit_test(pipelining_overlaps_engine_and_link),
        cmocka_unit_test(several_tensors_keep_their_order),
        cmocka_unit_test(engine_failures_reach_the_head_by_name),
        cmocka_unit_test(boundary_too_large_is_named),
        cmocka_unit_test(result_too_large_is_named),
        cmocka_unit_test(output_beyond_its_buffer_is_an_engine_failure),
        cmocka_unit_test(deadline_is_kept_and_named),
        cmocka_unit_test(tail_that_never_comes_is_named),
        cmocka_unit_test(relay_without_its_tail_says_so),
        cmocka_unit_test(jobs_and_ids_are_limited),
        cmocka_unit_test(two_heads_share_a_tail),
        cmocka_unit_test(two_heads_with_the_same_ids_through_one_relay),
        cmocka_unit_test(waiting_inference_survives_a_tail_restart),
        cmocka_unit_test(inference_twice_is_answered),
        cmocka_unit_test(engine_keeps_its_buffers_when_the_head_is_gone),
        cmocka_unit_test(tensors_wait_for_a_free_job),
        cmocka_unit_test(cancelled_while_queued),
        cmocka_unit_test(cancelled_in_the_engine),
        cmocka_unit_test(cancelled_while_sending),
        cmocka_unit_test(cancelled_while_waiting),
        cmocka_unit_test(cancelled_while_its_result_returns),
        cmocka_unit_test(only_own_inferences_can_be_cancelled),
        cmocka_unit_test(malformed_tensor_is_answered),
        cmocka_unit_test(other_codec_is_answered),
        cmocka_unit_test(host_feeds_a_head),
        cmocka_unit_test(bridge_forwards_without_looking),
        cmocka_unit_test(bridge_keeps_what_the_radio_cannot_take_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
