/* Start-up, in the order of app.h. */
#include "app.h"
#include "console.h"
#include "control.h"
#include "esp_err.h"
#include "esp_log.h"
#include "esp_pm.h"
#include "flash.h"
#include "meter.h"
#include "mqtt.h"
#include "network.h"
#include "node.h"
#include "phases.h"
#include "sdkconfig.h"
#include "telemetry.h"
#include "update.h"

static const char TAG[] = "main";

static struct settings settings;
static char settings_problem[SETTINGS_ERROR_BYTES];

const struct settings *app_settings(void) {
    return &settings;
}

static void start_light_sleep(const char **problem) {
#if CONFIG_PM_ENABLE
    if (settings.light_sleep != 0) {
        /* The chip sleeps by itself whenever no task is ready; the engine holds a lock while it runs. */
        const esp_pm_config_t config = {
            .max_freq_mhz = CONFIG_ESP_DEFAULT_CPU_FREQ_MHZ, .min_freq_mhz = 40, .light_sleep_enable = true};
        if (esp_pm_configure(&config) != ESP_OK) {
            *problem = "light sleep cannot be switched on";
        }
    }
#else
    if (settings.light_sleep != 0) {
        *problem = "this build has no light sleep";
    }
#endif
}

void app_main(void) {
    const char *problem = NULL, *other = NULL;
    phases_start();
    telemetry_start();
    esp_err_t code = settings_load(&settings, settings_problem);
    console_start();
    update_start();
    if (code != ESP_OK) {
        ESP_LOGE(TAG, "settings: %s; the defaults hold", esp_err_to_name(code));
        problem = "the settings' flash cannot be used";
    } else if (settings_problem[0] != '\0') {
        ESP_LOGW(TAG, "settings: %s", settings_problem);
        problem = settings_problem;
    }
    ESP_LOGI(TAG, "%s starts after %s", settings.name, telemetry_reset_reason());
    start_light_sleep(&problem); /* while there is memory to switch the CPU off with: 5.3 goes on without, silently */
    node_start_engine();
    if (settings.profile != 0) {
        node_profile(true);
    }
    if (!meter_start(&settings, &other)) {
        problem = other;
    }
    other = NULL;
    code = node_start(&other);
    if (code != ESP_OK) {
        ESP_LOGE(TAG, "%s: %s", other != NULL ? other : "the node does not start", esp_err_to_name(code));
    }
    const bool started = code == ESP_OK;
    problem = other != NULL ? other : problem;
    control_start(problem);
    console_listen();
    if (settings.mqtt_url[0] != '\0') {
        code = network_start(&settings);
        code = code == ESP_OK ? mqtt_start(&settings) : code;
        if (code != ESP_OK) {
            ESP_LOGE(TAG, "MQTT does not start: %s", esp_err_to_name(code));
        }
    }
    update_judge_firmware(started && flash_works());
    control_ready();
    /* The tasks go on; this one is deleted. */
}
