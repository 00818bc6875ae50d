/* What tinysplit is compared with: HTTP/1.1 (a POST on a connection that is kept) and gRPC (a unary call over
 * HTTP/2 without TLS), with as little work per call as the protocols allow. RFC 9112, RFC 9113, RFC 7541; gRPC over
 * HTTP2 (PROTOCOL-HTTP2.md of grpc). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "load.h"

#define BUFFER 65536u
#define RECONNECT_NS 200000000u
#define FRAME_HEADER 9u
#define MOST_PAYLOAD 16384u /* SETTINGS_MAX_FRAME_SIZE at first, RFC 9113 6.5.2 */
#define FIRST_WINDOW 65535  /* RFC 9113 6.9.2 */
#define GRPC_PREFIX 5u      /* u8 compressed, u32 length */

enum { H2_DATA = 0, H2_HEADERS = 1, H2_RST_STREAM = 3, H2_SETTINGS = 4, H2_PING = 6, H2_GOAWAY = 7, H2_WINDOW = 8 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8 };

struct own {
    uint8_t *in, *out;
    size_t in_len, out_len, out_at;
    uint32_t number; /* of the call under way */
    /* HTTP/2 */
    uint32_t stream;
    bool greeted, known; /* the server's SETTINGS came; it knows our headers */
    int64_t window;
    uint8_t *answer;
    size_t answer_len;
};

static bool is_grpc(void) {
    return options.protocol == P_GRPC;
}

