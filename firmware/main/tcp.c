/* Frames over TCP with a length before each (SPEC.md section 9). One task accepts, connects and reads; the link task
 * writes. The core knows a connection by its place in the table; place 0 is the one to the next stage. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "app.h"
#include "esp_heap_caps.h"
#include "esp_random.h"
#include "esp_task_wdt.h"
#include "esp_timer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/semphr.h"
#include "freertos/task.h"
#include "inet.h"
#include "link.h"
#include "network.h"
#include "tinysplit/frame.h"
#include "tinysplit/stream.h"

#define TCP_MTU LINK_FRAME_BYTES
#define CONNECTIONS 5u /* one to the next stage, four from others */
#define WAIT_MS 100
#define CONNECT_MS 5000u
#define HELLO_MS 10000u /* from accepting to the first HELLO */
#define IDLE_MS 60000u  /* sessions send something every 50 s at least (SPEC.md section 10) */
#define RETRY_FIRST_MS 250u
#define RETRY_MOST_MS 8000u
#define STACK_BYTES 4096
#define BUFFER_WAITS 100 /* ticks to wait for a frame buffer before a frame is dropped */

enum state { CLOSED, CONNECTING, OPEN };

struct connection {
    int fd;
    enum state state;
    bool greeted;   /* a HELLO or HELLO_ACK came in */
    uint64_t since; /* opened, or last heard; us */
    struct ts_stream reader;
    uint8_t frame[TCP_MTU];
    /* Of the link task, under `lock`: the rest of a frame that the socket did not take at once. */
    size_t out_at, out_len;
    uint8_t out[TS_PREFIX_BYTES + TCP_MTU];
};

static struct connection *connections; /* of start, in PSRAM where there is some; only boards on TCP need them */
static SemaphoreHandle_t lock;         /* of state, fd and out: held for moments only */
static StaticSemaphore_t lock_state;
static int listener = -1;
static uint16_t own_port, mtu;
static bool running;
static atomic_bool stopping;
static atomic_bool has_next;
static struct sockaddr_in6 next;
static uint64_t retry_at;
static uint32_t retries;
static atomic_uint dropped, failed, reconnects;

static uint64_t now_us(void) {
    return (uint64_t)esp_timer_get_time();
}

static void close_connection(struct connection *c) {
    if (c->state == OPEN) {
        link_gone((uint8_t)(c - connections));
    }
    (void)xSemaphoreTake(lock, portMAX_DELAY);
    if (c->fd >= 0) {
        close(c->fd);
    }
    c->fd = -1;
    c->state = CLOSED;
    c->out_len = 0;
    (void)xSemaphoreGive(lock);
    link_wake();
}

static void open_connection(struct connection *c, int fd, enum state state) {
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)xSemaphoreTake(lock, portMAX_DELAY);
    c->fd = fd;
    c->state = state;
    c->greeted = false;
    c->since = now_us();
    c->out_at = 0;
    c->out_len = 0;
    ts_stream_init(&c->reader, false, c->frame, mtu);
    (void)xSemaphoreGive(lock);
}

/* A connection to the next stage, or the end of one, is followed by a pause that doubles. */
static void plan_retry(uint64_t now) {
    uint32_t ms = retries < 6 ? RETRY_FIRST_MS << retries : RETRY_MOST_MS;
    ms = ms < RETRY_MOST_MS ? ms : RETRY_MOST_MS;
    retries++;
    retry_at = now + (uint64_t)(ms - esp_random() % (ms / 4)) * 1000u;
}

static void connect_next(uint64_t now) {
    struct connection *c = &connections[0];
    if (!atomic_load(&has_next) || c->state != CLOSED || now < retry_at || !network_is_up()) {
        return;
    }
    plan_retry(now);
    int fd = inet_socket(SOCK_STREAM, 0);
    if (fd < 0) {
        return;
    }
    struct sockaddr_in6 to = next;
    struct ts_addr addr = {0};
    inet_to_addr(&next, &addr);
    (void)inet_from_addr(&addr, network_scope(), &to);
    if (connect(fd, (const struct sockaddr *)&to, sizeof to) == 0) {
        open_connection(c, fd, OPEN);
        link_wake();
    } else if (errno == EINPROGRESS) {
        open_connection(c, fd, CONNECTING);
    } else {
        close(fd);
    }
}

static void finish_connecting(struct connection *c) {
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
        close_connection(c);
        return;
    }
    (void)xSemaphoreTake(lock, portMAX_DELAY);
    c->state = OPEN;
    c->since = now_us();
    (void)xSemaphoreGive(lock);
    link_wake();
}

static void accept_one(void) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) {
        return;
    }
    for (size_t i = 1; i < CONNECTIONS; i++) {
        if (connections[i].state == CLOSED) {
            if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK) == 0) {
                open_connection(&connections[i], fd, OPEN);
                return;
            }
            break;
        }
    }
    close(fd);
}

