/* What a GPU does and how it is clocked: power, energy, utilisation, temperature, SM clock, locked clocks. */
#define _GNU_SOURCE
#include "client.h"

enum { CLOCK_GRAPHICS = 0, CLOCK_SM = 1, CLOCK_MEM = 2, CLOCK_ID_CURRENT = 0 };
enum { REASON_GPU_IDLE = 0x01, REASON_SW_POWER_CAP = 0x04, REASON_SW_THERMAL = 0x20 };

typedef struct {
    unsigned gpu, memory;
} nvmlUtilization_t;
typedef struct {
    unsigned version, sensorType;
    int temperature;
} nvmlTemperature_t;

UNSIGNED_GETTER(nvmlDeviceGetPowerUsage, gpu->power_mw)
UNSIGNED_GETTER(nvmlDeviceGetPowerManagementLimit, POWER_LIMIT_MW)
UNSIGNED_GETTER(nvmlDeviceGetPowerManagementDefaultLimit, POWER_LIMIT_MW)
UNSIGNED_GETTER(nvmlDeviceGetEnforcedPowerLimit, POWER_LIMIT_MW)

EXPORT int nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules)
{
    struct gpu *gpu;
    int result = enter_gpu(device, millijoules != NULL, &gpu);
    if (result != SUCCESS)
        return result;
    gpu_settle(client.state, gpu);
    *millijoules = (unsigned long long)gpu->energy_mj;
    return leave(SUCCESS);
}

EXPORT int nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
    struct gpu *gpu;
    int result = enter_gpu(device, utilization != NULL, &gpu);
    if (result != SUCCESS)
        return result;
    *utilization = (nvmlUtilization_t){gpu->util_percent, gpu->util_percent};
    return leave(SUCCESS);
}

/* Degrees Celsius: 32 idle, 72 at the power limit, 88 while thermal is set. */
static unsigned temperature(const struct gpu *gpu)
{
    unsigned above_idle_mw = gpu->power_mw > IDLE_MW ? gpu->power_mw - IDLE_MW : 0;
    return (gpu->faults & FAULT_THERMAL) != 0 ? 88 : 32 + 40 * (above_idle_mw / 1000) / ((POWER_LIMIT_MW - IDLE_MW) / 1000);
}

EXPORT int nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor, unsigned *celsius)
{
    struct gpu *gpu;
    int result = enter_gpu(device, celsius != NULL && sensor == 0, &gpu);
    if (result != SUCCESS)
        return result;
    *celsius = temperature(gpu);
    return leave(SUCCESS);
}

EXPORT int nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *reading)
{
    unsigned celsius;
    if (reading != NULL && reading->version != VERSION_OF(nvmlTemperature_t, 1u))
        return ERROR_ARGUMENT_VERSION_MISMATCH;
    int result = nvmlDeviceGetTemperature(device, reading != NULL ? reading->sensorType : ~0u, &celsius);
    if (result == SUCCESS)
        reading->temperature = (int)celsius;
    return result;
}

/* ---- clocks */

static int clock_of(unsigned type, unsigned sm_mhz, unsigned *mhz)
{
    if (type != CLOCK_GRAPHICS && type != CLOCK_SM && type != CLOCK_MEM)
        return ERROR_NOT_SUPPORTED;
    *mhz = type == CLOCK_MEM ? MEMORY_CLOCK_MHZ : sm_mhz;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned type, unsigned *mhz)
{
    struct gpu *gpu;
    int result = enter_gpu(device, mhz != NULL, &gpu);
    return result == SUCCESS ? leave(clock_of(type, gpu_sm_clock_mhz(gpu), mhz)) : result;
}

EXPORT int nvmlDeviceGetClock(nvmlDevice_t device, unsigned type, unsigned id, unsigned *mhz)
{
    /* The other ids are application clocks, which the driver has deprecated. */
    return id == CLOCK_ID_CURRENT ? nvmlDeviceGetClockInfo(device, type, mhz) : ERROR_NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned type, unsigned *mhz)
{
    struct gpu *gpu;
    int result = enter_gpu(device, mhz != NULL, &gpu);
    return result == SUCCESS ? leave(clock_of(type, MAX_CLOCK_MHZ, mhz)) : result;
}

/* Answer a list in NVML's way: the count always, the values where there is room. */
static int put_list(unsigned *count, unsigned *values, unsigned first, unsigned step, unsigned length)
{
    unsigned room = values != NULL ? *count : 0;
    *count = length;
    if (room < length)
        return ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < length; i++)
        values[i] = first - step * i;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetSupportedMemoryClocks(nvmlDevice_t device, unsigned *count, unsigned *clocks_mhz)
{
    struct gpu *gpu;
    int result = enter_gpu(device, count != NULL, &gpu);
    return result == SUCCESS ? leave(put_list(count, clocks_mhz, MEMORY_CLOCK_MHZ, 0, 1)) : result;
}

EXPORT int nvmlDeviceGetSupportedGraphicsClocks(nvmlDevice_t device, unsigned memory_mhz, unsigned *count, unsigned *clocks_mhz)
{
    struct gpu *gpu;
    int result = enter_gpu(device, count != NULL, &gpu);
    if (result != SUCCESS)
        return result;
    if (memory_mhz != MEMORY_CLOCK_MHZ)
        return leave(ERROR_NOT_FOUND);
    return leave(put_list(count, clocks_mhz, MAX_CLOCK_MHZ, CLOCK_STEP_MHZ, (MAX_CLOCK_MHZ - MIN_CLOCK_MHZ) / CLOCK_STEP_MHZ + 1));
}

static unsigned snap(unsigned mhz)
{
    if (mhz <= MIN_CLOCK_MHZ)
        return MIN_CLOCK_MHZ;
    if (mhz >= MAX_CLOCK_MHZ)
        return MAX_CLOCK_MHZ;
    return MIN_CLOCK_MHZ + (mhz - MIN_CLOCK_MHZ + CLOCK_STEP_MHZ / 2) / CLOCK_STEP_MHZ * CLOCK_STEP_MHZ;
}

static int set_lock(nvmlDevice_t device, bool arguments, unsigned min_mhz, unsigned max_mhz)
{
    struct gpu *gpu;
    int result = enter_gpu(device, arguments, &gpu);
    if (result != SUCCESS)
        return result;
    if ((gpu->faults & FAULT_NO_PERMISSION) != 0)
        return leave(ERROR_NO_PERMISSION);
    gpu->lock_min_mhz = min_mhz;
    gpu->lock_max_mhz = max_mhz;
    gpu->lock_writes++;
    return leave(SUCCESS);
}

EXPORT int nvmlDeviceSetGpuLockedClocks(nvmlDevice_t device, unsigned min_mhz, unsigned max_mhz)
{
    return set_lock(device, min_mhz <= max_mhz, snap(min_mhz), snap(max_mhz));
}

EXPORT int nvmlDeviceResetGpuLockedClocks(nvmlDevice_t device)
{
    return set_lock(device, true, 0, 0);
}

EXPORT int nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons)
{
    struct gpu *gpu;
    int result = enter_gpu(device, reasons != NULL, &gpu);
    if (result != SUCCESS)
        return result;
    *reasons = gpu->context_pid == 0 ? REASON_GPU_IDLE : 0;
    if ((gpu->faults & FAULT_POWER_CAP) != 0)
        *reasons |= REASON_SW_POWER_CAP;
    if ((gpu->faults & FAULT_THERMAL) != 0)
        *reasons |= REASON_SW_THERMAL;
    return leave(SUCCESS);
}

EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons)
{
    return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}
