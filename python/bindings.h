// The parts of the module, one file each: python/<part>.cpp.
#pragma once

#include <nanobind/nanobind.h>

namespace nibble::python {

void bind_spec(nanobind::module_& m);    ///< QuantSpec
void bind_quant(nanobind::module_& m);   ///< quantize, QTensor
void bind_recipe(nanobind::module_& m);  ///< recipe, recipes, Recipe
void bind_train(nanobind::module_& m);   ///< train, compare, Step
void bind_eval(nanobind::module_& m);    ///< evaluate
void bind_logs(nanobind::module_& m);    ///< read_run

}  // namespace nibble::python
