/* The state of one node's stand-in GPUs: a fixed-size struct in an mmapped file that every process of the node shares.
 *
 * The layout is known to these two C files alone; other languages go through the exported dynamollmStandin* functions.
 * A change of the layout changes STATE_VERSION. */
#ifndef DYNAMOLLM_STATE_H
#define DYNAMOLLM_STATE_H

#include <pthread.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

#define STATE_MAGIC 0x4c4d564e4d4c4c44ULL /* "DLLMNVML" */
#define STATE_VERSION 1u
#define MAX_GPUS 16u
#define UUID_SIZE 80u

/* An H100 SXM5: 210-1980 MHz in steps of 15, one memory clock, 700 W. The idle watts and the clock without a context are
 * measurements of shared/data; ../../docs/nvml-standin.md names them. */
#define MIN_CLOCK_MHZ 210u
#define MAX_CLOCK_MHZ 1980u
#define CLOCK_STEP_MHZ 15u
#define NO_CONTEXT_CLOCK_MHZ 345u
#define MEMORY_CLOCK_MHZ 2619u
#define IDLE_MW 75000u
#define CONTEXT_MW 115000u
#define POWER_LIMIT_MW 700000u

/* nvmlReturn_t, as far as it is used. */
enum {
    SUCCESS = 0,
    ERROR_UNINITIALIZED = 1,
    ERROR_INVALID_ARGUMENT = 2,
    ERROR_NOT_SUPPORTED = 3,
    ERROR_NO_PERMISSION = 4,
    ERROR_NOT_FOUND = 6,
    ERROR_INSUFFICIENT_SIZE = 7,
    ERROR_DRIVER_NOT_LOADED = 9,
    ERROR_GPU_IS_LOST = 15,
    ERROR_OPERATING_SYSTEM = 17,
    ERROR_LIB_RM_VERSION_MISMATCH = 18,
    ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    ERROR_UNKNOWN = 999
};

/* Bits of gpu.faults; the names that tests use are in state.c. */
enum {
    FAULT_POWER_CAP = 1u << 0,     /* clocks stay at or below cap_mhz: setters succeed, the clock is not reached */
    FAULT_THERMAL = 1u << 1,       /* the same, for heat */
    FAULT_UNKNOWN_ERROR = 1u << 2, /* every call about this GPU: Unknown Error */
    FAULT_LOST = 1u << 3,          /* every call about this GPU, its handle included: GPU is lost */
    FAULT_NO_PERMISSION = 1u << 4, /* setters: Insufficient Permissions, as without CAP_SYS_ADMIN */
    FAULT_MIG = 1u << 5            /* MIG mode enabled */
};

struct gpu {
    char uuid[UUID_SIZE];
    uint32_t index; /* enumeration order; re-enumeration permutes it, the slot in state.gpus stays */
    uint32_t power_mw;
    uint32_t util_percent;
    uint32_t context_pid; /* process with a CUDA context; 0: none */
    uint32_t lock_min_mhz;
    uint32_t lock_max_mhz; /* 0: no locked clocks */
    uint32_t lock_writes;  /* successful set and reset calls since creation */
    uint32_t faults;
    uint32_t cap_mhz;
    double energy_mj; /* at settled_ns; since then power_mw more per simulated second */
    int64_t settled_ns; /* CLOCK_MONOTONIC */
};

struct state {
    uint64_t magic;
    uint32_t version;
    uint32_t size;
    uint32_t gpu_count;
    uint32_t driver_loads; /* a client that initialised under another load of the driver must do so again */
    double time_scale; /* simulated seconds per second */
    pthread_mutex_t mutex; /* process-shared and robust: a holder's death releases it */
    struct gpu gpus[MAX_GPUS];
};

/* Map the state file; on success *mapped is valid until state_unmap. Returns an nvmlReturn_t. */
int state_map(const char *path, struct state **mapped);
void state_unmap(struct state *state);
int state_lock(struct state *state);
void state_unlock(struct state *state);

/* The rest expects the lock to be held. */
struct gpu *state_find(struct state *state, const char *uuid);
/* Bring the energy integral up to now at the present power: before power changes, and before the energy is read. */
void gpu_settle(const struct state *state, struct gpu *gpu);
unsigned gpu_sm_clock_mhz(const struct gpu *gpu);
void gpu_set_load(const struct state *state, struct gpu *gpu, unsigned power_mw, unsigned util_percent, unsigned pid);

#endif
