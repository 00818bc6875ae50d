/* Frames as GATT values, SPEC.md section 13: a peripheral with the service, and a central for the next stage.
 *
 * NimBLE calls back on its host task, which copies received values into pooled buffers and moves each connection
 * through its states. The link task sends. A connection is named to the core by its place in the table; place 0 is
 * the one to the next stage. */
#include "sdkconfig.h"

#if CONFIG_TINYSPLIT_BLE

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ble.h"
#include "control.h"
#include "esp_heap_caps.h"
#include "esp_random.h"
#include "esp_timer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/semphr.h"
#include "freertos/task.h"
#include "host/ble_hs.h"
#include "host/util/util.h"
#include "line.h"
#include "link.h"
#include "nimble/nimble_port.h"
#include "nimble/nimble_port_freertos.h"
#include "services/gap/ble_svc_gap.h"
#include "services/gatt/ble_svc_gatt.h"
#include "settings.h"
#include "tinysplit/stream.h"

#define FRAME_BYTES 495u     /* 13.4: fills two LL payloads of 251 */
#define FRAME_ATT_MTU 498u   /* from here on a value is a frame, below it is a piece of a stream */
#define WINDOW 32u           /* 13.4 */
#define LL_BYTES 251u        /* longest LL payload, and the time it takes at 1 Mbit/s */
#define LL_US 2120u          /* Vol 6 Part B 4.5.10 */
#define DEFAULT_LL_BYTES 27u /* before a data length update */
#define INTERVAL_MOST 12u    /* 15 ms in units of 1.25 ms, 13.5 */
#define INTERVAL_LEAST 6u    /* 7.5 ms */
#define SUPERVISION 200u     /* 2 s in units of 10 ms */
#define ADV_FAST_MS 30000    /* 13.2 */
#define ADV_FAST_MIN 48u     /* 30 to 60 ms in units of 0.625 ms */
#define ADV_FAST_MAX 96u
#define ADV_SLOW_MIN 160u /* 100 to 150 ms */
#define ADV_SLOW_MAX 240u
#define ADV_NAME_BYTES 8u
#define SCAN_INTERVAL 96u /* 60 ms, listening half of it: the radio has connections to serve, too */
#define SCAN_WINDOW 48u
#define CONNECT_MS 5000
#define RETRY_FIRST_MS 250u
#define RETRY_MOST_MS 8000u
#define STATUS_LAYOUT 1u
#define STATUS_BYTES 114u /* 13.3: 51 bytes, two lengths' texts of 31 */
#define SERVICE_DATA_BYTES 11u
#define SILENT_US 300000u /* 13: a central that sends nothing for this long can be the next stage */
#define VALUE_BYTES 512u
#define PIECES 6u /* control values on their way to the control task */
#define SAY_MS 2000

#if CONFIG_BT_NIMBLE_MAX_CONNECTIONS < 2
#error "BLE needs CONFIG_BT_NIMBLE_MAX_CONNECTIONS of 2 or more: one to the next stage, one from the stage before"
#endif
#define CONNECTIONS CONFIG_BT_NIMBLE_MAX_CONNECTIONS

enum state {
    FREE,
    SETTING_UP, /* connected: MTU, discovery, status; the peripheral: no CCCD written */
    OPEN
};

struct connection {
    atomic_int state; /* enum state */
    uint16_t handle;
    bool wants_link;           /* CCCD of down */
    atomic_bool wants_control; /* CCCD of control, on a link that is as secret as it must be */
    bool asked_control;        /* the CCCD alone */
    atomic_uint generation;    /* of the connections that had this place */
    _Atomic uint64_t began;    /* the link, us */
    atomic_bool spoke;         /* a frame came */
    bool stream;               /* 13.4: pieces of a COBS stream, instead of a frame in each value */
    uint16_t att_mtu;
    uint16_t tx_bytes, rx_bytes; /* LL payloads granted */
    struct ts_stream reader;
    uint8_t in[FRAME_BYTES];

    /* Of the link task: what is left of a frame in stream form. */
    size_t out_at, out_len;
    uint8_t out[TS_COBS_MAX(FRAME_BYTES)];

    /* Of a central: what it found. */
    uint16_t service_end, up, down, down_end, cccd, status;
    uint16_t status_len;
    uint8_t status_value[STATUS_BYTES];
};

/* 952bXXXX-efd6-4248-b390-fbf75d0dc1c3, least significant byte first */
#define TINYSPLIT_UUID(x)                                                                                              \
    BLE_UUID128_INIT(0xc3, 0xc1, 0x0d, 0x5d, 0xf7, 0xfb, 0x90, 0xb3, 0x48, 0x42, 0xd6, 0xef, (x), 0x00, 0x2b, 0x95)
static const ble_uuid128_t service_uuid = TINYSPLIT_UUID(1);
static const ble_uuid128_t up_uuid = TINYSPLIT_UUID(2);
static const ble_uuid128_t down_uuid = TINYSPLIT_UUID(3);
static const ble_uuid128_t status_uuid = TINYSPLIT_UUID(4);
static const ble_uuid128_t control_uuid = TINYSPLIT_UUID(5);
static const ble_uuid16_t cccd_uuid = BLE_UUID16_INIT(BLE_GATT_DSC_CLT_CFG_UUID16);

static struct connection connections[CONNECTIONS];
static const struct settings *own;
static bool running, initialized;
static atomic_bool has_next, synced;
static uint8_t own_addr_type;
static uint16_t mtu;
static uint16_t down_handle, control_handle; /* of our own service */
static bool next_is_central;                 /* `next` is ble://central */
static atomic_int next_place;                /* which one that is; -1: not known yet */

