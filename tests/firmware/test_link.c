/* Frames from ports to the link task. */
#include <pthread.h>
#include <unistd.h>

#include "../core/check.h"
#include "esp_timer.h"
#include "fake_system.h"
#include "link.h"

static uint64_t now(void) {
    return (uint64_t)esp_timer_get_time();
}

static int set_up(void **state) {
    (void)state;
    static bool done;
    link_on_wait(LINK_RADIO, NULL);
    if (!done) {
        done = true;
        return link_init();
    }
    return 0;
}

static void the_pool_ends_and_is_refilled(void **state) {
    (void)state;
    struct link_rx *held[LINK_RX_FRAMES];
    for (size_t i = 0; i < LINK_RX_FRAMES; i++) {
        held[i] = link_rx_take();
        assert_non_null(held[i]);
        for (size_t j = 0; j < i; j++) {
            assert_ptr_not_equal(held[i], held[j]);
        }
    }
    assert_null(link_rx_take());
    link_rx_give(held[3]);
    assert_ptr_equal(link_rx_take(), held[3]);
    for (size_t i = 0; i < LINK_RX_FRAMES; i++) {
        link_rx_give(held[i]);
    }
}

static void frames_arrive_in_order(void **state) {
    (void)state;
    for (uint16_t i = 0; i < LINK_RX_FRAMES; i++) {
        struct link_rx *rx = link_rx_take();
        rx->len = i;
        link_rx_post(rx);
    }
    for (uint16_t i = 0; i < LINK_RX_FRAMES; i++) {
        struct link_rx *rx = link_rx_wait(TS_NEVER);
        assert_non_null(rx);
        assert_int_equal(rx->len, i);
        link_rx_give(rx);
    }
}

static void a_full_inbox_still_has_room_for_a_wake_up(void **state) {
    (void)state;
    for (size_t i = 0; i < LINK_RX_FRAMES; i++) {
        link_rx_post(link_rx_take());
    }
    link_wake();
    for (size_t i = 0; i < LINK_RX_FRAMES; i++) {
        link_rx_give(link_rx_wait(TS_NEVER));
    }
    assert_null(link_rx_wait(TS_NEVER));
}

static void many_wake_ups_are_one(void **state) {
    (void)state;
    for (int i = 0; i < 1000; i++) {
        link_wake();
    }
    uint64_t before = now();
    assert_null(link_rx_wait(TS_NEVER));
    assert_true(now() - before < LINK_WAIT_MS * 900u); /* the wake-up, not the time */
    before = now();
    assert_null(link_rx_wait(before + 20000));
    assert_true(now() - before >= 20000); /* there was only one */
}

static void ended_connections_are_told_once(void **state) {
    (void)state;
    link_gone(0);
    link_gone(3);
    link_gone(3);
    assert_null(link_rx_wait(UINT64_MAX)); /* they wake the link task */
    assert_int_equal(link_gone_take(), 1u << 0 | 1u << 3);
    assert_int_equal(link_gone_take(), 0);
}

static void waiting_ends_when_the_core_said(void **state) {
    (void)state;
    uint64_t until = now() + 2500; /* not a whole number of ticks */
    assert_null(link_rx_wait(until));
    assert_true(now() >= until);
    assert_true(now() < until + LINK_WAIT_MS * 900u); /* its own clock, not the watchdog's */
    assert_null(link_rx_wait(now() - 1));             /* the past: no wait */
}

static void waiting_without_a_plan_ends_for_the_watchdog(void **state) {
    (void)state;
    uint64_t before = now();
    assert_null(link_rx_wait(TS_NEVER));
    assert_in_range(now() - before, LINK_WAIT_MS * 1000u, LINK_WAIT_MS * 1000u + 5000000u);
}

static int flushes;

static bool flush(void) {
    return ++flushes < 3;
}

static void what_could_not_be_written_is_tried_again_soon(void **state) {
    (void)state;
    flushes = 0;
    link_on_wait(LINK_RADIO, flush);
    uint64_t before = now();
    assert_null(link_rx_wait(TS_NEVER));
    assert_null(link_rx_wait(TS_NEVER));
    assert_true(now() - before < LINK_WAIT_MS * 1000u);
    assert_int_equal(flushes, 2);
    assert_null(link_rx_wait(now() + 1000));
    assert_int_equal(flushes, 3);
}

static void *post_many(void *arg) {
    for (int i = 0; i < 2000;) {
        struct link_rx *rx = link_rx_take();
        if (rx != NULL) {
            rx->from.link = (uint8_t)(uintptr_t)arg;
            rx->len = (uint16_t)i++;
            link_rx_post(rx);
            link_wake();
        } else {
            usleep(50);
        }
    }
    return NULL;
}

static void many_ports_post_at_once(void **state) {
    (void)state;
    pthread_t threads[4];
    uint16_t next[4] = {0};
    for (uintptr_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, post_many, (void *)i), 0);
    }
    for (int got = 0; got < 4 * 2000;) {
        struct link_rx *rx = link_rx_wait(TS_NEVER);
        if (rx != NULL) {
            assert_int_equal(rx->len, next[rx->from.link]++); /* each port's own order holds */
            link_rx_give(rx);
            got++;
        }
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    (void)link_rx_wait(now()); /* what is left of the wake-ups */
}

static void ports_are_found_by_their_scheme(void **state) {
    (void)state;
    assert_ptr_equal(link_port_named("udp"), &link_udp);
    assert_ptr_equal(link_port_named("ble"), &link_ble);
    assert_null(link_port_named("carrier-pigeon"));
    assert_null(link_port_named("wire")); /* no address names it */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_pool_ends_and_is_refilled, set_up),
        cmocka_unit_test_setup(frames_arrive_in_order, set_up),
        cmocka_unit_test_setup(a_full_inbox_still_has_room_for_a_wake_up, set_up),
        cmocka_unit_test_setup(many_wake_ups_are_one, set_up),
        cmocka_unit_test_setup(ended_connections_are_told_once, set_up),
        cmocka_unit_test_setup(waiting_ends_when_the_core_said, set_up),
        cmocka_unit_test_setup(waiting_without_a_plan_ends_for_the_watchdog, set_up),
        cmocka_unit_test_setup(what_could_not_be_written_is_tried_again_soon, set_up),
        cmocka_unit_test_setup(many_ports_post_at_once, set_up),
        cmocka_unit_test_setup(ports_are_found_by_their_scheme, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
