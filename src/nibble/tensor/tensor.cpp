#include "nibble/tensor/tensor.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "nibble/tensor/cuda/memory.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble {

std::size_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::F32:
    case DType::I32: return 4;
    case DType::BF16:
    case DType::F16: return 2;
    case DType::U8: return 1;
  }
  return 0;
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::F32: return "F32";
    case DType::BF16: return "BF16";
    case DType::F16: return "F16";
    case DType::I32: return "I32";
    case DType::U8: return "U8";
  }
  return "?";
}

const char* device_name(Device device) { return device == Device::Cpu ? "cpu" : "cuda"; }

Tensor::Tensor(void* data, DType dtype, std::span<const std::int64_t> shape, Device device)
    : data_(data), dims_(static_cast<std::int8_t>(shape.size())), dtype_(dtype), device_(device) {
  require(!shape.empty() && shape.size() <= kMaxDims, "a tensor has 1 to {} dimensions, not {}", kMaxDims,
          shape.size());
  for (std::size_t i = 0; i < shape.size(); ++i) {
    require(shape[i] >= 0, "dimension {} is negative: {}", i, shape[i]);
    shape_[i] = shape[i];
  }
}

std::int64_t Tensor::numel() const {
  if (dims_ == 0) return 0;
  std::int64_t n = 1;
  for (int i = 0; i < dims_; ++i) n *= shape_[static_cast<std::size_t>(i)];
  return n;
}

Tensor Tensor::reshape(std::initializer_list<std::int64_t> shape) const {
  Tensor t(data_, dtype_, shape, device_);
  require(t.numel() == numel(), "cannot reshape {} to {} elements", to_string(*this), t.numel());
  return t;
}

Tensor Tensor::row_range(std::int64_t begin, std::int64_t end) const {
  require(0 <= begin && begin <= end && end <= rows(), "rows [{}, {}) of {}", begin, end, to_string(*this));
  auto* base = static_cast<std::byte*>(data_) + static_cast<std::size_t>(begin * cols()) * dtype_size(dtype_);
  return Tensor(base, dtype_, {end - begin, cols()}, device_);
}

Tensor Tensor::elements(std::int64_t begin, std::int64_t end) const {
  require(0 <= begin && begin <= end && end <= numel(), "elements [{}, {}) of {}", begin, end, to_string(*this));
  auto* base = static_cast<std::byte*>(data_) + static_cast<std::size_t>(begin) * dtype_size(dtype_);
  return Tensor(base, dtype_, {end - begin}, device_);
}

std::string to_string(const Tensor& tensor) {
  std::string text = fmt::format("{} [", dtype_name(tensor.dtype()));
  for (int i = 0; i < tensor.dims(); ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", tensor.dim(i));
  return text + fmt::format("] on {}", device_name(tensor.device()));
}

void fill_zero(const Tensor& tensor) {
  if (tensor.device() == Device::Cuda) return cuda::fill_zero(tensor);
  auto* p = static_cast<std::byte*>(tensor.raw());
  parallel_for(static_cast<std::int64_t>(tensor.bytes()), 1 << 20,
               [&](std::int64_t b, std::int64_t e) { std::memset(p + b, 0, static_cast<std::size_t>(e - b)); });
}

namespace {

NIBBLE_SIMD void to_bf16(const float* from, bf16* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = bf16_encode(from[i]);
}
NIBBLE_SIMD void to_f32(const bf16* from, float* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = bf16_decode(from[i]);
}

}  // namespace

void convert(const Tensor& from, const Tensor& to) {
  require(from.numel() == to.numel() && from.device() == to.device(), "convert: {} to {}", to_string(from),
          to_string(to));
  if (from.device() == Device::Cuda) return cuda::convert(from, to);
  parallel_for(from.numel(), 1 << 15, [&](std::int64_t b, std::int64_t e) {
    const std::int64_t n = e - b;
    if (from.dtype() == to.dtype()) {
      const std::size_t size = dtype_size(from.dtype());
      std::memcpy(static_cast<std::byte*>(to.raw()) + static_cast<std::size_t>(b) * size,
                  static_cast<const std::byte*>(from.raw()) + static_cast<std::size_t>(b) * size,
                  static_cast<std::size_t>(n) * size);
    } else if (from.dtype() == DType::F32) {
      to_bf16(from.data<float>() + b, to.data<bf16>() + b, n);
    } else {
      to_f32(from.data<bf16>() + b, to.data<float>() + b, n);
    }
  });
}

Buffer::Buffer(std::size_t bytes, Device device) : bytes_(bytes), device_(device) {
  if (device == Device::Cuda) {
    data_ = std::unique_ptr<void, Free>(cuda::allocate(bytes), Free{device});
    return;
  }
  const std::size_t rounded = (bytes + 63) / 64 * 64;
  void* p = std::aligned_alloc(64, rounded == 0 ? 64 : rounded);
  if (p == nullptr) throw std::bad_alloc();
  data_ = std::unique_ptr<void, Free>(p, Free{device});
}

void Buffer::Free::operator()(void* p) const { device == Device::Cuda ? cuda::free(p) : std::free(p); }

OwnedTensor::OwnedTensor(DType dtype, std::initializer_list<std::int64_t> shape, Device device)
    : OwnedTensor(dtype, std::span<const std::int64_t>(shape.begin(), shape.size()), device) {}

OwnedTensor::OwnedTensor(DType dtype, std::span<const std::int64_t> shape, Device device) {
  const Tensor probe(nullptr, dtype, shape, device);
  buffer_ = Buffer(probe.bytes(), device);
  view_ = Tensor(buffer_.data(), dtype, shape, device);
  fill_zero(view_);
}

Arena::Arena(Device device, std::size_t block_bytes) : device_(device), block_bytes_(block_bytes) {}

void Arena::reserve(std::size_t bytes) {
  require(cursor_.block == 0 && cursor_.offset == 0, "an arena in use can't be sized anew");
  if (!blocks_.empty() && blocks_.front().bytes() >= bytes) return;
  blocks_.clear();
  blocks_.emplace_back(bytes, device_);
}

Tensor Arena::allocate(DType dtype, std::initializer_list<std::int64_t> shape) {
  const Tensor probe(nullptr, dtype, shape, device_);
  const std::size_t bytes = (probe.bytes() + 63) / 64 * 64;
  while (cursor_.block < blocks_.size() && cursor_.offset + bytes > blocks_[cursor_.block].bytes()) {
    used_before_ += blocks_[cursor_.block].bytes();
    cursor_ = {cursor_.block + 1, 0};
  }
  if (cursor_.block == blocks_.size()) blocks_.emplace_back(std::max(bytes, block_bytes_), device_);
  auto* p = static_cast<std::byte*>(blocks_[cursor_.block].data()) + cursor_.offset;
  cursor_.offset += bytes;
  peak_ = std::max(peak_, used_before_ + cursor_.offset);
  return Tensor(p, dtype, shape, device_);
}

void Arena::rewind(Mark mark) {
  while (cursor_.block > mark.block) {
    --cursor_.block;
    used_before_ -= blocks_[cursor_.block].bytes();
  }
  cursor_ = mark;
}

}  // namespace nibble
