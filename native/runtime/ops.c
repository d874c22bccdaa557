/*
 * The public operations: every argument is checked here, once, before anything is written; a kernel relies on it.
 *
 * Order of the checks: numbers and types first, then, unless the call has nothing to do, pointers, then overlaps. A call with
 * zero rows (or elements) is valid, does nothing and may pass null pointers.
 */
#include "internal.h"

#include <inttypes.h>
#include <math.h>

#define TRY(check)                                   \
    do {                                             \
        puna_status status_ = (check);               \
        if (status_ != PUNA_STATUS_OK) return status_; \
    } while (0)

static const puna_status OK = PUNA_STATUS_OK, INVALID = PUNA_STATUS_INVALID_ARGUMENT;

/* ------------------------------------------------- numbers ------------------------------------------------------------ */

static puna_status check_context(const char *op, const puna_context *context) {
    if (context == NULL) return puna_fail(INVALID, "%s: context is null", op);
    return !context->recorded.ended ? OK : puna_fail(INVALID, "%s: context is a recording that has ended", op);
}

static puna_status check_range(const char *op, const char *name, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return OK;
    if (most == INT64_MAX)
        return puna_fail(INVALID, "%s: %s is %" PRId64 ", expected at least %" PRId64, op, name, value, least);
    return puna_fail(INVALID, "%s: %s is %" PRId64 ", expected %" PRId64 " to %" PRId64, op, name, value, least, most);
}

static puna_status check_at_least(const char *op, const char *name, int64_t value, int64_t least) {
    return check_range(op, name, value, least, INT64_MAX);
}

static puna_status check_stride(const char *op, const char *name, int64_t stride, int64_t width) {
    if (stride >= width) return OK;
    return puna_fail(INVALID, "%s: %s is %" PRId64 ", expected at least the row's width of %" PRId64, op, name, stride, width);
}

static puna_status check_finite(const char *op, const char *name, float value) {
    return isfinite(value) ? OK : puna_fail(INVALID, "%s: %s is %g, expected a finite number", op, name, (double)value);
}

static puna_status check_dtype(const char *op, const char *name, int32_t dtype, int32_t count) {
    if (dtype >= 0 && dtype < count) return OK;
    return puna_fail(INVALID, "%s: %s is %d, expected 0 (F32) to %d (%s)", op, name, dtype, count - 1,
                     puna_dtype_name(count - 1));
}

/* A row of columns elements of dtype must be whole blocks. */
static puna_status check_blocks(const char *op, const char *name, int64_t columns, int32_t dtype) {
    int64_t elements = puna_block_of(dtype).elements;
    if (columns % elements == 0) return OK;
    return puna_fail(INVALID, "%s: %s is %" PRId64 ", expected a multiple of %" PRId64 ", the block of %s", op, name, columns,
                     elements, puna_dtype_name(dtype));
}

/* *product = a * b; a and b are not negative. */
static puna_status check_product(const char *op, const char *name, int64_t a, int64_t b, int64_t *product) {
    if (!__builtin_mul_overflow(a, b, product)) return OK;
    return puna_fail(INVALID, "%s: the size of %s, %" PRId64 " x %" PRId64 ", does not fit 64 bits", op, name, a, b);
}

/* ------------------------------------------------- memory ------------------------------------------------------------- */

/* What an argument covers: rows of width bytes, stride bytes apart. start is null for an optional argument left out. */
typedef struct area {
    const char *name;
    uintptr_t start;
    int64_t rows, width, stride;
} area;

/*
 * Checks a pointer to rows of columns elements of dtype, stride elements apart, and describes what it covers.
 * rows, columns >= 1, columns whole blocks; a stride other than columns is for plain types only. It must be memory of the
 * context's device; context is null for what is host memory on every context.
 */
static puna_status check_rows(const puna_context *context, const char *op, const char *name, const void *pointer, int32_t dtype,
                              int64_t rows, int64_t columns, int64_t stride, area *out) {
    puna_block block = puna_block_of(dtype);
    int64_t width, pitch, bytes;
    TRY(check_product(op, name, columns / block.elements, block.bytes, &width));
    TRY(check_product(op, name, stride / block.elements, block.bytes, &pitch));
    TRY(check_product(op, name, rows, pitch, &bytes));
    uintptr_t start = (uintptr_t)pointer;
    if (pointer == NULL)
        return puna_fail(INVALID, "%s: %s is null, expected %" PRId64 " rows of %" PRId64 " elements of %s", op, name, rows,
                         columns, puna_dtype_name(dtype));
    uintptr_t alignment = dtype == PUNA_DTYPE_F32 ? 4 : 2; /* a block's is that of its F16 scale */
    if (start % alignment != 0)
        return puna_fail(INVALID, "%s: %s is at address 0x%" PRIxPTR ", expected a multiple of %" PRIuPTR, op, name, start,
                         alignment);
    if ((uint64_t)bytes > UINTPTR_MAX - start)
        return puna_fail(INVALID, "%s: %s of %" PRId64 " bytes at address 0x%" PRIxPTR " ends beyond the address space", op,
                         name, bytes, start);
    *out = (area){name, start, rows, width, pitch};
    return puna_check_place(context, op, name, pointer, bytes - pitch + width);
}

static puna_status check_bytes(const puna_context *context, const char *op, const char *name, const void *pointer, int64_t bytes,
                               area *out) {
    if (bytes == 0) {
        *out = (area){.name = name};
        return OK;
    }
    if (pointer == NULL) return puna_fail(INVALID, "%s: %s is null, expected %" PRId64 " bytes", op, name, bytes);
    if ((uint64_t)bytes > UINTPTR_MAX - (uintptr_t)pointer)
        return puna_fail(INVALID, "%s: %s of %" PRId64 " bytes ends beyond the address space", op, name, bytes);
    *out = (area){name, (uintptr_t)pointer, 1, bytes, bytes};
    return puna_check_place(context, op, name, pointer, bytes);
}

static puna_status check_double(const char *op, const char *name, const double *pointer) {
    if ((uintptr_t)pointer % sizeof *pointer == 0) return OK;
    return puna_fail(INVALID, "%s: %s is at address 0x%" PRIxPTR ", expected a multiple of 8", op, name, (uintptr_t)pointer);
}

/* Checks every value of an int32 array; pointer has been checked. */
static puna_status check_values(const char *op, const char *name, const int32_t *values, int64_t count, int64_t end) {
    for (int64_t i = 0; i < count; i++)
        if (values[i] < 0 || values[i] >= end)
            return puna_fail(INVALID, "%s: %s[%" PRId64 "] is %d, expected 0 to %" PRId64, op, name, i, values[i], end - 1);
    return OK;
}

static bool areas_overlap(const area *a, const area *b) {
    if (a->start == 0 || b->start == 0) return false;
    if (a->start > b->start) {
        const area *first = b;
        b = a, a = first;
    }
    uintptr_t offset = b->start - a->start;
    uintptr_t extent = (uintptr_t)((a->rows - 1) * a->stride + a->width);
    if (offset >= extent) return false;
    /* Columns of one row-major array: apart when b starts behind a's columns and ends before a's next row begins. */
    if (a->rows == 1 || (b->rows > 1 && b->stride != a->stride)) return true;
    uintptr_t column = offset % (uintptr_t)a->stride;
    return column < (uintptr_t)a->width || column + (uintptr_t)b->width > (uintptr_t)a->stride;
}

