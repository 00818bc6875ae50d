/* The flash port and updates where they cannot work; what works, and power cuts, are in test_board.py. */
#include "../core/check.h"
#include "esp_heap_caps.h"
#include "fake_chip.h"
#include "fake_engine.h"
#include "fake_flash.h"
#include "fake_nvs.h"
#include "fake_system.h"
#include "flash.h"
#include "nvs_flash.h"
#include "update.h"

static uint8_t key[65];

static int fresh(void **state) {
    (void)state;
    fake_nvs_clear();
    fake_flash_clear();
    fake_flash_restart();
    return nvs_flash_init();
}

static void a_table_without_slots_is_named(void **state) {
    (void)state;
    fake_flash_absent = true;
    flash_boot();
    assert_null(flash_stage());
    assert_null(flash_slots());
    assert_false(flash_works());
    assert_non_null(strstr(flash_problem(), "partition table"));
    uint8_t header[TS_IMAGE_HEADER] = {0}, digest[TS_IMAGE_DIGEST] = {0};
    uint32_t offset;
    assert_int_equal(update_begin(&(struct update_sender){0}, header, digest, &offset), TS_E_FLASH_FAILED);
    assert_int_equal(update_activate(0, digest), TS_E_FLASH_FAILED);
    assert_int_equal(update_abort(0), TS_E_FLASH_FAILED);
}

static void slots_that_cannot_be_mapped_are_named(void **state) {
    (void)state;
    fake_flash_no_map = true;
    flash_boot();
    assert_false(flash_works());
    assert_non_null(strstr(flash_problem(), "mapped"));
}

static void an_empty_board_works_and_says_so(void **state) {
    (void)state;
    flash_boot();
    assert_null(flash_stage());
    assert_non_null(flash_slots());
    assert_true(flash_works()); /* a firmware on trial is kept: there is nothing for it to prove */
    assert_non_null(strstr(flash_problem(), "no image"));
}

static void keys_are_points_in_hex(void **state) {
    (void)state;
    char hex[140];
    memset(hex, 'a', sizeof hex);
    hex[130] = '\0';
    assert_int_not_equal(flash_set_public_key(hex), ESP_OK); /* begins with 04 */
    hex[0] = '0';
    hex[1] = '4';
    assert_int_equal(flash_set_public_key(hex), ESP_OK);
    hex[129] = 'g';
    assert_int_not_equal(flash_set_public_key(hex), ESP_OK);
    hex[129] = '\0';
    assert_int_not_equal(flash_set_public_key(hex), ESP_OK);
    fake_nvs_restart();
    (void)nvs_flash_init();
    flash_boot();
    assert_true(flash_public_key(key));
    assert_true(key[0] == 4 && key[64] == 0xaa);
    assert_int_equal(flash_set_public_key(""), ESP_OK);
    assert_int_equal(flash_set_public_key(""), ESP_OK); /* none to take away */
    flash_boot();
    assert_false(flash_public_key(key));
}

static void an_update_is_its_owners_until_he_is_silent(void **state) {
    (void)state;
    flash_boot();
    uint8_t header[TS_IMAGE_HEADER] = {0}, digest[TS_IMAGE_DIGEST] = {0};
    uint32_t offset;
    char holder[UPDATE_HOLDER];
    struct update_sender one = {.owner = 1, .name = "one"}, two = {.owner = 2}, nobody = {0};
    assert_int_equal(update_begin(&nobody, header, digest, &offset), TS_E_IMAGE_MALFORMED);
    assert_int_equal(update_check(2), TS_OK); /* nobody in particular keeps nothing */
    assert_int_equal(update_begin(&one, header, digest, &offset), TS_E_IMAGE_MALFORMED);
    fake_clock_skip(19000000);
    assert_int_equal(update_begin(&two, header, digest, &offset), TS_E_BUSY);
    assert_int_equal(update_begin(&nobody, header, digest, &offset), TS_E_BUSY);
    assert_int_equal(update_write(2, 0, header, 1, &offset), TS_E_BUSY);
    assert_int_equal(update_finish(2), TS_E_BUSY);
    assert_int_equal(update_activate(2, digest), TS_E_BUSY);
    assert_int_equal(update_abort(0), TS_E_BUSY);
    assert_int_equal(update_release(2), TS_E_BUSY);
    update_holder(holder);
    assert_string_equal(holder, "by one, heard 19 s ago");
    assert_int_equal(update_check(1), TS_OK); /* heard again */
    fake_clock_skip(19000000);
    assert_int_equal(update_check(2), TS_E_BUSY);
    fake_clock_skip(1000000);
    assert_int_equal(update_activate(2, digest), TS_E_SLOT_NOT_READY);
    assert_int_equal(update_check(1), TS_E_BUSY);
    update_holder(holder);
    assert_string_equal(holder, "by number 2, heard 0 s ago");
    one.take_over = true;
    one.name = "a name that is longer than those that are kept";
    assert_int_equal(update_begin(&one, header, digest, &offset), TS_E_IMAGE_MALFORMED);
    assert_int_equal(update_check(2), TS_E_BUSY);
    update_holder(holder);
    assert_string_equal(holder, "by a name that is longer than those, heard 0 s ago");
    assert_int_equal(update_release(1), TS_OK);
    assert_int_equal(update_check(2), TS_OK);
    two.name = "two";
    assert_int_equal(update_begin(&two, header, digest, &offset), TS_E_IMAGE_MALFORMED);
    assert_int_equal(update_abort(2), TS_OK);
    assert_int_equal(update_check(1), TS_OK);
}

int main(void) {
    update_start();
#define TEST(name) cmocka_unit_test_setup(name, fresh)
    const struct CMUnitTest tests[] = {
        TEST(a_table_without_slots_is_named),
        TEST(slots_that_cannot_be_mapped_are_named),
        TEST(an_empty_board_works_and_says_so),
        TEST(keys_are_points_in_hex),
        TEST(an_update_is_its_owners_until_he_is_silent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
