#include "tinysplit/slots.h"

#include <string.h>

#define RECORD 128u
#define RECORD_SLOTS 24u
#define RECORD_SLOT 44u
#define MARKS ((TS_SECTOR - RECORD) / TS_PROGRAM_UNIT)

static const uint8_t magic[4] = {'t', 's', 'S', 'R'};

/* ---- The state record ---- */

static void encode(const struct ts_slots_config *cfg, const struct ts_slots_state *st, uint8_t out[RECORD]) {
    memset(out, 0, RECORD);
    memcpy(out, magic, sizeof magic);
    ts_put32(out + 4, st->sequence);
    ts_put32(out + 8, st->floor);
    out[12] = 1;
    out[13] = st->active;
    ts_put16(out + 14, st->reason);
    ts_put32(out + 16, st->reason_detail);
    ts_put32(out + 20, st->reason_version);
    for (uint32_t i = 0; i < 2; i++) {
        uint8_t *p = out + RECORD_SLOTS + i * RECORD_SLOT;
        p[0] = st->slot[i].state;
        ts_put32(p + 4, st->slot[i].bytes);
        ts_put32(p + 8, st->slot[i].version);
        memcpy(p + 12, st->slot[i].digest, TS_IMAGE_DIGEST);
    }
    ts_put32(out + RECORD - 4, cfg->rules.crc.crc32(cfg->rules.crc.ctx, 0, out, RECORD - 4));
}

static bool decode(const struct ts_slots_config *cfg, const uint8_t in[RECORD], struct ts_slots_state *st) {
    if (memcmp(in, magic, sizeof magic) != 0 || in[12] != 1 ||
        ts_get32(in + RECORD - 4) != cfg->rules.crc.crc32(cfg->rules.crc.ctx, 0, in, RECORD - 4)) {
        return false;
    }
    st->sequence = ts_get32(in + 4);
    st->floor = ts_get32(in + 8);
    st->active = in[13];
    st->reason = ts_get16(in + 14);
    st->reason_detail = ts_get32(in + 16);
    st->reason_version = ts_get32(in + 20);
    for (uint32_t i = 0; i < 2; i++) {
        const uint8_t *p = in + RECORD_SLOTS + i * RECORD_SLOT;
        st->slot[i].state = p[0];
        st->slot[i].bytes = ts_get32(p + 4);
        st->slot[i].version = ts_get32(p + 8);
        memcpy(st->slot[i].digest, p + 12, TS_IMAGE_DIGEST);
    }
    return (st->active < 2 || st->active == TS_NO_SLOT) && st->slot[0].state <= TS_SLOT_REFUSED &&
           st->slot[1].state <= TS_SLOT_REFUSED;
}

/* Whether the flash holds `data`. */
static bool holds(const struct ts_slots_config *cfg, enum ts_area area, uint32_t at, const uint8_t *data,
                  uint32_t len) {
    uint8_t found[64];
    for (uint32_t n; len > 0; at += n, data += n, len -= n) {
        n = len < sizeof found ? len : (uint32_t)sizeof found;
        if (!cfg->read(cfg->ctx, area, at, found, n) || memcmp(found, data, n) != 0) {
            return false;
        }
    }
    return true;
}

static bool put_sector(const struct ts_slots_config *cfg, enum ts_area area, uint32_t at, const uint8_t *data,
                       uint32_t len) {
    return cfg->erase(cfg->ctx, area, at) && cfg->program(cfg->ctx, area, at, data, len) &&
           holds(cfg, area, at, data, len);
}

/* Makes `next` the state: in flash first, then here. */
static int commit(struct ts_slots *s, struct ts_slots_state *next) {
    uint8_t record[RECORD];
    uint8_t sector = s->sector ^ 1u;
    next->sequence = s->state.sequence + 1;
    encode(s->cfg, next, record);
    if (!put_sector(s->cfg, TS_AREA_STATE, (uint32_t)sector * TS_SECTOR, record, RECORD)) {
        return TS_E_FLASH_FAILED;
    }
    s->state = *next;
    s->sector = sector;
    s->marks = 0;
    return TS_OK;
}

static bool mark(struct ts_slots *s) {
    static const uint8_t zeros[TS_PROGRAM_UNIT];
    uint32_t at = (uint32_t)s->sector * TS_SECTOR + RECORD + (uint32_t)s->marks * TS_PROGRAM_UNIT;
    if (s->marks >= MARKS) {
        return true;
    }
    s->marks++;
    return s->cfg->program(s->cfg->ctx, TS_AREA_STATE, at, zeros, sizeof zeros);
}

