/* How the products of one call are cut into shares, for matmul.c and matmul_integer.c. */
#ifndef PUNA_PRODUCTS_H
#define PUNA_PRODUCTS_H

#include "internal.h"

typedef struct product_shares {
    int64_t N, rows;    /* rows of one product's w, and rows of x, that one share multiplies                        */
    int64_t row_shares; /* shares along the rows of x                                                               */
    int32_t count;      /* of products                                                                              */
    int32_t threads;    /* of the context                                                                           */
    bool one;           /* all of them together are not worth more than one share: they run on the caller           */
    int64_t first[PUNA_MATMUL_MAX_PRODUCTS + 1];
} product_shares;

enum {
    SHARES_PER_THREAD = 8,
    PROMPT_SHARES_PER_THREAD = 16, /* which take long, and come out uneven                                          */
    FEWEST_PROMPT_SHARES = 5,      /* for each thread; more would unpack w more often than is worth it              */
    SHARE_CYCLES = 30000, /* about 10 us: far above what handing out a share costs                                  */
    SMALLEST_ROW_SHARE = 64
};

/*
 * Shares are whole numbers of unit rows of w; where those are too few for the threads, a prompt's rows are cut as well, into
 * multiples of row_unit. row_cycles: what a row of w takes, roughly, with all rows of x.
 */
static inline product_shares share_products(const puna_context *context, const puna_matmul_product *products, int32_t count,
                                            int64_t rows, double row_cycles, int64_t unit, int64_t row_unit) {
    product_shares s = {.rows = rows, .count = count, .threads = context->threads};
    const bool fine = rows > SMALLEST_ROW_SHARE && context->isa != PUNA_ISA_AMX; /* whose tiles pack more rows of w together */
    const int64_t wanted = (fine ? PROMPT_SHARES_PER_THREAD : SHARES_PER_THREAD) * (int64_t)context->threads;
    int64_t total_N = 0;
    for (int32_t p = 0; p < count; p++) total_N += products[p].N;
    int64_t worthwhile = (int64_t)(SHARE_CYCLES / row_cycles) + 1;
    s.N = puna_ceil_div(puna_max(puna_ceil_div(total_N, wanted), worthwhile), unit) * unit;
    const int64_t shares_N = puna_ceil_div(total_N, s.N), fewest = FEWEST_PROMPT_SHARES * (int64_t)context->threads;
    if (rows > SMALLEST_ROW_SHARE && shares_N < fewest) {
        int64_t parts = puna_min(puna_ceil_div(fewest, shares_N), rows / SMALLEST_ROW_SHARE);
        s.rows = puna_ceil_div(puna_ceil_div(rows, parts), row_unit) * row_unit;
    }
    s.row_shares = puna_ceil_div(rows, s.rows);
    s.one = (double)total_N * row_cycles <= SHARE_CYCLES;
    s.first[0] = 0;
    for (int32_t p = 0; p < count; p++) s.first[p + 1] = s.first[p] + puna_ceil_div(products[p].N, s.N) * s.row_shares;
    return s;
}

/*
 * What a share multiplies: rows [n, n + N) of the w of product p with rows [r, r + rows) of x. Threads take shares in turn, so
 * every threads-th share follows in memory: what a thread has called ahead is then, mostly, what it goes on with.
 */
typedef struct product_share {
    int32_t p;
    int64_t n, N, r, rows;
} product_share;

static inline product_share find_share(const product_shares *s, const puna_matmul_product *products, int64_t rows,
                                       int64_t share) {
    product_share found = {.p = 0};
    const int64_t shares = s->first[s->count], turn = share % s->threads;
    share = share / s->threads + turn * (shares / s->threads) + puna_min(turn, shares % s->threads);
    while (share >= s->first[found.p + 1]) found.p++;
    share -= s->first[found.p];
    found.n = share / s->row_shares * s->N;
    found.N = puna_min(s->N, products[found.p].N - found.n);
    found.r = share % s->row_shares * s->rows;
    found.rows = puna_min(s->rows, rows - found.r);
    return found;
}

/* Runs body for every share, as puna_parallel, which is not asked where several products are less work than one share. */
static inline void run_product_shares(puna_context *context, const product_shares *s, int32_t count, puna_share_body body,
                                      void *arguments) {
    if (!s->one) puna_parallel(context, s->first[count], body, arguments);
    else for (int64_t share = 0; share < s->first[count]; share++) body(arguments, share, 0);
}

#endif
