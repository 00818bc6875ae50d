/* Power cuts: an update is cut at every step of flash.h, in every way a step can be torn, and the recovery after it
 * again at every operation. After each cut the board boots into exactly the old or exactly the new image, the new one
 * stays once it was confirmed, and the same update sent again succeeds.
 *
 * usage: test_power_cuts          every single cut, every second cut by operation, further double cuts at random
 *        test_power_cuts full     every pair of steps (make power-cuts) */
#include "check.h"

#include "updates.h"

#define SAMPLES 4000u
#define MAX_OPERATIONS 256u

struct scenario {
    const char *name;
    const struct packed *before, *after;
    bool fails;      /* the new image's self-test */
    bool by_wire;    /* the old image was written to slot 0 of an erased flash */
    bool second;     /* the old image is in slot 1, an older one in slot 0 */
    uint32_t partly; /* bytes of the update that came before, in an earlier life */
};

/* With slots so large that a mark stands for several sectors, single cuts are enough. */
#define LARGE (FLASH_SLOT_SECTORS > 248)

struct counts {
    uint32_t single, by_operation, sampled;
};

static struct signer *ours;
static struct packed v1, v2, v3;
static struct board board, start, torn;
static const struct scenario *now;
static bool confirmed; /* the new image was seen running */
static uint32_t cuts_hit;
static bool everything;

/* The cuts of this trial, in their order. */
static struct {
    uint32_t step, tear;
} armed[2];
static uint32_t armed_count;

/* Steps at which operations begin, of the last attempt. */
static uint32_t begins[MAX_OPERATIONS], operations;

static bool counted_program(void *ctx, enum ts_area area, uint32_t offset, const uint8_t *data, uint32_t len) {
    if (operations < MAX_OPERATIONS) {
        begins[operations++] = board.flash.steps + 1;
    }
    return flash_program(ctx, area, offset, data, len);
}

static bool counted_erase(void *ctx, enum ts_area area, uint32_t offset) {
    if (operations < MAX_OPERATIONS) {
        begins[operations++] = board.flash.steps + 1;
    }
    return flash_erase(ctx, area, offset);
}

static void complain(const char *what) {
    fail_msg("%s, cut at step %u (tear %u), then %u (%u): %s (running %u, active %u, reason %u)", now->name,
             armed[0].step, armed[0].tear, armed[1].step, armed[1].tear, what, board.slots.running,
             board.slots.state.active, board.slots.state.reason);
}

/* Bits that read at random within the image that runs. */
static bool loose(const struct packed *p) {
    const uint8_t *at = board.flash.unstable + flash_base((enum ts_area)board.slots.running);
    for (uint32_t i = 0; board.flash.any_unstable && i < p->len; i++) {
        if (at[i] != 0) {
            return true;
        }
    }
    return false;
}

static void boot(void) {
    int code = board_boot(&board);
    const struct packed *runs = NULL;
    if (code == TS_E_SLOT_EMPTY && now->before == NULL && !confirmed) {
        return;
    }
    if (code != TS_OK) {
        complain(ts_error_name((unsigned)code));
    }
    if (now->before != NULL && board_runs(&board, now->before)) {
        runs = now->before;
    }
    if (board_runs(&board, now->after)) {
        runs = now->after;
        if (now->fails) {
            complain("it runs what failed its self-test");
        }
        confirmed = true;
    }
    if (runs == NULL) {
        complain("neither the old nor the new image runs");
    } else if (loose(runs)) {
        complain("the image that runs holds bits of a torn program");
    } else if (confirmed && runs != now->after) {
        complain("the confirmed image was lost");
    }
}

/* A life: boot, the update unless it is there, boot. True if it was not cut. */
static bool live(void) {
    operations = 0;
    board.flash.steps = 0;
    if (setjmp(board.flash.power) != 0) {
        cuts_hit++;
        return false;
    }
    boot();
    if (board.slots.running == TS_NO_SLOT || !board_runs(&board, now->after)) {
        int code = board_update(&board, now->after, 1500);
        if (code != TS_OK) {
            complain(ts_error_name((unsigned)code));
        }
        boot();
    }
    return true;
}

/* A life without a cut, and what must be true after it. */
static void settle(void) {
    board.flash.cut_at = 0;
    live();
    if (now->fails && board.slots.state.reason != TS_E_SELF_TEST) {
        complain("the reason of the rollback is lost");
    }
    if (!now->fails && !board_runs(&board, now->after)) {
        complain("the update sent again did not succeed");
    }
}

