#include "mqtt.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "cJSON.h"
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
#define COMMANDS 2 /* one being carried out, and the next */
/* Of kept answers, with PSRAM and without. */
#define ANSWERS_BYTES 16384u
#define ANSWERS_BYTES_INTERNAL 4096u

static esp_mqtt_client_handle_t client;
static atomic_bool up;
static char command_topic[TOPIC_BYTES], reply_topic[TOPIC_BYTES], telemetry_topic[TOPIC_BYTES],
    status_topic[TOPIC_BYTES];
/* Commands that were read, and the one that is. esp-mqtt calls on_event with its own lock held, which everybody who
 * sends waits for: so commands are carried out elsewhere, and nothing is waited for here. */
static struct large {
    struct line commands[COMMANDS];
    struct once once;
} *large; /* in PSRAM where there is some */
static char *answers;
static size_t answers_bytes;
static atomic_bool used[COMMANDS]; /* PSRAM has no atomic operations */
static int reading = -1;           /* which the message is whose pieces come; -1: none, or there is no room */
static _Atomic uint32_t retained;

static void carry_out(void *arg) {
    struct line *command = arg;
    control_line(CONTROL_MQTT, command);
    line_clear(command);
    atomic_store(&used[command - large->commands], false);
}

static void let_go(void) {
    if (reading >= 0) {
        line_clear(&large->commands[reading]);
        atomic_store(&used[reading], false);
        reading = -1;
    }
}

static void begin(const esp_mqtt_event_t *event) {
    let_go(); /* of one that broke off */
    if (event->topic_len != (int)strlen(command_topic) ||
        memcmp(event->topic, command_topic, (size_t)event->topic_len) != 0) {
        return;
    }
    if (event->retain) {
        /* Retained commands are of the past: whoever set them does not wait for them. */
        (void)atomic_fetch_add(&retained, 1);
        ESP_LOGW(TAG, "a retained command is ignored");
        return;
    }
    for (int i = 0; i < COMMANDS && reading < 0; i++) {
        if (!atomic_exchange(&used[i], true)) {
            reading = i;
        }
    }
    if (reading < 0) {
        ESP_LOGW(TAG, "a command is left out: others wait"); /* whoever waits for an answer sends it again */
    }
}

static void piece(const esp_mqtt_event_t *event) {
    if (event->current_data_offset == 0) {
        begin(event);
    }
    if (reading < 0) {
        return;
    }
    struct line *line = &large->commands[reading];
    for (int i = 0; i < event->data_len; i++) {
        uint8_t byte = (uint8_t)event->data[i];
        (void)line_byte(line, byte == '\n' ? ' ' : byte);
    }
    if (event->current_data_offset + event->data_len < event->total_data_len) {
        return;
    }
    if (line_byte(line, '\n') && control_defer(carry_out, line)) {
        reading = -1; /* it is the control task's now */
    }
    let_go();
}

/* What went wrong with the connection. */
static void complain(const esp_mqtt_error_codes_t *why) {
    if (why->error_type == MQTT_ERROR_TYPE_CONNECTION_REFUSED) {
        ESP_LOGE(TAG, "the broker refuses us (code %d): name or password?", (int)why->connect_return_code);
    } else if (why->esp_tls_cert_verify_flags != 0) {
        ESP_LOGE(TAG, "the broker's certificate is not to be trusted (flags 0x%x)",
                 (unsigned)why->esp_tls_cert_verify_flags);
    } else {
        ESP_LOGW(TAG, "connection failed: %s", esp_err_to_name(why->esp_tls_last_esp_err));
    }
}

/* Commands can come now. */
static void say_online(void) {
    char *status = control_status();
    if (status != NULL) {
        (void)esp_mqtt_client_publish(client, status_topic, status, 0, 1, 1);
    }
    cJSON_free(status);
}

static void on_event(void *arg, esp_event_base_t base, int32_t id, void *data) {
    (void)arg;
    (void)base;
    const esp_mqtt_event_t *event = data;
    switch ((esp_mqtt_event_id_t)id) {
    case MQTT_EVENT_CONNECTED:
        (void)esp_mqtt_client_subscribe_single(client, command_topic, 1);
        atomic_store(&up, true);
        break;
    case MQTT_EVENT_SUBSCRIBED:
        if (event->error_handle != NULL && event->error_handle->error_type == MQTT_ERROR_TYPE_SUBSCRIBE_FAILED) {
            ESP_LOGE(TAG, "the broker does not let us read %s: not authorized", command_topic);
        } else {
            say_online();
        }
        break;
    case MQTT_EVENT_DISCONNECTED:
        atomic_store(&up, false);
        let_go();
        break;
    case MQTT_EVENT_DATA:
        piece(event);
        break;
    case MQTT_EVENT_ERROR:
        if (event->error_handle != NULL) {
            complain(event->error_handle);
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
    if (large == NULL) {
        large = heap_caps_calloc_prefer(1, sizeof *large, 2, MALLOC_CAP_SPIRAM | MALLOC_CAP_8BIT, MALLOC_CAP_DEFAULT);
        answers = heap_caps_calloc_prefer(1, ANSWERS_BYTES, 1, MALLOC_CAP_SPIRAM | MALLOC_CAP_8BIT);
        answers_bytes = answers != NULL ? ANSWERS_BYTES : ANSWERS_BYTES_INTERNAL;
        answers = answers != NULL ? answers : heap_caps_calloc_prefer(1, answers_bytes, 1, MALLOC_CAP_DEFAULT);
    }
    if (large == NULL) {
        return ESP_ERR_NO_MEM;
    }
    for (unsigned i = 0; i < COMMANDS; i++) {
        line_init(&large->commands[i], &control_sink);
        atomic_store(&used[i], false);
    }
    reading = -1;
    once_init(&large->once, answers, answers != NULL ? answers_bytes : 0);
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
        /* Twice the timeout is what the control task may wait to send while a connection is tried: below the
         * watchdog's. */
        .network = {.reconnect_timeout_ms = 3000, .timeout_ms = 5000},
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

struct once *mqtt_once(void) {
    return large != NULL ? &large->once : NULL;
}

uint32_t mqtt_retained(void) {
    return atomic_load(&retained);
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
