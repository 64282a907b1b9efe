// train and compare.
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "nibble/io/json.h"
#include "nibble/train/compare.h"
#include "nibble/train/trainer.h"
#include "python/bindings.h"
#include "python/guard.h"
#include "python/values.h"

namespace nibble::python {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

namespace fs = std::filesystem;

constexpr const char* kTrainDoc =
    R"(Trains one model in one recipe; returns result.json of the folder `out` as a dict (docs/formats.md).

`config` is a settings file, its name in configs/, or a dict of the same tables; `set` overrides settings:
{"train.steps": 100, "optimizer.lr": 1e-3} or nested. `init` begins with a model of the Hugging Face tools. on_step is
called with a Step after each step, on_message with sentences (alarms, stages), on_memory with the table of what the run
takes before the first step.

Ctrl-C, or an exception in a callback, stops the run after the step with everything saved; the same call with
resume=True goes on and ends with the same bits.)";

constexpr const char* kCompareDoc =
    R"(Trains several recipes on the same data and initial weights; returns compare.json of `out` as a dict.

The first recipe is the baseline of all gaps; the spread of its `baseline_seeds` runs is the noise. on_run is called with
a run's name, its number and their count. A stopped comparison goes on where it was: the same call again.)";

std::vector<std::string> all_overrides(const std::optional<nb::dict>& set, const std::optional<fs::path>& init) {
  std::vector<std::string> overrides;
  if (init) overrides = init_overrides(*init);
  if (set) {
    for (std::string& assignment : assignments_of(*set)) overrides.push_back(std::move(assignment));
  }
  return overrides;
}

TrainConfig config_of(nb::handle config, const std::vector<std::string>& overrides) {
  if (!nb::isinstance<nb::dict>(config)) return load_train_config(path_text(config), overrides);
  ConfigTable table = ConfigTable::parse_text("", "config");
  for (const std::string& assignment : assignments_of(nb::cast<nb::dict>(config))) table.set(assignment);
  for (const std::string& assignment : overrides) table.set(assignment);
  return read_train_config(table);
}

Recipe recipe_of(nb::handle recipe, TrainConfig& config) {
  if (nb::isinstance<Recipe>(recipe)) {
    config.recipe = nb::cast<const Recipe&>(recipe).name;
    return nb::cast<const Recipe&>(recipe);
  }
  if (!recipe.is_none()) config.recipe = path_text(recipe);
  return load_recipe(find_recipe(config.recipe));
}

using Callback = std::optional<nb::callable>;

/// Calls without the GIL that end in Python; `callbacks` lives longer than what is made of it here. Each step looks
/// for signals, whether or not anybody listens.
struct Listeners {
  Callback on_step, on_message, on_memory;

  TrainCallbacks guarded(Guard& guard) const {
    const auto tell = [&guard](const Callback& callback) {
      return [&guard, &callback](const auto& what) {
        guard.call([&] {
          if (callback) (*callback)(what);
        });
      };
    };
    return {tell(on_step), tell(on_message), tell(on_memory)};
  }
};

nb::object py_train(nb::handle config, nb::handle recipe, const fs::path& out, const std::optional<nb::dict>& set,
                    const std::optional<fs::path>& init, bool resume, const Callback& on_step,
                    const Callback& on_message, const Callback& on_memory) {
  TrainConfig settings = config_of(config, all_overrides(set, init));
  const Recipe chosen = recipe_of(recipe, settings);
  const Listeners listeners{on_step, on_message, on_memory};
  Guard guard;
  {
    const nb::gil_scoped_release free;
    train(settings, chosen, out, resume ? Resume::Required : Resume::No, guard.stop(), listeners.guarded(guard));
  }
  guard.raise_kept(fmt::format("the run is saved in '{}': resume=True goes on with it", out.string()));
  return to_python(read_json(out / "result.json"));
}

