// A CUDA driver without a card: what a program asks of libcuda.so.1 so that NVRTC compiles its kernels and it starts them.
// Memory is the host's, a kernel that is started does nothing, and at the end a line tells how many were compiled and
// started. The card is what NO_CARD says, such as 70 for a V100; the driver's CUDA version what NO_CARD_CUDA says.
//
// Only what burn-kernels' operations need. Types are the C ones behind NVIDIA's names; numbers are cuda.h's.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int Result; // 0 is success
typedef void *Handle;
typedef unsigned long long Address;

static long modules, launches;

static int number(const char *name, int otherwise) {
    const char *word = getenv(name);
    return word ? atoi(word) : otherwise;
}

static void report(void) { fprintf(stderr, "%ld kernels compiled, %ld started\n", modules, launches); }

Result cuInit(unsigned flags) {
    static int is_known;
    if (is_known) return 0;
    is_known = !atexit(report);
    const char *names[] = {"libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"};
    for (int i = 0; i < 3; i++)
        if (dlopen(names[i], RTLD_LAZY)) return 0;
    fputs("error: there is no libnvrtc.so where the loader looks: name its folder in LD_LIBRARY_PATH\n", stderr);
    _exit(1);
}
Result cuDriverGetVersion(int *version) { *version = number("NO_CARD_CUDA", 12090); return 0; }
// NVRTC 13 asks for tables of functions, and does without.
Result cuGetExportTable(const void **table, const void *id) { *table = NULL; return 500; }
Result cuGetErrorString(Result error, const char **words) { *words = "no card"; return 0; }
Result cuGetErrorName(Result error, const char **words) { *words = "NO_CARD"; return 0; }

Result cuDeviceGetCount(int *count) { *count = 1; return 0; }
Result cuDeviceGet(int *device, int index) { *device = index; return 0; }
Result cuDeviceGetName(char *name, int room, int device) {
    snprintf(name, room, "no card, sm_%d", number("NO_CARD", 70));
    return 0;
}
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)16 << 30; return 0; }
Result cuDeviceGetPCIBusId(char *id, int room, int device) { snprintf(id, room, "0000:00:00.0"); return 0; }
Result cuDeviceGetUuid_v2(void *uuid, int device) { memset(uuid, 1, 16); return 0; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    int card = number("NO_CARD", 70);
    switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break;   // threads of a block, along x, along y
    case 4: *value = 64; break;                     // along z
    case 5: *value = INT32_MAX; break;              // blocks along x
    case 6: case 7: *value = 65535; break;          // along y, z
    case 8: *value = 49152; break;                  // shared memory
    case 10: *value = 32; break;                    // threads of a warp
    case 16: *value = 80; break;                    // processors
    case 75: *value = card / 10; break;             // compute capability
    case 76: *value = card % 10; break;
    case 97: *value = 98304; break;                 // shared memory that a kernel may ask for
    default: *value = 1;
    }
    return 0;
}

Result cuDevicePrimaryCtxRetain(Handle *context, int device) { *context = &modules; return 0; }
Result cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
Result cuCtxSetCurrent(Handle context) { return 0; }
Result cuCtxGetCurrent(Handle *context) { *context = &modules; return 0; }
Result cuCtxSynchronize(void) { return 0; }
Result cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = *greatest = 0; return 0; }
Result cuStreamCreate(Handle *stream, unsigned flags) { *stream = &modules; return 0; }
Result cuStreamCreateWithPriority(Handle *stream, unsigned flags, int priority) { *stream = &modules; return 0; }
Result cuStreamDestroy_v2(Handle stream) { return 0; }
Result cuStreamSynchronize(Handle stream) { return 0; }
Result cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) { return 0; }
Result cuStreamIsCapturing(Handle stream, int *status) { *status = 0; return 0; }
Result cuEventCreate(Handle *event, unsigned flags) { *event = &modules; return 0; }
Result cuEventRecord(Handle event, Handle stream) { return 0; }
Result cuEventSynchronize(Handle event) { return 0; }
Result cuEventQuery(Handle event) { return 0; }
Result cuEventDestroy_v2(Handle event) { return 0; }

Result cuMemAlloc_v2(Address *address, size_t bytes) {
    *address = (Address)(uintptr_t)calloc(bytes ? bytes : 1, 1);
    return *address ? 0 : 2;
}
Result cuMemAllocAsync(Address *address, size_t bytes, Handle stream) { return cuMemAlloc_v2(address, bytes); }
Result cuMemFree_v2(Address address) { free((void *)(uintptr_t)address); return 0; }
Result cuMemFreeAsync(Address address, Handle stream) { return cuMemFree_v2(address); }
Result cuMemAllocHost_v2(void **memory, size_t bytes) { return (*memory = calloc(bytes ? bytes : 1, 1)) ? 0 : 2; }
Result cuMemFreeHost(void *memory) { free(memory); return 0; }
Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, Handle stream) {
    memcpy((void *)(uintptr_t)to, from, bytes);
    return 0;
}
Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, Handle stream) {
    memcpy(to, (void *)(uintptr_t)from, bytes);
    return 0;
}
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Handle stream) {
    memmove((void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes);
    return 0;
}

Result cuModuleLoadData(Handle *module, const void *image) {
    __atomic_fetch_add(&modules, 1, __ATOMIC_RELAXED);
    *module = &modules;
    return 0;
}
Result cuModuleUnload(Handle module) { return 0; }
Result cuModuleGetFunction(Handle *function, Handle module, const char *name) { *function = &modules; return 0; }
Result cuFuncSetAttribute(Handle function, int attribute, int value) { return 0; }
Result cuLaunchKernel(Handle function, unsigned x, unsigned y, unsigned z, unsigned units_x, unsigned units_y,
                      unsigned units_z, unsigned shared, Handle stream, void **arguments, void **extra) {
    __atomic_fetch_add(&launches, 1, __ATOMIC_RELAXED);
    return 0;
}
Result cuLaunchKernelEx(const void *config, Handle function, void **arguments, void **extra) {
    __atomic_fetch_add(&launches, 1, __ATOMIC_RELAXED);
    return 0;
}
