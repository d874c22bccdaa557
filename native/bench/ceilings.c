/*
 * The ceilings: reading and copying memory, and multiplying and adding in registers with each instruction set. Every one is the
 * best of a few passes, on the threads of the context that will be measured against it.
 */
#include "bench.h"

#include <time.h>

double bench_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ------------------------------------------------- memory ------------------------------------------------------------- */

/* A share is read as four streams: one alone does not keep enough lines under way. */
enum { SHARE = 4 << 20, STREAMS = 4, STREAM = SHARE / STREAMS, AHEAD = 1024 };

typedef uint64_t vector __attribute__((vector_size(16)));
enum { LINE = 64, VECTORS = LINE / sizeof(vector) };

typedef struct memory {
    char *data;
    int64_t half; /* bytes between what a copy reads and what it writes */
} memory;

static volatile uint64_t sink;

static void read_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const char *p = ((memory *)arguments)->data + share * SHARE;
    vector sums[VECTORS] = {{0}};
    for (int64_t i = 0; i < STREAM; i += LINE)
        for (int s = 0; s < STREAMS; s++) {
            const vector *line = (const vector *)(p + s * STREAM + i);
            __builtin_prefetch((const char *)line + AHEAD);
            for (int v = 0; v < (int)VECTORS; v++) sums[v] ^= line[v];
        }
    vector all = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
    sink = all[0] ^ all[1];
}

static void copy_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const memory *m = arguments;
    const char *p = m->data + share * SHARE;
    char *q = m->data + m->half + share * SHARE;
    for (int64_t i = 0; i < STREAM; i += LINE)
        for (int s = 0; s < STREAMS; s++) memcpy(q + s * STREAM + i, p + s * STREAM + i, LINE);
}

/* ------------------------------------------------- registers ---------------------------------------------------------- */

enum { ROUNDS = 1 << 13, SHARES = 64, CHAINS = 10 };

/* Each kind steps CHAINS chains of one vector, enough of them to hide the latency, ROUNDS times. */
typedef struct rounds {
    void (*run)(void);
    int32_t operations; /* that one step of one chain counts                                                        */
} rounds;

static void rounds_share(void *arguments, int64_t share, int32_t thread) {
    (void)share, (void)thread;
    ((const rounds *)arguments)->run();
}

/*
 * Nothing may be folded or hoisted: KEEP tells the compiler that a value, held in a register, is not what it was. Chains that began
 * alike would be one chain to it, bound by latency: 2.5 multiply-adds a cycle where the processor has two.
 */
#if defined(__x86_64__)
#define KEEP(a) __asm__ volatile("" : "+x"(a));
#else
#define KEEP(a) __asm__ volatile("" : "+w"(a));
#endif
#define CHAIN(X) X(a0) X(a1) X(a2) X(a3) X(a4) X(a5) X(a6) X(a7) X(a8) X(a9)
#define START(a) vector a = y; KEEP(a)
#define ROUNDS_OF(name, type, zero, STEP)                                                                                     \
    static void name(void) {                                                                                                 \
        typedef type vector;                                                                                                 \
        vector x = zero, y = zero, z = zero;                                                                                 \
        KEEP(x)                                                                                                             \
        KEEP(y)                                                                                                             \
        CHAIN(START)                                                                                                         \
        for (int i = 0; i < ROUNDS; i++) {                                                                                   \
            KEEP(z)                                                                                                         \
            CHAIN(STEP)                                                                                                      \
        }                                                                                                                    \
        CHAIN(KEEP)                                                                                                          \
    }

#if defined(__x86_64__)
#include <immintrin.h>

