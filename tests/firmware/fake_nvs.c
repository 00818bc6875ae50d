#include "fake_nvs.h"

#include <assert.h>
#include <string.h>

#include "nvs_flash.h"

#define ENTRIES 64
#define VALUE_BYTES 2100

enum kind { EMPTY, NUMBER, TEXT, BLOB };

struct entry {
    char space[16], key[16];
    uint8_t kind;
    uint16_t len;
    uint8_t value[VALUE_BYTES];
};

static struct entry now[ENTRIES], own_kept[ENTRIES];
static struct entry *kept = own_kept;
static struct {
    char space[16];
    nvs_open_mode_t mode;
} handles[4]; /* handle - 1 */
static bool started;

esp_err_t fake_nvs_init_error;
int fake_nvs_writes_left = -1;
int fake_nvs_erased, fake_nvs_written, fake_nvs_open;

void fake_nvs_clear(void) {
    memset(now, 0, sizeof now);
    memset(kept, 0, sizeof now);
    fake_nvs_restart();
    fake_nvs_init_error = ESP_OK;
    fake_nvs_writes_left = -1;
    fake_nvs_erased = fake_nvs_written = 0;
}

void fake_nvs_restart(void) {
    memcpy(now, kept, sizeof now);
    memset(handles, 0, sizeof handles);
    started = false;
    fake_nvs_open = 0;
}

void fake_nvs_keep(void *memory, size_t bytes) {
    assert(bytes >= sizeof now);
    kept = memory;
    fake_nvs_restart();
}

esp_err_t nvs_flash_init(void) {
    esp_err_t code = fake_nvs_init_error;
    started = code == ESP_OK;
    return code;
}

esp_err_t nvs_flash_erase(void) {
    int erased = fake_nvs_erased;
    fake_nvs_clear();
    fake_nvs_erased = erased + 1;
    return ESP_OK;
}

static struct entry *find(nvs_handle_t handle, const char *key) {
    assert(handle >= 1 && handle <= 4 && handles[handle - 1].space[0] != '\0');
    for (int i = 0; i < ENTRIES; i++) {
        if (now[i].kind != EMPTY && strcmp(now[i].space, handles[handle - 1].space) == 0 &&
            strcmp(now[i].key, key) == 0) {
            return &now[i];
        }
    }
    return NULL;
}

esp_err_t nvs_open(const char *space, nvs_open_mode_t mode, nvs_handle_t *handle) {
    assert(started && strlen(space) <= 15);
    bool known = mode == NVS_READWRITE;
    for (int i = 0; i < ENTRIES; i++) {
        known |= now[i].kind != EMPTY && strcmp(now[i].space, space) == 0;
    }
    if (!known) {
        return ESP_ERR_NVS_NOT_FOUND;
    }
    for (uint32_t i = 0; i < 4; i++) {
        if (handles[i].space[0] == '\0') {
            strcpy(handles[i].space, space);
            handles[i].mode = mode;
            *handle = i + 1;
            fake_nvs_open++;
            return ESP_OK;
        }
    }
    return ESP_ERR_NO_MEM;
}

void nvs_close(nvs_handle_t handle) {
    assert(handle >= 1 && handle <= 4 && handles[handle - 1].space[0] != '\0');
    handles[handle - 1].space[0] = '\0';
    fake_nvs_open--;
}

esp_err_t nvs_commit(nvs_handle_t handle) {
    assert(handles[handle - 1].mode == NVS_READWRITE);
    memcpy(kept, now, sizeof now);
    return ESP_OK;
}

static esp_err_t set(nvs_handle_t handle, const char *key, enum kind kind, const void *value, size_t len) {
    assert(handles[handle - 1].mode == NVS_READWRITE && strlen(key) >= 1 && strlen(key) <= 15 && len <= VALUE_BYTES);
    if (fake_nvs_writes_left == 0) {
        return ESP_FAIL;
    }
    fake_nvs_writes_left -= fake_nvs_writes_left > 0;
    struct entry *entry = find(handle, key);
    for (int i = 0; entry == NULL && i < ENTRIES; i++) {
        entry = now[i].kind == EMPTY ? &now[i] : NULL;
    }
    if (entry == NULL) {
        return ESP_ERR_NO_MEM;
    }
    memset(entry, 0, sizeof *entry);
    strcpy(entry->space, handles[handle - 1].space);
    strcpy(entry->key, key);
    entry->kind = (uint8_t)kind;
    entry->len = (uint16_t)len;
    memcpy(entry->value, value, len);
    fake_nvs_written++;
    return ESP_OK;
}

/* As the real ones: another type under this name is as good as none. */
static esp_err_t get(nvs_handle_t handle, const char *key, enum kind kind, void *out, size_t *len) {
    struct entry *entry = find(handle, key);
    if (entry == NULL || entry->kind != kind) {
        return ESP_ERR_NVS_NOT_FOUND;
    }
    if (out != NULL && *len < entry->len) {
        return 0x110c; /* ESP_ERR_NVS_INVALID_LENGTH */
    }
    if (out != NULL) {
        memcpy(out, entry->value, entry->len);
    }
    *len = entry->len;
    return ESP_OK;
}

esp_err_t nvs_set_u32(nvs_handle_t handle, const char *key, uint32_t value) {
    return set(handle, key, NUMBER, &value, sizeof value);
}
esp_err_t nvs_get_u32(nvs_handle_t handle, const char *key, uint32_t *out) {
    size_t len = sizeof *out;
    return get(handle, key, NUMBER, out, &len);
}
esp_err_t nvs_set_str(nvs_handle_t handle, const char *key, const char *value) {
    return set(handle, key, TEXT, value, strlen(value) + 1);
}
esp_err_t nvs_get_str(nvs_handle_t handle, const char *key, char *out, size_t *len) {
    return get(handle, key, TEXT, out, len);
}
esp_err_t nvs_set_blob(nvs_handle_t handle, const char *key, const void *value, size_t len) {
    return set(handle, key, BLOB, value, len);
}
esp_err_t nvs_get_blob(nvs_handle_t handle, const char *key, void *out, size_t *len) {
    return get(handle, key, BLOB, out, len);
}
esp_err_t nvs_erase_key(nvs_handle_t handle, const char *key) {
    struct entry *entry = find(handle, key);
    if (entry == NULL) {
        return ESP_ERR_NVS_NOT_FOUND;
    }
    entry->kind = EMPTY;
    return ESP_OK;
}
