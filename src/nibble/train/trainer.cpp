#include "nibble/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "nibble/data/loader.h"
#include "nibble/dist/gather.h"
#include "nibble/dist/hosts.h"
#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/json.h"
#include "nibble/io/run_log.h"
#include "nibble/io/tensorboard.h"
#include "nibble/model/hugging_face.h"
#include "nibble/ops/reduce.h"
#include "nibble/train/checkpoint.h"
#include "nibble/train/checkpoint_writer.h"
#include "nibble/train/gpu_peak.h"
#include "nibble/train/gradient_exchange.h"
#include "nibble/train/gradient_norm.h"
#include "nibble/train/memory.h"
#include "nibble/train/metrics.h"
#include "nibble/train/run_info.h"
#include "nibble/train/step_verdict.h"
#include "nibble/train/stored_model.h"
#include "nibble/train/stragglers.h"
#include "nibble/train/telemetry.h"

namespace nibble {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Settings that decide the numbers of a run; logging may change between start and resume, but for the interval of a
/// figure that decides when the recipe's next stage begins.
std::string identity(TrainConfig config, const Recipe& recipe) {
  const TrainConfig defaults;
  config.validate_every = defaults.validate_every;
  config.validate_sequences = defaults.validate_sequences;
  if (!recipe.has_monitor()) config.quality_every = defaults.quality_every;
  config.checkpoint_every = defaults.checkpoint_every;
  config.keep_checkpoints = defaults.keep_checkpoints;
  config.checkpoint_async = defaults.checkpoint_async;
  config.alarms = defaults.alarms;
  config.recompute = defaults.recompute;  // gives the same bits at every level
  config.cuda_graphs = defaults.cuda_graphs;
  config.gather = defaults.gather;
  config.zero = defaults.zero;  // moves the last bits at most, as another number of ranks does
  return to_toml(config);
}

void check_same_run(const TrainState& state, const TrainConfig& config, const Recipe& recipe, const fs::path& from) {
  const std::string before = identity(read_train_config(ConfigTable::parse_text(state.config, from.string())), recipe);
  std::istringstream old_lines(before);
  std::istringstream new_lines(identity(config, recipe));
  std::string was;
  std::string is;
  while (std::getline(old_lines, was) && std::getline(new_lines, is)) {
    if (was != is) {
      user_error("'{}' was trained with {}, this run has {}: start it in another folder", from.string(), was, is);
    }
  }
  // An older nibble kept the recipe in other words.
  if (state.recipe != recipe.text && parse_recipe(state.recipe, from.string()).text != recipe.text) {
    user_error("'{}' was trained with another version of the recipe '{}': start it in another folder", from.string(),
               recipe.name);
  }
}

ShardSet open_split(const TrainConfig& config, const char* split) {
  ShardSet shards = ShardSet::open(config.data, split);
  if (shards.vocab_size() > config.model.vocab) {
    user_error("the data in '{}' has a vocabulary of {} tokens, the model one of {}: set model.vocab = {}",
               config.data.string(), shards.vocab_size(), config.model.vocab, shards.vocab_size());
  }
  return shards;
}

void write_scalars(EventWriter& board, std::int64_t step, const nlohmann::ordered_json& line) {
  std::vector<std::pair<std::string, double>> scalars;
  const auto add = [&](const std::string& tag, const nlohmann::ordered_json& object, const std::string& key) {
    if (object.contains(key) && object[key].is_number()) scalars.emplace_back(tag, object[key].get<double>());
  };
  for (const char* key : {"loss", "val_loss", "lr", "grad_norm", "tokens_per_second", "stage", "weights_reset",
                          "oscillation", "gradient_to_noise"}) {
    add(key, line, key);
  }
  if (line.contains("rank_seconds")) {
    for (const char* key : {"min", "median", "max"}) {
      add(fmt::format("rank_seconds/{}", key), line["rank_seconds"], key);
    }
  }
  for (const auto& [group, keys] :
       {std::pair<const char*, std::vector<const char*>>{"quality", {"snr_db", "underflow", "clipped", "bias"}},
        {"products", {"cosine", "magnitude"}}}) {
    if (!line.contains(group)) continue;
    for (const auto& [name, figures] : line[group].items()) {
      for (const char* key : keys) add(fmt::format("{}/{}", key, name), figures, key);
    }
  }
  board.scalars(step, scalars);
}

ParameterStorage storage_of_rank(const TrainConfig& config, Communicator& ranks) {
  ParameterStorage storage = storage_for(config.optimizer, config.gradients);
  storage.communicator = &ranks;
  storage.zero = config.zero;
  storage.gather = config.gather;
  if (const std::int64_t most = most_sharing_ranks(config.model); storage.shares(1) && ranks.size() > most) {
    user_error("train.zero = {} shares matrices by {} rows, and this model's smallest has enough for {} ranks, not {}",
               config.zero, RowPieces::kBorder, most, ranks.size());
  }
  return storage;
}

class Trainer {
 public:
  Trainer(Communicator& ranks, const TrainConfig& config, const Recipe& recipe, fs::path run,
          const TrainCallbacks& callbacks)
      : ranks_(ranks),
        config_(config),
        run_(std::move(run)),
        callbacks_(ranks.rank() == 0 ? callbacks : TrainCallbacks{}),
        loader_(open_split(config, "train"), config.model.seq, LoaderOrder::Shuffled, config.seed),
        plan_(planned(recipe)),
        model_(config.model, recipe, config.seed, DType::BF16, config.device, storage_of_rank(config, ranks)),
        exchange_(ranks, model_, config.batch / config.micro_batch, config.deterministic, config.exchange,
                  config.exchange_scaling),
        optimizer_(make_optimizer(config.optimizer, model_)),
        clock_(model_.recipe(), config.steps),
        alarms_(config.alarms),
        checkpoints_(ranks, run_, config.device, config.keep_checkpoints, config.checkpoint_async) {
    if (recipe.has_monitor() && config.quality_every == 0) {
      user_error("the recipe '{}' watches the gradient-to-noise ratio, but nothing is measured: set log.quality_every",
                 recipe.name);
    }
    set_mx_products(config.mxfp4_products);
    set_fp8_accumulation(config.fp8_accumulation);
    mx_rows_before_ = mx_row_count(config.device);
    state_.data_fingerprint = hex64(loader_.shards().fingerprint());
    state_.config = to_toml(config);
    state_.recipe = recipe.text;
    const std::int64_t passes = std::max<std::int64_t>(exchange_.mine().size(), 1);  // validation takes one at a time
    tokens_.resize(static_cast<std::size_t>(passes * config.micro_batch * config.model.seq));
    targets_.resize(tokens_.size());
    model_.set_recompute(config.recompute);
    model_.set_work_graphs(config.cuda_graphs);
    model_.reserve(plan_);
  }

