/* What firmware/main uses of ESP-IDF, FreeRTOS, lwIP and NimBLE: the names, their types and values, and the header
 * each stands in. split.py makes those headers of it, so that the firmware compiles for Xtensa without ESP-IDF and its
 * ports run on a PC against fakes. against_idf.py compares every name with the real headers, for two releases.
 *
 * Structs have only the members in use, in any order. What is only an initializer in the real headers is one here. */

/*@ sdkconfig.h */
/* -D CONFIG_... of the build at hand stands for it. */
#ifndef CONFIG_FREERTOS_HZ
#define CONFIG_FREERTOS_HZ 1000
#endif

/*@ esp_err.h */
#include <stdint.h>
typedef int esp_err_t;
#define ESP_OK 0
#define ESP_FAIL -1
#define ESP_ERR_NO_MEM 0x101
#define ESP_ERR_INVALID_ARG 0x102
#define ESP_ERR_INVALID_STATE 0x103
#define ESP_ERR_INVALID_SIZE 0x104
#define ESP_ERR_NOT_FOUND 0x105
#define ESP_ERR_NOT_SUPPORTED 0x106
#define ESP_ERR_TIMEOUT 0x107
const char *esp_err_to_name(esp_err_t code);

/*@ esp_idf_version.h */
#define ESP_IDF_VERSION_VAL(major, minor, patch) (((major) << 16) | ((minor) << 8) | (patch))
#ifndef TEST_IDF_MINOR
#define TEST_IDF_MINOR 3
#endif
#define ESP_IDF_VERSION ESP_IDF_VERSION_VAL(5, TEST_IDF_MINOR, 1)

/*@ freertos/FreeRTOS.h */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "sdkconfig.h"
typedef int BaseType_t;
typedef unsigned UBaseType_t;
typedef uint32_t TickType_t;
typedef uint8_t StackType_t;
typedef void (*TaskFunction_t)(void *);
#define pdTRUE 1
#define pdFALSE 0
#define pdPASS 1
#define portMAX_DELAY ((TickType_t)0xffffffffUL)
#define portTICK_PERIOD_MS ((TickType_t)1000 / CONFIG_FREERTOS_HZ)
#define pdMS_TO_TICKS(ms) ((TickType_t)(((uint64_t)(ms) * CONFIG_FREERTOS_HZ) / 1000))
typedef struct {
    void *fake[24];
} StaticQueue_t;
typedef StaticQueue_t StaticSemaphore_t;
typedef struct {
    void *fake[8];
} StaticTask_t;

/*@ freertos/queue.h */
#include "freertos/FreeRTOS.h"
typedef struct QueueDefinition *QueueHandle_t;
QueueHandle_t xQueueGenericCreateStatic(const UBaseType_t length, const UBaseType_t item, uint8_t *storage,
                                        StaticQueue_t *state, const uint8_t type);
BaseType_t xQueueGenericSend(QueueHandle_t queue, const void *const item, TickType_t ticks, const BaseType_t place);
BaseType_t xQueueReceive(QueueHandle_t queue, void *const item, TickType_t ticks);
#define xQueueCreateStatic(length, item, storage, state)                                                               \
    xQueueGenericCreateStatic((length), (item), (storage), (state), 0)
#define xQueueSend(queue, item, ticks) xQueueGenericSend((queue), (item), (ticks), 0)

/*@ freertos/semphr.h */
#include "freertos/queue.h"
typedef QueueHandle_t SemaphoreHandle_t;
QueueHandle_t xQueueCreateMutexStatic(const uint8_t type, StaticQueue_t *state);
BaseType_t xQueueSemaphoreTake(QueueHandle_t queue, TickType_t ticks);
#define xSemaphoreCreateMutexStatic(state) xQueueCreateMutexStatic(1, (state))
#define xSemaphoreTake(semaphore, ticks) xQueueSemaphoreTake((semaphore), (ticks))
#define xSemaphoreGive(semaphore) xQueueGenericSend((semaphore), NULL, 0, 0)

/*@ freertos/task.h */
#include "freertos/FreeRTOS.h"
typedef struct tskTaskControlBlock *TaskHandle_t;
TaskHandle_t xTaskCreateStaticPinnedToCore(TaskFunction_t task, const char *const name, const uint32_t stack_bytes,
                                           void *const arg, UBaseType_t priority, StackType_t *const stack,
                                           StaticTask_t *const state, const BaseType_t core);
