#include "telemetry.h"

#include <inttypes.h>
#include <string.h>

#include "sdkconfig.h"

#include "app.h"
#include "control.h"
#if CONFIG_TINYSPLIT_TEMPERATURE
#include "driver/temperature_sensor.h"
#endif
#include "engine.h"
#include "esp_heap_caps.h"
#include "esp_system.h"
#include "esp_timer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "link.h"
#include "meter.h"
#include "mqtt.h"
#include "node.h"

#define PERIOD_US 5000000

static const char *reset_reason = "unknown";
static int64_t started_us, next_at;
#if CONFIG_TINYSPLIT_TEMPERATURE
static temperature_sensor_handle_t sensor;
#endif

static const char *name_of(esp_reset_reason_t reason) {
    switch (reason) {
    case ESP_RST_POWERON:
        return "power_on";
    case ESP_RST_EXT:
        return "reset_pin";
    case ESP_RST_SW:
        return "restart";
    case ESP_RST_PANIC:
        return "panic";
    case ESP_RST_INT_WDT:
        return "interrupt_watchdog";
    case ESP_RST_TASK_WDT:
        return "task_watchdog";
    case ESP_RST_WDT:
        return "watchdog";
    case ESP_RST_DEEPSLEEP:
        return "deep_sleep";
    case ESP_RST_BROWNOUT:
        return "brown_out";
    case ESP_RST_USB:
        return "usb";
    default:
        return "unknown";
    }
}

void telemetry_start(void) {
    started_us = esp_timer_get_time();
    reset_reason = name_of(esp_reset_reason());
#if CONFIG_TINYSPLIT_TEMPERATURE
    temperature_sensor_config_t config = TEMPERATURE_SENSOR_CONFIG_DEFAULT(-10, 80);
    if (temperature_sensor_install(&config, &sensor) != ESP_OK || temperature_sensor_enable(sensor) != ESP_OK) {
        sensor = NULL;
    }
#endif
}

int64_t telemetry_uptime_ms(void) {
    return (esp_timer_get_time() - started_us) / 1000;
}

const char *telemetry_reset_reason(void) {
    return reset_reason;
}

void telemetry_add_memory(cJSON *object) {
    cJSON *memory = cJSON_AddObjectToObject(object, "memory");
    cJSON_AddNumberToObject(memory, "internal_free", (double)heap_caps_get_free_size(MALLOC_CAP_INTERNAL));
    cJSON_AddNumberToObject(memory, "internal_lowest", (double)heap_caps_get_minimum_free_size(MALLOC_CAP_INTERNAL));
    cJSON_AddNumberToObject(memory, "psram_free", (double)heap_caps_get_free_size(MALLOC_CAP_SPIRAM));
    cJSON *stacks = cJSON_AddObjectToObject(memory, "stack_unused");
    static const char *const tasks[] = {"link", "engine",    "control", "uart",  "usb",        "tcp",
                                        "udp",  "mqtt_task", "fetch",   "meter", "nimble_host"};
    for (size_t i = 0; i < sizeof tasks / sizeof tasks[0]; i++) {
        TaskHandle_t task = xTaskGetHandle(tasks[i]);
        if (task != NULL) {
            cJSON_AddNumberToObject(stacks, tasks[i], (double)uxTaskGetStackHighWaterMark(task));
        }
    }
}

void telemetry_add_operators(cJSON *object) {
    cJSON *operators = cJSON_AddArrayToObject(object, "operators");
    const char *name;
    uint32_t us;
    for (uint32_t i = 0; engine_operator(i, &name, &us); i++) {
        cJSON *row = cJSON_CreateArray();
        cJSON_AddItemToArray(row, cJSON_CreateStringReference(name));
        cJSON_AddItemToArray(row, cJSON_CreateNumber(us));
        cJSON_AddItemToArray(operators, row);
    }
}

/* Operators are timed: their times belong into every record. */
static bool has_times(void) {
    const char *name;
    uint32_t us;
    return engine_operator(0, &name, &us) && us > 0;
}

cJSON *telemetry(void) {
    static struct node_stats stats;
    cJSON *o = cJSON_CreateObject();
    struct engine_state engine = engine_state();
    cJSON_AddNumberToObject(o, "uptime_ms", (double)telemetry_uptime_ms());
    cJSON_AddStringToObject(o, "reset", reset_reason);
    cJSON_AddStringToObject(o, "kernels", engine_kernels_name(engine.kernels));
    cJSON_AddNumberToObject(o, "runs", engine.runs);
    cJSON_AddNumberToObject(o, "last_invoke_us", engine.last_us);
    control_add_counts(o);
    if (engine.wrong[0] != '\0') {
        cJSON_AddStringToObject(o, "first_wrong", engine.wrong);
    }
    if (node_port() != NULL) {
        struct link_status link;
        memset(&link, 0, sizeof link);
        node_port()->describe(&link);
        cJSON_AddBoolToObject(o, "link_up", link.up);
        if (link.rssi_dbm != 0) {
            cJSON_AddNumberToObject(o, "rssi_dbm", link.rssi_dbm);
        }
        node_stats(&stats);
        cJSON_AddNumberToObject(o, "frames_in", stats.link.frames_in);
        cJSON_AddNumberToObject(o, "frames_out", stats.link.frames_out);
        cJSON_AddNumberToObject(o, "data_resent", stats.link.data_resent);
        cJSON_AddNumberToObject(o, "dropped", stats.link.dropped);
    }
#if CONFIG_TINYSPLIT_TEMPERATURE
    float celsius;
    if (sensor != NULL && temperature_sensor_get_celsius(sensor, &celsius) == ESP_OK) {
        cJSON_AddNumberToObject(o, "temperature_c", (double)(int32_t)(celsius * 10.0f) / 10.0);
    }
#endif
    struct meter_reading power;
    if (meter_read(&power)) {
        cJSON_AddNumberToObject(o, "voltage_mv", power.voltage_mv);
        cJSON_AddNumberToObject(o, "current_ua", power.current_ua);
        cJSON_AddNumberToObject(o, "energy_uj", (double)power.energy_uj);
        cJSON_AddNumberToObject(o, "power_samples", power.samples);
    }
    if (has_times()) {
        telemetry_add_operators(o);
    }
    telemetry_add_memory(o);
    return o;
}

void telemetry_step(void) {
    int64_t now = esp_timer_get_time();
    if (now < next_at || !mqtt_is_up()) {
        return;
    }
    next_at = now + PERIOD_US;
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "event", "telemetry");
    cJSON_AddItemToObject(o, "values", telemetry());
    char *text = cJSON_PrintUnformatted(o);
    if (text != NULL) {
        mqtt_telemetry(text);
    }
    cJSON_free(text);
    cJSON_Delete(o);
}