  void resume_from(const fs::path& checkpoint) {
    const TrainState state = load_validated_state(checkpoint);
    check_same_run(state, config_, model_.recipe(), checkpoint);
    if (state.data_fingerprint != state_.data_fingerprint) {
      user_error("'{}' was trained on other data than '{}' holds now: start it in another folder", checkpoint.string(),
                 config_.data.string());
    }
    load_weights(checkpoint, model_);
    load_optimizer(checkpoint, *optimizer_);
    load_recipe_state(checkpoint, state, model_);
    if (!state.stage.measured_below.empty()) clock_.restore(state.stage);  // else a checkpoint of the first format
    alarms_.restore(state.alarms);
    if (state.gradient_factor > 0 && exchange_.scaling().adapts()) exchange_.scaling().restore(state.gradient_factor);
    state_ = state;
    state_.config = to_toml(config_);
    loader_.set_position(state.position);
    message(fmt::format("resumed at step {} from {}", state.step, checkpoint.string()));
  }

  /// Begins with the weights of config.init.
  void initialise() {
    load_stored_weights(config_.init, model_);
    optimizer_->parameters_changed();
    message(fmt::format("begins with the weights of {}", config_.init.string()));
  }

  bool run(const std::atomic<bool>& stop) {
    loader_.shards().verify();
    if (state_.step == config_.steps && fs::exists(run_ / "result.json")) return true;
    std::optional<MetricsLog> metrics;
    std::optional<EventWriter> board;
    if (writes()) {
      metrics.emplace(run_, state_.step);
      board.emplace(run_, state_.step + 1);
    }
    std::int64_t saved_at = state_.step;
    StepVerdict verdict;
    verdict.stop = stop;
    verdict = agree(ranks_, verdict);
    Stragglers stragglers(hosts_of(ranks_), passes_of_ranks());
    while (state_.step < config_.steps && !verdict.stop) {
      const std::int64_t step = state_.step + 1;
      if (clock_.begin_step(step)) {
        model_.set_stage(clock_.stage());
        message(clock_.describe_change());
      }
      nlohmann::ordered_json line = train_step(step);
      const std::string stopping = writes() ? raise_alarms(line) : "";
      verdict = agree(ranks_, {stop, !stopping.empty(), gradient_to_noise_, checkpoints_.part_written(), own_seconds_});
      if (verdict.written) checkpoints_.complete();
      if (verdict.gradient_to_noise) clock_.measured(*verdict.gradient_to_noise);
      if (writes()) {
        if (ranks_.size() > 1) {
          const RankSeconds spread = spread_of(verdict.rank_seconds);
          line["rank_seconds"] = {
              {"min", spread.min}, {"median", spread.median}, {"max", spread.max}, {"slowest", spread.slowest}};
          for (const std::string& sentence : stragglers.after_step(verdict.rank_seconds)) message(sentence);
        }
        metrics->append(line);
        write_scalars(*board, step, line);
        if (step == 1) write_run_info(run_, config_, model_, *optimizer_, plan_, ranks_.size());
      }
      if (config_.checkpoint_every > 0 && step % config_.checkpoint_every == 0) {
        save();
        saved_at = step;
      }
      if (verdict.alarm) {
        if (saved_at != step) save();
        checkpoints_.finish();
        if (!writes()) return false;
        throw AlarmStop(stopping);
      }
    }
    if (saved_at != state_.step) save();
    checkpoints_.finish();
    if (state_.step < config_.steps) return false;
    if (writes()) write_result();
    tell_memory(fmt::format("took {} of memory at most, {} were predicted",
                            memory_text(static_cast<double>(memory_peak())), memory_text(plan_.tensors())));
    const MxRowCount mx = mx_row_count(config_.device);
    if (mx.by_block > 0) {
      message(fmt::format(
          "{} of {} rows of MXFP4 operands had blocks too small for FP8 products, which were multiplied apart",
          mx.by_block, mx.rows));
    }
    return true;
  }

