#include "fake_flash.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "esp_ota_ops.h"
#include "esp_partition.h"
#include "esp_system.h"

#define SECTOR 4096u

static uint8_t own_memory[FAKE_FLASH_BYTES];
static uint8_t *memory = own_memory;
/* slot 0, slot 1, state, application 0, application 1 */
static const esp_partition_t partitions[5] = {{.size = FAKE_SLOT_BYTES},
                                              {.size = FAKE_SLOT_BYTES},
                                              {.size = FAKE_STATE_BYTES},
                                              {.size = FAKE_APP_BYTES},
                                              {.size = FAKE_APP_BYTES}};
int fake_flash_cut_after = -1;
jmp_buf *fake_flash_cut_to;
int fake_flash_operations;
bool fake_flash_absent, fake_flash_no_map;
struct fake_ota fake_ota;

static uint8_t *base_of(const esp_partition_t *partition) {
    ptrdiff_t which = partition - partitions;
    assert(which >= 0 && which < 5);
    uint8_t *at = memory;
    for (ptrdiff_t i = 0; i < which; i++) {
        at += partitions[i].size;
    }
    return at;
}

/* Bytes behind the partitions: what the boot loader knows. */
static uint8_t *boot_record(void) {
    return memory + FAKE_FLASH_BYTES - 64;
}

void fake_flash_at(uint8_t *bytes) {
    memory = bytes;
}

void fake_flash_clear(void) {
    memset(memory, 0xFF, FAKE_FLASH_BYTES);
    memset(boot_record(), 0, 64);
    fake_flash_cut_after = -1;
    fake_flash_operations = 0;
    fake_flash_absent = fake_flash_no_map = false;
    memset(&fake_ota, 0, sizeof fake_ota);
}

uint8_t *fake_flash_slot(unsigned slot) {
    return base_of(&partitions[slot]);
}

uint8_t *fake_flash_app(unsigned app) {
    return base_of(&partitions[3 + app]);
}

void fake_flash_image(unsigned slot, const uint8_t *bytes, size_t len) {
    assert(len <= FAKE_SLOT_BYTES);
    memset(fake_flash_slot(slot), 0xFF, FAKE_SLOT_BYTES);
    memcpy(fake_flash_slot(slot), bytes, len);
}

/* True: power fails in the middle of this operation. */
static bool cut(void) {
    fake_flash_operations++;
    return fake_flash_cut_after >= 0 && fake_flash_cut_after-- == 0;
}

const esp_partition_t *esp_partition_find_first(esp_partition_type_t type, esp_partition_subtype_t subtype,
                                                const char *label) {
    assert(type == ESP_PARTITION_TYPE_DATA && label == NULL);
    if (fake_flash_absent) {
        return NULL;
    }
    return (int)subtype == 0x41 ? &partitions[0] : (int)subtype == 0x42 ? &partitions[1] : &partitions[2];
}

static bool within(const esp_partition_t *partition, size_t offset, size_t len) {
    return offset <= partition->size && len <= partition->size - offset;
}

esp_err_t esp_partition_read(const esp_partition_t *partition, size_t offset, void *out, size_t len) {
    if (!within(partition, offset, len)) {
        return ESP_ERR_INVALID_SIZE;
    }
    memcpy(out, base_of(partition) + offset, len);
    return ESP_OK;
}

esp_err_t esp_partition_write(const esp_partition_t *partition, size_t offset, const void *data, size_t len) {
    if (!within(partition, offset, len)) {
        return ESP_ERR_INVALID_SIZE;
    }
    bool cut_here = cut();
    for (size_t i = 0; i < (cut_here ? len / 2 : len); i++) {
        base_of(partition)[offset + i] &= ((const uint8_t *)data)[i];
    }
    if (cut_here) {
        longjmp(*fake_flash_cut_to, 1);
    }
    return ESP_OK;
}

esp_err_t esp_partition_erase_range(const esp_partition_t *partition, size_t offset, size_t len) {
    if (!within(partition, offset, len) || offset % SECTOR != 0 || len % SECTOR != 0) {
        return ESP_ERR_INVALID_ARG;
    }
    bool cut_here = cut();
    memset(base_of(partition) + offset, 0xFF, cut_here ? len / 2 : len);
    if (cut_here) {
        longjmp(*fake_flash_cut_to, 1);
    }
    return ESP_OK;
}

