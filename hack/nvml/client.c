/* Initialisation, visibility and the calls about the system: the process's side of the stand-in for libnvidia-ml.so.1.
 *
 * The environment is read at nvmlInit: DYNAMOLLM_NVML_STATE names the state file, NVIDIA_VISIBLE_DEVICES the GPUs that
 * this process sees, as in a container that NVIDIA's toolkit made ("all" or unset: all of them). */
#define _GNU_SOURCE
#include "client.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DRIVER_VERSION "580.95.05"

struct client client = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* ---- initialisation and visibility */

static bool listed(const char *list, const char *uuid)
{
    size_t length = strlen(uuid);
    for (const char *entry = list; entry != NULL; entry = strchr(entry, ',')) {
        entry += *entry == ',';
        if (strncmp(entry, uuid, length) == 0 && (entry[length] == ',' || entry[length] == '\0'))
            return true;
    }
    return false;
}

/* Map the file of the environment. Expects client.mutex. */
static int attach(void)
{
    struct state *state;
    int result = state_map(getenv("DYNAMOLLM_NVML_STATE"), &state);
    if (result != SUCCESS)
        return result;
    if (client.state != NULL)
        state_unmap(client.state);
    client.state = state;
    const char *list = getenv("NVIDIA_VISIBLE_DEVICES");
    for (unsigned slot = 0; slot < MAX_GPUS; slot++) {
        client.handles[slot].slot = slot;
        client.visible[slot] = slot < state->gpu_count &&
                               (list == NULL || strcmp(list, "all") == 0 || listed(list, state->gpus[slot].uuid));
    }
    return SUCCESS;
}

EXPORT int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&client.mutex);
    int result = client.users == 0 ? attach() : SUCCESS;
    if (result == SUCCESS) {
        client.users++;
        client.driver_loads = client.state->driver_loads;
    }
    pthread_mutex_unlock(&client.mutex);
    return result;
}

EXPORT int nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

EXPORT int nvmlShutdown(void)
{
    pthread_mutex_lock(&client.mutex);
    int result = client.users > 0 ? SUCCESS : ERROR_UNINITIALIZED;
    if (result == SUCCESS)
        client.users--;
    pthread_mutex_unlock(&client.mutex);
    return result;
}

int enter(bool arguments)
{
    if (client.users == 0 || client.driver_loads != client.state->driver_loads)
        return ERROR_UNINITIALIZED;
    return arguments ? state_lock(client.state) : ERROR_INVALID_ARGUMENT;
}

int leave(int result)
{
    state_unlock(client.state);
    return result;
}

int fault(const struct gpu *gpu)
{
    if ((gpu->faults & FAULT_LOST) != 0)
        return ERROR_GPU_IS_LOST;
    return (gpu->faults & FAULT_UNKNOWN_ERROR) != 0 ? ERROR_UNKNOWN : SUCCESS;
}

int enter_gpu(nvmlDevice_t device, bool arguments, struct gpu **gpu)
{
    int result = enter(arguments);
    if (result != SUCCESS)
        return result;
    if (device < client.handles || device >= client.handles + MAX_GPUS || !client.visible[device->slot])
        return leave(ERROR_INVALID_ARGUMENT);
    *gpu = &client.state->gpus[device->slot];
    result = fault(*gpu);
    return result == SUCCESS ? SUCCESS : leave(result);
}

int put(char *to, unsigned size, const char *text)
{
    if (strlen(text) >= size)
        return ERROR_INSUFFICIENT_SIZE;
    strcpy(to, text);
    return SUCCESS;
}

/* ---- the system */

EXPORT const char *nvmlErrorString(int result)
{
    switch (result) {
    case SUCCESS: return "Success";
    case ERROR_UNINITIALIZED: return "Uninitialized";
    case ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case ERROR_NOT_SUPPORTED: return "Not Supported";
    case ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case ERROR_NOT_FOUND: return "Not Found";
    case ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case ERROR_GPU_IS_LOST: return "GPU is lost";
    case ERROR_OPERATING_SYSTEM: return "The operating system has blocked the request.";
    case ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
    default: return "Unknown Error";
    }
}

EXPORT int nvmlSystemGetDriverVersion(char *version, unsigned size)
{
    int result = enter(version != NULL);
    return result == SUCCESS ? leave(put(version, size, DRIVER_VERSION)) : result;
}

EXPORT int nvmlSystemGetNVMLVersion(char *version, unsigned size)
{
    return version != NULL ? put(version, size, "13." DRIVER_VERSION) : ERROR_INVALID_ARGUMENT;
}

/* ---- the simulated engine's side */

/* What the work on a GPU draws from now on. `power_mw` 0: what a GPU draws at rest, with or without a context. */
EXPORT int dynamollmStandinSetLoad(const char *uuid, unsigned power_mw, unsigned util_percent, int context_loaded)
{
    if (uuid == NULL)
        return ERROR_INVALID_ARGUMENT;
    pthread_mutex_lock(&client.mutex);
    int result = client.state == NULL ? attach() : SUCCESS;
    if (result == SUCCESS)
        result = state_lock(client.state);
    if (result == SUCCESS) {
        struct gpu *gpu = state_find(client.state, uuid);
        if (gpu == NULL || !client.visible[gpu - client.state->gpus])
            result = ERROR_NOT_FOUND;
        else
            gpu_set_load(client.state, gpu, power_mw, util_percent, context_loaded ? (unsigned)getpid() : 0);
        state_unlock(client.state);
    }
    pthread_mutex_unlock(&client.mutex);
    return result;
}
