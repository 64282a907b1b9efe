// Run logs as they lie on disk, read into plain structs.
//
// A run directory holds run.json (what was run: settings, recipe, machine) and metrics.jsonl (one object a step).
// A comparison directory holds compare.json (the final figures of its runs) beside the run directories it names.
// The fields are listed in docs/formats.md. A number that is null or missing is read as NaN, except that a null
// `snr_db` means that the operand was represented exactly: +infinity.
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

/// How well one quantized operand represents its source.
struct OperandQuality {
  double snr_db = kNotLogged;        ///< 10 log10(sum x^2 / sum (q - x)^2); +infinity if q = x
  double cosine = kNotLogged;        ///< <q, x> / (|q| |x|)
  double relative_mse = kNotLogged;  ///< sum (q - x)^2 / sum x^2
  double underflow = kNotLogged;     ///< share of nonzero elements that became zero
  double clamped = kNotLogged;       ///< share of elements that the clamp changed
};
using Quality = std::array<OperandQuality, kOperands>;

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

struct QualityPoint {
  std::int64_t step = 0;
  Quality quality;
};

struct LayerQuality {
  std::string layer;  ///< "layers.0.attention.qkv"
  Quality quality;
};

struct RecipeOperand {
  std::string operand;  ///< "fprop.x"
  std::string spec;     ///< "E2M1 per token absmax, ..."
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

  std::vector<StepRecord> steps;  ///< ascending by step
  std::vector<ValidationPoint> validation;
  std::vector<QualityPoint> quality;
  std::vector<LayerQuality> layers;  ///< at the last interval that logged them
  std::int64_t layers_step = 0;
};

/// One row of compare.json: the final figures of a run.
struct RunResult {
  std::string name{};
  std::string directory{};  ///< relative to the comparison directory
  std::string recipe{};
  std::uint64_t seed = 0;
  double train_loss = kNotLogged;
  double val_loss = kNotLogged;
  double gap_percent = kNotLogged;  ///< 100 (loss / baseline loss - 1)
  double tokens_per_second = kNotLogged;
  double clamped_share = kNotLogged;  ///< of the activations, in [0, 1]
  Quality quality{};
};

struct CompareLog {
  std::filesystem::path directory;
  std::string baseline;               ///< the recipe that gaps refer to; empty if there is none
  double noise_percent = kNotLogged;  ///< spread of the baseline's seeds, 100 (max - min) / mean
  std::vector<std::uint64_t> seeds;
  std::vector<RunResult> runs;
  std::string config_text;
  std::string command;
};

bool is_run_directory(const std::filesystem::path& directory);
bool is_compare_directory(const std::filesystem::path& directory);

/// Reads a run directory. A last line of metrics.jsonl without its newline is taken if it is whole and ignored
/// if it is torn (the run was killed while writing, or is still writing). When a step occurs twice (a run that
/// resumed from an older checkpoint), the later record wins and what the earlier attempt logged beyond it goes.
/// Throws UserError naming file and line for anything else that can't be read; a missing metrics.jsonl is a run
/// without steps.
RunLog load_run(const std::filesystem::path& directory);

/// Reads compare.json alone; the runs it names are loaded with load_run. Throws UserError.
CompareLog load_compare(const std::filesystem::path& directory);

}  // namespace nibble
