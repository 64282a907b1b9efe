// What a kernel for native FP4 products must satisfy before it is used: small products against the CPU's.
#pragma once

#include <functional>
#include <string>

#include "nibble/ops/native.h"

namespace nibble {

/// One product by the kernel that is tried, C = A B^T + addend (which may be undefined): all tensors are on the CPU, C
/// holds NaNs. `device_scales`: the tensor scales are to reach the kernel as numbers of the device.
using NativeTrial = std::function<void(const GemmOperand& a, const GemmOperand& b, const Tensor& addend,
                                       const Tensor& c, bool device_scales)>;

/// What the kernel got wrong first, as a sentence; empty when it agrees with the CPU:
///
///   single   A has one non-zero code a row. So C holds single products, which every way of adding leaves exact: equal
///            to the CPU's. Rows walk through the contraction; every code meets every code and every UE4M3 scale, and
///            E8M0 scales from 2^-115 to 2^115; rows, columns and contraction end within a tile.
///   dense    random codes and scales, stored either way round, with tensor scales, C in F32 and BF16, overwritten and
///            added to: within 2^-9 of sum |a b| (accumulators may keep fewer bits than F32) and C's rounding
///   long     8192 products of one sign, whose sum needs 18 bits: within 2^-11, which accumulators of 14 bits miss
///
/// An order of codes within a byte that is wrong for A and B alike is no fault: the products are the same.
std::string native_disagreement(NativeFormat format, const NativeTrial& trial);

}  // namespace nibble
