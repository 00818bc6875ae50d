#define _GNU_SOURCE /* NOLINT(cert-dcl51-cpp,bugprone-reserved-identifier): ppoll, accept4 */
#include "board.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "machine.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* linux/udp.h */
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define MAX_CONNECTIONS 64
#define OUT_BYTES (256u * 1024u)
#define RECONNECT_US 200000u
#define UDP_BUFFER (4 * 1024 * 1024)
#define FRAMES_PER_STEP 64
#define BATCH_BYTES (48u * 1024u)
#define BATCH_FRAMES 32u
#define DATAGRAM_BYTES 65536u
#define VB_ANSWERS 2u /* undelivered ones to a peer, before its next command is taken */

/* A TCP connection, and what could not be written to it yet. */
struct connection {
    int fd; /* -1: free */
    bool connecting;
    struct ts_stream reader;
    uint8_t *frame; /* mtu bytes */
    uint8_t *out;   /* OUT_BYTES */
    size_t out_len;
    uint64_t since; /* when it was accepted */
    bool gone;      /* it ended, and the core does not know yet */
};

/* UDP frames for one peer that wait to be handed to the kernel together. */
struct batch {
    struct ts_addr to;
    uint16_t segment; /* length of all but the last */
    size_t len;       /* 0: empty */
    uint8_t bytes[BATCH_BYTES];
};

struct pending {
    struct pending *next;
    struct vb_result result;
    size_t len;
    uint8_t tensors[];
};

struct input {
    struct input *next;
    uint32_t inference;
    struct ts_tensors tensors;
    uint8_t data[];
};

/* A message in the core's receive memory. */
struct arrived {
    struct vb_message message;
    uint8_t slot;
    const uint8_t *body;
};

/* Text on its way to a peer, or waiting for room in its session's queue (token 0). */
struct answer {
    struct answer *next;
    uint32_t token;
    uint16_t session;
    uint32_t sid;
    uint32_t len;
    uint8_t text[];
};

struct vb {
    struct vb_config config;
    struct ts_link link;
    struct ts_node_config node_config;
    struct ts_node node;
    struct ts_crc_fast tables;
    struct ts_coding coding;
    struct vb_stamp complete, handed;
    uint8_t *coded;
    int (*unpack)(struct ts_node *node, struct ts_job *job);
    struct ts_addr next;
    struct sockaddr_storage next_sockaddr;
    socklen_t next_len;
    int fd;                    /* UDP socket, or TCP listener; -1: none */
    bool connected;            /* the UDP socket knows its only peer, which saves a look for the route per frame */
    uint32_t connection_count; /* connections to look after: none with UDP */
    uint16_t port;
    uint64_t reconnect_at;
    uint16_t downstream_error;
    struct connection connections[MAX_CONNECTIONS]; /* 0: the one to the next stage */
    struct pending *first, *last;
    struct input *inputs;
    struct arrived *arrived; /* arrived_cap places */
    uint32_t arrived_count, arrived_cap;
    struct answer *answers;
    uint32_t last_token;
    struct batch batch;
    bool one_by_one;
    uint8_t *datagram; /* DATAGRAM_BYTES: several frames, where the kernel joined them */
};

static bool parse_address(const char *host, uint16_t port, struct sockaddr_storage *out, socklen_t *len) {
    memset(out, 0, sizeof *out);
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        *len = sizeof *v4;
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        *len = sizeof *v6;
        return true;
    }
    return false;
}

/* UDP peers are named by IP address and port as on the wire. */
static void to_addr(const struct sockaddr_storage *from, struct ts_addr *to) {
    memset(to, 0, sizeof *to);
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)from;
        memcpy(to->bytes, &v4->sin_addr, 4);
        memcpy(to->bytes + 4, &v4->sin_port, 2);
        to->len = 6;
    } else {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)from;
        memcpy(to->bytes, &v6->sin6_addr, 16);
        memcpy(to->bytes + 16, &v6->sin6_port, 2);
        to->len = 18;
    }
}

static socklen_t from_addr(const struct ts_addr *from, struct sockaddr_storage *to) {
    memset(to, 0, sizeof *to);
    if (from->len == 6) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)to;
        v4->sin_family = AF_INET;
        memcpy(&v4->sin_addr, from->bytes, 4);
        memcpy(&v4->sin_port, from->bytes + 4, 2);
        return sizeof *v4;
    }
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;
    v6->sin6_family = AF_INET6;
    memcpy(&v6->sin6_addr, from->bytes, 16);
    memcpy(&v6->sin6_port, from->bytes + 16, 2);
    return sizeof *v6;
}