/* Control lines, a piece of one on its way to the control task, and who may write answers. */
struct piece {
    atomic_bool used;
    uint8_t place;
    unsigned generation;
    uint16_t len;
    uint8_t bytes[VALUE_BYTES];
};
static struct {
    struct piece pieces[PIECES];
    struct line lines[CONNECTIONS];
    unsigned generation[CONNECTIONS]; /* of the line there */
} *control;                           /* in PSRAM where there is some */
static SemaphoreHandle_t say_lock;
static StaticSemaphore_t say_lock_memory;
void ble_store_config_init(void); /* no header of NimBLE has it */
static bool next_by_name;
static char next_name[33];
static uint8_t next_mac[6]; /* as NimBLE has it: least significant byte first */
static bool advertise_fast;
static esp_timer_handle_t retry_timer;
static uint32_t retries;
static bool blocked; /* the link task met used-up buffers */
static atomic_uint dropped, failed, reconnects;
static const char *_Atomic problem = "";

static int gap_event(struct ble_gap_event *event, void *arg);
static void scan(void);

/* The next stage is place 0, whoever connected to whom. */
static uint8_t place_of(const struct connection *c) {
    int index = (int)(c - connections);
    return next_is_central && index == atomic_load(&next_place) ? 0 : (uint8_t)index;
}

static struct ts_addr address_of(const struct connection *c) {
    return (struct ts_addr){.link = LINK_RADIO, .len = 1, .bytes = {place_of(c)}};
}

static bool is_central(const struct connection *c) {
    return c == &connections[0];
}

static struct connection *connection_by_handle(uint16_t handle) {
    for (size_t i = 0; i < CONNECTIONS; i++) {
        if (atomic_load(&connections[i].state) != FREE && connections[i].handle == handle) {
            return &connections[i];
        }
    }
    return NULL;
}

/* --- frames in --- */

static void take_frame(void *ctx, const uint8_t *frame, size_t len) {
    struct link_rx *rx = len <= FRAME_BYTES ? link_rx_take() : NULL;
    if (rx == NULL) {
        atomic_fetch_add(&dropped, 1);
        return;
    }
    rx->from = address_of(ctx);
    rx->len = (uint16_t)len;
    memcpy(rx->bytes, frame, len);
    link_rx_post(rx);
}

static void take_value(struct connection *c, const struct os_mbuf *value) {
    uint16_t len = OS_MBUF_PKTLEN(value);
    if (atomic_load(&c->state) != OPEN || len == 0) {
        return;
    }
    atomic_store(&c->spoke, true);
    if (c->stream) {
        for (const struct os_mbuf *part = value; part != NULL; part = SLIST_NEXT(part, om_next)) {
            (void)ts_stream_read(&c->reader, part->om_data, part->om_len, take_frame, c);
        }
        return;
    }
    struct link_rx *rx = len <= FRAME_BYTES ? link_rx_take() : NULL;
    if (rx == NULL || os_mbuf_copydata(value, 0, len, rx->bytes) != 0) {
        atomic_fetch_add(&dropped, 1);
        if (rx != NULL) {
            link_rx_give(rx);
        }
        return;
    }
    rx->from = address_of(c);
    rx->len = len;
    link_rx_post(rx);
}

/* --- frames out, on the link task --- */

/* Hands one value to the stack. Half of its buffers stay free for what comes in and for ATT's answers. */
static int push(struct connection *c, const uint8_t *value, uint16_t len) {
    if (os_msys_num_free() < os_msys_count() / 2) {
        return TS_E_WOULD_BLOCK;
    }
    int code;
    if (is_central(c)) {
        code = ble_gattc_write_no_rsp_flat(c->handle, c->up, value, len);
    } else {
        struct os_mbuf *om = ble_hs_mbuf_from_flat(value, len);
        code = om == NULL ? BLE_HS_ENOMEM : ble_gatts_notify_custom(c->handle, down_handle, om);
    }
    switch (code) {
    case 0:
        return TS_OK;
    case BLE_HS_ENOMEM:
    case BLE_HS_EAGAIN:
    case BLE_HS_EBUSY:
        return TS_E_WOULD_BLOCK;
    default:
        return TS_E_SEND_FAILED;
    }
}

static int push_rest(struct connection *c) {
    while (c->out_at < c->out_len) {
        size_t left = c->out_len - c->out_at;
        size_t most = c->att_mtu - 3u;
        size_t piece = left < most ? left : most;
        int code = push(c, c->out + c->out_at, (uint16_t)piece);
        if (code == TS_E_WOULD_BLOCK) {
            return code;
        }
        c->out_at += piece;
        if (code != TS_OK) { /* the rest of this frame is nothing without this piece */
            c->out_at = c->out_len;
            return code;
        }
    }
    c->out_at = 0;
    c->out_len = 0;
    return TS_OK;
}

static bool flush(void) {
    bool waits = blocked;
    blocked = false;
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &connections[i];
        if (atomic_load(&c->state) == OPEN && c->out_len > 0) {
            waits |= push_rest(c) == TS_E_WOULD_BLOCK;
        }
    }
    return waits;
}

/* The first that began a link and then was silent: a stage before this one would have spoken first. */
static struct connection *silent_central(void) {
    uint64_t now = (uint64_t)esp_timer_get_time();
    struct connection *first = NULL;
    for (size_t i = 1; i < CONNECTIONS; i++) {
        struct connection *c = &connections[i];
        if (atomic_load(&c->state) == OPEN && !atomic_load(&c->spoke) && now - atomic_load(&c->began) >= SILENT_US &&
            (first == NULL || atomic_load(&c->began) < atomic_load(&first->began))) {
            first = c;
        }
    }
    return first;
}

static struct connection *connection_at(uint8_t place) {
    if (place != 0 || !next_is_central) {
        return &connections[place];
    }
    if (atomic_load(&next_place) < 0) {
        struct connection *found = silent_central();
        atomic_store(&next_place, found != NULL ? (int)(found - connections) : -1);
    }
    int at = atomic_load(&next_place);
    return at < 0 ? &connections[0] : &connections[at]; /* place 0 is never open here */
}

