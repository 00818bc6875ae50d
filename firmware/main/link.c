#include "link.h"

#include <stdatomic.h>
#include <string.h>

#include "esp_heap_caps.h"
#include "esp_timer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/queue.h"
#include "sdkconfig.h"

/* The queues carry pointers into the pool; NULL in the inbox is a wake-up. */
#if CONFIG_SPIRAM
static struct link_rx *pool; /* there: the radios need the internal memory */
#else
static struct link_rx pool[LINK_RX_FRAMES];
#endif
static StaticQueue_t free_state, inbox_state;
static uint8_t free_storage[LINK_RX_FRAMES * sizeof(struct link_rx *)];
static uint8_t inbox_storage[(LINK_RX_FRAMES + 1u) * sizeof(struct link_rx *)];
static QueueHandle_t free_frames, inbox;
static atomic_bool waking; /* a NULL is in the inbox */
static atomic_uint ended;  /* connections, a bit each */
static esp_timer_handle_t alarm_timer;
static link_flush_fn flushers[LINK_PORTS];
static struct link_identity identity = {
    .role = TS_ROLE_BRIDGE, .stage = TS_NO_STAGE, .stage_count = 0, .version = "0.0.0"};

static void alarm_due(void *arg) {
    (void)arg;
    link_wake();
}

esp_err_t link_init(void) {
    free_frames = xQueueCreateStatic(LINK_RX_FRAMES, sizeof(struct link_rx *), free_storage, &free_state);
    inbox = xQueueCreateStatic(LINK_RX_FRAMES + 1u, sizeof(struct link_rx *), inbox_storage, &inbox_state);
#if CONFIG_SPIRAM
    if (pool == NULL) {
        pool = heap_caps_calloc_prefer(LINK_RX_FRAMES, sizeof *pool, 2, MALLOC_CAP_SPIRAM | MALLOC_CAP_8BIT,
                                       MALLOC_CAP_DEFAULT);
    }
    if (pool == NULL) {
        return ESP_ERR_NO_MEM;
    }
#endif
    if (free_frames == NULL || inbox == NULL) {
        return ESP_ERR_NO_MEM;
    }
    atomic_store(&waking, false);
    atomic_store(&ended, 0);
    for (size_t i = 0; i < LINK_RX_FRAMES; i++) {
        link_rx_give(&pool[i]);
    }
    const esp_timer_create_args_t args = {.callback = alarm_due, .name = "link"};
    return esp_timer_create(&args, &alarm_timer);
}

struct link_rx *link_rx_take(void) {
    struct link_rx *rx = NULL;
    return xQueueReceive(free_frames, &rx, 0) == pdTRUE ? rx : NULL;
}

void link_rx_give(struct link_rx *rx) {
    (void)xQueueSend(free_frames, &rx, 0); /* has room for the whole pool */
}

void link_rx_post(struct link_rx *rx) {
    (void)xQueueSend(inbox, &rx, 0); /* has room for the whole pool and one wake-up */
}

void link_wake(void) {
    if (!atomic_exchange(&waking, true)) {
        struct link_rx *none = NULL;
        (void)xQueueSend(inbox, &none, 0);
    }
}

void link_gone(uint8_t place) {
    (void)atomic_fetch_or(&ended, 1u << place);
    link_wake();
}

uint32_t link_gone_take(void) {
    return atomic_exchange(&ended, 0);
}

void link_on_wait(uint8_t link, link_flush_fn flush) {
    flushers[link] = flush;
}

struct link_rx *link_rx_wait(uint64_t until_us) {
    bool waits = false;
    for (size_t i = 0; i < LINK_PORTS; i++) {
        waits |= flushers[i] != NULL && flushers[i]();
    }
    uint64_t now = (uint64_t)esp_timer_get_time();
    if (waits && until_us > now + LINK_RETRY_US) {
        until_us = now + LINK_RETRY_US;
    }
    struct link_rx *rx = NULL;
    TickType_t ticks = 0;
    bool alarm = false;
    if (until_us > now) {
        /* Pacing and acknowledgements are a matter of microseconds, ticks of milliseconds: esp_timer keeps the time. */
        ticks = pdMS_TO_TICKS(LINK_WAIT_MS);
        alarm = until_us - now < LINK_WAIT_MS * 1000u && esp_timer_start_once(alarm_timer, until_us - now) == ESP_OK;
        if (!alarm && until_us - now < LINK_WAIT_MS * 1000u) {
            ticks = 1;
        }
    }
    if (xQueueReceive(inbox, &rx, ticks) != pdTRUE) {
        rx = NULL;
    } else if (rx == NULL) {
        atomic_store(&waking, false);
    }
    if (alarm) {
        (void)esp_timer_stop(alarm_timer); /* ESP_ERR_INVALID_STATE if it has just rung */
    }
    return rx;
}

void link_identify(const struct link_identity *who) {
    identity = *who;
}

const struct link_identity *link_identity(void) {
    return &identity;
}

const struct link_port *link_port_named(const char *scheme) {
    static const struct link_port *const ports[] = {
        &link_udp,
        &link_tcp,
#if CONFIG_TINYSPLIT_WIFI
        &link_espnow,
#endif
#if CONFIG_TINYSPLIT_BLE
        &link_ble,
#endif
    };
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++) {
        if (strcmp(ports[i]->name, scheme) == 0) {
            return ports[i];
        }
    }
    return NULL;
}