 private:
  /// What the run will take, told; UserError where the device has less.
  MemoryPlan planned(const Recipe& recipe) const {
    if (config_.device == Device::Cuda) gpu_peak();  // while there is memory for it
    const DeviceMemory memory = device_memory(config_.device);
    const std::string refusal = memory_refusal(config_, recipe, memory, ranks_.size());
    if (!refusal.empty()) user_error("{}", refusal);
    MemoryPlan plan = plan_memory(memory_question(config_, recipe, ranks_.size()));
    tell_memory(fmt::format("memory of {}, {}\n{}", memory.name, memory_text(memory.bytes), memory_table(plan, "  ")));
    return plan;
  }

  /// Micro-batches of a step that each rank computes.
  std::vector<std::int64_t> passes_of_ranks() const {
    std::vector<std::int64_t> passes(static_cast<std::size_t>(ranks_.size()));
    for (int r = 0; r < ranks_.size(); ++r) {
      passes[static_cast<std::size_t>(r)] = positions_of(r, ranks_.size(), config_.batch / config_.micro_batch).size();
    }
    return passes;
  }

  /// Whether this rank writes the run's files.
  bool writes() const { return ranks_.rank() == 0; }

  void tell_memory(const std::string& text) const {
    if (callbacks_.on_memory) callbacks_.on_memory(text);
  }

