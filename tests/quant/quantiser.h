// Specs of the tests and benches, built in one line.
#pragma once

#include "nibble/quant/quant_spec.h"

namespace nibble {

/// A spec by its four main fields.
inline QuantSpec quantiser(ElementFormat element, Granularity granularity, ScaleRule scale,
                           Rounding rounding = Rounding::NearestEven) {
  QuantSpec spec;
  spec.element = element;
  spec.granularity = granularity;
  spec.scale = scale;
  spec.rounding = rounding;
  return spec;
}

}  // namespace nibble
