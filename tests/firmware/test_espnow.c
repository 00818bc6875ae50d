/* The ESP-NOW port against a driver whose callbacks the test makes. */
#include "../core/check.h"
#include "esp_idf_version.h"
#include "esp_now.h"
#include "esp_timer.h"
#include "esp_wifi.h"
#include "fake_system.h"
#include "link.h"
#include "network.h"

#define PEERS_MOST 40

static struct {
    int inits, peers;
    uint32_t version;
    uint8_t pmk[16];
    bool has_pmk;
    esp_now_recv_cb_t received;
    esp_now_send_cb_t sent;
    esp_now_peer_info_t peer[PEERS_MOST];
    esp_now_rate_config_t rate;
    int most_peers;
    esp_err_t send_result;
    int sends;
    uint8_t protocols;
    uint8_t to[6], data[1500];
    size_t len;
} driver;

esp_err_t wifi_radio_start(const struct settings *settings) {
    (void)settings;
    return ESP_OK;
}
void network_describe(struct link_status *out) {
    out->channel = 6;
}
esp_err_t esp_wifi_get_mode(wifi_mode_t *mode) {
    *mode = WIFI_MODE_STA;
    return ESP_OK;
}
esp_err_t esp_wifi_get_mac(wifi_interface_t interface, uint8_t mac[6]) {
    assert_int_equal(interface, WIFI_IF_STA);
    memcpy(mac, (uint8_t[]){2, 0, 0, 0, 0xab, 1}, 6);
    return ESP_OK;
}
esp_err_t esp_wifi_set_protocol(wifi_interface_t interface, uint8_t protocols) {
    assert_int_equal(interface, WIFI_IF_STA);
    driver.protocols = protocols;
    return ESP_OK;
}
esp_err_t esp_now_init(void) {
    driver.inits++;
    return ESP_OK;
}
esp_err_t esp_now_deinit(void) {
    driver.inits--;
    return ESP_OK;
}
esp_err_t esp_now_get_version(uint32_t *version) {
    *version = driver.version;
    return ESP_OK;
}
esp_err_t esp_now_register_recv_cb(esp_now_recv_cb_t callback) {
    driver.received = callback;
    return ESP_OK;
}
esp_err_t esp_now_register_send_cb(esp_now_send_cb_t callback) {
    driver.sent = callback;
    return ESP_OK;
}
esp_err_t esp_now_set_pmk(const uint8_t *pmk) {
    memcpy(driver.pmk, pmk, 16);
    driver.has_pmk = true;
    return ESP_OK;
}
static int find_peer(const uint8_t *mac) {
    for (int i = 0; i < driver.peers; i++) {
        if (memcmp(driver.peer[i].peer_addr, mac, 6) == 0) {
            return i;
        }
    }
    return -1;
}
esp_err_t esp_now_add_peer(const esp_now_peer_info_t *peer) {
    if (find_peer(peer->peer_addr) >= 0) {
        return ESP_ERR_ESPNOW_EXIST;
    }
    if (driver.peers == driver.most_peers) {
        return ESP_ERR_ESPNOW_FULL;
    }
    driver.peer[driver.peers++] = *peer;
    return ESP_OK;
}
esp_err_t esp_now_del_peer(const uint8_t *mac) {
    int at = find_peer(mac);
    assert_true(at >= 0);
    driver.peer[at] = driver.peer[--driver.peers];
    return ESP_OK;
}
esp_err_t esp_now_set_peer_rate_config(const uint8_t *mac, esp_now_rate_config_t *config) {
    assert_true(find_peer(mac) >= 0);
    driver.rate = *config;
    return ESP_OK;
}
esp_err_t esp_now_send(const uint8_t *mac, const uint8_t *data, size_t len) {
    assert_true(find_peer(mac) >= 0); /* the real one refuses strangers */
    if (driver.send_result != ESP_OK) {
        return driver.send_result;
    }
    driver.sends++;
    memcpy(driver.to, mac, 6);
    memcpy(driver.data, data, len);
    driver.len = len;
    return ESP_OK;
}

static void report(esp_now_send_status_t status) {
#if ESP_IDF_VERSION >= ESP_IDF_VERSION_VAL(5, 5, 0)
    esp_now_send_info_t info = {.des_addr = driver.to};
    driver.sent(&info, status);
#else
    driver.sent(driver.to, status);
#endif
}

static struct settings settings;
static struct ts_link params;

