/* The slot manager without power cuts: what each call does, and what it refuses. */
#include "check.h"

#include "updates.h"

static struct signer *ours, *theirs;
static struct packed v1, v2, v3;
static struct board board;

static struct packed made(uint32_t version, uint32_t model_bytes, struct signer *s) {
    struct draft d = image_draft(version, model_bytes);
    return pack_draft(&d, s);
}

/* A board that runs v1, confirmed, in slot 0. */
static int runs_v1(void **state) {
    (void)state;
    board_init(&board, ours, 1);
    assert_int_equal(board_boot(&board), TS_E_SLOT_EMPTY);
    assert_int_equal(board_update(&board, &v1, 1000), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v1));
    return 0;
}

static void updates_alternate_between_the_slots(void **state) {
    (void)state;
    assert_int_equal(board.slots.running, 0);
    assert_int_equal(board_update(&board, &v2, 1), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v2));
    assert_int_equal(board.slots.running, 1);
    assert_int_equal(board_update(&board, &v3, TS_SECTOR * 100), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v3));
    assert_int_equal(board.slots.running, 0);
    assert_int_equal(board.slots.state.floor, 3);
    assert_int_equal(board.self_tests, 3);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_int_equal(board.self_tests, 3);
}

static void the_old_one_runs_until_the_next_boot(void **state) {
    (void)state;
    assert_int_equal(board_update(&board, &v2, 1000), TS_OK);
    assert_int_equal(board.slots.running, 0);
    assert_int_equal(ts_slots_activate(&board.slots, v2.digest), TS_OK); /* asked twice */
    uint32_t at;
    assert_int_equal(ts_slots_begin(&board.slots, v3.bytes, v3.digest, &at), TS_E_SLOT_BUSY);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v2));
}

static void a_failed_self_test_goes_back_and_says_why(void **state) {
    (void)state;
    board.fails_version = 2;
    assert_int_equal(board_update(&board, &v2, 1000), TS_OK);
    for (int boots = 0; boots < 3; boots++) {
        assert_int_equal(board_boot(&board), TS_OK);
        assert_true(board_runs(&board, &v1));
        assert_int_equal(board.slots.state.reason, TS_E_SELF_TEST);
        assert_int_equal(board.slots.state.reason_detail, 12);
        assert_int_equal(board.slots.state.reason_version, 2);
        assert_int_equal(board.slots.state.floor, 1);
        assert_int_equal(board.slots.state.slot[1].state, TS_SLOT_REFUSED);
    }
    assert_int_equal(board.self_tests, 2);
    board.fails_version = 0; /* the same one may be tried again */
    assert_int_equal(board_update(&board, &v2, 1000), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v2));
    assert_int_equal(board.slots.state.reason, 0);
}

static void three_lost_starts_are_enough(void **state) {
    (void)state;
    assert_int_equal(board_update(&board, &v2, 1000), TS_OK);
    for (uint32_t starts = 0; starts < TS_MAX_STARTS; starts++) {
        board.flash.steps = 0;
        board.flash.cut_at = 2; /* after the mark: in the record that would confirm */
        board.flash.tear = TEAR_NOTHING;
        if (setjmp(board.flash.power) == 0) {
            board_boot(&board);
            fail_msg("the board was not cut off");
        }
        board.flash.cut_at = 0;
    }
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v1));
    assert_int_equal(board.slots.state.reason, TS_E_SLOT_RESTARTS);
}

static void versions_only_rise_unless_signed_otherwise(void **state) {
    (void)state;
    assert_int_equal(board_update(&board, &v3, 1000), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_int_equal(board_update(&board, &v2, 1000), TS_E_IMAGE_VERSION);
    struct packed other = made(3, 500, ours); /* as new, but another */
    assert_int_equal(board_update(&board, &other, 1000), TS_E_IMAGE_VERSION);
    struct draft d = image_draft(2, 5000);
    d.downgrade_from = 2;
    struct packed allowed = pack_draft(&d, ours);
    assert_int_equal(board_update(&board, &allowed, 1000), TS_E_IMAGE_VERSION);
    free(allowed.bytes);
    d.downgrade_from = 3;
    allowed = pack_draft(&d, ours);
    assert_int_equal(board_update(&board, &allowed, 1000), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &allowed));
    assert_int_equal(board.slots.state.floor, 2);
    free(allowed.bytes);
    free(other.bytes);
}

