// read_run: a run's folder as dictionaries of columns.
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>

#include <functional>
#include <map>

#include "nibble/io/json.h"
#include "nibble/io/run_log.h"
#include "python/array.h"
#include "python/bindings.h"
#include "python/values.h"

namespace nibble::python {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

constexpr const char* kDoc =
    R"(The folder of a run, complete or not, as a dict; columns are NumPy arrays, NaN where nothing was logged.

    info        run.json                     config     its settings, a dict of tables
    metrics     step, tokens, loss, lr, grad_norm, tokens_per_second
    validation  step, loss                   result     result.json; None before the last step
    stages      list of (step, stage)        alarms     list of (step, sentence)
    quality     step, gradient_to_noise, and of all layers together: oscillation, operands["fprop.x"]["snr_db"],
                products["fprop"]["cosine"], ...; layers[NAME] has the same for one layer

What a resumed run logged twice is there once.)";

template <class Record, class Field>
auto column(const std::vector<Record>& records, Field Record::*field) {
  std::vector<Field> values;
  for (const Record& record : records) values.push_back(record.*field);
  return column_of(std::move(values));
}

constexpr std::pair<const char*, double OperandQuality::*> kFigures[] = {
    {"snr_db", &OperandQuality::snr_db},
    {"cosine", &OperandQuality::cosine},
    {"relative_mse", &OperandQuality::relative_mse},
    {"underflow", &OperandQuality::underflow},
    {"clamped", &OperandQuality::clamped},
    {"clipped", &OperandQuality::clipped},
    {"bias", &OperandQuality::bias},
    {"scale_saturated", &OperandQuality::scale_saturated},
    {"scale_underflow", &OperandQuality::scale_underflow}};
constexpr std::pair<const char*, double ProductFigures::*> kProductFigures[] = {
    {"cosine", &ProductFigures::cosine}, {"magnitude", &ProductFigures::magnitude}, {"noise", &ProductFigures::noise}};

nb::object figure_column(const std::vector<const LayerQuality*>& rows,
                         const std::function<double(const LayerQuality&)>& figure) {
  std::vector<double> values;
  for (const LayerQuality* row : rows) values.push_back(row != nullptr ? figure(*row) : kNotLogged);
  return column_of(std::move(values));
}

/// Columns of one layer, or of all together; a null row was not measured.
nb::dict layer_columns(const std::vector<const LayerQuality*>& rows) {
  nb::dict operands;
  for (std::size_t o = 0; o < kOperands; ++o) {
    nb::dict figures;
    for (const auto& [name, figure] : kFigures) {
      figures[name] = figure_column(rows, [o, f = figure](const LayerQuality& q) { return q.quality[o].*f; });
    }
    operands[kOperandNames[o]] = figures;
  }
  nb::dict products;
  for (std::size_t p = 0; p < kProducts; ++p) {
    nb::dict figures;
    for (const auto& [name, figure] : kProductFigures) {
      figures[name] = figure_column(rows, [p, f = figure](const LayerQuality& q) { return q.products[p].*f; });
    }
    products[kProductNames[p]] = figures;
  }
  nb::dict columns;
  columns["operands"] = operands;
  columns["products"] = products;
  columns["oscillation"] = figure_column(rows, [](const LayerQuality& q) { return q.oscillation; });
  return columns;
}

nb::dict quality_columns(const std::vector<QualityPoint>& points) {
  std::vector<const LayerQuality*> totals;
  std::map<std::string, std::vector<const LayerQuality*>> layers;
  for (std::size_t i = 0; i < points.size(); ++i) {
    totals.push_back(&points[i].total);
    for (const LayerQuality& layer : points[i].layers) {
      auto& rows = layers[layer.layer];
      rows.resize(points.size(), nullptr);
      rows[i] = &layer;
    }
  }
  nb::dict columns = layer_columns(totals);
  columns["step"] = column(points, &QualityPoint::step);
  columns["gradient_to_noise"] = column(points, &QualityPoint::gradient_to_noise);
  nb::dict by_layer;
  for (const auto& [name, rows] : layers) by_layer[name.c_str()] = layer_columns(rows);
  columns["layers"] = by_layer;
  return columns;
}

nb::dict metrics_columns(const std::vector<StepRecord>& steps) {
  nb::dict columns;
  columns["step"] = column(steps, &StepRecord::step);
  columns["tokens"] = column(steps, &StepRecord::tokens);
  columns["loss"] = column(steps, &StepRecord::loss);
  columns["lr"] = column(steps, &StepRecord::learning_rate);
  columns["grad_norm"] = column(steps, &StepRecord::grad_norm);
  columns["tokens_per_second"] = column(steps, &StepRecord::tokens_per_second);
  return columns;
}

nb::dict read_run(const std::filesystem::path& folder) {
  const RunLog run = load_run(folder);
  const nlohmann::json info = read_json(folder / "run.json");
  nb::dict d;
  d["info"] = to_python(info);
  const nb::object toml = nb::module_::import_("tomllib").attr("loads")(info.value("config", ""));
  d["config"] = toml;
  d["metrics"] = metrics_columns(run.steps);
  nb::dict validation;
  validation["step"] = column(run.validation, &ValidationPoint::step);
  validation["loss"] = column(run.validation, &ValidationPoint::loss);
  d["validation"] = validation;
  d["quality"] = quality_columns(run.quality);
  nb::list stages;
  for (const StageRecord& stage : run.stages) stages.append(nb::make_tuple(stage.step, stage.stage));
  d["stages"] = stages;
  nb::list alarms;
  for (const AlarmRecord& alarm : run.alarms) alarms.append(nb::make_tuple(alarm.step, alarm.sentence));
  d["alarms"] = alarms;
  const std::filesystem::path result = folder / "result.json";
  d["result"] = std::filesystem::exists(result) ? to_python(read_json(result)) : nb::none();
  return d;
}

}  // namespace

void bind_logs(nb::module_& m) {
  m.def("read_run", read_run, "folder"_a,
        nb::sig("def read_run(folder: str | os.PathLike[str]) -> dict[str, typing.Any]"), kDoc);
}

}  // namespace nibble::python
