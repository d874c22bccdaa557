/*
 * Memory of devices: what is where. Every piece that any context gave out is listed here, so that an operation refuses memory of
 * the wrong place instead of touching it. Addresses of devices and of the host are from one address space and never the same.
 */
#include "internal.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct piece {
    uintptr_t start, end;
    puna_context *context;
} piece;

static struct {
    pthread_mutex_t mutex;
    piece *pieces; /* in the order of their addresses; they do not overlap */
    int64_t capacity;
    atomic_llong count; /* written under the mutex; read without it to see that there is nothing to look for */
} list = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* The first piece that ends behind address, or count. */
static int64_t first_behind(uintptr_t address) {
    int64_t low = 0, high = list.count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (list.pieces[middle].end > address) high = middle;
        else low = middle + 1;
    }
    return low;
}

enum { HOST, DEVICE, PARTLY };

/* Where the bytes lie: all in one piece of context, none in any piece, or neither. */
static int place_of(const puna_context *context, const void *pointer, int64_t bytes) {
    if (atomic_load_explicit(&list.count, memory_order_acquire) == 0) return HOST;
    if (context != NULL && context->parent != NULL) context = context->parent;
    uintptr_t start = (uintptr_t)pointer, end = start + (uintptr_t)bytes;
    pthread_mutex_lock(&list.mutex);
    int64_t at = first_behind(start);
    int place = PARTLY;
    if (at == list.count || list.pieces[at].start >= end) place = HOST;
    else if (list.pieces[at].start <= start && list.pieces[at].end >= end && list.pieces[at].context == context) place = DEVICE;
    pthread_mutex_unlock(&list.mutex);
    return place;
}

puna_status puna_check_place(const puna_context *context, const char *op, const char *name, const void *pointer, int64_t bytes) {
    bool device = context != NULL && context->backend != NULL;
    if (place_of(context, pointer, bytes) == (device ? DEVICE : HOST)) return PUNA_STATUS_OK;
    return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: %s, %" PRId64 " bytes at 0x%" PRIxPTR ", is not %s", op, name, bytes,
                     (uintptr_t)pointer, device ? "memory of this context's device (puna_memory_allocate)" : "host memory");
}

void puna_context_retain(puna_context *context) {
    pthread_mutex_lock(&list.mutex);
    context->references++;
    pthread_mutex_unlock(&list.mutex);
}

void puna_context_release(puna_context *context) {
    pthread_mutex_lock(&list.mutex);
    puna_context *parent = context->parent; /* now: where others remain, one of them may destroy the context at any time */
    bool last = --context->references == 0;
    pthread_mutex_unlock(&list.mutex);
    if (last) context->backend->destroy(context);
    if (last && parent != NULL) puna_context_release(parent);
}

/* The CPU has no memory of its own, and a recording has that of its context. */
static puna_status check_own_memory(const char *op, const puna_context *context) {
    if (context->backend == NULL)
        return puna_fail(PUNA_STATUS_UNSUPPORTED, "%s: this context is a CPU, which computes on host memory", op);
    if (context->parent == NULL) return PUNA_STATUS_OK;
    return puna_fail(PUNA_STATUS_UNSUPPORTED, "%s: this context is a recording, expected the one that it was begun on", op);
}

static puna_status insert(puna_context *context, void *memory, int64_t bytes) {
    puna_status status = PUNA_STATUS_OK;
    pthread_mutex_lock(&list.mutex);
    if (list.count == list.capacity) {
        int64_t capacity = list.capacity > 0 ? 2 * list.capacity : 64;
        piece *larger = realloc(list.pieces, (size_t)capacity * sizeof *larger);
        if (larger != NULL) list.pieces = larger, list.capacity = capacity;
        else status = puna_fail(PUNA_STATUS_OUT_OF_MEMORY, "puna_memory_allocate: no host memory for a list of %" PRId64
                                " allocations", capacity);
    }
    if (status == PUNA_STATUS_OK) {
        int64_t at = first_behind((uintptr_t)memory);
        memmove(list.pieces + at + 1, list.pieces + at, (size_t)(list.count - at) * sizeof *list.pieces);
        list.pieces[at] = (piece){(uintptr_t)memory, (uintptr_t)memory + (uintptr_t)bytes, context};
        context->references++;
        atomic_fetch_add(&list.count, 1);
    }
    pthread_mutex_unlock(&list.mutex);
    return status;
}

puna_status puna_memory_allocate(puna_context *context, int64_t bytes, void **memory) {
    const char *op = "puna_memory_allocate";
    if (context == NULL || memory == NULL)
        return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: %s is null", op, context == NULL ? "context" : "memory");
    if (bytes < 1) return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: bytes is %" PRId64 ", expected at least 1", op, bytes);
    puna_status status = check_own_memory(op, context);
    if (status != PUNA_STATUS_OK) return status;
    void *made = NULL;
    status = context->backend->allocate(context, bytes, &made);
    if (status != PUNA_STATUS_OK) return status;
    status = insert(context, made, bytes);
    if (status != PUNA_STATUS_OK) {
        context->backend->release(context, made);
        return status;
    }
    *memory = made;
    return PUNA_STATUS_OK;
}

