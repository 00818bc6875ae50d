/* What the rooms of a session share; not for users of the library.
 * session.c: who is there. outbox.c: messages out. inbox.c: messages in. */
#ifndef TINYSPLIT_INTERNAL_H
#define TINYSPLIT_INTERNAL_H

#include "tinysplit/session.h"

#define MS 1000u
#define RTO_MAX_US (2000u * MS)
#define PROBE_MAX_US (100u * MS)
#define KNOCK_MAX_US (500u * MS)
#define PARTIAL_US (10000u * MS)
#define RETRY_US (1u * MS)
#define TIMEOUT_MS 10000u

/* Outcomes of message ids that are not error codes. */
#define O_ABANDONED 0xFFFFu
#define O_UNKNOWN 0xFFFEu
#define O_PARTIAL 0xFFFDu
#define O_HELD 0xFFFCu

static inline uint32_t or_default(uint32_t value, uint32_t otherwise) {
    return value != 0 ? value : otherwise;
}

static inline uint32_t min32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* Serial comparison of message ids. */
static inline bool id_above(uint32_t a, uint32_t b) {
    return (int32_t)(a - b) > 0;
}

static inline const struct ts_link *link_of(const struct ts_endpoint *ep, const struct ts_session *s) {
    return &ep->cfg->links[s->addr.link];
}

static inline uint16_t index_of(const struct ts_endpoint *ep, const struct ts_session *s) {
    return (uint16_t)(s - ep->cfg->sessions);
}

/* session.c */
uint32_t ts__span_us(uint32_t ms, uint32_t otherwise_ms);
bool ts__reached(struct ts_endpoint *ep, uint32_t at);
uint64_t ts__wake_at(const struct ts_endpoint *ep, uint32_t at);
void ts__set_time(struct ts_endpoint *ep, uint64_t raw);
struct ts_session *ts__enter(struct ts_endpoint *ep, uint64_t now_us, uint16_t session);
uint32_t ts__extend(uint16_t wire, uint32_t near);
int ts__transmit(struct ts_endpoint *ep, const struct ts_addr *to, const uint8_t *bytes, size_t len);
int ts__transmit_control(struct ts_endpoint *ep, const struct ts_addr *to, const struct ts_keys *keys,
                         const struct ts_frame *f);
void ts__emit(struct ts_endpoint *ep, const struct ts_event *e);
void ts__ping(struct ts_endpoint *ep, struct ts_session *s);

/* outbox.c; ts__on_... are false for a frame to be dropped */
uint32_t ts__full_window(const struct ts_endpoint *ep, const struct ts_session *s);
void ts__tick_outbox(struct ts_endpoint *ep, struct ts_session *s);
void ts__fail_all(struct ts_endpoint *ep, struct ts_session *s, uint16_t code);
bool ts__on_ack(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f);
bool ts__on_reject(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f);

/* inbox.c */
uint8_t ts__free_slots(const struct ts_session *s);
void ts__pay_owed(struct ts_endpoint *ep, struct ts_session *s);
void ts__expire_partial(struct ts_endpoint *ep, struct ts_session *s);
bool ts__on_data(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f);
bool ts__on_poll(struct ts_endpoint *ep, struct ts_session *s, const struct ts_frame *f);

#endif
