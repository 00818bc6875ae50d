#include "control.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ble.h"
#include "cJSON.h"
#include "console.h"
#include "esp_app_desc.h"
#include "esp_heap_caps.h"
#include "esp_log.h"
#include "esp_random.h"
#include "esp_system.h"
#include "esp_task_wdt.h"
#include "flash.h"
#include "freertos/FreeRTOS.h"
#include "freertos/queue.h"
#include "freertos/semphr.h"
#include "freertos/task.h"
#include "mbedtls/base64.h"
#include "mqtt.h"
#include "once.h"
#include "sdkconfig.h"
#include "telemetry.h"
#include "tinysplit/message.h"
#include "update.h"

static const char TAG[] = "control";

#define VERSION 1 /* of what `info` answers, as virtual boards */
#define STACK_BYTES 8192
#define ID_BYTES 72
#define MESSAGE_BYTES 192
#define LOCK_WAIT_S 310 /* a self-test may take long */
#define TIMEOUT_MAX_MS 600000
#define BLOCK_BYTES 3072 /* of an update, in one command */

#define DEEPEST 8     /* nesting of a command's JSON */
#define BOOT_BYTES 17 /* 16 hexadecimal digits */

#if CONFIG_TINYSPLIT_OPENETH
#define KIND "emulated"
#else
#define KIND "board"
#endif

static const char *const commands[] = {
    "info",         "configure",      "run",          "stats",       "abort",         "reboot",          "selftest",
    "profile",      "telemetry",      "update_begin", "update_data", "update_finish", "update_activate", "update_abort",
    "update_fetch", "update_release", "public_key"};

/* A command being dealt with. */
struct command {
    unsigned source;
    const cJSON *id;
    const cJSON *json;
    struct line *line;
};

/* `run` commands whose end is awaited. */
struct waiting {
    bool used;
    unsigned source;
    char id[ID_BYTES]; /* as JSON */
};

static SemaphoreHandle_t lock;
static StaticSemaphore_t lock_memory;
static QueueHandle_t items;
static StaticQueue_t items_state;
static struct waiting waiting[NODE_JOBS];
static portMUX_TYPE waiting_lock = portMUX_INITIALIZER_UNLOCKED;
/* What is large; in PSRAM where there is some. */
static struct {
    struct node_result results[NODE_JOBS];
    struct settings stored, wanted; /* what is in flash (app_settings has what holds since boot), and will be */
    char text[LINE_TEXT + 1];
    uint8_t block[BLOCK_BYTES];
} *large;
static atomic_bool result_used[NODE_JOBS];
static const char *start_problem;
static char boot[BOOT_BYTES];
/* Of inferences begun here. */
static _Atomic uint32_t inferences, errors, last_round_trip_us;
/* Commands by MQTT that were not carried out. */
static _Atomic uint32_t duplicates, reused, stale, malformed;
/* Of mqtt_once. The MQTT task waits for no lock of this file: others wait for it to send. */
static SemaphoreHandle_t once_lock;
static StaticSemaphore_t once_lock_memory;

/* What the control task has to do. */
struct item {
    void (*function)(void *arg); /* NULL: a result or a message */
    void *arg;
    struct node_result *result; /* NULL: a message */
    uint16_t session;
    uint8_t slot, kind;
    const uint8_t *body;
    uint32_t len;
};
static uint8_t items_storage[8 * sizeof(struct item)];

/* One command at a time. Feeds the watchdog of the task that waits. */
static bool take_lock(void) {
    for (int i = 0; i < LOCK_WAIT_S; i++) {
        if (xSemaphoreTake(lock, pdMS_TO_TICKS(1000)) == pdTRUE) {
            return true;
        }
        if (esp_task_wdt_status(NULL) == ESP_OK) {
            (void)esp_task_wdt_reset();
        }
    }
    return false;
}

const struct line_sink control_sink = {.take = node_input_take, .give = node_input_give};

/* --- answers --- */

static void say(unsigned source, const char *text) {
    if (source < CONSOLES) {
        console_line(source, text);
    } else if (source == CONTROL_MQTT) {
        mqtt_reply(text);
#if CONFIG_TINYSPLIT_BLE
    } else if (source >= CONTROL_BLE) {
        ble_control_say(source - CONTROL_BLE, text);
#endif
    } else if (source >= CONTROL_SESSION) {
        int code = node_send_control((uint16_t)(source - CONTROL_SESSION), text, strlen(text));
        if (code != TS_OK) {
            ESP_LOGW(TAG, "an answer did not go to session %u: %s", source - CONTROL_SESSION,
                     ts_error_name((unsigned)code));
        }
    }
}

static void remember(const char *id_json, const char *answer) {
    (void)xSemaphoreTake(once_lock, portMAX_DELAY);
    once_keep(mqtt_once(), id_json, answer);
    (void)xSemaphoreGive(once_lock);
}

/* Prints and deletes an object, the answer to the command with this id; NULL: to one that was not taken, whose id may
 * be another's. */
static void say_object(unsigned source, const char *id_json, cJSON *object) {
    char *text = object == NULL ? NULL : cJSON_PrintUnformatted(object);
    if (source == CONTROL_MQTT && id_json != NULL && text != NULL) {
        remember(id_json, text);
    }
    say(source, text != NULL
                    ? text
                    : "{\"id\":null,\"ok\":false,\"error\":{\"code\":\"no_memory\",\"message\":\"the answer did "
                      "not fit into memory\"}}");
    cJSON_free(text);
    cJSON_Delete(object);
}

static cJSON *answer_to(unsigned source, const char *id_json) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddRawToObject(object, "id", id_json);
    if (source == CONTROL_MQTT) {
        (void)xSemaphoreTake(once_lock, portMAX_DELAY);
        cJSON_AddNumberToObject(object, "count", mqtt_once()->count);
        (void)xSemaphoreGive(once_lock);
    }
    return object;
}

static cJSON *refusal(unsigned source, const char *id_json, const char *code, const char *message) {
    cJSON *object = answer_to(source, id_json);
    cJSON_AddFalseToObject(object, "ok");
    cJSON *error = cJSON_AddObjectToObject(object, "error");
    cJSON_AddStringToObject(error, "code", code);
    cJSON_AddStringToObject(error, "message", message);
    if (source == CONTROL_MQTT) {
        ESP_LOGW(TAG, "a command over MQTT: %s", code); /* the message may quote it */
    }
    return object;
}

static void refuse_id(unsigned source, const char *id_json, const char *code, const char *message) {
    say_object(source, id_json, refusal(source, id_json, code, message));
}

