/* The BLE port against a NimBLE whose events the test makes: SPEC.md section 13 from both sides. */
#include "../core/check.h"
#include "ble.h"
#include "control.h"
#include "esp_timer.h"
#include "fake_chip.h"
#include "fake_system.h"
#include "host/ble_hs.h"
#include "host/util/util.h"
#include "link.h"
#include "nimble/nimble_port.h"
#include "nimble/nimble_port_freertos.h"
#include "services/gap/ble_svc_gap.h"
#include "services/gatt/ble_svc_gatt.h"
#include "settings.h"
#include "tinysplit/stream.h"

#define VALUES_MOST 64

struct ble_hs_cfg ble_hs_cfg;

/* --- what the stack was told --- */

static struct {
    int inits;
    const struct ble_gatt_svc_def *services;
    uint16_t preferred_mtu;
    char name[40];
    bool advertising, scanning;
    struct ble_gap_adv_params adv;
    int32_t adv_ms;
    uint8_t adv_bytes, response_bytes, response[27];
    ble_gap_event_fn *adv_cb, *scan_cb, *connect_cb;
    void *adv_arg, *scan_arg, *connect_arg;
    ble_addr_t connected_to;
    struct ble_gap_conn_params params;
    int terminated, data_lens, phys, updates;
    uint16_t att_mtu, interval;
    /* client procedures */
    ble_gatt_mtu_fn *mtu_cb;
    ble_gatt_disc_svc_fn *svc_cb;
    ble_gatt_chr_fn *chr_cb;
    ble_gatt_dsc_fn *dsc_cb;
    ble_gatt_attr_fn *read_cb, *write_cb;
    void *arg;
    uint16_t dsc_first, dsc_last, read_handle, write_handle;
    /* values out */
    int values, free_buffers;
    bool encrypted, authenticated;
    int pairings, forgotten;
    uint32_t passkey;
    size_t len[VALUES_MOST];
    uint8_t value[VALUES_MOST][512];
    uint16_t value_handle;
} stack;

static struct os_mbuf made;
static uint8_t made_bytes[600];

static void take_value(uint16_t handle, const void *data, uint16_t len) {
    assert_true(stack.values < VALUES_MOST && len <= 512);
    stack.value_handle = handle;
    stack.len[stack.values] = len;
    memcpy(stack.value[stack.values++], data, len);
}

