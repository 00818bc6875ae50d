#include "fake_chip.h"

#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "esp_app_desc.h"
#include "esp_heap_caps.h"
#include "esp_log.h"
#include "esp_rom_crc.h"
#include "esp_system.h"
#include "freertos/FreeRTOS.h"

bool fake_psram = true;
size_t fake_memory_limit = SIZE_MAX;
void (*fake_restart)(void);
int fake_reset_reason = ESP_RST_POWERON;
char fake_log[512];

/* --- log --- */

static vprintf_like_t log_function;

vprintf_like_t esp_log_set_vprintf(vprintf_like_t function) {
    vprintf_like_t before = log_function;
    log_function = function;
    return before;
}

static int to_log(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int n = log_function != NULL ? log_function(format, arguments)
                                 : vsnprintf(fake_log, sizeof fake_log, format, arguments);
    va_end(arguments);
    return n;
}

void esp_log_write(esp_log_level_t level, const char *tag, const char *format, ...) {
    static const char letters[] = "NEWIDV";
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    (void)to_log("%c (0) %s: %s\n", letters[level], tag, text);
}

/* --- errors --- */

const char *esp_err_to_name(esp_err_t code) {
    return code == ESP_OK ? "ESP_OK" : code == ESP_ERR_NO_MEM ? "ESP_ERR_NO_MEM" : "ESP_ERR";
}

void _esp_error_check_failed(esp_err_t code, const char *file, int line, const char *function, const char *expression) {
    (void)fprintf(stderr, "%s:%d %s: %s is 0x%x\n", file, line, function, expression, (unsigned)code);
    abort();
}

/* --- memory --- */

static bool can_be_had(size_t bytes, uint32_t caps) {
    return bytes <= fake_memory_limit && ((caps & MALLOC_CAP_SPIRAM) == 0 || fake_psram);
}

void *heap_caps_aligned_calloc(size_t alignment, size_t count, size_t size, uint32_t caps) {
    size_t bytes = (count * size + alignment - 1) / alignment * alignment;
    void *block = can_be_had(bytes, caps) ? aligned_alloc(alignment, bytes) : NULL;
    if (block != NULL) {
        memset(block, 0, bytes);
    }
    return block;
}

void *heap_caps_calloc_prefer(size_t count, size_t size, size_t choices, ...) {
    va_list capabilities;
    void *block = NULL;
    va_start(capabilities, choices);
    for (size_t i = 0; block == NULL && i < choices; i++) {
        if (can_be_had(count * size, va_arg(capabilities, uint32_t))) {
            block = calloc(count, size);
        }
    }
    va_end(capabilities);
    return block;
}

void heap_caps_free(void *block) {
    free(block);
}

size_t heap_caps_get_free_size(uint32_t caps) {
    return (caps & MALLOC_CAP_SPIRAM) != 0 && !fake_psram ? 0 : 4u << 20;
}

size_t heap_caps_get_minimum_free_size(uint32_t caps) {
    return heap_caps_get_free_size(caps) / 2;
}

/* --- the chip --- */

static pthread_mutex_t critical;
static pthread_once_t critical_once = PTHREAD_ONCE_INIT;

static void make_critical(void) {
    pthread_mutexattr_t nested;
    pthread_mutexattr_init(&nested);
    pthread_mutexattr_settype(&nested, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&critical, &nested);
}

void vPortEnterCritical(portMUX_TYPE *mux) {
    (void)mux;
    pthread_once(&critical_once, make_critical);
    pthread_mutex_lock(&critical);
}

void vPortExitCritical(portMUX_TYPE *mux) {
    (void)mux;
    pthread_mutex_unlock(&critical);
}

const esp_app_desc_t *esp_app_get_description(void) {
    static const esp_app_desc_t description = {.version = "1.2.3", .idf_ver = "v5.5"};
    return &description;
}

esp_reset_reason_t esp_reset_reason(void) {
    return (esp_reset_reason_t)fake_reset_reason;
}

void esp_restart(void) {
    if (fake_restart != NULL) {
        fake_restart();
    }
    abort();
}

/* As the ROM's: the running value goes in and comes out complemented. */
uint32_t esp_rom_crc32_le(uint32_t crc, const uint8_t *data, uint32_t len) {
    crc = ~crc;
    for (uint32_t i = 0; i < len; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1u)));
        }
    }
    return ~crc;
}

uint16_t esp_rom_crc16_be(uint16_t crc, const uint8_t *data, uint32_t len) {
    uint32_t value = (uint16_t)~crc;
    for (uint32_t i = 0; i < len; i++) {
        value ^= (uint32_t)data[i] << 8;
        for (int bit = 0; bit < 8; bit++) {
            value = (value << 1 ^ (0x1021u & (0u - (value >> 15 & 1u)))) & 0xFFFFu;
        }
    }
    return (uint16_t)~value;
}
