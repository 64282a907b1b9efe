// The log of a run as it lies on disk, read into plain structs, and the run's final figures.
//
// A run directory holds run.json (what was run: settings, recipe, machine) and metrics.jsonl (one object a step); the
// fields are listed in docs/formats.md. A number that is null or missing is read as NaN, except that a null `snr_db`
// means that the operand was represented exactly: +infinity.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace nibble {

inline constexpr double kNotLogged = std::numeric_limits<double>::quiet_NaN();

/// The six operands of a linear layer's three products, in the order of every table and plot.
inline constexpr std::size_t kOperands = 6;
inline constexpr std::array<const char*, kOperands> kOperandNames = {"fprop.x", "fprop.w",  "dgrad.dy",
                                                                     "dgrad.w", "wgrad.dy", "wgrad.x"};
inline constexpr std::array<const char*, kOperands> kOperandShortNames = {"FA", "FW", "DG", "DW", "GG", "GX"};
inline constexpr std::size_t kProducts = 3;
inline constexpr std::array<const char*, kProducts> kProductNames = {"fprop", "dgrad", "wgrad"};

/// How well one quantized operand represents its source.
struct OperandQuality {
  double snr_db = kNotLogged;           ///< 10 log10(sum x^2 / sum (q - x)^2); +infinity if q = x
  double cosine = kNotLogged;           ///< <q, x> / (|q| |x|)
  double relative_mse = kNotLogged;     ///< sum (q - x)^2 / sum x^2
  double underflow = kNotLogged;        ///< share of nonzero elements that became zero
  double clamped = kNotLogged;          ///< share of elements that the clamp changed
  double clipped = kNotLogged;          ///< share of elements beyond the largest element value, after the clamp
  double bias = kNotLogged;             ///< mean of q - x over mean of |x|
  double scale_saturated = kNotLogged;  ///< share of block scales at the top of their format
  double scale_underflow = kNotLogged;  ///< share of block scales at its bottom though the block is not zero
};
using Quality = std::array<OperandQuality, kOperands>;

/// A product of quantized operands against that of their sources.
struct ProductFigures {
  double cosine = kNotLogged;
  double magnitude = kNotLogged;  ///< |computed| / |exact|
  double noise = kNotLogged;      ///< |computed - exact| / |exact|
};
using Products = std::array<ProductFigures, kProducts>;

/// Mean of quality figures over steps, runs or layers. The SNR is averaged as noise energy (10^(-SNR/10)), so an
/// exact interval counts as one without noise; the others are plain means. Figures not logged are left out.
Quality mean_quality(const std::vector<Quality>& all);

struct StepRecord {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  double loss = kNotLogged;
  double learning_rate = kNotLogged;
  double grad_norm = kNotLogged;
  double tokens_per_second = kNotLogged;
};

struct ValidationPoint {
  std::int64_t step = 0;
  double loss = kNotLogged;
};

/// One layer, or all of them together, at one measurement.
struct LayerQuality {
  std::string layer{};  ///< "layers.0.attention.qkv"; empty for all
  Quality quality{};
  Products products{};
  double oscillation = kNotLogged;  ///< sum |delta Q(w)| / sum |delta w|
};

struct QualityPoint {
  std::int64_t step = 0;
  LayerQuality total{};
  double gradient_to_noise = kNotLogged;  ///< rho = |dW| / |Q(dW) - dW|
  std::vector<LayerQuality> layers{};
};

/// A stage of the recipe, from the step it began.
struct StageRecord {
  std::int64_t step = 0;
  std::int64_t stage = 1;  ///< counted from 1
};

struct AlarmRecord {
  std::int64_t step = 0;
  std::string sentence{};
};

struct RecipeOperand {
  std::string operand{};  ///< "fprop.x"
  std::string where{};    ///< "stage 2, layers.*.mlp.*"; empty for the layers and stage that the recipe begins with
  std::string spec{};     ///< "E2M1 per token absmax, ..."
};

/// Settings of one section of run.json, nested keys joined by dots, values as text.
struct SettingsGroup {
  std::string name;
  std::vector<std::pair<std::string, std::string>> values;
};

struct RunLog {
  std::filesystem::path directory;
  std::string name;
  std::string recipe;
  std::string recipe_text;
  std::string command;  ///< the command line, if run.json states it
  std::string version;  ///< of nibble
  std::string started;
  std::vector<RecipeOperand> recipe_table;
  std::uint64_t seed = 0;
  std::int64_t parameters = 0;
  std::int64_t non_embedding_parameters = 0;
  std::vector<SettingsGroup> settings;  ///< model, train, data, paths, machine

  std::vector<StepRecord> steps;  ///< this and the following ascend by step
  std::vector<ValidationPoint> validation;
  std::vector<QualityPoint> quality;
  std::vector<StageRecord> stages;  ///< where the stage changed; the stage that the run began with is not listed
  std::vector<AlarmRecord> alarms;
};

bool is_run_directory(const std::filesystem::path& directory);

/// Reads a run directory. A last line of metrics.jsonl without its newline is taken if it is whole and ignored
/// if it is torn (the run was killed while writing, or is still writing). When a step occurs twice (a run that
/// resumed from an older checkpoint), the later record wins and what the earlier attempt logged beyond it goes.
/// Throws UserError naming file and line for anything else that can't be read; a missing metrics.jsonl is a run
/// without steps.
RunLog load_run(const std::filesystem::path& directory);

/// What a run came to: the one definition, for result.json, compare.json, tables and pages.
struct RunFigures {
  std::int64_t steps = 0;
  std::int64_t tokens = 0;
  double train_loss = kNotLogged;         ///< mean of the last twentieth of the steps, of at least one and at most 200
  double val_loss = kNotLogged;           ///< the last one measured
  double tokens_per_second = kNotLogged;  ///< median over the steps without the first tenth, the warm-up
  Quality quality{};                      ///< mean_quality over the measurements
  double clamped_share = kNotLogged;      ///< of fprop.x in `quality`
};
RunFigures final_figures(const RunLog& run);

}  // namespace nibble