puna_status puna_memory_available(puna_context *context, int64_t *free_bytes, int64_t *all_bytes) {
    const char *op = "puna_memory_available";
    if (context == NULL || free_bytes == NULL || all_bytes == NULL)
        return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: %s is null", op, context == NULL ? "context" : free_bytes == NULL ? "free_bytes"
                         : "all_bytes");
    puna_status status = check_own_memory(op, context);
    return status != PUNA_STATUS_OK ? status : context->backend->available(context, free_bytes, all_bytes);
}

/* The device's memory goes before its address leaves the list: another thread could be given the address at once. */
puna_status puna_memory_free(puna_context *context, void *memory) {
    const char *op = "puna_memory_free";
    if (memory == NULL) return PUNA_STATUS_OK;
    if (context == NULL) return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: context is null", op);
    pthread_mutex_lock(&list.mutex);
    int64_t at = first_behind((uintptr_t)memory);
    bool listed = at < list.count && list.pieces[at].start == (uintptr_t)memory && list.pieces[at].context == context;
    puna_status status = PUNA_STATUS_OK;
    if (listed) {
        status = context->backend->release(context, memory);
        memmove(list.pieces + at, list.pieces + at + 1, (size_t)(list.count - at - 1) * sizeof *list.pieces);
        atomic_fetch_sub(&list.count, 1);
    }
    pthread_mutex_unlock(&list.mutex);
    if (!listed)
        return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: 0x%" PRIxPTR " is not memory that this context allocated", op,
                         (uintptr_t)memory);
    puna_context_release(context);
    return status;
}

/* On a CPU copies and zeros are shared out: one thread alone does not keep memory busy. */
enum { SHARE_BYTES = 1 << 17 };

typedef struct span {
    char *to;
    const char *from; /* null: zeros */
    int64_t bytes;
} span;

static void write_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const span *s = arguments;
    const int64_t begin = share * SHARE_BYTES;
    const size_t bytes = (size_t)puna_min(SHARE_BYTES, s->bytes - begin);
    if (s->from != NULL) memcpy(s->to + begin, s->from + begin, bytes);
    else memset(s->to + begin, 0, bytes);
}

static puna_status write_on_cpu(puna_context *context, void *to, const void *from, int64_t bytes) {
    span s = {to, from, bytes};
    puna_parallel(context, puna_ceil_div(bytes, SHARE_BYTES), write_share, &s);
    return PUNA_STATUS_OK;
}

puna_status puna_memory_copy(puna_context *context, void *to, const void *from, int64_t bytes) {
    const char *op = "puna_memory_copy";
    if (context == NULL) return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: context is null", op);
    if (bytes < 0) return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: bytes is %" PRId64 ", expected at least 0", op, bytes);
    const bool cpu = context->backend == NULL;
    puna_status status = cpu ? PUNA_STATUS_OK : check_own_memory(op, context);
    if (status != PUNA_STATUS_OK || bytes == 0) return status;
    if (to == NULL || from == NULL)
        return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: %s is null", op, to == NULL ? "to" : "from");
    uintptr_t low = (uintptr_t)to < (uintptr_t)from ? (uintptr_t)to : (uintptr_t)from;
    uintptr_t high = (uintptr_t)to < (uintptr_t)from ? (uintptr_t)from : (uintptr_t)to;
    if (high - low < (uintptr_t)bytes) return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: to overlaps from", op);
    if (cpu) {
        status = puna_check_place(context, op, "to", to, bytes);
        if (status == PUNA_STATUS_OK) status = puna_check_place(context, op, "from", from, bytes);
        return status != PUNA_STATUS_OK ? status : write_on_cpu(context, to, from, bytes);
    }
    int to_place = place_of(context, to, bytes), from_place = place_of(context, from, bytes);
    if (to_place == PARTLY || from_place == PARTLY || (to_place == HOST && from_place == HOST))
        return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: %" PRId64 " bytes from 0x%" PRIxPTR " to 0x%" PRIxPTR ", expected one "
                         "side or both inside one piece of this context's memory, and the other on the host", op, bytes,
                         (uintptr_t)from, (uintptr_t)to);
    return context->backend->copy(context, to, to_place == DEVICE, from, from_place == DEVICE, bytes);
}

puna_status puna_memory_clear(puna_context *context, void *memory, int64_t bytes) {
    const char *op = "puna_memory_clear";
    if (context == NULL) return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: context is null", op);
    if (bytes < 0) return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: bytes is %" PRId64 ", expected at least 0", op, bytes);
    const bool cpu = context->backend == NULL;
    puna_status status = cpu ? PUNA_STATUS_OK : check_own_memory(op, context);
    if (status != PUNA_STATUS_OK || bytes == 0) return status;
    if (memory == NULL) return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: memory is null", op);
    status = puna_check_place(context, op, "memory", memory, bytes);
    if (status != PUNA_STATUS_OK) return status;
    return cpu ? write_on_cpu(context, memory, NULL, bytes) : context->backend->clear(context, memory, bytes);
}