/* A command's id as JSON text, cut to 64 characters. */
static void id_text(const cJSON *id, char out[ID_BYTES]) {
    (void)snprintf(out, ID_BYTES, "null");
    if (cJSON_IsNumber(id)) {
        (void)snprintf(out, ID_BYTES, "%.0f", id->valuedouble);
    } else if (cJSON_IsString(id)) {
        size_t len = settings_cut(id->valuestring, 64);
        size_t at = 0;
        out[at++] = '"';
        for (size_t i = 0; i < len && at < ID_BYTES - 2; i++) {
            char c = id->valuestring[i];
            out[at++] = c == '"' || c == '\\' || (unsigned char)c < ' ' ? '_' : c;
        }
        out[at++] = '"';
        out[at] = '\0';
    }
}

static void refuse(const struct command *c, const char *code, const char *message) {
    char id[ID_BYTES];
    id_text(c->id, id);
    refuse_id(c->source, id, code, message);
}

/* Likewise, one that was not taken. */
static void turn_away(const struct command *c, const char *code, const char *message) {
    char id[ID_BYTES];
    id_text(c->id, id);
    say_object(c->source, NULL, refusal(c->source, id, code, message));
}

static void refuse_code(const struct command *c, int code, const char *what) {
    char message[MESSAGE_BYTES];
    (void)snprintf(message, sizeof message, "%s: %s", what, ts_error_name((unsigned)code));
    refuse(c, ts_error_name((unsigned)code), message);
}

/* Sends result (taken over) as the answer. */
static void accept(const struct command *c, cJSON *result) {
    char id[ID_BYTES];
    id_text(c->id, id);
    cJSON *object = answer_to(c->source, id);
    cJSON_AddTrueToObject(object, "ok");
    cJSON_AddItemToObject(object, "result", result != NULL ? result : cJSON_CreateObject());
    say_object(c->source, id, object);
}

static void broadcast(const char *text) {
    for (unsigned i = 0; i < CONSOLES; i++) {
        console_line(i, text);
    }
#if CONFIG_TINYSPLIT_BLE
    ble_control_tell(text);
#endif
    mqtt_telemetry(text);
}

void control_event(const char *name, const char *fields) {
    char text[512];
    int n = snprintf(text, sizeof text, "{\"event\":\"%s\"%s%s}", name, fields[0] != '\0' ? "," : "", fields);
    if (n > 0 && (size_t)n < sizeof text) {
        broadcast(text);
    }
}

/* --- what the board is --- */

static void hex(const uint8_t *bytes, size_t len, char *out) {
    for (size_t i = 0; i < len; i++) {
        (void)snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    }
}

static void add_engine(cJSON *info) {
    struct engine_state e = engine_state();
    cJSON *test = cJSON_AddObjectToObject(info, "selftest");
    cJSON_AddNumberToObject(test, "vectors", e.open ? 1 : 0);
    cJSON_AddNumberToObject(test, "passed", e.proven ? 1 : 0);
    if (e.wrong[0] != '\0') {
        cJSON_AddStringToObject(test, "first_wrong", e.wrong);
    } else {
        cJSON_AddNullToObject(test, "first_wrong");
    }
    cJSON *arena = cJSON_AddObjectToObject(info, "arena");
    cJSON_AddNumberToObject(arena, "bytes", e.arena_bytes);
    cJSON_AddNumberToObject(arena, "used", e.arena_used);
    cJSON_AddStringToObject(arena, "memory", !e.open ? "none" : e.arena_internal ? "internal" : "psram");
    cJSON_AddNumberToObject(info, "runs", e.runs);
    cJSON_AddNumberToObject(info, "last_invoke_us", e.last_us);
}

static void add_link(cJSON *info, const struct link_port *port) {
    struct link_status s;
    memset(&s, 0, sizeof s);
    if (port == NULL) {
        return;
    }
    port->describe(&s);
    cJSON *link = cJSON_AddObjectToObject(info, "link");
    cJSON_AddStringToObject(link, "transport", port->name);
    cJSON_AddBoolToObject(link, "up", s.up);
    cJSON_AddStringToObject(link, "address", s.address);
    cJSON_AddNumberToObject(link, "mtu", s.mtu);
    cJSON_AddNumberToObject(link, "peers", s.peers);
    cJSON_AddStringToObject(link, "phy", s.phy);
    cJSON_AddNumberToObject(link, "channel", s.channel);
    cJSON_AddNumberToObject(link, "rssi_dbm", s.rssi_dbm);
    cJSON_AddNumberToObject(link, "espnow_version", s.version);
    cJSON_AddNumberToObject(link, "rate_kbps", s.rate_kbps);
    cJSON_AddNumberToObject(link, "interval_us", s.interval_us);
    cJSON_AddNumberToObject(link, "latency", s.latency);
    cJSON_AddNumberToObject(link, "att_mtu", s.att_mtu);
    cJSON_AddNumberToObject(link, "data_bytes", s.data_bytes);
    cJSON_AddNumberToObject(link, "reconnects", s.reconnects);
    cJSON_AddNumberToObject(link, "rx_dropped", s.rx_dropped);
    cJSON_AddNumberToObject(link, "tx_failed", s.tx_failed);
    if (s.error[0] != '\0') {
        cJSON_AddStringToObject(link, "error", s.error);
    }
}

static const char *problem(void) {
    static char text[ENGINE_TEXT]; /* written under the lock */
    struct engine_state e = engine_state();
    if (flash_problem()[0] != '\0') {
        return flash_problem();
    }
    if (e.problem[0] != '\0') {
        (void)snprintf(text, sizeof text, "%s", e.problem);
        return text;
    }
    return start_problem;
}