static int send_frame(const struct ts_addr *to, const uint8_t *frame, size_t len) {
    if (!running || to->len != 1 || to->bytes[0] >= CONNECTIONS || len == 0 || len > FRAME_BYTES) {
        return TS_E_SEND_FAILED;
    }
    struct connection *c = connection_at(to->bytes[0]);
    int code = TS_E_SEND_FAILED;
    if (atomic_load(&c->state) == OPEN) {
        if (!c->stream) {
            code = push(c, frame, (uint16_t)len);
        } else {
            code = c->out_len > 0 ? push_rest(c) : TS_OK;
            if (code == TS_OK) {
                c->out_len = ts_cobs_encode(frame, len, c->out);
                c->out_at = 0;
                code = push_rest(c) == TS_E_SEND_FAILED ? TS_E_SEND_FAILED : TS_OK; /* the rest goes by flush */
            }
        }
    }
    if (code == TS_E_WOULD_BLOCK) {
        blocked = true;
    } else if (code != TS_OK) {
        atomic_fetch_add(&failed, 1);
    }
    return code;
}

/* --- connections, on the host task --- */

static void begin_link(struct connection *c) {
    c->att_mtu = is_central(c) ? c->att_mtu : ble_att_mtu(c->handle);
    c->stream = c->att_mtu < FRAME_ATT_MTU;
    c->out_at = 0;
    c->out_len = 0;
    ts_stream_init(&c->reader, true, c->in, FRAME_BYTES);
    atomic_store(&c->spoke, false);
    atomic_store(&c->began, (uint64_t)esp_timer_get_time());
    atomic_store(&c->state, OPEN);
    link_wake();
}

/* The link of a connection is over; the connection may stay. */
static void end_link(struct connection *c, enum state then) {
    if (atomic_exchange(&c->state, (int)then) == OPEN) {
        link_gone(place_of(c));
        if (place_of(c) == 0) {
            atomic_store(&next_place, -1);
        }
    }
}

static void end_connection(struct connection *c) {
    end_link(c, FREE);
    c->wants_link = false;
    c->asked_control = false;
    atomic_store(&c->wants_control, false);
    atomic_fetch_add(&c->generation, 1); /* lines and answers of this one are over */
    link_wake();
}

static uint16_t interval_least(void) {
    return own->ble_interval > INTERVAL_MOST ? (uint16_t)own->ble_interval : INTERVAL_LEAST;
}

static uint16_t interval_most(void) {
    return own->ble_interval >= INTERVAL_LEAST ? (uint16_t)own->ble_interval : INTERVAL_MOST;
}

/* What is granted, or not, is in `status` and in describe: a refusal is no error (13.5). */
static void ask_for_speed(const struct connection *c) {
    if (c->tx_bytes < LL_BYTES) {
        (void)ble_gap_set_data_len(c->handle, LL_BYTES, LL_US);
    }
    if (own->ble_phy == 2) {
        (void)ble_gap_set_prefered_le_phy(c->handle, BLE_GAP_LE_PHY_2M_MASK, BLE_GAP_LE_PHY_2M_MASK,
                                          BLE_GAP_LE_PHY_CODED_ANY);
    }
}

static void ask_for_interval(const struct connection *c) {
    struct ble_gap_conn_desc desc;
    if (ble_gap_conn_find(c->handle, &desc) == 0 && desc.conn_itvl > interval_most()) {
        const struct ble_gap_upd_params wanted = {.itvl_min = interval_least(),
                                                  .itvl_max = interval_most(),
                                                  .latency = 0,
                                                  .supervision_timeout = SUPERVISION};
        (void)ble_gap_update_params(c->handle, &wanted);
    }
}

static void advertise(void) {
    struct connection *slot = NULL;
    for (size_t i = 1; i < CONNECTIONS && slot == NULL; i++) {
        slot = atomic_load(&connections[i].state) == FREE ? &connections[i] : NULL;
    }
    if (slot == NULL || ble_gap_adv_active()) {
        return;
    }
    size_t name_len = strlen(own->name);
    struct ble_hs_adv_fields fields = {.flags = BLE_HS_ADV_F_DISC_GEN | BLE_HS_ADV_F_BREDR_UNSUP,
                                       .uuids128 = &service_uuid,
                                       .num_uuids128 = 1,
                                       .uuids128_is_complete = 1,
                                       .name = (const uint8_t *)own->name,
                                       .name_len = (uint8_t)(name_len < ADV_NAME_BYTES ? name_len : ADV_NAME_BYTES),
                                       .name_is_complete = name_len <= ADV_NAME_BYTES};
    const struct link_identity *who = link_identity();
    uint8_t data[16 + SERVICE_DATA_BYTES];
    memcpy(data, service_uuid.value, 16);
    data[16] = STATUS_LAYOUT;
    data[17] = who->role;
    data[18] = who->stage;
    data[19] = who->stage_count;
    memcpy(data + 20, who->bundle, 4);
    const char *digits = who->version;
    for (size_t i = 0; i < 3; i++) {
        char *end = NULL;
        data[24 + i] = (uint8_t)strtoul(digits, &end, 10);
        digits = *end == '.' ? end + 1 : end;
    }
    struct ble_hs_adv_fields response = {.svc_data_uuid128 = data, .svc_data_uuid128_len = sizeof data};
    const struct ble_gap_adv_params params = {.conn_mode = BLE_GAP_CONN_MODE_UND,
                                              .disc_mode = BLE_GAP_DISC_MODE_GEN,
                                              .itvl_min = advertise_fast ? ADV_FAST_MIN : ADV_SLOW_MIN,
                                              .itvl_max = advertise_fast ? ADV_FAST_MAX : ADV_SLOW_MAX};
    if (ble_gap_adv_set_fields(&fields) != 0 || ble_gap_adv_rsp_set_fields(&response) != 0 ||
        ble_gap_adv_start(own_addr_type, NULL, advertise_fast ? ADV_FAST_MS : BLE_HS_FOREVER, &params, gap_event,
                          slot) != 0) {
        atomic_store(&problem, "cannot advertise");
    }
}

/* --- the central: find, connect, find out, begin --- */

static void retry(void *arg) {
    (void)arg;
    scan();
}

static void retry_later(void) {
    uint32_t ms = retries < 6 ? RETRY_FIRST_MS << retries : RETRY_MOST_MS;
    ms = ms < RETRY_MOST_MS ? ms : RETRY_MOST_MS;
    retries++;
    (void)esp_timer_start_once(retry_timer, (uint64_t)(ms - esp_random() % (ms / 4)) * 1000u);
}

