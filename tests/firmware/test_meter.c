/* The power meter's task against the registers of an INA219 or INA226. */
#include <unistd.h>

#include "../core/check.h"
#include "driver/i2c_master.h"
#include "fake_system.h"
#include "meter.h"

static struct {
    uint16_t address, setup, shunt, bus;
    int reads;
    bool gone, sent_setup;
} chip;
static int bus_object, device_object;

esp_err_t i2c_new_master_bus(const i2c_master_bus_config_t *config, i2c_master_bus_handle_t *bus) {
    assert_true(config->sda_io_num != config->scl_io_num && config->i2c_port == -1);
    *bus = (i2c_master_bus_handle_t)&bus_object;
    return ESP_OK;
}
esp_err_t i2c_master_probe(i2c_master_bus_handle_t bus, uint16_t address, int timeout_ms) {
    assert_true(bus != NULL && timeout_ms > 0); /* never waits for ever */
    return address == chip.address && !chip.gone ? ESP_OK : ESP_ERR_NOT_FOUND;
}
esp_err_t i2c_master_bus_add_device(i2c_master_bus_handle_t bus, const i2c_device_config_t *config,
                                    i2c_master_dev_handle_t *device) {
    assert_true(bus != NULL && config->device_address == chip.address && config->scl_speed_hz <= 400000);
    *device = (i2c_master_dev_handle_t)&device_object;
    return ESP_OK;
}
esp_err_t i2c_master_transmit(i2c_master_dev_handle_t device, const uint8_t *data, size_t len, int timeout_ms) {
    assert_true(device != NULL && len == 3 && data[0] == 0 && timeout_ms > 0);
    chip.setup = (uint16_t)(data[1] << 8 | data[2]);
    chip.sent_setup = true;
    return ESP_OK;
}
esp_err_t i2c_master_transmit_receive(i2c_master_dev_handle_t device, const uint8_t *data, size_t len, uint8_t *out,
                                      size_t out_len, int timeout_ms) {
    assert_true(device != NULL && len == 1 && out_len == 2 && timeout_ms > 0 && (data[0] == 1 || data[0] == 2));
    if (chip.gone) {
        return ESP_ERR_TIMEOUT;
    }
    uint16_t value = data[0] == 1 ? chip.shunt : chip.bus;
    out[0] = (uint8_t)(value >> 8);
    out[1] = (uint8_t)value;
    chip.reads++;
    return ESP_OK;
}

static struct settings settings = {.meter = METER_INA226, .meter_address = 0x41, .meter_mohm = 100};

static void without_a_meter_nothing_runs(void **state) {
    (void)state;
    const struct settings none = {.meter = METER_NONE};
    const char *problem = NULL;
    struct meter_reading reading;
    assert_true(meter_start(&none, &problem));
    assert_null(problem);
    assert_int_equal(fake_running_tasks(), 0);
    assert_false(meter_read(&reading));
}

static void one_that_does_not_answer_is_named(void **state) {
    (void)state;
    const char *problem = NULL;
    chip.address = 0x40;
    assert_false(meter_start(&settings, &problem));
    assert_non_null(strstr(problem, "power meter"));
    assert_int_equal(fake_running_tasks(), 0);
}

static void it_samples_and_adds_up_energy(void **state) {
    (void)state;
    const char *problem = NULL;
    struct meter_reading before, after;
    chip.address = 0x41;
    chip.shunt = 4000; /* of 2.5 uV over 0.1 ohm: 100 mA */
    chip.bus = 2640;   /* of 1.25 mV: 3.3 V */
    assert_true(meter_start(&settings, &problem));
    assert_null(problem);
    assert_true(chip.sent_setup);
    assert_int_equal(chip.setup, 0x4227);
    usleep(50000);
    assert_true(meter_read(&before));
    assert_int_equal(before.current_ua, 100000);
    assert_int_equal(before.voltage_mv, 3300);
    usleep(300000);
    assert_true(meter_read(&after));
    assert_true(after.samples > before.samples + 10);
    /* 330 mW for some 300 ms; the PC may be late. */
    int64_t uj = after.energy_uj - before.energy_uj;
    assert_in_range(uj, 60000, 1000000);
    assert_int_equal(fake_watched_tasks(), 1);
    /* Taken off: counted, and nothing is made up. */
    chip.gone = true;
    usleep(250000);
    assert_true(meter_read(&before));
    assert_true(before.failures >= 1);
    usleep(250000);
    assert_true(meter_read(&after));
    assert_int_equal(after.energy_uj, before.energy_uj);
    assert_int_equal(after.samples, before.samples);
    assert_true(after.failures > before.failures);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_meter_nothing_runs),
        cmocka_unit_test(one_that_does_not_answer_is_named),
        cmocka_unit_test(it_samples_and_adds_up_energy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