/* Who the board is, as its status says, too. */
static void add_who(cJSON *o) {
    const struct settings *s = app_settings();
    const struct flash_stage *stage = flash_stage();
    const struct link_port *port = node_port();
    struct link_status link;
    memset(&link, 0, sizeof link);
    if (port != NULL) {
        port->describe(&link);
    }
    cJSON_AddNumberToObject(o, "version", VERSION);
    cJSON_AddStringToObject(o, "kind", KIND);
    cJSON_AddStringToObject(o, "name", s->name);
    cJSON_AddStringToObject(o, "boot", boot);
    cJSON_AddStringToObject(o, "firmware", esp_app_get_description()->version);
    cJSON_AddStringToObject(o, "kernels", engine_kernels_name(engine_state().kernels));
    cJSON_AddStringToObject(o, "transport", port != NULL ? port->name : "none");
    cJSON_AddStringToObject(o, "listen", link.address[0] != '\0' ? link.address : s->listen);
    if (stage != NULL && s->role != ROLE_BRIDGE) {
        static const char *const roles[] = {"head", "relay", "tail"};
        unsigned last = stage->image.stage_count - 1u;
        unsigned role = stage->image.stage == 0 ? 0 : stage->image.stage == last ? 2 : 1;
        char text[2 * TS_BUNDLE_BYTES + 1];
        cJSON_AddStringToObject(o, "role", roles[role]);
        cJSON_AddNumberToObject(o, "stage", stage->image.stage);
        cJSON_AddNumberToObject(o, "stages", stage->image.stage_count);
        hex(stage->image.bundle, TS_BUNDLE_BYTES, text);
        cJSON_AddStringToObject(o, "bundle", text);
    } else {
        cJSON_AddStringToObject(o, "role", s->role == ROLE_BRIDGE ? "bridge" : "none");
        cJSON_AddNullToObject(o, "stage");
        cJSON_AddNullToObject(o, "bundle");
    }
}

char *control_status(void) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddTrueToObject(o, "online");
    add_who(o);
    char *text = cJSON_PrintUnformatted(o);
    cJSON_Delete(o);
    return text;
}

void control_add_counts(cJSON *object) {
    uint32_t round_trip = atomic_load(&last_round_trip_us);
    cJSON_AddNumberToObject(object, "inferences", atomic_load(&inferences));
    cJSON_AddNumberToObject(object, "errors", atomic_load(&errors));
    if (round_trip != 0) {
        cJSON_AddNumberToObject(object, "last_round_trip_us", round_trip);
    }
    if (mqtt_once() == NULL) {
        return;
    }
    cJSON *counts = cJSON_AddObjectToObject(object, "commands");
    (void)xSemaphoreTake(once_lock, portMAX_DELAY);
    cJSON_AddNumberToObject(counts, "taken", mqtt_once()->count);
    (void)xSemaphoreGive(once_lock);
    cJSON_AddNumberToObject(counts, "duplicates", atomic_load(&duplicates));
    cJSON_AddNumberToObject(counts, "reused", atomic_load(&reused));
    cJSON_AddNumberToObject(counts, "stale", atomic_load(&stale));
    cJSON_AddNumberToObject(counts, "retained", mqtt_retained());
    cJSON_AddNumberToObject(counts, "malformed", atomic_load(&malformed));
}

static cJSON *info(void) {
    const struct settings *s = app_settings();
    const struct flash_stage *stage = flash_stage();
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "chip", CONFIG_IDF_TARGET);
    cJSON_AddStringToObject(o, "idf", esp_app_get_description()->idf_ver);
    add_who(o);
    if (stage != NULL && s->role != ROLE_BRIDGE) {
        char text[2 * TS_BUNDLE_BYTES + 1];
        hex(stage->image.digest, TS_IMAGE_DIGEST, text);
        cJSON_AddStringToObject(o, "image", text);
        cJSON_AddNumberToObject(o, "image_version", stage->image.version);
        char name[65] = "";
        uint32_t len = stage->image.name.bytes < 64 ? stage->image.name.bytes : 64;
        memcpy(name, stage->base + stage->image.manifest.at + stage->image.name.at, len);
        cJSON_AddStringToObject(o, "model", name);
    }
    if (s->next[0] != '\0') {
        cJSON_AddStringToObject(o, "next", s->next);
    } else {
        cJSON_AddNullToObject(o, "next");
    }
    add_engine(o);
    add_link(o, node_port());
    telemetry_add_memory(o);
    cJSON_AddStringToObject(o, "reset", telemetry_reset_reason());
    uint8_t key[65];
    cJSON_AddBoolToObject(o, "public_key", flash_public_key(key));
    if (problem() != NULL) {
        cJSON_AddStringToObject(o, "problem", problem());
    } else {
        cJSON_AddNullToObject(o, "problem");
    }
    cJSON_AddNumberToObject(o, "uptime_ms", (double)telemetry_uptime_ms());
    return o;
}

static void add_stamp(cJSON *o, const char *name, const struct node_stamp *stamp) {
    if (stamp->at_us == 0) {
        cJSON_AddNullToObject(o, name);
        return;
    }
    cJSON *s = cJSON_AddObjectToObject(o, name);
    cJSON_AddNumberToObject(s, "inference", stamp->inference);
    cJSON_AddNumberToObject(s, "at_us", (double)stamp->at_us);
}

static cJSON *stats(void) {
    static struct node_stats n;
    node_stats(&n);
    cJSON *o = cJSON_CreateObject();
    const struct {
        const char *name;
        uint32_t value;
    } counters[] = {
        {"frames_in", n.link.frames_in},     {"frames_out", n.link.frames_out},   {"data_out", n.link.data_out},
        {"data_resent", n.link.data_resent}, {"dropped", n.link.dropped},         {"duplicates", n.link.duplicates},
        {"blocked", n.link.blocked},         {"send_errors", n.link.send_errors}, {"bytes_out", n.link.bytes_out},
        {"bytes_in", n.link.bytes_in},       {"port", app_settings()->port},      {"sessions_up", n.sessions_up},
        {"frame_size", n.frame_size},        {"iterations_left", n.auto_left},    {"codec", n.codec},
        {"raw_bytes", n.raw_bytes},          {"coded_bytes", n.coded_bytes}};
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++) {
        cJSON_AddNumberToObject(o, counters[i].name, counters[i].value);
    }
    cJSON_AddBoolToObject(o, "next_up", n.next_up);
    cJSON_AddStringToObject(o, "next_error", ts_error_name(n.next_error));
    if (n.srtt_us != 0) {
        cJSON_AddNumberToObject(o, "srtt_us", n.srtt_us);
    } else {
        cJSON_AddNullToObject(o, "srtt_us");
    }
    if (n.clock_known) {
        cJSON_AddNumberToObject(o, "clock_offset_us", (double)n.clock_offset_us);
        cJSON_AddNumberToObject(o, "clock_uncertainty_us", n.clock_uncertainty_us);
        cJSON_AddNumberToObject(o, "clock_age_us", n.clock_age_us);
    } else {
        cJSON_AddNullToObject(o, "clock_offset_us");
        cJSON_AddNullToObject(o, "clock_uncertainty_us");
        cJSON_AddNullToObject(o, "clock_age_us");
    }
    add_stamp(o, "complete", &n.complete);
    add_stamp(o, "handed", &n.handed);
    telemetry_add_memory(o);
    return o;
}

