/* The UDP port over the PC's loopback. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../core/check.h"
#include "esp_timer.h"
#include "fake_system.h"
#include "inet.h"
#include "link.h"
#include "settings.h"

#define PORT 47311

static const struct settings settings = {.name = "tail", .transport = TRANSPORT_UDP, .port = PORT};
static struct ts_link params;

static int set_up(void **state) {
    (void)state;
    static bool done;
    if (!done) {
        done = true;
        assert_int_equal(link_init(), ESP_OK);
    }
    return link_udp.start(&settings, &params);
}

static int tear_down(void **state) {
    (void)state;
    link_udp.stop();
    assert_int_equal(fake_watched_tasks(), 0);
    return 0;
}

static struct link_rx *next_frame(void) {
    for (int i = 0; i < 5; i++) {
        struct link_rx *rx = link_rx_wait(TS_NEVER);
        if (rx != NULL) {
            return rx;
        }
    }
    return NULL;
}

/* A plain socket as the other end. */
static int peer_socket(int family) {
    int fd = socket(family, SOCK_DGRAM, 0);
    assert_true(fd >= 0);
    struct timeval wait = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    return fd;
}

static void send_to_board(int fd, int family, const void *data, size_t len) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(0x7f000001)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(PORT), .sin6_addr = in6addr_loopback};
    const struct sockaddr *to = family == AF_INET ? (const struct sockaddr *)&v4 : (const struct sockaddr *)&v6;
    assert_int_equal(sendto(fd, data, len, 0, to, family == AF_INET ? sizeof v4 : sizeof v6), len);
}

static void there_and_back(int family) {
    int fd = peer_socket(family);
    send_to_board(fd, family, "hello", 5);
    struct link_rx *rx = next_frame();
    assert_non_null(rx);
    assert_int_equal(rx->len, 5);
    assert_memory_equal(rx->bytes, "hello", 5);
    assert_int_equal(rx->from.link, LINK_RADIO);
    assert_int_equal(link_udp.send(&rx->from, (const uint8_t *)"answer", 6), TS_OK);
    link_rx_give(rx);
    char got[16];
    assert_int_equal(recv(fd, got, sizeof got, 0), 6);
    assert_memory_equal(got, "answer", 6);
    close(fd);
}

static void ipv4_there_and_back(void **state) {
    (void)state;
    there_and_back(AF_INET);
}

static void ipv6_there_and_back(void **state) {
    (void)state;
    there_and_back(AF_INET6);
}

static void the_longest_frame_passes_whole(void **state) {
    (void)state;
    assert_int_equal(params.mtu, 1452);
    uint8_t frame[1452];
    for (size_t i = 0; i < sizeof frame; i++) {
        frame[i] = (uint8_t)(i * 7);
    }
    int fd = peer_socket(AF_INET);
    send_to_board(fd, AF_INET, frame, sizeof frame);
    struct link_rx *rx = next_frame();
    assert_non_null(rx);
    assert_int_equal(rx->len, sizeof frame);
    assert_memory_equal(rx->bytes, frame, sizeof frame);
    link_rx_give(rx);
    close(fd);
}

static void a_giant_datagram_is_cut_and_harmless(void **state) {
    (void)state;
    static uint8_t giant[60000];
    int fd = peer_socket(AF_INET);
    send_to_board(fd, AF_INET, giant, sizeof giant);
    struct link_rx *rx = next_frame();
    assert_non_null(rx);
    assert_int_equal(rx->len, LINK_FRAME_BYTES); /* the core's checksum refuses it */
    link_rx_give(rx);
    close(fd);
}

static void an_address_of_next_reaches_the_peer(void **state) {
    (void)state;
    int fd = peer_socket(AF_INET);
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    socklen_t len = sizeof any;
    assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof any), 0);
    getsockname(fd, (struct sockaddr *)&any, &len);
    char text[32];
    snprintf(text, sizeof text, "127.0.0.1:%u", ntohs(any.sin_port));
    struct ts_addr to;
    assert_true(link_udp.peer(text, &to));
    assert_int_equal(link_udp.send(&to, (const uint8_t *)"x", 1), TS_OK);
    char got[4];
    assert_int_equal(recv(fd, got, sizeof got, 0), 1);
    /* What comes from there has that very address: the core compares them. */
    send_to_board(fd, AF_INET, "y", 1);
    struct link_rx *rx = next_frame();
    assert_non_null(rx);
    assert_int_equal(rx->from.len, to.len);
    assert_memory_equal(rx->from.bytes, to.bytes, to.len);
    link_rx_give(rx);
    close(fd);
}

