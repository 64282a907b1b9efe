#include "nibble/train/config.h"

#include <cmath>
#include <numbers>
#include <optional>

#include "nibble/io/data_file.h"
#include "nibble/tensor/device.h"
#include "nibble/train/stored_model.h"

namespace nibble {

namespace {
const std::vector<std::pair<const char*, OptimizerKind>> kOptimizers = {{"adamw", OptimizerKind::AdamW},
                                                                        {"adamw-fp8", OptimizerKind::AdamWFp8}};
const std::vector<std::pair<const char*, std::optional<Device>>> kDevices = {
    {"cpu", Device::Cpu}, {"cuda", Device::Cuda}, {"auto", std::nullopt}};
const std::vector<std::pair<const char*, DType>> kGradients = {{"f32", DType::F32}, {"bf16", DType::BF16}};
const std::vector<std::pair<const char*, MxProducts>> kMxProducts = {{"fp8", MxProducts::Fp8},
                                                                     {"bf16", MxProducts::Bf16}};
const std::vector<std::pair<const char*, Fp8Accumulation>> kFp8Accumulations = {{"f32", Fp8Accumulation::F32},
                                                                                {"fast", Fp8Accumulation::Fast}};
const std::vector<std::pair<const char*, ExchangeFormat>> kExchanges = {
    {"stored", ExchangeFormat::Stored}, {"bf16", ExchangeFormat::Bf16}, {"fp8", ExchangeFormat::Fp8}};
const std::vector<std::pair<const char*, ExchangeScaling>> kScalings = {{"sqrt", ExchangeScaling::Sqrt},
                                                                        {"auto", ExchangeScaling::Auto}};
const std::vector<std::pair<const char*, GatherWeights>> kGathers = {{"block", GatherWeights::Block},
                                                                     {"step", GatherWeights::Step}};
const std::vector<std::pair<const char*, Schedule>> kSchedules = {{"cosine", Schedule::Cosine}, {"wsd", Schedule::Wsd}};

Device found_device(std::optional<Device> wanted) {
  return wanted.value_or(cuda_devices() > 0 ? Device::Cuda : Device::Cpu);
}
}  // namespace

Device device_of(const std::string& name) {
  for (const auto& [text, device] : kDevices) {
    if (text == name) return found_device(device);
  }
  user_error("the device is '{}', must be cpu, cuda or auto", name);
}

TrainConfig read_train_config(const ConfigTable& root) {
  constexpr std::int64_t kMany = std::int64_t{1} << 40;
  TrainConfig c;
  c.model = read_llama_config(root.table("model"), stored_config);
  c.recipe = root.text("recipe", c.recipe);

  const ConfigTable data = root.table("data");
  c.data = data.text("dir");
  data.finish();

  const ConfigTable train = root.table("train");
  c.steps = train.integer("steps", 1, kMany);
  c.batch = train.integer("batch", 1, 1 << 20);
  c.micro_batch = train.integer("micro_batch", c.batch, 1, c.batch);
  if (c.batch % c.micro_batch != 0) {
    train.fail("micro_batch", fmt::format("{} does not divide batch = {}", c.micro_batch, c.batch));
  }
  c.device = found_device(train.choice("device", std::optional<Device>(c.device), kDevices));
  c.recompute = train.choice("recompute", c.recompute, kRecomputeNames);
  c.gradients = train.choice("gradients", c.gradients, kGradients);
  c.mxfp4_products = train.choice("mxfp4_products", c.mxfp4_products, kMxProducts);
  c.fp8_accumulation = train.choice("fp8_accumulation", c.fp8_accumulation, kFp8Accumulations);
  c.cuda_graphs = train.boolean("cuda_graphs", c.cuda_graphs);
  c.deterministic = train.boolean("deterministic", c.deterministic);
  c.exchange = train.choice("exchange", c.exchange, kExchanges);
  c.exchange_scaling = train.choice("exchange_scaling", c.exchange_scaling, kScalings);
  if (c.exchange_scaling != ExchangeScaling::Sqrt && c.exchange != ExchangeFormat::Fp8) {
    train.fail("exchange_scaling", "is for exchange = \"fp8\"");
  }
  c.zero = static_cast<int>(train.integer("zero", 0, 0, 3));
  c.gather = train.choice("gather", c.gather, kGathers);
  c.init = train.text("init", "");
  c.seed = static_cast<std::uint64_t>(train.integer("seed", 1, 0, kMany));
  train.finish();

  const ConfigTable optimizer = root.table("optimizer");
  c.optimizer = optimizer.choice("kind", c.optimizer, kOptimizers);
  c.schedule = optimizer.choice("schedule", c.schedule, kSchedules);
  c.lr = optimizer.number("lr", c.lr, 0, 10);
  c.warmup_fraction = optimizer.number("warmup_fraction", c.warmup_fraction, 0, 1);
  c.warmup_start_ratio = optimizer.number("warmup_start_ratio", c.warmup_start_ratio, 0, 1);
  c.min_lr_ratio = optimizer.number("min_lr_ratio", c.min_lr_ratio, 0, 1);
  c.decay_fraction = optimizer.number("decay_fraction", c.decay_fraction, 0, 1);
  c.beta1 = optimizer.number("beta1", c.beta1, 0, 0.99999);
  c.beta2 = optimizer.number("beta2", c.beta2, 0, 0.99999);
  c.eps = optimizer.number("eps", c.eps, 0, 1);
  c.weight_decay = optimizer.number("weight_decay", c.weight_decay, 0, 10);
  c.clip = optimizer.number("clip", c.clip, 0, 1e9);
  optimizer.finish();

  const ConfigTable log = root.table("log");
  c.validate_every = log.integer("validate_every", c.validate_every, 0, kMany);
  c.validate_sequences = log.integer("validate_sequences", c.validate_sequences, 0, kMany);
  c.quality_every = log.integer("quality_every", c.quality_every, 0, kMany);
  c.checkpoint_every = log.integer("checkpoint_every", c.checkpoint_every, 0, kMany);
  c.keep_checkpoints = log.integer("keep_checkpoints", c.keep_checkpoints, 1, 1000000);
  c.checkpoint_async = log.boolean("checkpoint_async", c.device == Device::Cuda);
  log.finish();
  c.alarms = read_alarm_settings(root.table("alarms"));
  root.finish();
  return c;
}

TrainConfig load_train_config(const std::filesystem::path& name, const std::vector<std::string>& overrides) {
  std::error_code ignored;
  ConfigTable table = ConfigTable::parse_file(std::filesystem::is_regular_file(name, ignored)
                                                  ? name
                                                  : find_data_file("configs", name.string(), "configuration"));
  for (const std::string& assignment : overrides) table.set(assignment);
  return read_train_config(table);
}

std::vector<std::string> init_overrides(const std::filesystem::path& path) {
  const std::string text = fmt::format("'{}'", path.string());
  return {"model.file=" + text, "train.init=" + text};
}

std::string to_toml(const TrainConfig& c) {
  const auto name = [](const auto& names, auto value) {
    for (const auto& [text, v] : names) {
      if (v == value) return text;
    }
    return "";
  };
  return fmt::format("recipe = \"{}\"\n\n", c.recipe) + to_toml(c.model) +
         fmt::format(R"(
[data]
dir = "{}"

[train]
steps = {}
batch = {}
micro_batch = {}
device = "{}"
recompute = "{}"
gradients = "{}"
mxfp4_products = "{}"
fp8_accumulation = "{}"
cuda_graphs = {}
deterministic = {}
exchange = "{}"
exchange_scaling = "{}"
zero = {}
gather = "{}"
init = "{}"
seed = {}

[optimizer]
kind = "{}"
schedule = "{}"
lr = {}
warmup_fraction = {}
warmup_start_ratio = {}
min_lr_ratio = {}
decay_fraction = {}
beta1 = {}
beta2 = {}
eps = {}
weight_decay = {}
clip = {}

[log]
validate_every = {}
validate_sequences = {}
quality_every = {}
checkpoint_every = {}
keep_checkpoints = {}
checkpoint_async = {}
)",
                     c.data.string(), c.steps, c.batch, c.micro_batch, name(kDevices, c.device),
                     recompute_name(c.recompute), name(kGradients, c.gradients), name(kMxProducts, c.mxfp4_products),
                     name(kFp8Accumulations, c.fp8_accumulation), c.cuda_graphs, c.deterministic,
                     name(kExchanges, c.exchange), name(kScalings, c.exchange_scaling), c.zero,
                     name(kGathers, c.gather), c.init.string(), c.seed, name(kOptimizers, c.optimizer),
                     name(kSchedules, c.schedule), c.lr, c.warmup_fraction, c.warmup_start_ratio, c.min_lr_ratio,
                     c.decay_fraction, c.beta1, c.beta2, c.eps, c.weight_decay, c.clip, c.validate_every,
                     c.validate_sequences, c.quality_every, c.checkpoint_every, c.keep_checkpoints,
                     c.checkpoint_async) +
         "\n" + to_toml(c.alarms);
}

double learning_rate(const TrainConfig& c, std::int64_t step, std::int64_t rewarm_began, std::int64_t rewarm_steps) {
  const bool anew = rewarm_began > 0 && step >= rewarm_began;
  const std::int64_t before = anew ? rewarm_began - 1 : 0;  // steps before this schedule
  const auto total = static_cast<double>(c.steps - before);
  const auto now = static_cast<double>(step - before);
  const double warmup = anew ? static_cast<double>(rewarm_steps) : std::round(c.warmup_fraction * total);
  if (now <= warmup) {
    if (anew) return c.lr * now / warmup;
    const double start = c.warmup_start_ratio;
    return c.lr * (warmup <= 1 ? 1.0 : start + (1.0 - start) * (now - 1) / (warmup - 1));
  }
  if (c.schedule == Schedule::Wsd) {
    const double decay = std::max(1.0, std::round(c.decay_fraction * total));
    const double left = total - now;
    return left >= decay ? c.lr : c.lr * (c.min_lr_ratio + (1.0 - c.min_lr_ratio) * left / decay);
  }
  const double progress = (now - warmup) / std::max(1.0, total - warmup);
  return c.lr * (c.min_lr_ratio + (1.0 - c.min_lr_ratio) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

}  // namespace nibble