void vTaskDelay(const TickType_t ticks);
void vTaskDelete(TaskHandle_t task);

/*@ esp_timer.h */
#include "esp_err.h"
typedef struct esp_timer *esp_timer_handle_t;
typedef void (*esp_timer_cb_t)(void *arg);
typedef struct {
    esp_timer_cb_t callback;
    void *arg;
    const char *name;
} esp_timer_create_args_t;
esp_err_t esp_timer_create(const esp_timer_create_args_t *args, esp_timer_handle_t *timer);
esp_err_t esp_timer_start_once(esp_timer_handle_t timer, uint64_t us);
esp_err_t esp_timer_stop(esp_timer_handle_t timer);
int64_t esp_timer_get_time(void);

/*@ esp_task_wdt.h */
#include "esp_err.h"
#include "freertos/task.h"
esp_err_t esp_task_wdt_add(TaskHandle_t task);
esp_err_t esp_task_wdt_delete(TaskHandle_t task);
esp_err_t esp_task_wdt_reset(void);

/*@ esp_random.h */
#include <stdint.h>
uint32_t esp_random(void);

/*@ esp_mac.h */
#include "esp_err.h"
typedef enum { ESP_MAC_ETH = 3 } esp_mac_type_t;
esp_err_t esp_read_mac(uint8_t *mac, esp_mac_type_t type);
esp_err_t esp_efuse_mac_get_default(uint8_t *mac);

/*@ esp_rom_crc.h */
#include <stdint.h>
uint16_t esp_rom_crc16_be(uint16_t crc, const uint8_t *data, uint32_t len);
uint32_t esp_rom_crc32_le(uint32_t crc, const uint8_t *data, uint32_t len);

/*@ esp_event.h */
#include "esp_err.h"
typedef const char *esp_event_base_t;
typedef void (*esp_event_handler_t)(void *arg, esp_event_base_t base, int32_t id, void *data);
#define ESP_EVENT_ANY_ID -1
esp_err_t esp_event_loop_create_default(void);
esp_err_t esp_event_handler_register(esp_event_base_t base, int32_t id, esp_event_handler_t handler, void *arg);

/*@ esp_netif.h */
#include <stddef.h>
#include "esp_event.h"
extern esp_event_base_t const IP_EVENT;
typedef enum {
    IP_EVENT_STA_GOT_IP = 0,
    IP_EVENT_STA_LOST_IP = 1,
    IP_EVENT_GOT_IP6 = 3,
    IP_EVENT_ETH_GOT_IP = 4,
    IP_EVENT_ETH_LOST_IP = 5
} ip_event_t;
typedef struct esp_netif_obj esp_netif_t;
typedef struct esp_netif_inherent_config esp_netif_inherent_config_t;
typedef struct esp_netif_driver_ifconfig esp_netif_driver_ifconfig_t;
typedef struct esp_netif_netstack_config esp_netif_netstack_config_t;
typedef void *esp_netif_iodriver_handle;
struct esp_netif_config {
    const esp_netif_inherent_config_t *base;
    const esp_netif_driver_ifconfig_t *driver;
    const esp_netif_netstack_config_t *stack;
};
typedef struct esp_netif_config esp_netif_config_t;
#define ESP_NETIF_DEFAULT_ETH() {.base = NULL, .driver = NULL, .stack = NULL}
struct esp_ip4_addr {
    uint32_t addr;
};
typedef struct esp_ip4_addr esp_ip4_addr_t;
typedef struct {
    esp_ip4_addr_t ip;
} esp_netif_ip_info_t;
#define IPSTR "%d.%d.%d.%d"
#define IP2STR(a)                                                                                                      \
    ((const uint8_t *)(a))[0], ((const uint8_t *)(a))[1], ((const uint8_t *)(a))[2], ((const uint8_t *)(a))[3]
esp_err_t esp_netif_init(void);
esp_netif_t *esp_netif_new(const esp_netif_config_t *config);
esp_err_t esp_netif_attach(esp_netif_t *netif, esp_netif_iodriver_handle driver);
esp_err_t esp_netif_set_hostname(esp_netif_t *netif, const char *name);
esp_err_t esp_netif_create_ip6_linklocal(esp_netif_t *netif);
esp_err_t esp_netif_get_ip_info(esp_netif_t *netif, esp_netif_ip_info_t *info);
int esp_netif_get_netif_impl_index(esp_netif_t *netif);

