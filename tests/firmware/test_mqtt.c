/* The control plane over MQTT against a client whose events the test makes. */
#include "../core/check.h"
#include "control.h"
#include "esp_crt_bundle.h"
#include "esp_heap_caps.h"
#include "fake_chip.h"
#include "line.h"
#include "mqtt.h"
#include "mqtt_client.h"

/* --- what the client was told --- */

static struct {
    esp_mqtt_client_config_t config;
    esp_event_handler_t handler;
    int started;
    char subscribed[80];
    int subscriptions;
    char published[8][120]; /* "topic qos retain data" */
    int publications;
    char enqueued[8][120];
    int enqueues;
} broker;

esp_err_t esp_crt_bundle_attach(void *config) {
    (void)config;
    return ESP_OK;
}
esp_mqtt_client_handle_t esp_mqtt_client_init(const esp_mqtt_client_config_t *config) {
    broker.config = *config;
    return strncmp(config->broker.address.uri, "mqtt", 4) == 0 ? (esp_mqtt_client_handle_t)&broker : NULL;
}
esp_err_t esp_mqtt_client_start(esp_mqtt_client_handle_t client) {
    assert_ptr_equal(client, &broker);
    broker.started++;
    return ESP_OK;
}
esp_err_t esp_mqtt_client_register_event(esp_mqtt_client_handle_t client, esp_mqtt_event_id_t event,
                                         esp_event_handler_t handler, void *arg) {
    assert_true(client != NULL && event == MQTT_EVENT_ANY && arg == NULL);
    broker.handler = handler;
    return ESP_OK;
}
int esp_mqtt_client_subscribe_single(esp_mqtt_client_handle_t client, const char *topic, int qos) {
    assert_true(client != NULL && qos == 1);
    (void)snprintf(broker.subscribed, sizeof broker.subscribed, "%s", topic);
    return ++broker.subscriptions;
}
int esp_mqtt_client_publish(esp_mqtt_client_handle_t client, const char *topic, const char *data, int len, int qos,
                            int retain) {
    assert_true(client != NULL && len == 0 && broker.publications < 8);
    (void)snprintf(broker.published[broker.publications++], 120, "%s %d %d %s", topic, qos, retain, data);
    return 1;
}
int esp_mqtt_client_enqueue(esp_mqtt_client_handle_t client, const char *topic, const char *data, int len, int qos,
                            int retain, bool store) {
    assert_true(client != NULL && len == 0 && store && broker.enqueues < 8);
    (void)snprintf(broker.enqueued[broker.enqueues++], 120, "%s %d %d %s", topic, qos, retain, data);
    return 1;
}

/* --- control.c --- */

static char heard[8][160];
static int heard_count;
static uint8_t problem;
static uint8_t tensors[64];
static bool tensors_used;

void control_line(unsigned source, struct line *line) {
    assert_int_equal(source, CONTROL_MQTT);
    assert_true(heard_count < 8);
    problem = line->problem;
    (void)snprintf(heard[heard_count++], sizeof heard[0], "%.150s", line->text);
}
static uint8_t *take(uint32_t *cap) {
    assert_false(tensors_used);
    tensors_used = true;
    *cap = sizeof tensors;
    return tensors;
}
static void (*deferred[8])(void *arg);
static void *deferred_arg[8];
static int deferred_count, room_for = 8;

bool control_defer(void (*function)(void *arg), void *arg) {
    if (deferred_count >= room_for) {
        return false;
    }
    deferred[deferred_count] = function;
    deferred_arg[deferred_count++] = arg;
    return true;
}

/* The control task gets its turn. */
static void carry_out(void) {
    for (int i = 0; i < deferred_count; i++) {
        deferred[i](deferred_arg[i]);
    }
    deferred_count = 0;
}

char *control_status(void) {
    return strdup("{\"online\":true,\"boot\":\"0123456789abcdef\"}");
}
void cJSON_free(void *block) {
    free(block);
}

