/* Updates: the slot manager of the core on flash that is cut off, and a host that delivers images to every node.
 *
 * A command is a CONTROL of one letter (begin, finish, activate, restart) and what belongs to it; the JSON of real
 * boards is not what is simulated. Its answer is the letter, a code and an offset. Pieces are BLOBs, one at a time
 * to each node. Whatever goes wrong, the host begins again, and goes on where the board says. */
#include <stdlib.h>
#include <string.h>

#include "flash.h"
#include "world.h"

/* W25Q64JV data sheet, AC characteristics, typical: sector erase 45 ms, page of 256 bytes 0.4 ms. */
#define ERASE_US 45000u
#define PAGE_US 400u
#define PAGE 256u

#define COMMAND_BYTES (1u + TS_IMAGE_HEADER + TS_IMAGE_DIGEST)
#define ANSWER_BYTES 7u
#define PATIENCE_US 3000000u /* without an answer, the host begins again */
#define HELD (SIM_NODES * TS_RX_SLOTS)

/* A message that waits until the flash is done with the one before. */
struct held {
    uint16_t session;
    uint8_t slot, kind;
    const uint8_t *body;
    uint32_t len;
};

struct device {
    struct flash flash;
    struct ts_slots slots;
    struct ts_slots_config cfg;
    struct ts_image image;
    uint8_t buffer[TS_SECTOR];
    uint32_t version; /* that runs; 0: never started */
    uint32_t busy_us; /* of the flash, in the call under way */
    uint64_t free_at;
    struct held held[HELD];
    uint8_t held_count;
    uint8_t answer[ANSWER_BYTES];
    bool answering;
};

enum phase { CONNECT, BEGIN, SEND, FINISH, ACTIVATE, DONE };

struct target {
    int32_t session;
    enum phase phase;
    bool sending;   /* a message is on its way: its bytes must not change */
    bool waiting;   /* for an answer */
    uint64_t since; /* that either is so */
    uint32_t offset;
    uint8_t command[COMMAND_BYTES];
    uint8_t *piece;
};

struct sender {
    uint32_t version; /* what all nodes shall run */
    uint64_t next_at; /* when the next version comes, once all are done */
    struct ts_addr addr[SIM_NODES];
    struct target target[SIM_NODES];
};

static const struct sim_image *image_of(const struct sim *w, uint32_t version, uint8_t stage) {
    return &w->config.image[(version - 1) * w->config.stages + stage];
}

static enum ts_area area_of(uint32_t slot) {
    return slot == 0 ? TS_AREA_SLOT0 : TS_AREA_SLOT1;
}

/* --- the board --- */

/* Whether the power goes during this operation; if so, in one of its steps, torn in one of the ways. */
static void maybe_cut(struct node *n, uint32_t steps) {
    struct flash *f = &n->device->flash;
    f->cut_at = 0;
    /* Not in the first start of an image that came by wire: three cuts there, and nothing is left to run. */
    if (n->device->version != 0 && sim_chance(n->world, n->world->config.power_cut)) {
        f->cut_at = f->steps + 1 + sim_below(n->world, steps);
        f->tear = (enum flash_tear)sim_below(n->world, TEARS);
    }
}

static bool slot_read(void *ctx, enum ts_area area, uint32_t offset, uint8_t *out, uint32_t len) {
    struct node *n = ctx;
    return flash_read(&n->device->flash, area, offset, out, len);
}

static bool slot_program(void *ctx, enum ts_area area, uint32_t offset, const uint8_t *data, uint32_t len) {
    struct node *n = ctx;
    struct flash *f = &n->device->flash;
    n->device->busy_us += (len + PAGE - 1) / PAGE * PAGE_US;
    for (uint32_t at = offset; at < offset + len; at += TS_PROGRAM_UNIT) {
        if (f->programmed[(flash_base(area) + at) / TS_PROGRAM_UNIT]) {
            n->world->report.unverified++; /* twice since it was erased */
            return false;
        }
    }
    maybe_cut(n, len / TS_PROGRAM_UNIT);
    return flash_program(f, area, offset, data, len);
}

static bool slot_erase(void *ctx, enum ts_area area, uint32_t offset) {
    struct node *n = ctx;
    n->device->busy_us += ERASE_US;
    maybe_cut(n, 1);
    return flash_erase(&n->device->flash, area, offset);
}

static uint32_t word_in(struct node *n, uint32_t slot, const struct ts_image *image) {
    uint8_t part[TS_SECTOR];
    uint32_t crc = 0;
    for (uint32_t at = 0, len; at < image->model.bytes; at += len) {
        len = image->model.bytes - at < sizeof part ? image->model.bytes - at : (uint32_t)sizeof part;
        (void)flash_read(&n->device->flash, area_of(slot), image->model.at + at, part, len);
        crc = ts_crc32_fast(&n->world->tables, crc, part, len);
    }
    return crc;
}