static void close_connection(struct connection *c) {
    close(c->fd);
    c->fd = -1;
    c->gone = true; /* for tell_gone: the core may be at work right now */
    c->connecting = false;
    c->out_len = 0;
}

static void flush(struct connection *c) {
    while (c->fd >= 0 && !c->connecting && c->out_len > 0) {
        ssize_t sent = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            return;
        }
        if (sent < 0) {
            close_connection(c);
            return;
        }
        memmove(c->out, c->out + sent, c->out_len - (size_t)sent);
        c->out_len -= (size_t)sent;
    }
}

static int send_tcp(vb *b, const struct ts_addr *to, const uint8_t *frame, size_t len) {
    struct connection *c = to->len == 1 && to->bytes[0] < MAX_CONNECTIONS ? &b->connections[to->bytes[0]] : NULL;
    if (c == NULL || c->fd < 0) {
        return TS_E_SEND_FAILED;
    }
    if (c->out_len + TS_PREFIX_BYTES + len > OUT_BYTES) {
        return TS_E_WOULD_BLOCK;
    }
    ts_put16(c->out + c->out_len, (uint32_t)len);
    memcpy(c->out + c->out_len + TS_PREFIX_BYTES, frame, len);
    c->out_len += TS_PREFIX_BYTES + len;
    return TS_OK;
}

/* Sends what waits for one UDP peer. Frames of one length (the last may be shorter) go to the kernel
 * in one call, which cuts them apart again: four calls for a boundary cost more than all the rest. */
static void flush_batch(vb *b) {
    struct batch *q = &b->batch;
    if (q->len == 0) {
        return;
    }
    struct sockaddr_storage address;
    socklen_t address_len = b->connected ? 0 : from_addr(&q->to, &address);
    struct iovec data = {.iov_base = q->bytes, .iov_len = q->len};
    union {
        char bytes[CMSG_SPACE(sizeof(uint16_t))];
        struct cmsghdr aligned;
    } control = {{0}};
    struct msghdr message = {
        .msg_name = b->connected ? NULL : &address, .msg_namelen = address_len, .msg_iov = &data, .msg_iovlen = 1};
    if (q->len > q->segment) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_UDP;
        header->cmsg_type = UDP_SEGMENT;
        header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        memcpy(CMSG_DATA(header), &q->segment, sizeof q->segment);
    }
    ssize_t sent = sendmsg(b->fd, &message, 0);
    if (sent < 0 && errno == ECONNREFUSED) {
        sent = sendmsg(b->fd, &message, 0); /* that was what an earlier frame met */
    }
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)) {
        return; /* stays until the socket takes it */
    }
    if (sent < 0 && message.msg_control != NULL && errno != ECONNREFUSED) {
        b->one_by_one = true; /* this path cannot cut: lost now, as on any radio, and sent singly from here on */
    }
    q->len = 0;
}

static void flush_all(vb *b) {
    flush_batch(b);
    for (uint32_t i = 0; i < b->connection_count; i++) {
        flush(&b->connections[i]);
    }
}

static int send_udp(vb *b, const struct ts_addr *to, const uint8_t *frame, size_t len) {
    struct batch *q = &b->batch;
    bool joins = q->len > 0 && len <= q->segment && q->len % q->segment == 0 && q->len + len <= BATCH_BYTES &&
                 q->len / q->segment < BATCH_FRAMES && q->to.len == to->len &&
                 memcmp(q->to.bytes, to->bytes, to->len) == 0 && !b->one_by_one;
    if (!joins) {
        flush_batch(b);
        if (q->len > 0) {
            return TS_E_WOULD_BLOCK;
        }
        q->to = *to;
        q->segment = (uint16_t)len;
    }
    memcpy(q->bytes + q->len, frame, len);
    q->len += len;
    return TS_OK;
}

static int send_frame(void *ctx, const struct ts_addr *to, const uint8_t *frame, size_t len) {
    vb *b = ctx;
    if (b->config.transport == VB_TCP) {
        return send_tcp(b, to, frame, len);
    }
    if (b->config.transport == VB_PACKET) {
        return vb_packet_send(b->config.packet_fd, to, frame, len);
    }
    return send_udp(b, to, frame, len);
}

static int invoke(void *ctx, struct ts_invoke *run) {
    vb *b = ctx;
    b->complete = (struct vb_stamp){.inference = run->inference, .at_us = ts_complete_at(&b->node, run)};
    flush_all(b); /* the acknowledgement must not wait for the engine */
    return b->config.invoke(b->config.ctx, run->input->data, run->input->bytes, run->input->count, run->output,
                            run->output_cap, run->bytes, &run->count, &run->invoke_us, &run->encode_us);
}