esp_err_t nimble_port_init(void) {
    stack.inits++;
    return ESP_OK;
}
esp_err_t nimble_port_deinit(void) {
    stack.inits--;
    return ESP_OK;
}
void nimble_port_run(void) {
}
int nimble_port_stop(void) {
    return 0;
}
void nimble_port_freertos_init(TaskFunction_t task) {
    assert_non_null(task);
}
void nimble_port_freertos_deinit(void) {
}
void ble_svc_gap_init(void) {
}
void ble_svc_gatt_init(void) {
}
int ble_svc_gap_device_name_set(const char *name) {
    (void)snprintf(stack.name, sizeof stack.name, "%s", name);
    return 0;
}
int ble_hs_util_ensure_addr(int prefer_random) {
    return prefer_random;
}
int ble_hs_id_infer_auto(int privacy, uint8_t *type) {
    *type = 0;
    return privacy;
}
int ble_att_set_preferred_mtu(uint16_t mtu) {
    stack.preferred_mtu = mtu;
    return 0;
}
uint16_t ble_att_mtu(uint16_t handle) {
    (void)handle;
    return stack.att_mtu;
}
int ble_gatts_count_cfg(const struct ble_gatt_svc_def *services) {
    return services == NULL;
}
int ble_gatts_add_svcs(const struct ble_gatt_svc_def *services) {
    stack.services = services;
    uint16_t handle = 10;
    for (const struct ble_gatt_chr_def *c = services[0].characteristics; c->uuid != NULL; c++, handle += 3) {
        if (c->val_handle != NULL) {
            *c->val_handle = handle;
        }
    }
    return 0;
}
int ble_uuid_cmp(const ble_uuid_t *a, const ble_uuid_t *b) {
    if (a->type != b->type) {
        return 1;
    }
    if (a->type == BLE_UUID_TYPE_16) {
        return ((const ble_uuid16_t *)a)->value != ((const ble_uuid16_t *)b)->value;
    }
    return memcmp(((const ble_uuid128_t *)a)->value, ((const ble_uuid128_t *)b)->value, 16);
}
int ble_gap_adv_set_fields(const struct ble_hs_adv_fields *f) {
    assert_int_equal(f->flags, BLE_HS_ADV_F_DISC_GEN | BLE_HS_ADV_F_BREDR_UNSUP);
    assert_int_equal(f->num_uuids128, 1);
    assert_true(f->uuids128_is_complete);
    stack.adv_bytes = (uint8_t)(3 + 18 + 2 + f->name_len);
    assert_true(stack.adv_bytes <= 31); /* the real one refuses more */
    assert_true(f->name_is_complete ? f->name_len == strlen(stack.name) : f->name_len == 8);
    return 0;
}
int ble_gap_adv_rsp_set_fields(const struct ble_hs_adv_fields *f) {
    stack.response_bytes = (uint8_t)(2 + f->svc_data_uuid128_len);
    assert_true(stack.response_bytes <= 31);
    memcpy(stack.response, f->svc_data_uuid128, f->svc_data_uuid128_len);
    return 0;
}
int ble_gap_adv_start(uint8_t own_type, const ble_addr_t *direct, int32_t ms, const struct ble_gap_adv_params *params,
                      ble_gap_event_fn *cb, void *arg) {
    assert_true(own_type == 0 && direct == NULL && !stack.advertising);
    stack.advertising = true;
    stack.adv = *params;
    stack.adv_ms = ms;
    stack.adv_cb = cb;
    stack.adv_arg = arg;
    return 0;
}
int ble_gap_adv_stop(void) {
    stack.advertising = false;
    return 0;
}
int ble_gap_adv_active(void) {
    return stack.advertising;
}
int ble_gap_disc(uint8_t own_type, int32_t ms, const struct ble_gap_disc_params *params, ble_gap_event_fn *cb,
                 void *arg) {
    assert_true(own_type == 0 && ms == BLE_HS_FOREVER && params->window <= params->itvl);
    stack.scanning = true;
    stack.scan_cb = cb;
    stack.scan_arg = arg;
    return 0;
}
int ble_gap_disc_cancel(void) {
    stack.scanning = false;
    return 0;
}
int ble_gap_disc_active(void) {
    return stack.scanning;
}
int ble_gap_conn_active(void) {
    return 0;
}
int ble_gap_connect(uint8_t own_type, const ble_addr_t *peer, int32_t ms, const struct ble_gap_conn_params *params,
                    ble_gap_event_fn *cb, void *arg) {
    assert_true(own_type == 0 && ms > 0 && !stack.scanning);
    stack.connected_to = *peer;
    stack.params = *params;
    stack.connect_cb = cb;
    stack.connect_arg = arg;
    return 0;
}
int ble_gap_security_initiate(uint16_t handle) {
    (void)handle;
    stack.pairings++;
    return 0;
}
int ble_sm_inject_io(uint16_t handle, struct ble_sm_io *io) {
    (void)handle;
    assert_true(io->action == BLE_SM_IOACT_DISP || io->action == BLE_SM_IOACT_INPUT);
    stack.passkey = io->passkey;
    return 0;
}
int ble_store_util_status_rr(struct ble_store_status_event *event, void *arg) {
    (void)event;
    (void)arg;
    return 0;
}
int ble_store_util_delete_peer(const ble_addr_t *peer) {
    assert_non_null(peer);
    stack.forgotten++;
    return 0;
}
void ble_store_config_init(void);
void ble_store_config_init(void) {
}
int ble_gap_terminate(uint16_t handle, uint8_t reason) {
    (void)handle;
    assert_int_equal(reason, BLE_ERR_REM_USER_CONN_TERM);
    stack.terminated++;
    return 0;
}
int ble_gap_conn_find(uint16_t handle, struct ble_gap_conn_desc *desc) {
    (void)handle;
    *desc =
        (struct ble_gap_conn_desc){.conn_itvl = stack.interval,
                                   .supervision_timeout = 200,
                                   .sec_state = {.encrypted = stack.encrypted, .authenticated = stack.authenticated}};
    return 0;
}
int ble_gap_conn_rssi(uint16_t handle, int8_t *rssi) {
    (void)handle;
    *rssi = -55;
    return 0;
}
int ble_gap_update_params(uint16_t handle, const struct ble_gap_upd_params *params) {
    (void)handle;
    assert_int_equal(params->itvl_max, 12);
    stack.updates++;
    return 0;
}
int ble_gap_set_data_len(uint16_t handle, uint16_t octets, uint16_t us) {
    (void)handle;
    assert_true(octets == 251 && us == 2120);
    stack.data_lens++;
    return 0;
}
int ble_gap_set_prefered_le_phy(uint16_t handle, uint8_t tx, uint8_t rx, uint16_t options) {
    (void)handle;
    assert_true(tx == 2 && rx == 2 && options == 0);
    stack.phys++;
    return 0;
}
int ble_gap_read_le_phy(uint16_t handle, uint8_t *tx, uint8_t *rx) {
    (void)handle;
    *tx = *rx = 2;
    return 0;
}
int ble_hs_adv_parse_fields(struct ble_hs_adv_fields *fields, const uint8_t *data, uint8_t len) {
    /* The test hands over the fields themselves. */
    assert_int_equal(len, sizeof *fields);
    memcpy(fields, data, sizeof *fields);
    return 0;
}
int os_msys_count(void) {
    return 36;
}
int os_msys_num_free(void) {
    return stack.free_buffers;
}
int os_mbuf_copydata(const struct os_mbuf *om, int offset, int len, void *out) {
    if (offset != 0 || len > om->om_len) {
        return -1;
    }
    memcpy(out, om->om_data, (size_t)len);
    return 0;
}
int os_mbuf_append(struct os_mbuf *om, const void *data, uint16_t len) {
    assert_true(om->om_len + len <= (int)sizeof made_bytes);
    memcpy(om->om_data + om->om_len, data, len);
    om->om_len = (uint16_t)(om->om_len + len);
    om->fake_packet_len = om->om_len;
    return 0;
}
static struct os_mbuf *mbuf(const void *data, size_t len) {
    made = (struct os_mbuf){.om_data = made_bytes, .om_len = (uint16_t)len, .fake_packet_len = (uint16_t)len};
    memcpy(made_bytes, data, len);
    return &made;
}
struct os_mbuf *ble_hs_mbuf_from_flat(const void *data, uint16_t len) {
    return mbuf(data, len);
}
int ble_gatts_notify_custom(uint16_t handle, uint16_t attr, struct os_mbuf *om) {
    (void)handle;
    take_value(attr, om->om_data, om->om_len);
    return 0;
}
int ble_gattc_write_no_rsp_flat(uint16_t handle, uint16_t attr, const void *data, uint16_t len) {
    (void)handle;
    take_value(attr, data, len);
    return 0;
}
int ble_gattc_exchange_mtu(uint16_t handle, ble_gatt_mtu_fn *cb, void *arg) {
    (void)handle;
    stack.mtu_cb = cb;
    stack.arg = arg;
    return 0;
}
int ble_gattc_disc_svc_by_uuid(uint16_t handle, const ble_uuid_t *uuid, ble_gatt_disc_svc_fn *cb, void *arg) {
    (void)handle;
    (void)arg;
    assert_int_equal(uuid->type, BLE_UUID_TYPE_128);
    stack.svc_cb = cb;
    return 0;
}
int ble_gattc_disc_all_chrs(uint16_t handle, uint16_t first, uint16_t last, ble_gatt_chr_fn *cb, void *arg) {
    (void)handle;
    (void)arg;
    assert_true(first == 20 && last == 40);
    stack.chr_cb = cb;
    return 0;
}
int ble_gattc_disc_all_dscs(uint16_t handle, uint16_t first, uint16_t last, ble_gatt_dsc_fn *cb, void *arg) {
    (void)handle;
    (void)arg;
    stack.dsc_cb = cb;
    stack.dsc_first = first;
    stack.dsc_last = last;
    return 0;
}
int ble_gattc_read_long(uint16_t handle, uint16_t attr, uint16_t offset, ble_gatt_attr_fn *cb, void *arg) {
    (void)handle;
    (void)arg;
    assert_int_equal(offset, 0);
    stack.read_cb = cb;
    stack.read_handle = attr;
    return 0;
}
int ble_gattc_write_flat(uint16_t handle, uint16_t attr, const void *data, uint16_t len, ble_gatt_attr_fn *cb,
                         void *arg) {
    (void)handle;
    (void)arg;
    assert_true(len == 2 && memcmp(data, "\x01\x00", 2) == 0);
    stack.write_cb = cb;
    stack.write_handle = attr;
    return 0;
}

