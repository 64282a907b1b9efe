// Cases that are met at every step get kernels of their own: a kernel for every specification holds the code of all
// roundings and formats and the registers of the hungriest, which leaves a quarter of an H100's warps. A case says what
// the compiler may take for granted; everything else about a job stays as it is.
//
// Kernels take the number of a case in a table, kAnyCase where none holds the job. (A view that is copied leaves
// constant memory, where arrays can be indexed at run time: so only views without arrays are.)
#pragma once

#include <cstddef>
#include <utility>

#include "nibble/quant/cuda/codes.cuh"
#include "nibble/quant/cuda/job.h"
#include "nibble/quant/cuda/source.cuh"

namespace nibble::quant_cuda {

using quant_cpu::Moments;

/// Rows of whole sixteens that begin at multiples of 16 bytes (as x has them and as y does); no clamp, no rounding to
/// BF16 on the way in; one level of scales but for the tensor's under Nvfp4.
struct Case {
  ElementFormat element = ElementFormat::E2M1;
  Rounding rounding = Rounding::NearestEven;
  int block = 0;     ///< columns of a block of one row; 0: the whole row
  int hadamard = 0;  ///< group of the transform; 0: none
  bool nvfp4 = false;
  Selection selection = Selection::None;
  Moments moments = Moments::None;
  bool folds = false;
  bool mask = false;
};

inline constexpr int kAnyCase = -1;

/// `blocks`: those of the job, or what the case shall take them for.
inline bool holds(const Case& c, const Job& job, Granularity blocks) {
  const QuantSpec& spec = job.spec;
  const SourceView& source = job.source;
  const bool folds = source.row_fold != nullptr || source.col_fold != nullptr;
  return source.wide && job.cols() % 16 == 0 && spec.element == c.element && spec.rounding == c.rounding &&
         blocks == Granularity{1, c.block} && source.hadamard.group == c.hadamard &&
         (spec.scale == ScaleRule::Nvfp4) == c.nvfp4 && job.q.outer == 0 && spec.nvfp4.selection == c.selection &&
         quant_cpu::moments_of(spec.scale) == c.moments && folds <= c.folds && job.q.mask.defined() == c.mask &&
         source.bounds == nullptr && !source.round_to_bf16 &&
         (spec.rounding != Rounding::Eden || spec.eden_group == 16);
}

/// Calls f with the number of the first case of kTable that holds the job, as a type; or kAnyCase.
template <const auto& kTable, class F>
void dispatch_case(const Job& job, F&& f) {
  const auto try_all = [&]<std::size_t... kIndex>(std::index_sequence<kIndex...>) {
    const auto call = [&](auto number) {
      f(number);
      return true;
    };
    return ((holds(kTable[kIndex], job, job.spec.granularity) &&
             call(std::integral_constant<int, static_cast<int>(kIndex)>())) ||
            ...);
  };
  if (!try_all(std::make_index_sequence<std::size(kTable)>())) f(std::integral_constant<int, kAnyCase>());
}

/// Views as a case has them.
template <const auto& kTable, int kCase>
__device__ __forceinline__ CodesView as_in(const CodesView& view) {
  CodesView fixed = view;
  fixed.element = kTable[kCase].element;
  fixed.whole = true;
  if (!kTable[kCase].mask) fixed.mask = nullptr;
  return fixed;
}
template <const auto& kTable, int kCase>
__device__ __forceinline__ EncodeView as_in(const EncodeView& view) {
  EncodeView fixed = view;
  fixed.element = kTable[kCase].element;
  fixed.rounding = kTable[kCase].rounding;
  return fixed;
}
template <const auto& kTable, int kCase>
__device__ __forceinline__ ScaleView as_in(const ScaleView& view) {
  ScaleView fixed = view;
  fixed.moments = kTable[kCase].moments;
  fixed.selection = kTable[kCase].selection;
  if (kTable[kCase].nvfp4) fixed.rule = ScaleRule::Nvfp4;
  fixed.judged_as = kTable[kCase].rounding;
  return fixed;
}

}  // namespace nibble::quant_cuda