static void cut_at(uint32_t step, enum flash_tear tear, uint64_t seed) {
    board.flash.cut_at = step;
    board.flash.tear = tear;
    armed[armed_count].step = step;
    armed[armed_count++].tear = tear;
    board.flash.random = seed;
}

static void prepare(const struct scenario *s) {
    now = s;
    board_init(&board, ours, 1);
    if (s->by_wire) {
        memcpy(board.flash.bytes, s->before->bytes, s->before->len);
    } else if (s->before != NULL) {
        board_boot(&board);
        if (s->second) {
            assert_int_equal(board_update(&board, &v1, 4096), TS_OK);
            assert_int_equal(board_boot(&board), TS_OK);
        }
        assert_int_equal(board_update(&board, s->before, 4096), TS_OK);
        assert_int_equal(board_boot(&board), TS_OK);
        assert_int_equal(board.slots.running, s->second ? 1 : 0);
    }
    if (s->partly != 0) {
        uint32_t at;
        assert_int_equal(ts_slots_begin(&board.slots, s->after->bytes, s->after->digest, &at), TS_OK);
        assert_int_equal(ts_slots_write(&board.slots, 0, s->after->bytes, s->partly), TS_OK);
    }
    if (s->fails) {
        board.fails_version = 3;
    }
    board.cfg.program = counted_program;
    board.cfg.erase = counted_erase;
    start = board;
}

/* Copies the part of the flash that the images here reach, and all else. */
static void restart(const struct board *from, bool was_confirmed) {
    static const uint32_t reached = 5 * TS_SECTOR;
    for (uint32_t area = 0; area <= TS_AREA_STATE; area++) {
        uint32_t at = flash_base((enum ts_area)area), len = area == TS_AREA_STATE ? 2 * TS_SECTOR : reached;
        memcpy(board.flash.bytes + at, from->flash.bytes + at, len);
        memcpy(board.flash.unstable + at, from->flash.unstable + at, len);
        memcpy(board.flash.programmed + at / TS_PROGRAM_UNIT, from->flash.programmed + at / TS_PROGRAM_UNIT,
               len / TS_PROGRAM_UNIT * sizeof board.flash.programmed[0]);
    }
    memcpy((uint8_t *)&board + offsetof(struct board, flash.random),
           (const uint8_t *)from + offsetof(struct board, flash.random),
           sizeof board - offsetof(struct board, flash.random));
    confirmed = was_confirmed;
    armed_count = from == &torn ? 1 : 0;
    armed[1].step = armed[1].tear = 0;
}

/* Second cuts after the one that left `torn`. */
static uint32_t second_cuts(bool by_step, uint64_t seed) {
    uint32_t steps[MAX_OPERATIONS + 1], count, hit = 0;
    bool was_confirmed = confirmed;
    restart(&torn, was_confirmed);
    settle();
    count = operations;
    memcpy(steps, begins, sizeof begins);
    if (by_step) {
        for (uint32_t step = 1, last = board.flash.steps; step <= last; step++) {
            restart(&torn, was_confirmed);
            cut_at(step, (enum flash_tear)((step + seed) % TEARS), seed + step);
            assert_false(live());
            settle();
            hit++;
        }
        return hit;
    }
    steps[count] = board.flash.steps + 1;
    for (uint32_t i = 0; i < count * TEARS; i++) {
        uint32_t begin = steps[i / TEARS], length = steps[i / TEARS + 1] - begin;
        restart(&torn, was_confirmed);
        cut_at(begin + (uint32_t)(seed + i) % length, (enum flash_tear)(i % TEARS), seed + i);
        hit += !live();
        settle();
    }
    return hit;
}

static struct counts sweep(const struct scenario *s) {
    struct counts counts = {0, 0, 0};
    uint32_t steps, first_operations, first[MAX_OPERATIONS + 1];
    prepare(s);
    restart(&start, false);
    settle();
    steps = board.flash.steps;
    first_operations = operations;
    memcpy(first, begins, sizeof begins);
    first[first_operations] = steps + 1;

