#include "node.h"

#include <stdatomic.h>
#include <string.h>

#include "control.h"
#include "esp_app_desc.h"
#include "esp_heap_caps.h"
#include "esp_log.h"
#include "esp_pm.h"
#include "esp_random.h"
#include "esp_rom_crc.h"
#include "esp_task_wdt.h"
#include "esp_timer.h"
#include "flash.h"
#include "freertos/FreeRTOS.h"
#include "freertos/queue.h"
#include "freertos/semphr.h"
#include "freertos/task.h"
#include "sdkconfig.h"

static const char TAG[] = "node";

#define LINK_STACK 6144
/* ESP-NN keeps quantization of odd channel counts on the stack: 12 bytes a channel, of 1,280 at most where the arena of
 * such a layer fits, and of a few hundred without PSRAM. */
#if CONFIG_SPIRAM
#define ENGINE_STACK 24576
#else
#define ENGINE_STACK 16384
#endif
#define CALL_WAIT_MS 10000
#define SELF_TEST_WAIT_MS 300000
#define SLACK_BYTES 512 /* headers and phase records beside the tensors of a message */
#define TAIL_SESSIONS 4
#define HEAD_SESSIONS 3 /* next stage, two hosts */
#define LEAST_MESSAGE (NODE_RESULT_BYTES + SLACK_BYTES)
#define BRIDGE_MESSAGE 2048
#define BRIDGE_SLOTS 8 /* frames of the host that wait for the radio */

static struct ts_bridge bridge; /* its node is that of the other roles, too */
static struct ts_node *const node = &bridge.node;
static struct ts_bridge_slot bridge_slots[BRIDGE_SLOTS];
static struct ts_node_config config;
static struct ts_link links[2];
static struct ts_job jobs[NODE_JOBS];
static struct ts_session sessions[TAIL_SESSIONS];
static uint8_t frame[LINK_FRAME_BYTES];
static struct ts_coding coding;
static uint8_t *(*pack)(struct ts_node *node, struct ts_job *job, struct ts_tensors *tensors);
static int (*unpack)(struct ts_node *node, struct ts_job *job);
static struct ts_addr next;
static const struct link_port *port;
static bool is_bridge;
static uint16_t next_error;

/* Inferences under way that began here. */
struct run {
    bool used, aborted;
    uint32_t inference, token;
    uint8_t *input; /* to give back; NULL: golden */
    struct ts_tensors tensors;
};
static struct run runs[NODE_JOBS];
static uint32_t next_inference = 1;
static struct node_stamp complete, handed;
static uint32_t auto_left;
static uint64_t auto_at;

static uint8_t *inputs[NODE_JOBS];
static atomic_bool input_used[NODE_JOBS];
static uint32_t input_bytes;

static uint8_t control_bytes[NODE_CONTROL_BYTES];
static bool control_sending;
#define CONTROL_TOKEN 1u

static uint64_t now_us(void) {
    return (uint64_t)esp_timer_get_time();
}

/* --- the engine task --- */

enum engine_order { ORDER_INVOKE, ORDER_SELF_TEST, ORDER_PROFILE_ON, ORDER_PROFILE_OFF };

static QueueHandle_t orders;
static StaticQueue_t orders_state;
static uint8_t orders_storage[4 * sizeof(enum engine_order)];
static SemaphoreHandle_t engine_ready, tested;
static StaticSemaphore_t engine_ready_memory, tested_memory;
static struct ts_invoke *invocation;
static atomic_int invoked = -1; /* code of the run that is done, -1: none */
static int tested_code;
static uint32_t tested_detail;
#if CONFIG_PM_ENABLE
static esp_pm_lock_handle_t full_speed;
#endif

static void full_speed_begin(void) {
#if CONFIG_PM_ENABLE
    if (full_speed != NULL) {
        (void)esp_pm_lock_acquire(full_speed);
    }
#endif
}

