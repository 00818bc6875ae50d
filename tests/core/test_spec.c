/* SPEC.md's worked examples are the vectors of the same name. */
#include "check.h"

#include <ctype.h>

#include "tinysplit/tinysplit.h"

/* The hex of vector `name`, or NULL. */
static const char *vector_hex(const char *text, const char *name, size_t name_len) {
    for (const char *at = text; (at = strstr(at, "vector: ")) != NULL; at++) {
        if (strncmp(at + 8, name, name_len) == 0 && at[8 + name_len] == '\n') {
            const char *hex = strstr(at, "\nhex: ");
            return hex != NULL ? hex + 6 : NULL;
        }
    }
    return NULL;
}

/* Examples look like: `name`, 12 bytes:, an empty line, indented hex. */
static void examples_are_the_vectors(void **state) {
    (void)state;
    size_t len;
    char *spec = read_file(SPEC_PATH, &len);
    char *vectors = read_file(VECTORS_PATH, &len);
    uint32_t examples = 0;
    for (const char *line = spec; line != NULL; line = strchr(line, '\n')) {
        line += line != spec;
        const char *end = strchr(line, '`') == line ? strchr(line + 1, '`') : NULL;
        unsigned bytes;
        if (end == NULL || sscanf(end, "`, %u bytes:", &bytes) != 1) {
            continue;
        }
        const char *hex = vector_hex(vectors, line + 1, (size_t)(end - line - 1));
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
    assert_int_equal(examples, 22);
    free(spec);
    free(vectors);
}

static void error_table_is_the_enum(void **state) {
    (void)state;
    size_t len;
    char *spec = read_file(SPEC_PATH, &len);
    const char *table = strstr(spec, "## 11. Error codes");
    assert_non_null(table);
    for (unsigned code = 0; code <= TS_E_NO_MEMORY; code++) {
        char row[64];
        snprintf(row, sizeof row, "\n| %u | %s |", code, ts_error_name(code));
        assert_non_null(strstr(table, row));
    }
    assert_string_equal(ts_error_name(TS_E_NO_MEMORY + 1), "unknown");
    free(spec);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples_are_the_vectors),
        cmocka_unit_test(error_table_is_the_enum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