uint32_t sim_updates_word(struct node *n) {
    return word_in(n, n->device->slots.running, &n->device->image);
}

static int self_test(void *ctx, unsigned slot, const struct ts_image *image, uint32_t *detail) {
    struct node *n = ctx;
    uint8_t *made = n->world->scratch[0], *golden = n->world->scratch[1];
    uint8_t *input = malloc((size_t)image->input.bytes + 1);
    if (input == NULL) {
        return TS_E_NO_MEMORY;
    }
    *detail = 0;
    (void)flash_read(&n->device->flash, area_of(slot), image->input.at, input, image->input.bytes);
    (void)flash_read(&n->device->flash, area_of(slot), image->output.at, golden, image->output.bytes);
    sim_compute(word_in(n, slot, image), image->stage, input, image->input.bytes, made, image->output.bytes);
    free(input);
    return memcmp(made, golden, image->output.bytes) == 0 ? TS_OK : TS_E_SELF_TEST;
}

/* Calls `function`, in whose flash operations the power may go. False if it did. */
static bool powered(struct node *n, void (*function)(struct node *n)) {
    if (setjmp(n->device->flash.power) != 0) {
        n->device->flash.cut_at = 0;
        n->world->report.cuts++;
        sim_off(n, SIM_CUT);
        return false;
    }
    function(n);
    return true;
}

static void boot(struct node *n) {
    struct device *d = n->device;
    struct sim *w = n->world;
    int code = ts_slots_boot(&d->slots, &d->cfg, &d->image);
    sim_note(w, n->index, SIM_BOOT, (uint16_t)code, code == TS_OK ? d->image.version : 0);
    bool known = code == TS_OK && d->image.version >= 1 && d->image.version <= w->config.versions;
    const struct sim_image *expected = known ? image_of(w, d->image.version, n->config->stage) : NULL;
    const uint8_t *at = d->flash.bytes + flash_base(area_of(d->slots.running));
    if (!known || memcmp(at, expected->bytes, expected->len) != 0) {
        w->report.unverified++;
        sim_off(n, SIM_REBOOT);
        return;
    }
    w->report.updates += d->version != 0 && d->image.version != d->version;
    d->version = d->image.version;
    n->bundle = (uint8_t)(d->version % SIM_CUTS);
    memcpy(n->cfg.endpoint.bundle, d->image.bundle, sizeof n->cfg.endpoint.bundle);
    n->alive = true;
}

bool sim_updates_boot(struct node *n) {
    struct device *d = n->device;
    for (uint8_t i = 0; n->sender != NULL && i < SIM_NODES; i++) {
        struct target *t = &n->sender->target[i];
        *t = (struct target){.piece = t->piece};
    }
    if (d == NULL) {
        return true;
    }
    d->held_count = 0;
    d->answering = false;
    d->free_at = 0;
    return powered(n, boot) && n->alive;
}

static void answer(struct node *n, uint16_t session, uint8_t letter, int code, uint32_t offset) {
    struct device *d = n->device;
    d->answer[0] = letter;
    ts_put16(d->answer + 1, (uint32_t)code);
    ts_put32(d->answer + 3, offset);
    d->answering = ts_send(&n->core.ep, sim_clock(n), session, TS_CONTROL, d->answer, sizeof d->answer, 0, 1) == TS_OK;
}

/* The oldest message that waits. */
static void obey(struct node *n) {
    struct device *d = n->device;
    struct held m = d->held[0];
    struct ts_blob blob;
    uint32_t offset = 0;
    int code = TS_E_MALFORMED, step = SIM_PIECE;
    if (m.kind == TS_BLOB && ts_blob_decode(m.body, m.len, &blob)) {
        (void)ts_slots_write(&d->slots, blob.offset, blob.data, blob.len);
    } else if (m.kind == TS_CONTROL && m.len == COMMAND_BYTES) {
        struct ts_image image;
        const uint8_t *digest = m.body + 1 + TS_IMAGE_HEADER;
        switch (m.body[0]) {
        case 'b':
            step = SIM_BEGIN;
            code = ts_slots_begin(&d->slots, m.body + 1, digest, &offset);
            break;
        case 'f':
            step = SIM_FINISH;
            code = ts_slots_finish(&d->slots, &image);
            break;
        case 'a':
            step = SIM_ACTIVATE;
            code = ts_slots_activate(&d->slots, digest);
            break;
        default:
            step = SIM_RESTART;
            break;
        }
    }
    sim_note(n->world, n->index, SIM_FLASH, (uint16_t)step, d->busy_us);
    d->held_count--;
    memmove(d->held, d->held + 1, d->held_count * sizeof d->held[0]);
    if (step == SIM_RESTART) {
        sim_off(n, SIM_REBOOT);
        return;
    }
    if (m.kind == TS_CONTROL) {
        answer(n, m.session, m.body[0], code, offset);
    }
    ts_release(&n->core.ep, sim_clock(n), m.session, m.slot);
}

