/* The benchmark: what machines can do at all (ceilings.c), what a case took (bench.c), and how both are shown (report.c). */
#ifndef PUNA_BENCH_H
#define PUNA_BENCH_H

#include "../test/test.h"

/* A monotonic clock, in seconds. */
double bench_now(void);

/* What this machine can do at all with one instruction set and so many threads, measured just before a case. */
typedef struct bench_ceilings {
    double read;      /* bytes a second out of memory                                                               */
    double copy;      /* bytes a second, half of them read and half written by ordinary stores                      */
    double multiply;  /* F32 operations a second in registers, two to a multiplication and its addition             */
    double multiply8, multiply16; /* the same of int8 and of int16, each product added into 32 bits                 */
} bench_ceilings;

/* data: bytes of memory that are more than any cache holds; overwritten. */
bench_ceilings bench_measure_ceilings(puna_context *context, char *data, int64_t bytes);

/* The cost of a job beyond its work: as many equal shares as threads, the wall time less one share's alone, each at its best. */
double bench_measure_fork_join(puna_context *context);

typedef struct bench_row {
    const char *op, *isa;
    char dtype[16], shape[160];
    int32_t threads, calls;
    int32_t bits;              /* its operations are those of int8 or int16: 8 or 16; else 0                        */
    bool cached;               /* each call had the same arrays, so small that a cache held them; else others, out of memory */
    double seconds, low, high; /* median, tenth and ninetieth percentile of the calls                               */
    double bytes, operations;  /* that must move; that must be done, 0 when they are not counted                    */
    bench_ceilings ceilings;
} bench_row;

typedef enum bench_format { BENCH_TEXT, BENCH_MARKDOWN, BENCH_JSON, BENCH_SVG } bench_format;

/* The report goes to stdout: its beginning, a context with its ceilings, its cases, its end. */
void bench_report_begin(bench_format format);
void bench_report_context(bench_format format, puna_context *context, const bench_ceilings *ceilings, int64_t bytes,
                          double fork_join);
void bench_report_row(bench_format format, const bench_row *row);
void bench_report_end(bench_format format);

#endif
