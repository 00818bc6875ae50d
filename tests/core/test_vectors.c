/* The shared vectors: every frame kind and message, right and malformed. */
#include "check.h"
#include "vectors.h"

static void print(const char *line) {
    if (strstr(line, "FAILED") != NULL) {
        print_error("%s\n", line);
    }
}

static void every_vector_holds(void **state) {
    (void)state;
    size_t len;
    char *text = read_file(VECTORS_PATH, &len);
    uint32_t count;
    assert_int_equal(vectors_run(text, len, print, &count), 0);
    assert_true(count >= 150);
    free(text);
}

static void a_changed_vector_fails(void **state) {
    (void)state;
    static const char text[] =
        "vector: poll\ntype: frame\nverdict: ok\nsid: 192409389\nhex: 512d020002003cff\nkind: 5\n";
    uint32_t count;
    assert_int_equal(vectors_run(text, sizeof text - 1, print, &count), 1);
    assert_int_equal(count, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_vector_holds),
        cmocka_unit_test(a_changed_vector_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
