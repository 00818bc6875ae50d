#include "fake_system.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "esp_random.h"
#include "esp_task_wdt.h"
#include "esp_timer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/queue.h"
#include "freertos/semphr.h"
#include "freertos/task.h"

/* --- time --- */

#define TIMERS 8

struct esp_timer {
    esp_timer_create_args_t args;
    bool used, running;
    uint64_t due;
};

static struct esp_timer timers[TIMERS];
static pthread_mutex_t timer_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t timer_change;
static pthread_once_t timer_once = PTHREAD_ONCE_INIT;
static atomic_bool stopped;
static _Atomic uint64_t clock_us; /* while stopped */
static _Atomic uint64_t skipped;

static uint64_t pc_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static uint64_t now_us(void) {
    return atomic_load(&stopped) ? atomic_load(&clock_us) : pc_us() + atomic_load(&skipped);
}

/* An hour ago: the emulator's clock outlasts a restart, so nothing may take it for the time since the start. */
#define OLD_US 3600000000u
static uint64_t started_us;

__attribute__((constructor)) static void start_clock(void) {
    started_us = now_us() - OLD_US;
}

int64_t esp_timer_get_time(void) {
    return (int64_t)(now_us() - started_us);
}

static struct esp_timer *earliest(void) {
    struct esp_timer *first = NULL;
    for (int i = 0; i < TIMERS; i++) {
        if (timers[i].running && (first == NULL || timers[i].due < first->due)) {
            first = &timers[i];
        }
    }
    return first;
}

/* Rings the timers of a running clock. */
static void *timer_thread(void *arg) {
    (void)arg;
    pthread_mutex_lock(&timer_lock);
    for (;;) {
        struct esp_timer *t = earliest();
        uint64_t now = now_us();
        if (t == NULL || atomic_load(&stopped)) {
            pthread_cond_wait(&timer_change, &timer_lock);
        } else if (t->due > now) {
            uint64_t until = pc_us() + (t->due - now);
            struct timespec at = {.tv_sec = (time_t)(until / 1000000u), .tv_nsec = (long)(until % 1000000u * 1000u)};
            pthread_cond_timedwait(&timer_change, &timer_lock, &at);
        } else {
            t->running = false;
            pthread_mutex_unlock(&timer_lock);
            t->args.callback(t->args.arg);
            pthread_mutex_lock(&timer_lock);
        }
    }
    return NULL;
}

static void start_timers(void) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&timer_change, &monotonic);
    pthread_t thread;
    pthread_create(&thread, NULL, timer_thread, NULL);
    pthread_detach(thread);
}

esp_err_t esp_timer_create(const esp_timer_create_args_t *args, esp_timer_handle_t *timer) {
    pthread_once(&timer_once, start_timers);
    for (int i = 0; i < TIMERS; i++) {
        if (!timers[i].used) {
            timers[i] = (struct esp_timer){.args = *args, .used = true};
            *timer = &timers[i];
            return ESP_OK;
        }
    }
    return ESP_ERR_NO_MEM;
}

esp_err_t esp_timer_start_once(esp_timer_handle_t timer, uint64_t us) {
    pthread_mutex_lock(&timer_lock);
    bool was_running = timer->running;
    if (!was_running) {
        timer->running = true;
        timer->due = now_us() + us;
        pthread_cond_signal(&timer_change);
    }
    pthread_mutex_unlock(&timer_lock);
    return was_running ? ESP_ERR_INVALID_STATE : ESP_OK;
}

esp_err_t esp_timer_stop(esp_timer_handle_t timer) {
    pthread_mutex_lock(&timer_lock);
    bool was_running = timer->running;
    timer->running = false;
    pthread_mutex_unlock(&timer_lock);
    return was_running ? ESP_OK : ESP_ERR_INVALID_STATE;
}

void fake_clock_stop(uint64_t at_us) {
    atomic_store(&clock_us, at_us);
    atomic_store(&stopped, true);
    for (int i = 0; i < TIMERS; i++) {
        timers[i].running = false;
    }
}

void fake_advance(uint64_t us) {
    uint64_t end = now_us() + us;
    for (struct esp_timer *t = earliest(); t != NULL && t->due <= end; t = earliest()) {
        atomic_store(&clock_us, t->due);
        t->running = false;
        t->args.callback(t->args.arg);
    }
    atomic_store(&clock_us, end);
}

void fake_clock_skip(uint64_t us) {
    atomic_fetch_add(&skipped, us);
}

