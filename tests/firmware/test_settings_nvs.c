/* Settings in NVS: every one kept, what does not fit left aside and named, what was not committed gone. */
#include "../core/check.h"
#include "fake_nvs.h"
#include "nvs_flash.h"
#include "settings.h"

static struct settings now, old;
static char problem[SETTINGS_ERROR_BYTES];

static int fresh(void **state) {
    (void)state;
    fake_nvs_clear();
    return settings_load(&now, problem);
}

static int reload(void) {
    fake_nvs_restart();
    int code = settings_load(&now, problem);
    assert_int_equal(fake_nvs_open, 0);
    return code;
}

static void a_new_board_has_the_defaults(void **state) {
    (void)state;
    settings_defaults(&old);
    assert_memory_equal(&now, &old, sizeof now);
    assert_string_equal(problem, "");
}

/* Something else than the default for every setting. */
static void change_all(struct settings *s) {
    char error[SETTINGS_ERROR_BYTES];
    static const char *const texts[][2] = {{"name", "n-1"},
                                           {"listen", "tcp://[::]:4100"},
                                           {"next", "tcp://10.0.0.2:4101"},
                                           {"role", "stage"},
                                           {"codec", "auto"},
                                           {"input", "pattern"},
                                           {"wifi_mode", "soft_ap"},
                                           {"wifi_ssid", "net"},
                                           {"wifi_password", "12345678"},
                                           {"power_save", "max"},
                                           {"espnow_rate", "54M"},
                                           {"espnow_pmk", "00112233445566778899aabbccddeeff"},
                                           {"espnow_lmk", "10112233445566778899aabbccddeeff"},
                                           {"espnow_peers", "02:00:00:00:00:01"},
                                           {"ble_passkey", "000000"},
                                           {"mqtt_url", "mqtts://b"},
                                           {"mqtt_user", "u"},
                                           {"mqtt_password", "p"},
                                           {"mqtt_ca", "pem"},
                                           {"meter", "ina226"}};
    size_t count, changed = 0;
    const struct setting *table = settings_table(&count);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_true(settings_set_text(s, settings_find(texts[i][0]), texts[i][1], error));
        changed++;
    }
    for (size_t i = 0; i < count; i++) {
        if (table[i].kind == SETTING_NUMBER || table[i].kind == SETTING_FLAG) {
            uint32_t value = settings_number(s, &table[i]);
            value = value == table[i].maximum ? value - 1 : value + 1;
            value = strcmp(table[i].name, "mtu") == 0 ? 512 : value;
            assert_true(settings_set_number(s, &table[i], value, error));
            changed++;
        }
    }
    assert_int_equal(changed, count);
    assert_true(settings_check(s, error));
}

static void every_setting_is_kept(void **state) {
    (void)state;
    old = now;
    change_all(&now);
    assert_int_equal(settings_store(&now, &old), ESP_OK);
    struct settings wanted = now;
    assert_int_equal(reload(), ESP_OK);
    assert_string_equal(problem, "");
    assert_memory_equal(&now, &wanted, sizeof now);
}

static void only_what_changed_is_written(void **state) {
    (void)state;
    old = now;
    now.window = 9;
    assert_int_equal(settings_store(&now, &old), ESP_OK);
    assert_int_equal(fake_nvs_written, 1);
    assert_int_equal(settings_store(&now, &now), ESP_OK);
    assert_int_equal(fake_nvs_written, 1);
}

static void a_store_that_fails_changes_nothing(void **state) {
    (void)state;
    old = now;
    change_all(&now);
    fake_nvs_writes_left = 5;
    assert_int_equal(settings_store(&now, &old), ESP_FAIL);
    assert_int_equal(fake_nvs_open, 0);
    fake_nvs_writes_left = -1;
    assert_int_equal(reload(), ESP_OK); /* nothing was committed */
    assert_memory_equal(&now, &old, sizeof now);
}

static void raw_number(const char *name, uint32_t value) {
    nvs_handle_t nvs;
    assert_int_equal(nvs_open("tinysplit", NVS_READWRITE, &nvs), ESP_OK);
    assert_int_equal(nvs_set_u32(nvs, name, value), ESP_OK);
    assert_int_equal(nvs_commit(nvs), ESP_OK);
    nvs_close(nvs);
}

static void raw_text(const char *name, const char *value) {
    nvs_handle_t nvs;
    assert_int_equal(nvs_open("tinysplit", NVS_READWRITE, &nvs), ESP_OK);
    assert_int_equal(nvs_set_str(nvs, name, value), ESP_OK);
    assert_int_equal(nvs_commit(nvs), ESP_OK);
    nvs_close(nvs);
}

static void what_other_firmware_wrote_is_left_aside_and_named(void **state) {
    (void)state;
    raw_number("channel", 99);
    raw_number("espnow_rate", 99);
    raw_text("window", "a text where a number belongs");
    raw_text("name", "attic");
    assert_int_equal(reload(), ESP_OK);
    assert_true(strstr(problem, "channel") != NULL || strstr(problem, "espnow_rate") != NULL);
    assert_int_equal(now.channel, 6);
    assert_int_equal(now.espnow_rate, RATE_1M);
    assert_int_equal(now.window, 0);
    assert_string_equal(now.name, "attic"); /* the rest holds */
}

static void a_text_longer_than_any_is_named(void **state) {
    (void)state;
    static char long_text[2100];
    memset(long_text, 'x', 2090);
    raw_text("mqtt_ca", long_text);
    assert_int_equal(reload(), ESP_OK);
    assert_non_null(strstr(problem, "mqtt_ca"));
    assert_string_equal(now.mqtt_ca, "");
}

static void what_contradicts_leaves_the_addresses_aside(void **state) {
    (void)state;
    raw_text("listen", "udp://0.0.0.0:4000");
    raw_text("next", "tcp://10.0.0.1:4000");
    raw_text("espnow_lmk", "00112233445566778899aabbccddeeff");
    assert_int_equal(reload(), ESP_OK);
    assert_non_null(strstr(problem, "next"));
    assert_string_equal(now.next, "");
    char error[SETTINGS_ERROR_BYTES];
    assert_true(settings_check(&now, error));
    raw_text("listen", "udp://");
    assert_int_equal(reload(), ESP_OK);
    assert_true(settings_check(&now, error));
    assert_string_equal(now.listen, "udp://0.0.0.0:4000"); /* the default: the board stays reachable */
}

static void flash_that_cannot_be_used_is_erased_once_and_said(void **state) {
    (void)state;
    raw_text("name", "attic");
    fake_nvs_init_error = ESP_ERR_NVS_NO_FREE_PAGES;
    assert_int_equal(reload(), ESP_OK);
    assert_int_equal(fake_nvs_erased, 1);
    assert_non_null(strstr(problem, "erased"));
    assert_string_equal(now.name, "tinysplit");
    fake_nvs_init_error = ESP_FAIL; /* the flash is broken */
    assert_int_equal(reload(), ESP_FAIL);
    assert_int_equal(fake_nvs_erased, 1);
    assert_string_equal(now.name, "tinysplit");
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup(name, fresh)
    const struct CMUnitTest tests[] = {
        TEST(a_new_board_has_the_defaults),
        TEST(every_setting_is_kept),
        TEST(only_what_changed_is_written),
        TEST(a_store_that_fails_changes_nothing),
        TEST(what_other_firmware_wrote_is_left_aside_and_named),
        TEST(a_text_longer_than_any_is_named),
        TEST(what_contradicts_leaves_the_addresses_aside),
        TEST(flash_that_cannot_be_used_is_erased_once_and_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
