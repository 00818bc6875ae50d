/* Runs the vectors on bare metal under qemu's semihosting. */
#include "bare.h"
#include "vectors.h"

#include <string.h>

extern const char _binary_link_txt_start[];
extern const char _binary_link_txt_end[];

static void print(const char *line) {
    simcall(SYS_WRITE, 1, line, strlen(line));
    simcall(SYS_WRITE, 1, "\n", 1);
}

void run(void) {
    uint32_t count;
    size_t len = (size_t)(_binary_link_txt_end - _binary_link_txt_start);
    simcall(SYS_EXIT, vectors_run(_binary_link_txt_start, len, print, &count) != 0, NULL, 0);
}
