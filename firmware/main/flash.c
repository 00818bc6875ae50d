#include "flash.h"

#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "esp_app_desc.h"
#include "esp_heap_caps.h"
#include "esp_log.h"
#include "esp_partition.h"
#include "esp_rom_crc.h"
#include "esp_task_wdt.h"
#include "mbedtls/ecdsa.h"
#include "mbedtls/ecp.h"
#include "mbedtls/sha256.h"
#include "nvs.h"
#include "sdkconfig.h"

static const char TAG[] = "flash";

#define KEY_BYTES 65
#define KEY_ENTRY "public_key" /* blob, in the settings' namespace */
#define SUBTYPE_STATE ((esp_partition_subtype_t)0x40)
#define SUBTYPE_SLOT0 ((esp_partition_subtype_t)0x41)
#define SUBTYPE_SLOT1 ((esp_partition_subtype_t)0x42)

static const esp_partition_t *areas[3];
static const uint8_t *mapped[2];
static uint8_t sector[TS_SECTOR];
static struct ts_slots slots;
static struct ts_slots_config config;
static struct flash_stage stage;
static bool usable, has_stage, has_key;
static uint8_t public_key[KEY_BYTES];
static mbedtls_sha256_context sha;
static int opened = -1; /* slot whose stage the engine has open, and tested */
static char problem[ENGINE_TEXT];

static void feed(void) {
    if (esp_task_wdt_status(NULL) == ESP_OK) {
        (void)esp_task_wdt_reset();
    }
}

static bool read_flash(void *ctx, enum ts_area area, uint32_t offset, uint8_t *out, uint32_t len) {
    (void)ctx;
    feed();
    return esp_partition_read(areas[area], offset, out, len) == ESP_OK;
}

static bool program_flash(void *ctx, enum ts_area area, uint32_t offset, const uint8_t *data, uint32_t len) {
    (void)ctx;
    feed();
    return esp_partition_write(areas[area], offset, data, len) == ESP_OK;
}

static bool erase_flash(void *ctx, enum ts_area area, uint32_t offset) {
    (void)ctx;
    feed();
    return esp_partition_erase_range(areas[area], offset, TS_SECTOR) == ESP_OK;
}

static bool sha_start(void *ctx) {
    (void)ctx;
    mbedtls_sha256_free(&sha);
    mbedtls_sha256_init(&sha);
    return mbedtls_sha256_starts(&sha, 0) == 0;
}

static bool sha_update(void *ctx, const uint8_t *data, size_t len) {
    (void)ctx;
    return mbedtls_sha256_update(&sha, data, len) == 0;
}

static bool sha_finish(void *ctx, uint8_t digest[TS_IMAGE_DIGEST]) {
    (void)ctx;
    int code = mbedtls_sha256_finish(&sha, digest);
    mbedtls_sha256_free(&sha);
    return code == 0;
}

static bool verify(void *ctx, const uint8_t digest[TS_IMAGE_DIGEST], const uint8_t signature[TS_IMAGE_SIGNATURE]) {
    (void)ctx;
    mbedtls_ecp_group group;
    mbedtls_ecp_point key;
    mbedtls_mpi r, s;
    mbedtls_ecp_group_init(&group);
    mbedtls_ecp_point_init(&key);
    mbedtls_mpi_init(&r);
    mbedtls_mpi_init(&s);
    bool good = mbedtls_ecp_group_load(&group, MBEDTLS_ECP_DP_SECP256R1) == 0 &&
                mbedtls_ecp_point_read_binary(&group, &key, public_key, KEY_BYTES) == 0 &&
                mbedtls_ecp_check_pubkey(&group, &key) == 0 && mbedtls_mpi_read_binary(&r, signature, 32) == 0 &&
                mbedtls_mpi_read_binary(&s, signature + 32, 32) == 0 &&
                mbedtls_ecdsa_verify(&group, digest, TS_IMAGE_DIGEST, &key, &r, &s) == 0;
    mbedtls_mpi_free(&s);
    mbedtls_mpi_free(&r);
    mbedtls_ecp_point_free(&key);
    mbedtls_ecp_group_free(&group);
    feed();
    return good;
}

static uint32_t crc32(void *ctx, uint32_t crc, const uint8_t *data, size_t len) {
    (void)ctx;
    return esp_rom_crc32_le(crc, data, len);
}

/* Opens and tests the stage in a slot. */
static int try_slot(unsigned slot, const struct ts_image *image, uint32_t *detail) {
    opened = -1;
    int code = engine_open(image, mapped[slot]);
    code = code == TS_OK ? engine_self_test(detail) : code;
    opened = code == TS_OK ? (int)slot : -1;
    return code;
}

static int self_test(void *ctx, unsigned slot, const struct ts_image *image, uint32_t *detail) {
    (void)ctx;
    return try_slot(slot, image, detail);
}

static uint32_t firmware_version(void) {
    unsigned major = 0, minor = 0, patch = 0;
    (void)sscanf(esp_app_get_description()->version, "%u.%u.%u", &major, &minor, &patch);
    return (uint32_t)((major & 0xFFFFu) << 16 | (minor & 0xFFu) << 8 | (patch & 0xFFu));
}

bool flash_public_key(uint8_t key[65]) {
    memcpy(key, public_key, KEY_BYTES);
    return has_key;
}

static bool load_key(void) {
    nvs_handle_t nvs;
    size_t len = KEY_BYTES;
    if (nvs_open("tinysplit", NVS_READONLY, &nvs) != ESP_OK) {
        return false;
    }
    bool found = nvs_get_blob(nvs, KEY_ENTRY, public_key, &len) == ESP_OK && len == KEY_BYTES && public_key[0] == 4;
    nvs_close(nvs);
    return found;
}

