/* What this process may use of this machine: instruction sets, and how many processors. */
#if defined(__linux__)
#define _GNU_SOURCE
#include <sched.h>
#endif

#include "internal.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

/* Which register states the operating system saves: without its consent the instructions trap although the processor has them. */
static uint64_t saved_states(void) {
    uint32_t eax, edx;
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return (uint64_t)edx << 32 | eax;
}

/* Tiles are large, so Linux wants to be asked, once per process and in vain where some signal stack is too small for them. */
static bool may_use_tiles(void) {
#if defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

bool puna_cpu_has(int32_t isa) {
    if (isa == PUNA_ISA_REFERENCE || isa == PUNA_ISA_BASELINE) return true;
    uint32_t a, b, c, d;
    const uint32_t leaf1 = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & leaf1) != leaf1) return false;
    const uint64_t states = saved_states(), ymm = 0x6, zmm = 0xe6, tiles = 0x60000;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const uint32_t avx512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    const uint32_t amx = 1u << 22 | 1u << 24 | 1u << 25; /* AMX-BF16, AMX-TILE, AMX-INT8; AVX512-BF16 is always there */
    switch (isa) {
    case PUNA_ISA_AVX2: return (states & ymm) == ymm && (b & bit_AVX2) != 0;
    case PUNA_ISA_AVX512: return (states & zmm) == zmm && (b & bit_AVX2) != 0 && (b & avx512) == avx512 &&
                                 (c & bit_AVX512VNNI) != 0;
    case PUNA_ISA_AMX: return puna_cpu_has(PUNA_ISA_AVX512) && (states & tiles) == tiles && (d & amx) == amx && may_use_tiles();
    default: return false;
    }
}

bool puna_cpu_has_bf16(int32_t isa) {
    uint32_t a, b, c, d;
    const uint32_t avx512_bf16 = 1u << 5;
    return (isa == PUNA_ISA_AVX512 || isa == PUNA_ISA_AMX) && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & avx512_bf16) != 0;
}
#else
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

static bool has_dot_products(void) {
    const unsigned long asimddp = 1ul << 20; /* HWCAP_ASIMDDP, which old headers lack                                 */
    return (getauxval(AT_HWCAP) & asimddp) != 0;
}
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>

static bool has_dot_products(void) {
    int there = 0;
    size_t bytes = sizeof there;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &there, &bytes, NULL, 0) == 0 && there != 0;
}
#else
static bool has_dot_products(void) { return false; }
#endif

bool puna_cpu_has(int32_t isa) {
    return isa == PUNA_ISA_REFERENCE || isa == PUNA_ISA_BASELINE || (isa == PUNA_ISA_DOTPROD && has_dot_products());
}

bool puna_cpu_has_bf16(int32_t isa) { return (void)isa, false; }
#endif

#if defined(__linux__)

static int32_t processors_allowed(void) {
    /* The kernel refuses a mask smaller than its own, so try larger ones. */
    for (int bits = 1024; bits <= 1 << 20; bits *= 4) {
        cpu_set_t *set = CPU_ALLOC(bits);
        if (set == NULL) break;
        size_t bytes = CPU_ALLOC_SIZE(bits);
        int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (count > 0) return count;
    }
    return (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Processors' worth of time that the group at directory grants: cpu.max "quota period" (v2) or a file for each (v1). */
static double group_processors(const char *directory, bool v2) {
    char path[PATH_MAX + 32];
    double quota = 0, period = 0;
    FILE *file;
    if (v2) {
        snprintf(path, sizeof path, "%s/cpu.max", directory);
        if ((file = fopen(path, "re")) == NULL) return 0;
        if (fscanf(file, "%lf %lf", &quota, &period) != 2) quota = 0; /* "max": no limit */
        fclose(file);
    } else {
        snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", directory);
        if ((file = fopen(path, "re")) == NULL) return 0;
        if (fscanf(file, "%lf", &quota) != 1) quota = 0; /* -1: no limit */
        fclose(file);
        snprintf(path, sizeof path, "%s/cpu.cfs_period_us", directory);
        if ((file = fopen(path, "re")) == NULL) return 0;
        if (fscanf(file, "%lf", &period) != 1) period = 0;
        fclose(file);
    }
    return quota > 0 && period > 0 ? quota / period : 0;
}

/* The tightest limit among the process's group and its ancestors, rounded up; 0 when there is none. */
static int32_t processors_granted(void) {
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL) return 0;
    double granted = 0;
    char line[PATH_MAX];
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        /* hierarchy:controllers:path, v2 with no controllers */
        char *controllers = strchr(line, ':');
        char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL) continue;
        *path++ = '\0';
        controllers++;
        bool v2 = *controllers == '\0', v1 = false;
        for (char *state = NULL, *name = strtok_r(controllers, ",", &state); name != NULL; name = strtok_r(NULL, ",", &state))
            v1 |= strcmp(name, "cpu") == 0;
        if (!v1 && !v2) continue;
        for (;;) {
            char directory[PATH_MAX];
            if (snprintf(directory, sizeof directory, "/sys/fs/cgroup%s%s", v2 ? "" : "/cpu", path) < (int)sizeof directory) {
                double processors = group_processors(directory, v2);
                if (processors > 0 && (granted == 0 || processors < granted)) granted = processors;
            }
            char *slash = strrchr(path, '/');
            if (slash == NULL) break;
            *slash = '\0';
        }
    }
    fclose(file);
    if (granted == 0 || granted > 1 << 20) return 0;
    int32_t whole = (int32_t)granted;
    return granted > whole ? whole + 1 : whole;
}

#else
static int32_t processors_allowed(void) { return (int32_t)sysconf(_SC_NPROCESSORS_ONLN); }
static int32_t processors_granted(void) { return 0; }
#endif

int32_t puna_cpu_count(void) {
    int64_t count = processors_allowed(), granted = processors_granted();
    if (granted > 0) count = puna_min(count, granted);
    return (int32_t)puna_max(1, puna_min(count, PUNA_MAX_THREADS));
}
