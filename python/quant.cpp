// quantize and what it gives.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <cstring>
#include <optional>

#include "nibble/quant/hadamard.h"
#include "nibble/quant/quantize.h"
#include "nibble/recipe/names.h"
#include "nibble/recipe/random_streams.h"
#include "python/array.h"
#include "python/bindings.h"
#include "python/spec.h"

namespace nibble::python {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

constexpr std::size_t kArenaBlock = std::size_t{1} << 20;  // a call's own; larger needs get blocks of their size
constexpr std::uint32_t kLayers = 1U << 20;                // that random streams tell apart (recipe/random_streams.h)

constexpr const char* kQuantizeDoc =
    R"(Quantises an array of float32 or bfloat16 (NumPy, or a CPU tensor that speaks DLPack; it is not copied).

The last dimension is a row, all others together number the rows. Random numbers are those of training: a function of
(seed, step, layer, operand, element), so the same call gives the same codes on any number of threads. `reference` is
what rounding="reference" rounds towards, float32 of x's shape. Infinities and NaN saturate and are not reported.)";

constexpr const char* kQTensorDoc =
    R"(A quantised matrix: element codes, scales, and what a clamp cut off.

value(r, c) = decode(code) * scale of its block * outer scale * tensor_scale (+ residual). Codes of four bits lie two a
byte, the even column in the low half; scales are float32, or uint8 for E8M0 and E4M3. The arrays are views: what is
written to codes and scales counts in dequantize.)";

class Quantized {
 public:
  Quantized(const Array& array, const Spec& spec, std::uint64_t seed, std::uint32_t step, std::uint32_t layer,
            const std::optional<Array>& reference)
      : spec_(spec) {
    if (spec.spec.source == OperandSource::Fprop) {
      user_error("{} takes what fprop quantised: quantise {}", operand_name(spec.operand),
                 operand_name(fprop_counterpart(spec.operand)));
    }
    if (layer >= kLayers) user_error("layer is {}, must be below {}", layer, kLayers);
    for (std::size_t i = 0; i < array.ndim(); ++i) shape_.push_back(static_cast<std::int64_t>(array.shape(i)));
    const Tensor x = matrix_of(array, "x");
    const auto product = static_cast<Product>(static_cast<std::size_t>(spec.operand) / 2);
    context_.random = operand_stream(seed, step, layer, spec.operand);
    context_.signs = sign_stream(seed, step, layer, product, spec.spec.quant.hadamard.signs, 0);
    QuantizeContext context = context_;
    context.reference = reference_of(reference, x);
    const nb::gil_scoped_release free;
    Arena arena(Device::Cpu, kArenaBlock);
    q_ = quantize(x, spec.spec.quant, context, arena);
    // Out of the arena, which holds more than the result.
    for (Tensor* part : {&q_.codes, &q_.scales, &q_.outer_scales, &q_.mask, &q_.element_scales}) keep(*part);
    if (q_.residual.defined()) {
      q_.residual.col = q_.residual.col.elements(0, q_.residual.nnz());
      q_.residual.value = q_.residual.value.elements(0, q_.residual.nnz());
      for (Tensor* part : {&q_.residual.row_begin, &q_.residual.col, &q_.residual.value}) keep(*part);
    }
  }

  Quantized(Quantized&&) = default;  // moving leaves the memory where q's views see it

  const QTensor& q() const { return q_; }
  const Spec& spec() const { return spec_; }

  /// A part of q as an array; None where there is none. The object that holds this one keeps it alive.
  static nb::object part(nb::handle self, Tensor QTensor::*member) {
    const Tensor& tensor = nb::cast<const Quantized&>(self).q_.*member;
    if (!tensor.defined()) return nb::none();
    return array_of(tensor, {tensor.shape().begin(), tensor.shape().end()}, self);
  }

