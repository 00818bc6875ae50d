/* A network of nodes in memory: seeded, with its own clock, as unreliable as asked for. */
#ifndef NETWORK_H
#define NETWORK_H

#include "tinysplit/tinysplit.h"

#define NET_HOSTS 4
#define NET_PACKETS 4096
#define NET_MESSAGE 8192
#define NET_SESSIONS 2
#define NET_JOBS 4
#define NET_LOG 64

struct net;

/* One node, its memory and what happened to it. */
struct host {
    struct net *net;
    uint8_t index;
    bool alive;
    uint64_t clock_offset_us; /* this node's clock = network time + this */
    struct ts_addr next;
    struct ts_link link;
    struct ts_node_config cfg;
    struct ts_node node;
    struct ts_session sessions[NET_SESSIONS];
    struct ts_job jobs[NET_JOBS];
    uint8_t rx[TS_RX_MEMORY(NET_SESSIONS, NET_MESSAGE)];
    uint8_t out[TS_JOB_MEMORY(NET_JOBS, NET_MESSAGE)];
    uint8_t frame[TS_MAX_MTU];
    struct ts_coding coding; /* see host_code */
    uint8_t coded[TS_CODING_MEMORY(NET_JOBS, NET_MESSAGE, NET_MESSAGE)];
    uint64_t coding_clock_us;
    uint64_t wake;

    uint32_t invoke_us;
    bool async;               /* the engine runs elsewhere: finish_engine() ends it */
    struct ts_invoke *engine; /* the run in progress, if async */
    uint64_t engine_done;
    int invoke_code;
    bool full; /* send says would-block */

    uint32_t ups, downs, last_down;
    uint32_t messages, sent_ok, sent_failed, last_sent_code, last_detail;
    uint32_t results, failures, inexact, last_code, last_stage;
    uint32_t invoked;
    uint8_t phases_seen;
    uint16_t log[NET_LOG];
    uint32_t asked[NET_LOG]; /* bytes */
    bool hold;               /* keep messages instead of releasing them */
    uint8_t held_slot;
    uint16_t held_session;
    uint8_t last_body[NET_MESSAGE];
    uint32_t last_len;
    uint32_t crc_of_last;
};

struct packet {
    uint64_t at, order;
    uint8_t from, to;
    uint16_t len;
    uint8_t *bytes;
};

struct net {
    uint64_t rng, now, order;
    /* Chances in 1/10000, times in us. */
    uint32_t loss, duplicate, reorder, corrupt;
    uint32_t delay_us, jitter_us;
    uint32_t data_frames, other_frames;
    uint64_t bytes;
    bool cut;     /* nothing gets through */
    uint8_t mask; /* what inputs are made of, 0: anything */
    struct host hosts[NET_HOSTS];
    struct packet packets[NET_PACKETS];
    uint32_t packet_count;
    /* Sees each frame as it is sent. May be NULL. */
    void (*tap)(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len);
    void *tap_ctx;
};

struct net *net_new(uint64_t seed);
void net_free(struct net *net);
uint32_t net_random(struct net *net);

/* Default configuration of a host; change cfg or link before host_start. next: its downstream, -1 for none. */
struct host *host_setup(struct net *net, uint8_t index, uint8_t role, uint8_t stage, uint8_t stages, int next);
/* Lets it speak codec 1, too; before host_start. A call of the codec takes CODING_US by its clock. */
#define CODING_US 300u
void host_code(struct host *h);
void host_start(struct host *h);
void host_kill(struct host *h);
struct ts_addr host_addr(uint8_t index);
uint64_t host_now(const struct host *h);

/* A host's engine: every byte + stage + 1, and the length unchanged. */
int host_infer(struct host *h, uint32_t inference, uint32_t len, uint32_t timeout_ms);

/* Delivers a frame now, unharmed. */
void net_inject(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len);

/* Puts a frame on its way as if `from` had sent it. */
void net_post(struct net *net, uint8_t from, uint8_t to, const uint8_t *bytes, size_t len);

/* Runs for us microseconds, or until done returns true (NULL: never). */
bool net_run(struct net *net, uint64_t us, bool (*done)(struct net *net));

/* Two hosts, head 0 and tail 1, with their session up. */
struct net *net_pair(uint64_t seed);

#endif