static void scan(void) {
    if (!atomic_load(&has_next) || !atomic_load(&synced) || atomic_load(&connections[0].state) != FREE ||
        ble_gap_disc_active() || ble_gap_conn_active()) {
        return;
    }
    const struct ble_gap_disc_params params = {.itvl = SCAN_INTERVAL, .window = SCAN_WINDOW, .passive = 1};
    if (ble_gap_disc(own_addr_type, BLE_HS_FOREVER, &params, gap_event, &connections[0]) != 0) {
        retry_later();
    }
}

static bool is_next(const struct ble_gap_disc_desc *found) {
    struct ble_hs_adv_fields fields;
    if (found->event_type != BLE_HCI_ADV_RPT_EVTYPE_ADV_IND) {
        return false;
    }
    if (!next_by_name) {
        return memcmp(found->addr.val, next_mac, sizeof next_mac) == 0;
    }
    if (ble_hs_adv_parse_fields(&fields, found->data, found->length_data) != 0 || fields.name == NULL) {
        return false;
    }
    bool serves = false;
    for (size_t i = 0; i < fields.num_uuids128; i++) {
        serves |= ble_uuid_cmp(&fields.uuids128[i].u, &service_uuid.u) == 0;
    }
    size_t len = strlen(next_name);
    return serves && fields.name_len > 0 &&
           (fields.name_is_complete ? fields.name_len == len : fields.name_len < len) &&
           memcmp(fields.name, next_name, fields.name_len) == 0;
}

static void connect_to(const ble_addr_t *addr) {
    const struct ble_gap_conn_params params = {.scan_itvl = SCAN_INTERVAL,
                                               .scan_window = SCAN_WINDOW,
                                               .itvl_min = interval_least(),
                                               .itvl_max = interval_most(),
                                               .latency = 0,
                                               .supervision_timeout = SUPERVISION};
    ble_addr_t to = *addr;
    if (ble_gap_disc_cancel() != 0 ||
        ble_gap_connect(own_addr_type, &to, CONNECT_MS, &params, gap_event, &connections[0]) != 0) {
        retry_later();
    }
}

static void give_up(const struct connection *c, const char *why) {
    atomic_store(&problem, why);
    (void)ble_gap_terminate(c->handle, BLE_ERR_REM_USER_CONN_TERM); /* its event plans the next try */
}

/* An ATT error of the next board, as a line for people. */
static const char *why_not(uint16_t status, const char *other) {
    bool secret = status == BLE_HS_ATT_ERR(BLE_ATT_ERR_INSUFFICIENT_AUTHEN) ||
                  status == BLE_HS_ATT_ERR(BLE_ATT_ERR_INSUFFICIENT_ENC);
    return secret ? "the next board wants a passkey: set ble_passkey" : other;
}

static int on_cccd(uint16_t handle, const struct ble_gatt_error *error, struct ble_gatt_attr *attr, void *arg) {
    struct connection *c = arg;
    (void)handle;
    (void)attr;
    if (error->status != 0) {
        give_up(c, why_not(error->status, "the next board refuses notifications"));
        return 0;
    }
    retries = 0;
    atomic_store(&problem, "");
    begin_link(c);
    return 0;
}

/* The status is whole: the right board, and the ATT_MTU to count with. */
static void judge_status(struct connection *c) {
    const uint8_t *s = c->status_value;
    uint16_t len = c->status_len;
    uint16_t version = len > 50 ? s[50] : 0;
    bool whole = len > 52 && s[0] == STATUS_LAYOUT && version <= 31 && 52u + version <= len && s[51 + version] <= 31 &&
                 52u + version + s[51 + version] <= len;
    if (!whole) {
        give_up(c, "the next board's status is malformed");
        return;
    }
    size_t name_len = s[51 + version];
    if (next_by_name && (name_len != strlen(next_name) || memcmp(s + 52 + version, next_name, name_len) != 0)) {
        give_up(c, "another board with a name that begins alike");
        return;
    }
    uint16_t told = ts_get16(s + 36);
    c->att_mtu = told >= 23 ? told : ble_att_mtu(c->handle);
    static const uint8_t notify[2] = {1, 0};
    if (ble_gattc_write_flat(c->handle, c->cccd, notify, sizeof notify, on_cccd, c) != 0) {
        give_up(c, "cannot write to the next board");
    }
}

static int on_status(uint16_t handle, const struct ble_gatt_error *error, struct ble_gatt_attr *attr, void *arg) {
    struct connection *c = arg;
    (void)handle;
    if (error->status == 0 && attr != NULL) {
        uint16_t len = OS_MBUF_PKTLEN(attr->om);
        uint16_t room = (uint16_t)(sizeof c->status_value - c->status_len);
        uint16_t take = len < room ? len : room; /* what is behind 13.3's fields is of no interest */
        if (os_mbuf_copydata(attr->om, 0, take, c->status_value + c->status_len) == 0) {
            c->status_len = (uint16_t)(c->status_len + take);
        }
    } else if (error->status == BLE_HS_EDONE) {
        judge_status(c);
    } else {
        give_up(c, why_not(error->status, "the next board's status cannot be read"));
    }
    return 0;
}

static int on_descriptor(uint16_t handle, const struct ble_gatt_error *error, uint16_t value,
                         const struct ble_gatt_dsc *dsc, void *arg) {
    struct connection *c = arg;
    (void)handle;
    (void)value;
    if (error->status == 0 && dsc != NULL) {
        if (c->cccd == 0 && ble_uuid_cmp(&dsc->uuid.u, &cccd_uuid.u) == 0) {
            c->cccd = dsc->handle;
        }
    } else if (error->status != BLE_HS_EDONE || c->cccd == 0) {
        give_up(c, "the next device is no tinysplit board");
    } else {
        c->status_len = 0;
        if (ble_gattc_read_long(c->handle, c->status, 0, on_status, c) != 0) {
            give_up(c, "the next board's status cannot be read");
        }
    }
    return 0;
}

