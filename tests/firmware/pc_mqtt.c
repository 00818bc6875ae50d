/* esp-mqtt's interface on libmosquitto, for the board of board_main.c: a real client of a real broker. As esp-mqtt it
 * hands messages over in pieces, calls its handler with a lock held that everybody who sends waits for, and sends what
 * was not acknowledged again on the next connection. */
#include <mosquitto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mqtt_client.h"

#define PIECE_BYTES 1024

struct esp_mqtt_client {
    struct mosquitto *mosquitto;
    esp_mqtt_client_config_t config;
    char host[64];
    int port;
    esp_event_handler_t handler;
};

static struct esp_mqtt_client only;
static pthread_mutex_t lock;

static void hand_over(esp_mqtt_event_id_t id, esp_mqtt_event_t *event) {
    (void)pthread_mutex_lock(&lock);
    only.handler(NULL, "MQTT_EVENTS", id, event);
    (void)pthread_mutex_unlock(&lock);
}

static void on_connect(struct mosquitto *mosquitto, void *ctx, int code) {
    (void)mosquitto;
    (void)ctx;
    esp_mqtt_error_codes_t why = {.error_type = MQTT_ERROR_TYPE_CONNECTION_REFUSED,
                                  .connect_return_code = (esp_mqtt_connect_return_code_t)code};
    esp_mqtt_event_t event = {.error_handle = &why};
    hand_over(code == 0 ? MQTT_EVENT_CONNECTED : MQTT_EVENT_ERROR, &event);
}

static void on_disconnect(struct mosquitto *mosquitto, void *ctx, int code) {
    (void)mosquitto;
    (void)ctx;
    (void)code;
    esp_mqtt_event_t event = {.data_len = 0};
    hand_over(MQTT_EVENT_DISCONNECTED, &event);
}

static void on_subscribe(struct mosquitto *mosquitto, void *ctx, int id, int count, const int *granted) {
    (void)mosquitto;
    (void)ctx;
    (void)id;
    esp_mqtt_error_codes_t why = {.error_type = count == 1 && granted[0] < 0x80 ? MQTT_ERROR_TYPE_NONE
                                                                                : MQTT_ERROR_TYPE_SUBSCRIBE_FAILED};
    esp_mqtt_event_t event = {.error_handle = &why};
    hand_over(MQTT_EVENT_SUBSCRIBED, &event);
}

static void on_message(struct mosquitto *mosquitto, void *ctx, const struct mosquitto_message *message) {
    (void)mosquitto;
    (void)ctx;
    int at = 0;
    do {
        int left = message->payloadlen - at;
        esp_mqtt_event_t event = {.data = (char *)message->payload + at,
                                  .data_len = left < PIECE_BYTES ? left : PIECE_BYTES,
                                  .total_data_len = message->payloadlen,
                                  .current_data_offset = at,
                                  .topic = at == 0 ? message->topic : NULL,
                                  .topic_len = at == 0 ? (int)strlen(message->topic) : 0,
                                  .retain = message->retain};
        hand_over(MQTT_EVENT_DATA, &event);
        at += event.data_len;
    } while (at < message->payloadlen);
}

esp_mqtt_client_handle_t esp_mqtt_client_init(const esp_mqtt_client_config_t *config) {
    pthread_mutexattr_t recursive;
    (void)pthread_mutexattr_init(&recursive);
    (void)pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    (void)pthread_mutex_init(&lock, &recursive);
    only.config = *config;
    if (sscanf(config->broker.address.uri, "mqtt://%63[^:]:%d", only.host, &only.port) != 2 ||
        mosquitto_lib_init() != MOSQ_ERR_SUCCESS) {
        return NULL;
    }
    only.mosquitto = mosquitto_new(config->credentials.client_id, true, NULL);
    if (only.mosquitto == NULL) {
        return NULL;
    }
    mosquitto_connect_callback_set(only.mosquitto, on_connect);
    mosquitto_disconnect_callback_set(only.mosquitto, on_disconnect);
    mosquitto_subscribe_callback_set(only.mosquitto, on_subscribe);
    mosquitto_message_callback_set(only.mosquitto, on_message);
    (void)mosquitto_int_option(only.mosquitto, MOSQ_OPT_TCP_NODELAY, 1);
    (void)mosquitto_reconnect_delay_set(only.mosquitto, 1, 1, false);
    (void)mosquitto_will_set(only.mosquitto, config->session.last_will.topic,
                             (int)strlen(config->session.last_will.msg), config->session.last_will.msg,
                             config->session.last_will.qos, config->session.last_will.retain != 0);
    if (config->credentials.username != NULL) {
        (void)mosquitto_username_pw_set(only.mosquitto, config->credentials.username,
                                        config->credentials.authentication.password);
    }
    return &only;
}

/* Until the broker is there, and for ever after. */
static void *serve(void *arg) {
    (void)arg;
    while (mosquitto_connect(only.mosquitto, only.host, only.port, only.config.session.keepalive) != MOSQ_ERR_SUCCESS) {
        (void)usleep(200000);
    }
    (void)mosquitto_loop_forever(only.mosquitto, 1000, 1);
    return NULL;
}

esp_err_t esp_mqtt_client_start(esp_mqtt_client_handle_t client) {
    pthread_t thread;
    (void)mosquitto_threaded_set(client->mosquitto, true);
    return pthread_create(&thread, NULL, serve, NULL) == 0 ? ESP_OK : ESP_FAIL;
}

esp_err_t esp_mqtt_client_register_event(esp_mqtt_client_handle_t client, esp_mqtt_event_id_t event,
                                         esp_event_handler_t handler, void *arg) {
    client->handler = handler;
    return event == MQTT_EVENT_ANY && arg == NULL ? ESP_OK : ESP_ERR_INVALID_ARG;
}

int esp_mqtt_client_subscribe_single(esp_mqtt_client_handle_t client, const char *topic, int qos) {
    return mosquitto_subscribe(client->mosquitto, NULL, topic, qos) == MOSQ_ERR_SUCCESS ? 1 : -1;
}

int esp_mqtt_client_publish(esp_mqtt_client_handle_t client, const char *topic, const char *data, int len, int qos,
                            int retain) {
    (void)pthread_mutex_lock(&lock);
    int code = mosquitto_publish(client->mosquitto, NULL, topic, len != 0 ? len : (int)strlen(data), data, qos, retain);
    (void)pthread_mutex_unlock(&lock);
    return code == MOSQ_ERR_SUCCESS ? 1 : -1;
}

int esp_mqtt_client_enqueue(esp_mqtt_client_handle_t client, const char *topic, const char *data, int len, int qos,
                            int retain, bool store) {
    return store ? esp_mqtt_client_publish(client, topic, data, len, qos, retain) : -1;
}