esp_err_t esp_partition_mmap(const esp_partition_t *partition, size_t offset, size_t len,
                             esp_partition_mmap_memory_t kind, const void **out, esp_partition_mmap_handle_t *handle) {
    assert(kind == ESP_PARTITION_MMAP_DATA && offset == 0);
    if (!within(partition, offset, len) || fake_flash_no_map) {
        return ESP_ERR_NO_MEM;
    }
    *out = base_of(partition);
    *handle = 1;
    return ESP_OK;
}

/* --- esp_ota --- */

static const esp_partition_t *updating;

const esp_partition_t *esp_ota_get_next_update_partition(const esp_partition_t *from) {
    assert(from == NULL);
    return &partitions[3 + (1 - fake_ota.running)];
}

esp_err_t esp_ota_begin(const esp_partition_t *partition, size_t len, esp_ota_handle_t *handle) {
    assert(len == OTA_WITH_SEQUENTIAL_WRITES);
    if (fake_ota.on_trial) {
        return 0x1504; /* ESP_ERR_OTA_ROLLBACK_INVALID_STATE: an application on trial must not update */
    }
    assert(updating == NULL); /* the real one keeps a record for each: it must be ended or aborted */
    updating = partition;
    fake_ota.begins++;
    fake_ota.written = 0;
    *handle = 7;
    return ESP_OK;
}

esp_err_t esp_ota_write(esp_ota_handle_t handle, const void *data, size_t len) {
    assert(handle == 7 && updating != NULL);
    if (fake_ota.written + len > updating->size) {
        return ESP_ERR_INVALID_SIZE;
    }
    if (fake_ota.written == 0 && len > 0 && *(const uint8_t *)data != 0xE9) {
        return 0x1503; /* ESP_ERR_OTA_VALIDATE_FAILED: as the real one, it looks at the first byte */
    }
    bool cut_here = cut();
    memcpy(base_of(updating) + fake_ota.written, data, cut_here ? len / 2 : len);
    fake_ota.written += (uint32_t)len;
    if (cut_here) {
        longjmp(*fake_flash_cut_to, 1);
    }
    return ESP_OK;
}

esp_err_t esp_ota_end(esp_ota_handle_t handle) {
    assert(handle == 7 && updating != NULL);
    updating = NULL;
    fake_ota.ends++;
    return fake_ota.written > 0 ? ESP_OK : 0x1503;
}

esp_err_t esp_ota_abort(esp_ota_handle_t handle) {
    assert(handle == 7 && updating != NULL);
    updating = NULL;
    fake_ota.aborts++;
    return ESP_OK;
}

esp_err_t esp_ota_set_boot_partition(const esp_partition_t *partition) {
    fake_ota.boots = (unsigned)(partition - &partitions[3]);
    boot_record()[0] = (uint8_t)fake_ota.boots;
    boot_record()[1] = fake_ota.boots != fake_ota.running; /* new */
    return ESP_OK;
}

const esp_partition_t *esp_ota_get_running_partition(void) {
    return &partitions[3 + fake_ota.running];
}

esp_err_t esp_ota_get_state_partition(const esp_partition_t *partition, esp_ota_img_states_t *state) {
    assert(partition == esp_ota_get_running_partition());
    *state = fake_ota.on_trial ? ESP_OTA_IMG_PENDING_VERIFY : ESP_OTA_IMG_UNDEFINED;
    return ESP_OK;
}

esp_err_t esp_ota_mark_app_invalid_rollback_and_reboot(void) {
    assert(fake_ota.on_trial);
    boot_record()[0] = (uint8_t)(1 - fake_ota.running);
    boot_record()[1] = 0;
    esp_restart();
}

esp_err_t esp_ota_mark_app_valid_cancel_rollback(void) {
    fake_ota.on_trial = false;
    fake_ota.is_valid = true;
    boot_record()[1] = 0;
    return ESP_OK;
}

void fake_flash_restart(void) {
    updating = NULL;
    uint8_t *record = boot_record();
    if (record[1] == 2) { /* it was on trial and was not kept */
        record[0] = (uint8_t)(1 - record[0]);
        record[1] = 0;
    }
    fake_ota = (struct fake_ota){.running = record[0], .boots = record[0], .on_trial = record[1] == 1};
    if (record[1] == 1) {
        record[1] = 2;
    }
}
