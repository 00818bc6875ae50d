/* Wi-Fi: a station that finds its way back, a soft-AP for two boards without a router, or the bare radio
 * under ESP-NOW. Not in builds for the emulator, which has no Wi-Fi: there even esp_wifi_start hangs. */
#include "sdkconfig.h"

#if CONFIG_TINYSPLIT_WIFI

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "esp_event.h"
#include "esp_random.h"
#include "esp_timer.h"
#include "esp_wifi.h"
#include "network.h"

#define RETRY_FIRST_MS 500u
#define RETRY_MOST_MS 30000u
#define AP_PEERS 4

static bool started; /* the driver */
static bool joins;   /* the station has a network to join */
static bool soft_ap;
static esp_netif_t *netif;
static esp_timer_handle_t retry_timer;
static atomic_uint failures; /* in a row */
static atomic_uint reason;   /* wifi_err_reason_t of the last one; 0: none */
static atomic_uint reconnects;
static atomic_bool joined;
static char ssid[33];

static void retry(void *arg) {
    (void)arg;
    (void)esp_wifi_connect(); /* its end is an event in any case */
}

/* Doubles up to half a minute; a quarter is chance, so that boards that lost the same router do not call in step. */
static uint32_t retry_ms(uint32_t failed) {
    uint32_t ms = failed < 7 ? RETRY_FIRST_MS << failed : RETRY_MOST_MS;
    ms = ms < RETRY_MOST_MS ? ms : RETRY_MOST_MS;
    return ms - esp_random() % (ms / 4);
}

static void on_wifi_event(void *arg, esp_event_base_t base, int32_t id, void *data) {
    (void)arg;
    (void)base;
    switch (id) {
    case WIFI_EVENT_STA_START:
        if (joins) {
            (void)esp_wifi_connect();
        }
        break;
    case WIFI_EVENT_STA_CONNECTED:
        if (atomic_exchange(&joined, true) == false && atomic_load(&reason) != 0) {
            atomic_fetch_add(&reconnects, 1);
        }
        atomic_store(&failures, 0);
        atomic_store(&reason, 0);
        (void)esp_netif_create_ip6_linklocal(netif);
        break;
    case WIFI_EVENT_STA_DISCONNECTED: {
        const wifi_event_sta_disconnected_t *event = data;
        atomic_store(&joined, false);
        atomic_store(&reason, event->reason);
        network_set_up(false);
        if (joins) {
            uint32_t failed = atomic_fetch_add(&failures, 1);
            (void)esp_timer_start_once(retry_timer, (uint64_t)retry_ms(failed) * 1000u);
        }
        break;
    }
    case WIFI_EVENT_AP_START:
        network_set_up(true);
        break;
    case WIFI_EVENT_AP_STOP:
        network_set_up(false);
        break;
    default:
        break;
    }
}

static esp_err_t configure_station(const struct settings *settings) {
    wifi_config_t config = {0};
    /* Both may fill their fields to the last byte, without a final 0 (IEEE 802.11). */
    memcpy(config.sta.ssid, settings->wifi_ssid, strnlen(settings->wifi_ssid, sizeof config.sta.ssid));
    memcpy(config.sta.password, settings->wifi_password, strnlen(settings->wifi_password, sizeof config.sta.password));
    config.sta.scan_method = WIFI_ALL_CHANNEL_SCAN;
    config.sta.sort_method = WIFI_CONNECT_AP_BY_SIGNAL;
    config.sta.threshold.authmode = settings->wifi_password[0] != 0 ? WIFI_AUTH_WPA2_PSK : WIFI_AUTH_OPEN;
    config.sta.pmf_cfg.capable = true;
    config.sta.sae_pwe_h2e = WPA3_SAE_PWE_BOTH;
    return esp_wifi_set_config(WIFI_IF_STA, &config);
}

static esp_err_t configure_ap(const struct settings *settings) {
    wifi_config_t config = {0};
    size_t len = strnlen(settings->wifi_ssid, sizeof config.ap.ssid);
    memcpy(config.ap.ssid, settings->wifi_ssid, len);
    config.ap.ssid_len = (uint8_t)len;
    memcpy(config.ap.password, settings->wifi_password, strnlen(settings->wifi_password, sizeof config.ap.password));
    config.ap.channel = (uint8_t)settings->channel;
    config.ap.max_connection = AP_PEERS;
    if (settings->wifi_password[0] == 0) {
        config.ap.authmode = WIFI_AUTH_OPEN;
    } else {
#if CONFIG_ESP_WIFI_SOFTAP_SAE_SUPPORT
        config.ap.authmode = WIFI_AUTH_WPA2_WPA3_PSK;
        config.ap.sae_pwe_h2e = WPA3_SAE_PWE_BOTH;
#else
        config.ap.authmode = WIFI_AUTH_WPA2_PSK;
#endif
        config.ap.pmf_cfg.capable = true;
    }
    return esp_wifi_set_config(WIFI_IF_AP, &config);
}