static void the_running_image_is_a_duplicate(void **state) {
    (void)state;
    uint32_t at, erases = board.flash.erases;
    assert_int_equal(ts_slots_begin(&board.slots, v1.bytes, v1.digest, &at), TS_E_DUPLICATE);
    assert_int_equal(board.flash.erases, erases);
}

static void a_refused_header_costs_nothing(void **state) {
    (void)state;
    struct ts_slots before = board.slots;
    uint32_t at, operations = board.flash.operations;
    struct draft d = image_draft(2, 5000);
    d.chip = 5;
    struct packed bad = pack_draft(&d, ours);
    assert_int_equal(ts_slots_begin(&board.slots, bad.bytes, bad.digest, &at), TS_E_IMAGE_CHIP);
    free(bad.bytes);
    d = image_draft(2, FLASH_SLOT);
    bad = pack_draft(&d, ours);
    assert_int_equal(ts_slots_begin(&board.slots, bad.bytes, bad.digest, &at), TS_E_IMAGE_TOO_LARGE);
    free(bad.bytes);
    d = (struct draft){.kind = TS_IMAGE_FIRMWARE, .version = 9, .chip = 9, .stage = TS_NO_STAGE, .model_bytes = 100};
    bad = pack_draft(&d, ours);
    assert_int_equal(ts_slots_begin(&board.slots, bad.bytes, bad.digest, &at), TS_E_IMAGE_CHIP);
    free(bad.bytes);
    bad = made(2, 5000, NULL);
    assert_int_equal(ts_slots_begin(&board.slots, bad.bytes, bad.digest, &at), TS_E_IMAGE_UNSIGNED);
    free(bad.bytes);
    assert_int_equal(board.flash.operations, operations);
    assert_memory_equal(&before, &board.slots, sizeof before);
}

/* Every attack on a whole image: it is refused by name, for good, and v1 runs on. */
static void refused(struct packed *bad, int code) {
    assert_int_equal(board_update(&board, bad, 1000), code);
    assert_int_equal(ts_slots_activate(&board.slots, bad->digest), TS_E_SLOT_NOT_READY);
    for (int boots = 0; boots < 2; boots++) {
        assert_int_equal(board_boot(&board), TS_OK);
        assert_true(board_runs(&board, &v1));
        assert_int_equal(board.slots.state.reason, code);
        assert_int_equal(board.slots.state.reason_version, 2);
    }
    free(bad->bytes);
}

static void attacks_leave_the_running_image_alone(void **state) {
    (void)state;
    struct packed bad = made(2, 9000, theirs);
    refused(&bad, TS_E_IMAGE_SIGNATURE);
    bad = made(2, 9000, ours);
    bad.bytes[6000] ^= 1;
    refused(&bad, TS_E_IMAGE_DIGEST); /* not what was announced */
    bad = made(2, 9000, ours);
    bad.bytes[6000] ^= 1;
    image_digest(bad.bytes, bad.len, bad.digest);
    refused(&bad, TS_E_IMAGE_SIGNATURE);
    for (uint32_t sector = 0; sector < 3; sector++) { /* sectors that never came: zeros in their place */
        bad = made(2, 9000, ours);
        memset(bad.bytes + sector * TS_SECTOR + 64, 0, 900);
        image_digest(bad.bytes, bad.len, bad.digest);
        refused(&bad, TS_E_IMAGE_SIGNATURE);
    }
    struct draft d = image_draft(2, 9000);
    d.manifest[d.manifest_bytes - 16] = 0x85; /* five operators, not one */
    bad = pack_draft(&d, ours);
    refused(&bad, TS_E_IMAGE_MALFORMED);
    d = image_draft(2, 9000);
    d.output_bytes = 4;
    bad = pack_draft(&d, ours);
    refused(&bad, TS_E_IMAGE_MALFORMED);
}

