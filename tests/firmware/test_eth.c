/* The emulator's Ethernet: the driver is put together as ESP-IDF's example does it, and gets an address of its own. */
#include <sys/wait.h>
#include <unistd.h>

#include "../core/check.h"
#include "esp_eth.h"
#include "esp_mac.h"
#include "esp_system.h"
#include "fake_events.h"
#include "fake_system.h"
#include "network.h"
#include "tinysplit/crc.h"

esp_event_base_t const ETH_EVENT = "ETH_EVENT";

static uint8_t efuse[6];
static struct {
    int installed, started, silenced;
    shutdown_handler_t before_restart;
    uint8_t mac[6];
    int reset_pin;
} driver;
static int mac_object, phy_object, glue;

esp_eth_mac_t *esp_eth_mac_new_openeth(const eth_mac_config_t *config) {
    assert_non_null(config);
    return (esp_eth_mac_t *)&mac_object;
}
esp_eth_phy_t *esp_eth_phy_new_dp83848(const eth_phy_config_t *config) {
    driver.reset_pin = config->reset_gpio_num;
    return (esp_eth_phy_t *)&phy_object;
}
void eth_silence(void);
void eth_silence(void) {
    driver.silenced++;
}
esp_err_t esp_eth_driver_install(const esp_eth_config_t *config, esp_eth_handle_t *handle) {
    assert_ptr_equal(config->mac, &mac_object);
    assert_ptr_equal(config->phy, &phy_object);
    assert_int_equal(driver.silenced, 1); /* or the driver aborts after a panic */
    driver.installed++;
    *handle = &driver;
    return ESP_OK;
}
esp_err_t esp_eth_ioctl(esp_eth_handle_t handle, esp_eth_io_cmd_t command, void *data) {
    assert_ptr_equal(handle, &driver);
    assert_int_equal(command, ETH_CMD_S_MAC_ADDR);
    memcpy(driver.mac, data, 6);
    return ESP_OK;
}
esp_err_t esp_eth_start(esp_eth_handle_t handle) {
    assert_ptr_equal(handle, &driver);
    driver.started++;
    return ESP_OK;
}
esp_err_t esp_eth_stop(esp_eth_handle_t handle) {
    assert_ptr_equal(handle, &driver);
    driver.started--;
    return ESP_OK;
}
esp_err_t esp_register_shutdown_handler(shutdown_handler_t handle) {
    driver.before_restart = handle;
    return ESP_OK;
}
esp_eth_netif_glue_handle_t esp_eth_new_netif_glue(esp_eth_handle_t handle) {
    assert_ptr_equal(handle, &driver);
    return (esp_eth_netif_glue_handle_t)&glue;
}
esp_err_t esp_efuse_mac_get_default(uint8_t *mac) {
    memcpy(mac, efuse, 6);
    return ESP_OK;
}
esp_err_t esp_read_mac(uint8_t *mac, esp_mac_type_t type) {
    assert_int_equal(type, ESP_MAC_ETH);
    memcpy(mac, efuse, 6);
    mac[5] = (uint8_t)(mac[5] + 3); /* as the chip derives it */
    return ESP_OK;
}

static const struct settings settings = {.name = "qemu-head"};

static int set_up(void **state) {
    (void)state;
    return link_init();
}

static void without_efuses_the_name_makes_the_address(void **state) {
    (void)state;
    assert_int_equal(network_start(&settings), ESP_OK);
    assert_int_equal(driver.started, 1);
    assert_int_equal(driver.reset_pin, -1); /* the default resets a PHY by pin 5 */
    assert_int_equal(driver.mac[0] & 3, 2); /* locally administered, and no group */
    uint32_t crc = ts_crc32_small(NULL, 0, (const uint8_t *)"qemu-head", 9);
    assert_int_equal(ts_get32(driver.mac + 2), crc);
    assert_string_equal(fake_hostname, "qemu-head");
}

static void it_is_off_before_a_restart(void **state) {
    (void)state;
    assert_int_equal(network_start(&settings), ESP_OK);
    assert_non_null(driver.before_restart);
    driver.before_restart();
    assert_int_equal(driver.started, 0);
}

static void with_efuses_the_chip_does(void **state) {
    (void)state;
    memcpy(efuse, (uint8_t[]){0x24, 0x0a, 0xc4, 1, 2, 3}, 6);
    assert_int_equal(network_start(&settings), ESP_OK);
    assert_memory_equal(driver.mac, ((uint8_t[]){0x24, 0x0a, 0xc4, 1, 2, 6}), 6);
}

static void it_is_up_with_an_address(void **state) {
    (void)state;
    assert_int_equal(network_start(&settings), ESP_OK);
    struct link_status status = {0};
    network_describe(&status);
    assert_false(status.up);
    assert_non_null(strstr(status.error, "open_eth")); /* what to do */
    fake_event(ETH_EVENT, ETHERNET_EVENT_CONNECTED, NULL);
    assert_int_equal(fake_linklocals, 1);
    memcpy(&fake_ip, (uint8_t[]){10, 0, 2, 15}, 4);
    fake_event(IP_EVENT, IP_EVENT_ETH_GOT_IP, NULL);
    memset(&status, 0, sizeof status);
    network_describe(&status);
    assert_true(status.up);
    assert_string_equal(status.address, "10.0.2.15");
    assert_string_equal(status.phy, "eth");
    assert_string_equal(status.error, "");
    fake_event(ETH_EVENT, ETHERNET_EVENT_DISCONNECTED, NULL);
    assert_false(network_is_up());
    fake_event(ETH_EVENT, ETHERNET_EVENT_CONNECTED, NULL);
    memset(&status, 0, sizeof status);
    network_describe(&status);
    assert_int_equal(status.reconnects, 1);
}

int main(int argc, char **argv) {
#define TEST(name) cmocka_unit_test_setup(name, set_up)
    const struct CMUnitTest tests[] = {
        TEST(without_efuses_the_name_makes_the_address),
        TEST(with_efuses_the_chip_does),
        TEST(it_is_up_with_an_address),
        TEST(it_is_off_before_a_restart),
    };
    (void)argc;
    int failed = 0;
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) { /* one start per process, as on a board */
        pid_t child = fork();
        if (child == 0) {
            const struct CMUnitTest one[] = {tests[i]};
            exit(cmocka_run_group_tests_name(argv[0], one, NULL, NULL));
        }
        int code = 1;
        failed += child < 0 || waitpid(child, &code, 0) != child || code != 0;
    }
    return failed;
}
