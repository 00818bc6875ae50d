/* Wi-Fi: what the driver is told, and what its events make the board do. One start per process, as on a board, so
 * each test is a process of its own. */
#include <sys/wait.h>
#include <unistd.h>

#include "../core/check.h"
#include "esp_wifi.h"
#include "fake_events.h"
#include "fake_system.h"
#include "network.h"

#define SECRET "correct horse battery"

esp_event_base_t const WIFI_EVENT = "WIFI_EVENT";

static struct {
    int inits, starts, connects;
    wifi_mode_t mode;
    wifi_storage_t storage;
    wifi_config_t config;
    wifi_interface_t config_interface;
    wifi_ps_type_t ps;
    uint8_t channel;
    int8_t rssi;
    int stations;
    bool full; /* no memory for its buffers */
} driver;

esp_err_t esp_wifi_init(const wifi_init_config_t *config) {
    assert_non_null(config);
    driver.inits++;
    return driver.full ? ESP_ERR_NO_MEM : ESP_OK;
}
esp_err_t esp_wifi_set_storage(wifi_storage_t storage) {
    driver.storage = storage;
    return ESP_OK;
}
esp_err_t esp_wifi_set_mode(wifi_mode_t mode) {
    driver.mode = mode;
    return ESP_OK;
}
esp_err_t esp_wifi_set_config(wifi_interface_t interface, wifi_config_t *config) {
    driver.config = *config;
    driver.config_interface = interface;
    return ESP_OK;
}
esp_err_t esp_wifi_start(void) {
    driver.starts++;
    return ESP_OK;
}
esp_err_t esp_wifi_connect(void) {
    driver.connects++;
    return ESP_OK;
}
esp_err_t esp_wifi_set_ps(wifi_ps_type_t type) {
    driver.ps = type;
    return ESP_OK;
}
esp_err_t esp_wifi_set_channel(uint8_t primary, wifi_second_chan_t second) {
    assert_int_equal(second, WIFI_SECOND_CHAN_NONE);
    driver.channel = primary;
    return ESP_OK;
}
esp_err_t esp_wifi_get_channel(uint8_t *primary, wifi_second_chan_t *second) {
    *primary = driver.channel;
    *second = WIFI_SECOND_CHAN_NONE;
    return ESP_OK;
}
esp_err_t esp_wifi_sta_get_ap_info(wifi_ap_record_t *record) {
    *record = (wifi_ap_record_t){.rssi = driver.rssi, .phy_11g = 1, .phy_11n = 1};
    return ESP_OK;
}
esp_err_t esp_wifi_ap_get_sta_list(wifi_sta_list_t *list) {
    *list = (wifi_sta_list_t){.num = driver.stations};
    list->sta[0].rssi = driver.rssi;
    return ESP_OK;
}
esp_netif_t *esp_netif_create_default_wifi_sta(void) {
    return fake_netif;
}
esp_netif_t *esp_netif_create_default_wifi_ap(void) {
    return fake_netif;
}

static const struct settings home = {
    .name = "tail", .wifi_ssid = "home", .wifi_password = SECRET, .channel = 6, .power_save = POWER_SAVE_MIN};

static void disconnected(uint8_t reason) {
    wifi_event_sta_disconnected_t event = {.reason = reason};
    fake_event(WIFI_EVENT, WIFI_EVENT_STA_DISCONNECTED, &event);
}

static struct link_status status(void) {
    struct link_status s = {0};
    network_describe(&s);
    return s;
}

static int set_up(void **state) {
    (void)state;
    fake_clock_stop(1000000);
    return link_init();
}

static void a_station_is_told_all_it_needs(void **state) {
    (void)state;
    assert_int_equal(network_start(&home), ESP_OK);
    assert_int_equal(driver.mode, WIFI_MODE_STA);
    assert_int_equal(driver.storage, WIFI_STORAGE_RAM); /* the password is in our NVS only */
    assert_int_equal(driver.config_interface, WIFI_IF_STA);
    assert_string_equal((char *)driver.config.sta.ssid, "home");
    assert_string_equal((char *)driver.config.sta.password, SECRET);
    assert_int_equal(driver.config.sta.threshold.authmode, WIFI_AUTH_WPA2_PSK); /* and so WPA3, but no WEP */
    assert_int_equal(driver.config.sta.sae_pwe_h2e, WPA3_SAE_PWE_BOTH);
    assert_true(driver.config.sta.pmf_cfg.capable);
    assert_int_equal(driver.ps, WIFI_PS_MIN_MODEM);
    assert_string_equal(fake_hostname, "tail");
    assert_int_equal(driver.connects, 0); /* the driver says when it is ready */
    fake_event(WIFI_EVENT, WIFI_EVENT_STA_START, NULL);
    assert_int_equal(driver.connects, 1);
    assert_int_equal(network_start(&home), ESP_OK);
    assert_int_equal(driver.inits, 1); /* MQTT and a transport may both ask */
}

