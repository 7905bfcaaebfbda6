/* This process's view of a node's stand-in GPUs: what nvmlInit attached to, and how a call takes and gives back the lock. */
#ifndef DYNAMOLLM_CLIENT_H
#define DYNAMOLLM_CLIENT_H

#include "state.h"

#include <stdbool.h>
#include <stddef.h>

/* A handle: the GPU's slot, whatever its index becomes. */
struct handle {
    unsigned slot;
};
typedef struct handle *nvmlDevice_t;

struct client {
    pthread_mutex_t mutex;
    struct state *state;
    unsigned users;        /* nvmlInit calls without their nvmlShutdown */
    unsigned driver_loads; /* the load of the driver that was initialised against */
    bool visible[MAX_GPUS];
    struct handle handles[MAX_GPUS];
};
extern struct client client;

/* NVML's way to version a struct that the caller fills. */
#define VERSION_OF(type, number) ((unsigned)(sizeof(type) | (number) << 24u))

/* Take the node's lock for one call that needs no GPU; `arguments` says whether the caller's pointers are good. On
 * anything but SUCCESS the lock is not held. */
int enter(bool arguments);
/* The same for one call about one GPU, whose faults are answered here. */
int enter_gpu(nvmlDevice_t device, bool arguments, struct gpu **gpu);
/* Give the lock back and pass the result on. */
int leave(int result);
/* The error that the faults of this GPU give to every call about it. */
int fault(const struct gpu *gpu);
/* Copy a text into a caller's buffer. */
int put(char *to, unsigned size, const char *text);

/* The getters that fill one unsigned. */
#define UNSIGNED_GETTER(function, expression)                          \
    EXPORT int function(nvmlDevice_t device, unsigned *value)          \
    {                                                                  \
        struct gpu *gpu;                                               \
        int result = enter_gpu(device, value != NULL, &gpu);           \
        if (result != SUCCESS)                                         \
            return result;                                             \
        *value = (expression);                                         \
        return leave(SUCCESS);                                         \
    }

#endif