static void full_speed_end(void) {
#if CONFIG_PM_ENABLE
    if (full_speed != NULL) {
        (void)esp_pm_lock_release(full_speed);
    }
#endif
}

static void engine_task(void *arg) {
    (void)arg;
    ESP_ERROR_CHECK(esp_task_wdt_add(NULL));
    flash_boot();
    (void)xSemaphoreGive(engine_ready);
    for (;;) {
        enum engine_order order;
        (void)esp_task_wdt_reset();
        if (xQueueReceive(orders, &order, pdMS_TO_TICKS(1000)) != pdTRUE) {
            continue;
        }
        full_speed_begin();
        switch (order) {
        case ORDER_INVOKE: {
            phase_begin(TS_P_INVOKE);
            int code = engine_run(invocation);
            phase_end(TS_P_INVOKE);
            atomic_store(&invoked, code);
            link_wake();
            break;
        }
        case ORDER_SELF_TEST:
            tested_code = engine_self_test(&tested_detail);
            (void)xSemaphoreGive(tested);
            break;
        case ORDER_PROFILE_ON:
        case ORDER_PROFILE_OFF:
            engine_profile(order == ORDER_PROFILE_ON);
            break;
        }
        full_speed_end();
    }
}

void node_start_engine(void) {
    orders = xQueueCreateStatic(4, sizeof(enum engine_order), orders_storage, &orders_state);
    engine_ready = xSemaphoreCreateBinaryStatic(&engine_ready_memory);
    tested = xSemaphoreCreateBinaryStatic(&tested_memory);
#if CONFIG_PM_ENABLE
    if (esp_pm_lock_create(ESP_PM_CPU_FREQ_MAX, 0, "engine", &full_speed) != ESP_OK) {
        full_speed = NULL;
    }
#endif
    BaseType_t made =
        xTaskCreatePinnedToCore(engine_task, "engine", ENGINE_STACK, NULL, APP_ENGINE_PRIORITY, NULL, APP_ENGINE_CORE);
    ESP_ERROR_CHECK(made == pdPASS ? ESP_OK : ESP_ERR_NO_MEM);
    /* Bounded by the watchdog of the engine task. */
    while (xSemaphoreTake(engine_ready, pdMS_TO_TICKS(1000)) != pdTRUE) {
    }
}

int node_self_test(uint32_t *detail) {
    enum engine_order order = ORDER_SELF_TEST;
    (void)xSemaphoreTake(tested, 0); /* of one that nobody waited for any more */
    if (xQueueSend(orders, &order, pdMS_TO_TICKS(CALL_WAIT_MS)) != pdTRUE) {
        return TS_E_BUSY;
    }
    for (uint32_t waited = 0; waited < SELF_TEST_WAIT_MS; waited += 1000) {
        if (xSemaphoreTake(tested, pdMS_TO_TICKS(1000)) == pdTRUE) {
            *detail = tested_detail;
            return tested_code;
        }
        if (esp_task_wdt_status(NULL) == ESP_OK) {
            (void)esp_task_wdt_reset();
        }
    }
    return TS_E_DEADLINE;
}

void node_profile(bool on) {
    enum engine_order order = on ? ORDER_PROFILE_ON : ORDER_PROFILE_OFF;
    (void)xQueueSend(orders, &order, pdMS_TO_TICKS(CALL_WAIT_MS));
}

/* --- input buffers --- */

static void *memory(size_t bytes) {
    /* Small things stay where access is fast; the rest goes to PSRAM where there is some. */
    void *p = bytes > 16384 ? heap_caps_aligned_calloc(16, 1, bytes, MALLOC_CAP_SPIRAM | MALLOC_CAP_8BIT) : NULL;
    return p != NULL ? p : heap_caps_aligned_calloc(16, 1, bytes, MALLOC_CAP_INTERNAL | MALLOC_CAP_8BIT);
}

