// What each device of the recipe room defines; the public functions choose by the tensor's device.
#pragma once

#include "nibble/recipe/columns.h"
#include "nibble/recipe/product_quality.h"
#include "nibble/recipe/trust_mask.h"
#include "nibble/recipe/weight_passes.h"

namespace nibble::cpu {
#include "nibble/recipe/backend-inl.h"
}  // namespace nibble::cpu

namespace nibble::cuda {
#include "nibble/recipe/backend-inl.h"  // NOLINT(readability-duplicate-include): once in each namespace
}  // namespace nibble::cuda