  nb::object dequantize(const std::string& dtype, bool original) const {
    if (dtype != "float32" && dtype != "bfloat16") user_error("dtype is '{}', must be float32 or bfloat16", dtype);
    OwnedTensor out;
    {
      const nb::gil_scoped_release free;
      out = OwnedTensor(dtype == "float32" ? DType::F32 : DType::BF16, {q_.rows, q_.cols});
      nibble::dequantize(q_, out);
      if (original && q_.hadamard.enabled()) hadamard_inverse(out, q_.hadamard, context_.signs, out);
    }
    if (!spec_.spec.quant.transposed) return array_of(std::move(out), shape_);
    if (!original) return array_of(std::move(out), {q_.rows, q_.cols});
    // Turned back by its strides; a shape of more dimensions numbers the rows as x did.
    std::vector<std::int64_t> strides(shape_.size());
    std::int64_t step = 1;
    for (std::size_t i = shape_.size(); i-- > 0;) {
      const bool column = i + 1 == shape_.size();
      strides[i] = column ? q_.cols : step;
      if (!column) step *= shape_[i];
    }
    return array_of(std::move(out), shape_, strides);
  }

  nb::dict quality(const Array& array) const {
    const Tensor x = matrix_of(array, "x");
    const bool turned = spec_.spec.quant.transposed;
    if (x.rows() != (turned ? q_.cols : q_.rows) || x.cols() != (turned ? q_.rows : q_.cols)) {
      user_error("x is [{}, {}]: pass the array that was quantised", x.rows(), x.cols());
    }
    QuantQuality figures;
    {
      const nb::gil_scoped_release free;
      Arena arena(Device::Cpu, kArenaBlock);
      figures = measure_quality(x, q_, spec_.spec.quant, context_, arena);
    }
    const auto share = [&](std::int64_t n, std::int64_t of) {
      return of == 0 ? 0.0 : static_cast<double>(n) / static_cast<double>(of);
    };
    nb::dict d;
    d["snr_db"] = figures.snr_db();
    d["cosine"] = figures.cosine();
    d["relative_mse"] = figures.relative_mse();
    d["bias"] = figures.bias();
    d["underflow"] = share(figures.underflow, figures.count);
    d["clamped"] = figures.clamped_share();
    d["clipped"] = share(figures.clipped, figures.count);
    d["scale_saturated"] = share(figures.scale_saturated, figures.blocks);
    d["scale_underflow"] = share(figures.scale_underflow, figures.blocks);
    return d;
  }

  nb::object residual() const {
    if (!q_.residual.defined()) return nb::none();
    const auto copy = [](const Tensor& from) {
      OwnedTensor to(from.dtype(), from.shape());
      if (from.bytes() > 0) std::memcpy(to.view().raw(), from.raw(), from.bytes());
      return array_of(std::move(to), {from.numel()});
    };
    return nb::make_tuple(copy(q_.residual.row_begin), copy(q_.residual.col), copy(q_.residual.value));
  }

 private:
  Tensor reference_of(const std::optional<Array>& reference, const Tensor& x) const {
    if ((spec_.spec.quant.rounding == Rounding::Reference) != reference.has_value()) {
      user_error("reference goes with rounding = \"reference\", which needs one");
    }
    if (!reference) return {};
    const Tensor r = matrix_of(*reference, "reference");
    if (r.dtype() != DType::F32 || r.rows() != x.rows() || r.cols() != x.cols()) {
      user_error("reference is {}, must be F32 [{}, {}] as x", to_string(r), x.rows(), x.cols());
    }
    return r;
  }

  void keep(Tensor& part) {
    if (!part.defined()) return;
    OwnedTensor own(part.dtype(), part.shape());
    if (part.bytes() > 0) std::memcpy(own.view().raw(), part.raw(), part.bytes());
    part = own.view();
    memory_.push_back(std::move(own));
  }

  Spec spec_;
  std::vector<std::int64_t> shape_;  // of x
  QuantizeContext context_;
  QTensor q_;
  std::vector<OwnedTensor> memory_;
};

std::string scale_format_name(ScaleFormat format) {
  switch (format) {
    case ScaleFormat::F32: return "f32";
    case ScaleFormat::E8M0: return "e8m0";
    case ScaleFormat::UE4M3: return "ue4m3";
    case ScaleFormat::None: break;
  }
  return "none";
}

std::string repr(const Quantized& self) {
  const QTensor& q = self.q();
  return fmt::format("QTensor([{}, {}], {})", q.rows, q.cols, describe(self.spec().spec));
}

}  // namespace