#define SSE_F32(a) a = _mm_add_ps(_mm_mul_ps(a, x), y);
#define SSE_INT16(a) a = _mm_add_epi32(a, _mm_madd_epi16(z, x)); KEEP(z) KEEP(a)
ROUNDS_OF(sse_f32, __m128, _mm_setzero_ps(), SSE_F32)
ROUNDS_OF(sse_int16, __m128i, _mm_setzero_si128(), SSE_INT16)
#define AVX2_F32(a) a = _mm256_fmadd_ps(a, x, y);
#define AVX2_INT8(a) a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(z, x), x)); KEEP(z) KEEP(a)
__attribute__((target("avx2,fma"))) ROUNDS_OF(avx2_f32, __m256, _mm256_setzero_ps(), AVX2_F32)
__attribute__((target("avx2,fma"))) ROUNDS_OF(avx2_int8, __m256i, _mm256_setzero_si256(), AVX2_INT8)
#define AVX2_INT16(a) a = _mm256_add_epi32(a, _mm256_madd_epi16(z, x)); KEEP(z) KEEP(a)
__attribute__((target("avx2,fma"))) ROUNDS_OF(avx2_int16, __m256i, _mm256_setzero_si256(), AVX2_INT16)
#define AVX512_F32(a) a = _mm512_fmadd_ps(a, x, y);
#define AVX512_INT8(a) a = _mm512_add_epi32(a, _mm512_madd_epi16(_mm512_maddubs_epi16(z, x), x)); KEEP(z) KEEP(a)
#define AVX512_INT16(a) a = _mm512_add_epi32(a, _mm512_madd_epi16(z, x)); KEEP(z) KEEP(a)
__attribute__((target("avx512f,avx512bw"))) ROUNDS_OF(avx512_int16, __m512i, _mm512_setzero_si512(), AVX512_INT16)
#define VNNI_INT16(a) a = _mm512_dpwssd_epi32(a, x, y);
__attribute__((target("avx512f,avx512vnni"))) ROUNDS_OF(vnni_int16, __m512i, _mm512_setzero_si512(), VNNI_INT16)
#define VNNI_INT8(a) a = _mm512_dpbusd_epi32(a, x, y);
__attribute__((target("avx512f,avx512bw"))) ROUNDS_OF(avx512_f32, __m512, _mm512_setzero_ps(), AVX512_F32)
__attribute__((target("avx512f,avx512bw"))) ROUNDS_OF(avx512_int8, __m512i, _mm512_setzero_si512(), AVX512_INT8)
__attribute__((target("avx512f,avx512vnni"))) ROUNDS_OF(vnni_int8, __m512i, _mm512_setzero_si512(), VNNI_INT8)

/* AMX has no ceiling of its own: what its tiles leave to do, vectors do. */
static bool is_avx512(const char *isa) { return strcmp(isa, "avx512") == 0 || strcmp(isa, "amx") == 0; }

static rounds f32_rounds(const char *isa) {
    if (is_avx512(isa)) return (rounds){avx512_f32, 2 * 16};
    if (strcmp(isa, "avx2") == 0) return (rounds){avx2_f32, 2 * 8};
    return (rounds){sse_f32, 2 * 4};
}

static rounds int8_rounds(const char *isa) {
    if (is_avx512(isa))
        return __builtin_cpu_supports("avx512vnni") ? (rounds){vnni_int8, 2 * 64} : (rounds){avx512_int8, 2 * 64};
    if (strcmp(isa, "avx2") == 0) return (rounds){avx2_int8, 2 * 32};
    return (rounds){sse_int16, 2 * 8}; /* SSE2 has no product of bytes */
}

static rounds int16_rounds(const char *isa) {
    if (is_avx512(isa))
        return __builtin_cpu_supports("avx512vnni") ? (rounds){vnni_int16, 2 * 32} : (rounds){avx512_int16, 2 * 32};
    if (strcmp(isa, "avx2") == 0) return (rounds){avx2_int16, 2 * 16};
    return (rounds){sse_int16, 2 * 8};
}
#elif defined(__aarch64__)
#include <arm_neon.h>

