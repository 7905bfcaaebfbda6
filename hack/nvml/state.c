/* The shared state: mapping, locking, energy, and the functions by which tests and the local cluster arrange a node. */
#define _GNU_SOURCE
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const struct {
    const char *name;
    uint32_t bit;
} FAULTS[] = {
    {"power-cap", FAULT_POWER_CAP}, {"thermal", FAULT_THERMAL},
    {"unknown-error", FAULT_UNKNOWN_ERROR}, {"lost", FAULT_LOST},
    {"no-permission", FAULT_NO_PERMISSION}, {"mig", FAULT_MIG},
};
#define FAULT_COUNT (sizeof FAULTS / sizeof FAULTS[0])

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- mapping and locking */

int state_map(const char *path, struct state **mapped)
{
    struct stat info;
    if (path == NULL || *path == '\0')
        return ERROR_DRIVER_NOT_LOADED;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return errno == EACCES ? ERROR_NO_PERMISSION : ERROR_DRIVER_NOT_LOADED;
    if (fstat(file, &info) != 0 || info.st_size != (off_t)sizeof(struct state)) {
        close(file);
        return ERROR_LIB_RM_VERSION_MISMATCH;
    }
    struct state *state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (state == MAP_FAILED)
        return ERROR_OPERATING_SYSTEM;
    if (state->magic != STATE_MAGIC || state->version != STATE_VERSION || state->size != sizeof *state ||
        state->gpu_count > MAX_GPUS) {
        munmap(state, sizeof *state);
        return ERROR_LIB_RM_VERSION_MISMATCH;
    }
    *mapped = state;
    return SUCCESS;
}

void state_unmap(struct state *state)
{
    munmap(state, sizeof *state);
}

int state_lock(struct state *state)
{
    int error = pthread_mutex_lock(&state->mutex);
    /* The holder died. Every update is a handful of stores that leave the struct valid after each of them, so there is
     * nothing to repair; at worst one interval of one GPU's energy is missing. */
    if (error == EOWNERDEAD)
        error = pthread_mutex_consistent(&state->mutex);
    return error == 0 ? SUCCESS : ERROR_UNKNOWN;
}

void state_unlock(struct state *state)
{
    pthread_mutex_unlock(&state->mutex);
}

/* Map and lock; undone by node_close. */
static int node_open(const char *path, struct state **state)
{
    int result = state_map(path, state);
    if (result != SUCCESS)
        return result;
    result = state_lock(*state);
    if (result != SUCCESS)
        state_unmap(*state);
    return result;
}

static int node_close(struct state *state, int result)
{
    state_unlock(state);
    state_unmap(state);
    return result;
}

/* ---- GPUs */

struct gpu *state_find(struct state *state, const char *uuid)
{
    for (uint32_t slot = 0; slot < state->gpu_count; slot++)
        if (strncmp(state->gpus[slot].uuid, uuid, UUID_SIZE) == 0)
            return &state->gpus[slot];
    return NULL;
}

void gpu_settle(const struct state *state, struct gpu *gpu)
{
    int64_t now = now_ns();
    double elapsed_s = (double)(now - gpu->settled_ns) * 1e-9;
    /* The time first: whoever dies between the two loses an interval instead of counting it twice. */
    gpu->settled_ns = now;
    if (elapsed_s > 0)
        gpu->energy_mj += gpu->power_mw * elapsed_s * state->time_scale;
}

unsigned gpu_sm_clock_mhz(const struct gpu *gpu)
{
    if (gpu->context_pid == 0)
        return NO_CONTEXT_CLOCK_MHZ;
    unsigned clock = gpu->lock_max_mhz != 0 ? gpu->lock_max_mhz : MAX_CLOCK_MHZ;
    if ((gpu->faults & (FAULT_POWER_CAP | FAULT_THERMAL)) != 0 && gpu->cap_mhz < clock)
        clock = gpu->cap_mhz;
    return clock;
}

