#include "inet.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool parse_port(const char *text, uint16_t *port) {
    uint32_t value = 0;
    size_t digits = 0;
    for (; text[digits] >= '0' && text[digits] <= '9' && digits < 6; digits++) {
        value = value * 10u + (uint32_t)(text[digits] - '0');
    }
    *port = (uint16_t)value;
    return digits > 0 && text[digits] == 0 && value > 0 && value <= UINT16_MAX;
}

bool inet_parse(const char *text, struct sockaddr_in6 *out) {
    char host[48];
    const char *colon = strrchr(text, ':');
    uint16_t port;
    if (colon == NULL || !parse_port(colon + 1, &port)) {
        return false;
    }
    size_t len = (size_t)(colon - text);
    bool v6 = len >= 2 && text[0] == '[' && text[len - 1] == ']';
    if (v6) {
        text++;
        len -= 2;
    }
    if (len == 0 || len >= sizeof host) {
        return false;
    }
    memcpy(host, text, len);
    host[len] = 0;
    memset(out, 0, sizeof *out);
    out->sin6_family = AF_INET6;
    out->sin6_port = htons(port);
    if (v6) {
        return inet_pton(AF_INET6, host, &out->sin6_addr) == 1;
    }
    struct in_addr v4;
    if (inet_pton(AF_INET, host, &v4) != 1) {
        return false;
    }
    memcpy(&out->sin6_addr, v4_prefix, sizeof v4_prefix);
    memcpy((uint8_t *)&out->sin6_addr + sizeof v4_prefix, &v4, 4);
    return true;
}

void inet_to_addr(const struct sockaddr_in6 *from, struct ts_addr *to) {
    to->len = 18;
    memcpy(to->bytes, &from->sin6_addr, 16);
    memcpy(to->bytes + 16, &from->sin6_port, 2);
}

bool inet_from_addr(const struct ts_addr *from, uint32_t scope, struct sockaddr_in6 *to) {
    if (from->len != 18) {
        return false;
    }
    memset(to, 0, sizeof *to);
    to->sin6_family = AF_INET6;
    memcpy(&to->sin6_addr, from->bytes, 16);
    memcpy(&to->sin6_port, from->bytes + 16, 2);
    if (from->bytes[0] == 0xfe && (from->bytes[1] & 0xc0) == 0x80) {
        to->sin6_scope_id = scope;
    }
    return true;
}

int inet_socket(int type, uint16_t port) {
    int fd = socket(AF_INET6, type, 0);
    if (fd < 0) {
        return -1;
    }
    int off = 0;
    int on = 1;
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) != 0 ||
        (type == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) ||
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK) != 0 ||
        (port != 0 && bind(fd, (const struct sockaddr *)&any, sizeof any) != 0)) {
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}
