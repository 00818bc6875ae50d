/* What the board of board_main.c has around it: UART0 is the PC's standard input and output, nothing is on USB, I2C is
 * empty, and pins go nowhere. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "driver/gpio.h"
#include "driver/i2c_master.h"
#include "driver/temperature_sensor.h"
#include "driver/uart.h"
#include "driver/uart_vfs.h"
#include "driver/usb_serial_jtag.h"
#include "esp_pm.h"

/* --- UART0 --- */

esp_err_t uart_driver_install(uart_port_t port, int rx_bytes, int tx_bytes, int events, QueueHandle_t *queue,
                              int flags) {
    (void)flags;
    return port == UART_NUM_0 && rx_bytes > 128 && tx_bytes > 128 && events == 0 && queue == NULL ? ESP_OK : ESP_FAIL;
}
esp_err_t uart_set_baudrate(uart_port_t port, uint32_t baud) {
    (void)port;
    return baud > 0 ? ESP_OK : ESP_FAIL;
}
void uart_vfs_dev_use_driver(int port) {
    (void)port;
}
esp_err_t uart_get_buffered_data_len(uart_port_t port, size_t *len) {
    (void)port;
    int waiting = 0;
    (void)ioctl(STDIN_FILENO, FIONREAD, &waiting);
    *len = (size_t)waiting;
    return ESP_OK;
}
esp_err_t uart_get_tx_buffer_free_size(uart_port_t port, size_t *len) {
    (void)port;
    *len = 8192;
    return ESP_OK;
}
int uart_read_bytes(uart_port_t port, void *out, uint32_t len, TickType_t ticks) {
    (void)port;
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&in, 1, (int)ticks) <= 0) {
        return 0;
    }
    ssize_t got = read(STDIN_FILENO, out, len);
    if (got == 0) {
        _exit(0); /* whoever held the other end is gone */
    }
    return got > 0 ? (int)got : 0;
}
int uart_write_bytes(uart_port_t port, const void *data, size_t len) {
    (void)port;
    for (size_t at = 0; at < len;) {
        ssize_t n = write(STDOUT_FILENO, (const char *)data + at, len - at);
        if (n < 0 && errno != EINTR) {
            _exit(0);
        }
        at += n > 0 ? (size_t)n : 0;
    }
    return (int)len;
}

/* --- nothing there --- */

esp_err_t usb_serial_jtag_driver_install(usb_serial_jtag_driver_config_t *config) {
    (void)config;
    return ESP_FAIL;
}
bool usb_serial_jtag_is_connected(void) {
    return false;
}
int usb_serial_jtag_read_bytes(void *out, uint32_t len, TickType_t ticks) {
    (void)out;
    (void)len;
    (void)ticks;
    return 0;
}
int usb_serial_jtag_write_bytes(const void *data, size_t len, TickType_t ticks) {
    (void)data;
    (void)len;
    (void)ticks;
    return 0;
}
esp_err_t i2c_new_master_bus(const i2c_master_bus_config_t *config, i2c_master_bus_handle_t *bus) {
    (void)config;
    *bus = NULL;
    return ESP_OK;
}
esp_err_t i2c_master_probe(i2c_master_bus_handle_t bus, uint16_t address, int timeout_ms) {
    (void)bus;
    (void)address;
    (void)timeout_ms;
    return ESP_ERR_NOT_FOUND;
}
esp_err_t i2c_master_bus_add_device(i2c_master_bus_handle_t bus, const i2c_device_config_t *config,
                                    i2c_master_dev_handle_t *device) {
    (void)bus;
    (void)config;
    (void)device;
    return ESP_FAIL;
}
esp_err_t i2c_master_transmit(i2c_master_dev_handle_t device, const uint8_t *data, size_t len, int timeout_ms) {
    (void)device;
    (void)data;
    (void)len;
    (void)timeout_ms;
    return ESP_FAIL;
}
esp_err_t i2c_master_transmit_receive(i2c_master_dev_handle_t device, const uint8_t *data, size_t len, uint8_t *out,
                                      size_t out_len, int timeout_ms) {
    (void)device;
    (void)data;
    (void)len;
    (void)out;
    (void)out_len;
    (void)timeout_ms;
    return ESP_FAIL;
}

/* --- there, and silent --- */

esp_err_t gpio_config(const gpio_config_t *config) {
    return config->mode == GPIO_MODE_OUTPUT ? ESP_OK : ESP_ERR_INVALID_ARG;
}
esp_err_t gpio_set_level(gpio_num_t pin, uint32_t level) {
    (void)level;
    return GPIO_IS_VALID_OUTPUT_GPIO(pin) ? ESP_OK : ESP_ERR_INVALID_ARG;
}
esp_err_t temperature_sensor_install(const temperature_sensor_config_t *config, temperature_sensor_handle_t *sensor) {
    *sensor = (temperature_sensor_handle_t)(uintptr_t)1;
    return config->range_min < config->range_max ? ESP_OK : ESP_ERR_INVALID_ARG;
}
esp_err_t temperature_sensor_enable(temperature_sensor_handle_t sensor) {
    return sensor != NULL ? ESP_OK : ESP_ERR_INVALID_ARG;
}
esp_err_t temperature_sensor_get_celsius(temperature_sensor_handle_t sensor, float *celsius) {
    *celsius = 41.25f;
    return sensor != NULL ? ESP_OK : ESP_ERR_INVALID_ARG;
}
esp_err_t esp_pm_configure(const void *config) {
    return ((const esp_pm_config_t *)config)->light_sleep_enable ? ESP_OK : ESP_ERR_INVALID_ARG;
}
esp_err_t esp_pm_lock_create(esp_pm_lock_type_t type, int arg, const char *name, esp_pm_lock_handle_t *lock) {
    (void)type;
    (void)arg;
    (void)name;
    static int locks;
    *lock = (esp_pm_lock_handle_t)(void *)&locks;
    return ESP_OK;
}
esp_err_t esp_pm_lock_acquire(esp_pm_lock_handle_t lock) {
    return lock != NULL ? ESP_OK : ESP_ERR_INVALID_ARG;
}
esp_err_t esp_pm_lock_release(esp_pm_lock_handle_t lock) {
    return lock != NULL ? ESP_OK : ESP_ERR_INVALID_ARG;
}