static void a_header_cannot_be_swapped_after_begin(void **state) {
    (void)state;
    /* Begun as version 2, delivered as version 1 of another content, whose digest was announced. */
    struct packed old = made(1, 4000, ours);
    struct packed front = made(2, 4000, ours);
    struct ts_image image;
    uint32_t at;
    assert_int_equal(old.len, front.len);
    assert_int_equal(ts_slots_begin(&board.slots, front.bytes, old.digest, &at), TS_OK);
    assert_int_equal(ts_slots_write(&board.slots, 0, old.bytes, old.len), TS_OK);
    assert_int_equal(ts_slots_finish(&board.slots, &image), TS_E_IMAGE_VERSION);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v1));
    free(old.bytes);
    free(front.bytes);
}

static void bytes_come_in_order_or_not_at_all(void **state) {
    (void)state;
    struct ts_image image;
    uint32_t at;
    assert_int_equal(ts_slots_write(&board.slots, 0, v2.bytes, 10), TS_E_SLOT_ORDER);
    assert_int_equal(ts_slots_finish(&board.slots, &image), TS_E_SLOT_ORDER);
    assert_int_equal(ts_slots_begin(&board.slots, v2.bytes, v2.digest, &at), TS_OK);
    assert_int_equal(at, 0);
    assert_int_equal(ts_slots_write(&board.slots, 1, v2.bytes, 10), TS_E_SLOT_ORDER);
    assert_int_equal(ts_slots_write(&board.slots, 0, v2.bytes, v2.len + 1), TS_E_SLOT_ORDER);
    assert_int_equal(ts_slots_write(&board.slots, 0, v2.bytes, UINT32_MAX), TS_E_SLOT_ORDER);
    assert_int_equal(ts_slots_write(&board.slots, 0, v2.bytes, 5000), TS_OK);
    assert_int_equal(ts_slots_write(&board.slots, 0, v2.bytes, 3000), TS_OK); /* again: skipped */
    assert_int_equal(ts_slots_write(&board.slots, 4000, v2.bytes + 4000, 2000), TS_OK);
    assert_int_equal(ts_slots_write(&board.slots, 6001, v2.bytes + 6001, 1), TS_E_SLOT_ORDER);
    assert_int_equal(ts_slots_finish(&board.slots, &image), TS_E_SLOT_ORDER);
    assert_int_equal(ts_slots_begin(&board.slots, v2.bytes, v2.digest, &at), TS_OK);
    assert_int_equal(at, 6000);
    assert_int_equal(ts_slots_write(&board.slots, at, v2.bytes + at, v2.len - at), TS_OK);
    assert_int_equal(ts_slots_write(&board.slots, v2.len, v2.bytes, 1), TS_E_SLOT_ORDER);
    assert_int_equal(ts_slots_finish(&board.slots, &image), TS_OK);
    assert_int_equal(image.version, 2);
    assert_int_equal(ts_slots_begin(&board.slots, v2.bytes, v2.digest, &at), TS_OK);
    assert_int_equal(at, v2.len); /* all there */
    assert_int_equal(ts_slots_finish(&board.slots, &image), TS_OK);
    assert_int_equal(ts_slots_check(&board.slots, v2.digest), TS_OK);
    assert_int_equal(ts_slots_check(&board.slots, v3.digest), TS_E_SLOT_NOT_READY);
    assert_int_equal(ts_slots_activate(&board.slots, v3.digest), TS_E_SLOT_NOT_READY);
}

static void a_restart_resumes_at_the_last_mark(void **state) {
    (void)state;
    uint32_t at, step = (FLASH_SLOT_SECTORS + 247) / 248;
    struct ts_image image;
    assert_int_equal(ts_slots_begin(&board.slots, v2.bytes, v2.digest, &at), TS_OK);
    assert_int_equal(ts_slots_write(&board.slots, 0, v2.bytes, 3 * TS_SECTOR - 1), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v1));
    assert_int_equal(ts_slots_begin(&board.slots, v2.bytes, v2.digest, &at), TS_OK);
    assert_int_equal(at, 2 / step * step * TS_SECTOR);
    assert_int_equal(ts_slots_write(&board.slots, at, v2.bytes + at, v2.len - at), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK); /* complete, but not finished */
    assert_int_equal(ts_slots_begin(&board.slots, v2.bytes, v2.digest, &at), TS_OK);
    assert_int_equal(ts_slots_write(&board.slots, at, v2.bytes + at, v2.len - at), TS_OK);
    assert_int_equal(ts_slots_finish(&board.slots, &image), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK); /* ready, but not activated */
    assert_true(board_runs(&board, &v1));
    assert_int_equal(ts_slots_activate(&board.slots, v2.digest), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v2));
}

