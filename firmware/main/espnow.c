/* Frames as ESP-NOW messages. The driver's callbacks run on the Wi-Fi task: they copy a frame into a pooled buffer
 * or count, nothing else. All calls into the driver come from the link task. */
#include "sdkconfig.h"

#if CONFIG_TINYSPLIT_WIFI

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "esp_idf_version.h"
#include "esp_now.h"
#include "esp_timer.h"
#include "esp_wifi.h"
#include "link.h"
#include "network.h"

#define V1_BYTES 250u
#define V2_BYTES 1470u /* ESP-IDF 5.4.1 and newer; 5.4 said 1490 */

/* Messages handed to the driver and not yet reported. The next is ready when one is done; more would only fill the
 * driver's buffers, which it shares with everything else. */
#define IN_FLIGHT_MOST 4u
/* Longest a message can take: seven tries of 1,470 bytes at 1 Mbit/s with their back-offs stay below 100 ms. A report
 * that is overdue by this never comes, e.g. because the radio was stopped. */
#define REPORT_US 500000u

/* The MAC keeps the order and repeats for some 100 ms what the protocol must not repeat meanwhile:
 * firmware/core/DESIGN.md. */
#define RTO_MIN_US 100000u

struct known_peer {
    uint8_t mac[6];
    bool used;
    uint64_t last_us;
};

static bool running, next_known;
static struct ts_addr next;
static uint16_t mtu;
static uint32_t version;
static const struct settings *own;
static uint8_t lmk[ESP_NOW_KEY_LEN];
static bool encrypts;
static struct known_peer peers[ESP_NOW_MAX_TOTAL_PEER_NUM];
static uint64_t sent_at; /* the last message */
static atomic_uint in_flight;
static atomic_bool blocked;
static atomic_uint dropped, failed;
static atomic_int rssi;
static const char *problem = "";

static void done(bool arrived) {
    unsigned count = atomic_load(&in_flight);
    while (count > 0 && !atomic_compare_exchange_weak(&in_flight, &count, count - 1)) {
    }
    if (!arrived) {
        atomic_fetch_add(&failed, 1);
    }
    if (atomic_exchange(&blocked, false)) {
        link_wake();
    }
}

#if ESP_IDF_VERSION >= ESP_IDF_VERSION_VAL(5, 5, 0)
static void on_sent(const esp_now_send_info_t *info, esp_now_send_status_t status) {
    (void)info;
    done(status == ESP_NOW_SEND_SUCCESS);
}
#else
static void on_sent(const uint8_t *mac, esp_now_send_status_t status) {
    (void)mac;
    done(status == ESP_NOW_SEND_SUCCESS);
}
#endif

static bool is_known(const uint8_t mac[6]) {
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        if (peers[i].used && memcmp(peers[i].mac, mac, 6) == 0) {
            return true;
        }
    }
    return false;
}

static void on_received(const esp_now_recv_info_t *info, const uint8_t *data, int len) {
    if (len <= 0 || (size_t)len > LINK_FRAME_BYTES) {
        return;
    }
    /* The chip opens encrypted packets of its peers alone, and passes on what strangers send in the clear. The table
     * does not change any more when frames come. */
    if (encrypts && !is_known(info->src_addr)) {
        atomic_fetch_add(&dropped, 1);
        return;
    }
    struct link_rx *rx = link_rx_take();
    if (rx == NULL) {
        atomic_fetch_add(&dropped, 1);
        return;
    }
    if (info->rx_ctrl != NULL) {
        atomic_store(&rssi, info->rx_ctrl->rssi);
    }
    rx->from = (struct ts_addr){.link = LINK_RADIO, .len = 6};
    memcpy(rx->from.bytes, info->src_addr, 6);
    rx->len = (uint16_t)len;
    memcpy(rx->bytes, data, (size_t)len);
    link_rx_post(rx);
}

struct rate {
    wifi_phy_mode_t mode;
    wifi_phy_rate_t rate;
    uint32_t kbps;
};

static const struct rate *rate_of(uint32_t choice) {
    static const struct rate rates[] = {
        [RATE_250K] = {WIFI_PHY_MODE_LR, WIFI_PHY_RATE_LORA_250K, 250},
        [RATE_500K] = {WIFI_PHY_MODE_LR, WIFI_PHY_RATE_LORA_500K, 500},
        [RATE_1M] = {WIFI_PHY_MODE_11B, WIFI_PHY_RATE_1M_L, 1000},
        [RATE_2M] = {WIFI_PHY_MODE_11B, WIFI_PHY_RATE_2M_L, 2000},
        [RATE_5M] = {WIFI_PHY_MODE_11B, WIFI_PHY_RATE_5M_L, 5500},
        [RATE_11M] = {WIFI_PHY_MODE_11B, WIFI_PHY_RATE_11M_L, 11000},
        [RATE_6M] = {WIFI_PHY_MODE_11G, WIFI_PHY_RATE_6M, 6000},
        [RATE_9M] = {WIFI_PHY_MODE_11G, WIFI_PHY_RATE_9M, 9000},
        [RATE_12M] = {WIFI_PHY_MODE_11G, WIFI_PHY_RATE_12M, 12000},
        [RATE_18M] = {WIFI_PHY_MODE_11G, WIFI_PHY_RATE_18M, 18000},
        [RATE_24M] = {WIFI_PHY_MODE_11G, WIFI_PHY_RATE_24M, 24000},
        [RATE_36M] = {WIFI_PHY_MODE_11G, WIFI_PHY_RATE_36M, 36000},
        [RATE_48M] = {WIFI_PHY_MODE_11G, WIFI_PHY_RATE_48M, 48000},
        [RATE_54M] = {WIFI_PHY_MODE_11G, WIFI_PHY_RATE_54M, 54000},
    };
    return &rates[choice < sizeof rates / sizeof *rates ? choice : RATE_1M];
}