uint8_t *node_input_take(uint32_t *cap) {
    for (unsigned i = 0; i < NODE_JOBS; i++) {
        if (inputs[i] != NULL && !atomic_exchange(&input_used[i], true)) {
            *cap = input_bytes;
            return inputs[i];
        }
    }
    return NULL;
}

void node_input_give(uint8_t *buffer) {
    for (unsigned i = 0; buffer != NULL && i < NODE_JOBS; i++) {
        if (inputs[i] == buffer) {
            atomic_store(&input_used[i], false);
        }
    }
}

/* --- calls from other tasks, run on the link task --- */

struct call {
    int (*function)(void *arg);
    void *arg;
    int answer;
};
static struct call call;
static atomic_bool called;
static SemaphoreHandle_t call_lock, call_done;
static StaticSemaphore_t call_lock_memory, call_done_memory;

static int on_link_task(int (*function)(void *arg), void *arg) {
    if (call_lock == NULL || xSemaphoreTake(call_lock, pdMS_TO_TICKS(CALL_WAIT_MS)) != pdTRUE) {
        return TS_E_BUSY;
    }
    call = (struct call){.function = function, .arg = arg};
    atomic_store(&called, true);
    link_wake();
    /* The link task answers between two frames, or its watchdog resets the board. */
    while (xSemaphoreTake(call_done, pdMS_TO_TICKS(1000)) != pdTRUE) {
    }
    int answer = call.answer;
    (void)xSemaphoreGive(call_lock);
    return answer;
}

static int infer(uint32_t token, uint8_t *input, uint32_t timeout_ms) {
    struct run *run = NULL;
    for (unsigned i = 0; i < NODE_JOBS && run == NULL; i++) {
        run = runs[i].used || runs[i].input != NULL ? NULL : &runs[i];
    }
    if (run == NULL) {
        return TS_E_NO_SLOT;
    }
    if (!engine_golden(&run->tensors)) {
        return TS_E_REFUSED;
    }
    if (input != NULL) {
        run->tensors.data = input;
    }
    uint32_t inference = next_inference;
    next_inference = inference % 0x7FFFFFFFu + 1;
    int code = ts_node_infer(node, now_us(), inference, &run->tensors, timeout_ms);
    if (code == TS_OK) {
        run->used = true;
        run->aborted = false;
        run->inference = inference;
        run->token = token;
        run->input = input;
    }
    return code;
}

struct run_order {
    uint32_t token, timeout_ms;
    uint8_t *input;
};

static int do_run(void *arg) {
    const struct run_order *order = arg;
    return infer(order->token, order->input, order->timeout_ms);
}

int node_run(uint32_t token, uint8_t *input, uint32_t timeout_ms) {
    struct run_order order = {.token = token, .timeout_ms = timeout_ms, .input = input};
    int code = on_link_task(do_run, &order);
    if (code != TS_OK) {
        node_input_give(input);
    }
    return code;
}

static int do_abort(void *arg) {
    (void)arg;
    int count = 0;
    auto_left = 0;
    for (unsigned i = 0; i < NODE_JOBS; i++) {
        if (runs[i].used && !runs[i].aborted) {
            runs[i].aborted = true; /* whoever aborts answers for it */
            (void)ts_node_cancel(node, now_us(), runs[i].inference);
            count++;
        }
    }
    return count;
}

uint32_t node_abort(void) {
    int count = on_link_task(do_abort, NULL);
    return count > 0 && count <= NODE_JOBS ? (uint32_t)count : 0;
}