uint64_t fake_next_timer(void) {
    struct esp_timer *t = earliest();
    return t == NULL ? UINT64_MAX : t->due - now_us();
}

/* --- queues and mutexes --- */

struct QueueDefinition {
    pthread_mutex_t lock;
    pthread_cond_t change;
    uint8_t *storage;
    unsigned length, item, first, count;
};
_Static_assert(sizeof(struct QueueDefinition) <= sizeof(StaticQueue_t), "idf.h gives a queue too little room");

QueueHandle_t xQueueGenericCreateStatic(const UBaseType_t length, const UBaseType_t item, uint8_t *storage,
                                        StaticQueue_t *state, const uint8_t type) {
    (void)type;
    struct QueueDefinition *q = (struct QueueDefinition *)state;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    *q = (struct QueueDefinition){.storage = storage, .length = length, .item = item};
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->change, &monotonic);
    return q;
}

/* Waits until `ready`; false after the ticks. Under the lock. */
static bool wait_for(QueueHandle_t q, bool (*ready)(QueueHandle_t), TickType_t ticks) {
    uint64_t until = pc_us() + (uint64_t)ticks * 1000u;
    struct timespec at = {.tv_sec = (time_t)(until / 1000000u), .tv_nsec = (long)(until % 1000000u * 1000u)};
    while (!ready(q)) {
        if (ticks == 0 || (ticks == portMAX_DELAY ? pthread_cond_wait(&q->change, &q->lock)
                                                  : pthread_cond_timedwait(&q->change, &q->lock, &at)) == ETIMEDOUT) {
            return ready(q);
        }
    }
    return true;
}

static bool has_room(QueueHandle_t q) {
    return q->count < q->length;
}

static bool has_items(QueueHandle_t q) {
    return q->count > 0;
}

BaseType_t xQueueGenericSend(QueueHandle_t q, const void *const item, TickType_t ticks, const BaseType_t place) {
    assert(place == 0);
    pthread_mutex_lock(&q->lock);
    bool fits = wait_for(q, has_room, ticks);
    if (fits) {
        if (q->item > 0) {
            memcpy(q->storage + (q->first + q->count) % q->length * q->item, item, q->item);
        }
        q->count++;
        pthread_cond_broadcast(&q->change);
    }
    pthread_mutex_unlock(&q->lock);
    return fits ? pdTRUE : pdFALSE;
}

BaseType_t xQueueReceive(QueueHandle_t q, void *const item, TickType_t ticks) {
    pthread_mutex_lock(&q->lock);
    bool there = wait_for(q, has_items, ticks);
    if (there) {
        if (q->item > 0) {
            memcpy(item, q->storage + q->first * q->item, q->item);
        }
        q->first = (q->first + 1) % q->length;
        q->count--;
        pthread_cond_broadcast(&q->change);
    }
    pthread_mutex_unlock(&q->lock);
    return there ? pdTRUE : pdFALSE;
}

QueueHandle_t xQueueCreateMutexStatic(const uint8_t type, StaticQueue_t *state) {
    QueueHandle_t q = xQueueGenericCreateStatic(1, 0, NULL, state, type);
    q->count = 1;
    return q;
}

BaseType_t xQueueSemaphoreTake(QueueHandle_t q, TickType_t ticks) {
    return xQueueReceive(q, NULL, ticks);
}

/* --- tasks --- */

struct task {
    TaskFunction_t function;
    void *arg;
};

static atomic_int running, watched;
static _Thread_local bool in_watch;

/* Names of tasks that were made, for xTaskGetHandle. */
#define NAMES 24
static struct tskTaskControlBlock {
    char name[16];
} names[NAMES];
static atomic_uint named;

static void note_name(const char *name) {
    unsigned index = atomic_fetch_add(&named, 1);
    assert(strlen(name) < sizeof names[0].name);
    if (index < NAMES) { /* tests that start and stop a task often need no names */
        strcpy(names[index].name, name);
    }
}

static void ended(void *arg) {
    (void)arg;
    assert(!in_watch); /* a task that ends must have left the watchdog's care */
    atomic_fetch_sub(&running, 1);
}

static void *run_task(void *arg) {
    struct task task = *(struct task *)arg;
    free(arg);
    pthread_cleanup_push(ended, NULL);
    task.function(task.arg);
    abort(); /* a FreeRTOS task must not return */
    pthread_cleanup_pop(0);
    return NULL;
}