static int nibble(char digit) {
    const char *digits = "0123456789abcdef";
    const char *at = digit == '\0' ? NULL : strchr(digits, digit);
    return at == NULL ? -1 : (int)(at - digits);
}

int flash_set_public_key(const char *hex) {
    uint8_t key[KEY_BYTES];
    size_t len = strlen(hex);
    if (len != 0 && len != 2 * KEY_BYTES) {
        return ESP_ERR_INVALID_SIZE;
    }
    for (size_t i = 0; i < len / 2; i++) {
        int high = nibble(hex[2 * i]), low = nibble(hex[2 * i + 1]);
        if (high < 0 || low < 0) {
            return ESP_ERR_INVALID_ARG;
        }
        key[i] = (uint8_t)(high << 4 | low);
    }
    if (len != 0 && key[0] != 4) {
        return ESP_ERR_INVALID_ARG;
    }
    nvs_handle_t nvs;
    esp_err_t code = nvs_open("tinysplit", NVS_READWRITE, &nvs);
    if (code != ESP_OK) {
        return code;
    }
    code = len == 0 ? nvs_erase_key(nvs, KEY_ENTRY) : nvs_set_blob(nvs, KEY_ENTRY, key, KEY_BYTES);
    code = code == ESP_ERR_NVS_NOT_FOUND ? ESP_OK : code;
    code = code == ESP_OK ? nvs_commit(nvs) : code;
    nvs_close(nvs);
    return code; /* holds from the next start, as all settings do */
}

static bool find_areas(void) {
    const esp_partition_subtype_t subtypes[3] = {SUBTYPE_SLOT0, SUBTYPE_SLOT1, SUBTYPE_STATE};
    for (unsigned i = 0; i < 3; i++) {
        areas[i] = esp_partition_find_first(ESP_PARTITION_TYPE_DATA, subtypes[i], NULL);
        if (areas[i] == NULL) {
            (void)snprintf(problem, sizeof problem, "the partition table has no model slots: flash the firmware's own");
            return false;
        }
    }
    if (areas[0]->size != areas[1]->size || areas[2]->size < 2 * TS_SECTOR) {
        (void)snprintf(problem, sizeof problem, "the model slots differ in size: flash the firmware's partition table");
        return false;
    }
    for (unsigned i = 0; i < 2; i++) {
        const void *at;
        esp_partition_mmap_handle_t handle;
        esp_err_t code = esp_partition_mmap(areas[i], 0, areas[i]->size, ESP_PARTITION_MMAP_DATA, &at, &handle);
        if (code != ESP_OK) {
            (void)snprintf(problem, sizeof problem, "a model slot cannot be mapped: %s", esp_err_to_name(code));
            return false;
        }
        mapped[i] = at;
    }
    return true;
}

static void note_reason(void) {
    const struct ts_slots_state *state = &slots.state;
    if (state->reason != 0) {
        (void)snprintf(problem, sizeof problem, "image version %lu was refused or rolled back: %s (%lu)",
                       (unsigned long)state->reason_version, ts_error_name(state->reason),
                       (unsigned long)state->reason_detail);
    }
}

void flash_boot(void) {
    problem[0] = '\0';
    usable = has_stage = false;
    mbedtls_sha256_init(&sha);
    engine_close();
    if (!find_areas()) {
        ESP_LOGE(TAG, "%s", problem);
        return;
    }
    has_key = load_key();
    uint32_t memory = (uint32_t)heap_caps_get_free_size(MALLOC_CAP_8BIT);
    config = (struct ts_slots_config){.read = read_flash,
                                      .program = program_flash,
                                      .erase = erase_flash,
                                      .self_test = self_test,
                                      .buffer = sector,
                                      .rules = {.crypto = {.sha256_start = sha_start,
                                                           .sha256_update = sha_update,
                                                           .sha256_finish = sha_finish,
                                                           .verify = has_key ? verify : NULL},
                                                .crc = {NULL, ts_crc16_small, crc32},
                                                .max_bytes = areas[0]->size,
                                                .max_arena = memory,
                                                .firmware = firmware_version(),
                                                .chip = TS_CHIP_ESP32S3,
                                                .stage = TS_NO_STAGE,
#if CONFIG_TINYSPLIT_ALLOW_UNSIGNED
                                                .allow_unsigned = true
#endif
                                      }};
    int code = ts_slots_boot(&slots, &config, &stage.image);
    usable = code == TS_OK || code == TS_E_SLOT_EMPTY;
    note_reason();
    if (code != TS_OK) {
        if (code != TS_E_SLOT_EMPTY || problem[0] == '\0') {
            (void)snprintf(problem, sizeof problem, "there is no image to run (%s): flash one",
                           ts_error_name((unsigned)code));
        }
        ESP_LOGW(TAG, "%s", problem);
        return;
    }
    stage.base = mapped[slots.running];
    has_stage = true;
    if (opened != slots.running) {
        uint32_t detail;
        code = try_slot(slots.running, &stage.image, &detail);
        if (code != TS_OK) {
            (void)snprintf(problem, sizeof problem, "%.140s", engine_state().problem);
        }
    }
    ESP_LOGI(TAG, "stage %u of %u, version %lu, slot %u: %s", stage.image.stage, stage.image.stage_count,
             (unsigned long)stage.image.version, slots.running, code == TS_OK ? "serves" : "does not serve");
}

const struct flash_stage *flash_stage(void) {
    return has_stage ? &stage : NULL;
}

const char *flash_problem(void) {
    return problem;
}

bool flash_works(void) {
    return usable && (!has_stage || engine_state().proven);
}

struct ts_slots *flash_slots(void) {
    return usable ? &slots : NULL;
}

const struct ts_image_rules *flash_rules(void) {
    return &config.rules;
}
