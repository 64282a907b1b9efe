// The settings of a training run, read from a TOML file (docs/formats.md lists every key).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/io/config_table.h"
#include "nibble/model/config.h"
#include "nibble/model/gather_weights.h"
#include "nibble/model/recompute.h"
#include "nibble/ops/gemm.h"
#include "nibble/tensor/tensor.h"
#include "nibble/train/alarms.h"
#include "nibble/train/exchange_format.h"
#include "nibble/train/gradient_scaling.h"

namespace nibble {

enum class OptimizerKind : std::uint8_t {
  AdamW,     ///< FP32 master weights and moments
  AdamWFp8,  ///< FP8-LM: FP16 master weights, E4M3 first and FP16 second moment, one scale a tensor; linear layers have
             ///< no other weights
};

enum class Schedule : std::uint8_t {
  Cosine,  ///< warm-up, then a half cosine to min_lr_ratio * lr
  Wsd,     ///< warm-up, stable, then linear decay to min_lr_ratio * lr over the last decay_fraction of the steps
};

struct TrainConfig {
  LlamaConfig model;
  std::string recipe = "bf16";
  std::filesystem::path data;  ///< folder that `nibble data prepare` wrote
  std::filesystem::path init;  ///< whose weights the run begins with (train/stored_model.h); empty = random ones

  std::int64_t steps = 0;
  std::int64_t batch = 0;        ///< sequences an optimizer step
  std::int64_t micro_batch = 0;  ///< sequences a pass; divides batch
  Device device = Device::Cpu;   ///< where the run computes
  Recompute recompute = Recompute::None;
  DType gradients = DType::F32;  ///< of the weights of linear layers between a backward and the update: F32 or BF16
  MxProducts mxfp4_products = MxProducts::Fp8;  ///< which tensor cores multiply MXFP4 by MXFP4 on a GPU
  Fp8Accumulation fp8_accumulation = Fp8Accumulation::F32;
  bool cuda_graphs = false;    ///< blocks are handed to a GPU as CUDA graphs; same bits
  bool deterministic = false;  ///< sums over micro-batches in an order that ranks do not change (dist/ordered_sum.h)
  ExchangeFormat exchange = ExchangeFormat::Stored;          ///< of gradients, between ranks
  ExchangeScaling exchange_scaling = ExchangeScaling::Sqrt;  ///< of those in FP8
  int zero = 0;                                              ///< what ranks share: ParameterStorage::zero
  GatherWeights gather = GatherWeights::Block;               ///< with zero = 3
  std::uint64_t seed = 1;  ///< of the initial weights, the data order and stochastic rounding

  OptimizerKind optimizer = OptimizerKind::AdamW;
  Schedule schedule = Schedule::Cosine;
  double lr = 1e-3;              ///< peak
  double warmup_fraction = 0.1;  ///< of the steps; linear from lr * warmup_start_ratio
  double warmup_start_ratio = 0.01;
  double min_lr_ratio = 0.1;
  double decay_fraction = 0.2;  ///< wsd
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;  ///< on matrices except the embedding
  double clip = 1.0;          ///< bound of the global gradient norm; 0 = none

  std::int64_t validate_every = 100;
  std::int64_t validate_sequences = 0;  ///< 0 = the whole validation set
  std::int64_t quality_every = 50;      ///< steps between measurements of quantisation quality; 0 = never
  std::int64_t checkpoint_every = 500;  ///< 0 = only at the end and when stopped
  std::int64_t keep_checkpoints = 2;
  bool checkpoint_async = false;  ///< written beside the training (train/checkpoint_writer.h); where not set, on a GPU
  AlarmSettings alarms;

  std::int64_t tokens_per_step() const { return batch * model.seq; }
};

/// A device by the name that settings and commands know: "cpu", "cuda", or "auto", the GPU where there is one.
/// UserError for another one.
Device device_of(const std::string& name);

/// Reads and validates; UserError with file and line. `root` may carry --set overrides. Where train.device is "auto",
/// the answer holds the device that was found.
TrainConfig read_train_config(const ConfigTable& root);

/// Reads a file, by path or by name ("demo": configs/demo.toml, io/data_file.h), with overrides "table.key=value".
TrainConfig load_train_config(const std::filesystem::path& name_or_path, const std::vector<std::string>& overrides);

/// The overrides by which a run begins with a model that StoredModel::open takes: its shape and its weights. Later ones
/// may still change what does not belong to the weights.
std::vector<std::string> init_overrides(const std::filesystem::path& path);

/// The whole configuration, defaults included, as TOML that read_train_config takes.
std::string to_toml(const TrainConfig& config);

/// Learning rate of optimizer step 1..steps. From step `rewarm_began` on (0 = never) the schedule begins anew over the
/// steps that are left: it climbs from 0 to the peak in `rewarm_steps` steps, the last of which has the peak, then
/// decays as after the first warm-up (Stage::rewarm_steps).
double learning_rate(const TrainConfig& config, std::int64_t step, std::int64_t rewarm_began = 0,
                     std::int64_t rewarm_steps = 0);

}  // namespace nibble