static puna_status check_apart(const char *op, const area *output, const area *other) {
    return areas_overlap(output, other) ? puna_fail(INVALID, "%s: %s overlaps %s", op, output->name, other->name) : OK;
}

/* output may be the very memory of input, but not overlap it otherwise. */
static puna_status check_alias(const char *op, const area *output, const area *input) {
    bool same = output->start == input->start && (output->stride == input->stride || output->rows == 1);
    return same ? OK : check_apart(op, output, input);
}

/* ------------------------------------------------- rows --------------------------------------------------------------- */

puna_status puna_dequantize(puna_context *context, float *y, const void *w, int32_t dtype, int64_t rows, int64_t C) {
    const char *op = "puna_dequantize";
    area y_area, w_area;
    TRY(check_context(op, context));
    TRY(check_dtype(op, "dtype", dtype, PUNA_DTYPE_COUNT));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_at_least(op, "C", C, 1));
    TRY(check_blocks(op, "C", C, dtype));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "y", y, PUNA_DTYPE_F32, rows, C, C, &y_area));
    TRY(check_rows(context, op, "w", w, dtype, rows, C, C, &w_area));
    TRY(check_apart(op, &y_area, &w_area));
    return context->ops->dequantize(context, y, w, dtype, rows, C);
}

puna_status puna_embedding_forward(puna_context *context, float *y, const void *table, int32_t dtype, const int32_t *ids,
                                   int64_t rows, int64_t V, int64_t C) {
    const char *op = "puna_embedding_forward";
    area y_area, table_area, ids_area;
    TRY(check_context(op, context));
    TRY(check_dtype(op, "dtype", dtype, PUNA_DTYPE_COUNT));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_at_least(op, "V", V, 1));
    TRY(check_at_least(op, "C", C, 1));
    TRY(check_blocks(op, "C", C, dtype));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "y", y, PUNA_DTYPE_F32, rows, C, C, &y_area));
    TRY(check_rows(context, op, "table", table, dtype, V, C, C, &table_area));
    TRY(check_rows(NULL, op, "ids", ids, PUNA_DTYPE_F32, 1, rows, rows, &ids_area));
    TRY(check_apart(op, &y_area, &table_area));
    TRY(check_apart(op, &y_area, &ids_area));
    TRY(check_values(op, "ids", ids, rows, V));
    return context->ops->embedding_forward(context, y, table, dtype, ids, rows, V, C);
}

puna_status puna_embedding_backward(puna_context *context, float *dtable, const int32_t *ids, const float *dy, int64_t rows,
                                    int64_t V, int64_t C) {
    const char *op = "puna_embedding_backward";
    area dtable_area, ids_area, dy_area;
    TRY(check_context(op, context));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_at_least(op, "V", V, 1));
    TRY(check_at_least(op, "C", C, 1));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "dtable", dtable, PUNA_DTYPE_F32, V, C, C, &dtable_area));
    TRY(check_rows(NULL, op, "ids", ids, PUNA_DTYPE_F32, 1, rows, rows, &ids_area));
    TRY(check_rows(context, op, "dy", dy, PUNA_DTYPE_F32, rows, C, C, &dy_area));
    TRY(check_apart(op, &dtable_area, &ids_area));
    TRY(check_apart(op, &dtable_area, &dy_area));
    TRY(check_values(op, "ids", ids, rows, V));
    return context->ops->embedding_backward(context, dtable, ids, dy, rows, V, C);
}

puna_status puna_rmsnorm_forward(puna_context *context, float *y, float *rstd, const float *x, const void *g, int32_t g_dtype,
                                 int64_t rows, int64_t C, float eps) {
    const char *op = "puna_rmsnorm_forward";
    area y_area, rstd_area = {.name = "rstd"}, x_area, g_area;
    TRY(check_context(op, context));
    TRY(check_dtype(op, "g_dtype", g_dtype, PUNA_DTYPE_BF16 + 1));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_at_least(op, "C", C, 1));
    if (!(eps >= 0 && isfinite(eps)))
        return puna_fail(INVALID, "%s: eps is %g, expected a finite number, at least 0", op, (double)eps);
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "y", y, PUNA_DTYPE_F32, rows, C, C, &y_area));
    if (rstd != NULL) TRY(check_rows(context, op, "rstd", rstd, PUNA_DTYPE_F32, 1, rows, rows, &rstd_area));
    TRY(check_rows(context, op, "x", x, PUNA_DTYPE_F32, rows, C, C, &x_area));
    TRY(check_rows(context, op, "g", g, g_dtype, 1, C, C, &g_area));
    TRY(check_alias(op, &y_area, &x_area));
    TRY(check_apart(op, &y_area, &g_area));
    TRY(check_apart(op, &rstd_area, &y_area));
    TRY(check_apart(op, &rstd_area, &x_area));
    TRY(check_apart(op, &rstd_area, &g_area));
    return context->ops->rmsnorm_forward(context, y, rstd, x, g, g_dtype, rows, C, eps);
}

puna_status puna_rmsnorm_backward(puna_context *context, float *dx, float *dg, const float *x, const void *g, int32_t g_dtype,
                                  const float *rstd, const float *dy, int64_t rows, int64_t C, int32_t accumulate) {
    const char *op = "puna_rmsnorm_backward";
    area dx_area, dg_area = {.name = "dg"}, x_area, g_area, rstd_area, dy_area;
    TRY(check_context(op, context));
    TRY(check_dtype(op, "g_dtype", g_dtype, PUNA_DTYPE_BF16 + 1));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_at_least(op, "C", C, 1));
    TRY(check_range(op, "accumulate", accumulate, 0, 1));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "dx", dx, PUNA_DTYPE_F32, rows, C, C, &dx_area));
    if (dg != NULL) TRY(check_rows(context, op, "dg", dg, PUNA_DTYPE_F32, 1, C, C, &dg_area));
    TRY(check_rows(context, op, "x", x, PUNA_DTYPE_F32, rows, C, C, &x_area));
    TRY(check_rows(context, op, "g", g, g_dtype, 1, C, C, &g_area));
    TRY(check_rows(context, op, "rstd", rstd, PUNA_DTYPE_F32, 1, rows, rows, &rstd_area));
    TRY(check_rows(context, op, "dy", dy, PUNA_DTYPE_F32, rows, C, C, &dy_area));
    TRY(accumulate ? check_apart(op, &dx_area, &dy_area) : check_alias(op, &dx_area, &dy_area));
    TRY(check_apart(op, &dg_area, &dy_area));
    TRY(check_apart(op, &dg_area, &dx_area));
    const area *inputs[] = {&x_area, &g_area, &rstd_area};
    for (int i = 0; i < 3; i++) {
        TRY(check_apart(op, &dx_area, inputs[i]));
        TRY(check_apart(op, &dg_area, inputs[i]));
    }
    return context->ops->rmsnorm_backward(context, dx, dg, x, g, g_dtype, rstd, dy, rows, C, accumulate);
}

