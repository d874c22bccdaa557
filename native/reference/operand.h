/* An operand of a matrix product, as it is or rounded to BF16. */
#ifndef PUNA_OPERAND_H
#define PUNA_OPERAND_H

#include "blocks.h"

#include <stdbool.h>

static inline double operand(bool rounded, float value) {
    return (double)(rounded ? puna_bf16_to_f32(puna_f32_to_bf16(value)) : value);
}

#endif