/* --- settings --- */

static void add_peers(cJSON *array, const char *list) {
    while (strlen(list) >= 17) {
        char address[32];
        (void)snprintf(address, sizeof address, "espnow://%.17s", list);
        cJSON_AddItemToArray(array, cJSON_CreateString(address));
        list += list[17] == ',' ? 18 : 17;
    }
}

static cJSON *settings_json(const struct settings *s) {
    size_t count;
    const struct setting *table = settings_table(&count);
    cJSON *o = cJSON_CreateObject();
    const struct flash_stage *stage = flash_stage();
    if (stage != NULL) {
        cJSON_AddNumberToObject(o, "stage", stage->image.stage);
    }
    for (size_t i = 0; i < count; i++) {
        const struct setting *which = &table[i];
        switch (which->kind) {
        case SETTING_SECRET:
            /* Whether it is set, never what it is. */
            cJSON_AddBoolToObject(o, which->name, settings_text(s, which)[0] != '\0');
            break;
        case SETTING_PEERS:
            add_peers(cJSON_AddArrayToObject(o, which->name), settings_text(s, which));
            break;
        case SETTING_NUMBER:
            cJSON_AddNumberToObject(o, which->name, settings_number(s, which));
            break;
        case SETTING_FLAG:
            cJSON_AddBoolToObject(o, which->name, settings_number(s, which) != 0);
            break;
        default:
            if (which->kind == SETTING_ADDRESS && settings_text(s, which)[0] == '\0') {
                cJSON_AddNullToObject(o, which->name);
            } else {
                cJSON_AddStringToObject(o, which->name, settings_text(s, which));
            }
        }
    }
    return o;
}

static bool whole(const cJSON *item, double least, double most) {
    return cJSON_IsNumber(item) && item->valuedouble >= least && item->valuedouble <= most &&
           item->valuedouble == (double)(int64_t)item->valuedouble;
}

static bool set_peers(struct settings *s, const struct setting *which, const cJSON *array, char *error) {
    char list[sizeof s->espnow_peers] = "";
    const cJSON *item;
    cJSON_ArrayForEach(item, array) {
        if (!settings_add_peer(list, cJSON_IsString(item) ? item->valuestring : "", error)) {
            return false;
        }
    }
    return settings_set_text(s, which, list, error);
}

static bool set_one(struct settings *s, const cJSON *item, char *error) {
    const struct flash_stage *stage = flash_stage();
    if (strcmp(item->string, "stage") == 0) {
        if (stage != NULL && whole(item, stage->image.stage, stage->image.stage)) {
            return true;
        }
        (void)snprintf(error, SETTINGS_ERROR_BYTES, "stage: a board runs the stage of its image; flash another one");
        return false;
    }
    const struct setting *which = settings_find(item->string);
    if (which == NULL) {
        (void)snprintf(error, SETTINGS_ERROR_BYTES, "%.*s: no such setting", (int)settings_cut(item->string, 40),
                       item->string);
        return false;
    }
    if (which->kind == SETTING_ADDRESS && cJSON_IsNull(item)) {
        return settings_set_text(s, which, "", error);
    }
    if (which->kind == SETTING_PEERS && cJSON_IsArray(item)) {
        return set_peers(s, which, item, error);
    }
    if (which->kind == SETTING_FLAG && cJSON_IsBool(item)) {
        return settings_set_number(s, which, cJSON_IsTrue(item) ? 1 : 0, error);
    }
    if (cJSON_IsString(item) && which->kind != SETTING_PEERS) {
        return settings_set_text(s, which, item->valuestring, error);
    }
    if (which->kind == SETTING_NUMBER && whole(item, 0, UINT32_MAX)) {
        return settings_set_number(s, which, (uint32_t)item->valuedouble, error);
    }
    return settings_refuse(which, error);
}

static void configure(const struct command *c) {
    struct settings *wanted = &large->wanted, *stored = &large->stored;
    char error[SETTINGS_ERROR_BYTES];
    *wanted = *stored;
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(c->json, "set")) {
        if (!set_one(wanted, item, error)) {
            refuse(c, "bad_setting", error);
            return;
        }
    }
    if (!settings_check(wanted, error)) {
        refuse(c, "bad_setting", error);
        return;
    }
    int code = settings_store(wanted, stored);
    if (code != ESP_OK) {
        (void)snprintf(error, sizeof error, "the settings cannot be kept: %s", esp_err_to_name(code));
        refuse(c, "bad_setting", error);
        return;
    }
    *stored = *wanted;
    accept(c, settings_json(stored));
}

/* --- inferences --- */

static int wait_for(const struct command *c) {
    int found = -1;
    portENTER_CRITICAL(&waiting_lock);
    for (int i = 0; i < NODE_JOBS && found < 0; i++) {
        if (!waiting[i].used) {
            waiting[i].used = true;
            found = i;
        }
    }
    portEXIT_CRITICAL(&waiting_lock);
    if (found >= 0) {
        waiting[found].source = c->source;
        id_text(c->id, waiting[found].id);
    }
    return found;
}

/* Copies a waiting command out and frees its place; false if it waits no longer. */
static bool no_longer_waits(uint32_t token, struct waiting *out) {
    bool used = false;
    portENTER_CRITICAL(&waiting_lock);
    if (token < NODE_JOBS) {
        used = waiting[token].used;
        *out = waiting[token];
        waiting[token].used = false;
    }
    portEXIT_CRITICAL(&waiting_lock);
    return used;
}

