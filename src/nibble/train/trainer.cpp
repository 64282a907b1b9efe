#include "nibble/train/trainer.h"

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "nibble/data/loader.h"
#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/json.h"
#include "nibble/io/tensorboard.h"
#include "nibble/ops/reduce.h"
#include "nibble/train/checkpoint.h"
#include "nibble/train/run_info.h"

namespace nibble {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Settings that decide the numbers of a run; logging may change between start and resume.
std::string identity(TrainConfig config) {
  const TrainConfig defaults;
  config.validate_every = defaults.validate_every;
  config.validate_sequences = defaults.validate_sequences;
  config.quality_every = defaults.quality_every;
  config.checkpoint_every = defaults.checkpoint_every;
  config.keep_checkpoints = defaults.keep_checkpoints;
  return to_toml(config);
}

void check_same_run(const TrainState& state, const TrainConfig& config, const Recipe& recipe, const fs::path& from) {
  const std::string before = identity(read_train_config(ConfigTable::parse_text(state.config, from.string())));
  std::istringstream old_lines(before);
  std::istringstream new_lines(identity(config));
  std::string was;
  std::string is;
  while (std::getline(old_lines, was) && std::getline(new_lines, is)) {
    if (was != is) {
      user_error("'{}' was trained with {}, this run has {}: start it in another folder", from.string(), was, is);
    }
  }
  if (state.recipe != recipe.text) {
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

void write_scalars(EventWriter& board, std::int64_t step, const nlohmann::json& line) {
  std::vector<std::pair<std::string, double>> scalars;
  for (const char* key : {"loss", "val_loss", "lr", "grad_norm", "tokens_per_second"}) {
    if (line.contains(key)) scalars.emplace_back(key, line[key].get<double>());
  }
  if (line.contains("quality")) {
    for (const auto& [operand, quality] : line["quality"].items()) {
      if (!quality["snr_db"].is_null()) scalars.emplace_back("snr_db/" + operand, quality["snr_db"].get<double>());
    }
  }
  board.scalars(step, scalars);
}

class Trainer {
 public:
  Trainer(const TrainConfig& config, const Recipe& recipe, fs::path run, const TrainCallbacks& callbacks)
      : config_(config),
        run_(std::move(run)),
        callbacks_(callbacks),
        loader_(open_split(config, "train"), config.model.seq, LoaderOrder::Shuffled, config.seed),
        model_(config.model, recipe, config.seed),
        optimizer_(make_optimizer(config.optimizer, model_)) {
    state_.data_fingerprint = hex64(loader_.shards().fingerprint());
    state_.config = to_toml(config);
    state_.recipe = recipe.text;
    const auto tokens = static_cast<std::size_t>(config.micro_batch * config.model.seq);
    tokens_.resize(tokens);
    targets_.resize(tokens);
  }

  void resume_from(const fs::path& checkpoint) {
    const TrainState state = load_state(checkpoint);
    check_same_run(state, config_, model_.recipe(), checkpoint);
    if (state.data_fingerprint != state_.data_fingerprint) {
      user_error("'{}' was trained on other data than '{}' holds now: start it in another folder", checkpoint.string(),
                 config_.data.string());
    }
    load_weights(checkpoint, model_);
    load_optimizer(checkpoint, *optimizer_);
    state_ = state;
    state_.config = to_toml(config_);
    loader_.set_position(state.position);
    message(fmt::format("resumed at step {} from {}", state.step, checkpoint.string()));
  }

  bool run(const std::atomic<bool>& stop) {
    loader_.shards().verify();
    if (state_.step == config_.steps && fs::exists(run_ / "result.json")) return true;
    MetricsLog metrics(run_, state_.step);
    EventWriter board(run_, state_.step + 1);
    std::int64_t saved_at = state_.step;
    while (state_.step < config_.steps && !stop) {
      const std::int64_t step = state_.step + 1;
      const nlohmann::json line = train_step(step);
      metrics.append(line);
      write_scalars(board, step, line);
      if (step == 1) write_run_info(run_, config_, model_, *optimizer_);
      if (config_.checkpoint_every > 0 && step % config_.checkpoint_every == 0) {
        save();
        saved_at = step;
      }
    }
    if (saved_at != state_.step) save();
    if (state_.step < config_.steps) return false;
    write_result();
    return true;
  }

 private:
  void message(const std::string& text) const {
    if (callbacks_.on_message) callbacks_.on_message(text);
  }

  void save() {
    state_.position = loader_.position();
    save_checkpoint(run_, state_, model_, *optimizer_, config_.keep_checkpoints);
  }

  Llama::Batch micro_batch() {
    const std::int64_t n = config_.micro_batch;
    const std::int64_t seq = config_.model.seq;
    loader_.next_batch(n, tokens_.data(), targets_.data());
    return {Tensor::of(tokens_.data(), {n, seq}), Tensor::of(targets_.data(), {n, seq})};
  }

  /// One optimizer step; returns its line of metrics.jsonl.
  nlohmann::json train_step(std::int64_t step) {
    const auto start = Clock::now();
    const bool measure = config_.quality_every > 0 && (step == 1 || step % config_.quality_every == 0);
    const auto step32 = static_cast<std::uint32_t>(step);
    for (Linear& linear : model_.linears()) linear.reset_quality();
    model_.prepare(step32, measure);

    const std::int64_t tokens = config_.tokens_per_step();
    BatchLoss loss;
    for (std::int64_t sequence = 0; sequence < config_.batch; sequence += config_.micro_batch) {
      const Llama::Batch batch = micro_batch();
      const BatchLoss part = model_.forward_backward(batch, 1.0 / static_cast<double>(tokens), step32,
                                                     sequence * config_.model.seq, sequence == 0, measure);
      if (!std::isfinite(part.sum)) {
        fail_non_finite(step, "the loss", model_.first_non_finite(batch));
      }
      loss.sum += part.sum;
      loss.tokens += part.tokens;
    }
    const double norm = std::sqrt(sum_of_squares(model_.flat_grads()));
    if (!std::isfinite(norm)) fail_non_finite(step, "a gradient", first_non_finite_gradient());

    const double lr = learning_rate(config_, step);
    AdamWStep update;
    update.lr = static_cast<float>(lr);
    update.beta1 = static_cast<float>(config_.beta1);
    update.beta2 = static_cast<float>(config_.beta2);
    update.eps = static_cast<float>(config_.eps);
    update.weight_decay = static_cast<float>(config_.weight_decay);
    update.t = step;
    if (config_.clip > 0 && norm > config_.clip) update.grad_scale = static_cast<float>(config_.clip / norm);
    optimizer_->step(update);
    const double seconds = seconds_since(start);

    state_.step = step;
    state_.tokens += tokens;
    const double rate = static_cast<double>(tokens) / seconds;
    nlohmann::json line = {{"step", step}, {"tokens", state_.tokens}, {"loss", loss.mean()},
                           {"lr", lr},     {"grad_norm", norm},       {"tokens_per_second", rate}};
    if (measure) add_quality(line);
    StepReport report{step, config_.steps, loss.mean(), lr, norm, rate, 0, std::nullopt};
    report.light_share = rate * ideal_seconds_per_token(model_);
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
    BatchLoss loss;
    for (std::int64_t done = 0; done < wanted; done += config_.micro_batch) {
      const std::int64_t n = std::min(config_.micro_batch, wanted - done);
      loader.next_batch(n, tokens_.data(), targets_.data());
      const BatchLoss part =
          model_.evaluate({Tensor::of(tokens_.data(), {n, seq}), Tensor::of(targets_.data(), {n, seq})});
      loss.sum += part.sum;
      loss.tokens += part.tokens;
    }
    return loss.mean();
  }

  void add_quality(nlohmann::json& line) const {
    LinearQuality total{};
    nlohmann::json layers = nlohmann::json::object();
    for (const Linear& linear : model_.linears()) {
      layers[linear.name()] = quality_json(linear.quality());
      for (std::size_t o = 0; o < total.size(); ++o) total[o].merge(linear.quality()[o]);
    }
    line["quality"] = quality_json(total);
    line["layers"] = std::move(layers);
  }

  /// The gradient furthest down the backward pass whose successor is still finite: where the trouble began.
  std::string first_non_finite_gradient() const {
    const auto& parameters = model_.parameters();
    for (std::size_t i = parameters.size(); i-- > 0;) {
      const std::int64_t at = first_non_finite(parameters[i].grad);
      if (at >= 0) return fmt::format("the gradient of {} (element {})", parameters[i].name, at);
    }
    return "unknown";
  }

  [[noreturn]] void fail_non_finite(std::int64_t step, const char* what, const std::string& where) const {
    user_error(
        "step {}: {} is not finite, first in {}; stopped before the update, the newest checkpoint is unharmed: lower "
        "optimizer.lr or optimizer.clip, or try another recipe",
        step, what, where);
  }

  void write_result() const {
    const RunSummary s = summarise_metrics(run_);
    nlohmann::json snr = nlohmann::json::object();
    for (const auto& [operand, value] : s.snr_db) snr[operand] = value ? nlohmann::json(*value) : nlohmann::json();
    write_json_atomic(run_ / "result.json",
                      {{"steps", s.steps},
                       {"tokens", s.tokens},
                       {"train_loss", s.train_loss},
                       {"val_loss", s.val_loss ? nlohmann::json(*s.val_loss) : nlohmann::json()},
                       {"tokens_per_second", s.tokens_per_second},
                       {"clamped_share", s.clamped_share ? nlohmann::json(*s.clamped_share) : nlohmann::json()},
                       {"snr_db", snr}});
  }

  TrainConfig config_;
  fs::path run_;
  TrainCallbacks callbacks_;
  Loader loader_;
  Llama model_;
  std::unique_ptr<Optimizer> optimizer_;
  TrainState state_;
  std::vector<std::int32_t> tokens_;
  std::vector<std::int32_t> targets_;
};

}  // namespace

bool train(const TrainConfig& config, const Recipe& recipe, const fs::path& run, Resume resume,
           const std::atomic<bool>& stop, const TrainCallbacks& callbacks) {
  if (resume == Resume::No && fs::exists(run / "metrics.jsonl")) {
    user_error("'{}' holds a run already: pass --resume to go on with it, or choose another --out", run.string());
  }
  make_directories(run);
  std::optional<fs::path> checkpoint;
  if (resume != Resume::No) {
    checkpoint = newest_checkpoint(run, callbacks.on_message);
    if (!checkpoint && resume == Resume::Required) user_error("'{}' holds no checkpoint to resume from", run.string());
  }
  Trainer trainer(config, recipe, run, callbacks);
  if (checkpoint) trainer.resume_from(*checkpoint);
  return trainer.run(stop);
}

}  // namespace nibble
