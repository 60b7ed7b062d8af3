/* A stand-in libnvidia-ml.so.1: enough of NVML's ABI for the real nvidia-ml-py to talk to a machine that is not there.
 *
 * Which machine, and what is wrong with it, comes from STANDIN_NVML: settings `key=value`, separated by `;`. A key
 * that starts with `gpu<index>.` is about that GPU only.
 *   machine=8xH200            T4, A100-40, A100-80, H100, H200, H200-PCIE; default none
 *   driver=550.90.07  cuda=12040  nvml=12.550.90.07
 *   init=18                   nvmlInit answers this error
 *   init_delay_ms=1500        nvmlInit takes this long
 *   hang=nvmlDeviceGetName    this function never returns
 *   fail.nvmlDeviceGetName=3  this function answers that error (gpu2.fail.… for one GPU)
 *   gpu3.lost=1               no handle: error 15;  gpu3.lost=late: every call but the handle's answers 15
 *   memory_used_mib, process=PID:MIB[,PID:MIB], graphics=PID:MIB, compute_mode, persistence, mig=current:pending,
 *   mig_devices, ecc_volatile, ecc_life, ecc_corrected, remap=corrected:uncorrected:pending:failed, throttle (bit mask),
 *   recovery, nvlinks, nvlinks_up, fabric=state:status:clique:first-uuid-byte, pcie_width, pcie_generation,
 *   utilization, power_w, temperature, minor
 * Layouts follow nvml.h; only what nvidia-ml-py hands over is written.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };

typedef struct {
    const char *name, *label;
    int cc_major, cc_minor, architecture;
    unsigned long long memory_mib;
    int ecc, mig, nvlinks, fabric, power_w, pcie_generation;
} model_t;

static const model_t MODELS[] = {
    {"T4", "Tesla T4", 7, 5, 6, 15360, 1, 0, 0, 0, 70, 3},
    {"A100-40", "NVIDIA A100-SXM4-40GB", 8, 0, 7, 40960, 1, 1, 12, 0, 400, 4},
    {"A100-80", "NVIDIA A100-SXM4-80GB", 8, 0, 7, 81920, 1, 1, 12, 0, 400, 4},
    {"H100", "NVIDIA H100 80GB HBM3", 9, 0, 9, 81559, 1, 1, 18, 1, 700, 5},
    {"H200", "NVIDIA H200", 9, 0, 9, 143771, 1, 1, 18, 1, 700, 5},
    {"H200-PCIE", "NVIDIA H200 NVL", 9, 0, 9, 143771, 1, 1, 0, 0, 600, 5},
};

typedef struct { int index, mig; } device_t;
#define MAX_GPUS 64
#define MAX_MIG 7
static device_t gpus[MAX_GPUS], migs[MAX_GPUS][MAX_MIG];
static int count;
static const model_t *model;

/* The value of `key`, for GPU `gpu` first where that is not negative; NULL where nothing is set. */
static const char *setting(int gpu, const char *key) {
    static char value[4][256];
    static int turn;
    const char *text = getenv("STANDIN_NVML");
    char names[2][160];
    snprintf(names[0], sizeof names[0], "gpu%d.%s", gpu, key);
    snprintf(names[1], sizeof names[1], "%s", key);
    for (int which = gpu < 0; text != NULL && which < 2; which++) {
        size_t length = strlen(names[which]);
        for (const char *at = text; at != NULL; at = strchr(at, ';')) {
            at += *at == ';';
            if (strncmp(at, names[which], length) == 0 && at[length] == '=') {
                char *into = value[turn = (turn + 1) % 4];
                snprintf(into, sizeof value[0], "%.*s", (int)strcspn(at + length + 1, ";"), at + length + 1);
                return into;
            }
        }
    }
    return NULL;
}

static long long number(int gpu, const char *key, long long otherwise) {
    const char *value = setting(gpu, key);
    return value == NULL ? otherwise : strtoll(value, NULL, 0);
}