/* 16 bytes from 32 hexadecimal digits. */
static bool read_key(const char *text, uint8_t key[ESP_NOW_KEY_LEN]) {
    if (strlen(text) != 2u * ESP_NOW_KEY_LEN) {
        return false;
    }
    for (size_t i = 0; i < 2u * ESP_NOW_KEY_LEN; i++) {
        char c = text[i];
        uint8_t digit = c >= '0' && c <= '9'   ? (uint8_t)(c - '0')
                        : c >= 'a' && c <= 'f' ? (uint8_t)(c - 'a' + 10)
                        : c >= 'A' && c <= 'F' ? (uint8_t)(c - 'A' + 10)
                                               : 16;
        if (digit > 15) {
            return false;
        }
        key[i / 2] = (uint8_t)(i % 2 == 0 ? digit << 4 : key[i / 2] | digit);
    }
    return true;
}

static wifi_interface_t interface(void) {
    wifi_mode_t mode = WIFI_MODE_NULL;
    return esp_wifi_get_mode(&mode) == ESP_OK && mode == WIFI_MODE_AP ? WIFI_IF_AP : WIFI_IF_STA;
}

/* The driver sends to peers of its table only. The table is short: whoever was not sent to for longest makes room,
 * but never the next stage. */
static struct known_peer *make_room(void) {
    struct known_peer *oldest = NULL;
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        struct known_peer *p = &peers[i];
        if (!p->used) {
            return p;
        }
        bool is_next = next_known && memcmp(p->mac, next.bytes, 6) == 0;
        if (!is_next && (oldest == NULL || p->last_us < oldest->last_us)) {
            oldest = p;
        }
    }
    return oldest;
}

static bool know(const uint8_t mac[6], uint64_t now, bool may_join) {
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        if (peers[i].used && memcmp(peers[i].mac, mac, 6) == 0) {
            peers[i].last_us = now;
            return true;
        }
    }
    if (encrypts && !may_join) {
        return false; /* only peers that were named have the key */
    }
    struct known_peer *p = make_room();
    if (p == NULL) {
        return false;
    }
    if (p->used) {
        (void)esp_now_del_peer(p->mac);
        p->used = false;
    }
    esp_now_peer_info_t info = {.channel = 0, .ifidx = interface(), .encrypt = encrypts};
    memcpy(info.peer_addr, mac, 6);
    memcpy(info.lmk, lmk, sizeof info.lmk);
    esp_err_t error = esp_now_add_peer(&info);
    if (error != ESP_OK && error != ESP_ERR_ESPNOW_EXIST) {
        return false; /* with keys the driver's table is shorter still */
    }
    const struct rate *rate = rate_of(own->espnow_rate);
    esp_now_rate_config_t config = {.phymode = rate->mode, .rate = rate->rate};
    if (esp_now_set_peer_rate_config(mac, &config) != ESP_OK) {
        problem = "the driver refuses this rate";
    }
    memcpy(p->mac, mac, 6);
    p->used = true;
    p->last_us = now;
    return true;
}

/* The next report wakes the link task. Where none is under way, the driver's memory is used up by others. */
static bool flush(void) {
    return atomic_load(&in_flight) == 0 && atomic_exchange(&blocked, false);
}