static void another_image_starts_over(void **state) {
    (void)state;
    uint32_t at;
    assert_int_equal(ts_slots_begin(&board.slots, v2.bytes, v2.digest, &at), TS_OK);
    assert_int_equal(ts_slots_write(&board.slots, 0, v2.bytes, 2 * TS_SECTOR), TS_OK);
    assert_int_equal(ts_slots_begin(&board.slots, v3.bytes, v3.digest, &at), TS_OK);
    assert_int_equal(at, 0);
    assert_int_equal(board_update(&board, &v3, 777), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v3));
}

static void an_update_can_be_dropped(void **state) {
    (void)state;
    uint32_t at;
    assert_int_equal(ts_slots_abort(&board.slots), TS_OK); /* nothing to drop */
    assert_int_equal(ts_slots_begin(&board.slots, v2.bytes, v2.digest, &at), TS_OK);
    assert_int_equal(ts_slots_write(&board.slots, 0, v2.bytes, 2 * TS_SECTOR), TS_OK);
    assert_int_equal(ts_slots_abort(&board.slots), TS_OK);
    assert_int_equal(ts_slots_write(&board.slots, 2 * TS_SECTOR, v2.bytes, 10), TS_E_SLOT_ORDER);
    assert_int_equal(ts_slots_begin(&board.slots, v2.bytes, v2.digest, &at), TS_OK);
    assert_int_equal(at, 0);
    assert_int_equal(board_update(&board, &v2, 1000), TS_OK); /* activated, and then not after all */
    assert_int_equal(ts_slots_abort(&board.slots), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v1));
    assert_int_equal(board.self_tests, 1);
}

static void an_image_written_by_wire_is_found(void **state) {
    (void)state;
    for (uint32_t slot = 0; slot < 2; slot++) {
        board_init(&board, ours, 1);
        memcpy(board.flash.bytes + slot * FLASH_SLOT, v2.bytes, v2.len);
        memcpy(board.flash.bytes + (1 - slot) * FLASH_SLOT, v1.bytes, v1.len);
        assert_int_equal(board_boot(&board), TS_OK);
        assert_true(board_runs(&board, &v2));
        assert_int_equal(board.self_tests, 1);
        assert_int_equal(board.slots.state.floor, 2);
    }
    board_init(&board, ours, 1);
    board.fails_version = 1;
    memcpy(board.flash.bytes, v1.bytes, v1.len);
    assert_int_equal(board_boot(&board), TS_E_SLOT_EMPTY);
    assert_int_equal(board.slots.state.reason, TS_E_SELF_TEST);
    assert_int_equal(board_boot(&board), TS_E_SLOT_EMPTY);
    assert_int_equal(board.self_tests, 1);
    assert_int_equal(board_update(&board, &v2, 1000), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v2));
}

static void a_decayed_slot_does_not_run(void **state) {
    (void)state;
    assert_int_equal(board_update(&board, &v2, 1000), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    board.flash.bytes[FLASH_SLOT + 5000] ^= 4;
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v1));
    assert_int_equal(board.slots.state.reason, TS_E_IMAGE_DIGEST);
    assert_int_equal(board_update(&board, &v3, 1000), TS_OK); /* goes to the decayed slot */
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v3));
    assert_int_equal(board.slots.running, 1);
}

