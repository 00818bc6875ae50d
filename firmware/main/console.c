#include "console.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "control.h"
#include "driver/uart.h"
#include "driver/uart_vfs.h"
#include "driver/usb_serial_jtag.h"
#include "esp_heap_caps.h"
#include "esp_log.h"
#include "esp_task_wdt.h"
#include "freertos/FreeRTOS.h"
#include "freertos/semphr.h"
#include "freertos/task.h"
#include "line.h"
#include "link.h"
#include "sdkconfig.h"
#include "tinysplit/stream.h"

/* Of each of the two; frames of a bridge are up to 3 KB with their stuffing. */
#if CONFIG_SPIRAM
#define RX_BYTES 8192
#define TX_BYTES 8192
#else
#define RX_BYTES 4096
#define TX_BYTES 4096
#endif
#define READ_BYTES 512
#define LOG_BYTES 320
#define STACK_BYTES 8192 /* a signature is verified on it */
#define WRITE_WAIT_MS 2000
#define SILENCE_MS 100 /* SPEC.md section 9.1 */
#define USB 1

static SemaphoreHandle_t write_lock[CONSOLES], log_lock;
static StaticSemaphore_t write_lock_memory[CONSOLES], log_lock_memory;
/* Static, so that a board whose radio took the rest of the memory can still be told other settings. */
#if CONFIG_TINYSPLIT_USB_CONSOLE
static StackType_t stacks[CONSOLES][STACK_BYTES];
#else
static StackType_t stacks[1][STACK_BYTES];
#endif
static StaticTask_t tasks[CONSOLES];
static struct input {
    struct line line;
    struct ts_wire wire;
    uint8_t memory[TS_WIRE_MAX(LINK_FRAME_BYTES)];
} *inputs[CONSOLES];                                   /* in PSRAM where there is some */
static uint8_t stuffed[TS_WIRE_MAX(LINK_FRAME_BYTES)]; /* the link task's */
static const struct ts_crc crc = {NULL, ts_crc16_small, ts_crc32_small};
static atomic_bool framed[CONSOLES]; /* frames were sent there */
static bool present[CONSOLES];

static bool usable(unsigned console) {
    if (console >= CONSOLES || !present[console]) {
        return false;
    }
#if CONFIG_TINYSPLIT_USB_CONSOLE
    if (console == USB) {
        return usb_serial_jtag_is_connected();
    }
#endif
    return true;
}

/* Writes all, or as much as gets out in ticks. */
static void put(unsigned console, const void *bytes, size_t len, TickType_t ticks) {
#if CONFIG_TINYSPLIT_USB_CONSOLE
    if (console == USB) {
        const uint8_t *at = bytes;
        while (len > 0) {
            int n = usb_serial_jtag_write_bytes(at, len < TX_BYTES / 2 ? len : TX_BYTES / 2, ticks);
            if (n <= 0) {
                return; /* nobody reads */
            }
            at += n;
            len -= (size_t)n;
        }
        return;
    }
#endif
    (void)console;
    (void)ticks; /* a UART always goes on sending: this waits for the wire's speed, not for a reader */
    (void)uart_write_bytes(UART_NUM_0, bytes, len);
}

static void put_line(unsigned console, const char *text, size_t len, TickType_t ticks) {
    if (atomic_load(&framed[console])) {
        put(console, TS_WIRE_SYNC, TS_WIRE_SYNC_BYTES, ticks);
    }
    put(console, text, len, ticks);
}

void console_line(unsigned console, const char *text) {
    if (!usable(console) || xSemaphoreTake(write_lock[console], pdMS_TO_TICKS(WRITE_WAIT_MS)) != pdTRUE) {
        return;
    }
    put_line(console, text, strlen(text), pdMS_TO_TICKS(WRITE_WAIT_MS));
    put(console, "\n", 1, pdMS_TO_TICKS(WRITE_WAIT_MS));
    (void)xSemaphoreGive(write_lock[console]);
}

