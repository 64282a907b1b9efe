// Recipes by name, file or text.
#include "nibble/recipe/recipe.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "nibble/recipe/describe.h"
#include "nibble/tensor/error.h"
#include "python/bindings.h"
#include "python/spec.h"
#include "python/values.h"

namespace nibble::python {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

struct Fprop {
  Spec x, w;
};
struct Dgrad {
  Spec dy, w;
};
struct Wgrad {
  Spec dy, x;
};

Spec operand(const LinearRecipe& linear, Operand o) { return {o, linear[o]}; }
Fprop fprop(const LinearRecipe& l) { return {operand(l, Operand::FpropX), operand(l, Operand::FpropW)}; }
Dgrad dgrad(const LinearRecipe& l) { return {operand(l, Operand::DgradDy), operand(l, Operand::DgradW)}; }
Wgrad wgrad(const LinearRecipe& l) { return {operand(l, Operand::WgradDy), operand(l, Operand::WgradX)}; }

std::vector<std::pair<std::string, std::string>> pairs_of(const std::vector<Fact>& facts) {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const Fact& fact : facts) pairs.emplace_back(fact.what, fact.value);
  return pairs;
}

LinearRecipe resolve(const Recipe& recipe, const std::string& layer, std::int64_t block, std::int64_t blocks,
                     std::size_t stage) {
  if (stage >= recipe.stages.size()) {
    user_error("stage is {}, the recipe '{}' has {}, counted from 0", stage, recipe.name, recipe.stages.size());
  }
  return recipe.resolve(layer, block, blocks, stage);
}

}  // namespace

void bind_recipe(nb::module_& m) {
  nb::class_<Fprop>(m, "Fprop", "Operands of Y = X W^T.").def_ro("x", &Fprop::x).def_ro("w", &Fprop::w);
  nb::class_<Dgrad>(m, "Dgrad", "Operands of dX = dY W.").def_ro("dy", &Dgrad::dy).def_ro("w", &Dgrad::w);
  nb::class_<Wgrad>(m, "Wgrad", "Operands of dW = dY^T X.").def_ro("dy", &Wgrad::dy).def_ro("x", &Wgrad::x);

  nb::class_<LinearRecipe>(m, "LinearRecipe", "How one linear layer runs during one stage of a run.")
      .def_prop_ro("fprop", fprop)
      .def_prop_ro("dgrad", dgrad)
      .def_prop_ro("wgrad", wgrad);

  nb::class_<Recipe>(m, "Recipe", "How the linear layers of a model run their three products (docs/recipes.md).")
      .def_ro("name", &Recipe::name)
      .def_ro("title", &Recipe::title)
      .def_ro("source", &Recipe::source, "Paper or code that it comes from.")
      .def_ro("text", &Recipe::text, "The recipe as one TOML text, `extends` resolved.")
      .def_prop_ro("stages", [](const Recipe& r) { return r.stages.size(); })
      .def_prop_ro(
          "fprop", [](const Recipe& r) { return fprop(r.base()); },
          "Operands that layers without a rule of their own have in the first stage; so `dgrad` and `wgrad`.")
      .def_prop_ro("dgrad", [](const Recipe& r) { return dgrad(r.base()); })
      .def_prop_ro("wgrad", [](const Recipe& r) { return wgrad(r.base()); })
      .def("resolve", resolve, "layer"_a, "block"_a, "blocks"_a, "stage"_a = 0,
           "How layer 'layers.3.mlp.down' of block 3 of `blocks` runs in a stage, counted from 0.")
      .def("is_exempt", &Recipe::is_exempt, "layer"_a, "block"_a, "blocks"_a,
           "Whether that layer stays in high precision.")
      .def(
          "facts", [](const Recipe& r) { return pairs_of(facts(r)); },
          "All that the recipe says, as (what, value) in words.")
      .def(
          "differences",
          [](const Recipe& a, const Recipe& b) {
            std::vector<std::tuple<std::string, std::string, std::string>> all;
            for (const Difference& d : differences(a, b)) all.emplace_back(d.what, d.a, d.b);
            return all;
          },
          "other"_a, "What tells two recipes apart, as (what, here, there) in words.")
      .def("__repr__", [](const Recipe& r) { return fmt::format("<recipe '{}': {}>", r.name, r.title); });

  m.def(
      "recipe", [](nb::handle name) { return load_recipe(find_recipe(path_text(name))); }, "name_or_path"_a,
      nb::sig("def recipe(name_or_path: str | os.PathLike[str]) -> Recipe"),
      "A recipe by name ('wang2025') or by path (anything with a slash or '.toml').");
  m.def(
      "parse_recipe", [](const std::string& text) { return parse_recipe(text, "recipe"); }, "text"_a,
      "A recipe from the text of a recipe file.");
  m.def("recipes", known_recipes, "Names of all recipes, sorted.");
}

}  // namespace nibble::python
