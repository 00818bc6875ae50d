/* Frames as UDP datagrams, one each. A task waits for them; the link task sends. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "app.h"
#include "esp_task_wdt.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "inet.h"
#include "link.h"
#include "network.h"

/* No fragmentation on a 1500-byte path, IPv4 or IPv6 (SPEC.md section 1.4). */
#define UDP_MTU 1452u
#define WAIT_MS 500
#define AT_ONCE 16
#define STACK_BYTES 4096

static int fd = -1;
static uint16_t own_port, mtu;
static bool blocked;         /* the link task met a full driver */
static atomic_bool stopping; /* set by stop, cleared by the task when it is gone */
static atomic_uint dropped, failed;

/* Takes one datagram; false if there is none. */
static bool receive(void) {
    struct link_rx *rx = link_rx_take();
    struct sockaddr_in6 from;
    socklen_t from_len = sizeof from;
    uint8_t scrap;
    ssize_t got = recvfrom(fd, rx != NULL ? rx->bytes : &scrap, rx != NULL ? sizeof rx->bytes : sizeof scrap,
                           MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);
    if (got < 0 || rx == NULL) {
        if (got >= 0 || errno == EMSGSIZE) {
            atomic_fetch_add(&dropped, 1);
        }
        if (rx != NULL) {
            link_rx_give(rx);
        }
        return got >= 0;
    }
    rx->from.link = LINK_RADIO;
    inet_to_addr(&from, &rx->from);
    rx->len = (uint16_t)got;
    link_rx_post(rx);
    return true;
}

static void udp_task(void *arg) {
    (void)arg;
    (void)esp_task_wdt_add(NULL);
    while (!atomic_load(&stopping)) {
        fd_set readable;
        FD_ZERO(&readable);
        FD_SET(fd, &readable);
        struct timeval wait = {.tv_usec = WAIT_MS * 1000};
        int ready = select(fd + 1, &readable, NULL, NULL, &wait);
        (void)esp_task_wdt_reset();
        if (ready > 0) {
            for (int i = 0; i < AT_ONCE && receive(); i++) {
            }
        } else if (ready < 0) {
            vTaskDelay(1); /* nothing to be done about it here; never a busy loop */
        }
    }
    close(fd);
    fd = -1;
    (void)esp_task_wdt_delete(NULL);
    atomic_store(&stopping, false);
    vTaskDelete(NULL);
}

/* What a full driver refused is asked for again by the core when it is polled. */
static bool flush(void) {
    bool again = blocked;
    blocked = false;
    return again;
}

static esp_err_t start(const struct settings *settings, struct ts_link *link) {
    if (fd >= 0) {
        return ESP_ERR_INVALID_STATE;
    }
    esp_err_t error = network_start(settings);
    if (error != ESP_OK) {
        return error;
    }
    mtu = settings->mtu != 0 && settings->mtu < UDP_MTU ? (uint16_t)settings->mtu : UDP_MTU;
    own_port = settings->port;
    *link = (struct ts_link){.mtu = mtu, .window = settings->window != 0 ? (uint16_t)settings->window : LINK_WINDOW};
    fd = inet_socket(SOCK_DGRAM, own_port);
    if (fd < 0) {
        return errno == EADDRINUSE ? ESP_ERR_INVALID_STATE : ESP_FAIL;
    }
    atomic_store(&stopping, false);
    link_on_wait(LINK_RADIO, flush);
    if (xTaskCreatePinnedToCore(udp_task, "udp", STACK_BYTES, NULL, APP_PORT_PRIORITY, NULL, APP_RADIO_CORE) !=
        pdPASS) {
        close(fd);
        fd = -1;
        return ESP_ERR_NO_MEM;
    }
    network_announce(settings);
    return ESP_OK;
}

static bool peer(const char *text, struct ts_addr *out) {
    struct sockaddr_in6 address;
    *out = (struct ts_addr){.link = LINK_RADIO};
    if (!inet_parse(text, &address)) {
        return false;
    }
    inet_to_addr(&address, out);
    return true;
}

static int send_frame(const struct ts_addr *to, const uint8_t *frame, size_t len) {
    struct sockaddr_in6 address;
    if (fd < 0 || !inet_from_addr(to, network_scope(), &address)) {
        return TS_E_SEND_FAILED;
    }
    ssize_t sent = sendto(fd, frame, len, MSG_DONTWAIT, (const struct sockaddr *)&address, sizeof address);
    if (sent == (ssize_t)len) {
        return TS_OK;
    }
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOMEM || errno == ENOBUFS)) {
        blocked = true;
        return TS_E_WOULD_BLOCK;
    }
    atomic_fetch_add(&failed, 1); /* no way there now */
    return TS_E_SEND_FAILED;
}

static void stop(void) {
    if (fd < 0) {
        return;
    }
    link_on_wait(LINK_RADIO, NULL);
    atomic_store(&stopping, true);
    for (int waited = 0; atomic_load(&stopping) && waited < 2 * WAIT_MS; waited += (int)portTICK_PERIOD_MS) {
        vTaskDelay(1);
    }
}

static void describe(struct link_status *out) {
    memset(out, 0, sizeof *out);
    network_describe(out);
    out->mtu = mtu;
    out->rx_dropped = atomic_load(&dropped);
    out->tx_failed = atomic_load(&failed);
    network_place(out, "udp", own_port);
}

const struct link_port link_udp = {
    .name = "udp", .start = start, .peer = peer, .send = send_frame, .stop = stop, .describe = describe};