/*@ esp_wifi_default.h */
#include "esp_netif.h"
esp_netif_t *esp_netif_create_default_wifi_sta(void);
esp_netif_t *esp_netif_create_default_wifi_ap(void);

/*@ esp_wifi_types.h */
#include <stdbool.h>
#include <stdint.h>
#include "esp_event.h"
typedef enum { WIFI_MODE_NULL, WIFI_MODE_STA, WIFI_MODE_AP } wifi_mode_t;
typedef enum { WIFI_IF_STA, WIFI_IF_AP } wifi_interface_t;
typedef enum { WIFI_SECOND_CHAN_NONE } wifi_second_chan_t;
typedef enum { WIFI_STORAGE_FLASH, WIFI_STORAGE_RAM } wifi_storage_t;
typedef enum { WIFI_PS_NONE, WIFI_PS_MIN_MODEM, WIFI_PS_MAX_MODEM } wifi_ps_type_t;
typedef enum { WIFI_AUTH_OPEN = 0, WIFI_AUTH_WPA2_PSK = 3, WIFI_AUTH_WPA2_WPA3_PSK = 7 } wifi_auth_mode_t;
typedef enum { WIFI_FAST_SCAN, WIFI_ALL_CHANNEL_SCAN } wifi_scan_method_t;
typedef enum { WIFI_CONNECT_AP_BY_SIGNAL } wifi_sort_method_t;
typedef enum { WPA3_SAE_PWE_UNSPECIFIED = 0, WPA3_SAE_PWE_BOTH = 3 } wifi_sae_pwe_method_t;
typedef enum { WIFI_PHY_MODE_LR, WIFI_PHY_MODE_11B, WIFI_PHY_MODE_11G, WIFI_PHY_MODE_HT20 = 4 } wifi_phy_mode_t;
typedef enum {
    WIFI_PHY_RATE_1M_L = 0x00,
    WIFI_PHY_RATE_2M_L = 0x01,
    WIFI_PHY_RATE_5M_L = 0x02,
    WIFI_PHY_RATE_11M_L = 0x03,
    WIFI_PHY_RATE_24M = 0x09,
    WIFI_PHY_RATE_12M = 0x0A,
    WIFI_PHY_RATE_6M = 0x0B,
    WIFI_PHY_RATE_54M = 0x0C,
    WIFI_PHY_RATE_MCS0_LGI = 0x10,
    WIFI_PHY_RATE_MCS7_SGI = 0x1F
} wifi_phy_rate_t;
typedef enum {
    WIFI_REASON_4WAY_HANDSHAKE_TIMEOUT = 15,
    WIFI_REASON_NO_AP_FOUND = 201,
    WIFI_REASON_AUTH_FAIL = 202,
    WIFI_REASON_HANDSHAKE_TIMEOUT = 204
} wifi_err_reason_t;
extern esp_event_base_t const WIFI_EVENT;
typedef enum {
    WIFI_EVENT_STA_START = 2,
    WIFI_EVENT_STA_CONNECTED = 4,
    WIFI_EVENT_STA_DISCONNECTED = 5,
    WIFI_EVENT_AP_START = 12,
    WIFI_EVENT_AP_STOP = 13
} wifi_event_t;
typedef struct {
    uint8_t reason;
} wifi_event_sta_disconnected_t;
typedef struct {
    bool capable;
} wifi_pmf_config_t;
typedef struct {
    wifi_auth_mode_t authmode;
} wifi_scan_threshold_t;
typedef struct {
    uint8_t ssid[32];
    uint8_t password[64];
    wifi_scan_method_t scan_method;
    wifi_sort_method_t sort_method;
    wifi_scan_threshold_t threshold;
    wifi_pmf_config_t pmf_cfg;
    wifi_sae_pwe_method_t sae_pwe_h2e;
} wifi_sta_config_t;
typedef struct {
    uint8_t ssid[32];
    uint8_t password[64];
    uint8_t ssid_len;
    uint8_t channel;
    wifi_auth_mode_t authmode;
    uint8_t max_connection;
    wifi_pmf_config_t pmf_cfg;
    wifi_sae_pwe_method_t sae_pwe_h2e;
} wifi_ap_config_t;
typedef union {
    wifi_ap_config_t ap;
    wifi_sta_config_t sta;
} wifi_config_t;
typedef struct {
    int8_t rssi;
    uint32_t phy_11g : 1;
    uint32_t phy_11n : 1;
    uint32_t phy_lr : 1;
} wifi_ap_record_t;
typedef struct {
    int8_t rssi;
} wifi_sta_info_t;
typedef struct {
    wifi_sta_info_t sta[15];
    int num;
} wifi_sta_list_t;
typedef struct {
    signed rssi : 8;
} wifi_pkt_rx_ctrl_t;