static int do_stats(void *arg) {
    struct node_stats *out = arg;
    memset(out, 0, sizeof *out);
    out->link = node->ep.stats;
    out->next_error = next_error;
    out->auto_left = auto_left;
    out->raw_bytes = coding.raw_bytes;
    out->coded_bytes = coding.coded_bytes;
    out->complete = complete;
    out->handed = handed;
    for (uint16_t i = 0; i < config.endpoint.session_count; i++) {
        const struct ts_session *s = &sessions[i];
        out->sessions_up = (uint8_t)(out->sessions_up + (s->state == TS_S_UP));
        if (i == node->downstream && s->state == TS_S_UP) {
            out->next_up = true;
            out->frame_size = s->frame_size;
            out->codec = s->codec;
            out->srtt_us = s->rtt.known ? s->rtt.srtt_us : 0;
            out->clock_known = s->clock.known;
            out->clock_offset_us = s->clock.offset_us;
            out->clock_uncertainty_us = s->clock.uncertainty_us;
            out->clock_age_us = node->ep.now - s->clock.at;
        }
    }
    return TS_OK;
}

void node_stats(struct node_stats *out) {
    if (on_link_task(do_stats, out) != TS_OK) {
        memset(out, 0, sizeof *out);
    }
}

struct control_order {
    uint16_t session;
    const char *text;
    size_t len;
};

static int do_send_control(void *arg) {
    const struct control_order *order = arg;
    if (control_sending) {
        return TS_E_NO_SLOT;
    }
    memcpy(control_bytes, order->text, order->len);
    int code =
        ts_send(&node->ep, now_us(), order->session, TS_CONTROL, control_bytes, (uint32_t)order->len, 0, CONTROL_TOKEN);
    control_sending = code == TS_OK;
    return code;
}

int node_send_control(uint16_t session, const char *text, size_t len) {
    if (len > NODE_CONTROL_BYTES) {
        return TS_E_TOO_LARGE;
    }
    struct control_order order = {.session = session, .text = text, .len = len};
    int code = TS_E_NO_SLOT;
    for (int tries = 0; tries < 100 && code == TS_E_NO_SLOT; tries++) {
        if (tries > 0) {
            vTaskDelay(pdMS_TO_TICKS(20)); /* the one before is on its way */
        }
        code = on_link_task(do_send_control, &order);
    }
    return code;
}

struct release_order {
    uint16_t session;
    uint8_t slot;
};

static int do_release(void *arg) {
    const struct release_order *order = arg;
    ts_release(&node->ep, now_us(), order->session, order->slot);
    return TS_OK;
}

void node_release(uint16_t session, uint8_t slot) {
    struct release_order order = {.session = session, .slot = slot};
    (void)on_link_task(do_release, &order);
}

/* --- the core's callbacks, on the link task --- */

static int send_frame(void *ctx, const struct ts_addr *to, const uint8_t *bytes, size_t len) {
    (void)ctx;
    return to->link == LINK_WIRE ? link_wire.send(to, bytes, len) : port->send(to, bytes, len);
}

/* The ROM's tables: 12 KB of ours would be little faster. Its CRC-16 takes and gives the complement. */
static uint16_t rom_crc16(void *ctx, uint16_t crc, const uint8_t *data, size_t len) {
    (void)ctx;
    return (uint16_t)~esp_rom_crc16_be((uint16_t)~crc, data, (uint32_t)len);
}

static uint32_t rom_crc32(void *ctx, uint32_t crc, const uint8_t *data, size_t len) {
    (void)ctx;
    return esp_rom_crc32_le(crc, data, (uint32_t)len);
}

static uint32_t random_word(void *ctx) {
    (void)ctx;
    return esp_random();
}

static int invoke(void *ctx, struct ts_invoke *run) {
    (void)ctx;
    enum engine_order order = ORDER_INVOKE;
    complete = (struct node_stamp){.inference = run->inference, .at_us = ts_complete_at(node, run)};
    invocation = run;
    return xQueueSend(orders, &order, 0) == pdTRUE ? TS_E_WOULD_BLOCK : TS_E_BUSY;
}

