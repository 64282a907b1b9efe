// One call of `quantize` on a GPU, as its passes share it.
#pragma once

#include <functional>

#include "nibble/quant/cuda/source.cuh"
#include "nibble/quant/quantize.h"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::quant_cuda {

/// What becomes of E2M1 codes where they are stored.
enum class Form : std::uint8_t {
  Packed,  ///< two a byte
  E4M3,    ///< one a byte, as the E4M3 number of the same value
  BF16,    ///< the value times its block's stored scale, which BF16 holds exactly
};

struct Job {
  const QuantSpec& spec;
  const QuantizeContext& context;
  QTensor& q;
  Arena& arena;  ///< for scratch, too
  DType dtype = DType::F32;
  /// y by rows: x, its transposed copy or its rotated one. Under a transform where the pass is one that can have it.
  /// (Or x as it stands though y is its transpose, for encode_columns.)
  SourceView source;
  Form form = Form::Packed;
  const float* reference = nullptr;  ///< what Rounding::Reference rounds towards, transposed and rotated

  std::int64_t rows() const { return q.rows; }
  std::int64_t cols() const { return q.cols; }
  std::uint64_t element_stride() const {
    return context.element_stride != 0 ? context.element_stride : static_cast<std::uint64_t>(cols());
  }
  bool rotated() const { return source.hadamard.group > 0; }
  /// QuantizeContext::amax; null where it is not given.
  const std::int32_t* known_amax() const {
    return context.amax.defined() ? cuda::device_data<std::int32_t>(context.amax, "amax") : nullptr;
  }
  /// Of each block, where the blocks are as tall as a matrix of which y is a part.
  const std::int32_t* known_block_amax() const { return spec.scale == ScaleRule::Nvfp4 ? nullptr : known_amax(); }
  template <class T>
  T* scratch(std::int64_t n) const {
    const std::int64_t words = (n * static_cast<std::int64_t>(sizeof(T)) + 3) / 4;
    return static_cast<T*>(arena.allocate(DType::I32, {words}).raw());
  }
};

/// Work items of `each` columns that a row has when it is filled up to whole units.
inline std::int64_t chunks_of_row(std::int64_t cols, std::int64_t unit = 8, std::int64_t each = 8) {
  return (cols + unit - 1) / unit * unit / each;
}

inline unsigned blocks_for(std::int64_t items, int threads) {
  require(items < (std::int64_t{1} << 31), "a quantiser's launch over {} items", items);
  return static_cast<unsigned>((items + threads - 1) / threads);
}

inline void fill_zero_async(void* p, std::size_t bytes) {
  cuda::check(cudaMemsetAsync(p, 0, bytes, cuda::stream()), "cudaMemsetAsync");
}

/// Factors along one dimension of x; null where there are none.
inline const float* fold_data(const Tensor& fold, std::int64_t size, const char* name) {
  if (!fold.defined()) return nullptr;
  require(fold.dtype() == DType::F32 && fold.numel() == size, "{} must be F32 [{}], got {}", name, size,
          to_string(fold));
  return cuda::device_data<float>(fold, name);
}

/// A matrix on the GPU as it stands.
inline SourceView plain_source(const Tensor& x) {
  SourceView view;
  view.x = x.raw();
  view.rows = static_cast<std::uint32_t>(x.rows());
  view.cols = static_cast<std::uint32_t>(x.cols());
  view.wide = reinterpret_cast<std::uintptr_t>(x.raw()) % 16 == 0 &&
              static_cast<std::size_t>(x.cols()) * dtype_size(x.dtype()) % 16 == 0;
  return view;
}

// quantize.cu
/// A result without its parts.
QTensor empty_result(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);
/// Whether a result under one scale a column can be stored as its transpose, which is what `turned` asks for.
bool can_be_turned(const QuantSpec& spec);
QuantSpec turned(QuantSpec spec);

/// Encodes the job, whose source has a shape and no memory, and fills the residual where it is defined.
using EncodeRows = std::function<void(Job& job, const CsrMatrix& residual)>;
/// cuda::quantize of an x that is not in memory, by its shape and dtype and what encodes it.
QTensor quantize_by(const Tensor& shape, const QuantSpec& spec, const QuantizeContext& context, Arena& arena,
                    const EncodeRows& encode);

// transpose.cu
/// out = x transposed; F32 or BF16 each, rounded where `out` is narrower, or to BF16 on request.
void transpose(const Tensor& x, bool round_to_bf16, const Tensor& out);
/// The job's y as F32 [rows, cols] in scratch, which then is its source: no folds, no transform are left.
void materialise(Job& job);

// clamp.cu
/// The bounds of the clamp, per row or of the tensor, noted in the source. With `count` and bounds of rows the result
/// is how many entries each row has outside, else null.
std::int32_t* find_bounds(Job& job, bool count);

// residual.cu
/// Arrays for what the clamp can cut off.
CsrMatrix residual_for(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, Arena& arena);
/// Fills them; the bounds are known, and the entries of each row where `counted` is not null.
void keep_residual(const Job& job, const std::int32_t* counted, const CsrMatrix& residual);

// statistics.cu
/// amax of y_c, all of it, at `amax` (set to zero here).
void tensor_amax(const Job& job, std::int32_t* amax);
/// The amax of each block, or of all of y under an Nvfp4 scale of the tensor, at `amax`, which holds zeros.
void find_shared_amax(const Job& job, std::int32_t* amax);
/// The scales of the blocks, into the job's q; the result is what elements are multiplied by, one factor a block.
float* scale_blocks(const Job& job);

// encode.cu
/// Elements without a scale.
void encode_unscaled(const Job& job);
/// Elements under factors that are known, one a block; then the correction of Rounding::Eden.
void encode_by_blocks(const Job& job, const float* multipliers);

// rows.cu
/// One scale a row from its amax alone: one pass with the row in registers.
bool fits_one_pass(const QuantSpec& spec, std::int64_t cols);
bool fits_rows(const Job& job);
void encode_rows(const Job& job);

// blocks.cu
/// Blocks of a power of two of columns within a row, or of 16 x 16: one pass, the block in the registers of a warp.
bool fits_blocks(const QuantSpec& spec);
bool fits_squares(const QuantSpec& spec);
void encode_blocks(const Job& job);

// columns.cu
/// A transposed operand with such blocks within its rows, or with one scale a row from its amax; the job's source is x
/// as it stands.
bool fits_columns(const QuantSpec& spec);
void encode_columns(const Job& job);
/// For such an operand with blocks: amax of all of y and, where `plain` is not null, of all of x (both set to zero
/// here).
void columns_amax(const Job& job, std::int32_t* amax, std::int32_t* plain);

// requantize.cu
/// Such an operand with blocks from the values that `from` stores; requantizes_codes holds of both, and the job's
/// source has rows, columns and transform of it, no memory.
void encode_stored(const Job& job, const QTensor& from);

// fused.cu
/// E2M1 codes and what lies beyond the bounds, which are known, as E4M3 elements with their scales.
void encode_fused(const Job& job);

// carrier.cu
/// form.element_scales (allocated) = the decode scales of `elements`, everything multiplied in.
void copy_element_scales(const QTensor& elements, const QTensor& form);
/// Fills `carried`'s codes and scale (allocated) from `elements`.
void carry(const Job& job, const QTensor& elements, const QTensor& carried);
/// Fills `sum`'s codes (BF16, allocated) with the values of job.q plus what the clamp cut off.
void add_dense_residual(const Job& job, const QTensor& sum);

}  // namespace nibble::quant_cuda