static int set_up(void **state) {
    (void)state;
    static bool done;
    memset(&driver, 0, sizeof driver);
    driver.version = 2;
    driver.most_peers = 20;
    settings = (struct settings){.name = "head", .channel = 6, .espnow_version = 1, .espnow_rate = RATE_1M};
    if (!done) {
        done = true;
        return link_init();
    }
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    link_espnow.stop();
    assert_int_equal(driver.inits, 0);
    return 0;
}

static void start(void) {
    assert_int_equal(link_espnow.start(&settings, &params), ESP_OK);
}

/* Whether the link task is woken, rather than by its own clock after a second. */
static bool wakes_soon(void) {
    int64_t before = esp_timer_get_time();
    assert_null(link_rx_wait(TS_NEVER));
    return esp_timer_get_time() - before < LINK_WAIT_MS * 900;
}

static struct ts_addr peer_at(uint8_t last) {
    return (struct ts_addr){.len = 6, .bytes = {2, 0, 0, 0, 0, last}};
}

static int send_to(uint8_t last) {
    struct ts_addr to = peer_at(last);
    return link_espnow.send(&to, (const uint8_t *)"frame", 5);
}

static void version_1_has_250_bytes(void **state) {
    (void)state;
    start();
    assert_int_equal(params.mtu, 250);
    struct link_status status;
    link_espnow.describe(&status);
    assert_int_equal(status.version, 1);
    assert_int_equal(status.channel, 6);
    assert_int_equal(status.rate_kbps, 1000);
    assert_string_equal(status.address, "espnow://02:00:00:00:ab:01");
    assert_string_equal(status.error, "");
}

static void version_2_has_1470_bytes_where_there_is_one(void **state) {
    (void)state;
    settings.espnow_version = 2;
    start();
    struct link_status status;
    link_espnow.describe(&status);
#ifdef ESP_NOW_MAX_DATA_LEN_V2
    assert_int_equal(params.mtu, 1470);
    assert_int_equal(status.version, 2);
    assert_string_equal(status.error, "");
    link_espnow.stop();
    driver.version = 1; /* an older driver library */
    start();
    link_espnow.describe(&status);
#endif
    assert_int_equal(params.mtu, 250);
    assert_int_equal(status.version, 1);
    assert_string_equal(status.error, "this firmware's ESP-NOW has no version 2: version 1");
}

static void frames_come_with_their_sender(void **state) {
    (void)state;
    start();
    uint8_t from[6] = {2, 0, 0, 0, 0, 9};
    wifi_pkt_rx_ctrl_t control = {.rssi = -48};
    const esp_now_recv_info_t info = {.src_addr = from, .rx_ctrl = &control};
    driver.received(&info, (const uint8_t *)"boundary", 8);
    struct link_rx *rx = link_rx_wait(0);
    assert_non_null(rx);
    assert_int_equal(rx->len, 8);
    assert_memory_equal(rx->bytes, "boundary", 8);
    assert_int_equal(rx->from.link, LINK_RADIO);
    assert_int_equal(rx->from.len, 6);
    assert_memory_equal(rx->from.bytes, from, 6);
    link_rx_give(rx);
    struct link_status status;
    link_espnow.describe(&status);
    assert_int_equal(status.rssi_dbm, -48);
    driver.received(&info, (const uint8_t *)"", 0);
    driver.received(&info, driver.data, LINK_FRAME_BYTES + 1);
    assert_null(link_rx_wait(0));
}

static void without_buffers_frames_are_dropped_and_counted(void **state) {
    (void)state;
    start();
    struct link_status before;
    struct link_status after;
    link_espnow.describe(&before);
    uint8_t from[6] = {2};
    const esp_now_recv_info_t info = {.src_addr = from};
    for (size_t i = 0; i < LINK_RX_FRAMES + 3; i++) {
        driver.received(&info, (const uint8_t *)"x", 1);
    }
    link_espnow.describe(&after);
    assert_int_equal(after.rx_dropped - before.rx_dropped, 3);
    for (size_t i = 0; i < LINK_RX_FRAMES; i++) {
        link_rx_give(link_rx_wait(0));
    }
}

static void reports_pace_the_sender(void **state) {
    (void)state;
    start();
    for (int i = 0; i < 4; i++) {
        assert_int_equal(send_to(1), TS_OK);
    }
    assert_int_equal(send_to(1), TS_E_WOULD_BLOCK);
    assert_int_equal(driver.sends, 4);
    assert_null(link_rx_wait(0)); /* the link task goes to wait, and no frame's report has come */
    report(ESP_NOW_SEND_SUCCESS);
    assert_true(wakes_soon());
    assert_int_equal(send_to(1), TS_OK);
    assert_int_equal(send_to(1), TS_E_WOULD_BLOCK);
    struct link_status status;
    link_espnow.describe(&status);
    uint32_t failed = status.tx_failed;
    report(ESP_NOW_SEND_FAIL); /* nobody acknowledged: room all the same */
    link_espnow.describe(&status);
    assert_int_equal(status.tx_failed, failed + 1);
    assert_int_equal(send_to(1), TS_OK);
}

