/* The TCP port over the PC's loopback. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../core/check.h"
#include "fake_system.h"
#include "link.h"
#include "settings.h"
#include "tinysplit/frame.h"

#define PORT 47312
#define SECOND 1000000u

static const struct settings settings = {.name = "relay", .transport = TRANSPORT_TCP, .port = PORT};
static struct ts_link params;
/* Byte 0 of a HELLO and of DATA; the port looks at nothing else. */
static const uint8_t hello[68] = {TS_F_HELLO << 4};
static const uint8_t data_frame[] = {TS_F_DATA << 4, 1, 2, 3, 4, 5, 6, 7, 8};

static int set_up(void **state) {
    (void)state;
    static bool done;
    if (!done) {
        done = true;
        assert_int_equal(link_init(), ESP_OK);
    }
    (void)link_gone_take();
    return link_tcp.start(&settings, &params);
}

static int tear_down(void **state) {
    (void)state;
    link_tcp.stop();
    assert_int_equal(fake_watched_tasks(), 0);
    assert_int_equal(fake_running_tasks(), 0);
    return 0;
}

static struct link_rx *next_frame(void) {
    for (int i = 0; i < 400; i++) {
        struct link_rx *rx = link_rx_wait(0);
        if (rx != NULL) {
            return rx;
        }
        usleep(10000);
    }
    return NULL;
}

static struct sockaddr_in loopback(uint16_t port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void set_timeout(int fd) {
    struct timeval wait = {.tv_sec = 8};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
}

static int connect_to_board(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = loopback(PORT);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    set_timeout(fd);
    return fd;
}

static void write_frame(int fd, const uint8_t *frame, size_t len) {
    uint8_t bytes[2 + LINK_FRAME_BYTES];
    ts_put16(bytes, (uint32_t)len);
    memcpy(bytes + 2, frame, len);
    assert_int_equal(send(fd, bytes, len + 2, MSG_NOSIGNAL), len + 2);
}

static void read_exactly(int fd, uint8_t *out, size_t len) {
    for (size_t at = 0; at < len;) {
        ssize_t got = recv(fd, out + at, len - at, 0);
        assert_true(got > 0);
        at += (size_t)got;
    }
}

static bool is_closed_by_board(int fd) {
    char byte;
    return recv(fd, &byte, 1, 0) <= 0 && errno != EAGAIN;
}

static void expect(const uint8_t *frame, size_t len, struct ts_addr *from) {
    struct link_rx *rx = next_frame();
    assert_non_null(rx);
    assert_int_equal(rx->len, len);
    assert_memory_equal(rx->bytes, frame, len);
    if (from != NULL) {
        *from = rx->from;
    }
    link_rx_give(rx);
}

static void frames_there_and_back(void **state) {
    (void)state;
    int fd = connect_to_board();
    struct ts_addr from;
    write_frame(fd, hello, sizeof hello);
    expect(hello, sizeof hello, &from);
    assert_int_equal(from.link, LINK_RADIO);
    assert_int_equal(link_tcp.send(&from, data_frame, sizeof data_frame), TS_OK);
    uint8_t got[2 + sizeof data_frame];
    read_exactly(fd, got, sizeof got);
    assert_int_equal(ts_get16(got), sizeof data_frame);
    assert_memory_equal(got + 2, data_frame, sizeof data_frame);
    close(fd);
}

static void frames_may_come_byte_by_byte_or_many_at_once(void **state) {
    (void)state;
    int fd = connect_to_board();
    uint8_t bytes[2 + sizeof hello];
    ts_put16(bytes, sizeof hello);
    memcpy(bytes + 2, hello, sizeof hello);
    for (size_t i = 0; i < sizeof bytes; i++) {
        assert_int_equal(send(fd, bytes + i, 1, 0), 1);
        usleep(i % 16 == 0 ? 2000 : 0);
    }
    expect(hello, sizeof hello, NULL);
    uint8_t many[10 * (2 + sizeof data_frame)];
    for (size_t i = 0; i < 10; i++) {
        ts_put16(many + i * (2 + sizeof data_frame), sizeof data_frame);
        memcpy(many + i * (2 + sizeof data_frame) + 2, data_frame, sizeof data_frame);
    }
    assert_int_equal(send(fd, many, sizeof many, 0), sizeof many);
    for (int i = 0; i < 10; i++) {
        expect(data_frame, sizeof data_frame, NULL);
    }
    close(fd);
}

static void a_length_beyond_the_mtu_closes_the_stream(void **state) {
    (void)state;
    int fd = connect_to_board();
    uint8_t bytes[2];
    ts_put16(bytes, params.mtu + 1u);
    assert_int_equal(send(fd, bytes, 2, 0), 2);
    assert_true(is_closed_by_board(fd));
    close(fd);
}

static void before_a_hello_nothing_reaches_the_core(void **state) {
    (void)state;
    int fd = connect_to_board();
    write_frame(fd, data_frame, sizeof data_frame);
    write_frame(fd, hello, sizeof hello);
    expect(hello, sizeof hello, NULL); /* and not what came before it */
    close(fd);
}

static void who_does_not_greet_is_closed(void **state) {
    (void)state;
    int silent = connect_to_board();
    int greets = connect_to_board();
    write_frame(greets, hello, sizeof hello);
    expect(hello, sizeof hello, NULL);
    fake_clock_skip(11 * SECOND);
    assert_true(is_closed_by_board(silent));
    write_frame(greets, data_frame, sizeof data_frame);
    expect(data_frame, sizeof data_frame, NULL);
    fake_clock_skip(61 * SECOND);
    assert_true(is_closed_by_board(greets)); /* not a word in a minute */
    close(silent);
    close(greets);
}

static void places_end_and_become_free_again(void **state) {
    (void)state;
    int fds[4];
    for (int i = 0; i < 4; i++) {
        fds[i] = connect_to_board();
        write_frame(fds[i], hello, sizeof hello);
        expect(hello, sizeof hello, NULL);
    }
    int fifth = connect_to_board();
    assert_true(is_closed_by_board(fifth));
    close(fifth);
    assert_int_equal(link_gone_take(), 0);
    close(fds[2]);
    for (int i = 0; i < 100; i++) {
        struct link_status status;
        link_tcp.describe(&status);
        if (status.peers == 3) {
            break;
        }
        usleep(20000);
    }
    assert_int_equal(link_gone_take(), 1u << 3); /* its sessions end at once */
    int again = connect_to_board();
    struct ts_addr from;
    write_frame(again, hello, sizeof hello);
    expect(hello, sizeof hello, &from);
    assert_int_equal(from.bytes[0], 3); /* places 1 to 4 are the peers'; the third was free */
    close(again);
    close(fds[0]);
    close(fds[1]);
    close(fds[3]);
}

static void a_full_socket_blocks_and_nothing_is_lost(void **state) {
    (void)state;
    int fd = connect_to_board();
    write_frame(fd, hello, sizeof hello);
    struct ts_addr from;
    expect(hello, sizeof hello, &from);
    static uint8_t frame[LINK_FRAME_BYTES];
    uint32_t sent = 0;
    int code;
    do { /* nobody reads: buffers fill */
        memset(frame, (int)sent, sizeof frame);
        code = link_tcp.send(&from, frame, sizeof frame);
        sent += code == TS_OK;
        assert_true(sent < 20000);
    } while (code == TS_OK);
    assert_int_equal(code, TS_E_WOULD_BLOCK);
    for (uint32_t i = 0; i < sent; i++) {
        uint8_t got[2 + LINK_FRAME_BYTES];
        for (size_t at = 0; at < sizeof got;) {
            ssize_t n = recv(fd, got + at, sizeof got - at, MSG_DONTWAIT);
            at += n > 0 ? (size_t)n : 0;
            assert_null(link_rx_wait(0)); /* the link task goes round: the rest is written */
        }
        memset(frame, (int)i, sizeof frame);
        assert_int_equal(ts_get16(got), sizeof frame);
        assert_memory_equal(got + 2, frame, sizeof frame);
    }
    assert_int_equal(link_tcp.send(&from, frame, sizeof frame), TS_OK);
    close(fd);
}

static int listen_at(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in at = loopback(port);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 4), 0);
    set_timeout(fd);
    return fd;
}

