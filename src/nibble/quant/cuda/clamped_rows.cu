// Rows that are read once. A thread block takes a row, pieces of eight columns a thread. Bound by issue slots and, in
// the search for the bounds, by latency: registers are held to 56, which leaves room for 36 warps a multiprocessor.
#include "nibble/quant/cuda/clamped_rows.cuh"

namespace nibble::quant_cuda {

namespace {

/// A row as it lies in memory.
struct StoredRow {
  const bf16* row;
  __device__ __forceinline__ std::uint32_t bits(std::uint32_t c) const { return row[c].bits; }
};

template <Tie tie, ClampOutput output, int kPieces>
__global__ void __launch_bounds__(kMostLanes, 3)
    clamped_rows_kernel(const bf16* x, const __grid_constant__ ClampedRows a) {
  __shared__ ClampRoom room;
  const StoredRow elements{x + static_cast<std::int64_t>(blockIdx.x) * a.cols};
  RowInRegisters<kPieces> y(
      a.cols, [&](int, std::uint32_t c) { return __ldg(reinterpret_cast<const uint4*>(elements.row + c)); });
  clamp_row<tie, output>(y, elements, a, room);
}

template <Tie tie, ClampOutput output>
void launch_rows(const Job& job, const ClampedRows& a, const ClampedLayout& layout) {
  const auto* x = static_cast<const bf16*>(job.source.x);
  const auto lanes = static_cast<unsigned>(layout.lanes);
  if (layout.pieces == 8) {
    clamped_rows_kernel<tie, output, 8><<<a.rows, lanes, 0, cuda::stream()>>>(x, a);
  } else {
    clamped_rows_kernel<tie, output, 4><<<a.rows, lanes, 0, cuda::stream()>>>(x, a);
  }
  cuda::launched("clamped_rows_kernel");
}

ClampedLayout layout_for(const Job& job) { return ClampedLayout::of(job.spec.clamp.alpha, job.cols(), kMostPieces); }

}  // namespace

bool fits_row_selection(const Job& job) {
  const SourceView& s = job.source;
  return job.spec.clamp.per_row && job.dtype == DType::BF16 && s.wide && s.row_fold == nullptr &&
         s.col_fold == nullptr && !job.rotated() && layout_for(job).pieces != 0;
}

void select_row_bounds(const Job& job, Bounds* bounds, std::int32_t* counts) {
  const ClampedLayout layout = layout_for(job);
  ClampedRows a = clamped_rows_of(job, layout);
  a.bounds = bounds;
  a.cut_off.counts = counts;
  launch_rows<Tie::Even, ClampOutput::None>(job, a, layout);
}

bool fits_clamped_rows(const Job& job) {
  return fits_row_selection(job) && clamps_in_one_pass(job.spec, job.cols()) && job.form != Form::BF16;
}

void encode_clamped_rows(Job& job, const CsrMatrix& residual) {
  const ClampedLayout layout = layout_for(job);
  encode_clamped_rows_by(job, residual, layout, [&](auto tie, auto output, const ClampedRows& a) {
    launch_rows<tie, output>(job, a, layout);
  });
}

}  // namespace nibble::quant_cuda