/*@ esp_wifi.h */
#include "esp_err.h"
#include "esp_wifi_types.h"
#include "esp_wifi_default.h"
typedef struct {
    int nvs_enable;
} wifi_init_config_t;
#define WIFI_INIT_CONFIG_DEFAULT() {.nvs_enable = 1}
esp_err_t esp_wifi_init(const wifi_init_config_t *config);
esp_err_t esp_wifi_set_storage(wifi_storage_t storage);
esp_err_t esp_wifi_set_mode(wifi_mode_t mode);
esp_err_t esp_wifi_get_mode(wifi_mode_t *mode);
esp_err_t esp_wifi_set_config(wifi_interface_t interface, wifi_config_t *config);
esp_err_t esp_wifi_start(void);
esp_err_t esp_wifi_connect(void);
esp_err_t esp_wifi_set_ps(wifi_ps_type_t type);
esp_err_t esp_wifi_set_channel(uint8_t primary, wifi_second_chan_t second);
esp_err_t esp_wifi_get_channel(uint8_t *primary, wifi_second_chan_t *second);
esp_err_t esp_wifi_get_mac(wifi_interface_t interface, uint8_t mac[6]);
esp_err_t esp_wifi_sta_get_ap_info(wifi_ap_record_t *record);
esp_err_t esp_wifi_ap_get_sta_list(wifi_sta_list_t *list);

/*@ esp_now.h */
#include <stddef.h>
#include "esp_err.h"
#include "esp_idf_version.h"
#include "esp_wifi_types.h"
#define ESP_ERR_ESPNOW_NO_MEM 0x3067
#define ESP_ERR_ESPNOW_FULL 0x3068
#define ESP_ERR_ESPNOW_EXIST 0x306b
#define ESP_NOW_KEY_LEN 16
#define ESP_NOW_MAX_TOTAL_PEER_NUM 20
#if TEST_IDF_MINOR >= 5
#define ESP_NOW_MAX_DATA_LEN_V2 1470
#endif
typedef enum { ESP_NOW_SEND_SUCCESS = 0, ESP_NOW_SEND_FAIL } esp_now_send_status_t;
typedef struct esp_now_peer_info {
    uint8_t peer_addr[6];
    uint8_t lmk[16];
    uint8_t channel;
    wifi_interface_t ifidx;
    bool encrypt;
} esp_now_peer_info_t;
typedef struct esp_now_recv_info {
    uint8_t *src_addr;
    wifi_pkt_rx_ctrl_t *rx_ctrl;
} esp_now_recv_info_t;
typedef struct {
    wifi_phy_mode_t phymode;
    wifi_phy_rate_t rate;
} esp_now_rate_config_t;
typedef void (*esp_now_recv_cb_t)(const esp_now_recv_info_t *info, const uint8_t *data, int len);
#if TEST_IDF_MINOR >= 5
typedef struct {
    uint8_t *des_addr;
} esp_now_send_info_t;
typedef void (*esp_now_send_cb_t)(const esp_now_send_info_t *info, esp_now_send_status_t status);
#else
typedef void (*esp_now_send_cb_t)(const uint8_t *mac, esp_now_send_status_t status);
#endif
esp_err_t esp_now_init(void);
esp_err_t esp_now_deinit(void);
esp_err_t esp_now_get_version(uint32_t *version);
esp_err_t esp_now_register_recv_cb(esp_now_recv_cb_t callback);
esp_err_t esp_now_register_send_cb(esp_now_send_cb_t callback);
esp_err_t esp_now_set_pmk(const uint8_t *pmk);
esp_err_t esp_now_add_peer(const esp_now_peer_info_t *peer);
esp_err_t esp_now_del_peer(const uint8_t *mac);
esp_err_t esp_now_set_peer_rate_config(const uint8_t *mac, esp_now_rate_config_t *config);
esp_err_t esp_now_send(const uint8_t *mac, const uint8_t *data, size_t len);

