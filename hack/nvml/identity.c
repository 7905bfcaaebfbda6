/* Finding GPUs and what they are: handles, names, addresses, memory, processes, MIG mode. */
#define _GNU_SOURCE
#include "client.h"

#include <stdio.h>
#include <string.h>

#define MEMORY_BYTES (81559ULL << 20)
#define MEMORY_IDLE_BYTES (600ULL << 20)
#define MEMORY_CONTEXT_BYTES (73000ULL << 20) /* an engine takes 90 % of the memory for weights and KV cache */

typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;
typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;
typedef struct {
    unsigned pid;
    unsigned long long usedGpuMemory;
    unsigned gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;

/* ---- finding GPUs */

static unsigned visible_count(void)
{
    unsigned count = 0;
    for (unsigned slot = 0; slot < client.state->gpu_count; slot++)
        count += client.visible[slot];
    return count;
}

/* Position of a GPU among those that this process sees. */
static unsigned local_index(unsigned slot)
{
    unsigned index = 0;
    for (unsigned other = 0; other < client.state->gpu_count; other++)
        index += client.visible[other] && client.state->gpus[other].index < client.state->gpus[slot].index;
    return index;
}

static unsigned bus_number(unsigned slot)
{
    return 0x10 + 8 * slot;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *count)
{
    int result = enter(count != NULL);
    if (result != SUCCESS)
        return result;
    *count = visible_count();
    return leave(SUCCESS);
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    int result = enter(device != NULL);
    if (result != SUCCESS)
        return result;
    for (unsigned slot = 0; slot < client.state->gpu_count; slot++)
        if (client.visible[slot] && local_index(slot) == index) {
            *device = &client.handles[slot];
            return leave(fault(&client.state->gpus[slot]));
        }
    return leave(ERROR_INVALID_ARGUMENT);
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    int result = enter(uuid != NULL && device != NULL);
    if (result != SUCCESS)
        return result;
    struct gpu *gpu = state_find(client.state, uuid);
    if (gpu == NULL || !client.visible[gpu - client.state->gpus])
        return leave(ERROR_NOT_FOUND);
    *device = &client.handles[gpu - client.state->gpus];
    return leave(fault(gpu));
}

EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    int result = enter(bus_id != NULL && device != NULL);
    if (result != SUCCESS)
        return result;
    unsigned domain, bus, number, function;
    if (sscanf(bus_id, "%x:%x:%x.%x", &domain, &bus, &number, &function) != 4)
        return leave(ERROR_INVALID_ARGUMENT);
    for (unsigned slot = 0; slot < client.state->gpu_count; slot++)
        if (client.visible[slot] && domain == 0 && number == 0 && function == 0 && bus == bus_number(slot)) {
            *device = &client.handles[slot];
            return leave(fault(&client.state->gpus[slot]));
        }
    return leave(ERROR_NOT_FOUND);
}

/* ---- what a GPU is */

EXPORT int nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned size)
{
    struct gpu *gpu;
    int result = enter_gpu(device, name != NULL, &gpu);
    return result == SUCCESS ? leave(put(name, size, "NVIDIA H100 80GB HBM3")) : result;
}

EXPORT int nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned size)
{
    struct gpu *gpu;
    int result = enter_gpu(device, uuid != NULL, &gpu);
    return result == SUCCESS ? leave(put(uuid, size, gpu->uuid)) : result;
}

EXPORT int nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    struct gpu *gpu;
    int result = enter_gpu(device, pci != NULL, &gpu);
    if (result != SUCCESS)
        return result;
    *pci = (nvmlPciInfo_t){.bus = bus_number(device->slot), .pciDeviceId = 0x233010de, .pciSubSystemId = 0x16c110de};
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", pci->bus & 0xffu);
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", pci->bus & 0xffu);
    return leave(SUCCESS);
}

EXPORT int nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    struct gpu *gpu;
    int result = enter_gpu(device, memory != NULL, &gpu);
    if (result != SUCCESS)
        return result;
    unsigned long long used = gpu->context_pid != 0 ? MEMORY_CONTEXT_BYTES : MEMORY_IDLE_BYTES;
    *memory = (nvmlMemory_t){.total = MEMORY_BYTES, .free = MEMORY_BYTES - used, .used = used};
    return leave(SUCCESS);
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    nvmlMemory_t plain;
    if (memory != NULL && memory->version != VERSION_OF(nvmlMemory_v2_t, 2u))
        return ERROR_ARGUMENT_VERSION_MISMATCH;
    int result = nvmlDeviceGetMemoryInfo(device, memory != NULL ? &plain : NULL);
    if (result != SUCCESS)
        return result;
    memory->total = plain.total;
    memory->reserved = MEMORY_IDLE_BYTES;
    memory->free = plain.free;
    memory->used = plain.used - MEMORY_IDLE_BYTES;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *processes)
{
    struct gpu *gpu;
    int result = enter_gpu(device, count != NULL, &gpu);
    if (result != SUCCESS)
        return result;
    unsigned room = processes != NULL ? *count : 0;
    *count = gpu->context_pid != 0;
    if (*count > room)
        return leave(ERROR_INSUFFICIENT_SIZE);
    if (*count == 1)
        processes[0] = (nvmlProcessInfo_t){gpu->context_pid, MEMORY_CONTEXT_BYTES, ~0u, ~0u};
    return leave(SUCCESS);
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *processes)
{
    return nvmlDeviceGetComputeRunningProcesses_v3(device, count, processes);
}

EXPORT int nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    struct gpu *gpu;
    int result = enter_gpu(device, current != NULL && pending != NULL, &gpu);
    if (result != SUCCESS)
        return result;
    *current = *pending = (gpu->faults & FAULT_MIG) != 0;
    return leave(SUCCESS);
}

UNSIGNED_GETTER(nvmlDeviceGetIndex, local_index(device->slot))
UNSIGNED_GETTER(nvmlDeviceGetMinorNumber, device->slot)
UNSIGNED_GETTER(nvmlDeviceGetPersistenceMode, 1)
UNSIGNED_GETTER(nvmlDeviceIsMigDeviceHandle, 0)