static uint64_t coding_clock(void *ctx) {
    (void)ctx;
    return vb_now_us();
}

static int unpack(struct ts_node *node, struct ts_job *job) {
    vb *b = node->cfg->endpoint.ctx;
    flush_all(b); /* nor for the codec */
    return b->unpack(node, job);
}

static void add_phase(struct vb_result *r, uint8_t stage, uint8_t phase, uint32_t duration_us) {
    if (r->phase_count < TS_MAX_PHASES + TS_PHASES) {
        r->phases[r->phase_count].stage = stage;
        r->phases[r->phase_count].phase = phase;
        r->phases[r->phase_count].duration_us = duration_us;
        r->phase_count++;
    }
}

static void free_input(vb *b, uint32_t inference) {
    for (struct input **at = &b->inputs; *at != NULL; at = &(*at)->next) {
        if ((*at)->inference == inference) {
            struct input *over = *at;
            *at = over->next;
            free(over);
            return;
        }
    }
}

static void take_result(void *ctx, const struct ts_result *r) {
    vb *b = ctx;
    b->handed = (struct vb_stamp){.inference = r->inference, .at_us = ts_handed_at(&b->node, r)};
    size_t len = r->tensors != NULL ? r->tensors->total : 0;
    struct pending *p = calloc(1, sizeof *p + len);
    if (p == NULL) {
        abort(); /* On a PC: nothing sensible is left to do. */
    }
    p->len = len;
    p->result.inference = r->inference;
    p->result.code = r->code;
    p->result.stage = r->stage;
    p->result.fragments_sent = r->fragments_sent;
    p->result.fragments_resent = r->fragments_resent;
    p->result.total_us = r->total_us;
    memcpy(p->result.text, r->text_len > 0 ? r->text : "", r->text_len);
    for (unsigned phase = 0; phase < TS_PHASES; phase++) {
        if ((r->phases->known >> phase & 1) != 0) {
            add_phase(&p->result, b->config.stage, (uint8_t)phase, r->phases->duration_us[phase]);
        }
    }
    if (r->tensors != NULL) {
        p->result.count = r->tensors->count;
        memcpy(p->result.bytes, r->tensors->bytes, sizeof p->result.bytes);
        memcpy(p->tensors, r->tensors->data, len);
        for (uint8_t i = 0; i < r->tensors->phase_count; i++) {
            uint8_t stage;
            uint8_t phase;
            uint32_t us;
            ts_phase_read(r->tensors->phases + (size_t)i * TS_PHASE_BYTES, &stage, &phase, &us);
            add_phase(&p->result, stage, phase, us);
        }
    }
    if (b->last != NULL) {
        b->last->next = p;
    } else {
        b->first = p;
    }
    b->last = p;
    free_input(b, r->inference);
}

static bool stands(const vb *b, uint16_t session, uint32_t sid) {
    const struct ts_session *s = &b->node_config.endpoint.sessions[session];
    return s->state == TS_S_UP && s->keys.sid == sid;
}

/* Keeps a message where it lies; its slot stays taken, which holds the sender back. */
static void keep_message(vb *b, const struct ts_event *e) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < b->arrived_count; i++) {
        if (stands(b, b->arrived[i].message.session, b->arrived[i].message.sid)) {
            b->arrived[kept++] = b->arrived[i];
        }
    }
    b->arrived_count = kept;
    if (kept == b->arrived_cap || (e->kind != TS_CONTROL && e->kind != TS_BLOB)) {
        ts_release(&b->node.ep, vb_now_us(), e->session, e->slot);
        return;
    }
    uint32_t sid = b->node_config.endpoint.sessions[e->session].keys.sid;
    b->arrived[b->arrived_count++] =
        (struct arrived){.message = {.session = e->session, .kind = e->kind, .sid = sid, .len = e->len},
                         .slot = e->slot,
                         .body = e->body};
}

static void free_answer(vb *b, uint32_t token) {
    for (struct answer **at = &b->answers; *at != NULL; at = &(*at)->next) {
        if ((*at)->token == token) {
            struct answer *over = *at;
            *at = over->next;
            free(over);
            return;
        }
    }
}

