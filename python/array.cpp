#include "python/array.h"

#include "nibble/tensor/error.h"

namespace nibble::python {

namespace nb = nanobind;

namespace {

bool is_contiguous(const Array& array) {
  std::int64_t step = 1;
  for (std::size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != step) return false;
    step *= static_cast<std::int64_t>(array.shape(i));
  }
  return true;
}

const char* word_of(nb::dlpack::dtype_code code) {
  switch (code) {
    case nb::dlpack::dtype_code::Int: return "int";
    case nb::dlpack::dtype_code::UInt: return "uint";
    case nb::dlpack::dtype_code::Float: return "float";
    case nb::dlpack::dtype_code::Complex: return "complex";
    case nb::dlpack::dtype_code::Bool: return "bool";
    default: return "a type of DLPack's code ";
  }
}

template <class Framework, class T>
nb::object typed_array(const Tensor& tensor, const std::vector<std::int64_t>& shape, nb::handle owner,
                       const std::vector<std::int64_t>& strides) {
  const std::vector<std::size_t> extents(shape.begin(), shape.end());
  return nb::cast(nb::ndarray<Framework, T, nb::device::cpu>(static_cast<T*>(tensor.raw()), extents.size(),
                                                             extents.data(), owner,
                                                             strides.empty() ? nullptr : strides.data()));
}

}  // namespace

Tensor matrix_of(const Array& array, const char* name) {
  if (array.device_type() != nb::device::cpu::value) {
    user_error("{} is on another device: give an array in the CPU's memory", name);
  }
  const bool is_f32 = array.dtype() == nb::dtype<float>();
  if (!is_f32 && array.dtype() != nb::dtype<bf16>()) {
    const nb::dlpack::dtype type = array.dtype();
    user_error("{} is {}{}, must be float32 or bfloat16", name, word_of(static_cast<nb::dlpack::dtype_code>(type.code)),
               static_cast<int>(type.bits));
  }
  if (array.ndim() == 0 || array.size() == 0) user_error("{} is {}", name, array.ndim() == 0 ? "a scalar" : "empty");
  if (!is_contiguous(array)) user_error("{} is not contiguous: pass numpy.ascontiguousarray({})", name, name);
  const auto cols = static_cast<std::int64_t>(array.shape(array.ndim() - 1));
  const std::int64_t rows = static_cast<std::int64_t>(array.size()) / cols;
  // The library's tensors are views for reading and writing alike; it reads this one.
  void* data = const_cast<void*>(static_cast<const void*>(array.data()));
  return Tensor(data, is_f32 ? DType::F32 : DType::BF16, {rows, cols});
}

nb::object array_of(const Tensor& tensor, const std::vector<std::int64_t>& shape, nb::handle owner,
                    const std::vector<std::int64_t>& strides) {
  switch (tensor.dtype()) {
    case DType::F32: return typed_array<nb::numpy, float>(tensor, shape, owner, strides);
    case DType::I32: return typed_array<nb::numpy, std::int32_t>(tensor, shape, owner, strides);
    case DType::U8: return typed_array<nb::numpy, std::uint8_t>(tensor, shape, owner, strides);
    case DType::BF16: return typed_array<nb::array_api, bf16>(tensor, shape, owner, strides);
    case DType::F16: break;
  }
  throw InternalError("no array for " + to_string(tensor));
}

nb::object array_of(OwnedTensor tensor, const std::vector<std::int64_t>& shape,
                    const std::vector<std::int64_t>& strides) {
  auto* kept = new OwnedTensor(std::move(tensor));
  const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<OwnedTensor*>(p); });
  return array_of(kept->view(), shape, owner, strides);
}

}  // namespace nibble::python