static void give(uint8_t *buffer) {
    assert_ptr_equal(buffer, tensors);
    tensors_used = false;
}
const struct line_sink control_sink = {.take = take, .give = give};

/* --- the test's side --- */

static struct settings settings;

static void event(esp_mqtt_event_id_t id, esp_mqtt_event_t *data) {
    esp_mqtt_event_t none = {.data_len = 0};
    broker.handler(NULL, "MQTT", id, data != NULL ? data : &none);
}

/* A message as the client hands it over: in pieces of what fits into its buffer; only the first has the topic. */
static void deliver(const char *topic, const char *text, int piece, bool retained) {
    int total = (int)strlen(text);
    for (int at = 0; at < total; at += piece) {
        esp_mqtt_event_t data = {.data = (char *)text + at,
                                 .data_len = total - at < piece ? total - at : piece,
                                 .total_data_len = total,
                                 .current_data_offset = at,
                                 .topic = at == 0 ? (char *)topic : NULL,
                                 .topic_len = at == 0 ? (int)strlen(topic) : 0,
                                 .retain = retained};
        event(MQTT_EVENT_DATA, &data);
    }
}

/* Likewise, and it is carried out. */
static void tell(const char *topic, const char *text, int piece, bool retained) {
    deliver(topic, text, piece, retained);
    carry_out();
}

static void come_up(void) {
    event(MQTT_EVENT_CONNECTED, NULL);
    event(MQTT_EVENT_SUBSCRIBED, NULL);
}

static int set_up(void **state) {
    (void)state;
    memset(&broker, 0, sizeof broker);
    heard_count = deferred_count = 0;
    room_for = 8;
    settings = (struct settings){.name = "kitchen", .mqtt_url = "mqtt://10.0.0.1:1883"};
    return mqtt_start(&settings);
}

static void topics_and_the_last_will_have_the_name(void **state) {
    (void)state;
    assert_int_equal(broker.started, 1);
    assert_string_equal(broker.config.session.last_will.topic, "tinysplit/kitchen/status");
    assert_string_equal(broker.config.session.last_will.msg, "{\"online\":false}");
    assert_int_equal(broker.config.session.last_will.retain, 1);
    assert_int_equal(broker.config.session.last_will.qos, 1);
    assert_true(broker.config.network.reconnect_timeout_ms > 0 && broker.config.network.timeout_ms > 0);
    event(MQTT_EVENT_CONNECTED, NULL);
    assert_string_equal(broker.subscribed, "tinysplit/kitchen/cmd");
    assert_int_equal(broker.publications, 0); /* online is who can be commanded */
    event(MQTT_EVENT_SUBSCRIBED, NULL);
    assert_string_equal(broker.published[0],
                        "tinysplit/kitchen/status 1 1 {\"online\":true,\"boot\":\"0123456789abcdef\"}");
    mqtt_reply("{\"id\":1}");
    assert_string_equal(broker.enqueued[0], "tinysplit/kitchen/reply 1 0 {\"id\":1}");
    mqtt_telemetry("{\"event\":\"telemetry\"}");
    assert_string_equal(broker.enqueued[1], "tinysplit/kitchen/telemetry 0 0 {\"event\":\"telemetry\"}");
}

static void it_subscribes_again_after_each_connection(void **state) {
    (void)state;
    for (int i = 1; i <= 3; i++) {
        come_up();
        assert_true(mqtt_is_up());
        assert_int_equal(broker.subscriptions, i);
        assert_int_equal(broker.publications, i); /* the will may have said that it is gone */
        event(MQTT_EVENT_DISCONNECTED, NULL);
        assert_false(mqtt_is_up());
    }
    mqtt_telemetry("{}"); /* nobody reads it, and it would be old */
    assert_int_equal(broker.enqueues, 0);
    mqtt_reply("{}"); /* an answer waits */
    assert_int_equal(broker.enqueues, 1);
}

