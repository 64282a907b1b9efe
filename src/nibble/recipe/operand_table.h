// One operand's table of a recipe file -> OperandSpec, with every check that needs no other operand.
#pragma once

#include "nibble/io/config_table.h"
#include "nibble/recipe/recipe.h"

namespace nibble {

/// Reads all keys and refuses unknown ones. Blocks given by their length alone lie along the operand's contraction.
OperandSpec parse_operand(const ConfigTable& table, Operand operand);

/// The wider format of outlier channels, from the table [outlier_channels]: element, granularity and scale as in
/// fprop.x, rounded to nearest even.
QuantSpec parse_wider_format(const ConfigTable& table);

}  // namespace nibble