/* Up to `most` numbers separated by colons; how many there were. */
static int numbers(int gpu, const char *key, unsigned *into, int most) {
    const char *value = setting(gpu, key);
    int found = 0;
    for (; value != NULL && found < most; value = strchr(value, ':')) {
        value += *value == ':';
        into[found++] = (unsigned)strtoul(value, NULL, 0);
    }
    return found;
}

/* What every function does first: hang, fail or go on. */
static int enter(const char *function, const device_t *device) {
    char key[128];
    const char *hang = setting(-1, "hang");
    if (hang != NULL && strcmp(hang, function) == 0)
        for (;;) pause();
    int gpu = device == NULL ? -1 : device->index;
    if (device != NULL && setting(gpu, "lost") != NULL) return GPU_IS_LOST;
    snprintf(key, sizeof key, "fail.%s", function);
    return (int)number(gpu, key, OK);
}
#define ENTER(device) do { int error = enter(__func__, device); if (error != OK) return error; } while (0)

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    ENTER(NULL);
    long long delay = number(-1, "init_delay_ms", 0);
    struct timespec pause_for = {delay / 1000, delay % 1000 * 1000000};
    nanosleep(&pause_for, NULL);
    int error = (int)number(-1, "init", OK);
    if (error != OK) return error;
    const char *machine = setting(-1, "machine");
    char kind[64] = "";
    count = 0;
    if (machine != NULL && sscanf(machine, "%dx%63s", &count, kind) == 2)
        for (size_t i = 0; i < sizeof MODELS / sizeof *MODELS; i++)
            if (strcmp(MODELS[i].name, kind) == 0) model = &MODELS[i];
    if (model == NULL || count > MAX_GPUS) count = 0;
    for (int i = 0; i < count; i++) {
        gpus[i] = (device_t){i, -1};
        for (int j = 0; j < MAX_MIG; j++) migs[i][j] = (device_t){i, j};
    }
    return OK;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { ENTER(NULL); return OK; }
const char *nvmlErrorString(int code) { return code == OK ? "Success" : "stand-in error"; }

static int give(const char *text, char *into, unsigned length) {
    if (strlen(text) >= length) return INSUFFICIENT_SIZE;
    strcpy(into, text);
    return OK;
}
int nvmlSystemGetDriverVersion(char *into, unsigned length) {
    ENTER(NULL);
    const char *value = setting(-1, "driver");
    return give(value ? value : "570.124.06", into, length);
}
int nvmlSystemGetNVMLVersion(char *into, unsigned length) {
    ENTER(NULL);
    const char *value = setting(-1, "nvml");
    return give(value ? value : "12.570.124.06", into, length);
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) { ENTER(NULL); *version = (int)number(-1, "cuda", 12080); return OK; }
int nvmlDeviceGetCount_v2(unsigned *into) { ENTER(NULL); *into = (unsigned)count; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t **device) {
    ENTER(NULL);
    if (index >= (unsigned)count) return INVALID_ARGUMENT;
    const char *lost = setting((int)index, "lost");
    if (lost != NULL && strcmp(lost, "late") != 0) return GPU_IS_LOST;
    *device = &gpus[index];
    return OK;
}
int nvmlDeviceGetName(device_t *d, char *into, unsigned length) { ENTER(d); return give(model->label, into, length); }
int nvmlDeviceGetUUID(device_t *d, char *into, unsigned length) {
    ENTER(d);
    char text[80];
    snprintf(text, sizeof text, "%s-%08x-0000-4000-8000-%012x", d->mig < 0 ? "GPU" : "MIG", 0xa0 + d->index, d->mig + 1);
    return give(text, into, length);
}
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char address[32]; } pci_t;
int nvmlDeviceGetPciInfo_v3(device_t *d, pci_t *pci) {
    ENTER(d);
    memset(pci, 0, sizeof *pci);
    pci->bus = 0x10u + (unsigned)d->index;
    snprintf(pci->legacy, sizeof pci->legacy, "0000:%02X:00.0", pci->bus);
    snprintf(pci->address, sizeof pci->address, "00000000:%02X:00.0", pci->bus);
    return OK;
}
int nvmlDeviceGetMinorNumber(device_t *d, unsigned *into) { ENTER(d); *into = (unsigned)number(d->index, "minor", d->index); return OK; }
int nvmlDeviceGetCudaComputeCapability(device_t *d, int *major, int *minor) {
    ENTER(d);
    *major = model->cc_major;
    *minor = model->cc_minor;
    return OK;
}
int nvmlDeviceGetArchitecture(device_t *d, unsigned *into) { ENTER(d); *into = (unsigned)model->architecture; return OK; }