void gpu_set_load(const struct state *state, struct gpu *gpu, unsigned power_mw, unsigned util_percent, unsigned pid)
{
    gpu_settle(state, gpu);
    gpu->power_mw = power_mw != 0 ? power_mw : pid != 0 ? CONTEXT_MW : IDLE_MW;
    gpu->util_percent = util_percent > 100 ? 100 : util_percent;
    gpu->context_pid = pid;
}

/* ---- arranging a node */

static int initialise(struct state *state, const char *uuid_prefix, unsigned gpus, double time_scale)
{
    pthread_mutexattr_t shared;
    pthread_mutexattr_init(&shared);
    pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST);
    int error = pthread_mutex_init(&state->mutex, &shared);
    pthread_mutexattr_destroy(&shared);
    if (error != 0)
        return ERROR_OPERATING_SYSTEM;
    state->magic = STATE_MAGIC;
    state->version = STATE_VERSION;
    state->size = sizeof *state;
    state->gpu_count = gpus;
    state->driver_loads = 1;
    state->time_scale = time_scale;
    for (unsigned slot = 0; slot < gpus; slot++) {
        struct gpu *gpu = &state->gpus[slot];
        snprintf(gpu->uuid, sizeof gpu->uuid, "%s%x", uuid_prefix, slot);
        gpu->index = slot;
        gpu->power_mw = IDLE_MW;
        gpu->settled_ns = now_ns();
    }
    return SUCCESS;
}

/* Make (or replace) a state file with idle GPUs, whose UUIDs are the prefix and one hexadecimal digit. Processes that
 * have the file open see the old node or, once they initialise again, the new one; never half of it. */
EXPORT int dynamollmStandinCreate(const char *path, const char *uuid_prefix, unsigned gpus, double time_scale)
{
    char temporary[PATH_MAX];
    if (path == NULL || uuid_prefix == NULL || strlen(uuid_prefix) + 2 > UUID_SIZE || gpus > MAX_GPUS || !(time_scale > 0))
        return ERROR_INVALID_ARGUMENT;
    if (snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid()) >= (int)sizeof temporary)
        return ERROR_INVALID_ARGUMENT;
    int file = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0)
        return ERROR_OPERATING_SYSTEM;
    int result = ERROR_OPERATING_SYSTEM;
    /* posix_fallocate, not ftruncate: on a full disk a sparse page would end its writer by SIGBUS. */
    if (posix_fallocate(file, 0, sizeof(struct state)) == 0) {
        struct state *state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (state != MAP_FAILED) {
            result = initialise(state, uuid_prefix, gpus, time_scale);
            munmap(state, sizeof *state);
        }
    }
    close(file);
    if (result == SUCCESS && rename(temporary, path) != 0)
        result = ERROR_OPERATING_SYSTEM;
    if (result != SUCCESS)
        unlink(temporary);
    return result;
}

/* What the end of a GPU's processes leaves behind: no context, idle watts. Locked clocks stay, as they do in a driver. */
EXPORT int dynamollmStandinRelease(const char *path, const char *uuid)
{
    struct state *state;
    int result = node_open(path, &state);
    if (result != SUCCESS)
        return result;
    struct gpu *gpu = state_find(state, uuid);
    if (gpu == NULL)
        return node_close(state, ERROR_NOT_FOUND);
    gpu_set_load(state, gpu, 0, 0, 0);
    return node_close(state, SUCCESS);
}

