/* Downloads of images, by range requests. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "app.h"
#include "esp_crt_bundle.h"
#include "esp_http_client.h"
#include "esp_log.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "update.h"

static const char TAG[] = "fetch";

#define STACK_BYTES 10240 /* TLS */
#define PIECE_BYTES 2048
#define TIMEOUT_MS 10000
#define TRIES 5 /* in a row without a byte of progress */
#define PAUSE_MS 1000

static atomic_bool busy;
static atomic_int last_code = -1; /* of the last download that ended; -1: none did */
static uint32_t owner;
static char url[256];
static uint8_t wanted[TS_IMAGE_DIGEST];
static uint8_t piece[PIECE_BYTES];

static esp_http_client_handle_t request(uint32_t from, uint32_t to) {
    const struct settings *settings = app_settings();
    const bool own_ca = settings->mqtt_ca[0] != '\0';
    const bool tls = strncmp(url, "https://", 8) == 0;
    const esp_http_client_config_t config = {.url = url,
                                             .timeout_ms = TIMEOUT_MS,
                                             .cert_pem = tls && own_ca ? settings->mqtt_ca : NULL,
                                             .crt_bundle_attach = tls && !own_ca ? esp_crt_bundle_attach : NULL};
    esp_http_client_handle_t client = esp_http_client_init(&config);
    if (client == NULL) {
        return NULL;
    }
    char range[48];
    if (to == 0) {
        (void)snprintf(range, sizeof range, "bytes=%lu-", (unsigned long)from);
    } else {
        (void)snprintf(range, sizeof range, "bytes=%lu-%lu", (unsigned long)from, (unsigned long)(to - 1));
    }
    if (esp_http_client_set_header(client, "Range", range) != ESP_OK || esp_http_client_open(client, 0) != ESP_OK ||
        esp_http_client_fetch_headers(client) < 0) {
        (void)esp_http_client_cleanup(client);
        return NULL;
    }
    int status = esp_http_client_get_status_code(client);
    if (status != 206 && !(status == 200 && from == 0)) {
        ESP_LOGW(TAG, "the server answers %d to a range request", status);
        (void)esp_http_client_cleanup(client);
        return NULL;
    }
    return client;
}

/* Reads exactly len bytes. */
static bool read_all(esp_http_client_handle_t client, uint8_t *out, int len) {
    for (int got = 0; got < len;) {
        int n = esp_http_client_read(client, (char *)out + got, len - got);
        if (n <= 0) {
            return false;
        }
        got += n;
    }
    return true;
}

static int begin(uint32_t *offset) {
    uint8_t header[TS_IMAGE_HEADER];
    esp_http_client_handle_t client = request(0, TS_IMAGE_HEADER);
    bool read = client != NULL && read_all(client, header, sizeof header);
    if (client != NULL) {
        (void)esp_http_client_cleanup(client);
    }
    const struct update_sender sender = {.owner = owner};
    return read ? update_begin(&sender, header, wanted, offset) : TS_E_PEER_LOST;
}

/* Takes what one connection gives. */
static int take(uint32_t *offset, uint32_t bytes) {
    esp_http_client_handle_t client = request(*offset, 0);
    if (client == NULL) {
        return TS_E_PEER_LOST;
    }
    int code = TS_OK;
    while (code == TS_OK && *offset < bytes) {
        uint32_t left = bytes - *offset;
        int n = esp_http_client_read(client, (char *)piece, (int)(left < sizeof piece ? left : sizeof piece));
        code = n > 0 ? update_write(owner, *offset, piece, (uint32_t)n, offset) : TS_E_PEER_LOST;
    }
    (void)esp_http_client_cleanup(client);
    return code;
}

static int fetch(void) {
    uint32_t offset = 0;
    int code = TS_E_PEER_LOST;
    for (int tries = 0; tries < TRIES && code == TS_E_PEER_LOST; tries++) {
        if (tries > 0) {
            vTaskDelay(pdMS_TO_TICKS(PAUSE_MS));
        }
        code = begin(&offset);
    }
    if (code != TS_OK) {
        return code;
    }
    uint32_t bytes = update_state().bytes;
    for (int tries = 0; tries < TRIES && offset < bytes; tries++) {
        uint32_t before = offset;
        code = take(&offset, bytes);
        if (code != TS_OK && code != TS_E_PEER_LOST) {
            return code;
        }
        if (offset > before) {
            tries = -1;
        }
        if (offset < bytes) {
            vTaskDelay(pdMS_TO_TICKS(PAUSE_MS));
        }
    }
    return offset == bytes ? update_finish(owner) : TS_E_PEER_LOST;
}

/* Not in the watchdog's care: esp_http_client waits for each byte by itself, up to TIMEOUT_MS, until it has all the
 * headers or all that was asked for. A server that trickles would reset the board. */
static void fetch_task(void *arg) {
    (void)arg;
    char fields[96];
    int code = fetch();
    (void)snprintf(fields, sizeof fields, "\"code\":\"%s\",\"offset\":%lu", ts_error_name((unsigned)code),
                   (unsigned long)update_state().offset);
    atomic_store(&last_code, code);
    control_event("update", fields);
    atomic_store(&busy, false);
    vTaskDelete(NULL);
}

int update_fetch(uint32_t sender, const char *from, const uint8_t digest[TS_IMAGE_DIGEST]) {
    if ((strncmp(from, "http://", 7) != 0 && strncmp(from, "https://", 8) != 0) || strlen(from) >= sizeof url) {
        return TS_E_INVALID;
    }
    int code = update_check(sender);
    if (code != TS_OK) {
        return code;
    }
    if (atomic_exchange(&busy, true)) {
        return TS_E_BUSY;
    }
    owner = sender;
    memcpy(url, from, strlen(from) + 1);
    memcpy(wanted, digest, sizeof wanted);
    if (xTaskCreatePinnedToCore(fetch_task, "fetch", STACK_BYTES, NULL, APP_CONTROL_PRIORITY, NULL, APP_RADIO_CORE) !=
        pdPASS) {
        atomic_store(&busy, false);
        return TS_E_NO_MEMORY;
    }
    return TS_OK;
}

const char *update_fetch_state(void) {
    int code = atomic_load(&last_code);
    return atomic_load(&busy) ? "busy" : code < 0 ? NULL : ts_error_name((unsigned)code);
}