#define MIB (1ull << 20)
#define RESERVED_MIB 450ull
static unsigned long long used_mib(const device_t *d) { return (unsigned long long)number(d->index, "memory_used_mib", 4); }
typedef struct { unsigned long long total, free, used; } memory_t;
int nvmlDeviceGetMemoryInfo(device_t *d, memory_t *memory) {
    ENTER(d);
    memory->total = model->memory_mib * MIB;
    memory->used = (used_mib(d) + RESERVED_MIB) * MIB;
    memory->free = memory->total - memory->used;
    return OK;
}
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
int nvmlDeviceGetMemoryInfo_v2(device_t *d, memory_v2_t *memory) {
    ENTER(d);
    if (memory->version != (sizeof(memory_v2_t) | 2u << 24)) return 25;
    memory->total = model->memory_mib * MIB;
    memory->reserved = RESERVED_MIB * MIB;
    memory->used = used_mib(d) * MIB;
    memory->free = memory->total - memory->reserved - memory->used;
    return OK;
}
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;
static int processes(const device_t *d, const char *key, unsigned *room, process_t *into) {
    const char *value = setting(d->index, key);
    unsigned found = 0;
    for (; value != NULL && *value != '\0'; value += *value == ',') {
        char *after;
        process_t one = {(unsigned)strtoul(value, &after, 10), 0, ~0u, ~0u};
        one.used = strtoull(after + (*after == ':'), &after, 10) * MIB;
        if (into != NULL && found < *room) into[found] = one;
        found++;
        value = after;
    }
    int fits = into != NULL ? found <= *room : found == 0;
    *room = found;
    return fits ? OK : INSUFFICIENT_SIZE;
}
int nvmlDeviceGetComputeRunningProcesses_v3(device_t *d, unsigned *room, process_t *into) { ENTER(d); return processes(d, "process", room, into); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t *d, unsigned *room, process_t *into) { ENTER(d); return processes(d, "graphics", room, into); }

