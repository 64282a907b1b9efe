// Elements under factors that are known: a thread takes eight columns. Bound by memory: one read, one write.
#include "nibble/quant/cuda/views.h"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads)
    encode_unscaled_kernel(const __grid_constant__ SourceView source, const __grid_constant__ CodesView codes,
                           FastDivide chunks) {
  const std::uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  const std::uint32_t r = chunks.quotient(item);
  const std::uint32_t c = 8 * (item - r * chunks.divisor());
  float y[8];
  read_eight<T>(source, r, c, y);
  if (r < source.rows && c < source.cols) store_values(codes, r, c, y);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    encode_kernel(const __grid_constant__ SourceView source, const __grid_constant__ CodesView codes,
                  const __grid_constant__ EncodeView encode, BlocksOf blocks, const float* __restrict__ multipliers,
                  FastDivide chunks) {
  const std::uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  const std::uint32_t r = chunks.quotient(item);
  const std::uint32_t c = 8 * (item - r * chunks.divisor());
  if (r >= source.rows) return;
  float y[8];
  read_eight<T>(source, r, c, y);
  const float* factors = multipliers + static_cast<std::int64_t>(blocks.rows.quotient(r)) * blocks.blocks;
  float m[8];
  if (blocks.cols.divisor() % 8 == 0 || blocks.blocks == 1) {
    const float one = factors[blocks.cols.quotient(c)];
#pragma unroll
    for (int i = 0; i < 8; ++i) m[i] = one;
  } else {
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) m[i] = c + i < source.cols ? factors[blocks.cols.quotient(c + i)] : 0.0f;
  }
  encode_eight(encode, codes, r, c, y, m);
}

/// MS-EDEN's corrected scales of 1 x 16 blocks: a half warp takes one group of columns.
template <class T>
__global__ void __launch_bounds__(kThreads)
    correct_scales_kernel(const __grid_constant__ SourceView source, const __grid_constant__ CodesView codes,
                          const __grid_constant__ EncodeView encode, const float* __restrict__ multipliers,
                          std::uint8_t* __restrict__ scales, std::uint32_t blocks, std::uint32_t blocks_in_group,
                          FastDivide groups, std::uint32_t items) {
  const std::uint32_t item = (blockIdx.x * kThreads + threadIdx.x) / 16;
  const std::uint32_t lane = threadIdx.x % 16;
  const bool inside = item < items;
  const std::uint32_t r = inside ? groups.quotient(item) : 0;
  const std::uint32_t first = (item - r * groups.divisor()) * blocks_in_group;
  const std::uint32_t last = inside ? min(first + blocks_in_group, blocks) : first;
  const std::int64_t row_of_blocks = static_cast<std::int64_t>(r) * blocks;
  const std::uint8_t* row_of_codes = codes.codes + static_cast<std::int64_t>(r) * codes.row_bytes;
  float squares = 0;
  float products = 0;
  for (std::uint32_t j = first; j < last; ++j) {
    const std::uint32_t c = 16 * j + lane;
    if (c >= source.cols) break;
    const float z = read_one<T>(source, r, c) * multipliers[row_of_blocks + j];
    const float q = decode_e2m1(static_cast<std::uint32_t>(row_of_codes[c / 2]) >> (4 * (c % 2)));
    squares += z * z;
    products += z * q;
  }
  squares = fold_sixteen(squares, AddOp());
  products = fold_sixteen(products, AddOp());
  const std::uint64_t first_block = (encode.first + encode.stride * r) / 16;
  for (std::uint32_t j = first + lane; j < last; j += 16) {
    std::uint8_t& scale = scales[row_of_blocks + j];
    scale = eden_scale(scale, squares, products, encode.random.word(first_block + j));
  }
}

template <class T>
void correct_scales(const Job& job, const float* multipliers) {
  const std::int64_t in_group = job.spec.eden_group / 16;
  const std::int64_t groups = (job.q.scale_cols() + in_group - 1) / in_group;
  const std::int64_t items = job.rows() * groups;
  correct_scales_kernel<T><<<blocks_for(16 * items, kThreads), kThreads, 0, cuda::stream()>>>(
      job.source, CodesView(job.q), encode_view(job), multipliers, job.q.scales.data<std::uint8_t>(),
      static_cast<std::uint32_t>(job.q.scale_cols()),
      static_cast<std::uint32_t>(std::min(in_group, job.q.scale_cols())), FastDivide(groups),
      static_cast<std::uint32_t>(items));
  cuda::launched("correct_scales_kernel");
}

}  // namespace

void encode_unscaled(const Job& job) {
  dispatch_float(job.dtype, [&]<class T>(T*) {
    // Under a transform whole warps work on whole groups.
    const std::int64_t chunks = chunks_of_row(job.cols(), std::max(8, job.source.hadamard.group));
    encode_unscaled_kernel<T><<<blocks_for(job.rows() * chunks, kThreads), kThreads, 0, cuda::stream()>>>(
        job.source, CodesView(job.q), FastDivide(chunks));
    cuda::launched("encode_unscaled_kernel");
  });
}

void encode_by_blocks(const Job& job, const float* multipliers) {
  dispatch_float(job.dtype, [&]<class T>(T*) {
    const std::int64_t chunks = chunks_of_row(job.cols());
    encode_kernel<T><<<blocks_for(job.rows() * chunks, kThreads), kThreads, 0, cuda::stream()>>>(
        job.source, CodesView(job.q), encode_view(job), BlocksOf(job.q), multipliers, FastDivide(chunks));
    cuda::launched("encode_kernel");
    if (job.spec.rounding == Rounding::Eden) correct_scales<T>(job, multipliers);
  });
}

}  // namespace nibble::quant_cuda
