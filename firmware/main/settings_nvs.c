#include <stdio.h>
#include <string.h>

#include "esp_err.h"
#include "nvs.h"
#include "nvs_flash.h"
#include "settings.h"

#define NAMESPACE "tinysplit"

static bool kept_as_text(const struct setting *which) {
    return which->kind >= SETTING_TEXT;
}

/* Reads one setting, if it is there. False if what is there does not fit. */
static bool read_one(nvs_handle_t nvs, struct settings *settings, const struct setting *which, char *error) {
    static char value[sizeof settings->mqtt_ca]; /* the longest; only the start-up reads settings */
    uint32_t number;
    if (!kept_as_text(which)) {
        if (nvs_get_u32(nvs, which->name, &number) == ESP_OK) {
            return settings_set_number(settings, which, number, error);
        }
        return true;
    }
    size_t len = sizeof value;
    esp_err_t code = nvs_get_str(nvs, which->name, value, &len);
    bool fits = code != ESP_OK || settings_set_text(settings, which, value, error);
    memset(value, 0, sizeof value); /* it may have been a secret */
    if (code != ESP_OK && code != ESP_ERR_NVS_NOT_FOUND) {
        (void)snprintf(error, SETTINGS_ERROR_BYTES, "%s: cannot be read (%s)", which->name, esp_err_to_name(code));
        return false;
    }
    return fits;
}

int settings_load(struct settings *settings, char *problem) {
    problem[0] = '\0';
    settings_defaults(settings);
    esp_err_t code = nvs_flash_init();
    if (code == ESP_ERR_NVS_NO_FREE_PAGES || code == ESP_ERR_NVS_NEW_VERSION_FOUND) {
        (void)snprintf(problem, SETTINGS_ERROR_BYTES, "the settings' flash could not be used and was erased");
        code = nvs_flash_erase();
        code = code == ESP_OK ? nvs_flash_init() : code;
    }
    if (code != ESP_OK) {
        return code;
    }
    nvs_handle_t nvs;
    code = nvs_open(NAMESPACE, NVS_READONLY, &nvs);
    if (code == ESP_ERR_NVS_NOT_FOUND) {
        return ESP_OK; /* nothing was ever set */
    }
    if (code != ESP_OK) {
        return code;
    }
    size_t count;
    const struct setting *table = settings_table(&count);
    char error[SETTINGS_ERROR_BYTES];
    for (size_t i = 0; i < count; i++) {
        if (!read_one(nvs, settings, &table[i], error)) {
            memcpy(problem, error, sizeof error);
        }
    }
    nvs_close(nvs);
    if (!settings_check(settings, error)) {
        /* Each is in its range, but not together: the addresses are left aside, so that the board stays
         * reachable by its console. */
        memcpy(problem, error, sizeof error);
        settings->next[0] = '\0';
        settings->light_sleep = 0;
        settings->espnow_lmk[0] = '\0';
        settings->mtu = 0;
        if (!settings_check(settings, error)) {
            settings_defaults(settings);
        }
    }
    return ESP_OK;
}

int settings_store(const struct settings *settings, const struct settings *old) {
    nvs_handle_t nvs;
    esp_err_t code = nvs_open(NAMESPACE, NVS_READWRITE, &nvs);
    if (code != ESP_OK) {
        return code;
    }
    size_t count;
    const struct setting *table = settings_table(&count);
    for (size_t i = 0; i < count && code == ESP_OK; i++) {
        const struct setting *which = &table[i];
        if (!kept_as_text(which)) {
            if (settings_number(settings, which) != settings_number(old, which)) {
                code = nvs_set_u32(nvs, which->name, settings_number(settings, which));
            }
        } else if (strcmp(settings_text(settings, which), settings_text(old, which)) != 0) {
            code = nvs_set_str(nvs, which->name, settings_text(settings, which));
        }
    }
    code = code == ESP_OK ? nvs_commit(nvs) : code;
    nvs_close(nvs);
    return code;
}