  /// Bytes of tensors at most so far.
  std::size_t memory_peak() {
    // The optimizer counts the master weights that are the model's own.
    std::size_t bytes = model_.flat_values().bytes() + model_.gradient_bytes() + optimizer_->bytes() +
                        exchange_.bytes() + model_.working_copy_peak_bytes() + model_.activation_peak_bytes();
    model_.visit_linear_state([&](const StateTensor& state) { bytes += state.rows.bytes(); });
    if (config_.device == Device::Cpu) bytes += checkpoints_.bytes();
    return bytes;
  }

  void tell_gathered(const Llama::GatheredBytes& gathered) const {
    message(fmt::format("each rank receives {} of weights a step, {:.0f} % of what they would be in BF16",
                        memory_text(static_cast<double>(gathered.bytes)),
                        100 * static_cast<double>(gathered.bytes) / static_cast<double>(gathered.bf16_bytes)));
  }

  void message(const std::string& text) const {
    if (callbacks_.on_message) callbacks_.on_message(text);
  }

  void save() {
    state_.position = loader_.position();
    state_.stage = clock_.state();
    state_.alarms = alarms_.state();
    state_.gradient_factor = exchange_.scaling().adapts() ? exchange_.scaling().factor() : 0;
    checkpoints_.save(state_, model_, *optimizer_);
  }

  /// Reads this rank's sequences of a step; how many targets of the whole step count, which scales every pass.
  std::int64_t next_batch() {
    const Positions& mine = exchange_.mine();
    const std::int64_t passes = config_.batch / config_.micro_batch;
    loader_.skip(mine.begin * config_.micro_batch);
    loader_.next_batch(mine.size() * config_.micro_batch, tokens_.data(), targets_.data());
    loader_.skip((passes - mine.end) * config_.micro_batch);
    if (!loader_.shards().masked()) return config_.tokens_per_step();
    std::vector<double> counts;
    for (std::int64_t p = mine.begin; p < mine.end; ++p) counts.push_back(static_cast<double>(counted(micro_batch(p))));
    std::int64_t all = 0;
    for (const double count : gather_positions(ranks_, counts, passes)) all += static_cast<std::int64_t>(count);
    require(all > 0, "a batch without a target that counts");  // the loader leaves such sequences out
    return all;
  }

  /// Of the elements that travelled in FP8, those whose sum was held to the format's largest value.
  std::optional<double> saturated_share() {
    if (config_.exchange != ExchangeFormat::Fp8 || ranks_.size() == 1) return std::nullopt;
    std::int64_t all = 0;
    for (const std::int64_t of_rank : gather_value(ranks_, exchange_.saturated())) all += of_rank;
    return static_cast<double>(all) / static_cast<double>(config_.model.parameters() * exchange_.exchanges());
  }

  static std::int64_t counted(const Llama::Batch& batch) {
    const auto* targets = batch.targets.data<std::int32_t>();
    return std::count_if(targets, targets + batch.targets.numel(), [](std::int32_t target) { return target >= 0; });
  }

  /// Micro-batch `position` of the step, one of this rank's.
  Llama::Batch micro_batch(std::int64_t position) {
    const std::int64_t n = config_.micro_batch;
    const std::int64_t seq = config_.model.seq;
    const std::int64_t at = (position - exchange_.mine().begin) * n * seq;
    return {Tensor::of(tokens_.data() + at, {n, seq}), Tensor::of(targets_.data() + at, {n, seq})};
  }