static void reports_that_never_come_do_not_block_for_ever(void **state) {
    (void)state;
    start();
    for (int i = 0; i < 4; i++) {
        assert_int_equal(send_to(1), TS_OK);
    }
    fake_clock_skip(400000);
    assert_int_equal(send_to(1), TS_E_WOULD_BLOCK);
    fake_clock_skip(100000);
    assert_int_equal(send_to(1), TS_OK);
    for (int i = 0; i < 20; i++) {
        report(ESP_NOW_SEND_SUCCESS); /* late and too many: the count does not wrap */
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(send_to(1), TS_OK);
    }
    assert_int_equal(send_to(1), TS_E_WOULD_BLOCK);
}

static void a_driver_without_memory_blocks_and_is_asked_again(void **state) {
    (void)state;
    start();
    driver.send_result = ESP_ERR_ESPNOW_NO_MEM;
    assert_int_equal(send_to(1), TS_E_WOULD_BLOCK);
    /* No report will wake the link task, but it comes back by itself. */
    assert_true(wakes_soon());
    driver.send_result = ESP_OK;
    assert_int_equal(send_to(1), TS_OK);
    driver.send_result = ESP_FAIL;
    assert_int_equal(send_to(1), TS_E_SEND_FAILED);
}

static void peers_get_their_rate_and_keys(void **state) {
    (void)state;
    settings.espnow_rate = RATE_48M;
    strcpy(settings.espnow_pmk, "000102030405060708090a0b0c0d0e0f");
    strcpy(settings.espnow_lmk, "F0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF");
    start();
    struct ts_addr next;
    assert_true(link_espnow.peer("02:00:00:00:00:Aa", &next));
    assert_memory_equal(next.bytes, ((uint8_t[]){2, 0, 0, 0, 0, 0xaa}), 6);
    assert_int_equal(driver.peers, 1);
    assert_true(driver.peer[0].encrypt);
    assert_int_equal(driver.peer[0].channel, 0); /* the current one */
    assert_int_equal(driver.peer[0].lmk[0], 0xf0);
    assert_int_equal(driver.peer[0].lmk[15], 0xff);
    assert_true(driver.has_pmk);
    assert_int_equal(driver.pmk[15], 0x0f);
    assert_int_equal(driver.rate.phymode, WIFI_PHY_MODE_11G);
    assert_int_equal(driver.rate.rate, WIFI_PHY_RATE_48M);
}

static void hear(uint8_t last) {
    uint8_t from[6] = {2, 0, 0, 0, 0, last};
    const esp_now_recv_info_t info = {.src_addr = from};
    driver.received(&info, (const uint8_t *)"x", 1);
}

static bool is_heard(uint8_t last) {
    hear(last);
    struct link_rx *rx = link_rx_wait(0);
    if (rx != NULL) {
        link_rx_give(rx);
    }
    return rx != NULL;
}

static void an_encrypted_tail_knows_who_may_call(void **state) {
    (void)state;
    strcpy(settings.espnow_pmk, "000102030405060708090a0b0c0d0e0f");
    strcpy(settings.espnow_lmk, "F0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF");
    strcpy(settings.espnow_peers, "02:00:00:00:00:01,02:00:00:00:00:02");
    start();
    assert_int_equal(driver.peers, 2);
    for (int i = 0; i < 2; i++) {
        assert_true(driver.peer[i].encrypt);
        assert_int_equal(driver.peer[i].lmk[15], 0xff);
    }
    struct link_status status;
    link_espnow.describe(&status);
    assert_string_equal(status.error, "");
    uint32_t dropped = status.rx_dropped;
    assert_true(is_heard(1));
    assert_true(is_heard(2));
    /* A stranger has no key: what comes from him came in the clear. */
    assert_false(is_heard(3));
    link_espnow.describe(&status);
    assert_int_equal(status.rx_dropped, dropped + 1);
    assert_int_equal(send_to(1), TS_OK);
    assert_int_equal(send_to(3), TS_E_SEND_FAILED);
    assert_int_equal(driver.peers, 2);
}