static bool count_marks(struct ts_slots *s) {
    uint8_t found[TS_PROGRAM_UNIT];
    uint32_t at = (uint32_t)s->sector * TS_SECTOR + RECORD;
    for (s->marks = 0; s->marks < MARKS; s->marks++, at += sizeof found) {
        uint8_t all = 0xFF;
        if (!s->cfg->read(s->cfg->ctx, TS_AREA_STATE, at, found, sizeof found)) {
            return false;
        }
        for (uint32_t i = 0; i < sizeof found; i++) {
            all &= found[i];
        }
        if (all == 0xFF) {
            break;
        }
    }
    return true;
}

/* Reads the newest record. *found is false if there is none. */
static int load(struct ts_slots *s, bool *found) {
    *found = false;
    s->sector = 1; /* the first record goes to the other one */
    for (uint8_t i = 0; i < 2; i++) {
        uint8_t record[RECORD];
        struct ts_slots_state st;
        if (!s->cfg->read(s->cfg->ctx, TS_AREA_STATE, (uint32_t)i * TS_SECTOR, record, RECORD)) {
            return TS_E_FLASH_FAILED;
        }
        if (decode(s->cfg, record, &st) && (!*found || (int32_t)(st.sequence - s->state.sequence) > 0)) {
            s->state = st;
            s->sector = i;
            *found = true;
        }
    }
    return !*found || count_marks(s) ? TS_OK : TS_E_FLASH_FAILED;
}

/* ---- Judging what lies in a slot ---- */

struct place {
    const struct ts_slots_config *cfg;
    enum ts_area area;
};

static bool read_slot(void *ctx, uint32_t offset, uint8_t *out, uint32_t len) {
    const struct place *p = ctx;
    return p->cfg->read(p->cfg->ctx, p->area, offset, out, len);
}

static int verify(const struct ts_slots *s, uint32_t slot, const uint8_t *digest, struct ts_image *image) {
    struct place where = {s->cfg, slot == 0 ? TS_AREA_SLOT0 : TS_AREA_SLOT1};
    struct ts_image_source source = {&where, read_slot};
    int code = ts_image_verify(&s->cfg->rules, &source, digest, s->cfg->buffer, TS_SECTOR, image);
    return code == TS_OK && image->kind != TS_IMAGE_STAGE ? TS_E_IMAGE_CHIP : code;
}

static bool newer(const struct ts_slots *s, const struct ts_image *image) {
    return image->version > s->state.floor || image->downgrade_from >= s->state.floor;
}

static uint32_t other(const struct ts_slots *s) {
    if (s->running != TS_NO_SLOT) {
        return s->running ^ 1u;
    }
    if (s->state.active != TS_NO_SLOT) {
        return s->state.active ^ 1u;
    }
    uint8_t second = s->state.slot[1].state;
    return second == TS_SLOT_RECEIVING || second == TS_SLOT_READY ? 1 : 0;
}

/* The image in `slot` will not do, and the state says why. Returns `code`. */
static int refuse(struct ts_slots *s, uint32_t slot, int code, uint32_t detail) {
    struct ts_slots_state next = s->state;
    next.slot[slot].state = TS_SLOT_REFUSED;
    next.reason = (uint16_t)code;
    next.reason_detail = detail;
    next.reason_version = next.slot[slot].version;
    if (next.active == slot) {
        next.active = next.slot[slot ^ 1u].state == TS_SLOT_CONFIRMED ? (uint8_t)(slot ^ 1u) : TS_NO_SLOT;
    }
    int committed = commit(s, &next);
    return committed == TS_OK ? code : committed;
}

/* ---- Start-up ---- */

static int adopt(struct ts_slots *s, struct ts_image *image) {
    struct ts_slots_state next = s->state;
    for (uint32_t i = 0; i < 2; i++) {
        if (verify(s, i, NULL, image) == TS_OK &&
            (next.active == TS_NO_SLOT || image->version > next.slot[next.active].version)) {
            if (next.active != TS_NO_SLOT) {
                next.slot[next.active].state = TS_SLOT_EMPTY;
            }
            next.active = (uint8_t)i;
            next.slot[i] = (struct ts_slot){TS_SLOT_TRIAL, image->bytes, image->version, {0}};
            memcpy(next.slot[i].digest, image->digest, TS_IMAGE_DIGEST);
        }
    }
    return next.active == TS_NO_SLOT ? TS_OK : commit(s, &next);
}

