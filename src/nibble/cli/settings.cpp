#include "nibble/cli/settings.h"

#include <csignal>

#include "nibble/dist/launch.h"
#include "nibble/io/progress.h"

namespace nibble {

namespace {

std::atomic<bool> g_stop{false};  // a signal handler can reach nothing else
static_assert(std::atomic<bool>::is_always_lock_free);

void on_signal(int signal) {
  g_stop = true;
  std::signal(signal, SIG_DFL);
}

}  // namespace

const std::atomic<bool>& stop_on_signals() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  std::signal(SIGUSR1, on_signal);
  return g_stop;
}

void require_alone(const std::string& command) {
  if (const Ranks ranks = read_launch(Device::Cpu).ranks; ranks.size > 1) {
    user_error("'nibble {}' is one process, but was started as one of {} ranks: start it by itself", command,
               ranks.size);
  }
}

struct TrainDisplay::State {
  std::string label;
  std::int64_t steps;
  std::unique_ptr<Progress> progress;
  std::string last_val;
};

TrainDisplay::TrainDisplay(std::string label, const TrainConfig& config)
    : state_(std::make_shared<State>(State{std::move(label), config.steps, nullptr, ""})) {}

TrainDisplay::~TrainDisplay() = default;

TrainCallbacks TrainDisplay::callbacks() {
  TrainCallbacks callbacks;
  callbacks.on_step = [state = state_](const StepReport& r) {
    if (!state->progress) state->progress = std::make_unique<Progress>(state->label, state->steps, r.step - 1);
    if (r.val_loss) state->last_val = fmt::format("  val {:.4f}", *r.val_loss);
    const std::string share = r.light_share > 0 ? fmt::format(" ({:.0f} % of peak)", 100 * r.light_share) : "";
    const std::string over = r.counted_tokens ? fmt::format(" over {} tokens", *r.counted_tokens) : "";
    state->progress->update(r.step, fmt::format("{:.0f} tok/s{}", r.tokens_per_second, share),
                            fmt::format("loss {:.4f}{}{}", r.loss, over, state->last_val));
    if (r.step == r.steps) state->progress->finish();
  };
  callbacks.on_message = [state = state_](const std::string& text) {
    if (state->progress) {
      state->progress->message(text);
    } else {
      fmt::print(stderr, "{}: {}\n", state->label, text);
    }
  };
  callbacks.on_memory = callbacks.on_message;
  return callbacks;
}

bool compare_with_progress(const TrainConfig& config, const CompareOptions& options) {
  if (options.seeds < 1) user_error("--seeds is {}, must be at least 1", options.seeds);
  std::unique_ptr<TrainDisplay> display;
  CompareCallbacks callbacks;
  callbacks.on_run = [&](const std::string& run, std::size_t index, std::size_t count) {
    display = std::make_unique<TrainDisplay>(fmt::format("[{}/{}] {}", index + 1, count, run), config);
  };
  callbacks.train.on_step = [&](const StepReport& report) { display->callbacks().on_step(report); };
  callbacks.train.on_message = [&](const std::string& text) { display->callbacks().on_message(text); };
  return compare(config, options, stop_on_signals(), callbacks);
}

}  // namespace nibble