static void an_encrypted_tail_without_peers_says_so(void **state) {
    (void)state;
    strcpy(settings.espnow_pmk, "000102030405060708090a0b0c0d0e0f");
    strcpy(settings.espnow_lmk, "F0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF");
    start();
    struct link_status status;
    link_espnow.describe(&status);
    assert_non_null(strstr(status.error, "espnow_peers"));
    link_espnow.stop();
    strcpy(settings.espnow_peers, "02:00:00:00:00:01,02:00:00:00:00:02");
    driver.most_peers = 1; /* keys of the chip are few */
    start();
    link_espnow.describe(&status);
    assert_non_null(strstr(status.error, "no more of espnow_peers"));
}

static void without_keys_everybody_may_call(void **state) {
    (void)state;
    strcpy(settings.espnow_peers, "02:00:00:00:00:01");
    start();
    assert_true(is_heard(3));
    assert_int_equal(send_to(3), TS_OK);
}

static void long_range_is_allowed_where_it_is_used(void **state) {
    (void)state;
    start();
    assert_int_equal(driver.protocols, 0); /* the driver's own choice */
    link_espnow.stop();
    settings.espnow_rate = RATE_250K;
    start();
    assert_int_equal(driver.protocols & WIFI_PROTOCOL_LR, WIFI_PROTOCOL_LR);
    assert_int_equal(send_to(1), TS_OK);
    assert_int_equal(driver.rate.phymode, WIFI_PHY_MODE_LR);
    assert_int_equal(driver.rate.rate, WIFI_PHY_RATE_LORA_250K);
}

static void a_broken_key_is_refused(void **state) {
    (void)state;
    strcpy(settings.espnow_lmk, "0123");
    assert_int_equal(link_espnow.start(&settings, &params), ESP_ERR_INVALID_ARG);
    strcpy(settings.espnow_lmk, "0123456789abcdefghij456789abcdef");
    assert_int_equal(link_espnow.start(&settings, &params), ESP_ERR_INVALID_ARG);
    assert_int_equal(driver.inits, 0);
}

static void the_table_forgets_the_oldest_but_never_the_next_stage(void **state) {
    (void)state;
    start();
    struct ts_addr next;
    assert_true(link_espnow.peer("02:00:00:00:00:ff", &next));
    for (uint8_t i = 1; i <= 60; i++) {
        fake_clock_skip(1000);
        assert_int_equal(send_to(i), TS_OK);
        report(ESP_NOW_SEND_SUCCESS);
    }
    assert_int_equal(driver.peers, 20);
    assert_true(find_peer(next.bytes) >= 0);
    for (uint8_t i = 60; i > 60 - 19; i--) {
        assert_true(find_peer(peer_at(i).bytes) >= 0);
    }
}

static void a_shorter_table_of_the_driver_fails_only_the_newcomer(void **state) {
    (void)state;
    driver.most_peers = 2;
    start();
    assert_int_equal(send_to(1), TS_OK);
    assert_int_equal(send_to(2), TS_OK);
    assert_int_equal(send_to(3), TS_E_SEND_FAILED);
    assert_int_equal(send_to(1), TS_OK);
}

static void addresses(void **state) {
    (void)state;
    start();
    static const char *const bad[] = {"",
                                      "02:00:00:00:00",
                                      "02:00:00:00:00:0g",
                                      "02-00-00-00-00-01",
                                      "02:00:00:00:00:011",
                                      "02:00:00:00:00:1",
                                      "ff:ff:ff:ff:ff:ff",
                                      "01:00:5e:00:00:01"};
    struct ts_addr out;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(link_espnow.peer(bad[i], &out));
    }
    const struct ts_addr foreign = {.len = 1, .bytes = {1}};
    assert_int_equal(link_espnow.send(&foreign, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(version_1_has_250_bytes),
        TEST(version_2_has_1470_bytes_where_there_is_one),
        TEST(frames_come_with_their_sender),
        TEST(without_buffers_frames_are_dropped_and_counted),
        TEST(reports_pace_the_sender),
        TEST(reports_that_never_come_do_not_block_for_ever),
        TEST(a_driver_without_memory_blocks_and_is_asked_again),
        TEST(peers_get_their_rate_and_keys),
        TEST(an_encrypted_tail_knows_who_may_call),
        TEST(an_encrypted_tail_without_peers_says_so),
        TEST(without_keys_everybody_may_call),
        TEST(long_range_is_allowed_where_it_is_used),
        TEST(a_broken_key_is_refused),
        TEST(the_table_forgets_the_oldest_but_never_the_next_stage),
        TEST(a_shorter_table_of_the_driver_fails_only_the_newcomer),
        TEST(addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
