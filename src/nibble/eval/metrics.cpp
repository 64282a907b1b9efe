#include "nibble/eval/metrics.h"

#include <cmath>

#include "nibble/eval/bootstrap.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

double mean_of(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

double length_of(Metric metric, const std::string& choice) {
  if (metric == Metric::AccNorm) return static_cast<double>(count_characters(choice));
  if (metric == Metric::AccBytes) return static_cast<double>(choice.size());
  return 1;
}

/// Which choice has the largest log-likelihood by length.
std::size_t chosen(Metric metric, const Item& item, std::span<const Score> scores) {
  std::size_t best = 0;
  double most = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const double value = scores[i].log_likelihood / length_of(metric, item.choices[i]);
    if (value > most) {
      most = value;
      best = i;
    }
  }
  return best;
}

}  // namespace

double standard_error_of_mean(std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  if (n < 2) return std::numeric_limits<double>::quiet_NaN();
  const double mean = mean_of(values);
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / (n - 1)) / std::sqrt(n);
}

double item_value(Metric metric, const Item& item, std::span<const Score> scores) {
  switch (metric) {
    case Metric::Acc:
      if (item.choices.empty()) return scores[0].greedy ? 1 : 0;
      [[fallthrough]];
    case Metric::AccNorm:
    case Metric::AccBytes: return static_cast<std::int64_t>(chosen(metric, item, scores)) == item.gold ? 1 : 0;
    case Metric::Perplexity:
    case Metric::WordPerplexity:
    case Metric::BytePerplexity:
    case Metric::BitsPerByte: return scores[0].log_likelihood;
  }
  require(false, "a metric without a definition");
  return 0;
}

Figure figure_of(Metric metric, std::span<const Item> items, std::span<const std::vector<Score>> scores) {
  require(!items.empty() && items.size() == scores.size(), "{} items with {} scores", items.size(), scores.size());
  std::vector<double> values;
  double words = 0;
  double bytes = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    values.push_back(item_value(metric, items[i], scores[i]));
    words += static_cast<double>(items[i].words);
    bytes += static_cast<double>(items[i].bytes);
  }
  const double mean = mean_of(values);
  const double sum = mean * static_cast<double>(values.size());
  Figure figure{.metric = metric};
  switch (metric) {
    case Metric::Acc:
    case Metric::AccNorm:
    case Metric::AccBytes:
      figure.value = mean;
      figure.standard_error = standard_error_of_mean(values);
      break;
    case Metric::Perplexity:
      figure.value = std::exp(-mean);
      figure.standard_error = bootstrap_perplexity_error(values);
      break;
    case Metric::WordPerplexity: figure.value = std::exp(-sum / words); break;
    case Metric::BytePerplexity: figure.value = std::exp(-sum / bytes); break;
    case Metric::BitsPerByte: figure.value = -sum / bytes / std::log(2.0); break;
  }
  return figure;
}

}  // namespace nibble