static int on_characteristic(uint16_t handle, const struct ble_gatt_error *error, const struct ble_gatt_chr *chr,
                             void *arg) {
    struct connection *c = arg;
    (void)handle;
    if (error->status == 0 && chr != NULL) {
        if (c->down != 0 && chr->def_handle > c->down && chr->def_handle <= c->down_end) {
            c->down_end = (uint16_t)(chr->def_handle - 1); /* its descriptors end where the next one begins */
        }
        if (ble_uuid_cmp(&chr->uuid.u, &up_uuid.u) == 0) {
            c->up = chr->val_handle;
        } else if (ble_uuid_cmp(&chr->uuid.u, &down_uuid.u) == 0) {
            c->down = chr->val_handle;
            c->down_end = c->service_end;
        } else if (ble_uuid_cmp(&chr->uuid.u, &status_uuid.u) == 0) {
            c->status = chr->val_handle;
        }
    } else if (error->status != BLE_HS_EDONE || c->up == 0 || c->down == 0 || c->status == 0 ||
               ble_gattc_disc_all_dscs(c->handle, c->down, c->down_end, on_descriptor, c) != 0) {
        give_up(c, "the next device is no tinysplit board");
    }
    return 0;
}

static int on_service(uint16_t handle, const struct ble_gatt_error *error, const struct ble_gatt_svc *service,
                      void *arg) {
    struct connection *c = arg;
    (void)handle;
    if (error->status == 0 && service != NULL) {
        c->status = service->start_handle; /* until the characteristics are known */
        c->service_end = service->end_handle;
    } else if (error->status != BLE_HS_EDONE || c->service_end == 0) {
        give_up(c, "the next device is no tinysplit board");
    } else {
        uint16_t first = c->status;
        c->status = 0;
        if (ble_gattc_disc_all_chrs(c->handle, first, c->service_end, on_characteristic, c) != 0) {
            give_up(c, "cannot ask the next board for its service");
        }
    }
    return 0;
}

static bool has_passkey(void) {
    return own->ble_passkey[0] != '\0';
}

static void discover(struct connection *c) {
    if (ble_gattc_disc_svc_by_uuid(c->handle, &service_uuid.u, on_service, c) != 0) {
        give_up(c, "cannot ask the next board for its service");
    }
}

static int on_mtu(uint16_t handle, const struct ble_gatt_error *error, uint16_t att_mtu, void *arg) {
    struct connection *c = arg;
    (void)handle;
    (void)error; /* a board that refuses keeps 23: works, slowly */
    (void)att_mtu;
    ask_for_speed(c);
    if (!has_passkey()) {
        discover(c);
        return 0;
    }
    /* Two boards with the same passkey: this one types what the other shows. on_encryption goes on. */
    ble_hs_cfg.sm_io_cap = BLE_HS_IO_KEYBOARD_ONLY;
    if (ble_gap_security_initiate(c->handle) != 0) {
        give_up(c, "cannot pair with the next board");
    }
    return 0;
}

/* What the board asks of a central before it lets it at the link and at control (13.6). */
static bool is_secret(const struct connection *c, bool of_control) {
    struct ble_gap_conn_desc desc;
    if (!has_passkey() && !of_control) {
        return true;
    }
    return ble_gap_conn_find(c->handle, &desc) == 0 && desc.sec_state.encrypted &&
           (!has_passkey() || desc.sec_state.authenticated);
}

/* A central's wishes, as far as its link is secret enough for them. */
static void serve(struct connection *c) {
    atomic_store(&c->wants_control, c->asked_control && is_secret(c, true));
    if (c->wants_link && is_secret(c, false)) {
        if (atomic_load(&c->state) != OPEN) {
            ask_for_speed(c);
            ask_for_interval(c);
            begin_link(c);
        }
    } else {
        end_link(c, SETTING_UP);
    }
    if ((c->wants_link && !is_secret(c, false)) || (c->asked_control && !is_secret(c, true))) {
        (void)ble_gap_security_initiate(c->handle); /* asks the central to pair */
    }
}

static void on_encryption(struct connection *c, int status) {
    if (!is_central(c)) {
        if (status == 0) {
            serve(c);
        }
        return;
    }
    ble_hs_cfg.sm_io_cap = BLE_HS_IO_DISPLAY_ONLY;
    if (atomic_load(&c->state) != SETTING_UP) {
        return;
    }
    if (status != 0 || !is_secret(c, false)) {
        give_up(c, "the next board has another ble_passkey, or none");
        return;
    }
    discover(c);
}

static void give_passkey(uint16_t handle, uint8_t action) {
    if (has_passkey() && (action == BLE_SM_IOACT_DISP || action == BLE_SM_IOACT_INPUT)) {
        struct ble_sm_io io = {.action = action, .passkey = (uint32_t)strtoul(own->ble_passkey, NULL, 10)};
        (void)ble_sm_inject_io(handle, &io);
    }
}

/* A peer that lost its keys pairs anew. */
static int forget_bond(uint16_t handle) {
    struct ble_gap_conn_desc desc;
    if (ble_gap_conn_find(handle, &desc) != 0 || ble_store_util_delete_peer(&desc.peer_id_addr) != 0) {
        return BLE_GAP_REPEAT_PAIRING_IGNORE;
    }
    return BLE_GAP_REPEAT_PAIRING_RETRY;
}

static void connected(struct connection *c, uint16_t handle) {
    c->handle = handle;
    c->tx_bytes = DEFAULT_LL_BYTES;
    c->rx_bytes = DEFAULT_LL_BYTES;
    c->service_end = c->up = c->down = c->down_end = c->cccd = c->status = 0;
    atomic_store(&c->state, SETTING_UP);
    if (!is_central(c)) {
        advertise(); /* while places are free */
    } else if (ble_gattc_exchange_mtu(handle, on_mtu, c) != 0) {
        give_up(c, "cannot talk to the next board");
    }
}

static void disconnected(struct connection *c) {
    bool was_open = atomic_load(&c->state) == OPEN;
    if (was_open) {
        atomic_fetch_add(&reconnects, 1);
    }
    end_connection(c);
    if (is_central(c)) {
        retry_later();
    } else {
        advertise_fast = true;
        if (ble_gap_adv_active()) {
            (void)ble_gap_adv_stop();
        }
        advertise();
    }
}