/*@ esp_eth.h */
#include <stddef.h>
#include "esp_event.h"
typedef void *esp_eth_handle_t;
typedef struct esp_eth_mac_s esp_eth_mac_t;
typedef struct esp_eth_phy_s esp_eth_phy_t;
typedef struct {
    uint32_t rx_task_prio;
} eth_mac_config_t;
typedef struct {
    int32_t phy_addr;
    uint32_t autonego_timeout_ms;
    int reset_gpio_num;
} eth_phy_config_t;
typedef struct {
    esp_eth_mac_t *mac;
    esp_eth_phy_t *phy;
} esp_eth_config_t;
typedef enum { ETH_CMD_S_MAC_ADDR = 1 } esp_eth_io_cmd_t;
extern esp_event_base_t const ETH_EVENT;
typedef enum { ETHERNET_EVENT_CONNECTED = 2, ETHERNET_EVENT_DISCONNECTED = 3 } eth_event_t;
typedef struct esp_eth_netif_glue_t *esp_eth_netif_glue_handle_t;
#define ETH_MAC_DEFAULT_CONFIG() {.rx_task_prio = 15}
#define ETH_PHY_DEFAULT_CONFIG() {.phy_addr = -1, .reset_gpio_num = 5}
#define ETH_DEFAULT_CONFIG(m, p) {.mac = (m), .phy = (p)}
#if CONFIG_ETH_USE_OPENETH
esp_eth_mac_t *esp_eth_mac_new_openeth(const eth_mac_config_t *config);
#endif
esp_eth_phy_t *esp_eth_phy_new_dp83848(const eth_phy_config_t *config);
esp_err_t esp_eth_driver_install(const esp_eth_config_t *config, esp_eth_handle_t *handle);
esp_err_t esp_eth_ioctl(esp_eth_handle_t handle, esp_eth_io_cmd_t command, void *data);
esp_err_t esp_eth_start(esp_eth_handle_t handle);
esp_eth_netif_glue_handle_t esp_eth_new_netif_glue(esp_eth_handle_t handle);

/*@ lwip/sockets.h */
#ifdef __linux__
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/select.h>
#include <sys/socket.h>
#else
#include <stddef.h>
#include <stdint.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/types.h>
typedef uint32_t socklen_t;
typedef uint8_t sa_family_t;
typedef uint16_t in_port_t;
struct in_addr {
    uint32_t s_addr;
};
struct in6_addr {
    union {
        uint32_t u32_addr[4];
        uint8_t u8_addr[16];
    } un;
};
struct sockaddr {
    sa_family_t sa_family;
};
struct sockaddr_in6 {
    sa_family_t sin6_family;
    in_port_t sin6_port;
    struct in6_addr sin6_addr;
    uint32_t sin6_scope_id;
};
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOL_SOCKET 0xfff
#define SO_REUSEADDR 0x0004
#define SO_ERROR 0x1007
#define IPPROTO_TCP 6
#define IPPROTO_IPV6 41
#define IPV6_V6ONLY 27
#define TCP_NODELAY 0x01
#define MSG_DONTWAIT 0x08
#define htons(x) ((uint16_t)((((x) & 0xff) << 8) | (((x) >> 8) & 0xff)))
int socket(int domain, int type, int protocol);
int bind(int fd, const struct sockaddr *name, socklen_t len);
int listen(int fd, int backlog);
int accept(int fd, struct sockaddr *name, socklen_t *len);
int connect(int fd, const struct sockaddr *name, socklen_t len);
int getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int setsockopt(int fd, int level, int name, const void *value, socklen_t len);
ssize_t send(int fd, const void *data, size_t len, int flags);
ssize_t sendto(int fd, const void *data, size_t len, int flags, const struct sockaddr *to, socklen_t to_len);
ssize_t recv(int fd, void *data, size_t len, int flags);
ssize_t recvfrom(int fd, void *data, size_t len, int flags, struct sockaddr *from, socklen_t *from_len);
int inet_pton(int family, const char *text, void *out);
#endif