  /// Forward and backward of this rank's micro-batches; the loss of all, and their gradient in the model.
  BatchLoss compute_gradients(std::int64_t step, bool measure) {
    const std::int64_t counted = next_batch();
    const std::int64_t tokens_each = config_.micro_batch * config_.model.seq;
    std::vector<double> losses;
    exchange_.begin();
    for (std::int64_t p = exchange_.mine().begin; p < exchange_.mine().end; ++p) {
      const Llama::Batch batch = micro_batch(p);
      // Measured is the step's first micro-batch, so that the figures do not depend on the ranks.
      const BatchLoss part = model_.forward_backward(
          batch, 1.0 / static_cast<double>(counted), static_cast<std::uint32_t>(step), p * tokens_each,
          exchange_.overwrites(p), measure && p == 0, config_.tokens_per_step(), exchange_.ready(p));
      if (!std::isfinite(part.sum)) fail_non_finite(step, "the loss", model_.first_non_finite(batch));
      losses.push_back(part.sum);
      exchange_.passed();
    }
    exchange_.finish();
    BatchLoss loss{0, counted};
    for (const double part : gather_positions(ranks_, losses, config_.batch / config_.micro_batch)) loss.sum += part;
    return loss;
  }

  /// One optimizer step; returns its line of metrics.jsonl.
  nlohmann::ordered_json train_step(std::int64_t step) {
    const auto start = Clock::now();
    const double waited_before = ranks_.waited();
    const bool measure = config_.quality_every > 0 && (step == 1 || step % config_.quality_every == 0);
    const auto step32 = static_cast<std::uint32_t>(step);
    for (Linear& linear : model_.linears()) linear.reset_quality();
    model_.prepare(step32, measure);

    const std::int64_t tokens = config_.tokens_per_step();
    const BatchLoss loss = compute_gradients(step, measure);
    // One rank alone keeps to the order that it always had, unless it is to have the bits of several.
    const bool alone = ranks_.size() == 1 && !config_.deterministic;
    const double norm = std::sqrt(alone ? model_.squares_of_gradients() : squares_of_gradients(ranks_, model_));
    if (!std::isfinite(norm)) fail_non_finite(step, "a gradient", first_non_finite_gradient());

    const StageState& stage = clock_.state();
    const double lr = learning_rate(config_, step, stage.rewarm_began, stage.rewarm_steps);
    AdamWStep update;
    update.lr = static_cast<float>(lr);
    update.beta1 = static_cast<float>(config_.beta1);
    update.beta2 = static_cast<float>(config_.beta2);
    update.eps = static_cast<float>(config_.eps);
    update.weight_decay = static_cast<float>(config_.weight_decay);
    update.t = step;
    if (config_.clip > 0 && norm > config_.clip) update.grad_scale = static_cast<float>(config_.clip / norm);
    optimizer_->step(update);
    const std::int64_t resets = model_.after_update(step, config_.steps);
    if (resets > 0) optimizer_->parameters_changed();
    const Llama::GatheredBytes gathered = model_.gathered_bytes();
    if (measure && writes()) telemetry_ = gather_telemetry(model_.linears());
    const double seconds = seconds_since(start);
    own_seconds_ = std::max(0.0, seconds - (ranks_.waited() - waited_before));

    state_.step = step;
    state_.tokens += tokens;
    const double rate = static_cast<double>(tokens) / seconds;
    nlohmann::ordered_json line = {{"step", step}, {"tokens", state_.tokens}, {"loss", loss.mean()},
                                   {"lr", lr},     {"grad_norm", norm},       {"tokens_per_second", rate}};
    if (loader_.shards().masked()) line["counted_tokens"] = loss.tokens;
    if (const auto share = saturated_share()) {
      line["exchange_saturated"] = *share;
      if (exchange_.scaling().adapts()) line["gradient_factor"] = exchange_.scaling().factor();
      exchange_.scaling().after_step(*share);
    }
    if (gathered.bytes > 0) {
      line["gathered_bytes"] = gathered.bytes;
      line["gathered_of_bf16"] = static_cast<double>(gathered.bytes) / static_cast<double>(gathered.bf16_bytes);
      if (!measure && !std::exchange(told_gathered_, true)) tell_gathered(gathered);
    }
    if (model_.recipe().stages.size() > 1) line["stage"] = clock_.stage() + 1;
    if (resets > 0) line["weights_reset"] = resets;
    gradient_to_noise_.reset();
    if (telemetry_) {
      add_telemetry(*telemetry_, line);
      gradient_to_noise_ = telemetry_->gradient_to_noise();
    }
    StepReport report;
    report.step = step;
    report.steps = config_.steps;
    report.loss = loss.mean();
    report.lr = lr;
    report.grad_norm = norm;
    report.tokens_per_second = rate;
    if (loader_.shards().masked()) report.counted_tokens = loss.tokens;
    report.light_share = rate * ideal_seconds_per_token(model_) / ranks_.size();
    const bool last = step == config_.steps;
    if (last || (config_.validate_every > 0 && step % config_.validate_every == 0)) {
      report.val_loss = validate(step32 + 1);
      line["val_loss"] = *report.val_loss;
    }
    if (callbacks_.on_step) callbacks_.on_step(report);
    return line;
  }