TaskHandle_t xTaskCreateStaticPinnedToCore(TaskFunction_t function, const char *const name, const uint32_t stack_bytes,
                                           void *const arg, UBaseType_t priority, StackType_t *const stack,
                                           StaticTask_t *const state, const BaseType_t core) {
    assert(name != NULL && stack_bytes >= 2048 && stack != NULL && state != NULL && priority < 25 &&
           (core == 0 || core == 1));
    note_name(name);
    struct task *task = malloc(sizeof *task);
    *task = (struct task){.function = function, .arg = arg};
    atomic_fetch_add(&running, 1);
    pthread_t thread;
    if (pthread_create(&thread, NULL, run_task, task) != 0) {
        abort();
    }
    pthread_detach(thread);
    return (TaskHandle_t)state;
}

bool fake_radio_takes_all;
atomic_bool fake_memory_gone;

BaseType_t xTaskCreatePinnedToCore(TaskFunction_t function, const char *const name, const uint32_t stack_bytes,
                                   void *const arg, UBaseType_t priority, TaskHandle_t *const handle,
                                   const BaseType_t core) {
    static StaticTask_t states[NAMES];
    static atomic_uint made;
    unsigned index = atomic_fetch_add(&made, 1);
    assert(handle == NULL && index < NAMES);
    if (atomic_load(&fake_memory_gone)) {
        return pdFALSE;
    }
    StackType_t stack;
    (void)xTaskCreateStaticPinnedToCore(function, name, stack_bytes, arg, priority, &stack, &states[index], core);
    return pdPASS;
}

TaskHandle_t xTaskGetHandle(const char *name) {
    for (unsigned i = 0; i < atomic_load(&named) && i < NAMES; i++) {
        if (strcmp(names[i].name, name) == 0) {
            return &names[i];
        }
    }
    return NULL;
}

UBaseType_t uxTaskGetStackHighWaterMark(TaskHandle_t task) {
    assert(task != NULL);
    return 1000;
}

void vTaskDelete(TaskHandle_t task) {
    assert(task == NULL);
    pthread_exit(NULL);
}

void vTaskDelay(const TickType_t ticks) {
    struct timespec wait = {.tv_sec = ticks / 1000, .tv_nsec = (long)(ticks % 1000) * 1000000};
    nanosleep(&wait, NULL);
}

/* When each task in the watchdog's care was last seen, ms; 0: none is there. */
static _Atomic uint64_t seen[NAMES];
static _Thread_local unsigned own_place;
uint32_t fake_watchdog_ms;

static uint64_t watch_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

esp_err_t esp_task_wdt_add(TaskHandle_t task) {
    assert(task == NULL && !in_watch);
    uint64_t none = 0;
    for (own_place = 0; !atomic_compare_exchange_strong(&seen[own_place], &none, watch_ms()); own_place++) {
        assert(own_place + 1 < NAMES);
        none = 0;
    }
    in_watch = true;
    atomic_fetch_add(&watched, 1);
    return ESP_OK;
}

esp_err_t esp_task_wdt_delete(TaskHandle_t task) {
    assert(task == NULL && in_watch);
    in_watch = false;
    atomic_store(&seen[own_place], 0);
    atomic_fetch_sub(&watched, 1);
    return ESP_OK;
}

/* Whoever is still awake looks after the others. */
esp_err_t esp_task_wdt_reset(void) {
    assert(in_watch);
    uint64_t now = watch_ms();
    atomic_store(&seen[own_place], now);
    for (unsigned i = 0; fake_watchdog_ms != 0 && i < NAMES; i++) {
        uint64_t last = atomic_load(&seen[i]);
        if (last != 0 && now > last && now - last > fake_watchdog_ms) {
            (void)fprintf(stderr, "the task watchdog: a task was silent for %u ms\n", (unsigned)(now - last));
            _exit(1);
        }
    }
    return ESP_OK;
}

esp_err_t esp_task_wdt_status(TaskHandle_t task) {
    assert(task == NULL);
    return in_watch ? ESP_OK : ESP_ERR_NOT_FOUND;
}

int fake_watched_tasks(void) {
    return atomic_load(&watched);
}

int fake_running_tasks(void) {
    return atomic_load(&running);
}

_Atomic uint32_t fake_random = 1;

uint32_t esp_random(void) {
    return atomic_fetch_add(&fake_random, 0x9e3779b9u) * 2654435761u;
}
