// What each device of the optim room defines; the public functions choose by the tensor's device.
#pragma once

#include "nibble/optim/adamw.h"

namespace nibble::cpu {
#include "nibble/optim/backend-inl.h"
}  // namespace nibble::cpu

namespace nibble::cuda {
#include "nibble/optim/backend-inl.h"  // NOLINT(readability-duplicate-include): once in each namespace
}  // namespace nibble::cuda
