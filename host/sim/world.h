/* What the simulated world is made of; sim.c, media.c and updates.c share it. */
#ifndef TINYSPLIT_WORLD_H
#define TINYSPLIT_WORLD_H

#include "sim.h"
#include "tinysplit/tinysplit.h"

#define NO_NODE 255
#define MILLION 1000000u
#define QUEUE 32
#define ESPNOW_FRAME 1500

struct device;
struct sender;

struct packet {
    uint64_t at, order;
    uint8_t from, to;
    uint16_t len;
    uint8_t bytes[];
};

/* A frame that waits for the medium. */
struct waiting {
    uint8_t to;
    uint16_t len;
    uint8_t bytes[ESPNOW_FRAME];
};

struct node {
    struct sim *world;
    const struct sim_node_config *config;
    uint8_t index, bundle;
    bool alive;
    uint64_t wake, up_at; /* up here, where looking for the next event finds them in one cache line */
    struct ts_addr next;
    struct ts_link link;
    struct ts_node_config cfg;
    struct ts_node core;
    uint64_t reboot_at, infer_at;
    struct ts_invoke *engine;
    uint64_t engine_done;
    uint64_t busy_until;            /* SIM_WIRE: the sender's queue; SIM_BLE: its radio */
    uint64_t arrival[SIM_NODES];    /* SIM_STREAM: of the last frame to each node */
    uint64_t event_end[SIM_NODES];  /* SIM_BLE: of the connection event under way with each node */
    uint64_t event_free[SIM_NODES]; /* SIM_BLE: when its last packet so far is over */
    struct device *device;          /* flash and slots; NULL without updates */
    struct sender *sender;          /* sends updates */
    bool stirred;                   /* an event came that the next step has to see */
    /* SIM_ESPNOW */
    struct waiting *queue;
    uint8_t queue_first, queue_count, tries;
    bool received; /* the first in the queue */
    uint16_t window;
    uint32_t backoff;
    uint64_t ready_at; /* when it came to have a frame */
    /* heads */
    uint32_t inference;
    bool pending;
    uint64_t begun_at;
    uint64_t done_settled;
    uint8_t *input;
};

struct sim {
    struct sim_config config;
    uint64_t now, rng, order;
    bool settling;
    struct node nodes[SIM_NODES];
    struct packet **heap;
    size_t heap_count, heap_room;
    uint64_t medium_free;   /* SIM_ESPNOW, SIM_WIFI, SIM_STREAM: when the transmission on the air is over */
    uint64_t contention_at; /* SIM_ESPNOW: when the next one begins, UINT64_MAX: nobody has a frame */
    struct ts_crc_fast tables;
    struct sim_report report;
    struct sim_event *events;
    size_t event_count, event_room;
    uint8_t *scratch[2];
};

uint32_t sim_draw(struct sim *w);
uint32_t sim_below(struct sim *w, uint32_t limit);
/* False once the world settles. */
bool sim_chance(struct sim *w, uint32_t millionths);
void sim_note(struct sim *w, uint8_t node, uint8_t kind, uint16_t other, uint32_t value);
/* The same of something that begins later. */
void sim_note_at(struct sim *w, uint64_t at, uint8_t node, uint8_t kind, uint16_t other, uint32_t value);
uint64_t sim_clock(const struct node *n);
/* The node is off from now on, for down_us. */
void sim_off(struct node *n, uint8_t kind);

uint32_t sim_input_bytes(const struct sim *w, uint8_t bundle, uint8_t stage);
uint32_t sim_output_bytes(const struct sim *w, uint8_t bundle, uint8_t stage);

/* --- media.c --- */

/* The core's callback: a frame from n to the node with index `to`. */
int sim_send(struct node *n, uint8_t to, const uint8_t *bytes, uint16_t len);
/* Who transmits next on the shared medium, after frames came or nodes went. */
void sim_contend(struct sim *w);
void sim_transmit(struct sim *w);
struct packet *sim_pop(struct sim *w);

/* --- updates.c --- */

/* Gives a node flash that holds version 1, or the sender its targets. False: no memory. */
bool sim_updates_set_up(struct node *n);
/* A board starts from its slots; false: the power went, or nothing runs. A sender begins again. */
bool sim_updates_boot(struct node *n);
/* The model that the running slot holds now. */
uint32_t sim_updates_word(struct node *n);
void sim_updates_event(void *ctx, const struct ts_event *event);
/* Does what is due; false if the node went down. *wake: when to call again at the latest. */
bool sim_updates_step(struct node *n, uint64_t *wake);
/* After all is well: how many nodes run something else than the newest. */
uint32_t sim_updates_outdated(const struct sim *w);
void sim_updates_free(struct node *n);

#endif
