// An inspection as tables for a terminal and as JSON for programs (docs/inspect.md).
#pragma once

#include <string>

#include "nibble/inspect/inspection.h"

namespace nibble {

/// Outlier channels; a table of layers for each recipe; with several recipes also one of layers by recipes; and which
/// layer each recipe hurts most.
std::string inspection_text(const Inspection& inspection);
/// Every number of the inspection, null for what is infinite (an exact operand's SNR) or was not measured.
std::string inspection_json(const Inspection& inspection);
/// "mine hurts layers.1.mlp.down most: ..."
std::string worst_layer_sentence(const Inspection& inspection, const RecipeInspection& recipe);
/// SNR in dB of an operand, "exact" where nothing is lost or nothing is quantised, "-" where it was not measured.
std::string snr_text(const RecipeInspection& recipe, std::size_t layer, std::size_t operand);
/// "12.1 / 13.4 / 15.0": relative errors of fprop, dgrad and wgrad in per cent, "*" behind an estimated gradient's.
std::string errors_text(const LayerTelemetry& layer);
/// "17 (x 12.3), 4 (x 9.9)": the top channels and their RMS over the median.
std::string channels_text(const ChannelFigures& channels);

}  // namespace nibble
