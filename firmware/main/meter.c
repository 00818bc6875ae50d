#include "meter.h"

#include "app.h"
#include "driver/i2c_master.h"
#include "esp_err.h"
#include "esp_task_wdt.h"
#include "esp_timer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "sdkconfig.h"

#define REGISTER_CONFIG 0x00
#define REGISTER_SHUNT 0x01
#define REGISTER_BUS 0x02
/* Both sample shunt and bus continuously, as fast as they can at 12 (INA219) and 16 bit with four averages (INA226). */
#define SETUP_INA219 0x219F      /* 16 V, 40 mV, 12 bit, 532 us each: SBOS448G table 5; range by the shunt below */
#define SETUP_INA219_WIDE 0x399F /* 32 V, 320 mV */
#define SETUP_INA226 0x4227      /* 4 averages, 588 us each: SBOS547B table 7-6 */
#define SAMPLE_MS 2
#define I2C_MS 20
#define STACK_BYTES 3072

static i2c_master_dev_handle_t device;
static struct meter_reading latest;
static portMUX_TYPE lock = portMUX_INITIALIZER_UNLOCKED;
static uint32_t kind, mohm;
static int64_t energy_nj;

static esp_err_t read_register(uint8_t number, uint16_t *out) {
    uint8_t bytes[2];
    esp_err_t code = i2c_master_transmit_receive(device, &number, 1, bytes, sizeof bytes, I2C_MS);
    *out = (uint16_t)(bytes[0] << 8 | bytes[1]);
    return code;
}

static void sample_task(void *arg) {
    (void)arg;
    int64_t before = 0, power_before = 0;
    ESP_ERROR_CHECK(esp_task_wdt_add(NULL));
    for (;;) {
        uint16_t shunt = 0, bus = 0;
        (void)esp_task_wdt_reset();
        bool read = read_register(REGISTER_SHUNT, &shunt) == ESP_OK && read_register(REGISTER_BUS, &bus) == ESP_OK;
        int64_t now = esp_timer_get_time();
        int32_t ua = meter_current_ua(kind, (int16_t)shunt, mohm);
        int32_t mv = meter_voltage_mv(kind, bus);
        int64_t power_nw = (int64_t)ua * mv;
        portENTER_CRITICAL(&lock);
        if (read) {
            energy_nj += before != 0 ? meter_energy_nj(power_before, power_nw, now - before) : 0;
            latest.voltage_mv = mv;
            latest.current_ua = ua;
            latest.energy_uj = energy_nj / 1000;
            latest.samples++;
        } else {
            latest.failures++;
        }
        portEXIT_CRITICAL(&lock);
        before = read ? now : 0; /* what a gap used is not known */
        power_before = power_nw;
        vTaskDelay(pdMS_TO_TICKS(read ? SAMPLE_MS : 200));
    }
}

bool meter_start(const struct settings *settings, const char **problem) {
    if (settings->meter == METER_NONE) {
        return true;
    }
    *problem = "the power meter does not answer on I2C";
    if (CONFIG_TINYSPLIT_PIN_SDA < 0 || CONFIG_TINYSPLIT_PIN_SCL < 0) {
        *problem = "this build has no pins for a power meter";
        return false;
    }
    kind = settings->meter;
    mohm = settings->meter_mohm;
    const i2c_master_bus_config_t bus_config = {.i2c_port = -1,
                                                .sda_io_num = CONFIG_TINYSPLIT_PIN_SDA,
                                                .scl_io_num = CONFIG_TINYSPLIT_PIN_SCL,
                                                .clk_source = I2C_CLK_SRC_DEFAULT,
                                                .glitch_ignore_cnt = 7,
                                                .flags = {.enable_internal_pullup = 1}};
    const i2c_device_config_t device_config = {.dev_addr_length = I2C_ADDR_BIT_LEN_7,
                                               .device_address = (uint16_t)settings->meter_address,
                                               .scl_speed_hz = 400000};
    i2c_master_bus_handle_t bus;
    if (i2c_new_master_bus(&bus_config, &bus) != ESP_OK ||
        i2c_master_probe(bus, (uint16_t)settings->meter_address, I2C_MS) != ESP_OK ||
        i2c_master_bus_add_device(bus, &device_config, &device) != ESP_OK) {
        return false;
    }
    uint16_t wanted = kind == METER_INA226 ? SETUP_INA226 : mohm >= 100 ? SETUP_INA219_WIDE : SETUP_INA219;
    const uint8_t command[3] = {REGISTER_CONFIG, (uint8_t)(wanted >> 8), (uint8_t)wanted};
    if (i2c_master_transmit(device, command, sizeof command, I2C_MS) != ESP_OK ||
        xTaskCreatePinnedToCore(sample_task, "meter", STACK_BYTES, NULL, APP_CONTROL_PRIORITY, NULL, APP_RADIO_CORE) !=
            pdPASS) {
        return false;
    }
    *problem = NULL;
    return true;
}

bool meter_read(struct meter_reading *out) {
    portENTER_CRITICAL(&lock);
    *out = latest;
    portEXIT_CRITICAL(&lock);
    return out->samples > 0;
}