/* Queues the answers that have found no room so far; those of sessions that are over are dropped. */
static void send_answers(vb *b) {
    for (struct answer **at = &b->answers; *at != NULL;) {
        struct answer *a = *at;
        int code = TS_OK;
        if (a->token == 0) {
            uint32_t token = b->last_token % (TS_NODE_TOKEN - 1u) + 1u;
            code = stands(b, a->session, a->sid)
                       ? ts_send(&b->node.ep, vb_now_us(), a->session, TS_CONTROL, a->text, a->len, 0, token)
                       : TS_E_RESET;
            if (code == TS_OK) {
                a->token = b->last_token = token;
            }
        }
        if (code == TS_OK || code == TS_E_NO_SLOT) {
            at = &a->next;
        } else {
            *at = a->next;
            free(a);
        }
    }
}

static uint32_t answers_to(const vb *b, uint16_t session, uint32_t sid) {
    uint32_t count = 0;
    for (const struct answer *a = b->answers; a != NULL; a = a->next) {
        count += a->session == session && a->sid == sid;
    }
    return count;
}

/* The oldest message that may be taken now; arrived_count: none. */
static uint32_t next_message(const vb *b) {
    uint32_t i = 0;
    while (i < b->arrived_count) {
        const struct vb_message *m = &b->arrived[i].message;
        if (stands(b, m->session, m->sid) && answers_to(b, m->session, m->sid) < VB_ANSWERS) {
            break;
        }
        i++;
    }
    return i;
}

static void on_event(void *ctx, const struct ts_event *e) {
    vb *b = ctx;
    if (e->type == TS_EV_DOWN && e->session == b->node.downstream) {
        b->downstream_error = e->code;
    } else if (e->type == TS_EV_UP && e->session == b->node.downstream) {
        b->downstream_error = TS_OK;
    } else if (e->type == TS_EV_MESSAGE) {
        keep_message(b, e);
    } else if (e->type == TS_EV_SENT) {
        free_answer(b, e->token);
    }
}