static bool step_board(struct node *n, uint64_t *wake) {
    struct device *d = n->device;
    while (d->held_count > 0 && !d->answering) {
        if (d->free_at > n->world->now) {
            *wake = d->free_at;
            break;
        }
        d->busy_us = 0;
        if (!powered(n, obey) || !n->alive) {
            return false;
        }
        d->free_at = n->world->now + d->busy_us;
    }
    return true;
}

static void at_board(struct node *n, const struct ts_event *e) {
    struct device *d = n->device;
    if (e->type == TS_EV_MESSAGE && d->held_count < HELD) {
        d->held[d->held_count++] = (struct held){e->session, e->slot, e->kind, e->body, e->len};
    } else if (e->type == TS_EV_SENT) {
        d->answering = false;
    } else if (e->type == TS_EV_DOWN) {
        uint8_t kept = 0;
        for (uint8_t i = 0; i < d->held_count; i++) {
            if (d->held[i].session != e->session) {
                d->held[kept++] = d->held[i];
            }
        }
        d->held_count = kept;
    }
}

/* --- the host --- */

static bool post(struct node *n, struct target *t, uint8_t kind, const uint8_t *body, uint32_t len) {
    t->since = n->world->now;
    t->sending = ts_send(&n->core.ep, sim_clock(n), (uint16_t)t->session, kind, body, len, 0,
                         (uint32_t)(t - n->sender->target)) == TS_OK;
    return t->sending;
}

static void command(struct node *n, struct target *t, const struct sim_image *image, char letter) {
    t->command[0] = (uint8_t)letter;
    memcpy(t->command + 1, image->bytes, TS_IMAGE_HEADER);
    memcpy(t->command + 1 + TS_IMAGE_HEADER, image->digest, TS_IMAGE_DIGEST);
    t->waiting = post(n, t, TS_CONTROL, t->command, COMMAND_BYTES);
}

static void piece(struct node *n, struct target *t, const struct sim_image *image) {
    uint32_t left = image->len - t->offset, most = n->world->config.piece_bytes;
    struct ts_blob blob = {.id = n->sender->version,
                           .offset = t->offset,
                           .total = image->len,
                           .len = left < most ? left : most,
                           .data = image->bytes + t->offset};
    ts_blob_encode(&blob, t->piece);
    memcpy(t->piece + TS_BLOB_HEADER, blob.data, blob.len);
    t->offset += blob.len;
    (void)post(n, t, TS_BLOB, t->piece, TS_BLOB_HEADER + blob.len);
}

static void start_over(struct target *t) {
    t->phase = t->phase == CONNECT || t->phase == DONE ? t->phase : BEGIN;
    t->waiting = false;
}

static void answered(struct target *t, const struct ts_event *e) {
    if (e->len != ANSWER_BYTES || !t->waiting || e->body[0] != t->command[0]) {
        return;
    }
    uint32_t code = ts_get16(e->body + 1);
    t->waiting = false;
    if (e->body[0] == 'b' && code == TS_E_DUPLICATE) {
        t->phase = DONE;
    } else if (e->body[0] == 'b' && (code == TS_OK || code == TS_E_SLOT_BUSY)) {
        t->offset = ts_get32(e->body + 3);
        t->phase = code == TS_OK ? SEND : ACTIVATE; /* activated before, and not restarted */
    } else if (e->body[0] == 'f' && code == TS_OK) {
        t->phase = ACTIVATE;
    } else if (e->body[0] == 'a' && code == TS_OK) {
        t->command[0] = 'r';
    } else {
        t->phase = BEGIN;
    }
}

static void at_host(struct node *n, const struct ts_event *e) {
    struct sender *s = n->sender;
    for (uint8_t i = 0; i < n->world->config.nodes; i++) {
        struct target *t = &s->target[i];
        if (t->phase == CONNECT || t->session != e->session) {
            continue;
        }
        t->sending = t->sending && e->type != TS_EV_SENT;
        if (e->type == TS_EV_MESSAGE && e->kind == TS_CONTROL) {
            answered(t, e);
        } else if (e->type == TS_EV_DOWN || (e->type == TS_EV_SENT && e->code != TS_OK)) {
            start_over(t);
        }
    }
    if (e->type == TS_EV_MESSAGE) {
        ts_release(&n->core.ep, n->core.ep.raw, e->session, e->slot);
    }
}

void sim_updates_event(void *ctx, const struct ts_event *e) {
    struct node *n = ctx;
    n->stirred = true;
    (n->device != NULL ? at_board : at_host)(n, e);
}

