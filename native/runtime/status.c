/* Failing, and who the library is. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last_error[512];

puna_status puna_fail(puna_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    return status;
}

int64_t puna_copy_text(const char *text, char *buffer, int64_t capacity) {
    int64_t length = (int64_t)strlen(text);
    if (buffer != NULL && capacity > 0) {
        int64_t copied = puna_min(length, capacity - 1);
        memcpy(buffer, text, (size_t)copied);
        buffer[copied] = '\0';
    }
    return length;
}

int64_t puna_last_error(char *buffer, int64_t capacity) { return puna_copy_text(last_error, buffer, capacity); }

int32_t puna_abi_version(void) { return PUNA_ABI_VERSION; }

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif
#if defined(__x86_64__)
#define VARIANTS "x86-64: reference baseline avx2 avx512 amx"
#elif defined(__aarch64__)
#define VARIANTS "aarch64: reference baseline"
#else
#define VARIANTS "reference baseline"
#endif

const char *puna_build_info(void) { return "puna " PUNA_VERSION ", " COMPILER ", " VARIANTS; }