nb::object py_compare(nb::handle config, const std::vector<std::string>& recipes, const fs::path& out,
                      const std::optional<nb::dict>& set, std::int64_t seeds, std::int64_t baseline_seeds,
                      const Callback& on_run, const Callback& on_step, const Callback& on_message) {
  if (seeds < 1) user_error("seeds is {}, must be at least 1", seeds);
  const TrainConfig settings = config_of(config, all_overrides(set, std::nullopt));
  const CompareOptions options{recipes, seeds, baseline_seeds, out};
  const Listeners listeners{on_step, on_message, std::nullopt};
  Guard guard;
  CompareCallbacks callbacks;
  callbacks.on_run = [&](const std::string& run, std::size_t index, std::size_t count) {
    guard.call([&] {
      if (on_run) (*on_run)(run, index, count);
    });
  };
  callbacks.train = listeners.guarded(guard);
  {
    const nb::gil_scoped_release free;
    compare(settings, options, guard.stop(), callbacks);
  }
  guard.raise_kept(fmt::format("what is done is saved in '{}': the same call goes on", out.string()));
  return to_python(read_json(out / "compare.json"));
}

}  // namespace

void bind_train(nb::module_& m) {
  nb::class_<StepReport>(m, "Step", "What is reported after a step of training.")
      .def_ro("step", &StepReport::step, "From 1 to `steps`.")
      .def_ro("steps", &StepReport::steps)
      .def_ro("loss", &StepReport::loss)
      .def_ro("lr", &StepReport::lr)
      .def_ro("grad_norm", &StepReport::grad_norm)
      .def_ro("tokens_per_second", &StepReport::tokens_per_second)
      .def_ro("light_share", &StepReport::light_share, "The time at the machine's peak over the time it took.")
      .def_ro("val_loss", &StepReport::val_loss, "Where the step was followed by a validation, else None.")
      .def("__repr__", [](const StepReport& r) {
        return fmt::format("<step {} of {}: loss {:.4f}, {:.0f} tokens/s>", r.step, r.steps, r.loss,
                           r.tokens_per_second);
      });
  m.def("train", py_train, "config"_a, "recipe"_a = nb::none(), nb::kw_only(), "out"_a, "set"_a = nb::none(),
        "init"_a = nb::none(), "resume"_a = false, "on_step"_a = nb::none(), "on_message"_a = nb::none(),
        "on_memory"_a = nb::none(),
        nb::sig("def train(config: str | os.PathLike[str] | dict[str, typing.Any], "
                "recipe: str | os.PathLike[str] | Recipe | None = None, *, out: str | os.PathLike[str], "
                "set: dict[str, typing.Any] | None = None, init: str | os.PathLike[str] | None = None, "
                "resume: bool = False, on_step: collections.abc.Callable[[Step], object] | None = None, "
                "on_message: collections.abc.Callable[[str], object] | None = None, "
                "on_memory: collections.abc.Callable[[str], object] | None = None) -> dict[str, typing.Any]"),
        kTrainDoc);
  m.def("compare", py_compare, "config"_a, "recipes"_a, nb::kw_only(), "out"_a, "set"_a = nb::none(), "seeds"_a = 1,
        "baseline_seeds"_a = 2, "on_run"_a = nb::none(), "on_step"_a = nb::none(), "on_message"_a = nb::none(),
        nb::sig("def compare(config: str | os.PathLike[str] | dict[str, typing.Any], "
                "recipes: collections.abc.Sequence[str], *, out: str | os.PathLike[str], "
                "set: dict[str, typing.Any] | None = None, seeds: int = 1, baseline_seeds: int = 2, "
                "on_run: collections.abc.Callable[[str, int, int], object] | None = None, "
                "on_step: collections.abc.Callable[[Step], object] | None = None, "
                "on_message: collections.abc.Callable[[str], object] | None = None) -> dict[str, typing.Any]"),
        kCompareDoc);
}

}  // namespace nibble::python
