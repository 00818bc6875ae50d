/* cmocka, with what it needs before it. */
#ifndef CHECK_H
#define CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A whole file, ended by a zero byte; the caller frees it. */
static inline char *read_file(const char *path, size_t *len) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *len = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(*len + 1);
    assert_int_equal(fread(text, 1, *len, f), *len);
    text[*len] = '\0';
    fclose(f);
    return text;
}

/* The value of `key` in the block of vector `name` of a vector file's text, up to the end of its line; NULL if there is
 * none. */
static inline const char *vector_field(const char *text, const char *name, size_t name_len, const char *key) {
    size_t key_len = strlen(key);
    for (const char *at = text; (at = strstr(at, "vector: ")) != NULL; at++) {
        if (strncmp(at + 8, name, name_len) != 0 || at[8 + name_len] != '\n') {
            continue;
        }
        for (const char *line = strchr(at, '\n'); line != NULL && line[1] != '\n'; line = strchr(line + 1, '\n')) {
            if (strncmp(line + 1, key, key_len) == 0 && strncmp(line + 1 + key_len, ": ", 2) == 0) {
                return line + 3 + key_len;
            }
        }
    }
    return NULL;
}

#endif
