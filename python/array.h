// Arrays between Python and the library: NumPy, or whatever else speaks DLPack.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <vector>

#include "nibble/tensor/tensor.h"

/// DLPack's name for BF16.
template <>
struct nanobind::detail::dtype_traits<nibble::bf16> {
  static constexpr dlpack::dtype value{static_cast<std::uint8_t>(dlpack::dtype_code::Bfloat), 16, 1};
  static constexpr auto name = const_name("bfloat16");
};

namespace nibble::python {

using Array = nanobind::ndarray<nanobind::ro>;

/// A view of the array as a matrix [rows, cols], cols the last dimension; one dimension is one row. UserError, which
/// calls the array `name`, where it is not float32 or bfloat16, not contiguous, empty or not in the CPU's memory.
Tensor matrix_of(const Array& array, const char* name);

/// The tensor's memory as an array of that shape, which keeps `owner` alive: a NumPy array, but one that offers DLPack
/// alone for BF16, which NumPy lacks. `strides` in elements; empty = row-major.
nanobind::object array_of(const Tensor& tensor, const std::vector<std::int64_t>& shape, nanobind::handle owner,
                          const std::vector<std::int64_t>& strides = {});

/// The same of memory that the array takes over.
nanobind::object array_of(OwnedTensor tensor, const std::vector<std::int64_t>& shape,
                          const std::vector<std::int64_t>& strides = {});

/// A NumPy array of a column of numbers.
template <class T>
nanobind::object column_of(std::vector<T> values) {
  auto* kept = new std::vector<T>(std::move(values));
  const nanobind::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nanobind::cast(nanobind::ndarray<nanobind::numpy, T>(kept->data(), {kept->size()}, owner));
}

}  // namespace nibble::python
