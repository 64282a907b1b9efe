// What each device of the ops room defines; the public functions check shapes and choose by the tensors' device.
#pragma once

#include "nibble/ops/attention.h"
#include "nibble/ops/bias.h"
#include "nibble/ops/cross_entropy.h"
#include "nibble/ops/embedding.h"
#include "nibble/ops/gemm.h"
#include "nibble/ops/gradient_codes.h"
#include "nibble/ops/head_norm.h"
#include "nibble/ops/reduce.h"
#include "nibble/ops/rmsnorm.h"
#include "nibble/ops/rope.h"
#include "nibble/ops/spmm.h"
#include "nibble/ops/swiglu.h"

namespace nibble::cpu {
#include "nibble/ops/backend-inl.h"
}

namespace nibble::cuda {
#include "nibble/ops/backend-inl.h"  // NOLINT(readability-duplicate-include): once in each namespace
}
