// Tensor: a view of a dense row-major array on a device. Views are cheap values that own nothing; a Buffer
// owns memory, and an Arena hands out pieces of one Buffer.
//
// Shapes are written [outer, ..., inner]. Most ops see a tensor as a matrix [rows, cols] with
// cols = the innermost dimension and rows = the product of the others.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nibble/numerics/bf16.h"
#include "nibble/tensor/error.h"

namespace nibble {

enum class DType : std::uint8_t { F32, BF16, F16, I32, U8 };
enum class Device : std::uint8_t { Cpu, Cuda };

std::size_t dtype_size(DType dtype);
const char* dtype_name(DType dtype);  ///< "F32", "BF16", ... as in safetensors
const char* device_name(Device device);

template <class T>
inline constexpr DType kDTypeOf = DType::U8;
template <>
inline constexpr DType kDTypeOf<float> = DType::F32;
template <>
inline constexpr DType kDTypeOf<bf16> = DType::BF16;
template <>
inline constexpr DType kDTypeOf<std::int32_t> = DType::I32;

class Tensor {
 public:
  static constexpr int kMaxDims = 4;

  Tensor() = default;
  Tensor(void* data, DType dtype, std::span<const std::int64_t> shape, Device device = Device::Cpu);
  Tensor(void* data, DType dtype, std::initializer_list<std::int64_t> shape, Device device = Device::Cpu)
      : Tensor(data, dtype, std::span<const std::int64_t>(shape.begin(), shape.size()), device) {}

  /// A view of memory that the caller owns.
  template <class T>
  static Tensor of(T* data, std::initializer_list<std::int64_t> shape) {
    return Tensor(const_cast<std::remove_const_t<T>*>(data), kDTypeOf<std::remove_const_t<T>>, shape);
  }

  bool defined() const { return dims_ > 0; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int dims() const { return dims_; }
  std::int64_t dim(int i) const { return shape_[static_cast<std::size_t>(i)]; }
  std::span<const std::int64_t> shape() const { return {shape_.data(), static_cast<std::size_t>(dims_)}; }
  std::int64_t numel() const;
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * dtype_size(dtype_); }
  std::int64_t cols() const { return dims_ == 0 ? 0 : shape_[static_cast<std::size_t>(dims_ - 1)]; }
  std::int64_t rows() const { return cols() == 0 ? 0 : numel() / cols(); }

  /// Typed pointer; T must be the tensor's dtype (std::uint8_t for U8, std::uint16_t for F16).
  template <class T>
  T* data() const {
    if constexpr (std::is_same_v<std::remove_const_t<T>, std::uint16_t>) {
      require(dtype_ == DType::F16, "tensor is {}, not F16", dtype_name(dtype_));
    } else {
      require(dtype_ == kDTypeOf<std::remove_const_t<T>>, "tensor is {}, not {}", dtype_name(dtype_),
              dtype_name(kDTypeOf<std::remove_const_t<T>>));
    }
    return static_cast<T*>(data_);
  }
  void* raw() const { return data_; }

  /// The same memory under another shape of equal size.
  Tensor reshape(std::initializer_list<std::int64_t> shape) const;
  /// Rows [begin, end) of the matrix view, as a matrix [end - begin, cols].
  Tensor row_range(std::int64_t begin, std::int64_t end) const;
  /// Elements [begin, end) in memory order, as a vector.
  Tensor elements(std::int64_t begin, std::int64_t end) const;

 private:
  void* data_ = nullptr;
  std::array<std::int64_t, kMaxDims> shape_{};
  std::int8_t dims_ = 0;
  DType dtype_ = DType::F32;
  Device device_ = Device::Cpu;
};

std::string to_string(const Tensor& tensor);  ///< "BF16 [2048, 768] on cpu"

void fill_zero(const Tensor& tensor);
/// Elementwise conversion (F32 <-> BF16) or copy; shapes equal in numel.
void convert(const Tensor& from, const Tensor& to);

/// Owns device memory, aligned to 64 bytes (a cache line, and a whole AVX-512 vector).
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::size_t bytes, Device device = Device::Cpu);
  std::size_t bytes() const { return bytes_; }
  void* data() const { return data_.get(); }
  Device device() const { return device_; }

 private:
  struct Free {
    Device device;
    void operator()(void* p) const;
  };
  std::unique_ptr<void, Free> data_;
  std::size_t bytes_ = 0;
  Device device_ = Device::Cpu;
};

/// A tensor together with its memory; for weights and other long-lived state.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  /// Zero-filled.
  OwnedTensor(DType dtype, std::initializer_list<std::int64_t> shape, Device device = Device::Cpu);
  OwnedTensor(DType dtype, std::span<const std::int64_t> shape, Device device = Device::Cpu);
  const Tensor& view() const { return view_; }
  operator const Tensor&() const { return view_; }

 private:
  Buffer buffer_;
  Tensor view_;
};

/// Bump allocator for the activations of a step: allocate in forward order, give back by rewinding to a mark.
/// It grows by whole blocks while a step's need is still unknown; pointers stay valid until rewound past.
///
///   block 0: [ a | b | ...... ]   block 1: [ c | .......... ]
///                ^mark                          ^cursor
class Arena {
 public:
  explicit Arena(Device device = Device::Cpu, std::size_t block_bytes = std::size_t{32} << 20);

  struct Mark {
    std::size_t block = 0;
    std::size_t offset = 0;
  };

  /// One block of `bytes`, where none is as large; only while nothing is allocated.
  void reserve(std::size_t bytes);
  /// Uninitialised memory.
  Tensor allocate(DType dtype, std::initializer_list<std::int64_t> shape);
  Mark mark() const { return cursor_; }
  void rewind(Mark mark);
  std::size_t peak_bytes() const { return peak_; }
  Device device() const { return device_; }

 private:
  Device device_;
  std::size_t block_bytes_;
  std::vector<Buffer> blocks_;
  Mark cursor_;
  std::size_t used_before_ = 0;  // bytes of the blocks before the cursor's
  std::size_t peak_ = 0;
};

/// Rewinds an arena when the scope ends.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.rewind(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

/// Calls f with a null pointer of the storage type (float or bf16) that the dtype names.
template <class F>
decltype(auto) dispatch_float(DType dtype, F&& f) {
  if (dtype == DType::F32) return f(static_cast<float*>(nullptr));
  require(dtype == DType::BF16, "expected F32 or BF16, got {}", dtype_name(dtype));
  return f(static_cast<bf16*>(nullptr));
}

}  // namespace nibble