static int gap_event(struct ble_gap_event *event, void *arg) {
    struct connection *c = arg;
    switch (event->type) {
    case BLE_GAP_EVENT_CONNECT:
        if (event->connect.status == 0) {
            connected(c, event->connect.conn_handle);
        } else if (is_central(c)) {
            retry_later();
        } else {
            advertise();
        }
        break;
    case BLE_GAP_EVENT_DISCONNECT:
        disconnected(c);
        break;
    case BLE_GAP_EVENT_DISC:
        if (is_next(&event->disc)) {
            connect_to(&event->disc.addr);
        }
        break;
    case BLE_GAP_EVENT_ADV_COMPLETE:
        if (event->adv_complete.reason != 0) { /* not by a connection: the fast half minute is over */
            advertise_fast = false;
            advertise();
        }
        break;
    case BLE_GAP_EVENT_SUBSCRIBE:
        if (atomic_load(&c->state) == FREE || is_central(c)) {
            break;
        }
        if (event->subscribe.attr_handle == down_handle) {
            c->wants_link = event->subscribe.cur_notify;
            serve(c);
        } else if (event->subscribe.attr_handle == control_handle) {
            c->asked_control = event->subscribe.cur_notify;
            serve(c);
        }
        break;
    case BLE_GAP_EVENT_ENC_CHANGE:
        on_encryption(c, event->enc_change.status);
        break;
    case BLE_GAP_EVENT_PASSKEY_ACTION:
        give_passkey(event->passkey.conn_handle, event->passkey.params.action);
        break;
    case BLE_GAP_EVENT_REPEAT_PAIRING:
        return forget_bond(event->repeat_pairing.conn_handle);
    case BLE_GAP_EVENT_NOTIFY_RX:
        if (is_central(c) && event->notify_rx.attr_handle == c->down) {
            take_value(c, event->notify_rx.om);
        }
        break;
    case BLE_GAP_EVENT_DATA_LEN_CHG:
        c->tx_bytes = event->data_len_chg.max_tx_octets;
        c->rx_bytes = event->data_len_chg.max_rx_octets;
        break;
    case BLE_GAP_EVENT_NOTIFY_TX:
    case BLE_GAP_EVENT_CONN_UPDATE:
    case BLE_GAP_EVENT_PHY_UPDATE_COMPLETE:
        link_wake();
        break;
    default:
        break;
    }
    return 0;
}

/* --- the service --- */

static void put_texts(struct os_mbuf *om, const char *text, int *code) {
    size_t len = strlen(text);
    uint8_t short_len = (uint8_t)(len < 31 ? len : 31);
    *code |= os_mbuf_append(om, &short_len, 1);
    *code |= os_mbuf_append(om, text, short_len);
}

static int read_status(const struct connection *c, uint16_t handle, struct os_mbuf *om) {
    const struct link_identity *who = link_identity();
    uint8_t head[50] = {STATUS_LAYOUT, who->role, who->stage, who->stage_count};
    struct ble_gap_conn_desc desc;
    uint8_t tx_phy = 0;
    uint8_t rx_phy = 0;
    memcpy(head + 4, who->bundle, TS_BUNDLE_BYTES);
    ts_put16(head + 36, ble_att_mtu(handle));
    if (ble_gap_conn_find(handle, &desc) == 0) {
        ts_put16(head + 38, desc.conn_itvl);
        ts_put16(head + 40, desc.conn_latency);
        ts_put16(head + 42, desc.supervision_timeout);
    }
    if (ble_gap_read_le_phy(handle, &tx_phy, &rx_phy) == 0) {
        head[44] = tx_phy;
        head[45] = rx_phy;
    }
    ts_put16(head + 46, c->tx_bytes);
    ts_put16(head + 48, c->rx_bytes);
    int code = os_mbuf_append(om, head, sizeof head);
    put_texts(om, who->version, &code);
    put_texts(om, own->name, &code);
    return code == 0 ? 0 : BLE_ATT_ERR_INSUFFICIENT_RES;
}

/* --- control lines --- */

/* On the control task. */
static void read_piece(void *arg) {
    struct piece *piece = arg;
    struct line *line = &control->lines[piece->place];
    if (control->generation[piece->place] != piece->generation) {
        line_clear(line); /* what the connection before left behind */
        control->generation[piece->place] = piece->generation;
    }
    bool there = atomic_load(&connections[piece->place].generation) == piece->generation;
    for (uint16_t i = 0; there && i < piece->len; i++) {
        if (line_byte(line, piece->bytes[i])) {
            control_line(CONTROL_BLE + (piece->place | (piece->generation & 0xFFFu) << 8), line);
            line_clear(line);
        }
    }
    atomic_store(&piece->used, false);
}

static int take_control(const struct connection *c, const struct os_mbuf *value) {
    uint16_t len = OS_MBUF_PKTLEN(value);
    if (len > VALUE_BYTES) {
        return BLE_ATT_ERR_INVALID_ATTR_VALUE_LEN;
    }
    for (size_t i = 0; i < PIECES; i++) {
        struct piece *piece = &control->pieces[i];
        if (atomic_exchange(&piece->used, true)) {
            continue;
        }
        piece->place = (uint8_t)(c - connections);
        piece->generation = atomic_load(&c->generation);
        piece->len = len;
        if (os_mbuf_copydata(value, 0, len, piece->bytes) == 0 && control_defer(read_piece, piece)) {
            return 0;
        }
        atomic_store(&piece->used, false);
        break;
    }
    return BLE_ATT_ERR_INSUFFICIENT_RES; /* its commands are too many at once */
}

static bool say_piece(const struct connection *c, const char *bytes, uint16_t len, int *waited) {
    for (; *waited < SAY_MS; *waited += 5) {
        if (os_msys_num_free() >= os_msys_count() / 2) {
            struct os_mbuf *om = ble_hs_mbuf_from_flat(bytes, len);
            int code = om == NULL ? BLE_HS_ENOMEM : ble_gatts_notify_custom(c->handle, control_handle, om);
            if (code != BLE_HS_ENOMEM && code != BLE_HS_EAGAIN && code != BLE_HS_EBUSY) {
                return code == 0;
            }
        }
        vTaskDelay(pdMS_TO_TICKS(5));
    }
    return false;
}

