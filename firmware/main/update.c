#include "update.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "esp_log.h"
#include "esp_ota_ops.h"
#include "esp_timer.h"
#include "flash.h"
#include "freertos/FreeRTOS.h"
#include "freertos/semphr.h"
#include "settings.h"

static const char TAG[] = "update";

#define LOCK_WAIT_MS 10000 /* below the task watchdog */
#define LEASE_US 20000000  /* after that long without a word from its owner, an update is anybody's */

static SemaphoreHandle_t lock;
static StaticSemaphore_t lock_memory;
static struct update_state state;

/* A firmware on its way. */
static struct {
    struct ts_image image;
    uint8_t header[TS_IMAGE_HEADER];
    uint8_t digest[TS_IMAGE_DIGEST];
    uint8_t signature[TS_IMAGE_SIGNATURE];
    esp_ota_handle_t handle;
    const esp_partition_t *partition;
    bool open, ready;
} app;

void update_start(void) {
    lock = xSemaphoreCreateMutexStatic(&lock_memory);
}

static bool enter(void) {
    return xSemaphoreTake(lock, pdMS_TO_TICKS(LOCK_WAIT_MS)) == pdTRUE;
}

static int leave(int code) {
    (void)xSemaphoreGive(lock);
    return code;
}

/* --- whose update it is --- */

static struct {
    uint32_t owner; /* 0: nobody's */
    int64_t heard_us;
    char name[33];
} lease;

static bool admitted(uint32_t owner) {
    int64_t now = esp_timer_get_time();
    if (lease.owner != 0 && lease.owner != owner && now - lease.heard_us < LEASE_US) {
        return false;
    }
    lease.owner = lease.owner == owner ? owner : 0;
    lease.heard_us = now;
    return true;
}

/* As `enter`, but only for the owner. TS_OK: what follows must `leave`. */
static int enter_for(uint32_t owner) {
    if (!enter()) {
        return TS_E_BUSY;
    }
    return admitted(owner) ? TS_OK : leave(TS_E_BUSY);
}

static int enter_and_take(const struct update_sender *sender) {
    if (!enter()) {
        return TS_E_BUSY;
    }
    if (!sender->take_over && !admitted(sender->owner)) {
        return leave(TS_E_BUSY);
    }
    if (sender->name != NULL) {
        size_t len = settings_cut(sender->name, sizeof lease.name - 1);
        memcpy(lease.name, sender->name, len);
        lease.name[len] = '\0';
    } else if (lease.owner != sender->owner) {
        (void)snprintf(lease.name, sizeof lease.name, "number %" PRIu32, sender->owner);
    }
    lease.owner = sender->owner;
    lease.heard_us = esp_timer_get_time();
    return TS_OK;
}

void update_holder(char out[UPDATE_HOLDER]) {
    if (enter()) {
        (void)snprintf(out, UPDATE_HOLDER, "by %s, heard %" PRIi64 " s ago", lease.name,
                       (esp_timer_get_time() - lease.heard_us) / 1000000);
        (void)leave(TS_OK);
    } else {
        (void)snprintf(out, UPDATE_HOLDER, "which keeps the board busy");
    }
}

/* --- firmware --- */

static void drop_app(void) {
    if (app.open) {
        (void)esp_ota_abort(app.handle);
    }
    app.open = false;
    app.ready = false;
}

static int begin_app(const struct ts_image *image, const uint8_t *header, const uint8_t *digest, uint32_t *offset) {
    if ((app.open || app.ready) && memcmp(app.header, header, sizeof app.header) == 0 &&
        memcmp(app.digest, digest, sizeof app.digest) == 0) {
        *offset =
            app.ready ? image->bytes : state.offset; /* as ts_slots_begin of an image that is there and verified */
        return TS_OK;
    }
    drop_app();
    app.partition = esp_ota_get_next_update_partition(NULL);
    if (app.partition == NULL || image->model.bytes > app.partition->size) {
        return TS_E_IMAGE_TOO_LARGE;
    }
    const struct ts_crypto *crypto = &flash_rules()->crypto;
    if (!crypto->sha256_start(crypto->ctx) ||
        esp_ota_begin(app.partition, OTA_WITH_SEQUENTIAL_WRITES, &app.handle) != ESP_OK) {
        return TS_E_FLASH_FAILED;
    }
    app.open = true;
    app.image = *image;
    memcpy(app.header, header, sizeof app.header);
    memcpy(app.digest, digest, sizeof app.digest);
    *offset = 0;
    return TS_OK;
}

