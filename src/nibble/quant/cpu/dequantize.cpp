#include <vector>

#include "nibble/quant/backend.h"
#include "nibble/quant/cpu/decode.h"
#include "nibble/quant/cpu/encode.h"
#include "nibble/tensor/parallel.h"

namespace nibble::cpu {

void dequantize(const QTensor& q, const Tensor& out) {
  require(out.rows() == q.rows && out.cols() == q.cols && (out.dtype() == DType::F32 || out.dtype() == DType::BF16),
          "dequantize a [{}, {}] QTensor into {}", q.rows, q.cols, to_string(out));
  const std::int64_t n = q.cols;
  const bool rounds = out.dtype() == DType::BF16;
  parallel_for(q.rows, rows_per_chunk(n * static_cast<std::int64_t>(sizeof(float))),
               [&](std::int64_t begin, std::int64_t end) {
                 quant_cpu::RowDecoder decode(q);
                 std::vector<float> buffer(static_cast<std::size_t>(rounds ? n : 0));
                 for (std::int64_t r = begin; r < end; ++r) {
                   float* values = rounds ? buffer.data() : out.data<float>() + r * n;
                   decode(r, values);
                   quant_cpu::add_residual(q.residual, r, values);
                   if (rounds) quant_cpu::encode_bf16(values, n, out.data<bf16>() + r * n);
                 }
               });
}

}  // namespace nibble::cpu