/* --- control.c --- */

static struct {
    void (*function)(void *arg);
    void *arg;
} deferred[8];
static int deferrals;
static char heard[8][200];
static unsigned heard_from[8];
static int heard_count;

bool control_defer(void (*function)(void *arg), void *arg) {
    assert_true(deferrals < 8);
    deferred[deferrals].function = function;
    deferred[deferrals++].arg = arg;
    return true;
}

/* As the control task does. */
static void run_deferred(void) {
    for (int i = 0; i < deferrals; i++) {
        deferred[i].function(deferred[i].arg);
    }
    deferrals = 0;
}

void control_line(unsigned source, struct line *line) {
    assert_true(heard_count < 8);
    (void)snprintf(heard[heard_count], sizeof heard[0], "%u %.150s", line->problem, line->text);
    heard_from[heard_count++] = source;
}

static uint8_t *no_buffer(uint32_t *cap) {
    *cap = 0;
    return NULL;
}
static void give_nothing(uint8_t *buffer) {
    assert_null(buffer);
}
const struct line_sink control_sink = {.take = no_buffer, .give = give_nothing};

/* --- the test's side --- */

static struct settings settings;
static struct ts_link params;

static int set_up(void **state) {
    (void)state;
    static bool done;
    if (!done) {
        done = true;
        fake_clock_stop(1000000);
        assert_int_equal(link_init(), ESP_OK);
    }
    memset(&stack, 0, sizeof stack);
    deferrals = heard_count = 0;
    stack.free_buffers = 36;
    stack.att_mtu = 517;
    stack.interval = 12;
    settings = (struct settings){.name = "tail", .ble_phy = 2, .ble_interval = 12, .att_mtu = 300};
    struct link_identity who = {.role = TS_ROLE_TAIL, .stage = 1, .stage_count = 2, .version = "0.1.0"};
    for (uint8_t i = 0; i < sizeof who.bundle; i++) {
        who.bundle[i] = i;
    }
    link_identify(&who);
    assert_int_equal(link_ble.start(&settings, &params), ESP_OK);
    (void)link_gone_take();
    assert_false(stack.advertising); /* not before the controller is there */
    ble_hs_cfg.sync_cb();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    link_ble.stop();
    assert_int_equal(stack.inits, 0);
    return 0;
}

static const struct ble_gatt_chr_def *characteristic(uint8_t short_uuid) {
    for (const struct ble_gatt_chr_def *c = stack.services[0].characteristics; c->uuid != NULL; c++) {
        if (((const ble_uuid128_t *)c->uuid)->value[12] == short_uuid) {
            return c;
        }
    }
    return NULL;
}

static void central_connects(uint16_t handle) {
    stack.advertising = false; /* as the controller does */
    struct ble_gap_event event = {.type = BLE_GAP_EVENT_CONNECT, .connect = {.conn_handle = handle}};
    stack.adv_cb(&event, stack.adv_arg);
}

static void subscribe(uint16_t handle, void *arg, bool on) {
    struct ble_gap_event event = {
        .type = BLE_GAP_EVENT_SUBSCRIBE,
        .subscribe = {.conn_handle = handle, .attr_handle = *characteristic(3)->val_handle, .cur_notify = on}};
    stack.adv_cb(&event, arg);
}

static void disconnect(void *arg) {
    struct ble_gap_event event = {.type = BLE_GAP_EVENT_DISCONNECT, .disconnect = {.reason = 8}};
    stack.adv_cb(&event, arg);
}

/* A central connects and subscribes; the port's own word for the connection. */
static void *begin(uint16_t handle) {
    void *arg = stack.adv_arg;
    central_connects(handle);
    subscribe(handle, arg, true);
    return arg;
}

static int write_up(uint16_t handle, const void *data, size_t len) {
    struct ble_gatt_access_ctxt access = {.op = BLE_GATT_ACCESS_OP_WRITE_CHR, .om = mbuf(data, len)};
    const struct ble_gatt_chr_def *up = characteristic(2);
    return up->access_cb(handle, 0, &access, up->arg);
}

/* The next frame posted; wake-ups are passed over. */
static struct link_rx *next_frame(void) {
    for (int i = 0; i < 4; i++) {
        struct link_rx *rx = link_rx_wait(0);
        if (rx != NULL) {
            return rx;
        }
    }
    return NULL;
}

static void the_service_is_as_specified(void **state) {
    (void)state;
    static const uint8_t uuid[16] = {0xc3, 0xc1, 0x0d, 0x5d, 0xf7, 0xfb, 0x90, 0xb3,
                                     0x48, 0x42, 0xd6, 0xef, 0x01, 0x00, 0x2b, 0x95};
    assert_memory_equal(((const ble_uuid128_t *)stack.services[0].uuid)->value, uuid, 16);
    assert_int_equal(characteristic(2)->flags, BLE_GATT_CHR_F_WRITE_NO_RSP);
    assert_int_equal(characteristic(3)->flags, BLE_GATT_CHR_F_NOTIFY);
    assert_int_equal(characteristic(4)->flags, BLE_GATT_CHR_F_READ);
    assert_non_null(characteristic(5));
    assert_int_equal(stack.preferred_mtu, 300); /* as the setting att_mtu says */
    assert_int_equal(params.mtu, 495);
    assert_int_equal(params.window, 32);
    assert_int_equal(params.reorder, 1);
    assert_int_equal(params.rto_min_us, 100000);
}

static void it_advertises_fast_then_slowly(void **state) {
    (void)state;
    assert_true(stack.advertising);
    assert_int_equal(stack.adv_ms, 30000);
    assert_int_equal(stack.adv.itvl_min, 48);
    assert_int_equal(stack.adv.itvl_max, 96);
    static const uint8_t data[11] = {1, 3, 1, 2, 0, 1, 2, 3, 0, 1, 0}; /* the example of SPEC.md 13.2 */
    assert_memory_equal(stack.response + 16, data, sizeof data);
    stack.advertising = false;
    struct ble_gap_event over = {.type = BLE_GAP_EVENT_ADV_COMPLETE, .adv_complete = {.reason = BLE_HS_ETIMEOUT}};
    stack.adv_cb(&over, stack.adv_arg);
    assert_true(stack.advertising);
    assert_int_equal(stack.adv_ms, BLE_HS_FOREVER);
    assert_int_equal(stack.adv.itvl_min, 160);
    assert_int_equal(stack.adv.itvl_max, 240);
}

