/* A bridge: a host's session and frames for the radio over the console's wire, through the core. */
#include "../core/check.h"
#include "app.h"
#include "fake_system.h"
#include "link.h"
#include "tinysplit/bridge.h"
#include "tinysplit/crc.h"

#define RADIO_MTU 1470

static struct ts_link params;
static int wire_result, wire_frames, wire_console;
static uint8_t wire_frame[LINK_FRAME_BYTES];
static size_t wire_len;
static int radio_frames;
static struct ts_addr radio_to;
static uint8_t radio_frame[LINK_FRAME_BYTES];
static size_t radio_len;

int console_send_frame(unsigned console, const uint8_t *frame, size_t len) {
    if (wire_result == TS_OK) {
        wire_frames++;
        wire_console = (int)console;
        memcpy(wire_frame, frame, len);
        wire_len = len;
    }
    return wire_result;
}

static int set_up(void **state) {
    (void)state;
    static bool done;
    wire_result = TS_OK;
    wire_frames = radio_frames = 0;
    if (!done) {
        done = true;
        assert_int_equal(link_init(), ESP_OK);
    }
    static const struct settings none;
    return link_wire.start(&none, &params);
}

static int tear_down(void **state) {
    (void)state;
    link_wire.stop();
    return 0;
}

static void a_frame_of_a_console_names_it(void **state) {
    (void)state;
    wire_received(1, (const uint8_t *)"frame", 5);
    struct link_rx *rx = link_rx_wait(0);
    assert_non_null(rx);
    assert_int_equal(rx->from.link, LINK_WIRE);
    assert_int_equal(rx->len, 5);
    assert_int_equal(link_wire.send(&rx->from, (const uint8_t *)"answer", 6), TS_OK);
    link_rx_give(rx);
    assert_int_equal(wire_console, 1);
    assert_memory_equal(wire_frame, "answer", 6);
}

static void a_slow_wire_blocks(void **state) {
    (void)state;
    const struct ts_addr host = {.link = LINK_WIRE, .len = 1, .bytes = {0}};
    wire_result = TS_E_WOULD_BLOCK;
    assert_int_equal(link_wire.send(&host, (const uint8_t *)"x", 1), TS_E_WOULD_BLOCK);
    const struct ts_addr none = {.link = LINK_WIRE, .len = 1, .bytes = {CONSOLES}};
    assert_int_equal(link_wire.send(&none, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
}

static void nothing_comes_in_that_does_not_fit_or_is_not_wanted(void **state) {
    (void)state;
    static uint8_t giant[LINK_FRAME_BYTES + 1];
    wire_received(0, giant, sizeof giant);
    wire_received(0, giant, 0);
    assert_null(link_rx_wait(0));
    link_wire.stop();
    wire_received(0, giant, 10);
    assert_null(link_rx_wait(0));
}

/* --- with the core's bridge on top, as the link task runs it --- */

static int send_frame(void *ctx, const struct ts_addr *to, const uint8_t *frame, size_t len) {
    (void)ctx;
    if (to->link == LINK_WIRE) {
        return link_wire.send(to, frame, len);
    }
    radio_frames++;
    radio_to = *to;
    memcpy(radio_frame, frame, len);
    radio_len = len;
    return TS_OK;
}

static uint32_t random_word(void *ctx) {
    (void)ctx;
    static uint32_t word = 1;
    return word++;
}

static const struct ts_crc crc = {NULL, ts_crc16_small, ts_crc32_small};

static void frames_pass_a_bridge_both_ways(void **state) {
    (void)state;
    static struct ts_session sessions[1];
    static uint8_t rx_memory[TS_RX_MEMORY(1, 512)] __attribute__((aligned(16)));
    static uint8_t frame[LINK_FRAME_BYTES];
    static struct ts_link links[2] = {[LINK_RADIO] = {.mtu = RADIO_MTU}};
    static struct ts_node_config config = {.endpoint = {.crc = {NULL, ts_crc16_small, ts_crc32_small},
                                                        .send = send_frame,
                                                        .random = random_word,
                                                        .role = TS_ROLE_BRIDGE,
                                                        .stage = TS_NO_STAGE,
                                                        .links = links,
                                                        .link_count = 2,
                                                        .sessions = sessions,
                                                        .session_count = 1,
                                                        .rx_memory = rx_memory,
                                                        .rx_memory_bytes = sizeof rx_memory,
                                                        .max_message = 512,
                                                        .frame = frame,
                                                        .frame_bytes = sizeof frame}};
    static struct ts_bridge bridge;
    links[LINK_WIRE] = params; /* the wire's mtu holds the longest radio frame and what is around it */
    assert_int_equal(ts_bridge_init(&bridge, &config, LINK_WIRE, LINK_RADIO, 1), TS_OK);

    static uint8_t longest[RADIO_MTU];
    memset(longest, 0x31, sizeof longest);
    static const uint8_t board[6] = {2, 0, 0, 0, 0, 7};
    const struct ts_forward out = {.addr = board, .addr_len = 6, .inner = longest, .inner_len = sizeof longest};
    uint8_t wrapped[LINK_FRAME_BYTES];
    size_t len = ts_forward_encode(&crc, &out, wrapped, sizeof wrapped);
    assert_true(len > 0);
    wire_received(1, wrapped, len);
    struct link_rx *rx = link_rx_wait(0);
    assert_non_null(rx);
    ts_bridge_on_datagram(&bridge, 2, &rx->from, rx->bytes, rx->len);
    link_rx_give(rx);
    (void)ts_node_poll(&bridge.node, 3);
    assert_int_equal(radio_frames, 1);
    assert_int_equal(radio_len, sizeof longest);
    assert_memory_equal(radio_frame, longest, sizeof longest);
    assert_memory_equal(radio_to.bytes, board, 6);

    const struct ts_addr from = {.link = LINK_RADIO, .len = 6, .bytes = {2, 0, 0, 0, 0, 7}};
    wire_frames = 0;
    ts_bridge_on_datagram(&bridge, 4, &from, longest, sizeof longest);
    assert_true(wire_frames >= 1);
    assert_int_equal(wire_console, 1); /* where the host was last heard */
    struct ts_forward in;
    assert_true(ts_forward_decode(&crc, wire_frame, wire_len, &in));
    assert_int_equal(in.inner_len, sizeof longest);
    assert_memory_equal(in.addr, board, 6);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_frame_of_a_console_names_it),
        TEST(a_slow_wire_blocks),
        TEST(nothing_comes_in_that_does_not_fit_or_is_not_wanted),
        TEST(frames_pass_a_bridge_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
