/* The thread pool under stress, and the contexts that own it. */
#define _GNU_SOURCE
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static puna_context *open_context(int32_t threads) {
    puna_context_options options = {PUNA_BACKEND_CPU, 0, threads, PUNA_ISA_BASELINE, PUNA_PRECISION_F32};
    puna_context *context = NULL;
    CHECK(puna_context_create(&options, NULL, &context) == PUNA_STATUS_OK, "%s", test_last_error());
    return context;
}

typedef struct counts {
    _Atomic int64_t *share, sum;
    _Atomic int32_t *inside; /* threads in a body under each thread number */
    int32_t threads;
    _Atomic bool wrong_thread;
    int64_t work;
} counts;

static void count_share(void *arguments, int64_t share, int32_t thread) {
    counts *c = arguments;
    if (thread < 0 || thread >= c->threads || atomic_fetch_add(&c->inside[thread], 1) != 0) atomic_store(&c->wrong_thread, true);
    if (c->share != NULL) atomic_fetch_add(&c->share[share], 1);
    atomic_fetch_add(&c->sum, share + 1);
    for (volatile int64_t i = 0; i < c->work; i++) continue;
    if (thread >= 0 && thread < c->threads) atomic_fetch_sub(&c->inside[thread], 1);
}

static void every_share_once(void) {
    static const int32_t threads[] = {1, 2, 3, 7, 64};
    static const int64_t shares[] = {0, 1, 2, 3, 5, 64, 1000};
    for (int64_t t = 0; t < TEST_COUNT(threads); t++) {
        test_case("every share once, %d threads", threads[t]);
        puna_context *context = open_context(threads[t]);
        if (context == NULL) continue;
        for (int64_t s = 0; s < TEST_COUNT(shares); s++)
            for (int64_t work = 0; work < 2; work++) {
                counts c = {calloc(1000, sizeof(_Atomic int64_t)), 0, calloc(64, sizeof(_Atomic int32_t)), threads[t], false,
                            work * 500};
                puna_parallel(context, shares[s], count_share, &c);
                for (int64_t i = 0; i < 1000; i++)
                    if (c.share[i] != (i < shares[s]))
                        CHECK(false, "share %lld of %lld ran %lld times", (long long)i, (long long)shares[s],
                              (long long)c.share[i]);
                CHECK(!c.wrong_thread, "a thread number was out of range or used twice at once");
                free(c.share);
                free(c.inside);
            }
        puna_context_destroy(context);
    }
}

static void small_calls(puna_context *context, int64_t calls) {
    _Atomic int32_t inside[8] = {0};
    counts c = {NULL, 0, inside, context->threads, false, 0};
    for (int64_t i = 0; i < calls; i++) puna_parallel(context, 2 + i % 5, count_share, &c);
    int64_t expected = 0;
    for (int64_t i = 0; i < calls; i++) expected += (2 + i % 5) * (3 + i % 5) / 2;
    CHECK(c.sum == expected, "the shares' sum is %lld, expected %lld", (long long)c.sum, (long long)expected);
    CHECK(!c.wrong_thread, "a thread number was out of range or used twice at once");
}

static puna_context *shared_context;
static _Atomic int64_t user_failures;

/* CHECK is for the main thread; users count. */
static void *user(void *number) {
    int64_t C = 64, rows = 300 + (int64_t)(intptr_t)number;
    float *x = malloc((size_t)(rows * C) * sizeof *x), *y = malloc((size_t)(rows * C) * sizeof *y), g[64];
    for (int64_t i = 0; i < rows * C; i++) x[i] = 2;
    for (int64_t c = 0; c < C; c++) g[c] = 3;
    for (int i = 0; i < 200; i++) {
        memset(y, 0, (size_t)(rows * C) * sizeof *y);
        if (puna_rmsnorm_forward(shared_context, y, NULL, x, g, PUNA_DTYPE_F32, rows, C, 0) != PUNA_STATUS_OK)
            atomic_fetch_add(&user_failures, 1);
        for (int64_t k = 0; k < rows * C; k++)
            if (y[k] != 3.0f) {
                atomic_fetch_add(&user_failures, 1);
                break;
            }
    }
    free(x);
    free(y);
    return NULL;
}

