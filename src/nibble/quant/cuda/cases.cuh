// Cases that are met at every step get kernels of their own: a kernel for every specification holds the code of all
// roundings and formats and the registers of the hungriest, which leaves a quarter of an H100's warps. A case says what
// the compiler may take for granted; everything else about a job stays as it is.
#pragma once

#include "nibble/quant/cuda/codes.cuh"
#include "nibble/quant/cuda/job.h"
#include "nibble/quant/cuda/source.cuh"

namespace nibble::quant_cuda {

/// Nothing is taken for granted.
struct AnyCase {
  static constexpr bool kAny = true;
};

/// Elements and rounding as said; no transform, clamp, mask, moments or selection, one level of scales but for the
/// tensor's; no folds unless said.
template <ElementFormat kElement, Rounding kRounding, bool kFolds>
struct FixedCase {
  static constexpr bool kAny = false;
  static __device__ __forceinline__ void fix(SourceView& source) {
    source.hadamard.group = 0;
    source.bounds = nullptr;
    source.round_to_bf16 = false;
    if constexpr (!kFolds) source.row_fold = source.col_fold = nullptr;
  }
  static __device__ __forceinline__ void fix(CodesView& codes) {
    codes.element = kElement;
    codes.mask = nullptr;
  }
  static __device__ __forceinline__ void fix(EncodeView& encode) {
    encode.element = kElement;
    encode.rounding = kRounding;
  }
  static __device__ __forceinline__ void fix(ScaleView& scale) {
    scale.moments = quant_cpu::Moments::None;
    scale.selection = Selection::None;
  }
};

/// Calls f with the narrowest case that holds the job.
template <class F>
void dispatch_case(const Job& job, F&& f) {
  const QuantSpec& spec = job.spec;
  const SourceView& source = job.source;
  const bool folds = source.row_fold != nullptr || source.col_fold != nullptr;
  const bool simple = source.hadamard.group == 0 && source.bounds == nullptr && !source.round_to_bf16 &&
                      !job.q.mask.defined() && quant_cpu::moments_of(spec.scale) == quant_cpu::Moments::None &&
                      spec.nvfp4.selection == Selection::None && job.q.outer == 0;
  if (!simple) return f(AnyCase());
  if (job.q.element == ElementFormat::E4M3) {
    return f(FixedCase<ElementFormat::E4M3, Rounding::NearestEven, true>());
  }
  if (job.q.element != ElementFormat::E2M1 || folds) return f(AnyCase());
  switch (spec.rounding) {
    case Rounding::NearestEven: return f(FixedCase<ElementFormat::E2M1, Rounding::NearestEven, false>());
    case Rounding::NearestUp: return f(FixedCase<ElementFormat::E2M1, Rounding::NearestUp, false>());
    case Rounding::Stochastic: return f(FixedCase<ElementFormat::E2M1, Rounding::Stochastic, false>());
    default: return f(AnyCase());
  }
}

/// `view` as a fixed case has it. (Without a case kernels take their arguments as they are: a copy would move arrays
/// that are indexed at run time out of constant memory.)
template <class Case, class View>
__device__ __forceinline__ auto as_in(const View& view) {
  View fixed = view;
  Case::fix(fixed);
  return fixed;
}

}  // namespace nibble::quant_cuda