puna_status puna_add_forward(puna_context *context, float *y, const float *x, int64_t n) {
    const char *op = "puna_add_forward";
    area y_area, x_area;
    TRY(check_context(op, context));
    TRY(check_at_least(op, "n", n, 0));
    if (n == 0) return OK;
    TRY(check_rows(context, op, "y", y, PUNA_DTYPE_F32, 1, n, n, &y_area));
    TRY(check_rows(context, op, "x", x, PUNA_DTYPE_F32, 1, n, n, &x_area));
    TRY(check_apart(op, &y_area, &x_area));
    return context->ops->add_forward(context, y, x, n);
}

puna_status puna_swiglu_forward(puna_context *context, float *y, int64_t y_stride, const float *gate, const float *up,
                                int64_t x_stride, int64_t rows, int64_t FF) {
    const char *op = "puna_swiglu_forward";
    area y_area, gate_area, up_area;
    TRY(check_context(op, context));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_at_least(op, "FF", FF, 1));
    TRY(check_stride(op, "y_stride", y_stride, FF));
    TRY(check_stride(op, "x_stride", x_stride, FF));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "y", y, PUNA_DTYPE_F32, rows, FF, y_stride, &y_area));
    TRY(check_rows(context, op, "gate", gate, PUNA_DTYPE_F32, rows, FF, x_stride, &gate_area));
    TRY(check_rows(context, op, "up", up, PUNA_DTYPE_F32, rows, FF, x_stride, &up_area));
    TRY(check_alias(op, &y_area, &gate_area));
    TRY(check_alias(op, &y_area, &up_area));
    return context->ops->swiglu_forward(context, y, y_stride, gate, up, x_stride, rows, FF);
}

puna_status puna_swiglu_backward(puna_context *context, float *dgate, float *dup, int64_t dx_stride, const float *gate,
                                 const float *up, int64_t x_stride, const float *dy, int64_t dy_stride, int64_t rows,
                                 int64_t FF) {
    const char *op = "puna_swiglu_backward";
    area dgate_area, dup_area, gate_area, up_area, dy_area;
    TRY(check_context(op, context));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_at_least(op, "FF", FF, 1));
    TRY(check_stride(op, "dx_stride", dx_stride, FF));
    TRY(check_stride(op, "x_stride", x_stride, FF));
    TRY(check_stride(op, "dy_stride", dy_stride, FF));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "dgate", dgate, PUNA_DTYPE_F32, rows, FF, dx_stride, &dgate_area));
    TRY(check_rows(context, op, "dup", dup, PUNA_DTYPE_F32, rows, FF, dx_stride, &dup_area));
    TRY(check_rows(context, op, "gate", gate, PUNA_DTYPE_F32, rows, FF, x_stride, &gate_area));
    TRY(check_rows(context, op, "up", up, PUNA_DTYPE_F32, rows, FF, x_stride, &up_area));
    TRY(check_rows(context, op, "dy", dy, PUNA_DTYPE_F32, rows, FF, dy_stride, &dy_area));
    TRY(check_apart(op, &dup_area, &dgate_area));
    TRY(check_alias(op, &dgate_area, &gate_area));
    TRY(check_apart(op, &dgate_area, &up_area));
    TRY(check_alias(op, &dgate_area, &dy_area));
    TRY(check_apart(op, &dup_area, &gate_area));
    TRY(check_alias(op, &dup_area, &up_area));
    TRY(check_alias(op, &dup_area, &dy_area));
    return context->ops->swiglu_backward(context, dgate, dup, dx_stride, gate, up, x_stride, dy, dy_stride, rows, FF);
}

puna_status puna_log_softmax_forward(puna_context *context, float *y, const float *x, int64_t rows, int64_t V) {
    const char *op = "puna_log_softmax_forward";
    area y_area, x_area;
    TRY(check_context(op, context));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_at_least(op, "V", V, 1));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "y", y, PUNA_DTYPE_F32, rows, V, V, &y_area));
    TRY(check_rows(context, op, "x", x, PUNA_DTYPE_F32, rows, V, V, &x_area));
    TRY(check_alias(op, &y_area, &x_area));
    return context->ops->log_softmax_forward(context, y, x, rows, V);
}

puna_status puna_argmax_forward(puna_context *context, int32_t *y, const float *x, int64_t rows, int64_t V) {
    const char *op = "puna_argmax_forward";
    area y_area, x_area;
    TRY(check_context(op, context));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_range(op, "V", V, 1, INT32_MAX));
    if (rows == 0) return OK;
    TRY(check_rows(NULL, op, "y", y, PUNA_DTYPE_F32, 1, rows, rows, &y_area));
    TRY(check_rows(context, op, "x", x, PUNA_DTYPE_F32, rows, V, V, &x_area));
    TRY(check_apart(op, &y_area, &x_area));
    return context->ops->argmax_forward(context, y, x, rows, V);
}

puna_status puna_candidates_forward(puna_context *context, float *values, int32_t *ids, double *sums, const float *x, int64_t rows,
                                    int64_t V, int64_t n, double temperature) {
    const char *op = "puna_candidates_forward";
    area values_area, ids_area, sums_area = {.name = "sums"}, x_area;
    int64_t sums_bytes;
    TRY(check_context(op, context));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_range(op, "V", V, 1, INT32_MAX));
    TRY(check_range(op, "n", n, 1, puna_min(V, PUNA_CANDIDATES_MAX)));
    if (sums != NULL && !(temperature > 0 && temperature < INFINITY))
        return puna_fail(INVALID, "%s: temperature is %g, expected a finite number above 0", op, temperature);
    if (rows == 0) return OK;
    TRY(check_rows(NULL, op, "values", values, PUNA_DTYPE_F32, rows, n, n, &values_area));
    TRY(check_rows(NULL, op, "ids", ids, PUNA_DTYPE_F32, rows, n, n, &ids_area));
    TRY(check_rows(context, op, "x", x, PUNA_DTYPE_F32, rows, V, V, &x_area));
    if (sums != NULL) {
        TRY(check_product(op, "sums", rows, PUNA_CANDIDATES_PARTS * (int64_t)sizeof *sums, &sums_bytes));
        TRY(check_bytes(NULL, op, "sums", sums, sums_bytes, &sums_area));
        TRY(check_double(op, "sums", sums));
    }
    TRY(check_apart(op, &values_area, &ids_area));
    TRY(check_apart(op, &sums_area, &values_area));
    TRY(check_apart(op, &sums_area, &ids_area));
    TRY(check_apart(op, &values_area, &x_area));
    TRY(check_apart(op, &ids_area, &x_area));
    TRY(check_apart(op, &sums_area, &x_area));
    return context->ops->candidates_forward(context, values, ids, sums, x, rows, V, n, temperature);
}

/* ------------------------------------------------- rotary position embedding ------------------------------------------ */

static puna_status check_head_width(const char *op, int64_t HD) {
    if (HD >= 2 && HD % 2 == 0) return OK;
    return puna_fail(INVALID, "%s: HD is %" PRId64 ", expected an even number, at least 2", op, HD);
}