/* A whole line, as long as the connection is the one that is meant. */
static void say_line(struct connection *c, unsigned generation, const char *text) {
    if (xSemaphoreTake(say_lock, pdMS_TO_TICKS(SAY_MS)) != pdTRUE) {
        return;
    }
    size_t most = ble_att_mtu(c->handle) > 3 ? ble_att_mtu(c->handle) - 3u : 20u;
    most = most < VALUE_BYTES ? most : VALUE_BYTES;
    int waited = 0;
    bool goes_on = true;
    for (size_t left = strlen(text); goes_on && left > 0;) {
        size_t len = left < most ? left : most;
        goes_on = atomic_load(&c->wants_control) && atomic_load(&c->generation) == generation &&
                  say_piece(c, text, (uint16_t)len, &waited);
        text += len;
        left -= len;
    }
    if (goes_on) {
        (void)say_piece(c, "\n", 1, &waited);
    }
    (void)xSemaphoreGive(say_lock);
}

void ble_control_say(uint32_t to, const char *text) {
    struct connection *c = &connections[(to & 0xFFu) % CONNECTIONS];
    unsigned generation = atomic_load(&c->generation);
    if (running && (generation & 0xFFFu) == (to >> 8 & 0xFFFu)) {
        say_line(c, generation, text);
    }
}

void ble_control_tell(const char *text) {
    for (size_t i = 0; running && i < CONNECTIONS; i++) {
        if (atomic_load(&connections[i].wants_control)) {
            say_line(&connections[i], atomic_load(&connections[i].generation), text);
        }
    }
}

/* arg: the characteristic's UUID. */
static int on_access(uint16_t handle, uint16_t attr, struct ble_gatt_access_ctxt *access, void *arg) {
    struct connection *c = connection_by_handle(handle);
    (void)attr;
    if (c == NULL) {
        return BLE_ATT_ERR_UNLIKELY;
    }
    if (arg == &up_uuid && access->op == BLE_GATT_ACCESS_OP_WRITE_CHR) {
        take_value(c, access->om);
        return 0;
    }
    if (arg == &control_uuid && access->op == BLE_GATT_ACCESS_OP_WRITE_CHR) {
        return take_control(c, access->om);
    }
    if (arg == &status_uuid && access->op == BLE_GATT_ACCESS_OP_READ_CHR) {
        return read_status(c, handle, access->om);
    }
    return BLE_ATT_ERR_UNLIKELY;
}

static struct ble_gatt_chr_def characteristics[] = {
    {.uuid = &up_uuid.u, .access_cb = on_access, .arg = (void *)&up_uuid, .flags = BLE_GATT_CHR_F_WRITE_NO_RSP},
    {.uuid = &down_uuid.u,
     .access_cb = on_access,
     .arg = (void *)&down_uuid,
     .flags = BLE_GATT_CHR_F_NOTIFY,
     .val_handle = &down_handle},
    {.uuid = &status_uuid.u, .access_cb = on_access, .arg = (void *)&status_uuid, .flags = BLE_GATT_CHR_F_READ},
    {.uuid = &control_uuid.u,
     .access_cb = on_access,
     .arg = (void *)&control_uuid,
     .flags = BLE_GATT_CHR_F_WRITE | BLE_GATT_CHR_F_WRITE_ENC | BLE_GATT_CHR_F_NOTIFY,
     .val_handle = &control_handle},
    {.uuid = NULL},
};

/* With a passkey a central must have given it before it reads or writes anything. NimBLE lets anybody write CCCDs; what
 * they would bring waits for serve(). */
static void protect(void) {
    for (struct ble_gatt_chr_def *c = characteristics; c->uuid != NULL; c++) {
        c->flags &=
            (ble_gatt_chr_flags) ~(BLE_GATT_CHR_F_READ_ENC | BLE_GATT_CHR_F_READ_AUTHEN | BLE_GATT_CHR_F_WRITE_AUTHEN);
        if (c->arg != &control_uuid) {
            c->flags &= (ble_gatt_chr_flags)~BLE_GATT_CHR_F_WRITE_ENC;
        }
        if (has_passkey() && (c->flags & BLE_GATT_CHR_F_READ) != 0) {
            c->flags |= BLE_GATT_CHR_F_READ_ENC | BLE_GATT_CHR_F_READ_AUTHEN;
        }
        if (has_passkey() && (c->flags & (BLE_GATT_CHR_F_WRITE | BLE_GATT_CHR_F_WRITE_NO_RSP)) != 0) {
            c->flags |= BLE_GATT_CHR_F_WRITE_ENC | BLE_GATT_CHR_F_WRITE_AUTHEN;
        }
    }
    ble_hs_cfg.sm_io_cap = has_passkey() ? BLE_HS_IO_DISPLAY_ONLY : BLE_HS_IO_NO_INPUT_OUTPUT;
    ble_hs_cfg.sm_bonding = 1;
    ble_hs_cfg.sm_mitm = has_passkey();
    ble_hs_cfg.sm_sc = 1;
    ble_hs_cfg.sm_our_key_dist = BLE_SM_PAIR_KEY_DIST_ENC | BLE_SM_PAIR_KEY_DIST_ID;
    ble_hs_cfg.sm_their_key_dist = BLE_SM_PAIR_KEY_DIST_ENC | BLE_SM_PAIR_KEY_DIST_ID;
    ble_hs_cfg.store_status_cb = ble_store_util_status_rr;
}
static const struct ble_gatt_svc_def services[] = {
    {.type = BLE_GATT_SVC_TYPE_PRIMARY, .uuid = &service_uuid.u, .characteristics = characteristics},
    {.type = BLE_GATT_SVC_TYPE_END},
};

/* --- start and end --- */

static void on_sync(void) {
    if (ble_hs_util_ensure_addr(0) != 0 || ble_hs_id_infer_auto(0, &own_addr_type) != 0) {
        atomic_store(&problem, "no Bluetooth address");
        return;
    }
    atomic_store(&synced, true);
    advertise_fast = true;
    advertise();
    scan();
}