  double validate(std::uint32_t step) {
    model_.prepare(step, false);
    Loader loader(open_split(config_, "valid"), config_.model.seq, LoaderOrder::Sequential);
    const std::int64_t all = loader.count();
    const std::int64_t wanted = config_.validate_sequences > 0 ? std::min(config_.validate_sequences, all) : all;
    const std::int64_t seq = config_.model.seq;
    const std::int64_t passes = (wanted + config_.micro_batch - 1) / config_.micro_batch;
    const Positions mine = positions_of(ranks_.rank(), ranks_.size(), passes);
    loader.skip(mine.begin * config_.micro_batch);
    std::vector<double> sums;
    std::vector<double> counts;
    for (std::int64_t p = mine.begin; p < mine.end; ++p) {
      const std::int64_t n = std::min(config_.micro_batch, wanted - p * config_.micro_batch);
      loader.next_batch(n, tokens_.data(), targets_.data());
      const BatchLoss part =
          model_.evaluate({Tensor::of(tokens_.data(), {n, seq}), Tensor::of(targets_.data(), {n, seq})});
      sums.push_back(part.sum);
      counts.push_back(static_cast<double>(part.tokens));
    }
    const std::int64_t most = (passes + ranks_.size() - 1) / ranks_.size();
    for (std::int64_t p = mine.size(); p < most; ++p) model_.accompany_evaluation();
    BatchLoss loss;
    for (const double sum : gather_positions(ranks_, sums, passes)) loss.sum += sum;
    for (const double count : gather_positions(ranks_, counts, passes)) loss.tokens += static_cast<std::int64_t>(count);
    return loss.mean();
  }

  /// Adds "alarms" to the line and reports them; the sentence of the first that is to stop the run, if any.
  std::string raise_alarms(nlohmann::ordered_json& line) {
    std::vector<Alarm> fired = alarms_.check_step(line["loss"].get<double>(), line["grad_norm"].get<double>());
    if (telemetry_) {
      for (Alarm& alarm : alarms_.check_telemetry(*telemetry_)) fired.push_back(std::move(alarm));
      telemetry_.reset();
    }
    std::string stopping;
    for (const Alarm& alarm : fired) {
      const std::string text = fmt::format("alarm at step {}: {}", state_.step, alarm.sentence);
      line["alarms"].push_back(alarm.sentence);
      message(text);
      if (stopping.empty() && alarms_.stops(alarm)) stopping = text;
    }
    return stopping;
  }

