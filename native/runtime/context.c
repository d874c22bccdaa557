#include "internal.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* The instruction sets compiled in, best first. */
static const struct {
    int32_t isa;
    const puna_ops *ops;
} variants[] = {
#if defined(__x86_64__)
    {PUNA_ISA_AMX, &puna_cpu_avx512_ops},
    {PUNA_ISA_AVX512, &puna_cpu_avx512_ops},
    {PUNA_ISA_AVX2, &puna_cpu_avx2_ops},
#elif defined(__aarch64__)
    {PUNA_ISA_DOTPROD, &puna_cpu_dotprod_ops},
#endif
    {PUNA_ISA_BASELINE, &puna_cpu_baseline_ops},
    {PUNA_ISA_REFERENCE, &puna_reference_ops},
};
enum { VARIANTS = sizeof variants / sizeof variants[0] };

static const char *isa_name(int32_t isa) {
    static const char *const names[] = {"auto", "reference", "baseline", "avx2", "avx512", "amx", "dotprod"};
    return names[isa];
}

/* wanted: what was asked for becomes what there is. */
static puna_status choose(int32_t *wanted, const puna_ops **ops) {
    const int32_t isa = *wanted;
    for (int i = 0; i < VARIANTS; i++) {
        if (isa != PUNA_ISA_AUTO && isa != variants[i].isa) continue;
        if (puna_cpu_has(variants[i].isa)) {
            *wanted = variants[i].isa;
            *ops = variants[i].ops;
            return PUNA_STATUS_OK;
        }
        if (isa != PUNA_ISA_AUTO)
            return puna_fail(PUNA_STATUS_UNSUPPORTED, "puna_context_create: this processor or its operating system has no %s; "
                             "PUNA_ISA_AUTO takes the best there is", isa_name(isa));
    }
    return puna_fail(PUNA_STATUS_UNSUPPORTED, "puna_context_create: this build has no %s kernels (%s)", isa_name(isa),
                     puna_build_info());
}

static puna_status check_options(const puna_context_options *options) {
    const puna_status invalid = PUNA_STATUS_INVALID_ARGUMENT;
    if (options->backend != PUNA_BACKEND_CPU && options->backend != PUNA_BACKEND_CUDA)
        return puna_fail(invalid, "puna_context_create: backend is %d, expected 0 (CPU) or 1 (CUDA)", options->backend);
    if (options->device < 0)
        return puna_fail(invalid, "puna_context_create: device is %d, expected at least 0", options->device);
    if (options->precision != PUNA_PRECISION_F32 && options->precision != PUNA_PRECISION_BF16)
        return puna_fail(invalid, "puna_context_create: precision is %d, expected 0 (F32) or 1 (BF16)", options->precision);
    if (options->backend == PUNA_BACKEND_CUDA) return PUNA_STATUS_OK;
    if (options->device > 0)
        return puna_fail(PUNA_STATUS_UNSUPPORTED, "puna_context_create: device is %d, but the CPU is one device, 0",
                         options->device);
    if (options->threads < 0 || options->threads > PUNA_MAX_THREADS)
        return puna_fail(invalid, "puna_context_create: threads is %d, expected 0 (as many as this process may use) to %d",
                         options->threads, PUNA_MAX_THREADS);
    if (options->isa < PUNA_ISA_AUTO || options->isa > PUNA_ISA_DOTPROD)
        return puna_fail(invalid, "puna_context_create: isa is %d, expected 0 to %d", options->isa, PUNA_ISA_DOTPROD);
    return PUNA_STATUS_OK;
}

