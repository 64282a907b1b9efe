// QuantSpec(...): the keys of an operand's table in a recipe file, read by the same reader; and back.
#include "python/spec.h"

#include <nanobind/operators.h>
#include <nanobind/stl/string.h>

#include "nibble/io/suggest.h"
#include "nibble/recipe/names.h"
#include "nibble/recipe/operand_table.h"
#include "python/bindings.h"
#include "python/values.h"

namespace nibble::python {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

constexpr const char* kDoc =
    R"(What shall happen to one operand of one product: a recipe's table as keyword arguments (docs/recipes.md).

    QuantSpec(element="e2m1", granularity=16, scale="nvfp4", rounding="stochastic")
    QuantSpec(element="e2m1", granularity=32, scale="ocp-floor", hadamard={"group": 32, "signs": "step"})
    QuantSpec(operand="wgrad.x", element="e4m3", granularity="row")

`operand` ("fprop.x" where it is not given) says in which place of a product the matrix stands: which of its dimensions the contraction runs along (blocks
given by their length alone lie along it, transforms too), and which of the rules that need a place are allowed. A matrix
whose contraction runs down its columns (dgrad.w, wgrad.dy, wgrad.x) is turned where that is needed: `transposed`.
A key or value that is wrong raises UserError, which says what is allowed.)";

Operand operand_of(const std::string& name) {
  std::vector<std::string> known;
  for (const Operand operand : kAllOperands) {
    if (name == operand_name(operand)) return operand;
    known.emplace_back(operand_name(operand));
  }
  user_error("there is no operand '{}'{}", name, did_you_mean(name, known));
}

Spec read_spec(const std::string& operand, const nb::kwargs& settings) {
  std::string text;
  for (const auto& [key, value] : settings) {
    const std::string name = nb::cast<std::string>(key);
    text += name + " = " + toml_of(value, name) + "\n";
  }
  const Operand place = operand_of(operand);
  return {place, parse_operand(ConfigTable::parse_text(text, "QuantSpec"), place)};
}

/// The word for a granularity of the matrix as it was before it was turned.
nb::object granularity_word(const Spec& s) {
  const QuantSpec& q = s.spec.quant;
  const bool down = contraction_runs_down(s.operand);
  const std::int64_t rows = q.transposed ? q.granularity.cols : q.granularity.rows;
  const std::int64_t cols = q.transposed ? q.granularity.rows : q.granularity.cols;
  if (rows == 0 && cols == 0) return nb::str("tensor");
  if (rows == 1 && cols == 0) return nb::str("row");
  if (rows == 0 && cols == 1) return nb::str("column");
  const bool along = down ? q.transposed && cols == 1 : rows == 1;
  if (along) return nb::int_(down ? rows : cols);
  return nb::cast(fmt::format("{}x{}", rows, cols));
}

nb::dict nvfp4_dict(const Nvfp4Scale& scale) {
  nb::dict d;
  d["val_max"] = scale.val_max;
  d["scale_max"] = scale.scale_max;
  d["zero_scale"] = scale.zero_scale;
  d["outer"] = scale.outer;
  d["select"] = name_of(selection_names(), scale.selection);
  return d;
}

nb::dict hadamard_dict(const Hadamard& transform) {
  nb::dict d;
  d["group"] = transform.group;
  d["signs"] = name_of(sign_names(), transform.signs);
  d["signs_last"] = transform.signs_last;
  return d;
}

nb::dict clamp_dict(const Clamp& clamp) {
  nb::dict d;
  d["alpha"] = clamp.alpha;
  d["axis"] = clamp.per_row ? "row" : "tensor";
  d["residual"] = name_of(residual_names(), clamp.residual);
  return d;
}