/*@ os/os_mbuf.h */
#include <stdint.h>
struct os_mbuf {
    uint8_t *om_data;
    uint16_t om_len;
    struct {
        struct os_mbuf *sle_next;
    } om_next;
    uint16_t fake_packet_len;
};
#define SLIST_NEXT(element, field) ((element)->field.sle_next)
#define OS_MBUF_PKTLEN(om) ((om)->fake_packet_len)
int os_msys_count(void);
int os_msys_num_free(void);
int os_mbuf_copydata(const struct os_mbuf *om, int offset, int len, void *out);
int os_mbuf_append(struct os_mbuf *om, const void *data, uint16_t len);

/*@ host/ble_hs.h */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "os/os_mbuf.h"
#define BLE_HS_FOREVER INT32_MAX
#define BLE_HS_EAGAIN 1
#define BLE_HS_ENOMEM 6
#define BLE_HS_ENOTCONN 7
#define BLE_HS_ETIMEOUT 13
#define BLE_HS_EDONE 14
#define BLE_HS_EBUSY 15
#define BLE_ERR_REM_USER_CONN_TERM 0x13
#define BLE_HCI_ADV_RPT_EVTYPE_ADV_IND 0
typedef struct {
    uint8_t type;
    uint8_t val[6];
} ble_addr_t;
/* host/ble_uuid.h */
enum { BLE_UUID_TYPE_16 = 16, BLE_UUID_TYPE_128 = 128 };
typedef struct {
    uint8_t type;
} ble_uuid_t;
typedef struct {
    ble_uuid_t u;
    uint16_t value;
} ble_uuid16_t;
typedef struct {
    ble_uuid_t u;
    uint8_t value[16];
} ble_uuid128_t;
typedef union {
    ble_uuid_t u;
    ble_uuid16_t u16;
    ble_uuid128_t u128;
} ble_uuid_any_t;
#define BLE_UUID16_INIT(x) {.u = {.type = BLE_UUID_TYPE_16}, .value = (x)}
#define BLE_UUID128_INIT(...) {.u = {.type = BLE_UUID_TYPE_128}, .value = {__VA_ARGS__}}
int ble_uuid_cmp(const ble_uuid_t *a, const ble_uuid_t *b);
/* host/ble_att.h */
#define BLE_ATT_ERR_UNLIKELY 0x0e
#define BLE_ATT_ERR_INSUFFICIENT_RES 0x11
uint16_t ble_att_mtu(uint16_t conn_handle);
int ble_att_set_preferred_mtu(uint16_t mtu);
/* host/ble_hs_id.h, ble_hs_mbuf.h */
int ble_hs_id_infer_auto(int privacy, uint8_t *type);
struct os_mbuf *ble_hs_mbuf_from_flat(const void *data, uint16_t len);
/* host/ble_hs_adv.h */
#define BLE_HS_ADV_F_DISC_GEN 0x02
#define BLE_HS_ADV_F_BREDR_UNSUP 0x04
struct ble_hs_adv_fields {
    uint8_t flags;
    const ble_uuid128_t *uuids128;
    uint8_t num_uuids128;
    unsigned uuids128_is_complete : 1;
    const uint8_t *name;
    uint8_t name_len;
    unsigned name_is_complete : 1;
    const uint8_t *svc_data_uuid128;
    uint8_t svc_data_uuid128_len;
};
int ble_hs_adv_parse_fields(struct ble_hs_adv_fields *fields, const uint8_t *data, uint8_t len);
/* host/ble_gatt.h */
#define BLE_GATT_ACCESS_OP_READ_CHR 0
#define BLE_GATT_ACCESS_OP_WRITE_CHR 1
#define BLE_GATT_CHR_F_READ 0x0002
#define BLE_GATT_CHR_F_WRITE_NO_RSP 0x0004
#define BLE_GATT_CHR_F_NOTIFY 0x0010
#define BLE_GATT_SVC_TYPE_END 0
#define BLE_GATT_SVC_TYPE_PRIMARY 1
#define BLE_GATT_DSC_CLT_CFG_UUID16 0x2902
struct ble_gatt_error {
    uint16_t status;
};
struct ble_gatt_svc {
    uint16_t start_handle;
    uint16_t end_handle;
};
struct ble_gatt_attr {
    uint16_t handle;
    struct os_mbuf *om;
};
struct ble_gatt_chr {
    uint16_t def_handle;
    uint16_t val_handle;
    ble_uuid_any_t uuid;
};
struct ble_gatt_dsc {
    uint16_t handle;
    ble_uuid_any_t uuid;
};
struct ble_gatt_access_ctxt {
    uint8_t op;
    struct os_mbuf *om;
};
typedef int ble_gatt_access_fn(uint16_t conn_handle, uint16_t attr_handle, struct ble_gatt_access_ctxt *access,
                               void *arg);