/* The part of bytes (at `offset` of the image) that lies within [from, to). */
static const uint8_t *overlap(uint32_t offset, const uint8_t *bytes, uint32_t len, uint32_t from, uint32_t to,
                              uint32_t *at, uint32_t *count) {
    uint32_t begin = offset > from ? offset : from;
    uint32_t end = offset + len < to ? offset + len : to;
    *count = begin < end ? end - begin : 0;
    *at = begin - from;
    return bytes + (begin - offset);
}

static int write_app(uint32_t offset, const uint8_t *bytes, uint32_t len) {
    const struct ts_crypto *crypto = &flash_rules()->crypto;
    uint32_t signature_at = app.image.bytes - TS_IMAGE_SIGNATURE;
    uint32_t at, count;
    const uint8_t *part = overlap(offset, bytes, len, 0, TS_IMAGE_HEADER, &at, &count);
    if (count > 0 && memcmp(part, app.header + at, count) != 0) {
        return TS_E_IMAGE_DIGEST;
    }
    part = overlap(offset, bytes, len, 0, signature_at, &at, &count);
    if (count > 0 && !crypto->sha256_update(crypto->ctx, part, count)) {
        return TS_E_FLASH_FAILED;
    }
    part = overlap(offset, bytes, len, app.image.model.at, app.image.model.at + app.image.model.bytes, &at, &count);
    if (count > 0 && esp_ota_write(app.handle, part, count) != ESP_OK) {
        return TS_E_FLASH_FAILED;
    }
    part = overlap(offset, bytes, len, signature_at, app.image.bytes, &at, &count);
    if (count > 0) {
        memcpy(app.signature + at, part, count);
    }
    return TS_OK;
}

static int finish_app(void) {
    const struct ts_crypto *crypto = &flash_rules()->crypto;
    uint8_t digest[TS_IMAGE_DIGEST];
    if (app.ready) {
        return TS_OK;
    }
    bool hashed = crypto->sha256_finish(crypto->ctx, digest);
    app.open = false;
    int code = TS_OK;
    if (!hashed || memcmp(digest, app.digest, sizeof digest) != 0) {
        code = TS_E_IMAGE_DIGEST;
    } else if ((app.image.flags & TS_IMAGE_SIGNED) != 0) {
        code =
            crypto->verify != NULL && crypto->verify(crypto->ctx, digest, app.signature) ? TS_OK : TS_E_IMAGE_SIGNATURE;
    } else if (memcmp(digest, app.signature, sizeof digest) != 0) {
        code = TS_E_IMAGE_SIGNATURE;
    }
    if (code != TS_OK) {
        (void)esp_ota_abort(app.handle);
        return code;
    }
    app.ready = esp_ota_end(app.handle) == ESP_OK;
    return app.ready ? TS_OK : TS_E_IMAGE_MALFORMED;
}

/* --- both kinds --- */

int update_begin(const struct update_sender *sender, const uint8_t header[TS_IMAGE_HEADER],
                 const uint8_t digest[TS_IMAGE_DIGEST], uint32_t *offset) {
    struct ts_slots *slots = flash_slots();
    if (slots == NULL) {
        return TS_E_FLASH_FAILED;
    }
    int entered = enter_and_take(sender);
    if (entered != TS_OK) {
        return entered;
    }
    struct ts_image_rules rules = *flash_rules();
    const esp_partition_t *application = esp_ota_get_next_update_partition(NULL);
    uint32_t most = application != NULL ? application->size + TS_IMAGE_HEADER + TS_IMAGE_SIGNATURE + TS_IMAGE_ALIGN : 0;
    rules.max_bytes = most > rules.max_bytes ? most : rules.max_bytes;
    struct ts_image image;
    int code = ts_image_header(&rules, header, &image);
    if (code == TS_OK && image.kind == TS_IMAGE_FIRMWARE) {
        code = begin_app(&image, header, digest, offset);
    } else if (code == TS_OK) {
        drop_app(); /* one at a time: they share the SHA-256 */
        code = ts_slots_begin(slots, header, digest, offset);
    }
    if (code == TS_OK) {
        state = (struct update_state){
            .active = true, .kind = image.kind, .offset = *offset, .bytes = image.bytes, .version = image.version};
    }
    return leave(code);
}