static int open_listener(vb *b) {
    struct sockaddr_storage address;
    socklen_t len;
    bool tcp = b->config.transport == VB_TCP;
    if (b->config.transport == VB_PACKET) {
        b->fd = b->config.packet_fd;
        return 0;
    }
    const char *host = b->config.listen_host;
    if (host == NULL) {
        if (tcp) {
            return 0;
        }
        host = b->next_sockaddr.ss_family == AF_INET6 ? "::" : "0.0.0.0";
    }
    if (!parse_address(host, b->config.listen_port, &address, &len)) {
        return EINVAL;
    }
    b->fd = socket(address.ss_family, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (b->fd < 0) {
        return errno;
    }
    int one = 1;
    int buffer = UDP_BUFFER;
    if (tcp) {
        setsockopt(b->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    } else {
        setsockopt(b->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
        setsockopt(b->fd, SOL_UDP, UDP_GRO, &one, sizeof one); /* without it frames just come singly */
    }
    if (bind(b->fd, (struct sockaddr *)&address, len) != 0 || (tcp && listen(b->fd, MAX_CONNECTIONS) != 0) ||
        getsockname(b->fd, (struct sockaddr *)&address, &len) != 0) {
        return errno;
    }
    if (!tcp && b->config.listen_host == NULL && b->next_len != 0) {
        b->connected = connect(b->fd, (struct sockaddr *)&b->next_sockaddr, b->next_len) == 0;
    }
    b->port = ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
                                                 : ((struct sockaddr_in6 *)&address)->sin6_port);
    return 0;
}

static bool has_session(const vb *b, uint32_t index) {
    const struct ts_config *cfg = &b->node_config.endpoint;
    for (uint16_t i = 0; i < cfg->session_count; i++) {
        const struct ts_session *s = &cfg->sessions[i];
        if (s->state >= TS_S_PENDING && s->addr.len == 1 && s->addr.bytes[0] == index) {
            return true;
        }
    }
    return false;
}

/* A place for a peer: where all are taken, that of the oldest connection without a session. Sessions are
 * fewer than places, so that silent connections never shut out a peer. */
static struct connection *place_for_peer(vb *b) {
    struct connection *oldest = NULL;
    for (uint32_t i = 1; i < MAX_CONNECTIONS; i++) {
        struct connection *c = &b->connections[i];
        if (c->fd < 0) {
            return c;
        }
        if (!has_session(b, i) && (oldest == NULL || c->since < oldest->since)) {
            oldest = c;
        }
    }
    if (oldest != NULL) {
        close_connection(oldest);
    }
    return oldest;
}

static bool prepare_connection(vb *b, struct connection *c, int fd) {
    int one = 1;
    if (c->frame == NULL) {
        c->frame = malloc(b->link.mtu);
        c->out = malloc(OUT_BYTES);
    }
    if (c->frame == NULL || c->out == NULL) {
        close(fd);
        return false;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->fd = fd;
    c->connecting = false;
    c->out_len = 0;
    ts_stream_init(&c->reader, false, c->frame, b->link.mtu);
    return true;
}

static void connect_next(vb *b, uint64_t now) {
    struct connection *c = &b->connections[0];
    if (b->config.transport != VB_TCP || b->config.next_host == NULL || c->fd >= 0 || now < b->reconnect_at) {
        return;
    }
    b->reconnect_at = now + RECONNECT_US;
    int fd = socket(b->next_sockaddr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return;
    }
    int code = connect(fd, (struct sockaddr *)&b->next_sockaddr, b->next_len);
    if (code != 0 && errno != EINPROGRESS) {
        close(fd);
        return;
    }
    if (prepare_connection(b, c, fd)) {
        c->connecting = code != 0;
    }
}

/* Ends the sessions of connections that broke, before their places are given to others. */
static void tell_gone(vb *b) {
    for (uint32_t i = 0; i < b->connection_count; i++) {
        if (b->connections[i].gone) {
            const struct ts_addr peer = {.len = 1, .bytes = {(uint8_t)i}};
            b->connections[i].gone = false;
            ts_gone(&b->node.ep, vb_now_us(), &peer);
        }
    }
}

static void accept_peers(vb *b) {
    for (;;) {
        int fd = accept4(b->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            return;
        }
        struct connection *place = place_for_peer(b);
        tell_gone(b);
        if (place == NULL) {
            close(fd);
        } else if (prepare_connection(b, place, fd)) {
            place->since = vb_now_us();
        }
    }
}

struct delivery {
    vb *board;
    struct ts_addr from;
};

static void deliver(void *ctx, const uint8_t *frame, size_t len) {
    struct delivery *d = ctx;
    ts_node_on_datagram(&d->board->node, vb_now_us(), &d->from, frame, len);
}

static void read_connection(vb *b, uint32_t index) {
    struct connection *c = &b->connections[index];
    uint8_t buffer[16384];
    struct delivery d = {.board = b, .from = {.len = 1, .bytes = {(uint8_t)index}}};
    for (uint32_t i = 0; i < FRAMES_PER_STEP && c->fd >= 0; i++) {
        ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            return;
        }
        if (got <= 0 || ts_stream_read(&c->reader, buffer, (size_t)got, deliver, &d) != TS_OK) {
            close_connection(c);
            return;
        }
        if ((size_t)got < sizeof buffer) {
            return;
        }
    }
}

/* False: the radio is gone, and nothing more will come. */
static bool read_packets(vb *b) {
    struct ts_addr from = {.link = 0};
    const uint8_t *frame;
    size_t len;
    for (uint32_t i = 0; i < FRAMES_PER_STEP; i++) {
        int got = vb_packet_read(b->fd, b->datagram, &from, &frame, &len);
        if (got <= 0) {
            return got == 0;
        }
        ts_node_on_datagram(&b->node, vb_now_us(), &from, frame, len);
    }
    return true;
}

static void read_datagrams(vb *b) {
    for (uint32_t i = 0; i < FRAMES_PER_STEP; i++) {
        struct sockaddr_storage from;
        struct iovec data = {.iov_base = b->datagram, .iov_len = DATAGRAM_BYTES};
        union {
            char bytes[CMSG_SPACE(sizeof(int))];
            struct cmsghdr aligned;
        } control;
        struct msghdr message = {.msg_name = &from,
                                 .msg_namelen = sizeof from,
                                 .msg_iov = &data,
                                 .msg_iovlen = 1,
                                 .msg_control = control.bytes,
                                 .msg_controllen = sizeof control.bytes};
        ssize_t got = recvmsg(b->fd, &message, 0);
        if (got < 0) {
            if (errno == ECONNREFUSED || errno == EINTR) {
                continue; /* what an earlier datagram met */
            }
            return;
        }
        size_t left = (size_t)got;
        size_t segment = left;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        if (header != NULL && header->cmsg_level == SOL_UDP && header->cmsg_type == UDP_GRO) {
            int joined = 0;
            memcpy(&joined, CMSG_DATA(header), sizeof joined);
            segment = joined > 0 ? (size_t)joined : left;
        }
        struct ts_addr addr;
        to_addr(&from, &addr);
        for (const uint8_t *at = b->datagram; left > 0; at += segment, left -= segment) {
            segment = segment < left ? segment : left;
            ts_node_on_datagram(&b->node, vb_now_us(), &addr, at, segment);
        }
    }
}

static void finish_connecting(struct connection *c) {
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
        close_connection(c);
    } else {
        c->connecting = false;
    }
}

int vb_step(vb *b, int64_t timeout_us, int extra_fd) {
    uint64_t now = vb_now_us();
    uint64_t end = timeout_us < 0 ? UINT64_MAX : now + (uint64_t)timeout_us;
    for (;;) {
        tell_gone(b);
        connect_next(b, now);
        send_answers(b);
        uint64_t due = ts_node_poll(&b->node, now);
        flush_all(b);
        struct pollfd fds[MAX_CONNECTIONS + 2];
        uint32_t owner[MAX_CONNECTIONS + 2];
        nfds_t count = 0;
        if (extra_fd >= 0) {
            fds[count++] = (struct pollfd){.fd = extra_fd, .events = POLLIN};
        }
        nfds_t own = count;
        if (b->fd >= 0) {
            owner[count] = MAX_CONNECTIONS;
            fds[count++] = (struct pollfd){.fd = b->fd, .events = (short)(POLLIN | (b->batch.len > 0 ? POLLOUT : 0))};
        }
        for (uint32_t i = 0; i < b->connection_count; i++) {
            struct connection *c = &b->connections[i];
            if (c->fd >= 0) {
                bool write = c->connecting || c->out_len > 0;
                owner[count] = i;
                fds[count++] = (struct pollfd){.fd = c->fd, .events = (short)(POLLIN | (write ? POLLOUT : 0))};
            }
        }
        if (b->config.transport == VB_TCP && b->config.next_host != NULL && b->connections[0].fd < 0) {
            due = b->reconnect_at < due ? b->reconnect_at : due;
        }
        due = end < due ? end : due;
        if (b->first != NULL || next_message(b) < b->arrived_count) {
            due = 0;
        }
        now = vb_now_us();
        struct timespec wait = {0};
        bool forever = due == UINT64_MAX;
        if (due > now && !forever) {
            wait.tv_sec = (time_t)((due - now) / 1000000u);
            wait.tv_nsec = (long)((due - now) % 1000000u * 1000u);
        }
        int ready = ppoll(fds, count, forever ? NULL : &wait, NULL);
        if (ready < 0 && errno != EINTR) {
            return -1;
        }
        for (nfds_t i = own; ready > 0 && i < count; i++) {
            if (fds[i].revents == 0) {
                continue;
            }
            if (owner[i] == MAX_CONNECTIONS) {
                if (b->config.transport == VB_TCP) {
                    accept_peers(b);
                } else if (b->config.transport == VB_UDP) {
                    read_datagrams(b);
                } else if (!read_packets(b)) {
                    b->fd = -1;
                }
            } else if (b->connections[owner[i]].connecting) {
                finish_connecting(&b->connections[owner[i]]);
            } else {
                read_connection(b, owner[i]);
            }
        }
        int flags = extra_fd >= 0 && ready > 0 && fds[0].revents != 0 ? 1 : 0;
        flags |= (b->first != NULL ? 2 : 0) | (next_message(b) < b->arrived_count ? 4 : 0);
        now = vb_now_us();
        if (flags != 0 || now >= end || ready < 0) {
            /* What was read may have left answers to send. */
            tell_gone(b);
            ts_node_poll(&b->node, now);
            flush_all(b);
            return flags | (b->first != NULL ? 2 : 0);
        }
    }
}

int vb_infer(vb *b, uint32_t inference, const uint8_t *input, const uint32_t *bytes, uint8_t count,
             uint32_t timeout_ms) {
    if (count < 1 || count > TS_MAX_TENSORS) {
        return TS_E_INVALID;
    }
    size_t total = 0;
    for (uint8_t i = 0; i < count; i++) {
        total += bytes[i];
    }
    struct input *in = calloc(1, sizeof *in + total);
    if (in == NULL) {
        return TS_E_NO_MEMORY;
    }
    memcpy(in->data, input, total);
    memcpy(in->tensors.bytes, bytes, count * sizeof *bytes);
    in->inference = inference;
    in->tensors.count = count;
    in->tensors.total = (uint32_t)total;
    in->tensors.data = in->data;
    int code = ts_node_infer(&b->node, vb_now_us(), inference, &in->tensors, timeout_ms);
    if (code != TS_OK) {
        free(in);
        return code;
    }
    in->next = b->inputs;
    b->inputs = in;
    return TS_OK;
}

uint32_t vb_abort(vb *b) {
    uint32_t count = 0;
    /* The core reports each before it returns, and take_result takes the input off the list. */
    while (b->inputs != NULL && ts_node_cancel(&b->node, vb_now_us(), b->inputs->inference) == TS_OK) {
        count++;
    }
    return count;
}

int vb_take_result(vb *b, struct vb_result *result, uint8_t *tensors, size_t cap) {
    struct pending *p = b->first;
    if (p == NULL) {
        return 0;
    }
    *result = p->result;
    if (p->len > cap) { /* larger than anything this bundle makes: not a result to trust */
        result->code = TS_E_MALFORMED;
        result->count = 0;
    } else {
        memcpy(tensors, p->tensors, p->len);
    }
    b->first = p->next;
    if (b->first == NULL) {
        b->last = NULL;
    }
    free(p);
    return 1;
}

int vb_take_message(vb *b, struct vb_message *message, uint8_t *body, size_t cap) {
    uint32_t i = next_message(b);
    if (i == b->arrived_count || b->arrived[i].message.len > cap) {
        return 0;
    }
    *message = b->arrived[i].message;
    memcpy(body, b->arrived[i].body, message->len);
    ts_release(&b->node.ep, vb_now_us(), message->session, b->arrived[i].slot);
    b->arrived_count--;
    memmove(&b->arrived[i], &b->arrived[i + 1], (b->arrived_count - i) * sizeof *b->arrived);
    return 1;
}

int vb_send_control(vb *b, uint16_t session, uint32_t sid, const uint8_t *text, size_t len) {
    if (session >= b->node_config.endpoint.session_count || !stands(b, session, sid)) {
        return TS_E_RESET;
    }
    struct answer *a = len <= UINT32_MAX ? malloc(sizeof *a + len) : NULL;
    if (a == NULL) {
        return TS_E_NO_MEMORY;
    }
    *a = (struct answer){.session = session, .sid = sid, .len = (uint32_t)len};
    memcpy(a->text, text, len);
    struct answer **at = &b->answers;
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = a;
    send_answers(b);
    return TS_OK;
}

uint32_t vb_answers(const vb *b) {
    uint32_t count = 0;
    for (const struct answer *a = b->answers; a != NULL; a = a->next) {
        count++;
    }
    return count;
}

void vb_get_status(vb *b, struct vb_status *status) {
    memset(status, 0, sizeof *status);
    status->link = b->node.ep.stats;
    status->port = b->port;
    status->downstream_error = b->downstream_error;
    status->raw_bytes = b->coding.raw_bytes;
    status->coded_bytes = b->coding.coded_bytes;
    status->complete = b->complete;
    status->handed = b->handed;
    const struct ts_config *cfg = &b->node_config.endpoint;
    for (uint16_t i = 0; i < cfg->session_count; i++) {
        const struct ts_session *s = &cfg->sessions[i];
        status->sessions_up = (uint8_t)(status->sessions_up + (s->state == TS_S_UP));
        if (i == b->node.downstream && s->state == TS_S_UP) {
            status->downstream_up = 1;
            status->frame_size = s->frame_size;
            status->codec = s->codec;
            status->srtt_us = s->rtt.known ? s->rtt.srtt_us : 0;
            status->clock_offset_us = s->clock.offset_us;
            status->clock_uncertainty_us = s->clock.known ? s->clock.uncertainty_us : 0;
            status->clock_age_us = b->node.ep.now - s->clock.at;
        }
    }
}

static bool fill_config(vb *b) {
    const struct vb_config *c = &b->config;
    struct ts_node_config *n = &b->node_config;
    struct ts_config *e = &n->endpoint;
    bool tcp = c->transport == VB_TCP;
    b->link.mtu = c->mtu != 0 || c->transport == VB_PACKET ? c->mtu : tcp ? TS_MAX_MTU : 1452;
    b->link.window = c->window;
    b->link.reorder = c->reorder != 0 ? c->reorder : tcp ? 1 : 0;
    b->link.rto_initial_us = c->rto_initial_us;
    b->link.rto_min_us = c->rto_min_us != 0 ? c->rto_min_us : tcp ? 1000000 : 0;
    b->link.pace_ns_per_byte = c->pace_ns_per_byte;
    b->link.pace_burst_us = c->pace_burst_us;
    ts_crc_fast_init(&b->tables);
    e->ctx = b;
    e->crc = (struct ts_crc){&b->tables, ts_crc16_fast, ts_crc32_fast};
    e->send = send_frame;
    e->random = vb_random;
    e->role = c->role;
    e->stage = c->stage;
    e->stage_count = c->stage_count;
    e->refuse = c->refuse != 0;
    e->accept_control = e->accept_blob = true;
    memcpy(e->bundle, c->bundle, sizeof e->bundle);
    e->links = &b->link;
    e->link_count = 1;
    e->session_count = c->peers;
    e->sessions = calloc(c->peers, sizeof *e->sessions);
    e->max_message = c->max_message;
    e->rx_memory_bytes = TS_RX_MEMORY(c->peers, c->max_message);
    e->rx_memory = aligned_alloc(16, e->rx_memory_bytes);
    e->frame_bytes = b->link.mtu;
    e->frame = malloc(b->link.mtu);
    e->idle_timeout_ms = c->idle_timeout_ms;
    e->connect_timeout_ms = c->connect_timeout_ms;
    e->message_timeout_ms = c->message_timeout_ms;
    n->job_count = c->jobs;
    n->jobs = calloc(c->jobs, sizeof *n->jobs);
    n->max_output = c->max_output;
    n->out_memory_bytes = TS_JOB_MEMORY(c->jobs, c->max_output);
    n->out_memory = aligned_alloc(16, n->out_memory_bytes);
    n->invoke = invoke;
    n->result = take_result;
    n->event = on_event;
    b->datagram = malloc(DATAGRAM_BYTES);
    b->arrived_cap = (uint32_t)c->peers * TS_RX_SLOTS;
    b->arrived = calloc(b->arrived_cap, sizeof *b->arrived);
    if (c->offer_codec != 0) {
        size_t bytes = TS_CODING_MEMORY(c->jobs, c->max_input, c->max_output);
        b->coded = aligned_alloc(16, bytes);
        if (b->coded == NULL ||
            ts_coding_init(&b->coding, b->coded, bytes, c->jobs, c->max_input, c->max_output) != TS_OK) {
            return false;
        }
        memcpy(b->coding.near, c->near, sizeof b->coding.near);
        b->coding.clock_us = coding_clock;
        b->unpack = b->coding.unpack;
        b->coding.unpack = unpack;
        n->coding = &b->coding;
        e->codecs = TS_CODECS_RAW | TS_CODECS_RANGE;
    }
    return e->sessions != NULL && e->rx_memory != NULL && e->frame != NULL && n->jobs != NULL &&
           n->out_memory != NULL && b->datagram != NULL && b->arrived != NULL;
}

vb *vb_new(const struct vb_config *config, int *error) {
    *error = 0;
    vb *b = calloc(1, sizeof *b);
    if (b == NULL) {
        return NULL;
    }
    b->config = *config;
    b->fd = -1;
    b->connection_count = config->transport == VB_TCP ? MAX_CONNECTIONS : 0;
    for (uint32_t i = 0; i < MAX_CONNECTIONS; i++) {
        b->connections[i].fd = -1;
    }
    if (!fill_config(b)) {
        vb_free(b);
        return NULL;
    }
    if (config->transport == VB_PACKET && config->next_addr_len > 0 && config->next_addr_len <= TS_ADDR_BYTES) {
        b->next.len = config->next_addr_len;
        memcpy(b->next.bytes, config->next_addr, config->next_addr_len);
        b->node_config.downstream = &b->next;
    } else if (config->next_host != NULL) {
        if (!parse_address(config->next_host, config->next_port, &b->next_sockaddr, &b->next_len)) {
            *error = EINVAL;
            vb_free(b);
            return NULL;
        }
        if (config->transport == VB_TCP) {
            b->next = (struct ts_addr){.len = 1, .bytes = {0}};
        } else {
            to_addr(&b->next_sockaddr, &b->next);
        }
        b->node_config.downstream = &b->next;
    }
    *error = open_listener(b);
    if (*error != 0 || ts_node_init(&b->node, &b->node_config, vb_now_us()) != TS_OK) {
        vb_free(b);
        return NULL;
    }
    return b;
}

void vb_free(vb *b) {
    if (b == NULL) {
        return;
    }
    for (uint32_t i = 0; i < MAX_CONNECTIONS; i++) {
        if (b->connections[i].fd >= 0) {
            close(b->connections[i].fd);
        }
        free(b->connections[i].frame);
        free(b->connections[i].out);
    }
    if (b->fd >= 0 && b->config.transport != VB_PACKET) {
        close(b->fd);
    }
    while (b->first != NULL) {
        struct pending *p = b->first;
        b->first = p->next;
        free(p);
    }
    while (b->inputs != NULL) {
        struct input *in = b->inputs;
        b->inputs = in->next;
        free(in);
    }
    while (b->answers != NULL) {
        struct answer *a = b->answers;
        b->answers = a->next;
        free(a);
    }
    free(b->arrived);
    free(b->node_config.endpoint.sessions);
    free(b->node_config.endpoint.rx_memory);
    free(b->node_config.endpoint.frame);
    free(b->node_config.jobs);
    free(b->node_config.out_memory);
    free(b->datagram);
    free(b->coded);
    free(b);
}