#define NEON_F32(a) a = vfmaq_f32(y, a, x);
#define NEON_INT8(a)                                                                                                          \
    a = vreinterpretq_s8_s32(vpadalq_s16(vreinterpretq_s32_s8(a), vmull_s8(vget_low_s8(z), vget_low_s8(x))));                \
    KEEP(z)
ROUNDS_OF(neon_f32, float32x4_t, vdupq_n_f32(0), NEON_F32)
ROUNDS_OF(neon_int8, int8x16_t, vdupq_n_s8(0), NEON_INT8)

#define NEON_INT16(a)                                                                                                         \
    a = vreinterpretq_s8_s32(vmlal_s16(vreinterpretq_s32_s8(a), vget_low_s16(vreinterpretq_s16_s8(z)),                      \
                                       vget_low_s16(vreinterpretq_s16_s8(x))));                                            \
    KEEP(z)
ROUNDS_OF(neon_int16, int8x16_t, vdupq_n_s8(0), NEON_INT16)

#define DOTPROD_INT8(a) a = vdotq_s32(a, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(y));
__attribute__((target("arch=armv8.2-a+dotprod"))) ROUNDS_OF(dotprod_int8, int32x4_t, vdupq_n_s32(0), DOTPROD_INT8)

static bool is_dotprod(const char *isa) { return strcmp(isa, "dotprod") == 0; }
static rounds f32_rounds(const char *isa) { return (void)isa, (rounds){neon_f32, 2 * 4}; }
static rounds int8_rounds(const char *isa) {
    return is_dotprod(isa) ? (rounds){dotprod_int8, 2 * 16} : (rounds){neon_int8, 2 * 8};
}
static rounds int16_rounds(const char *isa) { /* two products of bytes make one */
    return is_dotprod(isa) ? (rounds){dotprod_int8, 2 * 8} : (rounds){neon_int16, 2 * 4};
}
#endif

/* ------------------------------------------------- all of them -------------------------------------------------------- */

enum { PASSES = 3 };

static double fastest(puna_context *context, int64_t shares, puna_share_body body, void *arguments) {
    double best = INFINITY;
    for (int i = 0; i < PASSES; i++) {
        double start = bench_now();
        puna_parallel(context, shares, body, arguments);
        best = fmin(best, bench_now() - start);
    }
    return best;
}

bench_ceilings bench_measure_ceilings(puna_context *context, char *data, int64_t bytes) {
    memory m = {data, bytes / 2 / SHARE * SHARE};
    rounds f32 = f32_rounds(context->ops->name), int8 = int8_rounds(context->ops->name),
           int16 = int16_rounds(context->ops->name);
    double per_vector = (double)SHARES * ROUNDS * CHAINS;
    return (bench_ceilings){
        .read = (double)(bytes / SHARE * SHARE) / fastest(context, bytes / SHARE, read_share, &m),
        .copy = 2 * (double)m.half / fastest(context, m.half / SHARE, copy_share, &m),
        .multiply = per_vector * f32.operations / fastest(context, SHARES, rounds_share, &f32),
        .multiply8 = per_vector * int8.operations / fastest(context, SHARES, rounds_share, &int8),
        .multiply16 = per_vector * int16.operations / fastest(context, SHARES, rounds_share, &int16),
    };
}

/* ------------------------------------------------- a job's own cost --------------------------------------------------- */

static void short_share(void *arguments, int64_t share, int32_t thread) {
    (void)arguments, (void)share, (void)thread;
    for (volatile int i = 0; i < 2000; i++) continue;
}

double bench_measure_fork_join(puna_context *context) {
    double alone = INFINITY, together = INFINITY;
    for (int i = 0; i < 2000; i++) {
        double start = bench_now();
        puna_parallel(context, 1, short_share, NULL);
        alone = fmin(alone, bench_now() - start);
        start = bench_now();
        puna_parallel(context, context->threads, short_share, NULL);
        together = fmin(together, bench_now() - start);
    }
    return together - alone;
}
