/* Registers of the power meters to units. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "meter.h"

static void shunts_to_current(void **state) {
    (void)state;
    /* SBOS448G: 10 uV per count; 4000 counts over 100 mOhm are 40 mV, 400 mA. */
    assert_int_equal(meter_current_ua(METER_INA219, 4000, 100), 400000);
    assert_int_equal(meter_current_ua(METER_INA219, -1, 100), -100);
    /* SBOS547B: 2.5 uV per count; 32767 counts over 100 mOhm are 81.9175 mV, 819.175 mA. */
    assert_int_equal(meter_current_ua(METER_INA226, 32767, 100), 819175);
    assert_int_equal(meter_current_ua(METER_INA226, -32768, 1), -81920000);
}

static void buses_to_voltage(void **state) {
    (void)state;
    assert_int_equal(meter_voltage_mv(METER_INA219, 0x2710 << 1 & 0xFFF8), 10000); /* 2500 counts of 4 mV */
    assert_int_equal(meter_voltage_mv(METER_INA219, (825 << 3) | 7), 3300);        /* the low bits are flags */
    assert_int_equal(meter_voltage_mv(METER_INA226, 2640), 3300);
}

static void energy_is_the_mean_power_times_time(void **state) {
    (void)state;
    /* 330 mW for a second are 330 mJ; rising from 0 to that, half. */
    assert_int_equal(meter_energy_nj(330000000, 330000000, 1000000), 330000000);
    assert_int_equal(meter_energy_nj(0, 330000000, 1000000), 165000000);
    assert_int_equal(meter_energy_nj(330000000, 330000000, 2000), 660000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shunts_to_current),
        cmocka_unit_test(buses_to_voltage),
        cmocka_unit_test(energy_is_the_mean_power_times_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
