/* Settings: the table, single values, and whether they fit each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "settings.h"

static struct settings s;
static char error[SETTINGS_ERROR_BYTES];

static int fresh(void **state) {
    (void)state;
    settings_defaults(&s);
    error[0] = '\0';
    return 0;
}

static bool text(const char *name, const char *value) {
    return settings_set_text(&s, settings_find(name), value, error);
}

static bool number(const char *name, uint32_t value) {
    return settings_set_number(&s, settings_find(name), value, error);
}

static void defaults_fit(void **state) {
    (void)state;
    assert_true(settings_check(&s, error));
    assert_int_equal(s.transport, TRANSPORT_UDP);
    assert_int_equal(s.port, 4000);
}

static void every_name_fits_into_nvs_and_is_found(void **state) {
    (void)state;
    size_t count;
    const struct setting *table = settings_table(&count);
    for (size_t i = 0; i < count; i++) {
        assert_in_range(strlen(table[i].name), 1, 15);
        assert_ptr_equal(settings_find(table[i].name), &table[i]);
    }
    assert_null(settings_find("nothing"));
}

static void every_default_is_within_its_own_limits(void **state) {
    (void)state;
    size_t count;
    const struct setting *table = settings_table(&count);
    for (size_t i = 0; i < count; i++) {
        if (table[i].kind >= SETTING_TEXT || table[i].kind == SETTING_CHOICE) {
            char copy[sizeof s.mqtt_ca];
            (void)snprintf(copy, sizeof copy, "%s", settings_text(&s, &table[i]));
            assert_true(settings_set_text(&s, &table[i], copy, error));
        } else {
            assert_true(settings_set_number(&s, &table[i], settings_number(&s, &table[i]), error));
        }
    }
}

static void choices_are_given_by_name(void **state) {
    (void)state;
    assert_true(text("espnow_rate", "24M"));
    assert_int_equal(s.espnow_rate, RATE_24M);
    assert_string_equal(settings_text(&s, settings_find("espnow_rate")), "24M");
    assert_false(text("espnow_rate", "25M"));
    assert_int_equal(s.espnow_rate, RATE_24M);
    assert_string_equal(error,
                        "espnow_rate: one of 250K, 500K, 1M, 2M, 5.5M, 11M, 6M, 9M, 12M, 18M, 24M, 36M, 48M, 54M");
}

static void numbers_outside_change_nothing(void **state) {
    (void)state;
    assert_true(number("channel", 13));
    assert_false(number("channel", 0));
    assert_false(number("channel", 14));
    assert_int_equal(s.channel, 13);
    assert_false(number("name", 3));
    assert_false(text("channel", "3"));
    assert_true(number("iterations", UINT32_MAX));
}

static void texts_are_bounded_and_printable(void **state) {
    (void)state;
    char long_name[40];
    memset(long_name, 'a', sizeof long_name);
    long_name[32] = '\0';
    assert_true(text("name", long_name));
    long_name[32] = 'a';
    long_name[33] = '\0';
    assert_false(text("name", long_name));
    assert_false(text("name", ""));
    assert_false(text("name", "a b"));
    assert_false(text("wifi_ssid", "bell\a"));
    assert_true(text("wifi_ssid", "K\xc3\xbc"
                                  "che"));
}

static void what_is_no_utf8_is_refused_and_none_is_cut(void **state) {
    (void)state;
    const char *const good[] = {"", "a", "\xc3\xbc", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"};
    const char *const bad[] = {"\x80",         "\xc3",     "\xc3(",        "\xc0\xaf",         "\xe0\x80\xaf",
                               "\xed\xa0\x80", "\xe2\x82", "\xf0\x9f\x98", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80",
                               "\xff"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(settings_is_utf8(good[i], strlen(good[i])));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(settings_is_utf8(bad[i], strlen(bad[i])));
        assert_false(text("wifi_ssid", bad[i]));
    }
    assert_int_equal(settings_cut("abc", 3), 3);
    assert_int_equal(settings_cut("abc", 2), 2);
    assert_int_equal(settings_cut("a\xc3\xbc", 2), 1);
    assert_int_equal(settings_cut("\xe2\x82\xac", 2), 0);
}

static void keys_are_sixteen_bytes_of_hex(void **state) {
    (void)state;
    assert_true(text("espnow_pmk", "00112233445566778899aabbccddeeff"));
    assert_false(text("espnow_pmk", "00112233445566778899aabbccddeef"));
    assert_false(text("espnow_pmk", "00112233445566778899aabbccddeefg"));
    assert_true(text("espnow_pmk", ""));
}

static void peers_are_a_list_of_nodes(void **state) {
    (void)state;
    char list[sizeof s.espnow_peers] = "";
    uint8_t macs[SETTINGS_PEERS][6];
    for (unsigned i = 0; i < SETTINGS_PEERS; i++) {
        char address[40];
        (void)snprintf(address, sizeof address, "espnow://02:00:00:00:00:%02x", i);
        assert_true(settings_add_peer(list, address, error));
    }
    assert_int_equal(strlen(list), sizeof list - 1);
    assert_false(settings_add_peer(list, "espnow://02:00:00:00:00:99", error));
    assert_non_null(strstr(error, "20"));
    assert_true(text("espnow_peers", list));
    assert_int_equal(settings_peers(&s, macs), SETTINGS_PEERS);
    for (unsigned i = 0; i < SETTINGS_PEERS; i++) {
        assert_memory_equal(macs[i], ((uint8_t[]){2, 0, 0, 0, 0, (uint8_t)i}), 6);
    }
    assert_true(text("espnow_peers", ""));
    assert_int_equal(settings_peers(&s, macs), 0);
    const char *const wrong[] = {"02:00:00:00:00:01,", ",02:00:00:00:00:01",
                                 "02:00:00:00:00",     "x",
                                 "01:00:00:00:00:01",  "02:00:00:00:00:01;02:00:00:00:00:02"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_false(text("espnow_peers", wrong[i]));
        assert_non_null(strstr(error, "espnow_peers"));
    }
    const char *const nobody[] = {"udp://1.2.3.4:5", "02:00:00:00:00:01", "espnow://ff:ff:ff:ff:ff:ff", ""};
    for (size_t i = 0; i < sizeof nobody / sizeof nobody[0]; i++) {
        list[0] = '\0';
        assert_false(settings_add_peer(list, nobody[i], error));
        assert_string_equal(list, "");
    }
}

static void passwords_are_wpa_or_none(void **state) {
    (void)state;
    assert_false(text("wifi_password", "short"));
    assert_true(text("wifi_password", "longer12"));
    assert_true(text("wifi_password", ""));
}

static bool listens(const char *address) {
    assert_true(text("listen", address));
    return settings_check(&s, error);
}

static void listen_names_transport_and_port(void **state) {
    (void)state;
    assert_true(listens("tcp://[::]:5000"));
    assert_int_equal(s.transport, TRANSPORT_TCP);
    assert_int_equal(s.port, 5000);
    assert_true(listens("espnow://00:00:00:00:00:00"));
    assert_int_equal(s.transport, TRANSPORT_ESPNOW);
    assert_true(listens("ble://board-1"));
    assert_int_equal(s.transport, TRANSPORT_BLE);
    const char *const wrong[] = {"udp://0.0.0.0",
                                 "udp://0.0.0.0:0",
                                 "udp://0.0.0.0:65536",
                                 "udp://10.0.0.1:4000",
                                 "udp://0.0.0.0:40x0",
                                 "espnow://00:00:00",
                                 "http://0.0.0.0:80",
                                 "ble://",
                                 "udpx://0.0.0.0:4000",
                                 "udp://[::]:999999",
                                 "4000"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_false(listens(wrong[i]));
        assert_non_null(strstr(error, "listen"));
    }
}

static void next_has_the_transport_of_listen(void **state) {
    (void)state;
    assert_true(text("next", "udp://192.168.4.1:4000"));
    assert_true(settings_check(&s, error));
    assert_true(text("next", "tcp://192.168.4.1:4000"));
    assert_false(settings_check(&s, error));
    assert_true(text("next", "udp://192.168.4.1:0"));
    assert_false(settings_check(&s, error));
}

static void what_excludes_each_other_is_named(void **state) {
    (void)state;
    assert_true(number("light_sleep", 1));
    assert_false(settings_check(&s, error));
    assert_non_null(strstr(error, "period_ms"));
    assert_true(number("period_ms", 1000));
    assert_true(settings_check(&s, error));
    assert_true(text("espnow_lmk", "00112233445566778899aabbccddeeff"));
    assert_false(settings_check(&s, error));
    settings_defaults(&s);
    assert_true(number("mtu", 100));
    assert_false(settings_check(&s, error));
    settings_defaults(&s);
    assert_true(text("role", "bridge"));
    assert_true(text("next", "udp://192.168.4.1:4000"));
    assert_false(settings_check(&s, error));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(defaults_fit, fresh),
        cmocka_unit_test_setup(every_name_fits_into_nvs_and_is_found, fresh),
        cmocka_unit_test_setup(every_default_is_within_its_own_limits, fresh),
        cmocka_unit_test_setup(choices_are_given_by_name, fresh),
        cmocka_unit_test_setup(numbers_outside_change_nothing, fresh),
        cmocka_unit_test_setup(texts_are_bounded_and_printable, fresh),
        cmocka_unit_test_setup(what_is_no_utf8_is_refused_and_none_is_cut, fresh),
        cmocka_unit_test_setup(keys_are_sixteen_bytes_of_hex, fresh),
        cmocka_unit_test_setup(peers_are_a_list_of_nodes, fresh),
        cmocka_unit_test_setup(passwords_are_wpa_or_none, fresh),
        cmocka_unit_test_setup(listen_names_transport_and_port, fresh),
        cmocka_unit_test_setup(next_has_the_transport_of_listen, fresh),
        cmocka_unit_test_setup(what_excludes_each_other_is_named, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