/* A stream has flow control: rather than to drop a frame, wait a little until the link task has freed a buffer. */
static struct link_rx *buffer(void) {
    struct link_rx *rx = link_rx_take();
    for (int i = 0; rx == NULL && i < BUFFER_WAITS; i++) {
        vTaskDelay(1);
        rx = link_rx_take();
    }
    return rx;
}

static void on_frame(void *ctx, const uint8_t *frame, size_t len) {
    struct connection *c = ctx;
    uint8_t kind = len > 0 ? frame[0] >> 4 : 0;
    if (kind == TS_F_HELLO || kind == TS_F_HELLO_ACK) {
        if (!c->greeted && c == &connections[0]) {
            retries = 0; /* somebody is there who speaks this protocol */
        }
        c->greeted = true;
    }
    if (!c->greeted) {
        return;
    }
    struct link_rx *rx = buffer();
    if (rx == NULL) {
        atomic_fetch_add(&dropped, 1);
        return;
    }
    rx->from = (struct ts_addr){.link = LINK_RADIO, .len = 1, .bytes = {(uint8_t)(c - connections)}};
    rx->len = (uint16_t)len;
    memcpy(rx->bytes, frame, len);
    link_rx_post(rx);
}

static void read_connection(struct connection *c) {
    static uint8_t chunk[TCP_MTU]; /* of the one task that reads */
    ssize_t got = recv(c->fd, chunk, sizeof chunk, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        return;
    }
    if (got <= 0 || ts_stream_read(&c->reader, chunk, (size_t)got, on_frame, c) != TS_OK) {
        close_connection(c);
        return;
    }
    if (c->greeted) {
        c->since = now_us();
    }
}

/* Nobody keeps a place without use for it: no HELLO, no word, no answer to a connect. */
static void close_overdue(uint64_t now) {
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &connections[i];
        uint32_t ms = c->state == CONNECTING ? CONNECT_MS : c->greeted ? IDLE_MS : HELLO_MS;
        if (c->state != CLOSED && now > c->since && now - c->since > (uint64_t)ms * 1000u) {
            close_connection(c);
        }
    }
}

static void serve_once(void) {
    fd_set readable;
    fd_set writable;
    FD_ZERO(&readable);
    FD_ZERO(&writable);
    int top = listener;
    if (listener >= 0) {
        FD_SET(listener, &readable);
    }
    for (size_t i = 0; i < CONNECTIONS; i++) {
        if (connections[i].state != CLOSED) {
            if (connections[i].state == CONNECTING) {
                FD_SET(connections[i].fd, &writable);
            } else {
                FD_SET(connections[i].fd, &readable);
            }
            top = connections[i].fd > top ? connections[i].fd : top;
        }
    }
    struct timeval wait = {.tv_usec = WAIT_MS * 1000};
    int ready = select(top + 1, &readable, &writable, NULL, &wait);
    (void)esp_task_wdt_reset();
    if (ready < 0) {
        vTaskDelay(1);
        return;
    }
    if (listener >= 0 && FD_ISSET(listener, &readable)) {
        accept_one();
    }
    for (size_t i = 0; ready > 0 && i < CONNECTIONS; i++) {
        struct connection *c = &connections[i];
        if (c->state == CONNECTING && FD_ISSET(c->fd, &writable)) {
            finish_connecting(c);
        } else if (c->state == OPEN && FD_ISSET(c->fd, &readable)) {
            read_connection(c);
        }
    }
}

static void tcp_task(void *arg) {
    (void)arg;
    (void)esp_task_wdt_add(NULL);
    while (!atomic_load(&stopping)) {
        uint64_t now = now_us();
        bool was_open = connections[0].state == OPEN;
        connect_next(now);
        serve_once();
        now = now_us();
        close_overdue(now);
        if (was_open && connections[0].state == CLOSED) {
            atomic_fetch_add(&reconnects, 1);
            plan_retry(now);
        }
    }
    for (size_t i = 0; i < CONNECTIONS; i++) {
        if (connections[i].state != CLOSED) {
            close_connection(&connections[i]);
        }
    }
    if (listener >= 0) {
        close(listener);
        listener = -1;
    }
    (void)esp_task_wdt_delete(NULL);
    atomic_store(&stopping, false);
    vTaskDelete(NULL);
}

/* Under the lock. True if all is written; a broken connection is left to the task that reads. */
static bool write_rest(struct connection *c) {
    while (c->out_at < c->out_len) {
        ssize_t sent = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_DONTWAIT);
        if (sent <= 0) {
            return false;
        }
        c->out_at += (size_t)sent;
    }
    c->out_at = 0;
    c->out_len = 0;
    return true;
}

