// evaluate: a trained model on tasks.
#include <nanobind/nanobind.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "nibble/eval/model_evaluation.h"
#include "nibble/io/json.h"
#include "python/bindings.h"
#include "python/guard.h"
#include "python/values.h"

namespace nibble::python {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

namespace fs = std::filesystem;

constexpr const char* kDoc =
    R"(Scores a model on zero-shot tasks and texts; returns what results.json holds, in lm-evaluation-harness's layout:
evaluate(...)["results"]["arc_easy"]["acc,none"].

`model` is the folder of a run or a checkpoint, or one in the Hugging Face layout; `tasks` are names or files, ["all"]
every one of tasks/, with their rows in the folder `data`; `texts` are text files, whose perplexity is the task "text".
`recipe` is the arithmetic of the linear layers; without one everything is float32. The other settings are those of
`nibble eval` (docs/evaluation.md); bos=None leaves it to the tokenizer. on_progress is called with (tokens done, tokens
in all, task).

Ctrl-C, or an exception in on_progress, stops it; with `out`, the same call goes on where it was.)";

nb::object evaluate(const fs::path& path, const std::vector<std::string>& tasks, const std::vector<fs::path>& texts,
                    const fs::path& data, const nb::object& recipe, std::int64_t limit, const fs::path& tokenizer,
                    std::int64_t seq, const std::string& prefix, std::optional<bool> bos, const std::string& device,
                    std::int64_t batch, const fs::path& out, bool samples,
                    const std::optional<nb::callable>& on_progress) {
  ModelEvaluation what;
  what.tasks = tasks;
  for (const fs::path& text : texts) what.texts.push_back(text.string());
  what.data = data;
  what.limit = limit;
  if (!recipe.is_none()) what.recipe = path_text(recipe);
  what.prefix = text_prefix_of(prefix);
  what.device = device_of(device);
  what.batch = batch;
  what.out = out;
  what.samples = samples;
  Guard guard;
  std::optional<ModelResults> results;
  {
    const nb::gil_scoped_release free;
    StoredModel model = StoredModel::open(path);
    if (seq != 0) model.set_seq(seq);
    const Tokenizer chosen = model.tokenizer(tokenizer);
    what.add_bos = bos.value_or(model.texts_begin_with_bos(chosen));
    if (what.add_bos && chosen.bos_id() < 0) user_error("the tokenizer has no <s>, which bos=True needs");
    results = evaluate_model(model, chosen, what, guard.stop(), [&](const EvalProgress& p) {
      guard.call([&] {
        if (on_progress) (*on_progress)(p.done, p.total, p.task);
      });
    });
  }
  guard.raise_kept(out.empty() ? "nothing was kept: name a folder as `out` to go on where it was"
                               : fmt::format("what is scored is kept in '{}': the same call goes on", out.string()));
  return to_python(parse_json(results.value().json, "results.json"));
}

}  // namespace

void bind_eval(nb::module_& m) {
  m.def("evaluate", evaluate, "model"_a, "tasks"_a = std::vector<std::string>(), nb::kw_only(),
        "texts"_a = std::vector<fs::path>(), "data"_a = "data/eval", "recipe"_a = nb::none(), "limit"_a = 0,
        "tokenizer"_a = "", "seq"_a = 0, "prefix"_a = "auto", "bos"_a = nb::none(), "device"_a = "cpu", "batch"_a = 0,
        "out"_a = "", "samples"_a = false, "on_progress"_a = nb::none(),
        nb::sig("def evaluate(model: str | os.PathLike[str], tasks: collections.abc.Sequence[str] = (), *, "
                "texts: collections.abc.Sequence[str | os.PathLike[str]] = (), "
                "data: str | os.PathLike[str] = 'data/eval', recipe: str | os.PathLike[str] | None = None, "
                "limit: int = 0, tokenizer: str | os.PathLike[str] = '', seq: int = 0, prefix: str = 'auto', "
                "bos: bool | None = None, device: str = 'cpu', batch: int = 0, out: str | os.PathLike[str] = '', "
                "samples: bool = False, "
                "on_progress: collections.abc.Callable[[int, int, str], object] | None = None) "
                "-> dict[str, typing.Any]"),
        kDoc);
}

}  // namespace nibble::python