static void add_phases(struct node_result *out, const struct ts_phases *own, const struct ts_tensors *tensors) {
    out->phase_count = ts_phase_write(own, config.endpoint.stage, out->phases[0], TS_PHASES);
    uint8_t theirs = tensors != NULL ? tensors->phase_count : 0;
    theirs = theirs < TS_MAX_PHASES ? theirs : TS_MAX_PHASES;
    if (theirs > 0) {
        memcpy(out->phases[out->phase_count], tensors->phases, (size_t)theirs * TS_PHASE_BYTES);
        out->phase_count = (uint8_t)(out->phase_count + theirs);
    }
}

static void finished(void *ctx, const struct ts_result *result) {
    (void)ctx;
    handed = (struct node_stamp){.inference = result->inference, .at_us = ts_handed_at(node, result)};
    struct run *run = NULL;
    for (unsigned i = 0; i < NODE_JOBS; i++) {
        if (runs[i].used && runs[i].inference == result->inference) {
            run = &runs[i];
        }
    }
    if (run == NULL) {
        return;
    }
    struct node_result *out = run->aborted ? NULL : control_result_take();
    if (out != NULL) {
        memset(out, 0, sizeof *out);
        out->token = run->token;
        out->inference = result->inference;
        out->code = result->code;
        out->stage = result->stage;
        out->fragments_sent = result->fragments_sent;
        out->fragments_resent = result->fragments_resent;
        out->total_us = result->total_us;
        size_t len = result->text_len <= TS_MAX_ERROR_TEXT ? result->text_len : TS_MAX_ERROR_TEXT;
        if (len > 0) {
            memcpy(out->text, result->text, len);
        }
        const struct ts_tensors *t = result->tensors;
        if (t != NULL && t->total > NODE_RESULT_BYTES) {
            out->code = TS_E_TOO_LARGE;
        } else if (t != NULL) {
            out->count = t->count;
            memcpy(out->bytes, t->bytes, sizeof out->bytes);
            memcpy(out->tensors, t->data, t->total);
        }
        add_phases(out, result->phases, t);
        control_result(out);
    }
    /* An engine that still runs (a deadline passed) still reads its input: it is given back when the job is free. */
    run->used = false;
    if (run->input != NULL && node->running < 0) {
        node_input_give(run->input);
        run->input = NULL;
    }
}

/* Inputs of inferences that ended while the engine was at them. */
static void give_late_inputs(void) {
    for (unsigned i = 0; i < NODE_JOBS && node->running < 0; i++) {
        if (!runs[i].used && runs[i].input != NULL) {
            node_input_give(runs[i].input);
            runs[i].input = NULL;
        }
    }
}

static void on_event(void *ctx, const struct ts_event *event) {
    (void)ctx;
    if (event->type == TS_EV_MESSAGE) {
        if (!control_message(event->session, event->slot, event->kind, event->body, event->len)) {
            ts_release(&node->ep, now_us(), event->session, event->slot);
        }
    } else if (event->type == TS_EV_SENT && event->token == CONTROL_TOKEN) {
        control_sending = false;
    } else if (event->session == node->downstream) {
        next_error = event->type == TS_EV_DOWN ? event->code : TS_OK;
    }
}

/* --- the link task --- */

static void show_phases(void) {
    static bool sending, waiting, receiving;
    bool send = false, wait = false, receive = false;
    for (unsigned i = 0; i < config.job_count; i++) {
        send |= jobs[i].state == TS_J_SENDING;
        wait |= jobs[i].state == TS_J_WAITING;
    }
    for (unsigned i = 0; i < config.endpoint.session_count; i++) {
        for (unsigned j = 0; j < TS_RX_SLOTS; j++) {
            receive |= sessions[i].rx[j].state == TS_RX_PARTIAL;
        }
    }
    const struct {
        bool now, *before;
        enum ts_phase phase;
    } pins[] = {{send, &sending, TS_P_SEND}, {wait, &waiting, TS_P_DOWNSTREAM}, {receive, &receiving, TS_P_RECEIVE}};
    for (size_t i = 0; i < sizeof pins / sizeof pins[0]; i++) {
        if (pins[i].now != *pins[i].before) {
            *pins[i].before = pins[i].now;
            (pins[i].now ? phase_begin : phase_end)(pins[i].phase);
        }
    }
}

