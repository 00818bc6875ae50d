/* The worked examples of SPEC.md and IMAGE.md are the vectors of the same name. */
#include "check.h"

#include <ctype.h>

#include "tinysplit/tinysplit.h"

/* Examples look like: `name`, 12 bytes:, an empty line, indented hex. */
static void compare(const char *spec_path, const char *vectors_path, uint32_t expected) {
    size_t len;
    char *spec = read_file(spec_path, &len);
    char *vectors = read_file(vectors_path, &len);
    uint32_t examples = 0;
    for (const char *line = spec; line != NULL; line = strchr(line, '\n')) {
        line += line != spec;
        const char *end = strchr(line, '`') == line ? strchr(line + 1, '`') : NULL;
        unsigned bytes;
        if (end == NULL || sscanf(end, "`, %u bytes:", &bytes) != 1) {
            continue;
        }
        const char *hex = vector_field(vectors, line + 1, (size_t)(end - line - 1), "hex");
        if (hex == NULL) {
            fail_msg("no vector for %.*s", (int)(end - line - 1), line + 1);
        }
        const char *at = strchr(end, '\n');
        for (unsigned i = 0; i < 2 * bytes; i++) {
            while (isspace((unsigned char)*at)) {
                at++;
            }
            assert_int_equal(*at++, hex[i]);
        }
        assert_int_equal(hex[2 * bytes], '\n');
        examples++;
    }
    assert_int_equal(examples, expected);
    free(spec);
    free(vectors);
}

static void examples_are_the_vectors(void **state) {
    (void)state;
    compare(SPEC_PATH, VECTORS_PATH, 26);
    compare(IMAGE_SPEC_PATH, IMAGE_VECTORS_PATH, 2);
}

static void rows(const char *path, const char *heading, unsigned first, unsigned last) {
    size_t len;
    char *spec = read_file(path, &len);
    const char *table = strstr(spec, heading);
    assert_non_null(table);
    for (unsigned code = first; code <= last; code++) {
        char row[64];
        snprintf(row, sizeof row, "\n| %u | %s |", code, ts_error_name(code));
        assert_non_null(strstr(table, row));
    }
    assert_string_equal(ts_error_name(last + 1), "unknown");
    free(spec);
}

static void error_tables_are_the_enum(void **state) {
    (void)state;
    rows(SPEC_PATH, "## 11. Error codes", 0, TS_E_NO_MEMORY);
    rows(IMAGE_SPEC_PATH, "## 9. Error codes", TS_E_IMAGE_MALFORMED, TS_E_SELF_TEST);
    assert_string_equal(ts_error_name(TS_E_IMAGE_MALFORMED - 1), "unknown");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples_are_the_vectors),
        cmocka_unit_test(error_tables_are_the_enum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
