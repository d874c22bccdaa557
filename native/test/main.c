/*
 * Runs every test, or the lines of the report whose name contains the argument. puna-test --cuda LIBRARY [word] runs those of a CUDA
 * device, through that library, and puna-test --times-on-cuda LIBRARY [word] its times.
 */
#include "test.h"

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "--cuda") == 0) {
        test_cuda_library = argv[2];
        argv += 2, argc -= 2;
    }
    if (argc > 2 && strcmp(argv[1], "--times-on-cuda") == 0) {
        test_cuda_library = argv[2];
        test_times_on_cuda(argc > 3 ? argv[3] : "");
        return 0;
    }
    const char *wanted = argc > 1 ? argv[1] : "";
    const struct {
        const char *name;
        void (*run)(void);
    } others[] = {{"runtime", test_runtime}, {"pool", test_pool}, {"known values", test_known_values}, {"refusals", test_refusals},
                  {"matmul rows", test_matmul_rows}, {"attention cuts", test_attention_cuts},
                  {"gradients", test_gradients}, {"cuda", test_cuda}};
    test_start();
    for (int64_t i = 0; i < TEST_COUNT(others); i++) {
        if (strstr(others[i].name, wanted) == NULL || (test_cuda_library != NULL && others[i].run != test_cuda)) continue;
        test_begin(others[i].name);
        others[i].run();
        test_end();
    }
    for (int64_t i = 0; i < test_op_count; i++)
        if (strstr(test_ops[i]->name, wanted) != NULL) test_op_against_reference(test_ops[i]);
    for (int64_t i = 0; i < test_rounding_op_count; i++)
        if (strstr(test_rounding_ops[i]->name, wanted) != NULL) test_op_in_bf16(test_rounding_ops[i]);
    return test_finish();
}