int nvmlDeviceGetComputeMode(device_t *d, unsigned *into) { ENTER(d); *into = (unsigned)number(d->index, "compute_mode", 0); return OK; }
int nvmlDeviceGetPersistenceMode(device_t *d, unsigned *into) { ENTER(d); *into = (unsigned)number(d->index, "persistence", 1); return OK; }
int nvmlDeviceGetMigMode(device_t *d, unsigned *current, unsigned *pending) {
    ENTER(d);
    unsigned value[2] = {0, 0};
    if (!model->mig) return NOT_SUPPORTED;
    if (numbers(d->index, "mig", value, 2) == 1) value[1] = value[0];
    *current = value[0];
    *pending = value[1];
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(device_t *d, unsigned *into) { ENTER(d); *into = model->mig ? MAX_MIG : 0; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(device_t *d, unsigned slot, device_t **device) {
    ENTER(d);
    if (slot >= (unsigned)number(d->index, "mig_devices", 0)) return NOT_FOUND;
    *device = &migs[d->index][slot];
    return OK;
}
int nvmlDeviceGetEccMode(device_t *d, unsigned *current, unsigned *pending) {
    ENTER(d);
    *current = *pending = (unsigned)number(d->index, "ecc", model->ecc);
    return OK;
}
int nvmlDeviceGetTotalEccErrors(device_t *d, unsigned type, unsigned counter, unsigned long long *into) {
    ENTER(d);
    const char *key = type == 0 ? "ecc_corrected" : counter == 0 ? "ecc_volatile" : "ecc_life";
    *into = (unsigned long long)number(d->index, key, 0);
    return OK;
}
int nvmlDeviceGetRemappedRows(device_t *d, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    ENTER(d);
    if (model->architecture < 7) return NOT_SUPPORTED; /* row remapping came with Ampere */
    unsigned value[4] = {0, 0, 0, 0};
    numbers(d->index, "remap", value, 4);
    *corrected = value[0], *uncorrected = value[1], *pending = value[2], *failed = value[3];
    return OK;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(device_t *d, unsigned long long *into) {
    ENTER(d);
    *into = (unsigned long long)number(d->index, "throttle", 1);
    return OK;
}
typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned type;
    int result;
    union { double d; unsigned u; unsigned long long ull; } value;
} field_t;
int nvmlDeviceGetFieldValues(device_t *d, int many, field_t *fields) {
    ENTER(d);
    for (int i = 0; i < many; i++) {
        fields[i].result = fields[i].field == 230 ? OK : NOT_SUPPORTED;
        fields[i].type = 1;
        fields[i].value.u = (unsigned)number(d->index, "recovery", 0);
    }
    return OK;
}
typedef struct { unsigned gpu, memory; } use_t;
int nvmlDeviceGetUtilizationRates(device_t *d, use_t *use) {
    ENTER(d);
    use->gpu = use->memory = (unsigned)number(d->index, "utilization", 0);
    return OK;
}
int nvmlDeviceGetTemperature(device_t *d, unsigned sensor, unsigned *into) { ENTER(d); (void)sensor; *into = (unsigned)number(d->index, "temperature", 34); return OK; }
int nvmlDeviceGetPowerUsage(device_t *d, unsigned *into) { ENTER(d); *into = (unsigned)number(d->index, "power_w", model->power_w / 10) * 1000; return OK; }
int nvmlDeviceGetEnforcedPowerLimit(device_t *d, unsigned *into) { ENTER(d); *into = (unsigned)model->power_w * 1000; return OK; }
int nvmlDeviceGetNvLinkState(device_t *d, unsigned link, unsigned *active) {
    ENTER(d);
    int links = (int)number(d->index, "nvlinks", model->nvlinks);
    if (links == 0) return NOT_SUPPORTED;
    if (link >= (unsigned)links) return INVALID_ARGUMENT;
    *active = link < (unsigned)number(d->index, "nvlinks_up", links);
    return OK;
}
int nvmlDeviceGetCurrPcieLinkGeneration(device_t *d, unsigned *into) { ENTER(d); *into = (unsigned)number(d->index, "pcie_generation", model->pcie_generation); return OK; }
int nvmlDeviceGetMaxPcieLinkGeneration(device_t *d, unsigned *into) { ENTER(d); *into = (unsigned)model->pcie_generation; return OK; }
int nvmlDeviceGetCurrPcieLinkWidth(device_t *d, unsigned *into) { ENTER(d); *into = (unsigned)number(d->index, "pcie_width", 16); return OK; }
int nvmlDeviceGetMaxPcieLinkWidth(device_t *d, unsigned *into) { ENTER(d); *into = 16; return OK; }

typedef struct { unsigned version; unsigned char cluster[16]; unsigned status, clique; unsigned char state; unsigned health; } fabric_t;
int nvmlDeviceGetGpuFabricInfoV(device_t *d, fabric_t *fabric) {
    ENTER(d);
    if (!model->fabric) return NOT_SUPPORTED;
    unsigned value[4] = {3, 0, 0, 0};
    numbers(d->index, "fabric", value, 4);
    memset(fabric->cluster, 0, sizeof fabric->cluster);
    fabric->state = (unsigned char)value[0];
    fabric->status = value[1];
    fabric->clique = value[2];
    fabric->cluster[0] = (unsigned char)value[3];
    fabric->health = 0;
    return OK;
}