static void run(const struct command *c) {
    char message[MESSAGE_BYTES];
    const cJSON *input = cJSON_GetObjectItemCaseSensitive(c->json, "input");
    const cJSON *timeout = cJSON_GetObjectItemCaseSensitive(c->json, "timeout_ms");
    const char *kind = cJSON_IsString(input) ? input->valuestring : "";
    uint32_t timeout_ms = app_settings()->timeout_ms;
    bool tensors = strcmp(kind, "tensors") == 0;
    bool pattern = strcmp(kind, "pattern") == 0;
    if (!tensors && !pattern && strcmp(kind, "selftest") != 0) {
        refuse(c, "bad_command", "input: tensors, selftest or pattern");
        return;
    }
    if (timeout != NULL && !whole(timeout, 1, TIMEOUT_MAX_MS)) {
        refuse(c, "bad_command", "timeout_ms: 1 to 600000");
        return;
    }
    if (timeout != NULL) {
        timeout_ms = (uint32_t)timeout->valuedouble;
    }
    const struct flash_stage *stage = flash_stage();
    if (stage != NULL && stage->image.stage != 0) {
        (void)snprintf(message, sizeof message, "only a head begins inferences; this is stage %u", stage->image.stage);
        refuse(c, "stage_mismatch", message);
        return;
    }
    if (stage == NULL) {
        refuse(c, "refused", problem() != NULL ? problem() : "there is no stage");
        return;
    }
    if (!engine_state().proven) {
        refuse(c, "refused", problem() != NULL ? problem() : "the stage has not passed its self-test");
        return;
    }
    uint32_t bytes[TS_MAX_TENSORS];
    uint8_t count;
    uint32_t total = engine_received(bytes, &count);
    uint8_t *buffer = NULL;
    if (tensors) {
        bool fits = c->line != NULL && c->line->count == count;
        for (uint32_t i = 0; fits && i < count; i++) {
            fits = c->line->bytes[i] == bytes[i];
        }
        if (!fits) {
            (void)snprintf(message, sizeof message, "the head takes %u tensors, %" PRIu32 " bytes together", count,
                           total);
            refuse(c, "bad_command", message);
            return;
        }
        buffer = c->line->tensors;
        c->line->tensors = NULL;
    } else if (pattern) {
        uint32_t cap;
        buffer = node_input_take(&cap);
        if (buffer == NULL) {
            refuse(c, "no_slot", "the inference was not begun: no_slot");
            return;
        }
        uint8_t *at = buffer;
        for (uint32_t i = 0; i < count; i++) {
            for (uint32_t j = 0; j < bytes[i]; j++) {
                *at++ = (uint8_t)j;
            }
        }
    }
    int token = wait_for(c);
    if (token < 0) {
        node_input_give(buffer);
        refuse(c, "no_slot", "the inference was not begun: no_slot");
        return;
    }
    int code = node_run((uint32_t)token, buffer, timeout_ms);
    if (code != TS_OK) {
        struct waiting unused;
        (void)no_longer_waits((uint32_t)token, &unused);
        if (start_problem != NULL) {
            refuse(c, "refused", start_problem);
        } else {
            refuse_code(c, code, "the inference was not begun");
        }
    }
}

static uint32_t abort_runs(void) {
    (void)node_abort();
    uint32_t count = 0;
    for (uint32_t i = 0; i < NODE_JOBS; i++) {
        struct waiting w;
        if (no_longer_waits(i, &w)) {
            refuse_id(w.source, w.id, "cancelled", "given up on command");
            count++;
        }
    }
    return count;
}

static void add_base64(cJSON *array, const uint8_t *bytes, size_t len) {
    size_t size = (len + 2) / 3 * 4 + 1, written = 0;
    char *text = malloc(size);
    if (text != NULL && mbedtls_base64_encode((unsigned char *)text, size, &written, bytes, len) == 0) {
        cJSON_AddItemToArray(array, cJSON_CreateString(text));
    }
    free(text);
}

static cJSON *result_json(const struct node_result *r) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "inference", r->inference);
    cJSON_AddStringToObject(o, "code", ts_error_name(r->code));
    cJSON_AddNumberToObject(o, "stage", r->stage);
    cJSON_AddStringToObject(o, "text", r->text);
    cJSON *tensors = cJSON_AddArrayToObject(o, "tensors");
    const uint8_t *at = r->tensors;
    for (uint32_t i = 0; i < r->count; i++) {
        add_base64(tensors, at, r->bytes[i]);
        at += r->bytes[i];
    }
    cJSON *phases = cJSON_AddArrayToObject(o, "phases");
    for (uint32_t i = 0; i < r->phase_count; i++) {
        uint8_t stage, phase;
        uint32_t us;
        ts_phase_read(r->phases[i], &stage, &phase, &us);
        cJSON *p = cJSON_CreateObject();
        cJSON_AddNumberToObject(p, "stage", stage);
        cJSON_AddNumberToObject(p, "phase", phase);
        cJSON_AddNumberToObject(p, "duration_us", us);
        cJSON_AddItemToArray(phases, p);
    }
    cJSON_AddNumberToObject(o, "fragments_sent", r->fragments_sent);
    cJSON_AddNumberToObject(o, "fragments_resent", r->fragments_resent);
    cJSON_AddNumberToObject(o, "total_us", r->total_us);
    cJSON_AddStringToObject(o, "kernels", engine_kernels_name(engine_state().kernels));
    return o;
}

static void report(struct node_result *r) {
    struct waiting w;
    (void)atomic_fetch_add(&inferences, 1);
    if (r->code == TS_OK) {
        atomic_store(&last_round_trip_us, r->total_us);
    } else {
        (void)atomic_fetch_add(&errors, 1);
    }
    if (r->token == NODE_AUTO) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "event", "inference");
        cJSON_AddItemToObject(o, "result", result_json(r));
        char *text = cJSON_PrintUnformatted(o);
        if (text != NULL) {
            broadcast(text);
        }
        cJSON_free(text);
        cJSON_Delete(o);
    } else if (no_longer_waits(r->token, &w)) {
        if (r->code == TS_OK) {
            cJSON *o = answer_to(w.source, w.id);
            cJSON_AddTrueToObject(o, "ok");
            cJSON_AddItemToObject(o, "result", result_json(r));
            say_object(w.source, w.id, o);
        } else {
            char message[MESSAGE_BYTES];
            (void)snprintf(message, sizeof message, "the inference failed at stage %u (%s%s%s)", r->stage,
                           ts_error_name(r->code), r->text[0] != '\0' ? ": " : "", r->text);
            refuse_id(w.source, w.id, ts_error_name(r->code), message);
        }
    }
    atomic_store(&result_used[r - large->results], false);
}

struct node_result *control_result_take(void) {
    for (unsigned i = 0; large != NULL && i < NODE_JOBS; i++) {
        if (!atomic_exchange(&result_used[i], true)) {
            return &large->results[i];
        }
    }
    return NULL;
}

void control_result(struct node_result *result) {
    struct item item = {.result = result};
    if (items == NULL || xQueueSend(items, &item, 0) != pdTRUE) {
        atomic_store(&result_used[result - large->results], false);
    }
}

bool control_defer(void (*function)(void *arg), void *arg) {
    struct item item = {.function = function, .arg = arg};
    return items != NULL && xQueueSend(items, &item, 0) == pdTRUE;
}