int update_write(uint32_t owner, uint32_t offset, const uint8_t *bytes, uint32_t len, uint32_t *next) {
    int code = enter_for(owner);
    if (code != TS_OK) {
        return code;
    }
    *next = state.offset;
    if (!state.active || offset > state.offset || len > state.bytes || offset > state.bytes - len) {
        return leave(TS_E_SLOT_ORDER);
    }
    uint32_t known = state.offset - offset; /* bytes that were here already */
    if (known < len) {
        code = state.kind == TS_IMAGE_FIRMWARE
                   ? write_app(state.offset, bytes + known, len - known)
                   : ts_slots_write(flash_slots(), state.offset, bytes + known, len - known);
        if (code == TS_OK) {
            state.offset = offset + len;
            *next = state.offset;
        } else {
            state.active = false;
            drop_app();
        }
    }
    return leave(code);
}

int update_finish(uint32_t owner) {
    int entered = enter_for(owner);
    if (entered != TS_OK) {
        return entered;
    }
    if (!state.active || state.offset != state.bytes) {
        return leave(TS_E_SLOT_ORDER);
    }
    struct ts_image image;
    int code = state.kind == TS_IMAGE_FIRMWARE ? finish_app() : ts_slots_finish(flash_slots(), &image);
    state.active = false;
    return leave(code);
}

int update_activate(uint32_t owner, const uint8_t digest[TS_IMAGE_DIGEST]) {
    if (flash_slots() == NULL) {
        return TS_E_FLASH_FAILED;
    }
    const struct update_sender sender = {.owner = owner};
    int entered = enter_and_take(&sender);
    if (entered != TS_OK) {
        return entered;
    }
    if (app.ready && memcmp(app.digest, digest, sizeof app.digest) == 0) {
        return leave(esp_ota_set_boot_partition(app.partition) == ESP_OK ? TS_OK : TS_E_FLASH_FAILED);
    }
    return leave(ts_slots_activate(flash_slots(), digest));
}

int update_abort(uint32_t owner) {
    if (flash_slots() == NULL) {
        return TS_E_FLASH_FAILED;
    }
    int entered = enter_for(owner);
    if (entered != TS_OK) {
        return entered;
    }
    lease.owner = 0;
    drop_app();
    int code = state.active && state.kind == TS_IMAGE_FIRMWARE ? TS_OK : ts_slots_abort(flash_slots());
    state.active = false;
    return leave(code);
}

int update_check(uint32_t owner) {
    int code = enter_for(owner);
    return code == TS_OK ? leave(TS_OK) : code;
}

int update_release(uint32_t owner) {
    int code = enter_for(owner);
    if (code == TS_OK) {
        lease.owner = 0;
        (void)leave(TS_OK);
    }
    return code;
}

struct update_state update_state(void) {
    struct update_state copy = {0};
    if (enter()) {
        copy = state;
        (void)leave(TS_OK);
    }
    return copy;
}

void update_judge_firmware(bool works) {
    esp_ota_img_states_t state_of_app;
    if (esp_ota_get_state_partition(esp_ota_get_running_partition(), &state_of_app) != ESP_OK ||
        state_of_app != ESP_OTA_IMG_PENDING_VERIFY) {
        return;
    }
    if (works) {
        (void)esp_ota_mark_app_valid_cancel_rollback();
        return;
    }
    ESP_LOGE(TAG, "this firmware does not work here; the one before comes back");
    (void)esp_ota_mark_app_invalid_rollback_and_reboot(); /* comes back if there is none before */
}