puna_status puna_rope_table(puna_context *context, float *table, const float *frequencies, const int32_t *positions,
                            int64_t rows, int64_t HD, float magnitude) {
    const char *op = "puna_rope_table";
    area table_area, frequencies_area, positions_area;
    TRY(check_context(op, context));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_head_width(op, HD));
    TRY(check_finite(op, "magnitude", magnitude));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "table", table, PUNA_DTYPE_F32, rows, HD, HD, &table_area));
    TRY(check_rows(context, op, "frequencies", frequencies, PUNA_DTYPE_F32, 1, HD / 2, HD / 2, &frequencies_area));
    TRY(check_rows(NULL, op, "positions", positions, PUNA_DTYPE_F32, 1, rows, rows, &positions_area));
    TRY(check_apart(op, &table_area, &frequencies_area));
    TRY(check_apart(op, &table_area, &positions_area));
    TRY(check_values(op, "positions", positions, rows, (int64_t)INT32_MAX + 1));
    return context->ops->rope_table(context, table, frequencies, positions, rows, HD, magnitude);
}

/* Of both directions. */
static puna_status check_rope(const char *op, const puna_context *context, const char *x_name, const float *x,
                              const char *stride_name, int64_t x_stride, const float *table, int32_t layout, int64_t rows,
                              int64_t heads, int64_t HD) {
    area x_area, table_area;
    int64_t width;
    TRY(check_context(op, context));
    TRY(check_range(op, "layout", layout, PUNA_ROPE_INTERLEAVED, PUNA_ROPE_HALVES));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_at_least(op, "heads", heads, 1));
    TRY(check_head_width(op, HD));
    TRY(check_product(op, "a row of heads", heads, HD, &width));
    TRY(check_stride(op, stride_name, x_stride, width));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, x_name, x, PUNA_DTYPE_F32, rows, width, x_stride, &x_area));
    TRY(check_rows(context, op, "table", table, PUNA_DTYPE_F32, rows, HD, HD, &table_area));
    return check_apart(op, &x_area, &table_area);
}

puna_status puna_rope_forward(puna_context *context, float *x, int64_t x_stride, const float *table, int32_t layout,
                              int64_t rows, int64_t heads, int64_t HD) {
    TRY(check_rope("puna_rope_forward", context, "x", x, "x_stride", x_stride, table, layout, rows, heads, HD));
    return rows == 0 ? OK : context->ops->rope_forward(context, x, x_stride, table, layout, rows, heads, HD);
}

puna_status puna_rope_backward(puna_context *context, float *dx, int64_t dx_stride, const float *table, int32_t layout,
                               int64_t rows, int64_t heads, int64_t HD) {
    TRY(check_rope("puna_rope_backward", context, "dx", dx, "dx_stride", dx_stride, table, layout, rows, heads, HD));
    return rows == 0 ? OK : context->ops->rope_backward(context, dx, dx_stride, table, layout, rows, heads, HD);
}

/* ------------------------------------------------- matrix product ----------------------------------------------------- */

static puna_status check_products(const char *op, const puna_matmul_product *products, int32_t count, int64_t rows,
                                  int64_t K) {
    TRY(check_range(op, "count", count, 1, PUNA_MATMUL_MAX_PRODUCTS));
    if (products == NULL) return puna_fail(INVALID, "%s: products is null, expected %d of them", op, count);
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_at_least(op, "K", K, 1));
    for (int32_t p = 0; p < count; p++) {
        TRY(check_at_least(op, "N of a product", products[p].N, 1));
        TRY(check_stride(op, "y_stride of a product", products[p].y_stride, products[p].N));
        TRY(check_dtype(op, "w_dtype of a product", products[p].w_dtype, PUNA_DTYPE_COUNT));
        TRY(check_range(op, "accumulate of a product", products[p].accumulate, 0, 1));
        TRY(check_blocks(op, "K", K, products[p].w_dtype));
    }
    return OK;
}

/* The products of one call that one kernel computes: those with activations rounded to integers, or the others. */
typedef struct product_part {
    puna_matmul_product products[PUNA_MATMUL_MAX_PRODUCTS];
    float *y[PUNA_MATMUL_MAX_PRODUCTS];
    const void *w[PUNA_MATMUL_MAX_PRODUCTS];
    int32_t count;
} product_part;

static product_part part_of(const puna_matmul_product *products, int32_t count, float *const y[], const void *const w[],
                            int32_t activations, bool integer) {
    product_part part = {.count = 0};
    for (int32_t p = 0; p < count; p++) {
        bool is_integer = activations != PUNA_ACTIVATIONS_F32 && puna_block_of(products[p].w_dtype).elements > 1;
        if (is_integer != integer) continue;
        part.products[part.count] = products[p];
        if (y != NULL) part.y[part.count] = y[p], part.w[part.count] = w[p];
        part.count++;
    }
    return part;
}

/* The two kernels run one after the other and share the workspace. */
static int64_t matmul_workspace(puna_context *context, const puna_matmul_product *products, int32_t count, int64_t rows,
                                int64_t K, int32_t activations) {
    product_part f32 = part_of(products, count, NULL, NULL, activations, false);
    product_part integer = part_of(products, count, NULL, NULL, activations, true);
    int64_t bytes = 0;
    if (f32.count > 0) bytes = context->ops->matmul_workspace_size(context, f32.products, f32.count, rows, K);
    if (integer.count > 0)
        bytes = puna_max(bytes, context->ops->matmul_integer_workspace_size(context, integer.products, integer.count, rows, K,
                                                                            activations));
    return bytes;
}

puna_status puna_matmul_workspace_size(puna_context *context, const puna_matmul_product *products, int32_t count, int64_t rows,
                                       int64_t K, int32_t activations, int64_t *bytes) {
    const char *op = "puna_matmul_workspace_size";
    int64_t x_bytes;
    TRY(check_context(op, context));
    TRY(check_products(op, products, count, rows, K));
    TRY(check_range(op, "activations", activations, PUNA_ACTIVATIONS_F32, PUNA_ACTIVATIONS_INT16));
    TRY(check_product(op, "x", K, 8 * sizeof(float), &x_bytes)); /* packed, a few rows may take several times what they do */
    TRY(check_product(op, "x", rows, x_bytes, &x_bytes));
    if (bytes == NULL) return puna_fail(INVALID, "%s: bytes is null", op);
    *bytes = matmul_workspace(context, products, count, rows, K, activations);
    return OK;
}