  /// The gradient furthest down the backward pass whose successor is still finite: where the trouble began. All ranks
  /// ask, since each may have other rows.
  std::string first_non_finite_gradient() {
    const auto& parameters = model_.parameters();
    struct Found {
      std::int64_t parameter, element;
    };
    Found mine{-1, -1};
    for (std::size_t i = parameters.size(); i-- > 0 && mine.parameter < 0;) {
      const Parameter& p = parameters[i];
      const std::int64_t at = first_non_finite(p.own_grad());
      if (at < 0) continue;
      mine = {static_cast<std::int64_t>(i), at + (p.is_matrix() ? p.own.begin * p.grad.cols() : 0)};
    }
    const std::vector<Found> all = gather_value(ranks_, mine);
    const Found found = *std::ranges::max_element(all, {}, &Found::parameter);  // the first of equal ones
    if (found.parameter < 0) return "unknown";
    return fmt::format("the gradient of {} (element {})", parameters[static_cast<std::size_t>(found.parameter)].name,
                       found.element);
  }

  [[noreturn]] void fail_non_finite(std::int64_t step, const char* what, const std::string& where) const {
    user_error(
        "step {}: {} is not finite, first in {}; stopped before the update, the newest checkpoint is unharmed: lower "
        "optimizer.lr or optimizer.clip, or try another recipe",
        step, what, where);
  }

  void write_result() {
    const RunFigures figures = final_figures(load_run(run_));
    const auto or_null = [](double value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(); };
    nlohmann::json snr = nlohmann::json::object();
    for (std::size_t o = 0; o < kOperands; ++o) {
      if (!std::isnan(figures.quality[o].snr_db)) snr[kOperandNames[o]] = or_null(figures.quality[o].snr_db);
    }
    write_json_atomic(run_ / "result.json", {{"steps", figures.steps},
                                             {"tokens", figures.tokens},
                                             {"train_loss", figures.train_loss},
                                             {"val_loss", or_null(figures.val_loss)},
                                             {"tokens_per_second", figures.tokens_per_second},
                                             {"memory_peak_bytes", memory_peak()},
                                             {"clamped_share", or_null(figures.clamped_share)},
                                             {"snr_db", snr}});
  }

  Communicator& ranks_;
  TrainConfig config_;
  fs::path run_;
  TrainCallbacks callbacks_;
  Loader loader_;
  MemoryPlan plan_;
  MxRowCount mx_rows_before_;
  Llama model_;
  GradientExchange exchange_;
  std::unique_ptr<Optimizer> optimizer_;
  TrainState state_;
  StageClock clock_;
  Alarms alarms_;
  std::optional<Telemetry> telemetry_;       // of this step, if it was measured, on rank 0
  std::optional<double> gradient_to_noise_;  // of this step, likewise
  bool told_gathered_ = false;
  double own_seconds_ = 0;  // of this step, without waiting for other ranks
  std::vector<std::int32_t> tokens_;
  std::vector<std::int32_t> targets_;
  CheckpointWriter checkpoints_;
};

}  // namespace

bool train(Communicator& ranks, const TrainConfig& config, const Recipe& recipe, const fs::path& run, Resume resume,
           const std::atomic<bool>& stop, const TrainCallbacks& callbacks) {
  if (resume == Resume::No && fs::exists(run / "metrics.jsonl")) {
    user_error("'{}' holds a run already: pass --resume to go on with it, or choose another --out", run.string());
  }
  ranks.barrier();  // nobody writes into the folder before all have looked
  make_directories(run);
  std::optional<fs::path> checkpoint;
  if (resume != Resume::No) {
    checkpoint = newest_checkpoint(ranks, run, ranks.rank() == 0 ? callbacks.on_message : nullptr);
    if (!checkpoint && resume == Resume::Required) user_error("'{}' holds no checkpoint to resume from", run.string());
  }
  Trainer trainer(ranks, config, recipe, run, callbacks);
  if (checkpoint) {
    trainer.resume_from(*checkpoint);
  } else if (!config.init.empty()) {
    trainer.initialise();
  }
  return trainer.run(stop);
}

bool train(const TrainConfig& config, const Recipe& recipe, const fs::path& run, Resume resume,
           const std::atomic<bool>& stop, const TrainCallbacks& callbacks) {
  return train(*make_single_process(config.device), config, recipe, run, resume, stop, callbacks);
}

}  // namespace nibble