/* Codec 1, on the link's task: timed, and its pins raised. */

static uint64_t coding_clock(void *ctx) {
    (void)ctx;
    return now_us();
}

static uint8_t *pack_shown(struct ts_node *n, struct ts_job *job, struct ts_tensors *tensors) {
    phase_begin(TS_P_ENCODE);
    uint8_t *packed = pack(n, job, tensors);
    phase_end(TS_P_ENCODE);
    return packed;
}

static int unpack_shown(struct ts_node *n, struct ts_job *job) {
    phase_begin(TS_P_DECODE);
    int code = unpack(n, job);
    phase_end(TS_P_DECODE);
    return code;
}

/* False: no memory. */
static bool offer_codec(uint32_t received) {
    size_t bytes = TS_CODING_MEMORY(NODE_JOBS, received, config.max_output);
    uint8_t *place = memory(bytes);
    if (place == NULL || ts_coding_init(&coding, place, bytes, NODE_JOBS, received, config.max_output) != TS_OK) {
        return false;
    }
    engine_near(coding.near);
    coding.clock_us = coding_clock;
    pack = coding.pack;
    unpack = coding.unpack;
    coding.pack = pack_shown;
    coding.unpack = unpack_shown;
    config.coding = &coding;
    config.endpoint.codecs = TS_CODECS_RAW | TS_CODECS_RANGE;
    return true;
}

/* Inferences on the board's own account; when to look again. */
static uint64_t run_alone(uint64_t now) {
    const struct settings *s = app_settings();
    if (auto_left == 0) {
        return TS_NEVER;
    }
    if (now < auto_at) {
        return auto_at;
    }
    bool busy = runs[0].used || runs[1].used;
    if (s->pipeline == 0 && busy) {
        return TS_NEVER; /* its end wakes this task */
    }
    uint8_t *input = NULL;
    uint32_t cap;
    if (s->input == INPUT_PATTERN) {
        input = node_input_take(&cap);
        if (input == NULL) {
            return TS_NEVER;
        }
        for (uint32_t i = 0; i < cap; i++) {
            input[i] = (uint8_t)i;
        }
    }
    int code = infer(NODE_AUTO, input, s->timeout_ms);
    if (code != TS_OK) {
        node_input_give(input);
        return code == TS_E_NO_SLOT ? TS_NEVER : now + 1000000u;
    }
    if (auto_left != UINT32_MAX) {
        auto_left--;
    }
    auto_at = s->period_ms == 0 ? now : auto_at + s->period_ms * 1000ull;
    auto_at = auto_at + s->period_ms * 1000ull < now ? now : auto_at; /* too slow for the period: no backlog */
    return now;
}

/* Of connections that broke: their peers' sessions need not wait for the idle timeout. */
static void end_sessions(uint32_t places) {
    for (uint8_t place = 0; places != 0; place++, places >>= 1) {
        if ((places & 1u) != 0) {
            const struct ts_addr peer = {.link = LINK_RADIO, .len = 1, .bytes = {place}};
            ts_gone(&node->ep, now_us(), &peer);
        }
    }
}