puna_status puna_matmul_forward(puna_context *context, const puna_matmul_product *products, int32_t count, float *y0,
                                const void *w0, float *y1, const void *w1, float *y2, const void *w2, const float *x,
                                int64_t x_stride, int64_t rows, int64_t K, int32_t activations, void *workspace,
                                int64_t workspace_bytes) {
    const char *op = "puna_matmul_forward";
    static const char *const y_names[] = {"y0", "y1", "y2"}, *const w_names[] = {"w0", "w1", "w2"};
    float *const y[PUNA_MATMUL_MAX_PRODUCTS] = {y0, y1, y2};
    const void *const w[PUNA_MATMUL_MAX_PRODUCTS] = {w0, w1, w2};
    area y_area[PUNA_MATMUL_MAX_PRODUCTS], w_area[PUNA_MATMUL_MAX_PRODUCTS], x_area, workspace_area;
    TRY(check_context(op, context));
    TRY(check_products(op, products, count, rows, K));
    TRY(check_stride(op, "x_stride", x_stride, K));
    TRY(check_range(op, "activations", activations, PUNA_ACTIVATIONS_F32, PUNA_ACTIVATIONS_INT16));
    TRY(check_at_least(op, "workspace_bytes", workspace_bytes, 0));
    for (int32_t p = count; p < PUNA_MATMUL_MAX_PRODUCTS; p++)
        if (y[p] != NULL || w[p] != NULL)
            return puna_fail(INVALID, "%s: %s is not null, but count is %d", op, y[p] != NULL ? y_names[p] : w_names[p], count);
    if (rows == 0) return OK;

    TRY(check_rows(context, op, "x", x, PUNA_DTYPE_F32, rows, K, x_stride, &x_area));
    for (int32_t p = 0; p < count; p++) {
        TRY(check_rows(context, op, y_names[p], y[p], PUNA_DTYPE_F32, rows, products[p].N, products[p].y_stride, &y_area[p]));
        TRY(check_rows(context, op, w_names[p], w[p], products[p].w_dtype, products[p].N, K, K, &w_area[p]));
    }
    int64_t wanted = matmul_workspace(context, products, count, rows, K, activations);
    TRY(check_at_least(op, "workspace_bytes", workspace_bytes, wanted));
    TRY(check_bytes(context, op, "workspace", workspace, wanted, &workspace_area));
    TRY(check_apart(op, &workspace_area, &x_area));
    for (int32_t p = 0; p < count; p++) {
        TRY(check_apart(op, &y_area[p], &x_area));
        TRY(check_apart(op, &workspace_area, &y_area[p]));
        TRY(check_apart(op, &workspace_area, &w_area[p]));
        for (int32_t other = 0; other < count; other++) {
            TRY(check_apart(op, &y_area[p], &w_area[other]));
            if (other < p) TRY(check_apart(op, &y_area[p], &y_area[other]));
        }
    }
    product_part f32 = part_of(products, count, y, w, activations, false);
    product_part integer = part_of(products, count, y, w, activations, true);
    if (f32.count > 0)
        TRY(context->ops->matmul_forward(context, f32.products, f32.count, f32.y, f32.w, x, x_stride, rows, K, workspace));
    if (integer.count > 0)
        TRY(context->ops->matmul_integer_forward(context, integer.products, integer.count, integer.y, integer.w, x, x_stride, rows,
                                                 K, activations, workspace));
    return OK;
}

puna_status puna_matmul_backward_workspace_size(puna_context *context, int64_t *bytes) {
    const char *op = "puna_matmul_backward_workspace_size";
    TRY(check_context(op, context));
    if (bytes == NULL) return puna_fail(INVALID, "%s: bytes is null", op);
    *bytes = context->ops->matmul_backward_workspace_size(context);
    return OK;
}

/* output, inputs and workspace share nothing; the workspace is as large as the backward passes want it. */
static puna_status check_gradient(const char *op, puna_context *context, const area *output, const area *input, const area *dy,
                                  void *workspace, int64_t workspace_bytes) {
    area workspace_area;
    int64_t wanted = context->ops->matmul_backward_workspace_size(context);
    TRY(check_at_least(op, "workspace_bytes", workspace_bytes, wanted));
    TRY(check_bytes(context, op, "workspace", workspace, wanted, &workspace_area));
    TRY(check_apart(op, output, input));
    TRY(check_apart(op, output, dy));
    TRY(check_apart(op, &workspace_area, output));
    TRY(check_apart(op, &workspace_area, input));
    return check_apart(op, &workspace_area, dy);
}

puna_status puna_matmul_input_backward(puna_context *context, float *dx, int64_t dx_stride, const void *w, int32_t w_dtype,
                                       const float *dy, int64_t dy_stride, int64_t rows, int64_t N, int64_t K,
                                       int32_t accumulate, void *workspace, int64_t workspace_bytes) {
    const char *op = "puna_matmul_input_backward";
    area dx_area, w_area, dy_area;
    TRY(check_context(op, context));
    TRY(check_dtype(op, "w_dtype", w_dtype, PUNA_DTYPE_BF16 + 1));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_at_least(op, "N", N, 1));
    TRY(check_at_least(op, "K", K, 1));
    TRY(check_range(op, "accumulate", accumulate, 0, 1));
    TRY(check_stride(op, "dx_stride", dx_stride, K));
    TRY(check_stride(op, "dy_stride", dy_stride, N));
    TRY(check_at_least(op, "workspace_bytes", workspace_bytes, 0));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "dx", dx, PUNA_DTYPE_F32, rows, K, dx_stride, &dx_area));
    TRY(check_rows(context, op, "w", w, w_dtype, N, K, K, &w_area));
    TRY(check_rows(context, op, "dy", dy, PUNA_DTYPE_F32, rows, N, dy_stride, &dy_area));
    TRY(check_gradient(op, context, &dx_area, &w_area, &dy_area, workspace, workspace_bytes));
    return context->ops->matmul_input_backward(context, dx, dx_stride, w, w_dtype, dy, dy_stride, rows, N, K, accumulate,
                                               workspace);
}

puna_status puna_matmul_weight_backward(puna_context *context, float *dw, const float *x, int64_t x_stride, const float *dy,
                                        int64_t dy_stride, int64_t rows, int64_t N, int64_t K, void *workspace,
                                        int64_t workspace_bytes) {
    const char *op = "puna_matmul_weight_backward";
    area dw_area, x_area, dy_area;
    TRY(check_context(op, context));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_at_least(op, "N", N, 1));
    TRY(check_at_least(op, "K", K, 1));
    TRY(check_stride(op, "x_stride", x_stride, K));
    TRY(check_stride(op, "dy_stride", dy_stride, N));
    TRY(check_at_least(op, "workspace_bytes", workspace_bytes, 0));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "dw", dw, PUNA_DTYPE_F32, N, K, K, &dw_area));
    TRY(check_rows(context, op, "x", x, PUNA_DTYPE_F32, rows, K, x_stride, &x_area));
    TRY(check_rows(context, op, "dy", dy, PUNA_DTYPE_F32, rows, N, dy_stride, &dy_area));
    TRY(check_gradient(op, context, &dw_area, &x_area, &dy_area, workspace, workspace_bytes));
    return context->ops->matmul_weight_backward(context, dw, x, x_stride, dy, dy_stride, rows, N, K, workspace);
}

/* ------------------------------------------------- attention ---------------------------------------------------------- */

static puna_status check_heads(const char *op, int64_t NH, int64_t NKV, int64_t HD) {
    int64_t width;
    TRY(check_at_least(op, "NKV", NKV, 1));
    TRY(check_at_least(op, "NH", NH, 1));
    TRY(check_range(op, "HD", HD, 1, INT32_MAX)); /* so that no size of a workspace overflows */
    if (NH % NKV != 0)
        return puna_fail(INVALID, "%s: NH is %" PRId64 ", expected a multiple of NKV, %" PRId64, op, NH, NKV);
    return check_product(op, "a row of heads", NH, HD, &width);
}

puna_status puna_attention_workspace_size(puna_context *context, int64_t NH, int64_t NKV, int64_t HD, int64_t *bytes) {
    const char *op = "puna_attention_workspace_size";
    TRY(check_context(op, context));
    TRY(check_heads(op, NH, NKV, HD));
    if (bytes == NULL) return puna_fail(INVALID, "%s: bytes is null", op);
    *bytes = context->ops->attention_workspace_size(context, NH, NKV, HD);
    return OK;
}