typedef uint16_t ble_gatt_chr_flags;
struct ble_gatt_chr_def {
    const ble_uuid_t *uuid;
    ble_gatt_access_fn *access_cb;
    void *arg;
    ble_gatt_chr_flags flags;
    uint16_t *val_handle;
};
struct ble_gatt_svc_def {
    uint8_t type;
    const ble_uuid_t *uuid;
    const struct ble_gatt_chr_def *characteristics;
};
typedef int ble_gatt_mtu_fn(uint16_t conn_handle, const struct ble_gatt_error *error, uint16_t mtu, void *arg);
typedef int ble_gatt_disc_svc_fn(uint16_t conn_handle, const struct ble_gatt_error *error,
                                 const struct ble_gatt_svc *service, void *arg);
typedef int ble_gatt_chr_fn(uint16_t conn_handle, const struct ble_gatt_error *error, const struct ble_gatt_chr *chr,
                            void *arg);
typedef int ble_gatt_dsc_fn(uint16_t conn_handle, const struct ble_gatt_error *error, uint16_t chr_val_handle,
                            const struct ble_gatt_dsc *dsc, void *arg);
typedef int ble_gatt_attr_fn(uint16_t conn_handle, const struct ble_gatt_error *error, struct ble_gatt_attr *attr,
                             void *arg);
int ble_gatts_count_cfg(const struct ble_gatt_svc_def *services);
int ble_gatts_add_svcs(const struct ble_gatt_svc_def *services);
int ble_gatts_notify_custom(uint16_t conn_handle, uint16_t attr_handle, struct os_mbuf *om);
int ble_gattc_exchange_mtu(uint16_t conn_handle, ble_gatt_mtu_fn *cb, void *arg);
int ble_gattc_disc_svc_by_uuid(uint16_t conn_handle, const ble_uuid_t *uuid, ble_gatt_disc_svc_fn *cb, void *arg);
int ble_gattc_disc_all_chrs(uint16_t conn_handle, uint16_t first, uint16_t last, ble_gatt_chr_fn *cb, void *arg);
int ble_gattc_disc_all_dscs(uint16_t conn_handle, uint16_t first, uint16_t last, ble_gatt_dsc_fn *cb, void *arg);
int ble_gattc_read_long(uint16_t conn_handle, uint16_t handle, uint16_t offset, ble_gatt_attr_fn *cb, void *arg);
int ble_gattc_write_flat(uint16_t conn_handle, uint16_t handle, const void *data, uint16_t len, ble_gatt_attr_fn *cb,
                         void *arg);