static void it_is_up_with_an_address_and_says_so(void **state) {
    (void)state;
    assert_int_equal(network_start(&home), ESP_OK);
    fake_event(WIFI_EVENT, WIFI_EVENT_STA_START, NULL);
    driver.rssi = -61;
    driver.channel = 11;
    fake_event(WIFI_EVENT, WIFI_EVENT_STA_CONNECTED, NULL);
    assert_int_equal(fake_linklocals, 1);
    assert_false(network_is_up());
    assert_string_equal(status().address, "");
    memcpy(&fake_ip, (uint8_t[]){192, 168, 1, 7}, 4);
    fake_event(IP_EVENT, IP_EVENT_STA_GOT_IP, NULL);
    assert_true(network_is_up());
    struct link_status s = status();
    assert_string_equal(s.address, "192.168.1.7");
    assert_string_equal(s.phy, "11n");
    assert_int_equal(s.rssi_dbm, -61);
    assert_int_equal(s.channel, 11);
    assert_string_equal(s.error, "");
    network_place(&s, "udp", 4000);
    assert_string_equal(s.address, "udp://192.168.1.7:4000");
    assert_int_equal(network_scope(), 2);
    fake_event(IP_EVENT, IP_EVENT_STA_LOST_IP, NULL);
    assert_false(network_is_up());
}

static void it_comes_back_with_growing_pauses(void **state) {
    (void)state;
    assert_int_equal(network_start(&home), ESP_OK);
    fake_event(WIFI_EVENT, WIFI_EVENT_STA_START, NULL);
    uint64_t longest = 0;
    for (int i = 0; i < 40; i++) {
        int before = driver.connects;
        disconnected(WIFI_REASON_NO_AP_FOUND);
        assert_int_equal(driver.connects, before); /* an event handler does not call the driver */
        uint64_t pause = fake_next_timer();
        uint64_t nominal = i < 6 ? 500000u << i : 30000000u;
        nominal = nominal < 30000000u ? nominal : 30000000u;
        assert_in_range(pause, nominal * 3 / 4, nominal);
        longest = pause > longest ? pause : longest;
        fake_advance(pause);
        assert_int_equal(driver.connects, before + 1);
    }
    assert_string_equal(status().error, "no network named home");
    fake_event(WIFI_EVENT, WIFI_EVENT_STA_CONNECTED, NULL);
    assert_int_equal(status().reconnects, 1);
    disconnected(8);
    assert_true(fake_next_timer() <= 500000); /* it worked: the next pause is short again */
}

static void a_wrong_password_is_named_and_never_shown(void **state) {
    (void)state;
    assert_int_equal(network_start(&home), ESP_OK);
    fake_event(WIFI_EVENT, WIFI_EVENT_STA_START, NULL);
    disconnected(WIFI_REASON_4WAY_HANDSHAKE_TIMEOUT);
    struct link_status s = status();
    assert_string_equal(s.error, "home refuses: wrong password?");
    for (size_t i = 0; i + sizeof SECRET - 1 <= sizeof s; i++) {
        assert_memory_not_equal((char *)&s + i, SECRET, sizeof SECRET - 1);
    }
}

static void names_and_passwords_of_full_length_fit(void **state) {
    (void)state;
    struct settings full = home;
    memset(full.wifi_ssid, 's', 32);
    memset(full.wifi_password, 'p', 64);
    assert_int_equal(network_start(&full), ESP_OK);
    for (int i = 0; i < 64; i++) {
        assert_int_equal(driver.config.sta.password[i], 'p');
        assert_true(i >= 32 || driver.config.sta.ssid[i] == 's');
    }
}

static void an_open_network_needs_no_password(void **state) {
    (void)state;
    struct settings open = home;
    open.wifi_password[0] = 0;
    assert_int_equal(network_start(&open), ESP_OK);
    assert_int_equal(driver.config.sta.threshold.authmode, WIFI_AUTH_OPEN);
}

static void a_soft_ap_is_a_network_of_its_own(void **state) {
    (void)state;
    struct settings ap = home;
    ap.wifi_mode = WIFI_SOFT_AP;
    assert_int_equal(network_start(&ap), ESP_OK);
    assert_int_equal(driver.mode, WIFI_MODE_AP);
    assert_int_equal(driver.config_interface, WIFI_IF_AP);
    assert_int_equal(driver.config.ap.ssid_len, 4);
    assert_int_equal(driver.config.ap.channel, 6);
    assert_int_equal(driver.config.ap.authmode, WIFI_AUTH_WPA2_WPA3_PSK);
    assert_int_equal(driver.config.ap.max_connection, 4);
    fake_event(WIFI_EVENT, WIFI_EVENT_AP_START, NULL);
    assert_true(network_is_up());
    driver.stations = 1;
    driver.rssi = -40;
    assert_int_equal(status().peers, 1);
    assert_int_equal(status().rssi_dbm, -40);
    assert_int_equal(driver.connects, 0);
}