puna_status puna_attention_forward(puna_context *context, float *y, int64_t y_stride, float *lse, const float *q,
                                   int64_t q_stride, const float *k, const float *v, int64_t kv_stride, int64_t B, int64_t T,
                                   int64_t S, int64_t NH, int64_t NKV, int64_t HD, int64_t window, float scale, void *workspace,
                                   int64_t workspace_bytes) {
    const char *op = "puna_attention_forward";
    area y_area, lse_area = {.name = "lse"}, q_area, k_area, v_area, workspace_area;
    int64_t q_rows, kv_rows, lse_elements;
    TRY(check_context(op, context));
    TRY(check_heads(op, NH, NKV, HD));
    TRY(check_at_least(op, "B", B, 0));
    TRY(check_at_least(op, "T", T, 0));
    TRY(check_at_least(op, "S", S, T));
    TRY(check_at_least(op, "window", window, 0));
    TRY(check_finite(op, "scale", scale));
    TRY(check_stride(op, "y_stride", y_stride, NH * HD));
    TRY(check_stride(op, "q_stride", q_stride, NH * HD));
    TRY(check_stride(op, "kv_stride", kv_stride, NKV * HD));
    TRY(check_at_least(op, "workspace_bytes", workspace_bytes, 0));
    TRY(check_product(op, "q", B, T, &q_rows));
    TRY(check_product(op, "k", B, S, &kv_rows));
    TRY(check_product(op, "lse", q_rows, NH, &lse_elements));
    if (q_rows == 0) return OK;

    TRY(check_rows(context, op, "y", y, PUNA_DTYPE_F32, q_rows, NH * HD, y_stride, &y_area));
    if (lse != NULL) TRY(check_rows(context, op, "lse", lse, PUNA_DTYPE_F32, 1, lse_elements, lse_elements, &lse_area));
    TRY(check_rows(context, op, "q", q, PUNA_DTYPE_F32, q_rows, NH * HD, q_stride, &q_area));
    TRY(check_rows(context, op, "k", k, PUNA_DTYPE_F32, kv_rows, NKV * HD, kv_stride, &k_area));
    TRY(check_rows(context, op, "v", v, PUNA_DTYPE_F32, kv_rows, NKV * HD, kv_stride, &v_area));
    int64_t wanted = context->ops->attention_workspace_size(context, NH, NKV, HD);
    TRY(check_at_least(op, "workspace_bytes", workspace_bytes, wanted));
    TRY(check_bytes(context, op, "workspace", workspace, wanted, &workspace_area));
    const area *outputs[] = {&y_area, &lse_area, &workspace_area}, *inputs[] = {&q_area, &k_area, &v_area};
    for (int o = 0; o < 3; o++) {
        for (int i = 0; i < 3; i++) TRY(check_apart(op, outputs[o], inputs[i]));
        for (int other = 0; other < o; other++) TRY(check_apart(op, outputs[o], outputs[other]));
    }
    return context->ops->attention_forward(context, y, y_stride, lse, q, q_stride, k, v, kv_stride, B, T, S, NH, NKV, HD,
                                           window, scale, workspace);
}

puna_status puna_attention_backward_workspace_size(puna_context *context, int64_t NH, int64_t NKV, int64_t HD, int64_t *bytes) {
    const char *op = "puna_attention_backward_workspace_size";
    TRY(check_context(op, context));
    TRY(check_heads(op, NH, NKV, HD));
    if (bytes == NULL) return puna_fail(INVALID, "%s: bytes is null", op);
    *bytes = context->ops->attention_backward_workspace_size(context, NH, NKV, HD);
    return OK;
}

puna_status puna_attention_backward(puna_context *context, float *dq, int64_t dq_stride, float *dk, float *dv,
                                    int64_t dkv_stride, const float *q, int64_t q_stride, const float *k, const float *v,
                                    int64_t kv_stride, const float *y, int64_t y_stride, const float *dy, int64_t dy_stride,
                                    const float *lse, int64_t B, int64_t T, int64_t S, int64_t NH, int64_t NKV, int64_t HD,
                                    int64_t window, float scale, void *workspace, int64_t workspace_bytes) {
    const char *op = "puna_attention_backward";
    area outputs[4], inputs[6]; /* dq, dk, dv, workspace; q, k, v, y, dy, lse */
    int64_t q_rows, kv_rows, lse_elements;
    TRY(check_context(op, context));
    TRY(check_heads(op, NH, NKV, HD));
    TRY(check_at_least(op, "B", B, 0));
    TRY(check_at_least(op, "T", T, 0));
    TRY(check_at_least(op, "S", S, T));
    TRY(check_at_least(op, "window", window, 0));
    TRY(check_finite(op, "scale", scale));
    TRY(check_stride(op, "dq_stride", dq_stride, NH * HD));
    TRY(check_stride(op, "dkv_stride", dkv_stride, NKV * HD));
    TRY(check_stride(op, "q_stride", q_stride, NH * HD));
    TRY(check_stride(op, "kv_stride", kv_stride, NKV * HD));
    TRY(check_stride(op, "y_stride", y_stride, NH * HD));
    TRY(check_stride(op, "dy_stride", dy_stride, NH * HD));
    TRY(check_at_least(op, "workspace_bytes", workspace_bytes, 0));
    TRY(check_product(op, "q", B, T, &q_rows));
    TRY(check_product(op, "k", B, S, &kv_rows));
    TRY(check_product(op, "lse", q_rows, NH, &lse_elements));
    if (kv_rows == 0) return OK;

    int64_t wanted = context->ops->attention_backward_workspace_size(context, NH, NKV, HD);
    TRY(check_rows(context, op, "dk", dk, PUNA_DTYPE_F32, kv_rows, NKV * HD, dkv_stride, &outputs[1]));
    TRY(check_rows(context, op, "dv", dv, PUNA_DTYPE_F32, kv_rows, NKV * HD, dkv_stride, &outputs[2]));
    TRY(check_at_least(op, "workspace_bytes", workspace_bytes, wanted));
    TRY(check_bytes(context, op, "workspace", workspace, wanted, &outputs[3]));
    TRY(check_rows(context, op, "k", k, PUNA_DTYPE_F32, kv_rows, NKV * HD, kv_stride, &inputs[1]));
    TRY(check_rows(context, op, "v", v, PUNA_DTYPE_F32, kv_rows, NKV * HD, kv_stride, &inputs[2]));
    outputs[0] = inputs[0] = inputs[3] = inputs[4] = inputs[5] = (area){.name = "nothing"}; /* T 0: keys that no row sees */
    if (q_rows > 0) {
        TRY(check_rows(context, op, "dq", dq, PUNA_DTYPE_F32, q_rows, NH * HD, dq_stride, &outputs[0]));
        TRY(check_rows(context, op, "q", q, PUNA_DTYPE_F32, q_rows, NH * HD, q_stride, &inputs[0]));
        TRY(check_rows(context, op, "y", y, PUNA_DTYPE_F32, q_rows, NH * HD, y_stride, &inputs[3]));
        TRY(check_rows(context, op, "dy", dy, PUNA_DTYPE_F32, q_rows, NH * HD, dy_stride, &inputs[4]));
        TRY(check_rows(context, op, "lse", lse, PUNA_DTYPE_F32, 1, lse_elements, lse_elements, &inputs[5]));
    }
    for (int o = 0; o < 4; o++) {
        for (int i = 0; i < 6; i++) TRY(check_apart(op, &outputs[o], &inputs[i]));
        for (int other = 0; other < o; other++) TRY(check_apart(op, &outputs[o], &outputs[other]));
    }
    return context->ops->attention_backward(context, dq, dq_stride, dk, dv, dkv_stride, q, q_stride, k, v, kv_stride, y, y_stride,
                                            dy, dy_stride, lse, B, T, S, NH, NKV, HD, window, scale, workspace);
}