bool control_message(uint16_t session, uint8_t slot, uint8_t kind, const uint8_t *body, uint32_t len) {
    struct item item = {.session = session, .slot = slot, .kind = kind, .body = body, .len = len};
    return items != NULL && xQueueSend(items, &item, 0) == pdTRUE;
}

/* --- the rest of the commands --- */

static void self_test(const struct command *c) {
    uint32_t detail = 0;
    int code = node_self_test(&detail);
    if (code == TS_E_BUSY || code == TS_E_DEADLINE) {
        refuse_code(c, code, "the self-test did not run");
        return;
    }
    struct engine_state e = engine_state();
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "vectors", 1);
    cJSON_AddNumberToObject(o, "passed", code == TS_OK ? 1 : 0);
    if (e.wrong[0] != '\0') {
        cJSON_AddStringToObject(o, "first_wrong", e.wrong);
    } else {
        cJSON_AddNullToObject(o, "first_wrong");
    }
    cJSON_AddStringToObject(o, "kernels", engine_kernels_name(e.kernels));
    cJSON_AddNumberToObject(o, "invoke_us", e.last_us);
    cJSON_AddBoolToObject(o, "serves", code == TS_OK);
    accept(c, o);
}

static void profile(const struct command *c) {
    const cJSON *on = cJSON_GetObjectItemCaseSensitive(c->json, "on");
    if (on != NULL && !cJSON_IsBool(on)) {
        refuse(c, "bad_command", "on: true or false");
        return;
    }
    if (on != NULL) {
        node_profile(cJSON_IsTrue(on));
    }
    cJSON *o = cJSON_CreateObject();
    telemetry_add_operators(o);
    accept(c, o);
}

static bool bytes_of_hex(const cJSON *item, uint8_t *out, size_t len) {
    if (!cJSON_IsString(item) || strlen(item->valuestring) != 2 * len) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        const char pair[3] = {item->valuestring[2 * i], item->valuestring[2 * i + 1], '\0'};
        char *end;
        out[i] = (uint8_t)strtoul(pair, &end, 16);
        if (*end != '\0' || pair[0] == '+' || pair[0] == '-' || pair[0] == ' ') {
            return false;
        }
    }
    return true;
}

/* update_begin of a sender who says who he is. */
static int begin_update(const struct command *c, uint32_t owner, const uint8_t *header, const uint8_t *digest,
                        uint32_t *offset) {
    const cJSON *by = cJSON_GetObjectItemCaseSensitive(c->json, "by");
    const struct update_sender sender = {
        .owner = owner,
        .take_over = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(c->json, "take_over")),
        .name = cJSON_IsString(by) && by->valuestring[0] != '\0' ? by->valuestring : NULL};
    return update_begin(&sender, header, digest, offset);
}

static void refuse_update(const struct command *c, int code, const char *name) {
    if (code != TS_E_BUSY || strcmp(name, "update_fetch") == 0) {
        refuse_code(c, code, name);
        return;
    }
    char holder[UPDATE_HOLDER], text[MESSAGE_BYTES];
    update_holder(holder);
    (void)snprintf(text, sizeof text, "another update is under way, %s", holder);
    refuse(c, "busy", text);
}

static void update(const struct command *c, const char *name) {
    uint8_t *block = large->block;
    uint8_t digest[TS_IMAGE_DIGEST];
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(c->json, "data");
    bool digest_given = bytes_of_hex(cJSON_GetObjectItemCaseSensitive(c->json, "digest"), digest, sizeof digest);
    size_t len = 0;
    uint32_t offset = 0;
    int code = TS_OK;
    const cJSON *number = cJSON_GetObjectItemCaseSensitive(c->json, "owner");
    if (number != NULL && !whole(number, 0, UINT32_MAX)) {
        refuse(c, "bad_command", "owner: 0 to 4294967295");
        return;
    }
    uint32_t owner = number != NULL ? (uint32_t)number->valuedouble : 0;
    if (data != NULL && (!cJSON_IsString(data) ||
                         mbedtls_base64_decode(block, BLOCK_BYTES, &len, (const unsigned char *)data->valuestring,
                                               strlen(data->valuestring)) != 0)) {
        refuse(c, "bad_command", "data: base64 of at most 3072 bytes");
        return;
    }
    if (strcmp(name, "update_begin") == 0) {
        if (len != TS_IMAGE_HEADER || !digest_given) {
            refuse(c, "bad_command", "data: the 64 bytes of the header; digest: 64 hexadecimal digits");
            return;
        }
        code = begin_update(c, owner, block, digest, &offset);
    } else if (strcmp(name, "update_data") == 0) {
        const cJSON *at = cJSON_GetObjectItemCaseSensitive(c->json, "offset");
        if (data == NULL || !whole(at, 0, UINT32_MAX)) {
            refuse(c, "bad_command", "offset and data are needed");
            return;
        }
        code = update_write(owner, (uint32_t)at->valuedouble, block, (uint32_t)len, &offset);
    } else if (strcmp(name, "update_finish") == 0) {
        code = update_finish(owner);
    } else if (strcmp(name, "update_abort") == 0) {
        code = update_abort(owner);
    } else if (strcmp(name, "update_release") == 0) {
        code = update_release(owner);
    } else if (!digest_given) {
        refuse(c, "bad_command", "digest: 64 hexadecimal digits");
        return;
    } else if (strcmp(name, "update_activate") == 0) {
        code = update_activate(owner, digest);
    } else {
        const cJSON *url = cJSON_GetObjectItemCaseSensitive(c->json, "url");
        if (!cJSON_IsString(url)) {
            refuse(c, "bad_command", "url: http:// or https://");
            return;
        }
        code = update_fetch(owner, url->valuestring, digest);
    }
    if (code != TS_OK) {
        refuse_update(c, code, name);
        return;
    }
    struct update_state s = update_state();
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "offset", offset != 0 ? offset : s.offset);
    cJSON_AddNumberToObject(o, "bytes", s.bytes);
    if (update_fetch_state() != NULL) {
        cJSON_AddStringToObject(o, "fetch", update_fetch_state());
    }
    accept(c, o);
}

static void set_key(const struct command *c) {
    const cJSON *key = cJSON_GetObjectItemCaseSensitive(c->json, "key");
    uint8_t old[65];
    if (!cJSON_IsString(key)) {
        refuse(c, "bad_command", "key: 130 hexadecimal digits (04, X, Y), or empty for none");
        return;
    }
    /* Whoever could change it from afar could make the board take any image. */
    if (c->source >= CONSOLES && flash_public_key(old)) {
        refuse(c, "refused", "a key that is set changes by cable only");
        return;
    }
    int code = flash_set_public_key(key->valuestring);
    if (code != ESP_OK) {
        refuse(c, "bad_setting", "key: 130 hexadecimal digits (04, X, Y), or empty for none");
        return;
    }
    accept(c, NULL);
}

