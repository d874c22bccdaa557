/* The benchmark's report as text, Markdown, JSON, and a picture of all cases under the roofline. */
#include "bench.h"

static double memory_seconds(const bench_row *row) { return row->bytes / row->ceilings.read; }

static double operation_seconds(const bench_row *row) {
    const bench_ceilings *c = &row->ceilings;
    return row->operations / (row->bits == 8 ? c->multiply8 : row->bits == 16 ? c->multiply16 : c->multiply);
}

static bool moves_bytes(const bench_row *row) { return memory_seconds(row) >= operation_seconds(row); }

/* The shortest time that the ceilings leave, over the median. Memory is no limit to what a cache holds: then it is not a number. */
static double share_of_ceiling(const bench_row *row) {
    if (moves_bytes(row)) return row->cached ? NAN : memory_seconds(row) / row->seconds;
    return operation_seconds(row) / row->seconds;
}

static double rate(const bench_row *row) { return 1e-9 * (moves_bytes(row) ? row->bytes : row->operations) / row->seconds; }

static const char *unit(const bench_row *row) { return moves_bytes(row) ? "GB/s" : row->bits > 0 ? "GOP/s" : "GFLOP/s"; }

static const char *percent(const bench_row *row) {
    static char text[16];
    double share = share_of_ceiling(row);
    if (isnan(share)) return "cached";
    snprintf(text, sizeof text, "%.1f %%", 100 * share);
    return text;
}

static const char *integers(const bench_row *row) { return row->bits == 8 ? " int8" : row->bits == 16 ? " int16" : ""; }

static double spread(const bench_row *row) { return 50 * (row->high - row->low) / row->seconds; }

/* ------------------------------------------------- the picture -------------------------------------------------------- */

enum { WIDTH = 960, HEIGHT = 620, LEFT = 70, TOP = 60, RIGHT = 230, BOTTOM = 60, OPS = 32 };

/* Both axes are logarithmic: operations a byte from 2^-4 to 2^12, operations a second from 10^8 to 10^13. */
static double x_of(double intensity) { return LEFT + (log2(intensity) + 4) / 16 * (WIDTH - LEFT - RIGHT); }
static double y_of(double operations) { return HEIGHT - BOTTOM - (log10(operations) - 8) / 5 * (HEIGHT - TOP - BOTTOM); }

static const char *shown[OPS];
static int shown_count;

/* A colour for every operation, in the order in which they come. */
static int hue_of(const char *op) {
    for (int i = 0; i < shown_count; i++)
        if (strcmp(shown[i], op) == 0) return i * 137 % 360;
    if (shown_count == OPS) return 0;
    int hue = shown_count * 137 % 360, y = TOP + 18 * shown_count;
    shown[shown_count++] = op;
    printf("<circle cx='%d' cy='%d' r='4' fill='hsl(%d 70%% 42%%)'/><text x='%d' y='%d'>%s</text>\n", WIDTH - RIGHT + 24, y - 4,
           hue, WIDTH - RIGHT + 34, y, op);
    return hue;
}

static void roof(double read, double multiply, const char *name) {
    double ridge = multiply / read;
    printf("<polyline points='%.1f,%.1f %.1f,%.1f %.1f,%.1f' fill='none' stroke='#444'/><text x='%.1f' y='%.1f' text-anchor='end'>"
           "%s %.0f Gop/s</text>\n", x_of(0x1p-4), y_of(read * 0x1p-4), x_of(ridge), y_of(multiply), x_of(0x1p12), y_of(multiply),
           x_of(0x1p12), y_of(multiply) - 5, name, multiply * 1e-9);
}

/* Axes and roofs; the points follow. */
static void frame(const char *title, const bench_ceilings *ceilings) {
    printf("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' font-family='sans-serif' font-size='12'>\n"
           "<rect width='100%%' height='100%%' fill='#fff'/><text x='%d' y='24'>%s</text>\n", WIDTH, HEIGHT, LEFT, title);
    for (int e = -4; e <= 12; e += 2) {
        double x = x_of(exp2(e));
        printf("<path d='M%.1f %d V%d' stroke='#ddd'/><text x='%.1f' y='%d' text-anchor='middle'>%g</text>\n", x, TOP,
               HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 18, exp2(e));
    }
    for (int e = 8; e <= 13; e++) {
        double y = y_of(pow(10, e));
        printf("<path d='M%d %.1f H%d' stroke='#ddd'/><text x='%d' y='%.1f' text-anchor='end'>%g</text>\n", LEFT, y, WIDTH - RIGHT,
               LEFT - 6, y + 4, pow(10, e - 9));
    }
    printf("<text x='%d' y='%d' text-anchor='middle'>operations a byte that must move</text>\n", (LEFT + WIDTH - RIGHT) / 2,
           HEIGHT - 20);
    printf("<text x='%d' y='%d'>10⁹ operations a second</text>\n", LEFT, TOP - 10);
    roof(ceilings->read, ceilings->multiply, "F32");
    roof(ceilings->read, ceilings->multiply8, "int8");
    roof(ceilings->read, ceilings->multiply16, "int16");
}

