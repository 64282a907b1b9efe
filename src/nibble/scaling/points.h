// Losses to fit a scaling law to: from finished runs, or from tables.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

struct LossPoint {
  std::string recipe;
  double params = 0;  ///< without embedding and head
  double tokens = 0;  ///< seen in training
  double loss = 0;    ///< validation, nats
};

struct LossPoints {
  std::vector<LossPoint> points;
  std::vector<std::string> notes;  ///< what was left out, one sentence each
};

/// Non-embedding parameters of a model named in a table; throws UserError for a name it doesn't know.
using ModelSize = std::function<double(const std::string& model)>;

/// Reads all sources, in their order:
///
/// - a run folder (docs/formats.md): its recipe, non-embedding parameters, tokens and final validation loss. A run that
/// is
///   not complete is left out with a note, since a loss in the middle of a learning rate schedule lies above the law;
/// - the folder of a comparison, or any folder of run folders: every run inside, each once;
/// - a table, FILE.csv, FILE.tsv (a header line; lines that begin with # are comments) or FILE.json (an array of
///   objects), with `recipe`, `loss` (or `val_loss`), `params` or `model`, and `tokens` or `ratio` (D / N). Further
///   columns are ignored. Numbers may have a suffix (parse_count).
///
/// UserError, with file and line, for what is none of these, a missing column and a value that is not positive.
LossPoints read_loss_points(const std::vector<std::filesystem::path>& sources, const ModelSize& model_size);

/// A positive number with an optional suffix k, M, G or B, T (10^3, 10^6, 10^9, 10^12): "30482560", "30.5M", "1e9".
/// NaN for anything else.
double parse_count(std::string_view text);
/// The same for the value of a command-line option; UserError names the option where there is no such number.
double parse_count(const std::string& text, const char* option);

/// The recipes, in the order in which they first appear.
std::vector<std::string> recipes_of(const std::vector<LossPoint>& points);
std::vector<LossPoint> points_of(const std::vector<LossPoint>& points, const std::string& recipe);

}  // namespace nibble