static void commands_may_come_in_pieces(void **state) {
    (void)state;
    const char *command = "{\"id\":\"a\",\n \"cmd\":\"info\"}";
    for (int piece = 1; piece <= 30; piece += 7) {
        heard_count = 0;
        tell("tinysplit/kitchen/cmd", command, piece, false);
        assert_int_equal(heard_count, 1);
        assert_string_equal(heard[0], "{\"id\":\"a\",  \"cmd\":\"info\"}"); /* line ends are blanks here */
        assert_int_equal(problem, LINE_FINE);
    }
    tell("tinysplit/kitchen/cmd", "{\"id\":1}\n", 64, false);
    assert_string_equal(heard[heard_count - 1], "{\"id\":1} ");
}

static void who_may_not_read_commands_is_not_online(void **state) {
    (void)state;
    esp_mqtt_error_codes_t why = {.error_type = MQTT_ERROR_TYPE_SUBSCRIBE_FAILED};
    esp_mqtt_event_t data = {.error_handle = &why};
    fake_log[0] = '\0';
    event(MQTT_EVENT_CONNECTED, NULL);
    event(MQTT_EVENT_SUBSCRIBED, &data);
    assert_int_equal(broker.publications, 0);
    assert_non_null(strstr(fake_log, "not authorized"));
    why.error_type = MQTT_ERROR_TYPE_NONE;
    event(MQTT_EVENT_SUBSCRIBED, &data);
    assert_int_equal(broker.publications, 1);
}

/* esp-mqtt holds its lock meanwhile: nothing is carried out here, and nothing waited for. */
static void one_command_waits_while_another_is_carried_out(void **state) {
    (void)state;
    deliver("tinysplit/kitchen/cmd", "{\"id\":1}", 64, false);
    deliver("tinysplit/kitchen/cmd", "{\"id\":2}", 3, false);
    deliver("tinysplit/kitchen/cmd", "{\"id\":3}", 3, false); /* left out: it is sent again */
    assert_int_equal(heard_count, 0);
    carry_out();
    assert_int_equal(heard_count, 2);
    assert_string_equal(heard[0], "{\"id\":1}");
    assert_string_equal(heard[1], "{\"id\":2}");
    tell("tinysplit/kitchen/cmd", "{\"id\":3}", 64, false);
    assert_int_equal(heard_count, 3);
    room_for = 0; /* the control task's queue is full */
    deliver("tinysplit/kitchen/cmd", "{\"tensors\":[\"AAAA\"]}", 5, false);
    assert_false(tensors_used);
    room_for = 8;
    for (int i = 0; i < 3; i++) {
        tell("tinysplit/kitchen/cmd", "{\"id\":4}", 64, false);
    }
    assert_int_equal(heard_count, 6);
}

static void what_is_retained_or_for_others_is_left_alone(void **state) {
    (void)state;
    uint32_t before = mqtt_retained();
    tell("tinysplit/kitchen/cmd", "{\"id\":1,\"cmd\":\"reboot\"}", 7, true);
    tell("tinysplit/kitchen/cmdx", "{\"id\":1}", 64, false);
    tell("tinysplit/kitche/cmd", "{\"id\":1}", 64, false);
    assert_int_equal(heard_count, 0);
    assert_int_equal(mqtt_retained(), before + 1);
    tell("tinysplit/kitchen/cmd", "{\"id\":2}", 64, false);
    assert_int_equal(heard_count, 1);
    assert_int_equal(mqtt_retained(), before + 1);
}

static void a_message_that_breaks_off_leaves_nothing(void **state) {
    (void)state;
    char topic[] = "tinysplit/kitchen/cmd";
    char half[] = "{\"id\":9,\"cmd\":\"ru";
    esp_mqtt_event_t data = {
        .data = half, .data_len = 17, .total_data_len = 40, .topic = topic, .topic_len = (int)strlen(topic)};
    event(MQTT_EVENT_DATA, &data);
    event(MQTT_EVENT_DISCONNECTED, NULL);
    come_up();
    tell("tinysplit/kitchen/cmd", "{\"id\":3}", 64, false);
    assert_int_equal(heard_count, 1);
    assert_string_equal(heard[0], "{\"id\":3}");
}