/* Starts the active slot, which is on trial, and settles it: afterwards it is confirmed, or another is active. */
static int try_it(struct ts_slots *s, struct ts_image *image) {
    uint32_t slot = s->state.active, detail = 0;
    if (s->marks >= TS_MAX_STARTS) {
        (void)refuse(s, slot, TS_E_SLOT_RESTARTS,
                     0); /* a flash that takes no record does not keep the other slot from running */
        return TS_OK;
    }
    if (!mark(s)) {
        return TS_E_FLASH_FAILED;
    }
    int code = verify(s, slot, s->state.slot[slot].digest, image);
    if (code == TS_OK) {
        code = s->cfg->self_test(s->cfg->ctx, slot, image, &detail);
    }
    if (code == TS_E_FLASH_FAILED) {
        return code; /* says nothing about the image; three of them end its trial */
    }
    if (code != TS_OK) {
        (void)refuse(s, slot, code, detail);
        return TS_OK;
    }
    struct ts_slots_state next = s->state;
    next.slot[slot].state = TS_SLOT_CONFIRMED;
    next.floor = image->version;
    next.reason = 0;
    next.reason_detail = next.reason_version = 0;
    return commit(s, &next);
}

int ts_slots_boot(struct ts_slots *s, const struct ts_slots_config *cfg, struct ts_image *image) {
    memset(s, 0, sizeof *s);
    s->cfg = cfg;
    s->running = s->receiving = s->state.active = TS_NO_SLOT;
    if (cfg->rules.max_bytes < TS_SECTOR || cfg->rules.max_bytes % TS_SECTOR != 0) {
        return TS_E_INVALID;
    }
    bool found;
    int code = load(s, &found);
    if (code == TS_OK && !found) {
        code = adopt(s, image);
    }
    uint32_t slot = s->state.active;
    if (code == TS_OK && slot != TS_NO_SLOT && s->state.slot[slot].state == TS_SLOT_TRIAL) {
        code = try_it(s, image);
    }
    if (code != TS_OK) {
        return code;
    }
    slot = s->state.active;
    for (uint32_t i = 0; i < 2 && slot != TS_NO_SLOT; i++, slot ^= 1u) {
        if (s->state.slot[slot].state != TS_SLOT_CONFIRMED) {
            continue;
        }
        code = verify(s, slot, s->state.slot[slot].digest, image);
        if (code == TS_OK) {
            s->running = (uint8_t)slot;
        }
        if (code == TS_OK || code == TS_E_FLASH_FAILED) {
            return code;
        }
        s->state.reason = (uint16_t)code;
        s->state.reason_version = s->state.slot[slot].version;
    }
    return TS_E_SLOT_EMPTY;
}

/* ---- Updates ---- */

static bool named(const struct ts_slot *slot, const uint8_t digest[TS_IMAGE_DIGEST]) {
    return memcmp(slot->digest, digest, TS_IMAGE_DIGEST) == 0;
}

/* Sectors that a mark stands for. */
static uint32_t step(const struct ts_slots *s) {
    return (s->cfg->rules.max_bytes / TS_SECTOR + MARKS - 1) / MARKS;
}

int ts_slots_begin(struct ts_slots *s, const uint8_t header[TS_IMAGE_HEADER], const uint8_t digest[TS_IMAGE_DIGEST],
                   uint32_t *offset) {
    struct ts_image image;
    int code = ts_image_header(&s->cfg->rules, header, &image);
    if (code != TS_OK) {
        return code;
    }
    if (image.kind != TS_IMAGE_STAGE) {
        return TS_E_IMAGE_CHIP;
    }
    if (s->running != TS_NO_SLOT && named(&s->state.slot[s->running], digest)) {
        return TS_E_DUPLICATE;
    }
    if (!newer(s, &image)) {
        return TS_E_IMAGE_VERSION;
    }
    uint32_t target = other(s);
    struct ts_slot *slot = &s->state.slot[target];
    if (slot->state == TS_SLOT_TRIAL) {
        return TS_E_SLOT_BUSY;
    }
    bool same = named(slot, digest) && slot->bytes == image.bytes;
    if (same && slot->state == TS_SLOT_READY) {
        s->written = slot->bytes;
    } else if (!same || slot->state != TS_SLOT_RECEIVING) {
        struct ts_slots_state next = s->state;
        next.slot[target] = (struct ts_slot){TS_SLOT_RECEIVING, image.bytes, image.version, {0}};
        memcpy(next.slot[target].digest, digest, TS_IMAGE_DIGEST);
        s->receiving = TS_NO_SLOT;
        if (commit(s, &next) != TS_OK) {
            return TS_E_FLASH_FAILED;
        }
        s->written = 0;
    } else if (s->receiving == TS_NO_SLOT) { /* after a restart, or a failure */
        uint32_t sectors = s->marks * step(s);
        s->written = sectors < slot->bytes / TS_SECTOR ? sectors * TS_SECTOR : slot->bytes / TS_SECTOR * TS_SECTOR;
    }
    s->receiving = (uint8_t)target;
    *offset = s->written;
    return TS_OK;
}