static void a_ready_image_that_decays_is_not_activated(void **state) {
    (void)state;
    struct ts_image image;
    uint32_t at;
    assert_int_equal(ts_slots_begin(&board.slots, v2.bytes, v2.digest, &at), TS_OK);
    assert_int_equal(ts_slots_write(&board.slots, at, v2.bytes, v2.len), TS_OK);
    assert_int_equal(ts_slots_finish(&board.slots, &image), TS_OK);
    board.flash.bytes[FLASH_SLOT + 5000] ^= 4;
    assert_int_equal(ts_slots_activate(&board.slots, v2.digest), TS_E_IMAGE_DIGEST);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v1));
}

static uint32_t reads_before_failure;

static bool failing_read(void *ctx, enum ts_area area, uint32_t offset, uint8_t *out, uint32_t len) {
    return reads_before_failure-- != 0 && flash_read(ctx, area, offset, out, len);
}

/* A read that fails says nothing about the image: no rollback, and no older image in its place. */
static void a_failing_read_changes_nothing(void **state) {
    (void)state;
    static struct board start;
    assert_int_equal(board_update(&board, &v2, 1000), TS_OK);
    for (int confirmed = 0; confirmed < 2; confirmed++) {
        start = board;
        uint32_t failures = 0;
        for (uint32_t reads = 0;; reads++) {
            memcpy(&board, &start, sizeof board);
            board.cfg.read = failing_read;
            reads_before_failure = reads;
            if (board_boot(&board) == TS_OK) {
                assert_true(board_runs(&board, &v2));
                break;
            }
            assert_int_equal(board.slots.running, TS_NO_SLOT);
            failures++;
            board.cfg.read = flash_read;
            assert_int_equal(board_boot(&board), TS_OK);
            assert_true(board_runs(&board, &v2));
            assert_int_equal(board.slots.state.reason, 0);
        }
        assert_true(failures > 5);
        board.cfg.read = flash_read;
    }
}

/* Each operation of an update fails once, as an error of the flash chip; nothing is lost, and the same update then
 * works. */
static void a_failing_flash_loses_nothing(void **state) {
    (void)state;
    static struct board start;
    uint32_t operations, failures = 0;
    start = board;
    board.flash.operations = 0;
    assert_int_equal(board_update(&board, &v2, 1000), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    operations = board.flash.operations;
    for (uint32_t i = 1; i <= operations; i++) {
        memcpy(&board, &start, sizeof board);
        board.flash.operations = 0;
        board.flash.fail_at = i;
        int code = board_update(&board, &v2, 1000);
        if (code == TS_OK) {
            code = board_boot(&board);
        }
        failures += code == TS_E_FLASH_FAILED;
        board.flash.fail_at = 0;
        memset(board.flash.programmed, 0, sizeof board.flash.programmed);
        assert_int_equal(board_boot(&board), TS_OK);
        assert_true(board_runs(&board, &v1) || board_runs(&board, &v2));
        if (board_runs(&board, &v1)) {
            assert_int_equal(board_update(&board, &v2, 1000), TS_OK);
            assert_int_equal(board_boot(&board), TS_OK);
        }
        assert_true(board_runs(&board, &v2));
    }
    assert_true(operations > 15);
    assert_int_equal(failures, operations);
}

static void a_broken_state_record_is_not_believed(void **state) {
    (void)state;
    for (uint32_t byte = 0; byte < 128; byte++) {
        runs_v1(NULL);
        uint8_t *record = board.flash.bytes + flash_base(TS_AREA_STATE) + board.slots.sector * TS_SECTOR;
        record[byte] ^= 0x10;
        assert_int_equal(board_boot(&board), TS_OK); /* by the record before, or the image itself */
        assert_true(board_runs(&board, &v1));
    }
}

static void sequence_numbers_wrap(void **state) {
    (void)state;
    board.slots.state.sequence = UINT32_MAX - 2; /* the update writes three records, the boot a fourth */
    assert_int_equal(board_update(&board, &v2, 1000), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v2));
    assert_int_equal(board.slots.state.sequence, 1);
    assert_int_equal(board_update(&board, &v3, 1000), TS_OK);
    assert_int_equal(board_boot(&board), TS_OK);
    assert_true(board_runs(&board, &v3));
}

