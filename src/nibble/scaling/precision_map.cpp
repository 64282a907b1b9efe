#include "nibble/scaling/precision_map.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "nibble/io/format.h"
#include "nibble/io/suggest.h"
#include "nibble/scaling/points.h"
#include "nibble/tensor/error.h"

namespace nibble {

double training_speedup(double forward, double backward) { return 3.0 / (1.0 / forward + 2.0 / backward); }

std::vector<Precision> default_precisions() {
  std::vector<Precision> all;
  for (const auto& [name, forward, backward] : {std::tuple("FP8:FP8", 1.0, 1.0), std::tuple("FP4:FP8", 2.0, 1.0),
                                                std::tuple("FP8:FP4", 1.0, 2.0), std::tuple("FP4:FP4", 2.0, 2.0)}) {
    all.push_back({name, forward, backward, training_speedup(forward, backward), forward != 1.0, backward != 1.0});
  }
  return all;
}

void set_speedup(std::vector<Precision>& precisions, const std::string& assignment) {
  const auto equals = assignment.find('=');
  if (equals == std::string::npos) {
    user_error("--speedup {}: write it as FP4:FP4=forward/backward or FP4:FP4=forward/backward/training", assignment);
  }
  const std::string name = assignment.substr(0, equals);
  std::vector<double> factors;
  for (std::size_t begin = equals + 1; begin <= assignment.size();) {
    const std::size_t end = std::min(assignment.find('/', begin), assignment.size());
    factors.push_back(parse_count(std::string_view(assignment).substr(begin, end - begin)));
    begin = end + 1;
  }
  if (factors.size() < 2 || factors.size() > 3 ||
      std::any_of(factors.begin(), factors.end(), [](double f) { return std::isnan(f); })) {
    user_error("--speedup {}: after the = come two or three positive numbers with / between them", assignment);
  }
  std::vector<std::string> known;
  for (Precision& precision : precisions) {
    known.push_back(precision.name);
    if (precision.name != name) continue;
    precision.forward = factors[0];
    precision.backward = factors[1];
    precision.training = factors.size() == 3 ? factors[2] : training_speedup(factors[0], factors[1]);
    return;
  }
  user_error("--speedup {}: there is no precision '{}' among {}{}", assignment, name, join_names(known),
             did_you_mean(name, known));
}

PrecisionMap map_precisions(const ScalingLaw& law, const Efficiency& recipe, const std::vector<Precision>& precisions,
                            const std::vector<double>& params, const std::vector<double>& ratios) {
  require(!precisions.empty(), "a precision map of no precisions");
  PrecisionMap map{precisions, params, ratios, {}};
  for (const double n : params) {
    std::vector<PrecisionMap::Cell>& row = map.cells.emplace_back();
    for (const double ratio : ratios) {
      PrecisionMap::Cell cell;
      for (const Precision& p : precisions) {
        const Efficiency efficiency{p.has_n ? recipe.n : 1.0, p.has_d ? recipe.d : 1.0};
        cell.losses.push_back(predict_loss(law, n * p.forward, ratio * n * p.training / p.forward, efficiency));
      }
      cell.best =
          static_cast<std::size_t>(std::min_element(cell.losses.begin(), cell.losses.end()) - cell.losses.begin());
      row.push_back(std::move(cell));
    }
  }
  return map;
}

std::vector<double> map_params() {
  std::vector<double> all;
  for (int half_decades = 14; half_decades <= 24; ++half_decades) {
    all.push_back(half_decades % 2 == 0 ? std::pow(10.0, half_decades / 2) : 3.0 * std::pow(10.0, half_decades / 2));
  }
  return all;
}

std::vector<double> map_ratios() { return {10, 20, 50, 100, 200, 500, 1000, 2000, 5000}; }

}  // namespace nibble