static void put32be(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

static uint32_t get32be(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void broke(struct head *h, const char *why) {
    struct own *o = h->own;
    bool was_up = h->up;
    close_socket(h);
    h->up = false;
    while (h->in_flight > 0) {
        finished(h, o->number, why, NULL, 0);
    }
    if (was_up) {
        is_down(h, why);
    }
    *h->due_ns = now_ns() + RECONNECT_NS;
}

static void flush(struct head *h) {
    struct own *o = h->own;
    while (h->fd >= 0 && !h->connecting && o->out_at < o->out_len) {
        ssize_t sent = send(h->fd, o->out + o->out_at, o->out_len - o->out_at, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                broke(h, "send_failed");
                return;
            }
            break;
        }
        o->out_at += (size_t)sent;
    }
    if (o->out_at == o->out_len) {
        o->out_at = o->out_len = 0;
    }
    watch_writes(h, h->connecting || o->out_len > 0);
}

static void say(struct own *o, const void *bytes, size_t len) {
    if (len > BUFFER - o->out_len) {
        errno = ENOBUFS;
        die("a request");
    }
    memcpy(o->out + o->out_len, bytes, len);
    o->out_len += len;
}

static void say_frame(struct own *o, uint8_t type, uint8_t flags, uint32_t stream, const void *bytes, size_t len) {
    uint8_t header[FRAME_HEADER] = {(uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len, type, flags};
    put32be(header + 5, stream);
    say(o, header, sizeof header);
    say(o, bytes, len);
}

static size_t string(uint8_t *at, const char *text) {
    size_t len = strlen(text);
    if (len > 63) {
        errno = EINVAL;
        die(text);
    }
    at[0] = (uint8_t)len;
    memcpy(at + 1, text, len);
    return 1 + len;
}

/* RFC 7541, 6.2.1: with incremental indexing, so that it is one byte from the second call on. `name`: of the static
 * table. */
static size_t literal(uint8_t *at, uint8_t name, const char *value) {
    at[0] = (uint8_t)(0x40 | name);
    return 1 + string(at + 1, value);
}

static void say_call(const struct head *h, uint32_t number) {
    struct own *o = h->own;
    uint8_t headers[512];
    size_t len = 0;
    headers[len++] = 0x83; /* :method POST */
    headers[len++] = 0x86; /* :scheme http */
    if (!o->known) {
        len += literal(headers + len, 4, options.path);
        len += literal(headers + len, 1, options.authority);
        len += literal(headers + len, 31, "application/grpc");
        headers[len++] = 0x40; /* a name of its own */
        len += string(headers + len, "te");
        len += string(headers + len, "trailers");
        o->known = true;
    } else {
        for (uint8_t index = 65; index >= 62; index--) { /* the newest entry of the dynamic table is 62 */
            headers[len++] = 0x80 | index;
        }
    }
    uint8_t body[MOST_PAYLOAD] = {0};
    put32be(body + 1, examples.boundary_bytes);
    memcpy(body + GRPC_PREFIX, boundary_of(h, number), examples.boundary_bytes);
    say_frame(o, H2_HEADERS, END_HEADERS, o->stream, headers, len);
    say_frame(o, H2_DATA, END_STREAM, o->stream, body, GRPC_PREFIX + examples.boundary_bytes);
    o->window -= (int64_t)(GRPC_PREFIX + examples.boundary_bytes);
}

static void say_post(const struct head *h, uint32_t number) {
    struct own *o = h->own;
    char head[768];
    int len = snprintf(head, sizeof head,
                       "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/octet-stream\r\n%s%s"
                       "Content-Length: %u\r\n\r\n",
                       options.path, options.authority, options.header, options.header[0] != '\0' ? "\r\n" : "",
                       examples.boundary_bytes);
    if (len < 0 || (size_t)len >= sizeof head) {
        errno = EINVAL;
        die("the header");
    }
    say(o, head, (size_t)len);
    say(o, boundary_of(h, number), examples.boundary_bytes);
}

static void greet(struct own *o) {
    uint8_t grow[4];
    put32be(grow, 0x7FFFFFFFu - FIRST_WINDOW); /* what comes back is never held up */
    say(o, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    say_frame(o, H2_SETTINGS, 0, 0, NULL, 0);
    say_frame(o, H2_WINDOW, 0, 0, grow, sizeof grow);
}

/* One frame of the server's. Returns the name of an error. */
static const char *take_frame(struct head *h, const uint8_t *header, const uint8_t *payload, size_t len) {
    struct own *o = h->own;
    uint32_t stream = get32be(header + 5) & 0x7FFFFFFFu;
    uint8_t type = header[3];
    uint8_t flags = header[4];
    if (type == H2_SETTINGS && (flags & ACK) == 0) {
        say_frame(o, H2_SETTINGS, ACK, 0, NULL, 0);
        if (!o->greeted) {
            o->greeted = true;
            is_up(h);
        }
    } else if (type == H2_PING && (flags & ACK) == 0 && len == 8) {
        say_frame(o, H2_PING, ACK, 0, payload, len);
    } else if (type == H2_WINDOW && len == 4 && stream == 0) {
        o->window += get32be(payload) & 0x7FFFFFFFu;
    } else if (type == H2_GOAWAY || type == H2_RST_STREAM) {
        return type == H2_GOAWAY ? "closed" : "reset";
    } else if (type == H2_DATA && stream == o->stream) {
        if ((flags & PADDED) != 0 || o->answer_len + len > MOST_PAYLOAD) {
            return "malformed";
        }
        memcpy(o->answer + o->answer_len, payload, len);
        o->answer_len += len;
    }
    if ((type == H2_DATA || type == H2_HEADERS) && (flags & END_STREAM) != 0 && stream == o->stream) {
        bool whole = o->answer_len >= GRPC_PREFIX && get32be(o->answer + 1) == o->answer_len - GRPC_PREFIX;
        size_t got = o->answer_len;
        o->answer_len = 0;
        finished(h, o->number, whole ? NULL : "invoke_failed", o->answer + GRPC_PREFIX, whole ? got - GRPC_PREFIX : 0);
    }
    return NULL;
}

static const char *take_frames(struct head *h) {
    struct own *o = h->own;
    size_t at = 0;
    const char *why = NULL;
    while (why == NULL && o->in_len - at >= FRAME_HEADER) {
        const uint8_t *header = o->in + at;
        size_t len = (size_t)header[0] << 16 | (size_t)header[1] << 8 | header[2];
        if (len > MOST_PAYLOAD) {
            return "malformed";
        }
        if (o->in_len - at - FRAME_HEADER < len) {
            break;
        }
        why = take_frame(h, header, header + FRAME_HEADER, len);
        at += FRAME_HEADER + len;
    }
    memmove(o->in, o->in + at, o->in_len - at);
    o->in_len -= at;
    return why;
}

/* A whole response, if it is there. The result is the end of its body (Triton has JSON before it). */
static const char *take_response(struct head *h) {
    struct own *o = h->own;
    const char *text = (const char *)o->in;
    const char *end = memmem(text, o->in_len, "\r\n\r\n", 4);
    if (end == NULL) {
        return NULL;
    }
    size_t body = 0;
    for (const char *line = text; line < end;
         line = (const char *)memmem(line, (size_t)(end + 2 - line), "\r\n", 2) + 2) {
        if (strncasecmp(line, "content-length:", 15) == 0) {
            body = strtoul(line + 15, NULL, 10);
        }
    }
    size_t head = (size_t)(end + 4 - text);
    if (head + body > BUFFER) {
        return "too_large";
    }
    if (o->in_len < head + body) {
        return NULL;
    }
    bool fine = o->in_len >= 12 && memcmp(text + 9, "200", 3) == 0;
    size_t len = body < examples.result_bytes ? body : examples.result_bytes;
    o->in_len = 0;
    finished(h, o->number, fine ? NULL : "invoke_failed", o->in + head + body - len, len);
    return NULL;
}

static void create(struct head *h) {
    struct own *o = calloc(1, sizeof *o);
    if (o != NULL) {
        o->in = malloc(BUFFER);
        o->out = malloc(BUFFER);
        o->answer = malloc(MOST_PAYLOAD);
    }
    if (o == NULL || o->in == NULL || o->out == NULL || o->answer == NULL) {
        die("memory");
    }
    if (GRPC_PREFIX + examples.boundary_bytes > MOST_PAYLOAD) {
        errno = EMSGSIZE;
        die("a boundary");
    }
    h->own = o;
}

static void destroy(struct head *h) {
    struct own *o = h->own;
    free(o->in);
    free(o->out);
    free(o->answer);
    free(o);
}

static void open_client(struct head *h) {
    struct own *o = h->own;
    o->in_len = o->out_len = o->out_at = o->answer_len = 0;
    o->greeted = o->known = false;
    o->window = FIRST_WINDOW;
    o->stream = UINT32_MAX; /* the first is 1 */
    if (is_grpc()) {
        greet(o);
    }
    *h->due_ns = NEVER_NS;
    if (open_socket(h, SOCK_STREAM) < 0) {
        *h->due_ns = now_ns() + RECONNECT_NS;
    } else if (!h->connecting) {
        flush(h);
    }
}

static bool start(struct head *h, uint32_t number) {
    struct own *o = h->own;
    if (h->in_flight > 1) {
        return false; /* counts the one about to start */
    }
    if (is_grpc()) {
        if (o->window < (int64_t)(GRPC_PREFIX + examples.boundary_bytes)) {
            return false;
        }
        o->stream += 2;
        say_call(h, number);
    } else {
        say_post(h, number);
    }
    o->number = number;
    *h->due_ns = 0;
    return true;
}

static void readable(struct head *h) {
    struct own *o = h->own;
    ssize_t got = recv(h->fd, o->in + o->in_len, BUFFER - o->in_len, 0);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            broke(h, "closed");
        }
        return;
    }
    o->in_len += (size_t)got;
    const char *why = is_grpc() ? take_frames(h) : take_response(h);
    if (why != NULL) {
        broke(h, why);
    } else if (o->out_len > 0) {
        flush(h);
    }
}

static void writable(struct head *h) {
    if (h->connecting) {
        int error = 0;
        socklen_t len = sizeof error;
        h->connecting = false;
        if (getsockopt(h->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
            broke(h, "no_peer");
            return;
        }
        if (!is_grpc()) {
            is_up(h);
        }
    }
    flush(h);
}

static void timer(struct head *h) {
    *h->due_ns = NEVER_NS;
    if (h->fd < 0) {
        open_client(h);
    } else {
        flush(h);
    }
}

const struct wire http_wire = {create, destroy, open_client, start, readable, writable, timer, close_socket};