static wifi_ps_type_t power_save(const struct settings *settings) {
    switch (settings->power_save) {
    case POWER_SAVE_MIN:
        return WIFI_PS_MIN_MODEM;
    case POWER_SAVE_MAX:
        return WIFI_PS_MAX_MODEM;
    default:
        return WIFI_PS_NONE;
    }
}

/* The driver, with everything about it kept in RAM: settings are the board's own. */
static esp_err_t start_driver(const struct settings *settings) {
    wifi_init_config_t init = WIFI_INIT_CONFIG_DEFAULT();
    esp_err_t error = esp_wifi_init(&init);
    if (error == ESP_OK) {
        error = esp_wifi_set_storage(WIFI_STORAGE_RAM);
    }
    if (error == ESP_OK) {
        error = esp_event_handler_register(WIFI_EVENT, ESP_EVENT_ANY_ID, on_wifi_event, NULL);
    }
    if (error == ESP_OK) {
        error = esp_wifi_set_mode(soft_ap ? WIFI_MODE_AP : WIFI_MODE_STA);
    }
    if (error == ESP_OK && soft_ap) {
        error = configure_ap(settings);
    } else if (error == ESP_OK && joins) {
        error = configure_station(settings);
    }
    if (error == ESP_OK) {
        error = esp_wifi_start();
    }
    if (error == ESP_OK && !soft_ap) {
        error = esp_wifi_set_ps(power_save(settings));
    }
    started = error == ESP_OK;
    return error;
}

esp_err_t interface_start(const struct settings *settings, esp_netif_t **out) {
    if (settings->wifi_ssid[0] == 0) {
        return ESP_ERR_INVALID_STATE;
    }
    const esp_timer_create_args_t args = {.callback = retry, .name = "wifi"};
    esp_err_t error = esp_timer_create(&args, &retry_timer);
    if (error != ESP_OK) {
        return error;
    }
    soft_ap = settings->wifi_mode == WIFI_SOFT_AP;
    joins = !soft_ap;
    (void)snprintf(ssid, sizeof ssid, "%s", settings->wifi_ssid);
    netif = soft_ap ? esp_netif_create_default_wifi_ap() : esp_netif_create_default_wifi_sta();
    if (netif == NULL) {
        return ESP_ERR_NO_MEM;
    }
    (void)esp_netif_set_hostname(netif, settings->name);
    *out = netif;
    return start_driver(settings);
}

esp_err_t wifi_radio_start(const struct settings *settings) {
    esp_err_t error = ESP_OK;
    /* The driver says once, when it is started, that the station may connect: with MQTT beside ESP-NOW it must know
     * of the network by then. */
    if (!started) {
        bool needs_network = settings->mqtt_url[0] != '\0' && settings->wifi_ssid[0] != '\0';
        error = needs_network ? network_start(settings) : network_prepare();
    }
    if (error == ESP_OK && !started) {
        error = start_driver(settings);
    }
    if (error == ESP_OK && !joins && !soft_ap) {
        error = esp_wifi_set_channel((uint8_t)settings->channel, WIFI_SECOND_CHAN_NONE);
    }
    return error;
}

static void explain(struct link_status *out, unsigned why) {
    switch (why) {
    case 0:
        return;
    case WIFI_REASON_NO_AP_FOUND:
        (void)snprintf(out->error, sizeof out->error, "no network named %s", ssid);
        return;
    case WIFI_REASON_AUTH_FAIL:
    case WIFI_REASON_4WAY_HANDSHAKE_TIMEOUT:
    case WIFI_REASON_HANDSHAKE_TIMEOUT:
        (void)snprintf(out->error, sizeof out->error, "%.*s refuses: wrong password?", (int)settings_cut(ssid, 22),
                       ssid);
        return;
    default:
        (void)snprintf(out->error, sizeof out->error, "lost %.*s, reason %u", (int)settings_cut(ssid, 22), ssid, why);
    }
}

void interface_describe(struct link_status *out) {
    uint8_t primary = 0;
    wifi_second_chan_t second = WIFI_SECOND_CHAN_NONE;
    out->reconnects = atomic_load(&reconnects);
    if (!started) {
        return;
    }
    if (esp_wifi_get_channel(&primary, &second) == ESP_OK) {
        out->channel = primary;
    }
    wifi_ap_record_t ap;
    if (joins && atomic_load(&joined) && esp_wifi_sta_get_ap_info(&ap) == ESP_OK) {
        out->rssi_dbm = ap.rssi;
        (void)snprintf(out->phy, sizeof out->phy, "%s",
                       ap.phy_lr    ? "LR"
                       : ap.phy_11n ? "11n"
                       : ap.phy_11g ? "11g"
                                    : "11b");
    }
    wifi_sta_list_t stations;
    if (soft_ap && esp_wifi_ap_get_sta_list(&stations) == ESP_OK) {
        out->peers = (uint8_t)stations.num;
        out->rssi_dbm = stations.num > 0 ? stations.sta[0].rssi : 0;
    }
    explain(out, atomic_load(&reason));
}

#endif