static void reboot(const struct command *c) {
    (void)abort_runs();
    accept(c, NULL);
    vTaskDelay(pdMS_TO_TICKS(300)); /* the answer gets out */
    esp_restart();
}

/* Members beside id and cmd, per command. */
static bool members_are_known(const cJSON *json, const char *name, char *message) {
    static const struct {
        const char *command, *members;
    } allowed[] = {{"configure", " set "},
                   {"run", " input tensors timeout_ms "},
                   {"profile", " on "},
                   {"update_begin", " data digest owner by take_over "},
                   {"update_data", " offset data owner "},
                   {"update_finish", " owner "},
                   {"update_activate", " digest owner "},
                   {"update_abort", " owner "},
                   {"update_release", " owner "},
                   {"update_fetch", " url digest owner "},
                   {"public_key", " key "}};
    const char *members = "";
    for (size_t i = 0; i < sizeof allowed / sizeof allowed[0]; i++) {
        if (strcmp(allowed[i].command, name) == 0) {
            members = allowed[i].members;
        }
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, json) {
        char member[40];
        (void)snprintf(member, sizeof member, " %.36s ", item->string);
        bool fits = strlen(item->string) <= 36 && strchr(item->string, ' ') == NULL;
        if (!fits || (strstr(" id cmd boot after ", member) == NULL && strstr(members, member) == NULL)) {
            (void)snprintf(message, MESSAGE_BYTES, "%s has no member %.*s", name, (int)settings_cut(item->string, 40),
                           item->string);
            return false;
        }
    }
    return true;
}

static void execute(const struct command *c, const char *name) {
    char message[MESSAGE_BYTES];
    if (!members_are_known(c->json, name, message)) {
        refuse(c, "bad_command", message);
    } else if (strcmp(name, "info") == 0) {
        accept(c, info());
    } else if (strcmp(name, "stats") == 0) {
        accept(c, stats());
    } else if (strcmp(name, "configure") == 0) {
        if (!cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(c->json, "set"))) {
            refuse(c, "bad_command", "set: an object of settings");
        } else {
            configure(c);
        }
    } else if (strcmp(name, "run") == 0) {
        run(c);
    } else if (strcmp(name, "abort") == 0) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddNumberToObject(o, "aborted", abort_runs());
        accept(c, o);
    } else if (strcmp(name, "reboot") == 0) {
        reboot(c);
    } else if (strcmp(name, "selftest") == 0) {
        self_test(c);
    } else if (strcmp(name, "profile") == 0) {
        profile(c);
    } else if (strcmp(name, "telemetry") == 0) {
        accept(c, telemetry());
    } else if (strcmp(name, "public_key") == 0) {
        set_key(c);
    } else {
        update(c, name);
    }
}

