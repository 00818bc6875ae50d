/* What a board remembers of the commands it has taken. */
#include "../core/check.h"
#include "once.h"

#include <stdio.h>

static struct once once;
static char memory[4 * 32];

static int set_up(void **state) {
    (void)state;
    once_init(&once, memory, sizeof memory);
    return 0;
}

#define HASH 0x12345678u

static enum once_verdict admit(const char *id) {
    return once_admit(&once, id, HASH, NULL);
}

static void take_many(unsigned from, unsigned to) {
    for (unsigned i = from; i < to; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "%u", i);
        assert_int_equal(admit(id), ONCE_NEW);
        once_keep(&once, id, id);
    }
}

static void a_command_is_new_once(void **state) {
    (void)state;
    assert_int_equal(admit("\"a\""), ONCE_NEW);
    assert_int_equal(admit("\"a\""), ONCE_PENDING);
    assert_null(once_answer(&once, "\"a\""));
    once_keep(&once, "\"a\"", "answer");
    assert_int_equal(admit("\"a\""), ONCE_DONE);
    assert_string_equal(once_answer(&once, "\"a\""), "answer");
    assert_int_equal(once.count, 1);
    assert_int_equal(once_look(&once, "a", HASH), ONCE_NEW); /* a look takes nothing */
    assert_int_equal(once.count, 1);
}

static void another_command_of_the_same_id_is_none_of_the_first(void **state) {
    (void)state;
    uint32_t after = 0;
    assert_int_equal(admit("1"), ONCE_NEW);
    assert_int_equal(once_look(&once, "1", HASH ^ 1u), ONCE_REUSED);
    assert_int_equal(once_admit(&once, "1", HASH ^ 1u, &after), ONCE_REUSED);
    assert_int_equal(admit("1"), ONCE_PENDING);
    once_keep(&once, "1", "first");
    assert_int_equal(once_admit(&once, "1", HASH ^ 1u, NULL), ONCE_REUSED);
    assert_int_equal(admit("1"), ONCE_DONE);
    assert_string_equal(once_answer(&once, "1"), "first");
    assert_int_equal(once.count, 1);
    take_many(2, 2 + ONCE_IDS); /* "1" is forgotten: it is free again */
    assert_int_equal(once_admit(&once, "1", HASH ^ 1u, NULL), ONCE_NEW);
}

static void answers_are_kept_of_the_last_only(void **state) {
    (void)state;
    take_many(0, 5);
    assert_null(once_answer(&once, "0"));
    assert_string_equal(once_answer(&once, "1"), "1");
    assert_string_equal(once_answer(&once, "4"), "4");
    assert_int_equal(admit("0"), ONCE_DONE);
}

static void an_answer_that_does_not_fit_is_not_kept(void **state) {
    (void)state;
    char answer[64];
    memset(answer, 'x', sizeof answer);
    answer[32] = '\0'; /* and its end */
    assert_int_equal(admit("a"), ONCE_NEW);
    once_keep(&once, "a", answer);
    assert_null(once_answer(&once, "a"));
    assert_int_equal(admit("a"), ONCE_DONE);
    answer[31] = '\0';
    assert_int_equal(admit("b"), ONCE_NEW);
    once_keep(&once, "b", answer);
    assert_string_equal(once_answer(&once, "b"), answer);
    once_init(&once, NULL, 0);
    assert_int_equal(admit("c"), ONCE_NEW);
    once_keep(&once, "c", "");
    assert_null(once_answer(&once, "c"));
    assert_int_equal(admit("c"), ONCE_DONE);
}

static void what_may_be_forgotten_is_not_done(void **state) {
    (void)state;
    take_many(0, ONCE_IDS + 1);
    uint32_t after = 0;
    assert_int_equal(once_look(&once, "0", HASH), ONCE_NEW); /* it is forgotten */
    assert_int_equal(once_admit(&once, "0", HASH, &after), ONCE_FORGOTTEN);
    after = once.count + 1;
    assert_int_equal(once_admit(&once, "0", HASH, &after), ONCE_FORGOTTEN);
    after = 1;
    assert_int_equal(once_admit(&once, "late", HASH, &after), ONCE_NEW);
    assert_int_equal(once.count, ONCE_IDS + 2);
}

static void what_is_under_way_is_not_forgotten(void **state) {
    (void)state;
    assert_int_equal(admit("long"), ONCE_NEW);
    take_many(0, 3 * ONCE_IDS);
    assert_int_equal(admit("long"), ONCE_PENDING);
}

static void what_cannot_be_remembered_is_not_begun(void **state) {
    (void)state;
    char id[ONCE_ID_BYTES + 1];
    memset(id, 'i', sizeof id);
    id[ONCE_ID_BYTES] = '\0';
    assert_int_equal(admit(id), ONCE_FORGOTTEN);
    id[ONCE_ID_BYTES - 1] = '\0';
    assert_int_equal(admit(id), ONCE_NEW);
    for (unsigned i = 1; i < ONCE_IDS; i++) {
        char other[16];
        (void)snprintf(other, sizeof other, "%u", i);
        assert_int_equal(admit(other), ONCE_NEW);
    }
    assert_int_equal(admit("one too many at once"), ONCE_FORGOTTEN);
    once_keep(&once, "7", "over");
    assert_int_equal(admit("one too many at once"), ONCE_NEW);
    assert_int_equal(once_look(&once, "7", HASH), ONCE_NEW);
    assert_null(once_answer(&once, "7"));
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup(name, set_up)
    const struct CMUnitTest tests[] = {
        TEST(a_command_is_new_once),
        TEST(another_command_of_the_same_id_is_none_of_the_first),
        TEST(answers_are_kept_of_the_last_only),
        TEST(an_answer_that_does_not_fit_is_not_kept),
        TEST(what_may_be_forgotten_is_not_done),
        TEST(what_is_under_way_is_not_forgotten),
        TEST(what_cannot_be_remembered_is_not_begun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
