/*
 * The thread pool: one job at a time, cut into shares, taken one by one by whoever is free.
 *
 * All that threads must agree on is one word, `left`: (shares nobody has taken) << 16 | (threads that hold a share). A thread
 * takes a share by a compare-and-swap that lowers the first and, with its first share, raises the second; it gives up its hold
 * when nothing is left to take. The job is over when the word is zero. It follows that
 *   - a worker that wakes late finds nothing left and touches nothing: nobody waits for a worker that has not started;
 *   - nobody waits for a worker without a share, so a descheduled one costs the share in its hands and no more;
 *   - the job's other fields cannot change under a thread that holds a share, so they need no protection of their own.
 *
 * Waiting, for work or for the end, spins for some microseconds (what lies between two operations that are shared out: smaller
 * operations, Java) and then sleeps on a condition variable; a pool at rest burns no time. Sleeping through those gaps, after 5 us
 * and not 50, cost a tenth of a 1.1B model's decode: waking takes as long as they do. Calling meanwhile what the next product read first
 * the last time, 64 or 256 KB of it, gained a token nothing.
 */
#if defined(__linux__)
#define _GNU_SOURCE
#endif

#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SPIN_NANOSECONDS = 50000, HOLDER_BITS = 16 };
#define ONE_SHARE ((uint64_t)1 << HOLDER_BITS)

typedef struct puna_worker {
    puna_pool *pool;
    pthread_t handle;
    int32_t thread;
} puna_worker;

struct puna_pool {
    pthread_mutex_t call; /* held for a whole job: user threads' calls run one after another                          */

    /* The job, written by the caller while `left` is zero. */
    puna_share_body body;
    void *arguments;
    int64_t shares;
    _Alignas(128) _Atomic uint64_t left;

    /* Sleeping. A sleeper announces itself, then looks once more; a waker changes the state, then looks for sleepers. */
    _Alignas(128) pthread_mutex_t mutex;
    pthread_cond_t work, done;
    _Atomic int32_t sleepers;
    _Atomic bool caller_sleeps, stop;

    int32_t workers;
    puna_worker worker[];
};

static inline void pause_processor(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static bool work_is_there(puna_pool *pool) {
    return atomic_load(&pool->left) >= ONE_SHARE || atomic_load_explicit(&pool->stop, memory_order_relaxed);
}

static bool job_is_over(puna_pool *pool) { return atomic_load(&pool->left) == 0; }

/* Spins until condition holds or the time is up, and says whether it holds. */
static bool spin(puna_pool *pool, bool (*condition)(puna_pool *)) {
    int64_t deadline = 0;
    for (int32_t i = 0;; i++) {
        if (condition(pool)) return true;
        pause_processor();
        if (i % 16 != 15) continue;
        int64_t now = now_nanoseconds();
        if (deadline == 0) deadline = now + SPIN_NANOSECONDS;
        if (now >= deadline) return false;
    }
}

/* Takes shares and runs them until none is left. */
static void run_shares(puna_pool *pool, int32_t thread) {
    uint64_t holding = 0;
    uint64_t left = atomic_load(&pool->left);
    while (left >= ONE_SHARE) {
        if (!atomic_compare_exchange_weak(&pool->left, &left, left - ONE_SHARE + (1 - holding))) continue;
        holding = 1;
        pool->body(pool->arguments, pool->shares - (int64_t)(left >> HOLDER_BITS), thread);
        left = atomic_load(&pool->left);
    }
    if (holding == 1 && atomic_fetch_sub(&pool->left, 1) == 1 && atomic_load(&pool->caller_sleeps)) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_signal(&pool->done);
        pthread_mutex_unlock(&pool->mutex);
    }
}

static void sleep_until_work(puna_pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!work_is_there(pool)) pthread_cond_wait(&pool->work, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void *work(void *argument) {
    puna_worker *worker = argument;
    puna_pool *pool = worker->pool;
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "puna-worker");
#elif defined(__APPLE__)
    pthread_setname_np("puna-worker");
#endif
    while (!atomic_load(&pool->stop)) {
        if (!spin(pool, work_is_there)) sleep_until_work(pool);
        run_shares(pool, worker->thread);
    }
    return NULL;
}

static void run_job(puna_pool *pool, int64_t shares, puna_share_body body, void *arguments) {
    pool->body = body;
    pool->arguments = arguments;
    pool->shares = shares;
    atomic_store(&pool->left, (uint64_t)shares << HOLDER_BITS);
    if (atomic_load(&pool->sleepers) > 0) {
        pthread_mutex_lock(&pool->mutex);
        if (shares > pool->workers) pthread_cond_broadcast(&pool->work);
        else for (int64_t i = 1; i < shares; i++) pthread_cond_signal(&pool->work);
        pthread_mutex_unlock(&pool->mutex);
    }
    run_shares(pool, 0);
    if (spin(pool, job_is_over)) return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, true);
    while (!job_is_over(pool)) pthread_cond_wait(&pool->done, &pool->mutex);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->mutex);
}

void puna_parallel(puna_context *context, int64_t shares, puna_share_body body, void *arguments) {
    puna_pool *pool = context->pool;
    if (pool == NULL || shares <= 1) {
        for (int64_t share = 0; share < shares; share++) body(arguments, share, 0);
        return;
    }
    pthread_mutex_lock(&pool->call);
    run_job(pool, shares, body, arguments);
    pthread_mutex_unlock(&pool->call);
}

/* Workers must not be picked for the process's asynchronous signals: a host such as a JVM handles those on threads of its own. */
static int start_worker(puna_worker *worker) {
    sigset_t blocked, before;
    sigfillset(&blocked);
    const int own_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    for (size_t i = 0; i < sizeof own_faults / sizeof own_faults[0]; i++) sigdelset(&blocked, own_faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int error = pthread_create(&worker->handle, NULL, work, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

puna_status puna_pool_create(int32_t threads, puna_pool **out) {
    size_t bytes = sizeof(puna_pool) + (size_t)(threads - 1) * sizeof(puna_worker);
    void *memory = NULL;
    if (posix_memalign(&memory, _Alignof(puna_pool), bytes) != 0)
        return puna_fail(PUNA_STATUS_OUT_OF_MEMORY, "puna_context_create: no memory for a pool of %zu bytes", bytes);
    puna_pool *pool = memset(memory, 0, bytes);
    pthread_mutex_init(&pool->call, NULL);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    for (int32_t thread = 1; thread < threads; thread++) {
        puna_worker *worker = &pool->worker[pool->workers];
        worker->pool = pool;
        worker->thread = thread;
        int error = start_worker(worker);
        if (error != 0) {
            puna_status status = puna_fail(PUNA_STATUS_OUT_OF_MEMORY, "puna_context_create: worker thread %d of %d could not be "
                                           "started: %s", thread, threads - 1, strerror(error));
            puna_pool_destroy(pool);
            return status;
        }
        pool->workers++;
    }
    *out = pool;
    return PUNA_STATUS_OK;
}

void puna_pool_destroy(puna_pool *pool) {
    if (pool == NULL) return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
    for (int32_t i = 0; i < pool->workers; i++) pthread_join(pool->worker[i].handle, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->mutex);
    pthread_mutex_destroy(&pool->call);
    free(pool);
}