static void on_reset(int reason) {
    (void)reason;
    atomic_store(&synced, false);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        end_connection(&connections[i]);
    }
}

static void host_task(void *arg) {
    (void)arg;
    nimble_port_run(); /* until nimble_port_stop */
    nimble_port_freertos_deinit();
}

static esp_err_t prepare_host(const struct settings *settings) {
    const esp_timer_create_args_t args = {.callback = retry, .name = "ble"};
    esp_err_t error = retry_timer == NULL ? esp_timer_create(&args, &retry_timer) : ESP_OK;
    if (error == ESP_OK) {
        error = nimble_port_init();
    }
    if (error != ESP_OK) {
        return error;
    }
    ble_hs_cfg.sync_cb = on_sync;
    ble_hs_cfg.reset_cb = on_reset;
    protect();
    ble_store_config_init();
    ble_svc_gap_init();
    ble_svc_gatt_init();
    if (ble_gatts_count_cfg(services) != 0 || ble_gatts_add_svcs(services) != 0 ||
        ble_svc_gap_device_name_set(settings->name) != 0 ||
        ble_att_set_preferred_mtu((uint16_t)settings->att_mtu) != 0) {
        (void)nimble_port_deinit();
        return ESP_FAIL;
    }
    return ESP_OK;
}

static esp_err_t start(const struct settings *settings, struct ts_link *link) {
    if (running) {
        return ESP_ERR_INVALID_STATE;
    }
    own = settings;
    mtu = settings->mtu != 0 && settings->mtu < FRAME_BYTES ? (uint16_t)settings->mtu : (uint16_t)FRAME_BYTES;
    if (control == NULL) {
        say_lock = xSemaphoreCreateMutexStatic(&say_lock_memory);
        control =
            heap_caps_calloc_prefer(1, sizeof *control, 2, MALLOC_CAP_SPIRAM | MALLOC_CAP_8BIT, MALLOC_CAP_DEFAULT);
        if (control == NULL) {
            return ESP_ERR_NO_MEM;
        }
        for (size_t i = 0; i < CONNECTIONS; i++) {
            line_init(&control->lines[i], &control_sink);
        }
    }
    for (size_t i = 0; i < CONNECTIONS; i++) {
        end_connection(&connections[i]);
    }
    next_is_central = false;
    atomic_store(&next_place, -1);
    atomic_store(&has_next, false);
    atomic_store(&synced, false);
    retries = 0;
    /* GATT keeps order; a lost packet is repeated by the link layer, connection events later (13.4). */
    *link = (struct ts_link){.mtu = mtu,
                             .window = settings->window != 0 ? (uint16_t)settings->window : WINDOW,
                             .reorder = 1,
                             .rto_min_us = 100000};
    esp_err_t error = prepare_host(settings);
    if (error != ESP_OK) {
        return error;
    }
    initialized = true;
    link_on_wait(LINK_RADIO, flush);
    running = true;
    nimble_port_freertos_init(host_task);
    return ESP_OK;
}

static bool parse_mac(const char *text, uint8_t mac[6]) {
    uint8_t shown[6];
    for (size_t i = 0; settings_mac(text, shown) && i < 6; i++) {
        mac[5 - i] = shown[i];
    }
    return settings_mac(text, shown) && text[17] == 0;
}

static bool peer(const char *text, struct ts_addr *out) {
    *out = (struct ts_addr){.link = LINK_RADIO, .len = 1, .bytes = {0}};
    size_t len = strlen(text);
    next_by_name = !parse_mac(text, next_mac);
    if (len == 0 || (next_by_name && len >= sizeof next_name)) {
        return false;
    }
    next_is_central = strcmp(text, "central") == 0;
    if (next_is_central) {
        return true; /* it will come */
    }
    (void)snprintf(next_name, sizeof next_name, "%.32s", text);
    atomic_store(&has_next, true);
    scan(); /* or, if the controller is not up yet, on_sync does */
    return true;
}

static void stop(void) {
    if (!running) {
        return;
    }
    running = false;
    link_on_wait(LINK_RADIO, NULL);
    atomic_store(&has_next, false);
    (void)esp_timer_stop(retry_timer);
    if (initialized && nimble_port_stop() == 0) {
        (void)nimble_port_deinit();
        initialized = false;
    }
}

static void describe(struct link_status *out) {
    memset(out, 0, sizeof *out);
    out->up = atomic_load(&synced);
    out->mtu = mtu;
    out->reconnects = atomic_load(&reconnects);
    out->rx_dropped = atomic_load(&dropped);
    out->tx_failed = atomic_load(&failed);
    (void)snprintf(out->error, sizeof out->error, "%.60s", atomic_load(&problem));
    (void)snprintf(out->address, sizeof out->address, "ble://%.32s", own != NULL ? own->name : "");
    for (size_t i = CONNECTIONS; i-- > 0;) { /* the one to the next stage counts most, so it comes last */
        const struct connection *c = &connections[i];
        struct ble_gap_conn_desc desc;
        uint8_t tx_phy = 0;
        uint8_t rx_phy = 0;
        if (atomic_load(&c->state) != OPEN || ble_gap_conn_find(c->handle, &desc) != 0) {
            continue;
        }
        out->peers++;
        out->att_mtu = c->att_mtu;
        out->data_bytes = c->tx_bytes;
        out->interval_us = desc.conn_itvl * 1250u;
        out->latency = desc.conn_latency;
        if (ble_gap_read_le_phy(c->handle, &tx_phy, &rx_phy) == 0) {
            (void)snprintf(out->phy, sizeof out->phy, "%s",
                           tx_phy == BLE_GAP_LE_PHY_2M   ? "2M"
                           : tx_phy == BLE_GAP_LE_PHY_1M ? "1M"
                                                         : "coded");
        }
        (void)ble_gap_conn_rssi(c->handle, &out->rssi_dbm);
    }
}

const struct link_port link_ble = {
    .name = "ble", .start = start, .peer = peer, .send = send_frame, .stop = stop, .describe = describe};

#endif