static bool flush(void) {
    bool waits = false;
    (void)xSemaphoreTake(lock, portMAX_DELAY);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &connections[i];
        waits |= c->state == OPEN && c->out_len > 0 && !write_rest(c);
    }
    (void)xSemaphoreGive(lock);
    return waits;
}

static int send_frame(const struct ts_addr *to, const uint8_t *frame, size_t len) {
    if (!running || to->len != 1 || to->bytes[0] >= CONNECTIONS || len == 0 || len > TCP_MTU) {
        return TS_E_SEND_FAILED;
    }
    struct connection *c = &connections[to->bytes[0]];
    int code = TS_E_SEND_FAILED;
    (void)xSemaphoreTake(lock, portMAX_DELAY);
    if (c->state == OPEN) {
        code = TS_E_WOULD_BLOCK;
        if (c->out_len == 0 || write_rest(c)) {
            ts_put16(c->out, (uint32_t)len);
            memcpy(c->out + TS_PREFIX_BYTES, frame, len);
            c->out_len = TS_PREFIX_BYTES + len;
            (void)write_rest(c);
            code = TS_OK;
        }
    }
    (void)xSemaphoreGive(lock);
    if (code == TS_E_SEND_FAILED) {
        atomic_fetch_add(&failed, 1);
    }
    return code;
}

static esp_err_t start(const struct settings *settings, struct ts_link *link) {
    if (running) {
        return ESP_ERR_INVALID_STATE;
    }
    esp_err_t error = network_start(settings);
    if (error != ESP_OK) {
        return error;
    }
    if (lock == NULL) {
        lock = xSemaphoreCreateMutexStatic(&lock_state);
        connections = heap_caps_calloc_prefer(CONNECTIONS, sizeof *connections, 2, MALLOC_CAP_SPIRAM | MALLOC_CAP_8BIT,
                                              MALLOC_CAP_DEFAULT);
    }
    if (connections == NULL) {
        return ESP_ERR_NO_MEM;
    }
    mtu = settings->mtu != 0 && settings->mtu < TCP_MTU ? (uint16_t)settings->mtu : (uint16_t)TCP_MTU;
    own_port = settings->port;
    /* A stream keeps order and loses nothing (SPEC.md section 9). */
    *link = (struct ts_link){.mtu = mtu,
                             .window = settings->window != 0 ? (uint16_t)settings->window : LINK_WINDOW,
                             .reorder = 1,
                             .rto_min_us = 1000000};
    for (size_t i = 0; i < CONNECTIONS; i++) {
        connections[i].fd = -1;
        connections[i].state = CLOSED;
    }
    atomic_store(&has_next, false);
    atomic_store(&stopping, false);
    retry_at = 0;
    retries = 0;
    listener = own_port != 0 ? inet_socket(SOCK_STREAM, own_port) : -1; /* 0: nobody connects here */
    if (own_port != 0 && (listener < 0 || listen(listener, (int)CONNECTIONS) != 0)) {
        esp_err_t why = errno == EADDRINUSE ? ESP_ERR_INVALID_STATE : ESP_FAIL;
        if (listener >= 0) {
            close(listener);
            listener = -1;
        }
        return why;
    }
    link_on_wait(LINK_RADIO, flush);
    running = true;
    if (xTaskCreatePinnedToCore(tcp_task, "tcp", STACK_BYTES, NULL, APP_PORT_PRIORITY, NULL, APP_RADIO_CORE) !=
        pdPASS) {
        running = false;
        if (listener >= 0) {
            close(listener);
            listener = -1;
        }
        return ESP_ERR_NO_MEM;
    }
    network_announce(settings);
    return ESP_OK;
}

static bool peer(const char *text, struct ts_addr *out) {
    *out = (struct ts_addr){.link = LINK_RADIO, .len = 1, .bytes = {0}};
    if (!inet_parse(text, &next)) {
        return false;
    }
    atomic_store(&has_next, true);
    return true;
}

static void stop(void) {
    if (!running) {
        return;
    }
    link_on_wait(LINK_RADIO, NULL);
    running = false;
    atomic_store(&stopping, true);
    for (int waited = 0; atomic_load(&stopping) && waited < 10 * WAIT_MS; waited += (int)portTICK_PERIOD_MS) {
        vTaskDelay(1);
    }
}

static void describe(struct link_status *out) {
    memset(out, 0, sizeof *out);
    network_describe(out);
    out->peers = 0;
    for (size_t i = 0; connections != NULL && i < CONNECTIONS; i++) {
        out->peers = (uint8_t)(out->peers + (connections[i].state == OPEN));
    }
    out->mtu = mtu;
    out->reconnects += atomic_load(&reconnects);
    out->rx_dropped = atomic_load(&dropped);
    out->tx_failed = atomic_load(&failed);
    network_place(out, "tcp", own_port);
}

const struct link_port link_tcp = {
    .name = "tcp", .start = start, .peer = peer, .send = send_frame, .stop = stop, .describe = describe};
