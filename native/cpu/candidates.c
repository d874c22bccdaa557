/*
 * A row is searched by one thread: a stretch whose largest element does not reach the n-th so far is passed over by vectors, the
 * others go into the sorted list one by one. The sums, nearly all of the time, are shared out, so many
 * parts at once that a share takes some 20 us.
 */
#include "kernels.h"
#include "softmax.h"

typedef struct job {
    float *values;
    int32_t *ids;
    double *sums;
    const float *x;
    int64_t V, n;
    double temperature;
    int64_t parts, shares; /* of a row: parts in a share, and shares                                                */
} job;

enum { STRETCH = 256, SHARE_ELEMENTS = 4096 };

static void search_row(void *arguments, int64_t r, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    const float *x = j->x + r * j->V;
    float *values = j->values + r * j->n;
    int32_t *ids = j->ids + r * j->n;
    int64_t count = 0, n = j->n;
    for (int64_t from = 0; from < j->V; from += STRETCH) {
        int64_t end = puna_min(from + STRETCH, j->V);
        if (count == n && maximum(x + from, end - from) <= values[n - 1]) continue;
        for (int64_t v = from; v < end; v++) {
            if (!(x[v] > (count == n ? values[n - 1] : -INFINITY)) && !(count < n && x[v] == -INFINITY)) continue;
            int64_t low = 0, high = count; /* the place behind all that are as large */
            while (low < high) {
                int64_t middle = (low + high) / 2;
                if (values[middle] >= x[v]) low = middle + 1;
                else high = middle;
            }
            count = puna_min(count + 1, n);
            for (int64_t i = count - 1; i > low; i--) values[i] = values[i - 1], ids[i] = ids[i - 1];
            values[low] = x[v];
            ids[low] = (int32_t)v;
        }
    }
    for (int64_t v = 0; count < n; v++) /* where numbers are too few */
        if (x[v] != x[v]) values[count] = x[v], ids[count++] = (int32_t)v;
}

static void sum_parts(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    const int64_t r = share / j->shares, part = puna_ceil_div(j->V, PUNA_CANDIDATES_PARTS);
    const float *x = j->x + r * j->V;
    const double largest = j->values[r * j->n];
    int64_t p = share % j->shares * j->parts, last = puna_min(p + j->parts, PUNA_CANDIDATES_PARTS);
    for (; p < last; p++) {
        double sum = 0;
        for (int64_t v = p * part, end = puna_min(v + part, j->V); v < end; v++)
            if (x[v] == x[v]) sum += x[v] == largest ? 1 : exp((x[v] - largest) / j->temperature);
        j->sums[r * PUNA_CANDIDATES_PARTS + p] = sum;
    }
}

puna_status PUNA_KERNEL(candidates_forward)(puna_context *context, float *values, int32_t *ids, double *sums, const float *x,
                                            int64_t rows, int64_t V, int64_t n, double temperature) {
    job j = {.values = values, .ids = ids, .sums = sums, .x = x, .V = V, .n = n, .temperature = temperature};
    puna_parallel(context, rows, search_row, &j);
    j.parts = puna_max(SHARE_ELEMENTS / puna_ceil_div(V, PUNA_CANDIDATES_PARTS), 1);
    j.shares = puna_ceil_div(PUNA_CANDIDATES_PARTS, j.parts);
    if (sums != NULL) puna_parallel(context, rows * j.shares, sum_parts, &j);
    return PUNA_STATUS_OK;
}