static esp_err_t start(const struct settings *settings, struct ts_link *link) {
    uint8_t pmk[ESP_NOW_KEY_LEN];
    if (running) {
        return ESP_ERR_INVALID_STATE;
    }
    encrypts = settings->espnow_lmk[0] != 0;
    if ((encrypts && !read_key(settings->espnow_lmk, lmk)) ||
        (settings->espnow_pmk[0] != 0 && !read_key(settings->espnow_pmk, pmk))) {
        return ESP_ERR_INVALID_ARG;
    }
    esp_err_t error = wifi_radio_start(settings);
    if (error == ESP_OK && rate_of(settings->espnow_rate)->mode == WIFI_PHY_MODE_LR) {
        /* Espressif's long range is heard only by who allows it; routers and other rates stay usable. */
        error = esp_wifi_set_protocol(interface(),
                                      WIFI_PROTOCOL_11B | WIFI_PROTOCOL_11G | WIFI_PROTOCOL_11N | WIFI_PROTOCOL_LR);
    }
    if (error == ESP_OK) {
        error = esp_now_init();
    }
    if (error == ESP_OK && settings->espnow_pmk[0] != 0) {
        error = esp_now_set_pmk(pmk);
    }
    memset(pmk, 0, sizeof pmk);
    if (error == ESP_OK) {
        error = esp_now_register_send_cb(on_sent);
    }
    if (error == ESP_OK) {
        error = esp_now_register_recv_cb(on_received);
    }
    if (error == ESP_OK) {
        error = esp_now_get_version(&version);
    }
    if (error != ESP_OK) {
        return error;
    }
    own = settings;
    problem = "";
    mtu = V1_BYTES;
    if (settings->espnow_version == 2) {
#ifdef ESP_NOW_MAX_DATA_LEN_V2
        if (version >= 2) {
            mtu = V2_BYTES;
        }
#endif
        if (mtu != V2_BYTES) {
            problem = "this firmware's ESP-NOW has no version 2: version 1";
        }
    }
    version = mtu == V2_BYTES ? 2 : 1;
    if (settings->mtu != 0 && settings->mtu < mtu) {
        mtu = (uint16_t)settings->mtu;
    }
    memset(peers, 0, sizeof peers);
    next_known = false;
    atomic_store(&in_flight, 0);
    atomic_store(&blocked, false);
    *link = (struct ts_link){.mtu = mtu,
                             .window = settings->window != 0 ? (uint16_t)settings->window : LINK_WINDOW,
                             .reorder = 1,
                             .rto_min_us = RTO_MIN_US};
    uint8_t named[SETTINGS_PEERS][6];
    size_t count = settings_peers(settings, named);
    for (size_t i = 0; i < count; i++) {
        if (!know(named[i], (uint64_t)esp_timer_get_time(), true)) {
            problem = "the driver takes no more of espnow_peers";
            break;
        }
    }
    if (encrypts && count == 0 && settings->next[0] == 0) {
        problem = "espnow_peers is empty: with a key, nobody is heard";
    }
    link_on_wait(LINK_RADIO, flush);
    running = true;
    return ESP_OK;
}

static bool peer(const char *text, struct ts_addr *out) {
    *out = (struct ts_addr){.link = LINK_RADIO, .len = 6};
    if (!settings_mac(text, out->bytes) || (out->bytes[0] & 1) != 0) {
        return false; /* a group is nobody's next stage */
    }
    next = *out;
    next_known = true;
    return know(out->bytes, (uint64_t)esp_timer_get_time(), true);
}

static int send_frame(const struct ts_addr *to, const uint8_t *frame, size_t len) {
    uint64_t now = (uint64_t)esp_timer_get_time();
    if (!running || to->len != 6 || !know(to->bytes, now, false)) {
        atomic_fetch_add(&failed, 1);
        return TS_E_SEND_FAILED;
    }
    if (atomic_load(&in_flight) >= IN_FLIGHT_MOST) {
        if (now - sent_at < REPORT_US) {
            atomic_store(&blocked, true);
            /* The report may have come between the two lines above. */
            if (atomic_load(&in_flight) >= IN_FLIGHT_MOST) {
                return TS_E_WOULD_BLOCK;
            }
            atomic_store(&blocked, false);
        } else {
            atomic_store(&in_flight, 0);
        }
    }
    atomic_fetch_add(&in_flight, 1); /* before the call: the report may come before it returns */
    esp_err_t error = esp_now_send(to->bytes, frame, len);
    if (error == ESP_OK) {
        sent_at = now;
        return TS_OK;
    }
    bool full = error == ESP_ERR_ESPNOW_NO_MEM;
    done(full);
    if (full) {
        atomic_store(&blocked, true);
    }
    return full ? TS_E_WOULD_BLOCK : TS_E_SEND_FAILED;
}

static void stop(void) {
    if (running) {
        link_on_wait(LINK_RADIO, NULL);
        running = false;
        (void)esp_now_deinit();
        memset(lmk, 0, sizeof lmk);
    }
}

static void describe(struct link_status *out) {
    memset(out, 0, sizeof *out);
    if (!running) {
        return;
    }
    network_describe(out);
    out->up = true;
    out->mtu = mtu;
    out->version = (uint8_t)version;
    out->rate_kbps = rate_of(own->espnow_rate)->kbps;
    out->rssi_dbm = (int8_t)atomic_load(&rssi);
    out->rx_dropped = atomic_load(&dropped);
    out->tx_failed = atomic_load(&failed);
    out->peers = 0;
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        out->peers = (uint8_t)(out->peers + peers[i].used);
    }
    if (problem[0] != 0) {
        (void)snprintf(out->error, sizeof out->error, "%.70s", problem);
    }
    uint8_t mac[6];
    if (esp_wifi_get_mac(interface(), mac) == ESP_OK) {
        (void)snprintf(out->address, sizeof out->address, "espnow://%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
                       mac[2], mac[3], mac[4], mac[5]);
    }
}

const struct link_port link_espnow = {
    .name = "espnow", .start = start, .peer = peer, .send = send_frame, .stop = stop, .describe = describe};

#endif