static void the_state_record_is_the_vector(void **state) {
    (void)state;
    size_t len;
    char *text = read_file(IMAGE_VECTORS_PATH, &len);
    const char *hex = vector_field(text, "state_record", 12, "hex");
    uint8_t *record = board.flash.bytes + flash_base(TS_AREA_STATE) + TS_SECTOR;
    memset(board.flash.bytes + flash_base(TS_AREA_STATE), 0xFF, 2 * TS_SECTOR);
    for (uint32_t i = 0; i < 128; i++) {
        unsigned value;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &value), 1);
        record[i] = (uint8_t)value;
    }
    assert_int_equal(board_boot(&board), TS_E_SLOT_EMPTY); /* it names an image that is not there */
    const struct ts_slots_state *st = &board.slots.state;
    assert_int_equal(st->sequence, 5);
    assert_int_equal(st->floor, 6);
    assert_int_equal(st->active, 0);
    assert_int_equal(st->slot[0].state, TS_SLOT_CONFIRMED);
    assert_int_equal(st->slot[0].bytes, 4096);
    assert_int_equal(st->slot[0].version, 6);
    assert_int_equal(st->slot[0].digest[31], 31);
    assert_int_equal(st->slot[1].state, TS_SLOT_READY);
    assert_int_equal(st->slot[1].bytes, 304);
    assert_int_equal(st->slot[1].version, 7);
    free(text);
}

static void slots_are_whole_sectors(void **state) {
    (void)state;
    board.cfg.rules.max_bytes = FLASH_SLOT - 16;
    assert_int_equal(board_boot(&board), TS_E_INVALID);
    board.cfg.rules.max_bytes = 0;
    assert_int_equal(board_boot(&board), TS_E_INVALID);
}

static int make(void **state) {
    (void)state;
    ours = signer_new();
    theirs = signer_new();
    v1 = made(1, 9000, ours);
    v2 = made(2, 17000, ours);
    v3 = made(3, 4096 * 5 - 64 - 96 - 16 - 16 - 64, ours); /* whole sectors */
    assert_int_equal(v3.len, 5 * TS_SECTOR);
    return 0;
}

static int drop(void **state) {
    (void)state;
    signer_free(ours);
    signer_free(theirs);
    free(v1.bytes);
    free(v2.bytes);
    free(v3.bytes);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(updates_alternate_between_the_slots, runs_v1),
        cmocka_unit_test_setup(the_old_one_runs_until_the_next_boot, runs_v1),
        cmocka_unit_test_setup(a_failed_self_test_goes_back_and_says_why, runs_v1),
        cmocka_unit_test_setup(three_lost_starts_are_enough, runs_v1),
        cmocka_unit_test_setup(versions_only_rise_unless_signed_otherwise, runs_v1),
        cmocka_unit_test_setup(the_running_image_is_a_duplicate, runs_v1),
        cmocka_unit_test_setup(a_refused_header_costs_nothing, runs_v1),
        cmocka_unit_test_setup(attacks_leave_the_running_image_alone, runs_v1),
        cmocka_unit_test_setup(a_header_cannot_be_swapped_after_begin, runs_v1),
        cmocka_unit_test_setup(bytes_come_in_order_or_not_at_all, runs_v1),
        cmocka_unit_test_setup(a_restart_resumes_at_the_last_mark, runs_v1),
        cmocka_unit_test_setup(another_image_starts_over, runs_v1),
        cmocka_unit_test_setup(an_update_can_be_dropped, runs_v1),
        cmocka_unit_test(an_image_written_by_wire_is_found),
        cmocka_unit_test_setup(a_decayed_slot_does_not_run, runs_v1),
        cmocka_unit_test_setup(a_ready_image_that_decays_is_not_activated, runs_v1),
        cmocka_unit_test_setup(a_failing_read_changes_nothing, runs_v1),
        cmocka_unit_test_setup(a_failing_flash_loses_nothing, runs_v1),
        cmocka_unit_test(a_broken_state_record_is_not_believed),
        cmocka_unit_test_setup(sequence_numbers_wrap, runs_v1),
        cmocka_unit_test_setup(the_state_record_is_the_vector, runs_v1),
        cmocka_unit_test_setup(slots_are_whole_sectors, runs_v1),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
