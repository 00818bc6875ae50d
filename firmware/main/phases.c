/* One pin per phase for a power analyser's logic inputs: high while the phase lasts. */
#include "phases.h"
#include "app.h"
#include "driver/gpio.h"
#include "esp_err.h"
#include "sdkconfig.h"

static int pin_of(enum ts_phase phase) {
    switch (phase) {
    case TS_P_PREPROCESS:
        return CONFIG_TINYSPLIT_PIN_PREPROCESS;
    case TS_P_INVOKE:
        return CONFIG_TINYSPLIT_PIN_INVOKE;
    case TS_P_ENCODE:
        return CONFIG_TINYSPLIT_PIN_ENCODE;
    case TS_P_SEND:
        return CONFIG_TINYSPLIT_PIN_SEND;
    case TS_P_RECEIVE:
        return CONFIG_TINYSPLIT_PIN_RECEIVE;
    case TS_P_DECODE:
        return CONFIG_TINYSPLIT_PIN_DECODE;
    case TS_P_DOWNSTREAM:
        return CONFIG_TINYSPLIT_PIN_DOWNSTREAM;
    default:
        return -1;
    }
}

void phases_start(void) {
    for (int phase = 0; phase < TS_PHASES; phase++) {
        int pin = pin_of((enum ts_phase)phase);
        if (pin < 0 || !GPIO_IS_VALID_OUTPUT_GPIO(pin)) {
            continue;
        }
        const gpio_config_t config = {.pin_bit_mask = 1ULL << pin, .mode = GPIO_MODE_OUTPUT};
        if (gpio_config(&config) == ESP_OK) {
            (void)gpio_set_level((gpio_num_t)pin, 0);
        }
    }
}

static void set(enum ts_phase phase, uint32_t level) {
    int pin = pin_of(phase);
    if (pin >= 0) {
        (void)gpio_set_level((gpio_num_t)pin, level);
    }
}

void phase_begin(enum ts_phase phase) {
    set(phase, 1);
}

void phase_end(enum ts_phase phase) {
    set(phase, 0);
}
