#include "kernels.h"

#include <math.h>

puna_status PUNA_KERNEL(adamw_step)(puna_context *context, float *w, float *m, float *v, const float *g, int64_t n, int64_t step,
                                    double learning_rate, double beta1, double beta2, double eps, double weight_decay,
                                    double gradient_scale) {
    (void)context;
    double correction1 = 1 - pow(beta1, (double)step), correction2 = 1 - pow(beta2, (double)step);
    for (int64_t i = 0; i < n; i++) {
        double h = gradient_scale * g[i];
        double new_m = beta1 * m[i] + (1 - beta1) * h, new_v = beta2 * v[i] + (1 - beta2) * h * h;
        double update = new_m / correction1 / (sqrt(new_v / correction2) + eps);
        w[i] = (float)(w[i] * (1 - learning_rate * weight_decay) - learning_rate * update);
        m[i] = (float)new_m;
        v[i] = (float)new_v;
    }
    return PUNA_STATUS_OK;
}