    for (uint32_t step = 1; step <= steps; step++) {
        for (uint32_t tear = 0; tear < TEARS; tear++) {
            restart(&start, false);
            cut_at(step, (enum flash_tear)tear, step);
            assert_false(live());
            counts.single++;
            if (everything && tear == step % TEARS) {
                torn = board;
                counts.by_operation += second_cuts(true, step * TEARS + tear);
            } else {
                settle();
            }
        }
    }
    for (uint32_t i = 0; !everything && !LARGE && i < first_operations; i++) {
        for (uint32_t tear = 0; tear < TEARS; tear++) {
            restart(&start, false);
            cut_at(first[i] + (i * 31 + tear) % (first[i + 1] - first[i]), (enum flash_tear)tear, i);
            assert_false(live());
            torn = board;
            counts.by_operation += second_cuts(false, i * TEARS + tear);
        }
    }
    static struct flash dice;
    dice.random = 20;
    for (uint32_t i = 0; !everything && !LARGE && i < SAMPLES; i++) {
        uint64_t r = flash_random(&dice);
        restart(&start, false);
        cut_at(1 + (uint32_t)r % steps, (enum flash_tear)((r >> 32) % TEARS), r);
        assert_false(live());
        cut_at(1 + (uint32_t)(r >> 16) % steps, (enum flash_tear)((r >> 40) % TEARS), r);
        counts.sampled += !live();
        settle();
    }
    printf("%-22s %5u steps, %6u single cuts, %8u double cuts by %s, %6u sampled\n", s->name, steps, counts.single,
           counts.by_operation, everything ? "step" : "operation", counts.sampled);
    fflush(stdout);
    return counts;
}

static void every_cut(void **state) {
    (void)state;
    const struct scenario scenarios[] = {
        {.name = "from slot 0 to 1", .before = &v1, .after = &v3},
        {.name = "from slot 1 to 0", .before = &v2, .after = &v3, .second = true},
        {.name = "image came by wire", .before = &v1, .after = &v3, .by_wire = true},
        {.name = "self-test fails", .before = &v1, .after = &v3, .fails = true},
        {.name = "resumed", .before = &v1, .after = &v3, .partly = 2 * TS_SECTOR + 100},
        {.name = "first image", .after = &v3},
    };
    struct counts all = {0, 0, 0};
    for (uint32_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        struct counts c = sweep(&scenarios[i]);
        all.single += c.single;
        all.by_operation += c.by_operation;
        all.sampled += c.sampled;
    }
    printf("%u cut points tried (%u single, %u double by %s, %u double at random), %u power cuts in all: none failed\n",
           all.single + all.by_operation + all.sampled, all.single, all.by_operation, everything ? "step" : "operation",
           all.sampled, cuts_hit);
    assert_true(all.single > 20000 && (LARGE || all.by_operation > 20000));
}

/* A flash that programs half of a sector and says that all is done. */
static bool half_a_sector(void *ctx, enum ts_area area, uint32_t offset, const uint8_t *data, uint32_t len) {
    struct flash *f = ctx;
    bool full = area != TS_AREA_STATE && len == TS_SECTOR;
    if (full && f->steps + TS_SECTOR / TS_PROGRAM_UNIT >= f->cut_at && f->steps < f->cut_at) {
        f->cut_at = 0;
        memcpy(f->bytes + flash_base(area) + offset, data, len / 2);
        return true;
    }
    return flash_program(ctx, area, offset, data, len);
}

static void a_flash_that_lies_is_found_out(void **state) {
    (void)state;
    const struct scenario s = {.name = "lies", .before = &v1, .after = &v3};
    prepare(&s);
    board.cfg.program = half_a_sector;
    board.flash.steps = 0;
    board.flash.cut_at = 600;
    assert_int_equal(board_boot(&board), TS_OK);
    assert_int_equal(board_update(&board, &v3, 1500), TS_E_FLASH_FAILED);
    assert_int_equal(board.flash.cut_at, 0);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v1));
}

static int make(void **state) {
    (void)state;
    struct draft d[] = {image_draft(1, 9000), image_draft(2, 12000), image_draft(3, 13000)};
    ours = signer_new();
    v1 = pack_draft(&d[0], ours);
    v2 = pack_draft(&d[1], ours);
    v3 = pack_draft(&d[2], ours);
    return 0;
}

static int drop(void **state) {
    (void)state;
    signer_free(ours);
    free(v1.bytes);
    free(v2.bytes);
    free(v3.bytes);
    return 0;
}

int main(int argc, char **argv) {
    everything = argc > 1 && strcmp(argv[1], "full") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flash_that_lies_is_found_out),
        cmocka_unit_test(every_cut),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