static void the_next_stage_is_connected_to_again_and_again(void **state) {
    (void)state;
    struct ts_addr to;
    assert_true(link_tcp.peer("127.0.0.1:47313", &to));
    assert_int_equal(link_tcp.send(&to, hello, sizeof hello), TS_E_SEND_FAILED); /* nobody there yet */
    int listener = listen_at(47313);
    for (int i = 0; i < 3; i++) {
        int fd = accept(listener, NULL, NULL);
        assert_true(fd >= 0);
        set_timeout(fd);
        int code = TS_E_SEND_FAILED;
        for (int tries = 0; tries < 400 && code != TS_OK; tries++) {
            code = link_tcp.send(&to, hello, sizeof hello);
            usleep(10000);
        }
        assert_int_equal(code, TS_OK);
        uint8_t got[2 + sizeof hello];
        read_exactly(fd, got, sizeof got);
        uint8_t ack[68] = {TS_F_HELLO_ACK << 4};
        write_frame(fd, ack, sizeof ack);
        struct ts_addr from;
        expect(ack, sizeof ack, &from);
        assert_int_equal(from.len, to.len);
        assert_int_equal(from.bytes[0], to.bytes[0]);
        close(fd); /* the next stage restarts */
    }
    int last = accept(listener, NULL, NULL);
    assert_true(last >= 0);
    struct link_status status;
    link_tcp.describe(&status);
    assert_true(status.reconnects >= 3);
    assert_int_equal(link_gone_take() & 1u, 1u);
    close(last);
    close(listener);
}

static void a_port_in_use_is_an_error(void **state) {
    (void)state;
    link_tcp.stop();
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
    assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof any), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(link_tcp.start(&settings, &params), ESP_ERR_INVALID_STATE);
    assert_int_equal(fake_running_tasks(), 0);
    close(fd);
    assert_int_equal(link_tcp.start(&settings, &params), ESP_OK);
}

static void without_a_port_nobody_can_connect(void **state) {
    (void)state;
    link_tcp.stop();
    struct settings head = settings;
    head.port = 0;
    assert_int_equal(link_tcp.start(&head, &params), ESP_OK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = loopback(PORT);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), -1);
    close(fd);
}

static void wrong_addresses_are_no_peers(void **state) {
    (void)state;
    struct ts_addr to;
    assert_false(link_tcp.peer("127.0.0.1", &to));
    assert_false(link_tcp.peer("", &to));
    const struct ts_addr beyond = {.len = 1, .bytes = {200}};
    assert_int_equal(link_tcp.send(&beyond, hello, sizeof hello), TS_E_SEND_FAILED);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(frames_there_and_back),
        TEST(frames_may_come_byte_by_byte_or_many_at_once),
        TEST(a_length_beyond_the_mtu_closes_the_stream),
        TEST(before_a_hello_nothing_reaches_the_core),
        TEST(who_does_not_greet_is_closed),
        TEST(places_end_and_become_free_again),
        TEST(a_full_socket_blocks_and_nothing_is_lost),
        TEST(the_next_stage_is_connected_to_again_and_again),
        TEST(a_port_in_use_is_an_error),
        TEST(without_a_port_nobody_can_connect),
        TEST(wrong_addresses_are_no_peers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
