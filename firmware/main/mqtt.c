#include "mqtt.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "control.h"
#include "esp_crt_bundle.h"
#include "esp_heap_caps.h"
#include "esp_log.h"
#include "line.h"
#include "mqtt_client.h"

static const char TAG[] = "mqtt";

#define TOPIC_BYTES 64
#define STACK_BYTES 8192
#define OFFLINE "{\"online\":false}"
#define ONLINE "{\"online\":true}"

static esp_mqtt_client_handle_t client;
static atomic_bool up;
static char command_topic[TOPIC_BYTES], reply_topic[TOPIC_BYTES], telemetry_topic[TOPIC_BYTES],
    status_topic[TOPIC_BYTES];
static struct line *line; /* in PSRAM where there is some */
static bool ours;         /* the message whose pieces come is a command */

static void piece(const esp_mqtt_event_t *event) {
    if (event->current_data_offset == 0) {
        line_clear(line);
        /* Retained commands are of the past: whoever set them does not wait for them. */
        ours = !event->retain && event->topic_len == (int)strlen(command_topic) &&
               memcmp(event->topic, command_topic, (size_t)event->topic_len) == 0;
    }
    bool whole = false;
    for (int i = 0; ours && i < event->data_len; i++) {
        uint8_t byte = (uint8_t)event->data[i];
        whole = line_byte(line, byte == '\n' ? ' ' : byte);
    }
    if (ours && event->current_data_offset + event->data_len >= event->total_data_len) {
        whole = line_byte(line, '\n');
        if (whole) {
            control_line(CONTROL_MQTT, line);
        }
        line_clear(line);
        ours = false;
    }
}

static void on_event(void *arg, esp_event_base_t base, int32_t id, void *data) {
    (void)arg;
    (void)base;
    const esp_mqtt_event_t *event = data;
    switch ((esp_mqtt_event_id_t)id) {
    case MQTT_EVENT_CONNECTED:
        (void)esp_mqtt_client_subscribe_single(client, command_topic, 1);
        (void)esp_mqtt_client_publish(client, status_topic, ONLINE, 0, 1, 1);
        atomic_store(&up, true);
        break;
    case MQTT_EVENT_DISCONNECTED:
        atomic_store(&up, false);
        break;
    case MQTT_EVENT_DATA:
        piece(event);
        break;
    case MQTT_EVENT_ERROR:
        if (event->error_handle != NULL && event->error_handle->error_type == MQTT_ERROR_TYPE_CONNECTION_REFUSED) {
            ESP_LOGE(TAG, "the broker refuses us (code %d): name or password?",
                     (int)event->error_handle->connect_return_code);
        } else if (event->error_handle != NULL) {
            ESP_LOGW(TAG, "connection failed: %s", esp_err_to_name(event->error_handle->esp_tls_last_esp_err));
        }
        break;
    default:
        break;
    }
}

static void topic(char *out, const char *name, const char *what) {
    (void)snprintf(out, TOPIC_BYTES, "tinysplit/%.32s/%s", name, what);
}

int mqtt_start(const struct settings *settings) {
    if (settings->mqtt_url[0] == '\0') {
        return ESP_OK;
    }
    if (line == NULL) {
        line = heap_caps_calloc_prefer(1, sizeof *line, 2, MALLOC_CAP_SPIRAM | MALLOC_CAP_8BIT, MALLOC_CAP_DEFAULT);
    }
    if (line == NULL) {
        return ESP_ERR_NO_MEM;
    }
    line_init(line, &control_sink);
    topic(command_topic, settings->name, "cmd");
    topic(reply_topic, settings->name, "reply");
    topic(telemetry_topic, settings->name, "telemetry");
    topic(status_topic, settings->name, "status");
    const bool tls = strncmp(settings->mqtt_url, "mqtts://", 8) == 0;
    const bool own_ca = settings->mqtt_ca[0] != '\0';
    const esp_mqtt_client_config_t config = {
        .broker = {.address = {.uri = settings->mqtt_url},
                   .verification = {.certificate = tls && own_ca ? settings->mqtt_ca : NULL,
                                    .crt_bundle_attach = tls && !own_ca ? esp_crt_bundle_attach : NULL}},
        .credentials = {.username = settings->mqtt_user[0] != '\0' ? settings->mqtt_user : NULL,
                        .client_id = settings->name,
                        .authentication = {.password =
                                               settings->mqtt_password[0] != '\0' ? settings->mqtt_password : NULL}},
        .session = {.last_will = {.topic = status_topic, .msg = OFFLINE, .qos = 1, .retain = 1}, .keepalive = 15},
        .network = {.reconnect_timeout_ms = 3000, .timeout_ms = 10000},
        .task = {.priority = 5, .stack_size = STACK_BYTES},
        .buffer = {.size = 1024, .out_size = 2048},
        .outbox = {.limit = 32768}};
    client = esp_mqtt_client_init(&config);
    if (client == NULL) {
        return ESP_ERR_INVALID_ARG;
    }
    esp_err_t code = esp_mqtt_client_register_event(client, ESP_EVENT_ANY_ID, on_event, NULL);
    return code == ESP_OK ? esp_mqtt_client_start(client) : code;
}

bool mqtt_is_up(void) {
    return atomic_load(&up);
}

void mqtt_reply(const char *text) {
    if (client != NULL) {
        /* Queued: never waits for the network. */
        (void)esp_mqtt_client_enqueue(client, reply_topic, text, 0, 1, 0, true);
    }
}

void mqtt_telemetry(const char *text) {
    if (mqtt_is_up()) {
        (void)esp_mqtt_client_enqueue(client, telemetry_topic, text, 0, 0, 0, true);
    }
}