/* Switch a fault of a GPU on or off, by name; mhz is the clock that power-cap and thermal hold the GPU at. */
EXPORT int dynamollmStandinSetFault(const char *path, const char *uuid, const char *name, int on, unsigned mhz)
{
    struct state *state;
    uint32_t bit = 0;
    for (size_t i = 0; i < FAULT_COUNT; i++)
        if (strcmp(FAULTS[i].name, name) == 0)
            bit = FAULTS[i].bit;
    if (bit == 0)
        return ERROR_INVALID_ARGUMENT;
    int result = node_open(path, &state);
    if (result != SUCCESS)
        return result;
    struct gpu *gpu = state_find(state, uuid);
    if (gpu == NULL)
        return node_close(state, ERROR_NOT_FOUND);
    gpu->faults = on ? gpu->faults | bit : gpu->faults & ~bit;
    if (on && (bit == FAULT_POWER_CAP || bit == FAULT_THERMAL))
        gpu->cap_mhz = mhz;
    return node_close(state, SUCCESS);
}

/* The driver is unloaded and loaded again: locks and energy counters are gone, clients must initialise anew. */
EXPORT int dynamollmStandinReloadDriver(const char *path)
{
    struct state *state;
    int result = node_open(path, &state);
    if (result != SUCCESS)
        return result;
    for (uint32_t slot = 0; slot < state->gpu_count; slot++) {
        struct gpu *gpu = &state->gpus[slot];
        gpu_settle(state, gpu);
        gpu->energy_mj = 0;
        gpu->lock_min_mhz = gpu->lock_max_mhz = 0;
    }
    state->driver_loads++;
    return node_close(state, SUCCESS);
}

/* Rotate the enumeration: the GPU that was index i is index i+1 now, and the last one is 0. */
EXPORT int dynamollmStandinReenumerate(const char *path)
{
    struct state *state;
    int result = node_open(path, &state);
    if (result != SUCCESS)
        return result;
    for (uint32_t slot = 0; slot < state->gpu_count; slot++)
        state->gpus[slot].index = (state->gpus[slot].index + 1) % state->gpu_count;
    return node_close(state, SUCCESS);
}

struct text {
    char *start;
    size_t size, length;
};

__attribute__((format(printf, 2, 3))) static void append(struct text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = text->length < text->size ? text->size - text->length : 0;
    int written = vsnprintf(room > 0 ? text->start + text->length : NULL, room, format, arguments);
    va_end(arguments);
    if (written > 0)
        text->length += (size_t)written;
}

/* Write the whole state as JSON into a buffer; INSUFFICIENT_SIZE when it does not fit. */
EXPORT int dynamollmStandinDescribe(const char *path, char *buffer, size_t size)
{
    struct state *state;
    struct text text = {buffer, size, 0};
    int result = node_open(path, &state);
    if (result != SUCCESS)
        return result;
    append(&text, "{\"time_scale\":%.17g,\"driver_loads\":%u,\"gpus\":[", state->time_scale, state->driver_loads);
    for (uint32_t slot = 0; slot < state->gpu_count; slot++) {
        struct gpu *gpu = &state->gpus[slot];
        gpu_settle(state, gpu);
        append(&text,
               "%s{\"uuid\":\"%s\",\"index\":%u,\"power_mw\":%u,\"util_percent\":%u,\"context_pid\":%u,\"sm_clock_mhz\":%u,"
               "\"lock_min_mhz\":%u,\"lock_max_mhz\":%u,\"lock_writes\":%u,\"energy_mj\":%.3f,\"cap_mhz\":%u,\"faults\":[",
               slot > 0 ? "," : "", gpu->uuid, gpu->index, gpu->power_mw, gpu->util_percent, gpu->context_pid,
               gpu_sm_clock_mhz(gpu), gpu->lock_min_mhz, gpu->lock_max_mhz, gpu->lock_writes, gpu->energy_mj, gpu->cap_mhz);
        const char *separator = "";
        for (size_t i = 0; i < FAULT_COUNT; i++)
            if ((gpu->faults & FAULTS[i].bit) != 0) {
                append(&text, "%s\"%s\"", separator, FAULTS[i].name);
                separator = ",";
            }
        append(&text, "]}");
    }
    append(&text, "]}");
    return node_close(state, text.length < size ? SUCCESS : ERROR_INSUFFICIENT_SIZE);
}
