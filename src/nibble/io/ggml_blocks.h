// Tensors in ggml's types (ggml_type.h) as F32. Values are those of ggml's dequantize_row_* and of the gguf package's
// gguf.quants.dequantize, bit for bit; of a NaN only that it is one.
//
// A block is one struct of ggml-common.h. d, m and dmin are F16; q are unsigned codes; element i is y[i]. Where codes
// have four bits and a block 32 elements, byte j of `codes` holds y[j] in its low and y[j + 16] in its high four bits.
//
//   Q4_0    | d 2 | codes 16                     |   y = d (q - 8)
//   Q4_1    | d 2 | m 2 | codes 16               |   y = d q + m
//   Q5_0    | d 2 | high 4 | codes 16            |   y = d (q - 16)   bit i of `high` is the fifth bit of element i
//   Q5_1    | d 2 | m 2 | high 4 | codes 16      |   y = d q + m
//   Q8_0    | d 2 | codes 32                     |   y = d q          q signed
//   MXFP4   | e 1 | codes 16                     |   y = 2^(e - 127) E2M1(q)
//   NVFP4   | e4m3 4 | codes 32                  |   four times 16 elements: y = E4M3(scale) E2M1(q)
//                                                    y[16 s + j] and y[16 s + j + 8] are in byte 8 s + j
//
// The K types have blocks of 256 with a scale (sc) and in part a minimum (mn) for every 16 or 32 elements:
//
//   Q2_K    | sc, mn 16 | codes 64 | d 2 | dmin 2            |   y = (d sc) q - dmin mn    four bits each, of 16
//   Q3_K    | high 32 | codes 64 | sc 12 | d 2               |   y = (d (sc - 32)) (q - 4) six bits, of 16
//   Q4_K    | d 2 | dmin 2 | sc, mn 12 | codes 128           |   y = (d sc) q - dmin mn    six bits each, of 32
//   Q5_K    | d 2 | dmin 2 | sc, mn 12 | high 32 | codes 128 |   y = (d sc) q - dmin mn    six bits each, of 32
//   Q6_K    | codes 128 | high 64 | sc 16 | d 2              |   y = (d sc) (q - 32)       eight bits, signed, of 16
//
// Codes of two bits: y[128 n + 32 s + l] is in byte 32 n + l, at bit 2 s; those of four bits, in Q4_K and Q5_K:
// y[64 n + 32 s + l] in byte 32 n + l, at bit 4 s, and in Q6_K y[128 n + 64 s + l] in byte 64 n + l. High bits: one a
// block of 32 in byte l (Q3_K, Q5_K: bit of y[32 b + l] at bit b), two in Q6_K as if they were codes of two bits.
#pragma once

#include <string>

#include "nibble/io/gguf.h"
#include "nibble/tensor/tensor.h"

namespace nibble {

/// Whether decode_ggml knows the type: F32, F16, BF16 and all above.
bool ggml_is_decodable(GgmlType type);

/// Decodes whole blocks; `values` has as many elements as `bytes` holds. InternalError for a type that is not known.
void decode_ggml(GgmlType type, std::span<const std::byte> bytes, std::span<float> values);

/// The tensor of a GGUF file as F32; `to` is on the CPU. UserError, which names file and tensor, for a type that is not
/// known or another shape than that of `to`.
void read_gguf_floats(const GgufFile& file, const std::string& name, const Tensor& to);

}  // namespace nibble