void add_quantiser(const Spec& s, nb::dict& d) {
  const QuantSpec& q = s.spec.quant;
  d["granularity"] = granularity_word(s);
  d["scale"] = name_of(scale_names(), q.scale);
  d["rounding"] = name_of(rounding_names(), q.rounding);
  if (q.scale == ScaleRule::Nvfp4) d["nvfp4"] = nvfp4_dict(q.nvfp4);
  if (q.rounding == Rounding::Eden) d["eden_group"] = q.eden_group;
  if (q.element == ElementFormat::E3M0) d["log_steps"] = q.log_steps;
  if (q.hadamard.enabled()) d["hadamard"] = hadamard_dict(q.hadamard);
  if (q.clamp.enabled()) d["clamp"] = clamp_dict(q.clamp);
  if (q.trust_mask) d["trust_mask"] = true;
  if (q.bf16_input) d["bf16_input"] = true;
  if (q.carrier != ElementFormat::BF16) d["carrier"] = name_of(element_names(), q.carrier);
  if (s.spec.fold_partner_scales) d["fold_partner_scales"] = true;
  if (s.spec.samples > 1) d["samples"] = s.spec.samples;
}

nb::dict as_dict(const Spec& s) {
  nb::dict d;
  d["operand"] = operand_name(s.operand);
  if (s.spec.source != OperandSource::HighPrecision) d["source"] = name_of(source_names(), s.spec.source);
  if (s.spec.source == OperandSource::Fprop) return d;
  d["element"] = name_of(element_names(), s.spec.quant.element);
  if (has_scale(s.spec.quant.element)) add_quantiser(s, d);
  return d;
}

std::string spec_repr(const Spec& s) {
  std::string text;
  for (const auto& [key, value] : as_dict(s)) {
    text += fmt::format("{}{}={}", text.empty() ? "" : ", ", nb::cast<std::string>(key),
                        nb::cast<std::string>(nb::repr(value)));
  }
  return "QuantSpec(" + text + ")";
}

}  // namespace

void bind_spec(nb::module_& m) {
  nb::class_<Spec>(m, "QuantSpec", kDoc)
      .def(
          "__init__",
          [](Spec* self, const std::string& operand, const nb::kwargs& settings) {
            new (self) Spec(read_spec(operand, settings));
          },
          nb::kw_only(), "operand"_a = "fprop.x", "settings"_a,
          nb::sig("def __init__(self, *, operand: str = ..., element: str = 'bf16', "
                  "granularity: int | str = 'row', scale: str = 'absmax', rounding: str = 'nearest-even', "
                  "nvfp4: dict[str, float | int | str] = ..., eden_group: int = 16, log_steps: int = 6, "
                  "hadamard: dict[str, int | str | bool] = ..., clamp: dict[str, float | str] = ..., "
                  "trust_mask: bool = False, bf16_input: bool = False, carrier: str = 'none', "
                  "fold_partner_scales: bool = False, samples: int = 1, source: str = 'high-precision') -> None"))
      .def_prop_ro("operand", [](const Spec& s) { return operand_name(s.operand); })
      .def_prop_ro(
          "source", [](const Spec& s) { return name_of(source_names(), s.spec.source); },
          "'high-precision': the tensor itself; 'fprop': what fprop quantised serves again; 'requantise': its values")
      .def_prop_ro("element", [](const Spec& s) { return name_of(element_names(), s.spec.quant.element); })
      .def_prop_ro("granularity", granularity_word, nb::sig("def granularity(self) -> int | str"))
      .def_prop_ro("scale", [](const Spec& s) { return name_of(scale_names(), s.spec.quant.scale); })
      .def_prop_ro("rounding", [](const Spec& s) { return name_of(rounding_names(), s.spec.quant.rounding); })
      .def_prop_ro("transposed", [](const Spec& s) { return s.spec.quant.transposed; })
      .def(
          "stored_bits", [](const Spec& s, std::int64_t columns) { return stored_bits(s.spec.quant, columns); },
          "columns"_a, "Bits a value takes, scales included, in rows of `columns`: MXFP4 4.25, NVFP4 4.5.")
      .def("as_dict", as_dict, nb::sig("def as_dict(self) -> dict[str, typing.Any]"),
           "The arguments that make this spec: QuantSpec(**spec.as_dict()) == spec.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__str__", [](const Spec& s) { return describe(s.spec); })
      .def("__repr__", spec_repr);
}

}  // namespace nibble::python