static puna_status check_cache_dtype(const char *op, int32_t dtype, int64_t HD) {
    if (dtype < PUNA_DTYPE_F32 || dtype > PUNA_DTYPE_Q8_0)
        return puna_fail(INVALID, "%s: cache_dtype is %d, expected 0 (F32) to 3 (Q8_0)", op, dtype);
    return check_blocks(op, "HD", HD, dtype);
}

/*
 * Checks the sequences of a step and their caches, up to and including the layer, and counts the step's rows. A cache may be
 * null only for a sequence without rows. Whether a cache overlaps an array is left to check_caches_apart.
 */
static puna_status check_sequences(const puna_context *context, const char *op, const puna_kv_sequence *sequences, int32_t count,
                                   int32_t cache_dtype, int64_t layer, int64_t NKV, int64_t HD, int64_t *rows) {
    TRY(check_at_least(op, "count", count, 0));
    TRY(check_cache_dtype(op, cache_dtype, HD));
    TRY(check_range(op, "layer", layer, 0, INT32_MAX));
    if (count > 0 && sequences == NULL) return puna_fail(INVALID, "%s: sequences is null, expected %d of them", op, count);
    *rows = 0;
    for (int32_t s = 0; s < count; s++) {
        const puna_kv_sequence *sequence = &sequences[s];
        if (sequence->capacity < 1 || sequence->position < 0 || sequence->rows < 0 ||
            sequence->position > sequence->capacity || sequence->rows > sequence->capacity - sequence->position)
            return puna_fail(INVALID, "%s: sequences[%d] has position %" PRId64 ", rows %" PRId64 " and capacity %" PRId64
                             ", expected none negative and position + rows at most capacity", op, s, sequence->position,
                             sequence->rows, sequence->capacity);
        if (__builtin_add_overflow(*rows, sequence->rows, rows))
            return puna_fail(INVALID, "%s: the rows of the sequences together do not fit 64 bits", op);
        area cache;
        int64_t heads, cache_rows;
        TRY(check_product(op, "a cache", (layer + 1) * 2, NKV, &heads));
        TRY(check_product(op, "a cache", heads, sequence->capacity, &cache_rows));
        if (sequence->rows > 0)
            TRY(check_rows(context, op, "cache of a sequence", sequence->cache, cache_dtype, cache_rows, HD, HD, &cache));
    }
    return OK;
}

/* On a recording: the sequences are those of the calls before, as far as a replay may not change them. */
static puna_status record_sequences(puna_context *context, const char *op, const puna_kv_sequence *sequences, int32_t count,
                                    int32_t cache_dtype, int64_t layer, int64_t NKV, int64_t HD) {
    if (context->parent == NULL) return OK;
    puna_recorded *recorded = &context->recorded;
    int64_t capacity = 0;
    for (int32_t s = 0; s < count; s++) capacity = puna_max(capacity, sequences[s].capacity);
    bool alike = recorded->count == 0 || (recorded->count == count && recorded->cache_dtype == cache_dtype && recorded->NKV == NKV &&
                                          recorded->HD == HD && recorded->capacity == capacity);
    for (int32_t s = 0; s < count; s++) alike = alike && sequences[s].rows == 1;
    if (!alike || count > PUNA_RECORDING_MAX_SEQUENCES)
        return puna_fail(PUNA_STATUS_UNSUPPORTED, "%s: sequences: a recording takes up to %d of one row each, alike in all its calls", op,
                         PUNA_RECORDING_MAX_SEQUENCES);
    *recorded = (puna_recorded){false, count, cache_dtype, puna_max(recorded->layers, layer + 1), capacity, NKV, HD};
    return OK;
}

/* array, and the layer's part of every cache, share no byte. */
static puna_status check_caches_apart(const char *op, const puna_kv_sequence *sequences, int32_t count, int32_t cache_dtype,
                                      int64_t layer, int64_t NKV, int64_t HD, const area *array) {
    for (int32_t s = 0; s < count; s++) {
        if (sequences[s].rows == 0) continue;
        int64_t bytes = 2 * NKV * sequences[s].capacity * puna_row_bytes(cache_dtype, HD);
        area cache = {"cache of a sequence", (uintptr_t)sequences[s].cache + (uintptr_t)(layer * bytes), 1, bytes, bytes};
        TRY(check_apart(op, array, &cache));
    }
    return OK;
}

puna_status puna_kv_append(puna_context *context, const puna_kv_sequence *sequences, int32_t count, int32_t cache_dtype,
                           int64_t layer, const float *k, const float *v, int64_t kv_stride, int64_t NKV, int64_t HD) {
    const char *op = "puna_kv_append";
    area k_area, v_area;
    int64_t rows;
    TRY(check_context(op, context));
    TRY(check_heads(op, NKV, NKV, HD));
    TRY(check_stride(op, "kv_stride", kv_stride, NKV * HD));
    TRY(check_sequences(context, op, sequences, count, cache_dtype, layer, NKV, HD, &rows));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "k", k, PUNA_DTYPE_F32, rows, NKV * HD, kv_stride, &k_area));
    TRY(check_rows(context, op, "v", v, PUNA_DTYPE_F32, rows, NKV * HD, kv_stride, &v_area));
    TRY(check_caches_apart(op, sequences, count, cache_dtype, layer, NKV, HD, &k_area));
    TRY(check_caches_apart(op, sequences, count, cache_dtype, layer, NKV, HD, &v_area));
    TRY(record_sequences(context, op, sequences, count, cache_dtype, layer, NKV, HD));
    return context->ops->kv_append(context, sequences, count, cache_dtype, layer, k, v, kv_stride, NKV, HD);
}

puna_status puna_attention_cached_forward(puna_context *context, float *y, int64_t y_stride, const float *q, int64_t q_stride,
                                          const puna_kv_sequence *sequences, int32_t count, int32_t cache_dtype, int64_t layer,
                                          int64_t NH, int64_t NKV, int64_t HD, int64_t window, float scale, void *workspace,
                                          int64_t workspace_bytes) {
    const char *op = "puna_attention_cached_forward";
    area y_area, q_area, workspace_area;
    int64_t rows;
    TRY(check_context(op, context));
    TRY(check_heads(op, NH, NKV, HD));
    TRY(check_at_least(op, "window", window, 0));
    TRY(check_finite(op, "scale", scale));
    TRY(check_stride(op, "y_stride", y_stride, NH * HD));
    TRY(check_stride(op, "q_stride", q_stride, NH * HD));
    TRY(check_at_least(op, "workspace_bytes", workspace_bytes, 0));
    TRY(check_sequences(context, op, sequences, count, cache_dtype, layer, NKV, HD, &rows));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "y", y, PUNA_DTYPE_F32, rows, NH * HD, y_stride, &y_area));
    TRY(check_rows(context, op, "q", q, PUNA_DTYPE_F32, rows, NH * HD, q_stride, &q_area));
    TRY(check_apart(op, &y_area, &q_area));
    TRY(check_caches_apart(op, sequences, count, cache_dtype, layer, NKV, HD, &y_area));
    int64_t wanted = context->ops->attention_workspace_size(context, NH, NKV, HD);
    TRY(check_at_least(op, "workspace_bytes", workspace_bytes, wanted));
    TRY(check_bytes(context, op, "workspace", workspace, wanted, &workspace_area));
    TRY(check_apart(op, &workspace_area, &y_area));
    TRY(check_apart(op, &workspace_area, &q_area));
    TRY(check_caches_apart(op, sequences, count, cache_dtype, layer, NKV, HD, &workspace_area));
    TRY(record_sequences(context, op, sequences, count, cache_dtype, layer, NKV, HD));
    return context->ops->attention_cached_forward(context, y, y_stride, q, q_stride, sequences, count, cache_dtype, layer, NH,
                                                  NKV, HD, window, scale, workspace);
}

