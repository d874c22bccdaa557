/* How the row operations are cut into shares. */
#ifndef PUNA_ROWS_H
#define PUNA_ROWS_H

#include "internal.h"

/* Bytes that make a share worth a thread's attention: some microseconds of memory traffic. */
enum { SHARE_BYTES = 1 << 16 };

/* Rows of a share when a row reads and writes row_bytes. A row is never cut, so that its sums have one order. */
static inline int64_t rows_per_share(int64_t row_bytes) { return puna_max(1, SHARE_BYTES / row_bytes); }

#endif