static void point(const bench_row *row) {
    if (row->operations == 0 || row->bytes == 0) return;
    int hue = hue_of(row->op);
    printf("<circle cx='%.1f' cy='%.1f' r='4' fill='hsl(%d 70%% 42%%)' fill-opacity='%s' stroke='hsl(%d 70%% 42%%)'>"
           "<title>%s %s%s %s: %.1f µs, %s</title></circle>\n", x_of(row->operations / row->bytes),
           y_of(row->operations / row->seconds), hue, row->cached ? "0" : "0.8", hue, row->op, row->dtype, integers(row),
           row->shape, row->seconds * 1e6, percent(row));
}

/* ------------------------------------------------- the report --------------------------------------------------------- */

static bool first_object = true;

static void json_separator(void) {
    printf(first_object ? "\n" : ",\n");
    first_object = false;
}

void bench_report_begin(bench_format format) {
    if (format == BENCH_JSON) printf("[");
}

void bench_report_context(bench_format format, puna_context *context, const bench_ceilings *ceilings, int64_t bytes,
                          double fork_join) {
    char name[96], line[400];
    puna_context_describe(context, name, sizeof name);
    snprintf(line, sizeof line, "%s: memory reads %.1f GB/s and copies %.1f GB/s (%lld MiB), F32 %.1f GFLOP/s, int8 %.1f GOP/s, "
             "int16 %.1f GOP/s, starting and ending a job %.2f us", name, ceilings->read * 1e-9, ceilings->copy * 1e-9,
             (long long)(bytes >> 20),
             ceilings->multiply * 1e-9, ceilings->multiply8 * 1e-9, ceilings->multiply16 * 1e-9, fork_join * 1e6);
    switch (format) {
    case BENCH_TEXT: printf("%s\n", line); break;
    case BENCH_MARKDOWN:
        printf("\n%s\n\n| operation | type | shape | µs | ± %% | rate | of the ceiling |\n|---|---|---|---|---|---|---|\n", line);
        break;
    case BENCH_JSON:
        json_separator();
        printf("{\"context\": \"%s\", \"memory_bytes\": %lld, \"fork_join_seconds\": %.9g}", name, (long long)bytes, fork_join);
        break;
    case BENCH_SVG: frame(line, ceilings); break;
    }
    fflush(stdout);
}

void bench_report_row(bench_format format, const bench_row *row) {
    const char *type = integers(row);
    double share = share_of_ceiling(row);
    switch (format) {
    case BENCH_TEXT:
        printf("%-26s %-9s %s%s %-*s %10.1f us ±%3.0f %%  %7.2f %-7s %s\n", row->op, row->isa, row->dtype, type,
               (int)(44 - strlen(row->dtype) - strlen(type)), row->shape, row->seconds * 1e6, spread(row), rate(row), unit(row),
               percent(row));
        break;
    case BENCH_MARKDOWN:
        printf("| %s | %s%s | %s | %.1f | %.0f | %.2f %s | %s |\n", row->op, row->dtype, type, row->shape, row->seconds * 1e6,
               spread(row), rate(row), unit(row), percent(row));
        break;
    case BENCH_JSON:
        json_separator();
        printf("{\"op\": \"%s\", \"isa\": \"%s\", \"threads\": %d, \"dtype\": \"%s\", \"bits\": %d, \"shape\": \"%s\", "
               "\"cached\": %s, \"calls\": %d, \"seconds\": %.9g, \"low\": %.9g, \"high\": %.9g, \"bytes\": %.0f, "
               "\"operations\": %.0f, ", row->op, row->isa, row->threads, row->dtype, row->bits, row->shape,
               row->cached ? "true" : "false", row->calls, row->seconds, row->low, row->high, row->bytes, row->operations);
        printf("\"read\": %.4g, \"copy\": %.4g, \"multiply\": %.4g, \"multiply8\": %.4g, \"multiply16\": %.4g, \"share\": ",
               row->ceilings.read, row->ceilings.copy, row->ceilings.multiply, row->ceilings.multiply8, row->ceilings.multiply16);
        if (isnan(share)) printf("null}");
        else printf("%.4f}", share);
        break;
    case BENCH_SVG: point(row); break;
    }
    fflush(stdout);
}

void bench_report_end(bench_format format) {
    if (format == BENCH_JSON) printf("\n]\n");
    if (format == BENCH_SVG) printf("</svg>\n");
}