static bool is_command(const char *name) {
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(commands[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* A command that was taken before: its answer is said again, if it is there. Called with once_lock held. */
static void say_again(const char *id_json, enum once_verdict verdict) {
    (void)atomic_fetch_add(&duplicates, 1);
    const char *kept = once_answer(mqtt_once(), id_json);
    if (verdict == ONCE_DONE && kept != NULL) {
        mqtt_reply(kept);
    } else if (verdict == ONCE_DONE) {
        char text[ID_BYTES + 128];
        (void)snprintf(text, sizeof text,
                       "{\"id\":%s,\"ok\":false,\"error\":{\"code\":\"done_already\",\"message\":"
                       "\"it was carried out; the answer is not kept\"}}",
                       id_json);
        mqtt_reply(text);
    }
}

/* Whether a line that cannot be used came before, when it could; it is dealt with then. */
static bool repeated(unsigned source, const char *id_json, uint32_t hash) {
    if (source != CONTROL_MQTT) {
        return false;
    }
    (void)xSemaphoreTake(once_lock, portMAX_DELAY);
    enum once_verdict verdict = once_look(mqtt_once(), id_json, hash);
    bool known = verdict == ONCE_PENDING || verdict == ONCE_DONE;
    if (known) {
        say_again(id_json, verdict);
    }
    (void)xSemaphoreGive(once_lock);
    return known;
}

/* Whether a command is to be carried out; if not it is answered. One that came by MQTT counts as taken then. */
static bool is_new(const struct command *c) {
    const cJSON *meant = cJSON_GetObjectItemCaseSensitive(c->json, "boot");
    const cJSON *after = cJSON_GetObjectItemCaseSensitive(c->json, "after");
    if ((meant != NULL && !cJSON_IsString(meant)) || (after != NULL && !whole(after, 0, UINT32_MAX))) {
        turn_away(c, "bad_command", "boot: 16 hexadecimal digits; after: a number of commands");
        return false;
    }
    if (meant != NULL && strcmp(meant->valuestring, boot) != 0) {
        (void)atomic_fetch_add(&stale, c->source == CONTROL_MQTT ? 1 : 0);
        turn_away(c, "stale", "it was meant for an earlier boot");
        return false;
    }
    if (c->source != CONTROL_MQTT) {
        return true;
    }
    char id[ID_BYTES];
    id_text(c->id, id);
    uint32_t known = after != NULL ? (uint32_t)after->valuedouble : 0;
    (void)xSemaphoreTake(once_lock, portMAX_DELAY);
    enum once_verdict verdict = once_admit(mqtt_once(), id, c->line->hash, after != NULL ? &known : NULL);
    if (verdict == ONCE_PENDING || verdict == ONCE_DONE) {
        say_again(id, verdict);
    }
    (void)xSemaphoreGive(once_lock);
    if (verdict == ONCE_FORGOTTEN) {
        (void)atomic_fetch_add(&stale, 1);
        turn_away(c, "forgotten", "so much has come since it was made that it may have been done");
    } else if (verdict == ONCE_REUSED) {
        (void)atomic_fetch_add(&reused, 1);
        turn_away(c, "id_reused", "another command had this id; send it again with an id of its own");
    }
    return verdict == ONCE_NEW;
}

static void refuse_malformed(const struct command *c, const char *message) {
    (void)atomic_fetch_add(&malformed, c->source == CONTROL_MQTT ? 1 : 0);
    turn_away(c, "malformed", message);
}

/* cJSON recurses as deep as a line nests; our stacks are small. */
static cJSON *parse_json(const char *text, size_t len, const char **end) {
    int depth = 0;
    bool string = false, escaped = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (string) {
            string = escaped || c != '"';
            escaped = c == '\\' && !escaped;
        } else if (c == '"') {
            string = true;
            escaped = false;
        } else if (c == '{' || c == '[') {
            if (++depth > DEEPEST) {
                *end = text + i;
                return NULL;
            }
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return cJSON_ParseWithLengthOpts(text, len + 1, end, 1);
}

static void parse(unsigned source, const char *text, size_t len, struct line *line) {
    struct command c = {.source = source, .line = line};
    char message[MESSAGE_BYTES];
    const char *end = text;
    if (!settings_is_utf8(text, len)) {
        refuse_malformed(&c, "not a line of JSON: no UTF-8");
        return;
    }
    cJSON *json = parse_json(text, len, &end);
    if (json == NULL) {
        (void)snprintf(message, sizeof message, "not a line of JSON: wrong near character %u", (unsigned)(end - text));
        refuse_malformed(&c, message);
        return;
    }
    c.json = json;
    c.id = cJSON_GetObjectItemCaseSensitive(json, "id");
    const cJSON *cmd = cJSON_GetObjectItemCaseSensitive(json, "cmd");
    if (!cJSON_IsObject(json)) {
        refuse_malformed(&c, "a command is a JSON object");
    } else if (!cJSON_IsString(c.id) && !whole(c.id, -9007199254740992.0, 9007199254740992.0)) {
        c.id = NULL;
        refuse_malformed(&c, "a command needs an id, a number or a string");
    } else if (!cJSON_IsString(cmd) || !is_command(cmd->valuestring)) {
        const char *asked = cJSON_IsString(cmd) ? cmd->valuestring : "there";
        (void)snprintf(message, sizeof message,
                       "no command %.*s: info, configure, run, stats, abort, reboot, selftest ...",
                       (int)settings_cut(asked, 40), asked);
        turn_away(&c, "unknown_command", message);
    } else if (is_new(&c)) {
        execute(&c, cmd->valuestring);
    }
    cJSON_Delete(json);
}

/* The id of a line that cannot be used, for its answer: mostly it stands at the beginning. */
static void find_id(const struct line *line, char out[ID_BYTES]) {
    static const char key[] = "\"id\":";
    const char *at = strstr(line->text, key);
    const char *end = line->text;
    cJSON *id = NULL;
    if (at != NULL && settings_is_utf8(line->text, line->len)) {
        at += sizeof key - 1;
        id = *at == '{' || *at == '[' ? NULL
                                      : cJSON_ParseWithLengthOpts(at, line->len - (size_t)(at - line->text), &end, 0);
    }
    id_text(id, out);
    cJSON_Delete(id);
}

void control_line(unsigned source, struct line *line) {
    static const char *const problems[] = {"", "a line longer than this board takes", "a tensor is no base64",
                                           "all input buffers are in use", "more tensor bytes than the stage takes"};
    if (!take_lock()) {
        return;
    }
    if (line->problem != LINE_FINE) {
        char id[ID_BYTES];
        find_id(line, id);
        if (!repeated(source, id, line->hash)) {
            const char *code = line->problem == LINE_NO_BUFFER  ? "no_slot"
                               : line->problem == LINE_TOO_LONG ? "too_long"
                                                                : "bad_command";
            say_object(source, NULL, refusal(source, id, code, problems[line->problem]));
        }
    } else {
        parse(source, line->text, line->len, line);
    }
    (void)xSemaphoreGive(lock);
}

/* A message of a session: a command, or a piece of an update. */
static void message(const struct item *item) {
    if (item->kind == TS_CONTROL) {
        char *text = large->text;
        size_t len = item->len < LINE_TEXT ? item->len : LINE_TEXT;
        memcpy(text, item->body, len);
        text[len] = '\0';
        node_release(item->session, item->slot);
        if (take_lock()) {
            parse(CONTROL_SESSION + item->session, text, len, NULL);
            (void)xSemaphoreGive(lock);
        }
        return;
    }
    struct ts_blob blob;
    uint32_t next;
    if (item->kind == TS_BLOB && ts_blob_decode(item->body, item->len, &blob)) {
        int code = update_write(blob.id, blob.offset, blob.data, blob.len, &next);
        if (code != TS_OK) {
            ESP_LOGW(TAG, "a piece of an update at %" PRIu32 ": %s", blob.offset, ts_error_name((unsigned)code));
        }
    }
    node_release(item->session, item->slot);
}

void control_ready(void) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "event", "ready");
    cJSON_AddItemToObject(o, "info", info());
    char *text = cJSON_PrintUnformatted(o);
    if (text != NULL) {
        broadcast(text);
    }
    cJSON_free(text);
    cJSON_Delete(o);
    (void)xSemaphoreGive(lock);
}

static void control_task(void *arg) {
    (void)arg;
    ESP_ERROR_CHECK(esp_task_wdt_add(NULL));
    for (;;) {
        struct item item;
        (void)esp_task_wdt_reset();
        if (xQueueReceive(items, &item, pdMS_TO_TICKS(500)) == pdTRUE) {
            if (item.function != NULL) {
                item.function(item.arg);
            } else if (item.result != NULL) {
                report(item.result);
            } else {
                message(&item);
            }
        }
        telemetry_step();
    }
}

void control_start(const char *problem_text) {
    start_problem = problem_text;
    large = heap_caps_calloc_prefer(1, sizeof *large, 2, MALLOC_CAP_SPIRAM | MALLOC_CAP_8BIT, MALLOC_CAP_DEFAULT);
    ESP_ERROR_CHECK(large != NULL ? ESP_OK : ESP_ERR_NO_MEM);
    large->stored = *app_settings();
    lock = xSemaphoreCreateMutexStatic(&lock_memory);
    (void)take_lock(); /* until control_ready */
    once_lock = xSemaphoreCreateMutexStatic(&once_lock_memory);
    (void)snprintf(boot, sizeof boot, "%08" PRIx32 "%08" PRIx32, esp_random(), esp_random());
    items = xQueueCreateStatic(8, sizeof(struct item), items_storage, &items_state);
    static StackType_t stack[STACK_BYTES]; /* static, as the consoles' */
    static StaticTask_t task;
    (void)xTaskCreateStaticPinnedToCore(control_task, "control", STACK_BYTES, NULL, APP_CONTROL_PRIORITY, stack, &task,
                                        APP_RADIO_CORE);
}
