#define _GNU_SOURCE /* NOLINT(cert-dcl51-cpp,bugprone-reserved-identifier): getrandom */
#include "machine.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

uint64_t vb_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint32_t vb_random(void *ctx) {
    (void)ctx;
    uint32_t word = 0;
    while (getrandom(&word, sizeof word, 0) != (ssize_t)sizeof word) {
    }
    return word;
}

int vb_packet_send(int fd, const struct ts_addr *to, const uint8_t *frame, size_t len) {
    uint8_t head[1 + TS_ADDR_BYTES] = {to->len};
    memcpy(head + 1, to->bytes, to->len);
    struct iovec parts[] = {{.iov_base = head, .iov_len = 1u + to->len}, {.iov_base = (void *)frame, .iov_len = len}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    if (sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) {
        return TS_OK;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ? TS_E_WOULD_BLOCK : TS_E_SEND_FAILED;
}

int vb_packet_read(int fd, uint8_t *buffer, struct ts_addr *from, const uint8_t **frame, size_t *len) {
    for (;;) {
        ssize_t got = recv(fd, buffer, VB_PACKET_BYTES, MSG_DONTWAIT);
        if (got <= 0) {
            return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? 0 : -1;
        }
        uint8_t n = buffer[0];
        if (n >= 1 && n <= TS_ADDR_BYTES && (size_t)got >= 1u + n) {
            from->len = n;
            memcpy(from->bytes, buffer + 1, n);
            *frame = buffer + 1 + n;
            *len = (size_t)got - 1u - n;
            return 1;
        }
    }
}