/* The log: formatted whole, so that it never lies between the bytes of a line or a frame. */
static int log_text(const char *format, va_list arguments) {
    static char text[LOG_BYTES]; /* some tasks that log have little stack */
    if (xSemaphoreTake(log_lock, pdMS_TO_TICKS(50)) != pdTRUE) {
        return 0;
    }
    int n = vsnprintf(text, sizeof text, format, arguments);
    if (n <= 0) {
        (void)xSemaphoreGive(log_lock);
        return n;
    }
    size_t len = (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    if ((size_t)n >= sizeof text) {
        text[len - 1] = '\n';
    }
    for (unsigned i = 0; i < CONSOLES; i++) {
        /* The log gives way: a console that is busy for long loses lines of it. */
        if (usable(i) && xSemaphoreTake(write_lock[i], pdMS_TO_TICKS(20)) == pdTRUE) {
            put_line(i, text, len, pdMS_TO_TICKS(20));
            (void)xSemaphoreGive(write_lock[i]);
        }
    }
    (void)xSemaphoreGive(log_lock);
    return n;
}

int console_send_frame(unsigned console, const uint8_t *frame, size_t len) {
    if (!usable(console) || len > LINK_FRAME_BYTES) {
        return TS_E_SEND_FAILED;
    }
    size_t room = 0;
    if (console != USB) {
        (void)uart_get_tx_buffer_free_size(UART_NUM_0, &room);
        if (room < TS_WIRE_MAX(len)) {
            return TS_E_WOULD_BLOCK;
        }
    }
    if (xSemaphoreTake(write_lock[console], 0) != pdTRUE) {
        return TS_E_WOULD_BLOCK;
    }
    size_t n = ts_wire_encode(&crc, frame, len, stuffed);
    atomic_store(&framed[console], true);
    int code = TS_OK;
#if CONFIG_TINYSPLIT_USB_CONSOLE
    if (console == USB) {
        /* Takes all or nothing: it goes into a ring buffer as one piece. */
        code = usb_serial_jtag_write_bytes(stuffed, n, 0) == (int)n ? TS_OK : TS_E_WOULD_BLOCK;
    }
#endif
    if (console != USB) {
        (void)uart_write_bytes(UART_NUM_0, stuffed, n);
    }
    (void)xSemaphoreGive(write_lock[console]);
    return code;
}

static int get(unsigned console, uint8_t *out, size_t cap, TickType_t ticks) {
#if CONFIG_TINYSPLIT_USB_CONSOLE
    if (console == USB) {
        return usb_serial_jtag_read_bytes(out, cap, ticks);
    }
#endif
    (void)console;
    int n = uart_read_bytes(UART_NUM_0, out, 1, ticks);
    size_t more = 0;
    if (n == 1 && uart_get_buffered_data_len(UART_NUM_0, &more) == ESP_OK && more > 0) {
        int rest = uart_read_bytes(UART_NUM_0, out + 1, more < cap - 1 ? more : cap - 1, 0);
        n += rest > 0 ? rest : 0;
    }
    return n;
}

static void on_frame(void *ctx, const uint8_t *frame, size_t len) {
    wire_received(*(const unsigned *)ctx, frame, len);
}

static void on_text(void *ctx, const uint8_t *text, size_t len) {
    unsigned console = *(const unsigned *)ctx;
    for (size_t i = 0; i < len; i++) {
        if (line_byte(&inputs[console]->line, text[i])) {
            control_line(console, &inputs[console]->line);
            line_clear(&inputs[console]->line);
        }
    }
}

static void listen_task(void *arg) {
    unsigned console = (unsigned)(uintptr_t)arg;
    uint8_t bytes[READ_BYTES];
    ESP_ERROR_CHECK(esp_task_wdt_add(NULL));
    for (;;) {
        struct ts_wire *wire = &inputs[console]->wire;
        int n = get(console, bytes, sizeof bytes, pdMS_TO_TICKS(wire->collecting ? SILENCE_MS : 1000));
        (void)esp_task_wdt_reset();
        if (n > 0) {
            ts_wire_read(wire, bytes, (size_t)n, on_frame, on_text, &console);
        } else {
            ts_wire_silence(wire, on_text, &console);
        }
    }
}

void console_start(void) {
    log_lock = xSemaphoreCreateMutexStatic(&log_lock_memory);
    for (unsigned i = 0; i < CONSOLES; i++) {
        write_lock[i] = xSemaphoreCreateMutexStatic(&write_lock_memory[i]);
    }
    present[0] = uart_driver_install(UART_NUM_0, RX_BYTES, TX_BYTES, 0, NULL, 0) == ESP_OK;
    if (present[0]) {
        (void)uart_set_baudrate(UART_NUM_0, CONFIG_TINYSPLIT_CONSOLE_BAUD);
        uart_vfs_dev_use_driver(UART_NUM_0); /* what others print goes the same way */
    }
#if CONFIG_TINYSPLIT_USB_CONSOLE
    usb_serial_jtag_driver_config_t usb = {.tx_buffer_size = TX_BYTES, .rx_buffer_size = RX_BYTES};
    present[USB] = usb_serial_jtag_driver_install(&usb) == ESP_OK;
#endif
    (void)esp_log_set_vprintf(log_text);
}

void console_listen(void) {
    for (unsigned i = 0; i < CONSOLES; i++) {
        if (present[i]) {
            inputs[i] = heap_caps_calloc_prefer(1, sizeof *inputs[i], 2, MALLOC_CAP_SPIRAM | MALLOC_CAP_8BIT,
                                                MALLOC_CAP_DEFAULT);
            ESP_ERROR_CHECK(inputs[i] != NULL ? ESP_OK : ESP_ERR_NO_MEM);
            line_init(&inputs[i]->line, &control_sink);
            ts_wire_init(&inputs[i]->wire, &crc, inputs[i]->memory, LINK_FRAME_BYTES);
            (void)xTaskCreateStaticPinnedToCore(listen_task, i == USB ? "usb" : "uart", STACK_BYTES,
                                                (void *)(uintptr_t)i, APP_CONTROL_PRIORITY, stacks[i], &tasks[i],
                                                APP_RADIO_CORE);
        }
    }
}