/* The buffer is full, or the image complete. */
static bool flush(struct ts_slots *s) {
    uint32_t sector = (s->written - 1) / TS_SECTOR, at = sector * TS_SECTOR;
    enum ts_area area = s->receiving == 0 ? TS_AREA_SLOT0 : TS_AREA_SLOT1;
    return put_sector(s->cfg, area, at, s->cfg->buffer, s->written - at) && ((sector + 1) % step(s) != 0 || mark(s));
}

int ts_slots_write(struct ts_slots *s, uint32_t offset, const uint8_t *data, uint32_t len) {
    if (s->receiving == TS_NO_SLOT || offset > s->written || len > s->state.slot[s->receiving].bytes - offset) {
        return TS_E_SLOT_ORDER;
    }
    uint32_t known = s->written - offset;
    while (known < len) {
        uint32_t fill = s->written % TS_SECTOR;
        uint32_t n = len - known < TS_SECTOR - fill ? len - known : TS_SECTOR - fill;
        memcpy(s->cfg->buffer + fill, data + known, n);
        s->written += n;
        known += n;
        if ((s->written % TS_SECTOR == 0 || s->written == s->state.slot[s->receiving].bytes) && !flush(s)) {
            s->receiving = TS_NO_SLOT;
            return TS_E_FLASH_FAILED;
        }
    }
    return TS_OK;
}

/* Verifies the slot that waits or is complete; refuses it if it must. */
static int judge(struct ts_slots *s, uint32_t slot, struct ts_image *image) {
    int code = verify(s, slot, s->state.slot[slot].digest, image);
    if (code == TS_OK && !newer(s, image)) {
        code = TS_E_IMAGE_VERSION;
    }
    return code == TS_OK || code == TS_E_FLASH_FAILED ? code : refuse(s, slot, code, 0);
}

int ts_slots_finish(struct ts_slots *s, struct ts_image *image) {
    uint32_t slot = s->receiving;
    if (slot == TS_NO_SLOT || s->written != s->state.slot[slot].bytes) {
        return TS_E_SLOT_ORDER;
    }
    s->receiving = TS_NO_SLOT;
    int code = judge(s, slot, image);
    if (code == TS_OK && s->state.slot[slot].state == TS_SLOT_RECEIVING) {
        struct ts_slots_state next = s->state;
        next.slot[slot].state = TS_SLOT_READY;
        next.slot[slot].version = image->version;
        code = commit(s, &next);
    }
    return code;
}

int ts_slots_check(struct ts_slots *s, const uint8_t digest[TS_IMAGE_DIGEST]) {
    struct ts_image image;
    uint32_t slot = other(s);
    if (s->state.slot[slot].state != TS_SLOT_READY || !named(&s->state.slot[slot], digest)) {
        return TS_E_SLOT_NOT_READY;
    }
    return judge(s, slot, &image);
}

int ts_slots_activate(struct ts_slots *s, const uint8_t digest[TS_IMAGE_DIGEST]) {
    uint32_t slot = other(s);
    if (s->state.slot[slot].state == TS_SLOT_TRIAL && named(&s->state.slot[slot], digest)) {
        return TS_OK;
    }
    int code = ts_slots_check(s, digest);
    if (code == TS_OK) {
        struct ts_slots_state next = s->state;
        next.slot[slot].state = TS_SLOT_TRIAL;
        next.active = (uint8_t)slot;
        s->receiving = TS_NO_SLOT;
        code = commit(s, &next);
    }
    return code;
}

int ts_slots_abort(struct ts_slots *s) {
    struct ts_slots_state next = s->state;
    struct ts_slot *slot = &next.slot[other(s)];
    s->receiving = TS_NO_SLOT;
    if (slot->state != TS_SLOT_RECEIVING && slot->state != TS_SLOT_READY && slot->state != TS_SLOT_TRIAL) {
        return TS_OK;
    }
    slot->state = TS_SLOT_EMPTY;
    next.active = s->running;
    return commit(s, &next);
}
