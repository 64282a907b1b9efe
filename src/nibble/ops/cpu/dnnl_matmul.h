// One product of two small dense matrices on the calling thread, by oneDNN:  C [m, n] = A [m, k] * B [k, n].
//
// B is packed beforehand into the layout that oneDNN prefers for the shape; A and C are dense and row-major, which is
// what its batch-reduce kernels need to be chosen. Creating an object costs about 10 us: oneDNN keeps the generated
// code in a cache of its own, keyed by all parameters, so none is kept here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace nibble::cpu {

enum class MatmulType : std::uint8_t {
  U8S8,  ///< A unsigned, B signed 8-bit integers, C int32 (wrapping)
  Bf16,  ///< A, B bf16, C float; bf16 dot-product instructions flush subnormal inputs to zero
  F32,   ///< A, B, C float
};

/// True if the CPU (and the ONEDNN_MAX_CPU_ISA in force) multiplies BF16 natively. Without that, oneDNN's BF16 product
/// runs at a quarter of its F32 rate.
bool native_bf16();

class PackedMatmul {
 public:
  PackedMatmul(MatmulType type, std::int64_t m, std::int64_t n, std::int64_t k);
  /// The same product for another number of rows, reading B in the layout of `other`.
  PackedMatmul(const PackedMatmul& other, std::int64_t m);

  std::size_t packed_bytes() const;
  std::size_t scratch_bytes() const;
  /// Pointers aligned to 64 bytes are fastest; `scratch` belongs to the calling thread. Safe to call from many threads.
  void run(const void* a, const void* packed_b, void* c, void* scratch) const;

 private:
  friend class MatmulPacker;
  struct State;
  std::shared_ptr<const State> state_;
};

/// Packs B for `matmul` from element (kk, nn) at b[kk * stride_k + nn * stride_n], one of the strides being 1.
class MatmulPacker {
 public:
  MatmulPacker(const PackedMatmul& matmul, std::int64_t stride_k, std::int64_t stride_n);
  /// Safe to call from many threads.
  void run(const void* b, void* packed_b) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace nibble::cpu
