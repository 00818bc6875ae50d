/* Prints what the vectors come to, for comparison with another machine's print. */
#include "vectors.h"

#include <stdio.h>

static void print(const char *line) {
    puts(line);
}

int main(int argc, char **argv) {
    static char text[1 << 18];
    FILE *f = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (f == NULL) {
        fputs("usage: print_vectors FILE\n", stderr);
        return 2;
    }
    size_t len = fread(text, 1, sizeof text, f);
    fclose(f);
    uint32_t count;
    return vectors_run(text, len, print, &count) != 0;
}