void bind_quant(nb::module_& m) {
  nb::class_<Quantized>(m, "QTensor", kQTensorDoc)
      .def_prop_ro(
          "codes", [](nb::handle self) { return Quantized::part(self, &QTensor::codes); },
          nb::sig("def codes(self) -> typing.Any"),
          "uint8 [rows, bytes of a row]; of element 'f32' float32 and of 'bf16' bfloat16 [rows, cols]")
      .def_prop_ro(
          "scales", [](nb::handle self) { return Quantized::part(self, &QTensor::scales); },
          nb::sig("def scales(self) -> numpy.typing.NDArray[typing.Any] | None"),
          "Decode scales, one a block: float32 or uint8, row-major over blocks; None for elements without a scale")
      .def_prop_ro(
          "outer_scales", [](nb::handle self) { return Quantized::part(self, &QTensor::outer_scales); },
          nb::sig("def outer_scales(self) -> numpy.typing.NDArray[typing.Any] | None"),
          "float32 [rows, stretches]: the second level of nvfp4 with `outer`; None elsewhere")
      .def_prop_ro(
          "mask", [](nb::handle self) { return Quantized::part(self, &QTensor::mask); },
          nb::sig("def mask(self) -> numpy.typing.NDArray[typing.Any] | None"),
          "Trust mask, uint8 [rows, (cols + 7) // 8]: numpy.unpackbits(mask, axis=1, bitorder='little')")
      .def_prop_ro(
          "residual", [](const Quantized& s) { return s.residual(); },
          nb::sig("def residual(self) -> tuple[numpy.typing.NDArray[typing.Any], numpy.typing.NDArray[typing.Any], "
                  "numpy.typing.NDArray[typing.Any]] | None"),
          "What a sparse clamp cut off, as CSR: row_begin, columns, values; a copy. None without one")
      .def_prop_ro("tensor_scale", [](const Quantized& s) { return s.q().tensor_scale; })
      .def_prop_ro(
          "shape", [](const Quantized& s) { return std::make_tuple(s.q().rows, s.q().cols); },
          "Rows and columns as they are stored: turned where spec.transposed")
      .def_prop_ro(
          "block", [](const Quantized& s) { return std::make_tuple(s.q().block_rows(), s.q().block_cols()); },
          "Rows and columns that share a scale")
      .def_prop_ro(
          "element", [](const Quantized& s) { return name_of(element_names(), s.q().element); },
          "Format of what is stored: that of the carrier where the spec has one")
      .def_prop_ro(
          "scale_format", [](const Quantized& s) { return scale_format_name(s.q().scale_format); },
          "'f32', 'e8m0', 'ue4m3' or 'none'")
      .def_prop_ro("spec", [](const Quantized& s) { return s.spec(); })
      .def_prop_ro(
          "nbytes", [](const Quantized& s) { return stored_bytes(s.q()); },
          "Bytes of codes, scales and mask, without the residual")
      .def("dequantize", &Quantized::dequantize, "dtype"_a = "float32", nb::kw_only(), "original"_a = false,
           nb::sig("def dequantize(self, dtype: str = 'float32', *, original: bool = False) -> typing.Any"),
           "The values, residual included: a NumPy array, or for 'bfloat16' an object that speaks DLPack\n"
           "(torch.from_dlpack). They lie as they are stored, turned and rotated by the spec's transform; with\n"
           "`original` they are turned and rotated back to where x's were.")
      .def(
          "quality", &Quantized::quality, "x"_a.noconvert(),
          nb::sig("def quality(self, x: typing.Any) -> dict[str, float]"),
          "How well this represents x, which it was quantised from: snr_db, cosine, relative_mse, bias and the shares\n"
          "underflow, clamped, clipped, scale_saturated and scale_underflow, as in metrics.jsonl.")
      .def("__repr__", repr);

  m.def(
      "quantize",
      [](const Array& x, const Spec& spec, std::uint64_t seed, std::uint32_t step, std::uint32_t layer,
         const std::optional<Array>& reference) { return Quantized(x, spec, seed, step, layer, reference); },
      "x"_a.noconvert(), "spec"_a, nb::kw_only(), "seed"_a = 0, "step"_a = 0, "layer"_a = 0,
      "reference"_a.noconvert() = nb::none(),
      nb::sig("def quantize(x: typing.Any, spec: QuantSpec, *, seed: int = 0, step: int = 0, layer: int = 0, "
              "reference: typing.Any = None) -> QTensor"),
      kQuantizeDoc);
}

}  // namespace nibble::python