static void as_long_as_a_place_is_free(void **state) {
    (void)state;
    begin(1);
    assert_true(stack.advertising);
    void *second = begin(2);
    assert_false(stack.advertising); /* of three places one is for the next stage */
    disconnect(second);
    assert_true(stack.advertising);
    assert_int_equal(stack.adv_ms, 30000); /* fast again after a lost connection */
}

static void frames_are_values(void **state) {
    (void)state;
    begin(7);
    assert_int_equal(write_up(7, "boundary", 8), 0);
    struct link_rx *rx = next_frame();
    assert_non_null(rx);
    assert_int_equal(rx->len, 8);
    assert_memory_equal(rx->bytes, "boundary", 8);
    assert_int_equal(link_ble.send(&rx->from, (const uint8_t *)"ack", 3), TS_OK);
    link_rx_give(rx);
    assert_int_equal(stack.values, 1);
    assert_int_equal(stack.len[0], 3);
    assert_memory_equal(stack.value[0], "ack", 3);
    assert_int_equal(stack.value_handle, *characteristic(3)->val_handle);
}

static void before_and_after_the_link_values_are_dropped(void **state) {
    (void)state;
    void *arg = stack.adv_arg;
    central_connects(7);
    assert_int_equal(write_up(7, "early", 5), 0);
    assert_null(next_frame());
    subscribe(7, arg, true);
    struct ts_addr at = {.len = 1, .bytes = {1}};
    assert_int_equal(link_ble.send(&at, (const uint8_t *)"x", 1), TS_OK);
    assert_int_equal(link_gone_take(), 0);
    subscribe(7, arg, false);
    assert_int_equal(link_gone_take(), 1u << 1); /* the link is over, though the connection stays */
    assert_int_equal(link_ble.send(&at, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
    assert_int_equal(write_up(7, "late", 4), 0);
    assert_null(next_frame());
    assert_int_not_equal(write_up(99, "nobody", 6), 0);
}

static void a_value_that_is_no_frame_is_dropped(void **state) {
    (void)state;
    begin(7);
    static uint8_t giant[512];
    assert_int_equal(write_up(7, giant, 496), 0);
    assert_null(next_frame());
    assert_int_equal(write_up(7, giant, 495), 0);
    struct link_rx *rx = next_frame();
    assert_non_null(rx);
    link_rx_give(rx);
}

static void a_small_mtu_carries_a_stream(void **state) {
    (void)state;
    stack.att_mtu = 23;
    begin(7);
    uint8_t frame[495];
    uint8_t wire[TS_COBS_MAX(sizeof frame)];
    for (size_t i = 0; i < sizeof frame; i++) {
        frame[i] = (uint8_t)(i % 5);
    }
    size_t len = ts_cobs_encode(frame, sizeof frame, wire);
    for (size_t at = 0; at < len; at += 20) {
        assert_int_equal(write_up(7, wire + at, len - at < 20 ? len - at : 20), 0);
    }
    struct link_rx *rx = next_frame();
    assert_non_null(rx);
    assert_int_equal(rx->len, sizeof frame);
    assert_memory_equal(rx->bytes, frame, sizeof frame);
    assert_int_equal(link_ble.send(&rx->from, frame, sizeof frame), TS_OK);
    link_rx_give(rx);
    uint8_t sent[sizeof wire];
    size_t at = 0;
    for (int i = 0; i < stack.values; i++) {
        assert_true(stack.len[i] <= 20);
        memcpy(sent + at, stack.value[i], stack.len[i]);
        at += stack.len[i];
    }
    assert_int_equal(at, len);
    assert_memory_equal(sent, wire, len);
}

static void used_up_buffers_block_and_nothing_is_lost(void **state) {
    (void)state;
    begin(7);
    struct ts_addr at = {.len = 1, .bytes = {1}};
    stack.free_buffers = 17; /* less than half */
    assert_int_equal(link_ble.send(&at, (const uint8_t *)"frame", 5), TS_E_WOULD_BLOCK);
    assert_int_equal(stack.values, 0);
    stack.free_buffers = 18;
    assert_int_equal(link_ble.send(&at, (const uint8_t *)"frame", 5), TS_OK);
    assert_int_equal(stack.values, 1);
}

static void a_stream_goes_on_where_it_was_blocked(void **state) {
    (void)state;
    stack.att_mtu = 23;
    begin(7);
    struct ts_addr at = {.len = 1, .bytes = {1}};
    uint8_t frame[100];
    uint8_t wire[TS_COBS_MAX(sizeof frame)];
    memset(frame, 9, sizeof frame);
    size_t len = ts_cobs_encode(frame, sizeof frame, wire);
    stack.free_buffers = 0;
    assert_int_equal(link_ble.send(&at, frame, sizeof frame), TS_OK); /* taken, not yet sent */
    assert_int_equal(link_ble.send(&at, frame, sizeof frame), TS_E_WOULD_BLOCK);
    assert_int_equal(stack.values, 0);
    stack.free_buffers = 36;
    assert_null(next_frame()); /* the link task goes round */
    size_t sent = 0;
    for (int i = 0; i < stack.values; i++) {
        assert_memory_equal(stack.value[i], wire + sent, stack.len[i]);
        sent += stack.len[i];
    }
    assert_int_equal(sent, len);
}

static void speed_is_asked_for_when_the_link_begins(void **state) {
    (void)state;
    stack.interval = 40; /* 50 ms, as a telephone likes it */
    begin(7);
    assert_int_equal(stack.data_lens, 1);
    assert_int_equal(stack.phys, 1);
    assert_int_equal(stack.updates, 1);
    stack.interval = 12;
    begin(8);
    assert_int_equal(stack.updates, 1); /* 15 ms is good enough */
}

/* Reads the status of a connection. */
static size_t status_of(uint16_t handle, uint8_t *out) {
    struct ble_gatt_access_ctxt access = {.op = BLE_GATT_ACCESS_OP_READ_CHR, .om = mbuf("", 0)};
    const struct ble_gatt_chr_def *status = characteristic(4);
    assert_int_equal(status->access_cb(handle, 0, &access, status->arg), 0);
    memcpy(out, made_bytes, made.om_len);
    return made.om_len;
}

static void status_is_as_specified(void **state) {
    (void)state;
    stack.att_mtu = 247;
    void *arg = begin(7);
    struct ble_gap_event longer = {.type = BLE_GAP_EVENT_DATA_LEN_CHG,
                                   .data_len_chg = {.max_tx_octets = 251, .max_rx_octets = 251}};
    stack.adv_cb(&longer, arg);
    static const uint8_t expected[] = {/* the example of SPEC.md 13.3 */
                                       0x01, 0x03, 0x01, 0x02, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08,
                                       0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15,
                                       0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0xf7, 0x00, 0x0c,
                                       0x00, 0x00, 0x00, 0xc8, 0x00, 0x02, 0x02, 0xfb, 0x00, 0xfb, 0x00, 0x05, 0x30,
                                       0x2e, 0x31, 0x2e, 0x30, 0x04, 0x74, 0x61, 0x69, 0x6c};
    uint8_t status[128];
    assert_int_equal(status_of(7, status), sizeof expected);
    assert_memory_equal(status, expected, sizeof expected);
}

/* --- the central --- */

static void see(const char *name, bool complete, bool serves, const uint8_t *mac) {
    const ble_uuid128_t *ours = (const ble_uuid128_t *)stack.services[0].uuid;
    struct ble_hs_adv_fields fields = {.uuids128 = serves ? ours : NULL,
                                       .num_uuids128 = serves,
                                       .name = (const uint8_t *)name,
                                       .name_len = (uint8_t)strlen(name),
                                       .name_is_complete = complete};
    struct ble_gap_event event = {.type = BLE_GAP_EVENT_DISC,
                                  .disc = {.event_type = BLE_HCI_ADV_RPT_EVTYPE_ADV_IND,
                                           .length_data = sizeof fields,
                                           .data = (const uint8_t *)&fields}};
    memcpy(event.disc.addr.val, mac, 6);
    if (stack.scanning) {
        stack.scan_cb(&event, stack.scan_arg);
    }
}

static const uint8_t mac_a[6] = {0x06, 5, 4, 3, 2, 0x0a}; /* 0a:02:03:04:05:06, least significant byte first */

static void peripheral_accepts(void) {
    struct ble_gap_event event = {.type = BLE_GAP_EVENT_CONNECT, .connect = {.conn_handle = 3}};
    stack.connect_cb(&event, stack.connect_arg);
}

static const struct ble_gatt_error fine = {.status = 0};
static const struct ble_gatt_error end = {.status = BLE_HS_EDONE};

static void answer_discovery(void) {
    struct ble_gatt_svc service = {.start_handle = 20, .end_handle = 40};
    stack.mtu_cb(3, &fine, stack.att_mtu, stack.arg);
    stack.svc_cb(3, &fine, &service, stack.arg);
    stack.svc_cb(3, &end, NULL, stack.arg);
    for (uint8_t i = 4; i >= 2; i--) { /* their order is not fixed */
        struct ble_gatt_chr chr = {.def_handle = (uint16_t)(41 - 4 * i), .val_handle = (uint16_t)(42 - 4 * i)};
        chr.uuid.u128 = *(const ble_uuid128_t *)characteristic(i)->uuid;
        stack.chr_cb(3, &fine, &chr, stack.arg);
    }
    stack.chr_cb(3, &end, NULL, stack.arg);
    struct ble_gatt_dsc cccd = {.handle = 31};
    cccd.uuid.u16 = (ble_uuid16_t)BLE_UUID16_INIT(BLE_GATT_DSC_CLT_CFG_UUID16);
    stack.dsc_cb(3, &fine, 30, &cccd, stack.arg);
    stack.dsc_cb(3, &end, 30, NULL, stack.arg);
}

static void answer_status(const char *name, uint16_t att_mtu, size_t cut) {
    uint8_t status[128] = {1, 3, 1, 2};
    ts_put16(status + 36, att_mtu);
    status[50] = 5;
    memcpy(status + 51, "0.1.0", 5);
    status[56] = (uint8_t)strlen(name);
    memcpy(status + 57, name, strlen(name));
    size_t len = 57 + strlen(name) - cut;
    for (size_t at = 0; at < len; at += 22) { /* a long read comes in parts */
        struct ble_gatt_attr attr = {.om = mbuf(status + at, len - at < 22 ? len - at : 22)};
        stack.read_cb(3, &fine, &attr, stack.arg);
    }
    stack.read_cb(3, &end, NULL, stack.arg);
}

static void the_next_stage_is_found_by_name(void **state) {
    (void)state;
    struct ts_addr next;
    assert_true(link_ble.peer("tail-of-two", &next));
    assert_true(stack.scanning);
    see("tail-of-two", true, false, mac_a); /* a stranger with that name */
    see("tail-of-three", true, true, mac_a);
    see("head", true, true, mac_a);
    assert_true(stack.scanning);
    see("tail-of-", false, true, mac_a); /* eight bytes of the name are in the advertisement */
    assert_false(stack.scanning);
    assert_memory_equal(stack.connected_to.val, mac_a, 6);
    assert_int_equal(stack.params.itvl_min, 6);
    assert_int_equal(stack.params.itvl_max, 12);
    assert_int_equal(stack.params.latency, 0);
    assert_int_equal(stack.params.supervision_timeout, 200);
    peripheral_accepts();
    answer_discovery();
    assert_true(stack.data_lens == 1 && stack.phys == 1);
    assert_int_equal(stack.dsc_first, 30);
    assert_int_equal(stack.dsc_last, 32); /* up to where the next characteristic begins */
    answer_status("tail-of-two", 517, 0);
    assert_int_equal(stack.write_handle, 31);
    assert_int_equal(link_ble.send(&next, (const uint8_t *)"x", 1),
                     TS_E_SEND_FAILED); /* not before the CCCD is written */
    stack.write_cb(3, &fine, NULL, stack.arg);
    assert_int_equal(link_ble.send(&next, (const uint8_t *)"hello", 5), TS_OK);
    assert_int_equal(stack.value_handle, 34); /* up's */
    struct ble_gap_event value = {.type = BLE_GAP_EVENT_NOTIFY_RX,
                                  .notify_rx = {.om = mbuf("ack", 3), .attr_handle = 30}};
    stack.connect_cb(&value, stack.connect_arg);
    struct link_rx *rx = next_frame();
    assert_non_null(rx);
    assert_memory_equal(rx->bytes, "ack", 3);
    assert_memory_equal(&rx->from, &next, 3);
    link_rx_give(rx);
    struct link_status status;
    link_ble.describe(&status);
    assert_int_equal(status.peers, 1);
    assert_string_equal(status.phy, "2M");
    assert_int_equal(status.interval_us, 15000);
    assert_int_equal(status.att_mtu, 517);
    assert_int_equal(status.rssi_dbm, -55);
    assert_string_equal(status.error, "");
}

static void the_next_stage_is_found_by_address(void **state) {
    (void)state;
    struct ts_addr next;
    assert_true(link_ble.peer("0A:02:03:04:05:06", &next));
    const uint8_t other[6] = {1, 2, 3, 4, 5, 6};
    see("tail", true, true, other);
    assert_true(stack.scanning);
    see("whatever", true, true, mac_a);
    assert_false(stack.scanning);
}

static void the_board_counts_with_the_mtu_of_the_status(void **state) {
    (void)state;
    struct ts_addr next;
    assert_true(link_ble.peer("tail", &next));
    see("tail", true, true, mac_a);
    peripheral_accepts();
    answer_discovery();
    answer_status("tail", 23, 0);
    stack.write_cb(3, &fine, NULL, stack.arg);
    uint8_t frame[60];
    memset(frame, 1, sizeof frame);
    assert_int_equal(link_ble.send(&next, frame, sizeof frame), TS_OK);
    assert_true(stack.values > 1);
    for (int i = 0; i < stack.values; i++) {
        assert_true(stack.len[i] <= 20);
    }
}

static void expect_another_try(const char *why) {
    assert_int_equal(stack.terminated, 1);
    struct link_status status;
    link_ble.describe(&status);
    assert_string_equal(status.error, why);
    assert_false(stack.scanning);
    struct ble_gap_event gone = {.type = BLE_GAP_EVENT_DISCONNECT, .disconnect = {.reason = 0x16}};
    stack.connect_cb(&gone, stack.connect_arg);
    assert_false(stack.scanning);
    uint64_t pause = fake_next_timer();
    assert_in_range(pause, 180000, 250000);
    fake_advance(pause);
    assert_true(stack.scanning);
}

static void a_device_without_the_service_is_foreign(void **state) {
    (void)state;
    struct ts_addr next;
    assert_true(link_ble.peer("tail", &next));
    see("tail", true, true, mac_a);
    peripheral_accepts();
    stack.mtu_cb(3, &fine, stack.att_mtu, stack.arg);
    stack.svc_cb(3, &end, NULL, stack.arg);
    expect_another_try("the next device is no tinysplit board");
}

static void a_name_that_only_begins_alike_is_another(void **state) {
    (void)state;
    struct ts_addr next;
    assert_true(link_ble.peer("tail-of-two", &next));
    see("tail-of-", false, true, mac_a);
    peripheral_accepts();
    answer_discovery();
    answer_status("tail-of-three", 517, 0);
    expect_another_try("another board with a name that begins alike");
}

static void a_malformed_status_is_refused(void **state) {
    (void)state;
    for (size_t cut = 1; cut <= 60; cut++) {
        assert_int_equal(tear_down(state), 0);
        assert_int_equal(set_up(state), 0);
        struct ts_addr next;
        assert_true(link_ble.peer("tail", &next));
        see("tail", true, true, mac_a);
        peripheral_accepts();
        answer_discovery();
        answer_status("tail", 517, cut);
        expect_another_try("the next board's status is malformed");
    }
}

static void a_lost_connection_is_looked_for_again(void **state) {
    (void)state;
    struct ts_addr next;
    assert_true(link_ble.peer("tail", &next));
    for (int i = 0; i < 3; i++) {
        see("tail", true, true, mac_a);
        peripheral_accepts();
        answer_discovery();
        answer_status("tail", 517, 0);
        stack.write_cb(3, &fine, NULL, stack.arg);
        assert_int_equal(link_ble.send(&next, (const uint8_t *)"x", 1), TS_OK);
        struct ble_gap_event gone = {.type = BLE_GAP_EVENT_DISCONNECT, .disconnect = {.reason = 8}};
        stack.connect_cb(&gone, stack.connect_arg);
        assert_int_equal(link_gone_take(), 1u << 0);
        assert_int_equal(link_ble.send(&next, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
        fake_advance(250000);
        assert_true(stack.scanning);
    }
    struct ble_gap_event refused = {.type = BLE_GAP_EVENT_CONNECT, .connect = {.status = BLE_HS_ETIMEOUT}};
    see("tail", true, true, mac_a);
    stack.connect_cb(&refused, stack.connect_arg);
    fake_advance(500000);
    assert_true(stack.scanning);
}

static void a_controller_that_resets_ends_all_connections(void **state) {
    (void)state;
    begin(7);
    struct ts_addr at = {.len = 1, .bytes = {1}};
    assert_int_equal(link_ble.send(&at, (const uint8_t *)"x", 1), TS_OK);
    stack.advertising = false;
    (void)link_gone_take();
    ble_hs_cfg.reset_cb(19);
    assert_int_equal(link_gone_take(), 1u << 1);
    assert_int_equal(link_ble.send(&at, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
    struct link_status status;
    link_ble.describe(&status);
    assert_false(status.up);
    ble_hs_cfg.sync_cb();
    assert_true(stack.advertising);
}

/* --- security and control, 13.6 --- */

static void restart_with_passkey(const char *passkey) {
    link_ble.stop();
    memset(&stack, 0, sizeof stack);
    stack.free_buffers = 36;
    stack.att_mtu = 517;
    stack.interval = 12;
    strcpy(settings.ble_passkey, passkey);
    assert_int_equal(link_ble.start(&settings, &params), ESP_OK);
    ble_hs_cfg.sync_cb();
}

static void encrypt(void *arg, bool authenticated, int status) {
    stack.encrypted = status == 0;
    stack.authenticated = status == 0 && authenticated;
    struct ble_gap_event event = {.type = BLE_GAP_EVENT_ENC_CHANGE, .enc_change = {.status = status, .conn_handle = 7}};
    stack.adv_cb(&event, arg);
}

static void subscribe_control(uint16_t handle, void *arg, bool on) {
    struct ble_gap_event event = {
        .type = BLE_GAP_EVENT_SUBSCRIBE,
        .subscribe = {.conn_handle = handle, .attr_handle = *characteristic(5)->val_handle, .cur_notify = on}};
    stack.adv_cb(&event, arg);
}

static int write_control(uint16_t handle, const char *text) {
    struct ble_gatt_access_ctxt access = {.op = BLE_GATT_ACCESS_OP_WRITE_CHR, .om = mbuf(text, strlen(text))};
    const struct ble_gatt_chr_def *control = characteristic(5);
    return control->access_cb(handle, 0, &access, control->arg);
}

static void only_control_is_secret_without_a_passkey(void **state) {
    (void)state;
    assert_int_equal(characteristic(2)->flags, BLE_GATT_CHR_F_WRITE_NO_RSP);
    assert_int_equal(characteristic(3)->flags, BLE_GATT_CHR_F_NOTIFY);
    assert_int_equal(characteristic(4)->flags, BLE_GATT_CHR_F_READ);
    assert_int_equal(characteristic(5)->flags, BLE_GATT_CHR_F_WRITE | BLE_GATT_CHR_F_WRITE_ENC | BLE_GATT_CHR_F_NOTIFY);
    assert_int_equal(ble_hs_cfg.sm_io_cap, BLE_HS_IO_NO_INPUT_OUTPUT);
    assert_true(ble_hs_cfg.sm_sc && ble_hs_cfg.sm_bonding && !ble_hs_cfg.sm_mitm);
}

static void with_a_passkey_all_of_it_is(void **state) {
    (void)state;
    restart_with_passkey("004711");
    const ble_gatt_chr_flags writes = BLE_GATT_CHR_F_WRITE_ENC | BLE_GATT_CHR_F_WRITE_AUTHEN;
    assert_int_equal(characteristic(2)->flags & writes, writes);
    assert_int_equal(characteristic(5)->flags & writes, writes);
    const ble_gatt_chr_flags reads = BLE_GATT_CHR_F_READ_ENC | BLE_GATT_CHR_F_READ_AUTHEN;
    assert_int_equal(characteristic(4)->flags & reads, reads);
    assert_int_equal(ble_hs_cfg.sm_io_cap, BLE_HS_IO_DISPLAY_ONLY);
    assert_true(ble_hs_cfg.sm_sc && ble_hs_cfg.sm_bonding && ble_hs_cfg.sm_mitm);
    /* A link does not begin before the passkey was given. */
    struct ts_addr at = {.len = 1, .bytes = {1}};
    void *arg = begin(7);
    assert_int_equal(stack.pairings, 1);
    assert_int_equal(link_ble.send(&at, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
    encrypt(arg, false, 0); /* Just Works is not enough */
    assert_int_equal(link_ble.send(&at, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
    struct ble_gap_event asked = {.type = BLE_GAP_EVENT_PASSKEY_ACTION,
                                  .passkey = {.conn_handle = 7, .params = {.action = BLE_SM_IOACT_DISP}}};
    stack.adv_cb(&asked, arg);
    assert_int_equal(stack.passkey, 4711);
    encrypt(arg, true, 0);
    assert_int_equal(link_ble.send(&at, (const uint8_t *)"x", 1), TS_OK);
    struct link_status status;
    link_ble.describe(&status);
    assert_null(strstr(status.error, "4711"));
    restart_with_passkey("");
    assert_int_equal(characteristic(4)->flags, BLE_GATT_CHR_F_READ);
}

static void a_peer_that_lost_its_keys_may_pair_again(void **state) {
    (void)state;
    void *arg = begin(7);
    struct ble_gap_event event = {.type = BLE_GAP_EVENT_REPEAT_PAIRING, .repeat_pairing = {.conn_handle = 7}};
    assert_int_equal(stack.adv_cb(&event, arg), BLE_GAP_REPEAT_PAIRING_RETRY);
    assert_int_equal(stack.forgotten, 1);
}

static void lines_come_and_go_in_pieces(void **state) {
    (void)state;
    stack.att_mtu = 23;
    void *arg = stack.adv_arg;
    central_connects(7);
    encrypt(arg, false, 0);
    subscribe_control(7, arg, true);
    assert_int_equal(write_control(7, "{\"id\":1,\"cm"), 0);
    assert_int_equal(write_control(7, "d\":\"info\"}\n{\"id\":2}"), 0);
    assert_int_equal(heard_count, 0); /* not on the host's task */
    run_deferred();
    assert_int_equal(heard_count, 1);
    assert_string_equal(heard[0], "0 {\"id\":1,\"cmd\":\"info\"}");
    assert_int_equal(write_control(7, "\n"), 0);
    run_deferred();
    assert_string_equal(heard[1], "0 {\"id\":2}");
    assert_true(heard_from[0] >= CONTROL_BLE);
    const char *answer = "{\"id\":1,\"ok\":true,\"result\":{\"a\":12345678901234567890}}";
    ble_control_say(heard_from[0] - CONTROL_BLE, answer);
    char got[200] = "";
    for (int i = 0; i < stack.values; i++) {
        assert_in_range(stack.len[i], 1, 20);
        memcpy(got + strlen(got), stack.value[i], stack.len[i]);
    }
    assert_int_equal(stack.value_handle, *characteristic(5)->val_handle);
    assert_int_equal(got[strlen(got) - 1], '\n');
    got[strlen(got) - 1] = '\0';
    assert_string_equal(got, answer);
    stack.values = 0;
    ble_control_tell("{\"event\":\"x\"}");
    assert_true(stack.values >= 1);
    subscribe_control(7, arg, false);
    stack.values = 0;
    ble_control_tell("{\"event\":\"x\"}");
    assert_int_equal(stack.values, 0);
}

static void an_open_link_gets_no_answers(void **state) {
    (void)state;
    void *arg = stack.adv_arg;
    central_connects(7);
    subscribe_control(7, arg, true);
    assert_int_equal(stack.pairings, 1); /* it is asked to pair */
    ble_control_tell("{\"event\":\"x\"}");
    assert_int_equal(stack.values, 0);
    encrypt(arg, false, 0);
    ble_control_tell("{\"event\":\"x\"}");
    assert_true(stack.values > 0);
}

static void a_line_belongs_to_its_connection(void **state) {
    (void)state;
    void *arg = stack.adv_arg;
    central_connects(7);
    encrypt(arg, false, 0);
    subscribe_control(7, arg, true);
    assert_int_equal(write_control(7, "{\"id\":1}\n{\"half"), 0);
    run_deferred();
    assert_int_equal(heard_count, 1);
    assert_int_equal(write_control(7, "{\"late\":1}\n"), 0);
    disconnect(arg);
    run_deferred(); /* what was under way is forgotten with the connection */
    assert_int_equal(heard_count, 1);
    stack.encrypted = false;
    arg = stack.adv_arg;
    central_connects(8);
    encrypt(arg, false, 0);
    subscribe_control(8, arg, true);
    ble_control_say(heard_from[0] - CONTROL_BLE, "{\"id\":1}"); /* the answer was for the other */
    assert_int_equal(stack.values, 0);
    assert_int_equal(write_control(8, "{\"id\":2}\n"), 0);
    run_deferred();
    assert_string_equal(heard[1], "0 {\"id\":2}");
    ble_control_say(heard_from[1] - CONTROL_BLE, "{\"id\":2}");
    assert_int_equal(stack.values, 2); /* and the line's end */
}

static void too_much_at_once_is_an_error_of_att(void **state) {
    (void)state;
    void *arg = stack.adv_arg;
    central_connects(7);
    encrypt(arg, false, 0);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(write_control(7, "x"), 0);
    }
    assert_int_equal(write_control(7, "x"), BLE_ATT_ERR_INSUFFICIENT_RES);
    run_deferred();
    assert_int_equal(write_control(7, "\n"), 0);
    run_deferred();
    assert_string_equal(heard[0], "0 xxxxxx");
    char large[514];
    memset(large, 'x', 513);
    large[513] = '\0';
    assert_int_equal(write_control(7, large), BLE_ATT_ERR_INVALID_ATTR_VALUE_LEN);
}

static void a_central_gives_its_passkey_first(void **state) {
    (void)state;
    restart_with_passkey("123456");
    struct ts_addr next;
    assert_true(link_ble.peer("tail", &next));
    see("tail", true, true, mac_a);
    struct ble_gap_event connected = {.type = BLE_GAP_EVENT_CONNECT, .connect = {.conn_handle = 3}};
    stack.connect_cb(&connected, stack.connect_arg);
    stack.mtu_cb(3, &fine, 517, stack.arg);
    assert_int_equal(stack.pairings, 1);
    assert_null(stack.svc_cb); /* nothing is asked in the clear */
    assert_int_equal(ble_hs_cfg.sm_io_cap, BLE_HS_IO_KEYBOARD_ONLY);
    struct ble_gap_event asked = {.type = BLE_GAP_EVENT_PASSKEY_ACTION,
                                  .passkey = {.conn_handle = 3, .params = {.action = BLE_SM_IOACT_INPUT}}};
    stack.connect_cb(&asked, stack.connect_arg);
    assert_int_equal(stack.passkey, 123456);
    stack.encrypted = stack.authenticated = true;
    struct ble_gap_event done = {.type = BLE_GAP_EVENT_ENC_CHANGE, .enc_change = {.conn_handle = 3}};
    stack.connect_cb(&done, stack.connect_arg);
    assert_non_null(stack.svc_cb);
    assert_int_equal(ble_hs_cfg.sm_io_cap, BLE_HS_IO_DISPLAY_ONLY);
    /* Another passkey there. */
    stack.svc_cb = NULL;
    stack.encrypted = stack.authenticated = false;
    done.enc_change.status = 0x404;
    stack.connect_cb(&done, stack.connect_arg);
    assert_null(stack.svc_cb);
    assert_int_equal(stack.terminated, 1);
    struct link_status status;
    link_ble.describe(&status);
    assert_non_null(strstr(status.error, "another ble_passkey"));
    restart_with_passkey("");
}

static void a_passkey_that_is_missing_is_named(void **state) {
    (void)state;
    struct ts_addr next;
    assert_true(link_ble.peer("tail", &next));
    see("tail", true, true, mac_a);
    peripheral_accepts();
    answer_discovery();
    const struct ble_gatt_error refused = {.status = BLE_HS_ATT_ERR(BLE_ATT_ERR_INSUFFICIENT_AUTHEN)};
    stack.read_cb(3, &refused, NULL, stack.arg);
    struct link_status status;
    link_ble.describe(&status);
    assert_non_null(strstr(status.error, "set ble_passkey"));
}

static void the_next_stage_may_be_a_central(void **state) {
    (void)state;
    struct ts_addr next;
    assert_true(link_ble.peer("central", &next));
    assert_int_equal(next.bytes[0], 0);
    assert_false(stack.scanning);
    assert_int_equal(link_ble.send(&next, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
    begin(7); /* the stage before: it speaks at once */
    assert_int_equal(write_up(7, "hello", 5), 0);
    struct link_rx *rx = next_frame();
    assert_int_equal(rx->from.bytes[0], 1);
    link_rx_give(rx);
    void *arg = begin(8);
    assert_int_equal(link_ble.send(&next, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
    fake_advance(300000);
    assert_int_equal(link_ble.send(&next, (const uint8_t *)"x", 1), TS_OK);
    assert_int_equal(write_up(8, "ack", 3), 0);
    rx = next_frame();
    assert_int_equal(rx->from.bytes[0], 0); /* it is the next stage from now on */
    link_rx_give(rx);
    (void)link_gone_take();
    disconnect(arg);
    assert_int_equal(link_gone_take(), 1u << 0);
    assert_int_equal(link_ble.send(&next, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
}

static void addresses(void **state) {
    (void)state;
    struct ts_addr out;
    assert_false(link_ble.peer("", &out));
    assert_false(link_ble.peer("a-name-that-is-longer-than-32-byte", &out));
    const struct ts_addr beyond = {.len = 1, .bytes = {9}};
    assert_int_equal(link_ble.send(&beyond, (const uint8_t *)"x", 1), TS_E_SEND_FAILED);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(the_service_is_as_specified),
        TEST(it_advertises_fast_then_slowly),
        TEST(as_long_as_a_place_is_free),
        TEST(frames_are_values),
        TEST(before_and_after_the_link_values_are_dropped),
        TEST(a_value_that_is_no_frame_is_dropped),
        TEST(a_small_mtu_carries_a_stream),
        TEST(used_up_buffers_block_and_nothing_is_lost),
        TEST(a_stream_goes_on_where_it_was_blocked),
        TEST(speed_is_asked_for_when_the_link_begins),
        TEST(status_is_as_specified),
        TEST(the_next_stage_is_found_by_name),
        TEST(the_next_stage_is_found_by_address),
        TEST(the_board_counts_with_the_mtu_of_the_status),
        TEST(a_device_without_the_service_is_foreign),
        TEST(a_name_that_only_begins_alike_is_another),
        TEST(a_malformed_status_is_refused),
        TEST(a_lost_connection_is_looked_for_again),
        TEST(a_controller_that_resets_ends_all_connections),
        TEST(only_control_is_secret_without_a_passkey),
        TEST(with_a_passkey_all_of_it_is),
        TEST(a_peer_that_lost_its_keys_may_pair_again),
        TEST(lines_come_and_go_in_pieces),
        TEST(an_open_link_gets_no_answers),
        TEST(a_line_belongs_to_its_connection),
        TEST(too_much_at_once_is_an_error_of_att),
        TEST(a_central_gives_its_passkey_first),
        TEST(a_passkey_that_is_missing_is_named),
        TEST(the_next_stage_may_be_a_central),
        TEST(addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