/* The library stays open: drivers do not bear being unloaded, and opening it again only counts. */
static puna_status open_backend(const char *library, const puna_backend **backend) {
    if (library == NULL || library[0] == '\0')
        return puna_fail(PUNA_STATUS_UNSUPPORTED, "puna_context_create: the CUDA backend is a library of its own, libpuna_cuda, "
                         "and no path was given");
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        const char *words = dlerror();
        return puna_fail(PUNA_STATUS_UNSUPPORTED, "puna_context_create: %s", words != NULL ? words : library);
    }
    const puna_backend *found = dlsym(handle, PUNA_BACKEND_SYMBOL);
    if (found == NULL)
        return puna_fail(PUNA_STATUS_UNSUPPORTED, "puna_context_create: %s is no libpuna_cuda: it has no " PUNA_BACKEND_SYMBOL,
                         library);
    if (found->abi != PUNA_ABI_VERSION || found->ops_bytes != (int64_t)sizeof(puna_ops))
        return puna_fail(PUNA_STATUS_UNSUPPORTED, "puna_context_create: %s was built for ABI %d with %lld bytes of operations, "
                         "expected %d with %lld", library, found->abi, (long long)found->ops_bytes, PUNA_ABI_VERSION,
                         (long long)sizeof(puna_ops));
    *backend = found;
    return PUNA_STATUS_OK;
}

static puna_status create_on_backend(const puna_context_options *options, const char *library, puna_context **context) {
    const puna_backend *backend = NULL;
    puna_status status = open_backend(library, &backend);
    puna_context *made = NULL;
    if (status == PUNA_STATUS_OK) status = backend->create(options, puna_fail, &made);
    if (status != PUNA_STATUS_OK) return status;
    made->backend = backend;
    made->references = 1;
    *context = made;
    return PUNA_STATUS_OK;
}

puna_status puna_context_create(const puna_context_options *options, const char *library, puna_context **context) {
    if (options == NULL || context == NULL)
        return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "puna_context_create: %s is null",
                         options == NULL ? "options" : "context");
    puna_status status = check_options(options);
    if (status == PUNA_STATUS_OK && options->backend != PUNA_BACKEND_CPU) return create_on_backend(options, library, context);
    const puna_ops *ops = NULL;
    int32_t isa = options->isa;
    if (status == PUNA_STATUS_OK) status = choose(&isa, &ops);
    if (status != PUNA_STATUS_OK) return status;

    puna_context *made = calloc(1, sizeof *made);
    if (made == NULL)
        return puna_fail(PUNA_STATUS_OUT_OF_MEMORY, "puna_context_create: no memory for a context of %zu bytes", sizeof *made);
    made->ops = ops;
    made->isa = isa;
    made->bf16 = options->precision == PUNA_PRECISION_BF16 && (isa == PUNA_ISA_REFERENCE || puna_cpu_has_bf16(isa));
    made->threads = options->threads > 0 ? options->threads : puna_cpu_count();
    if (ops == &puna_reference_ops) made->threads = 1;
    if (made->threads > 1) {
        status = puna_pool_create(made->threads, &made->pool);
        if (status != PUNA_STATUS_OK) {
            free(made);
            return status;
        }
    }
    *context = made;
    return PUNA_STATUS_OK;
}

void puna_context_destroy(puna_context *context) {
    if (context == NULL) return;
    if (context->backend != NULL) {
        puna_context_release(context);
        return;
    }
    puna_pool_destroy(context->pool);
    free(context);
}

puna_status puna_recording_begin(puna_context *context, puna_context **recording) {
    const char *op = "puna_recording_begin";
    if (context == NULL || recording == NULL)
        return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "%s: %s is null", op, context == NULL ? "context" : "recording");
    if (context->backend == NULL || context->parent != NULL)
        return puna_fail(PUNA_STATUS_UNSUPPORTED, "%s: this context is a %s", op, context->parent != NULL ? "recording"
                         : "CPU, which carries calls out as they come");
    puna_context *made = NULL;
    puna_status status = context->backend->record(context, &made);
    if (status != PUNA_STATUS_OK) return status;
    made->backend = context->backend;
    made->references = 1;
    made->parent = context;
    puna_context_retain(context);
    *recording = made;
    return PUNA_STATUS_OK;
}

int64_t puna_context_describe(const puna_context *context, char *buffer, int64_t capacity) {
    char line[256] = "no context";
    if (context != NULL && context->backend != NULL)
        context->backend->describe(context, line, sizeof line);
    else if (context != NULL)
        snprintf(line, sizeof line, "cpu %s, %d %s%s", isa_name(context->isa), context->threads,
                 context->threads == 1 ? "thread" : "threads", context->bf16 ? ", products in BF16" : "");
    return puna_copy_text(line, buffer, capacity);
}