int ble_gattc_write_no_rsp_flat(uint16_t conn_handle, uint16_t handle, const void *data, uint16_t len);
/* host/ble_gap.h */
#define BLE_GAP_CONN_MODE_UND 2
#define BLE_GAP_DISC_MODE_GEN 2
#define BLE_GAP_LE_PHY_1M 1
#define BLE_GAP_LE_PHY_2M 2
#define BLE_GAP_LE_PHY_2M_MASK 0x02
#define BLE_GAP_LE_PHY_CODED_ANY 0
#define BLE_GAP_EVENT_CONNECT 0
#define BLE_GAP_EVENT_DISCONNECT 1
#define BLE_GAP_EVENT_CONN_UPDATE 3
#define BLE_GAP_EVENT_DISC 7
#define BLE_GAP_EVENT_ADV_COMPLETE 9
#define BLE_GAP_EVENT_NOTIFY_RX 12
#define BLE_GAP_EVENT_NOTIFY_TX 13
#define BLE_GAP_EVENT_SUBSCRIBE 14
#define BLE_GAP_EVENT_PHY_UPDATE_COMPLETE 18
#define BLE_GAP_EVENT_DATA_LEN_CHG 34
struct ble_gap_adv_params {
    uint8_t conn_mode;
    uint8_t disc_mode;
    uint16_t itvl_min;
    uint16_t itvl_max;
};
struct ble_gap_conn_desc {
    uint16_t conn_itvl;
    uint16_t conn_latency;
    uint16_t supervision_timeout;
};
struct ble_gap_conn_params {
    uint16_t scan_itvl;
    uint16_t scan_window;
    uint16_t itvl_min;
    uint16_t itvl_max;
    uint16_t latency;
    uint16_t supervision_timeout;
};
struct ble_gap_upd_params {
    uint16_t itvl_min;
    uint16_t itvl_max;
    uint16_t latency;
    uint16_t supervision_timeout;
};
struct ble_gap_disc_params {
    uint16_t itvl;
    uint16_t window;
    uint8_t passive : 1;
};
struct ble_gap_disc_desc {
    uint8_t event_type;
    uint8_t length_data;
    ble_addr_t addr;
    const uint8_t *data;
};
struct ble_gap_event {
    uint8_t type;
    union {
        struct {
            int status;
            uint16_t conn_handle;
        } connect;
        struct {
            int reason;
            struct ble_gap_conn_desc conn;
        } disconnect;
        struct ble_gap_disc_desc disc;
        struct {
            int reason;
        } adv_complete;
        struct {
            struct os_mbuf *om;
            uint16_t attr_handle;
        } notify_rx;
        struct {
            uint16_t conn_handle;
            uint16_t attr_handle;
            uint8_t cur_notify : 1;
        } subscribe;
        struct {
            uint16_t max_tx_octets;
            uint16_t max_rx_octets;
        } data_len_chg;
    };
};
typedef int ble_gap_event_fn(struct ble_gap_event *event, void *arg);
int ble_gap_adv_set_fields(const struct ble_hs_adv_fields *fields);
int ble_gap_adv_rsp_set_fields(const struct ble_hs_adv_fields *fields);
int ble_gap_adv_start(uint8_t own_type, const ble_addr_t *direct, int32_t ms, const struct ble_gap_adv_params *params,
                      ble_gap_event_fn *cb, void *arg);
int ble_gap_adv_stop(void);
int ble_gap_adv_active(void);
int ble_gap_disc(uint8_t own_type, int32_t ms, const struct ble_gap_disc_params *params, ble_gap_event_fn *cb,
                 void *arg);
int ble_gap_disc_cancel(void);
int ble_gap_disc_active(void);
int ble_gap_connect(uint8_t own_type, const ble_addr_t *peer, int32_t ms, const struct ble_gap_conn_params *params,
                    ble_gap_event_fn *cb, void *arg);
int ble_gap_conn_active(void);
int ble_gap_terminate(uint16_t conn_handle, uint8_t reason);
int ble_gap_conn_find(uint16_t conn_handle, struct ble_gap_conn_desc *desc);
int ble_gap_conn_rssi(uint16_t conn_handle, int8_t *rssi);
int ble_gap_update_params(uint16_t conn_handle, const struct ble_gap_upd_params *params);
int ble_gap_set_data_len(uint16_t conn_handle, uint16_t octets, uint16_t us);
int ble_gap_set_prefered_le_phy(uint16_t conn_handle, uint8_t tx, uint8_t rx, uint16_t options);
int ble_gap_read_le_phy(uint16_t conn_handle, uint8_t *tx, uint8_t *rx);
typedef void ble_hs_reset_fn(int reason);
typedef void ble_hs_sync_fn(void);
struct ble_hs_cfg {
    ble_hs_reset_fn *reset_cb;
    ble_hs_sync_fn *sync_cb;
};
extern struct ble_hs_cfg ble_hs_cfg;

/*@ host/util/util.h */
int ble_hs_util_ensure_addr(int prefer_random);

/*@ services/gap/ble_svc_gap.h */
void ble_svc_gap_init(void);
int ble_svc_gap_device_name_set(const char *name);

/*@ services/gatt/ble_svc_gatt.h */
void ble_svc_gatt_init(void);

/*@ nimble/nimble_port.h */
#include "esp_err.h"
esp_err_t nimble_port_init(void);
esp_err_t nimble_port_deinit(void);
void nimble_port_run(void);
int nimble_port_stop(void);

/*@ nimble/nimble_port_freertos.h */
#include "freertos/FreeRTOS.h"
void nimble_port_freertos_init(TaskFunction_t task);
void nimble_port_freertos_deinit(void);