static void a_line_that_is_too_long_is_named(void **state) {
    (void)state;
    static char large[LINE_TEXT + 100];
    memset(large, ' ', sizeof large - 1);
    tell("tinysplit/kitchen/cmd", large, 1024, false);
    assert_int_equal(heard_count, 1);
    assert_int_equal(problem, LINE_TOO_LONG);
    tell("tinysplit/kitchen/cmd", "{\"tensors\":[\"AAAA\"]}", 5, false);
    assert_int_equal(problem, LINE_FINE);
    assert_false(tensors_used); /* nobody took them over: they were given back */
}

static void a_broker_that_refuses_is_named_without_the_password(void **state) {
    (void)state;
    strcpy(settings.mqtt_user, "anna");
    strcpy(settings.mqtt_password, "sesam-oeffne");
    assert_int_equal(mqtt_start(&settings), ESP_OK);
    assert_string_equal(broker.config.credentials.authentication.password, "sesam-oeffne");
    esp_mqtt_error_codes_t why = {.error_type = MQTT_ERROR_TYPE_CONNECTION_REFUSED, .connect_return_code = 5};
    esp_mqtt_event_t data = {.error_handle = &why};
    fake_log[0] = '\0';
    event(MQTT_EVENT_ERROR, &data);
    assert_non_null(strstr(fake_log, "name or password"));
    assert_null(strstr(fake_log, "sesam"));
    event(MQTT_EVENT_ERROR, NULL);
    why = (esp_mqtt_error_codes_t){.esp_tls_cert_verify_flags = 8};
    event(MQTT_EVENT_ERROR, &data);
    assert_non_null(strstr(fake_log, "certificate is not to be trusted (flags 0x8)"));
}

static void tls_checks_the_broker(void **state) {
    (void)state;
    strcpy(settings.mqtt_url, "mqtts://broker.example:8883");
    assert_int_equal(mqtt_start(&settings), ESP_OK);
    assert_non_null(broker.config.broker.verification.crt_bundle_attach);
    assert_null(broker.config.broker.verification.certificate);
    strcpy(settings.mqtt_ca, "-----BEGIN CERTIFICATE-----");
    assert_int_equal(mqtt_start(&settings), ESP_OK);
    assert_null(broker.config.broker.verification.crt_bundle_attach);
    assert_ptr_equal(broker.config.broker.verification.certificate, settings.mqtt_ca);
    strcpy(settings.mqtt_url, "mqtt://broker.example");
    assert_int_equal(mqtt_start(&settings), ESP_OK);
    assert_null(broker.config.broker.verification.certificate);
}

static void without_a_url_nothing_starts(void **state) {
    (void)state;
    memset(&broker, 0, sizeof broker);
    settings.mqtt_url[0] = '\0';
    assert_int_equal(mqtt_start(&settings), ESP_OK);
    assert_int_equal(broker.started, 0);
}

/* The first of all: what was allocated once stays. */
static void without_memory_it_says_so(void **state) {
    (void)state;
    strcpy(settings.mqtt_url, "mqtt://x");
    fake_memory_limit = 16;
    assert_int_equal(mqtt_start(&settings), ESP_ERR_NO_MEM);
    assert_int_equal(broker.started, 0);
    fake_memory_limit = SIZE_MAX;
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup(name, set_up)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_memory_it_says_so),
        TEST(topics_and_the_last_will_have_the_name),
        TEST(it_subscribes_again_after_each_connection),
        TEST(commands_may_come_in_pieces),
        TEST(who_may_not_read_commands_is_not_online),
        TEST(one_command_waits_while_another_is_carried_out),
        TEST(what_is_retained_or_for_others_is_left_alone),
        TEST(a_message_that_breaks_off_leaves_nothing),
        TEST(a_line_that_is_too_long_is_named),
        TEST(a_broker_that_refuses_is_named_without_the_password),
        TEST(tls_checks_the_broker),
        TEST(without_a_url_nothing_starts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