/* ------------------------------------------------- recordings -------------------------------------------------------- */

static puna_status check_recording(const char *op, const puna_context *recording, bool ended) {
    if (recording == NULL) return puna_fail(INVALID, "%s: recording is null", op);
    if (recording->parent == NULL) return puna_fail(INVALID, "%s: this context is no recording", op);
    return recording->recorded.ended == ended ? OK : puna_fail(INVALID, "%s: the recording has%s ended", op, ended ? " not" : "");
}

puna_status puna_recording_end(puna_context *recording) {
    TRY(check_recording("puna_recording_end", recording, false));
    recording->recorded.ended = true;
    return recording->backend->end(recording);
}

puna_status puna_recording_replay(puna_context *recording, const puna_kv_sequence *sequences, int32_t count) {
    const char *op = "puna_recording_replay";
    TRY(check_recording(op, recording, true));
    const puna_recorded *recorded = &recording->recorded;
    TRY(check_range(op, "count", count, recorded->count, recorded->count));
    int64_t rows;
    if (count > 0)
        TRY(check_sequences(recording, op, sequences, count, recorded->cache_dtype, recorded->layers - 1, recorded->NKV, recorded->HD,
                            &rows));
    for (int32_t s = 0; s < count; s++)
        if (sequences[s].rows != 1 || sequences[s].capacity > recorded->capacity)
            return puna_fail(INVALID, "%s: sequences[%d] has rows %" PRId64 " and capacity %" PRId64 ", expected 1 and at most %" PRId64,
                             op, s, sequences[s].rows, sequences[s].capacity, recorded->capacity);
    return recording->backend->replay(recording, sequences, count);
}

/* ------------------------------------------------- loss and optimiser ------------------------------------------------- */

puna_status puna_cross_entropy_forward_backward(puna_context *context, float *losses, float *dlogits, const float *logits,
                                                const int32_t *targets, int32_t ignored, float scale, int64_t rows,
                                                int64_t V) {
    const char *op = "puna_cross_entropy_forward_backward";
    area losses_area, dlogits_area = {.name = "dlogits"}, logits_area, targets_area;
    TRY(check_context(op, context));
    TRY(check_at_least(op, "rows", rows, 0));
    TRY(check_range(op, "V", V, 1, INT32_MAX));
    TRY(check_finite(op, "scale", scale));
    if (rows == 0) return OK;
    TRY(check_rows(context, op, "losses", losses, PUNA_DTYPE_F32, 1, rows, rows, &losses_area));
    if (dlogits != NULL) TRY(check_rows(context, op, "dlogits", dlogits, PUNA_DTYPE_F32, rows, V, V, &dlogits_area));
    TRY(check_rows(context, op, "logits", logits, PUNA_DTYPE_F32, rows, V, V, &logits_area));
    TRY(check_rows(NULL, op, "targets", targets, PUNA_DTYPE_F32, 1, rows, rows, &targets_area));
    if (dlogits != NULL) TRY(check_alias(op, &dlogits_area, &logits_area));
    TRY(check_apart(op, &dlogits_area, &targets_area));
    TRY(check_apart(op, &losses_area, &logits_area));
    TRY(check_apart(op, &losses_area, &dlogits_area));
    TRY(check_apart(op, &losses_area, &targets_area));
    for (int64_t r = 0; r < rows; r++)
        if (targets[r] != ignored && (targets[r] < 0 || targets[r] >= V))
            return puna_fail(INVALID, "%s: targets[%" PRId64 "] is %d, expected 0 to %" PRId64 ", or %d to ignore the row", op, r,
                             targets[r], V - 1, ignored);
    return context->ops->cross_entropy_forward_backward(context, losses, dlogits, logits, targets, ignored, scale, rows, V);
}

puna_status puna_squared_norm(puna_context *context, double *result, const float *x, int64_t n) {
    const char *op = "puna_squared_norm";
    area result_area, x_area = {.name = "x"};
    TRY(check_context(op, context));
    TRY(check_at_least(op, "n", n, 0));
    TRY(check_bytes(NULL, op, "result", result, sizeof *result, &result_area));
    TRY(check_double(op, "result", result));
    if (n > 0) TRY(check_rows(context, op, "x", x, PUNA_DTYPE_F32, 1, n, n, &x_area));
    TRY(check_apart(op, &result_area, &x_area));
    return context->ops->squared_norm(context, result, x, n);
}

static puna_status check_coefficient(const char *op, const char *name, double value, double end) {
    if (value >= 0 && value < end) return OK;
    if (end == 1) return puna_fail(INVALID, "%s: %s is %g, expected a number in [0, 1)", op, name, value);
    return puna_fail(INVALID, "%s: %s is %g, expected a finite number, at least 0", op, name, value);
}

puna_status puna_adamw_step(puna_context *context, float *w, float *m, float *v, const float *g, int64_t n, int64_t step,
                            double learning_rate, double beta1, double beta2, double eps, double weight_decay,
                            double gradient_scale) {
    const char *op = "puna_adamw_step";
    const char *const names[] = {"w", "m", "v", "g"};
    const float *const pointers[] = {w, m, v, g};
    area areas[4];
    TRY(check_context(op, context));
    TRY(check_at_least(op, "n", n, 0));
    TRY(check_at_least(op, "step", step, 1));
    TRY(check_coefficient(op, "learning_rate", learning_rate, INFINITY));
    TRY(check_coefficient(op, "beta1", beta1, 1));
    TRY(check_coefficient(op, "beta2", beta2, 1));
    TRY(check_coefficient(op, "eps", eps, INFINITY));
    TRY(check_coefficient(op, "weight_decay", weight_decay, INFINITY));
    if (!isfinite(gradient_scale))
        return puna_fail(INVALID, "%s: gradient_scale is %g, expected a finite number", op, gradient_scale);
    if (n == 0) return OK;
    for (int i = 0; i < 4; i++) {
        TRY(check_rows(context, op, names[i], pointers[i], PUNA_DTYPE_F32, 1, n, n, &areas[i]));
        for (int other = 0; other < i; other++) TRY(check_apart(op, &areas[other], &areas[i]));
    }
    return context->ops->adamw_step(context, w, m, v, g, n, step, learning_rate, beta1, beta2, eps, weight_decay,
                                    gradient_scale);
}