static void it_is_announced_as_tinysplit_boards_reads_it(void **state) {
    (void)state;
    struct link_identity who = {.role = TS_ROLE_TAIL, .stage = 1, .stage_count = 2, .version = "0.1.0"};
    memset(who.bundle, 0xab, sizeof who.bundle);
    link_identify(&who);
    struct settings tail = home;
    tail.port = 4000;
    network_announce(&tail);
    assert_string_equal(fake_service, "tail _tinysplit _udp 4000 name=tail role=tail firmware=0.1.0 "
                                      "bundle=abababababababababababababababababababababababababababababababab "
                                      "stage=1 stages=2");
    link_identify(&(struct link_identity){.role = TS_ROLE_BRIDGE, .stage = TS_NO_STAGE, .version = "0.1.0"});
    tail.transport = TRANSPORT_TCP;
    network_announce(&tail);
    assert_string_equal(fake_service, "tail _tinysplit _tcp 4000 name=tail role=bridge firmware=0.1.0");
    fake_service[0] = 0;
    tail.port = 0;
    network_announce(&tail);
    assert_string_equal(fake_service, ""); /* nobody can connect there */
}

static void no_network_configured_is_an_error(void **state) {
    (void)state;
    struct settings none = home;
    none.wifi_ssid[0] = 0;
    assert_int_equal(network_start(&none), ESP_ERR_INVALID_STATE);
    assert_int_equal(driver.inits, 0); /* a radio that is not used is off */
}

static void the_bare_radio_joins_nothing(void **state) {
    (void)state;
    assert_int_equal(wifi_radio_start(&home), ESP_OK);
    assert_int_equal(driver.starts, 1);
    assert_int_equal(driver.channel, 6);
    fake_event(WIFI_EVENT, WIFI_EVENT_STA_START, NULL);
    assert_int_equal(driver.connects, 0);
    assert_int_equal(driver.config.sta.ssid[0], 0);
}

static void beside_a_station_the_router_keeps_the_channel(void **state) {
    (void)state;
    assert_int_equal(network_start(&home), ESP_OK);
    driver.channel = 11;
    assert_int_equal(wifi_radio_start(&home), ESP_OK);
    assert_int_equal(driver.channel, 11);
    assert_int_equal(driver.starts, 1);
}

/* The driver tells of its first start only: whoever asks for the network afterwards would never join it. */
static void with_mqtt_beside_it_the_radio_joins_the_network(void **state) {
    (void)state;
    struct settings both = home;
    (void)snprintf(both.mqtt_url, sizeof both.mqtt_url, "mqtt://broker");
    assert_int_equal(wifi_radio_start(&both), ESP_OK);
    assert_int_equal(driver.starts, 1);
    assert_string_equal((char *)driver.config.sta.ssid, "home");
    fake_event(WIFI_EVENT, WIFI_EVENT_STA_START, NULL);
    assert_int_equal(driver.connects, 1);
    assert_int_equal(network_start(&both), ESP_OK);
    assert_int_equal(driver.starts, 1);
}

static void a_driver_that_does_not_start_is_an_error_for_all_who_ask(void **state) {
    (void)state;
    driver.full = true;
    assert_int_equal(network_start(&home), ESP_ERR_NO_MEM);
    assert_int_equal(network_start(&home), ESP_ERR_NO_MEM);
    assert_int_equal(driver.starts, 0);
}

int main(int argc, char **argv) {
#define TEST(name) cmocka_unit_test_setup(name, set_up)
    const struct CMUnitTest tests[] = {
        TEST(a_station_is_told_all_it_needs),
        TEST(it_is_up_with_an_address_and_says_so),
        TEST(it_comes_back_with_growing_pauses),
        TEST(a_wrong_password_is_named_and_never_shown),
        TEST(names_and_passwords_of_full_length_fit),
        TEST(an_open_network_needs_no_password),
        TEST(a_soft_ap_is_a_network_of_its_own),
        TEST(it_is_announced_as_tinysplit_boards_reads_it),
        TEST(no_network_configured_is_an_error),
        TEST(the_bare_radio_joins_nothing),
        TEST(beside_a_station_the_router_keeps_the_channel),
        TEST(with_mqtt_beside_it_the_radio_joins_the_network),
        TEST(a_driver_that_does_not_start_is_an_error_for_all_who_ask),
    };
    (void)argc;
    int failed = 0;
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        pid_t child = fork();
        if (child == 0) {
            const struct CMUnitTest one[] = {tests[i]};
            exit(cmocka_run_group_tests_name(argv[0], one, NULL, NULL));
        }
        int code = 1;
        failed += child < 0 || waitpid(child, &code, 0) != child || code != 0;
    }
    return failed;
}