static void many_users(void) {
    test_case("eight user threads on one context");
    shared_context = open_context(3);
    if (shared_context == NULL) return;
    pthread_t users[8];
    for (intptr_t i = 0; i < 8; i++) pthread_create(&users[i], NULL, user, (void *)i);
    for (int i = 0; i < 8; i++) pthread_join(users[i], NULL);
    CHECK(user_failures == 0, "%lld wrong results", (long long)user_failures);
    puna_context_destroy(shared_context);
}

static int64_t threads_of_process(void) {
    FILE *status = fopen("/proc/self/status", "r");
    if (status == NULL) return -1;
    char line[256];
    long long threads = -1;
    while (fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "Threads: %lld", &threads) == 1) break;
    fclose(status);
    return threads;
}

static void create_and_destroy(void) {
    test_case("create and destroy in a loop");
    int64_t before = threads_of_process();
    for (int i = 0; i < 300; i++) {
        puna_context *context = open_context(1 + i % 5);
        if (context == NULL) return;
        if (i % 3 > 0) small_calls(context, i % 3);
        puna_context_destroy(context);
    }
    /* A joined thread may be listed for a moment more, before as well. */
    for (int i = 0; i < 100 && threads_of_process() > before; i++) usleep(10000);
    CHECK(threads_of_process() <= before, "%lld threads, before %lld", (long long)threads_of_process(), (long long)before);
}

static double process_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void rests(void) {
    test_case("a pool at rest burns no time");
    puna_context *context = open_context(7);
    if (context == NULL) return;
    small_calls(context, 100);
    usleep(50000);
    double before = process_seconds();
    usleep(200000);
    double burnt = process_seconds() - before;
    CHECK(burnt < 0.02, "%.0f ms of processor time in 200 ms of rest", burnt * 1e3);
    puna_context_destroy(context);
}

static void sleep_in_first(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    if (share == 0) usleep(100000);
    else atomic_fetch_add((_Atomic int64_t *)arguments, 1);
}

/* One share is stuck in a thread that does not run; all others must be finished meanwhile, and waiting for it must sleep. */
static void stuck_share(void) {
    test_case("a stuck thread costs its own share");
    puna_context *context = open_context(2);
    if (context == NULL) return;
    for (int i = 0; i < 3; i++) {
        _Atomic int64_t others = 0;
        double before = process_seconds();
        puna_parallel(context, 100, sleep_in_first, (void *)&others);
        CHECK(others == 99, "%lld of 99 other shares ran", (long long)others);
        CHECK(process_seconds() - before < 0.03, "waiting took %.0f ms of processor time", (process_seconds() - before) * 1e3);
    }
    puna_context_destroy(context);
}

/* In a child process whose address space is nearly full, so that some worker's stack does not fit. */
static void no_threads_left(void) {
    test_case("threads run out");
    if (SANITIZED) return; /* the sanitizers' shadow memory does not live with the limit */
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit stack = {64 << 20, 64 << 20}, space = {(rlim_t)1 << 30, (rlim_t)1 << 30};
        setrlimit(RLIMIT_STACK, &stack);
        setrlimit(RLIMIT_AS, &space);
        int64_t before = threads_of_process(); /* an emulator has its own                                                */
        puna_context *context = NULL;
        puna_context_options options = {PUNA_BACKEND_CPU, 0, 1024, PUNA_ISA_BASELINE, PUNA_PRECISION_F32};
        for (int i = 0; i < 3; i++) {
            if (puna_context_create(&options, NULL, &context) != PUNA_STATUS_OUT_OF_MEMORY || context != NULL) _exit(1);
            if (strstr(test_last_error(), "puna_context_create: worker thread ") == NULL) _exit(2);
        }
        for (int i = 0; i < 100 && threads_of_process() != before; i++) usleep(10000);
        _exit(threads_of_process() == before ? 0 : 3);
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with status %d", status);
}

void test_pool(void) {
    no_threads_left();
    every_share_once();
    static const int32_t threads[] = {2, 3, 7};
    for (int64_t t = 0; t < TEST_COUNT(threads); t++) {
        test_case("many small calls, %d threads", threads[t]);
        puna_context *context = open_context(threads[t]);
        if (context == NULL) continue;
        small_calls(context, SANITIZED ? 2000 : 20000);
        puna_context_destroy(context);
    }
    many_users();
    create_and_destroy();
    rests();
    stuck_share();
}