static void link_task(void *arg) {
    (void)arg;
    ESP_ERROR_CHECK(esp_task_wdt_add(NULL));
    for (;;) {
        uint64_t now = now_us();
        int code = atomic_exchange(&invoked, -1);
        if (code >= 0) {
            config.endpoint.refuse = !is_bridge && !engine_state().proven;
            ts_node_invoked(node, now, &node->run, code);
        }
        uint64_t alone = run_alone(now);
        uint64_t until = is_bridge ? ts_bridge_poll(&bridge, now) : ts_node_poll(node, now);
        until = alone < until ? alone : until;
        give_late_inputs();
        show_phases();
        struct link_rx *rx = link_rx_wait(until);
        end_sessions(link_gone_take());
        if (rx != NULL) {
            if (is_bridge) {
                ts_bridge_on_datagram(&bridge, now_us(), &rx->from, rx->bytes, rx->len);
            } else {
                ts_node_on_datagram(node, now_us(), &rx->from, rx->bytes, rx->len);
            }
            link_rx_give(rx);
        }
        if (atomic_exchange(&called, false)) {
            call.answer = call.function(call.arg);
            (void)xSemaphoreGive(call_done);
        }
        (void)esp_task_wdt_reset();
    }
}

/* --- start --- */

static bool configure(const struct settings *settings, const struct flash_stage *stage) {
    uint32_t bytes[TS_MAX_TENSORS];
    uint8_t count;
    uint32_t received = engine_received(bytes, &count);
    struct engine_state engine = engine_state();
    bool serves = stage != NULL && engine.open && !is_bridge;
    bool head = serves && stage->image.stage == 0;
    struct ts_config *e = &config.endpoint;
    *e = (struct ts_config){.crc = {NULL, rom_crc16, rom_crc32},
                            .send = send_frame,
                            .random = random_word,
                            .role = TS_ROLE_BRIDGE,
                            .stage = TS_NO_STAGE,
                            .accept_control = true,
                            .accept_blob = true,
                            .refuse = !is_bridge && !(serves && engine.proven),
                            .links = links,
                            .link_count = 2,
                            .sessions = sessions,
                            .session_count = HEAD_SESSIONS,
                            .frame = frame,
                            .frame_bytes = sizeof frame,
                            .message_timeout_ms = settings->timeout_ms};
    e->max_message = is_bridge ? BRIDGE_MESSAGE : LEAST_MESSAGE;
    config.event = on_event;
    if (stage != NULL && !is_bridge) {
        uint8_t last = (uint8_t)(stage->image.stage_count - 1u);
        e->stage = stage->image.stage;
        e->stage_count = stage->image.stage_count;
        e->role = e->stage == 0 ? TS_ROLE_HEAD : e->stage == last ? TS_ROLE_TAIL : TS_ROLE_RELAY;
        memcpy(e->bundle, stage->image.bundle, sizeof e->bundle);
        if (!head) {
            e->session_count = TAIL_SESSIONS;
            e->max_message = received + SLACK_BYTES > LEAST_MESSAGE ? received + SLACK_BYTES : LEAST_MESSAGE;
        }
    }
    if (serves) {
        config.jobs = jobs;
        config.job_count = NODE_JOBS;
        config.max_output = engine_sent_bytes();
        config.out_memory_bytes = TS_JOB_MEMORY(NODE_JOBS, config.max_output);
        config.out_memory = memory(config.out_memory_bytes);
        config.invoke = invoke;
        config.result = finished;
        if (head) {
            input_bytes = received;
            for (unsigned i = 0; i < NODE_JOBS; i++) {
                inputs[i] = memory(received);
            }
        }
    }
    e->rx_memory_bytes = TS_RX_MEMORY(e->session_count, e->max_message);
    e->rx_memory = memory(e->rx_memory_bytes);
    bool enough = e->rx_memory != NULL && (!serves || config.out_memory != NULL) &&
                  (!head || (inputs[0] != NULL && inputs[1] != NULL)) &&
                  (!serves || settings->codec == CODEC_RAW || offer_codec(received));
    struct link_identity who = {.role = e->role, .stage = e->stage, .stage_count = e->stage_count};
    memcpy(who.bundle, e->bundle, sizeof who.bundle);
    memcpy(who.version, esp_app_get_description()->version, sizeof who.version - 1);
    link_identify(&who);
    return enough;
}