static void without_buffers_frames_are_dropped_and_counted(void **state) {
    (void)state;
    struct link_rx *held[LINK_RX_FRAMES];
    for (size_t i = 0; i < LINK_RX_FRAMES; i++) {
        held[i] = link_rx_take();
        assert_non_null(held[i]);
    }
    int fd = peer_socket(AF_INET);
    send_to_board(fd, AF_INET, "lost", 4);
    struct link_status status;
    for (int i = 0; i < 500; i++) {
        link_udp.describe(&status);
        if (status.rx_dropped > 0) {
            break;
        }
        usleep(10000);
    }
    assert_int_equal(status.rx_dropped, 1);
    for (size_t i = 0; i < LINK_RX_FRAMES; i++) {
        link_rx_give(held[i]);
    }
    send_to_board(fd, AF_INET, "kept", 4);
    struct link_rx *rx = next_frame();
    assert_non_null(rx);
    assert_memory_equal(rx->bytes, "kept", 4);
    link_rx_give(rx);
    close(fd);
}

static void there_is_no_way_to_nowhere(void **state) {
    (void)state;
    const struct ts_addr foreign = {.len = 6, .bytes = {1, 2, 3}};
    assert_int_equal(link_udp.send(&foreign, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
    struct ts_addr to;
    assert_true(link_udp.peer("255.255.255.255:9", &to)); /* a broadcast needs a permission that nobody gave */
    assert_int_equal(link_udp.send(&to, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
}

static void a_port_in_use_is_an_error(void **state) {
    (void)state;
    link_udp.stop();
    int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
    assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof any), 0);
    assert_int_equal(link_udp.start(&settings, &params), ESP_ERR_INVALID_STATE);
    assert_int_equal(fake_running_tasks(), 0);
    close(fd);
    assert_int_equal(link_udp.start(&settings, &params), ESP_OK);
    assert_int_equal(link_udp.start(&settings, &params), ESP_ERR_INVALID_STATE); /* once is enough */
}

static void settings_bound_the_frame(void **state) {
    (void)state;
    link_udp.stop();
    struct settings small = settings;
    small.mtu = 512;
    small.window = 4;
    assert_int_equal(link_udp.start(&small, &params), ESP_OK);
    assert_int_equal(params.mtu, 512);
    assert_int_equal(params.window, 4);
    struct link_status status;
    link_udp.describe(&status);
    assert_int_equal(status.mtu, 512);
    assert_string_equal(status.address, "udp://127.0.0.1:47311");
}

static void addresses(void **state) {
    (void)state;
    static const char *const good[] = {"127.0.0.1:1", "192.168.4.1:65535", "[::1]:4000", "[fe80::1]:9",
                                       "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:80"};
    static const char *const bad[] = {"",
                                      ":",
                                      "127.0.0.1",
                                      "127.0.0.1:",
                                      "127.0.0.1:0",
                                      "127.0.0.1:65536",
                                      "127.0.0.1:99999999999",
                                      "127.0.0.1:40x",
                                      "127.0.0:4000",
                                      "::1:4000",
                                      "[]:4000",
                                      "[::1:4000",
                                      "[127.0.0.1]:4000",
                                      "board.local:4000",
                                      "127.0.0.1.127.0.0.1.127.0.0.1.127.0.0.1.127.0.0.1.127.0.0.1:1"};
    struct sockaddr_in6 out;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(inet_parse(good[i], &out));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(inet_parse(bad[i], &out));
    }
    assert_true(inet_parse("10.0.0.9:4000", &out));
    static const uint8_t mapped[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 9};
    assert_memory_equal(&out.sin6_addr, mapped, 16);
    struct ts_addr addr = {0};
    struct sockaddr_in6 back;
    assert_true(inet_parse("[fe80::1]:9", &out));
    inet_to_addr(&out, &addr);
    assert_true(inet_from_addr(&addr, 3, &back));
    assert_int_equal(back.sin6_scope_id, 3); /* a link-local address is one of an interface */
    assert_memory_equal(&back.sin6_addr, &out.sin6_addr, 16);
    assert_int_equal(back.sin6_port, htons(9));
    assert_true(inet_parse("[2001:db8::1]:9", &out));
    inet_to_addr(&out, &addr);
    assert_true(inet_from_addr(&addr, 3, &back));
    assert_int_equal(back.sin6_scope_id, 0);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(ipv4_there_and_back),
        TEST(ipv6_there_and_back),
        TEST(the_longest_frame_passes_whole),
        TEST(a_giant_datagram_is_cut_and_harmless),
        TEST(an_address_of_next_reaches_the_peer),
        TEST(without_buffers_frames_are_dropped_and_counted),
        TEST(there_is_no_way_to_nowhere),
        TEST(a_port_in_use_is_an_error),
        TEST(settings_bound_the_frame),
        cmocka_unit_test(addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