static void step_target(struct node *n, uint8_t index) {
    struct sender *s = n->sender;
    struct target *t = &s->target[index];
    struct sim *w = n->world;
    const struct sim_image *image = image_of(w, s->version, w->nodes[index].config->stage);
    if (t->phase == CONNECT) {
        s->addr[index] = (struct ts_addr){.link = 0, .len = 6, .bytes = {2, 0, 0, 0, 0, index}};
        t->session = ts_connect(&n->core.ep, sim_clock(n), &s->addr[index], true);
        t->phase = BEGIN;
    }
    if ((t->sending || t->waiting) && w->now - t->since > PATIENCE_US) {
        ts_cancel(&n->core.ep, sim_clock(n), (uint16_t)t->session, index);
        start_over(t);
    }
    if (t->sending || t->waiting || t->session < 0 || n->cfg.endpoint.sessions[t->session].state != TS_S_UP) {
        return;
    }
    if (t->phase == BEGIN) {
        command(n, t, image, 'b');
    } else if (t->phase == SEND && t->offset < image->len) {
        piece(n, t, image);
    } else if (t->phase == SEND) {
        t->phase = FINISH;
        command(n, t, image, 'f');
    } else if (t->phase == ACTIVATE) {
        command(n, t, image, t->command[0] == 'r' ? 'r' : 'a');
    }
}

static void step_host(struct node *n, uint64_t *wake) {
    struct sender *s = n->sender;
    struct sim *w = n->world;
    bool done = true;
    for (uint8_t i = 0; i < w->config.nodes; i++) {
        if (i != n->index && s->version > 1) {
            step_target(n, i);
            done = done && s->target[i].phase == DONE;
        }
    }
    *wake = w->now + PATIENCE_US / 10;
    if (!done || w->settling || s->version >= w->config.versions) {
        s->next_at = 0;
    } else if (s->next_at == 0) {
        s->next_at = w->now + w->config.update_pause_us;
    } else if (s->next_at <= w->now) {
        s->next_at = 0;
        s->version++;
        for (uint8_t i = 0; i < w->config.nodes; i++) {
            struct target *t = &s->target[i];
            t->phase = t->phase == DONE ? BEGIN : t->phase;
        }
        *wake = w->now;
    }
}

bool sim_updates_step(struct node *n, uint64_t *wake) {
    if (n->device != NULL) {
        return step_board(n, wake);
    }
    step_host(n, wake);
    return true;
}

uint32_t sim_updates_outdated(const struct sim *w) {
    uint32_t version = 0, found = 0;
    for (uint8_t i = 0; i < w->config.nodes; i++) {
        version = w->nodes[i].sender != NULL ? w->nodes[i].sender->version : version;
    }
    for (uint8_t i = 0; i < w->config.nodes; i++) {
        found += w->nodes[i].device != NULL && (!w->nodes[i].alive || w->nodes[i].device->version != version);
    }
    return found;
}

/* --- setting up --- */

static bool set_up_host(struct node *n) {
    n->sender = calloc(1, sizeof *n->sender);
    bool good = n->sender != NULL;
    for (uint8_t i = 0; good && i < n->world->config.nodes; i++) {
        n->sender->target[i].piece = malloc(TS_BLOB_HEADER + n->world->config.piece_bytes);
        good = n->sender->target[i].piece != NULL;
    }
    if (good) {
        n->sender->version = 1;
    }
    return good;
}

bool sim_updates_set_up(struct node *n) {
    struct sim *w = n->world;
    if (n->config->stage == SIM_NO_STAGE) {
        return set_up_host(n);
    }
    const struct sim_image *first = image_of(w, 1, n->config->stage);
    struct device *d = n->device = calloc(1, sizeof *d);
    if (d == NULL || first->len > FLASH_SLOT) {
        return false;
    }
    flash_init(&d->flash, sim_draw(w));
    memcpy(d->flash.bytes + flash_base(TS_AREA_SLOT0), first->bytes, first->len); /* by wire */
    d->cfg = (struct ts_slots_config){
        .ctx = n,
        .read = slot_read,
        .program = slot_program,
        .erase = slot_erase,
        .self_test = self_test,
        .buffer = d->buffer,
        .rules = {.crypto = w->config.crypto,
                  .crc = {&w->tables, ts_crc16_fast, ts_crc32_fast},
                  .max_bytes = FLASH_SLOT,
                  .chip = TS_CHIP_ESP32S3,
                  .stage = n->config->stage},
    };
    return true;
}

void sim_updates_free(struct node *n) {
    for (uint8_t i = 0; n->sender != NULL && i < SIM_NODES; i++) {
        free(n->sender->target[i].piece);
    }
    free(n->sender);
    free(n->device);
}