int node_start(const char **problem) {
    const struct settings *settings = app_settings();
    const struct flash_stage *stage = flash_stage();
    *problem = NULL;
    is_bridge = settings->role == ROLE_BRIDGE;
    call_done = xSemaphoreCreateBinaryStatic(&call_done_memory);
    char scheme[8];
    size_t len = (size_t)(settings_without_scheme(settings->listen) - settings->listen);
    len = len > 3 && len - 3 < sizeof scheme ? len - 3 : 0;
    memcpy(scheme, settings->listen, len);
    scheme[len] = '\0';
    port = link_port_named(scheme);
    if (port == NULL) {
        *problem = "this build has no such transport; udp is used";
        port = &link_udp;
    }
    if (!configure(settings, stage)) {
        *problem = "no memory for the link's buffers";
        return ESP_ERR_NO_MEM;
    }
    esp_err_t code = link_init();
    code = code == ESP_OK ? link_wire.start(settings, &links[LINK_WIRE]) : code;
    if (code != ESP_OK) {
        *problem = "the link task's queue cannot be made";
        return code;
    }
    esp_err_t radio = port->start(settings, &links[LINK_RADIO]);
    if (radio != ESP_OK) {
        /* Control over the console goes on; the port's describe says more. */
        *problem = radio == ESP_ERR_NO_MEM ? "no memory for the transport" : "the transport did not start";
        ESP_LOGE(TAG, "%s: %s", port->name, esp_err_to_name(radio));
        if (links[LINK_RADIO].mtu < TS_MIN_MTU) {
            links[LINK_RADIO] = links[LINK_WIRE];
        }
    }
    if (settings->mtu != 0 && settings->mtu < links[LINK_RADIO].mtu) {
        links[LINK_RADIO].mtu = (uint16_t)settings->mtu;
    }
    if (settings->window != 0 && settings->window < links[LINK_RADIO].window) {
        links[LINK_RADIO].window = (uint16_t)settings->window;
    }
    bool downstream = config.job_count > 0 && config.endpoint.role != TS_ROLE_TAIL;
    if (downstream && settings->next[0] == '\0') {
        *problem = "next is not set: this stage has nobody to send to";
    } else if (downstream && radio == ESP_OK && port->peer(settings_without_scheme(settings->next), &next)) {
        config.downstream = &next;
    } else if (downstream && radio == ESP_OK) {
        *problem = "next is no address of this transport";
    }
    int started = is_bridge ? ts_bridge_init(&bridge, &config, LINK_WIRE, LINK_RADIO, now_us())
                            : ts_node_init(node, &config, now_us());
    if (started != TS_OK) {
        *problem = "the core refuses its settings";
        ESP_LOGE(TAG, "%s", ts_error_name((unsigned)started));
        return ESP_ERR_INVALID_STATE;
    }
    if (is_bridge) {
        uint8_t *frames = memory((size_t)BRIDGE_SLOTS * links[LINK_RADIO].mtu);
        if (frames == NULL) {
            *problem = "no memory for the link's buffers";
            return ESP_ERR_NO_MEM;
        }
        for (unsigned i = 0; i < BRIDGE_SLOTS; i++) {
            bridge_slots[i].frame = frames + (size_t)i * links[LINK_RADIO].mtu;
        }
        ts_bridge_queue(&bridge, bridge_slots, BRIDGE_SLOTS);
    }
    auto_left = config.endpoint.role == TS_ROLE_HEAD ? settings->iterations : 0;
    auto_at = now_us() + 1000000u;
    BaseType_t made =
        xTaskCreatePinnedToCore(link_task, "link", LINK_STACK, NULL, APP_LINK_PRIORITY, NULL, APP_RADIO_CORE);
    if (made != pdPASS) {
        *problem = "no memory for the link task";
        return ESP_ERR_NO_MEM;
    }
    call_lock = xSemaphoreCreateMutexStatic(&call_lock_memory); /* from here on there is somebody who answers */
    return ESP_OK;
}

const struct link_port *node_port(void) {
    return port;
}
