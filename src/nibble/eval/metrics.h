// Figures of a task from the scores of its items, as lm-evaluation-harness has them (api/task.py, api/metrics.py).
//
// With l_i the log-likelihood of pair i of an item:
//
//   acc        argmax_i l_i = gold, the first of equals; of a continuation: whether greedy decoding gives it
//   acc_norm   argmax_i l_i / characters of choice i = gold; acc_bytes: / its bytes in UTF-8
//   perplexity exp(-mean l)
//   word_perplexity, byte_perplexity   exp(-sum l / sum n), n = words or bytes of the items; bits_per_byte its log2
//
// Standard errors: of a mean, s / sqrt(n) with s^2 = sum (x - mean)^2 / (n - 1); of perplexity, by resampling
// (eval/bootstrap.h). The others have none, as in the harness.
#pragma once

#include <limits>
#include <span>
#include <vector>

#include "nibble/eval/items.h"
#include "nibble/eval/log_likelihood.h"

namespace nibble {

struct Figure {
  Metric metric = Metric::Acc;
  double value = 0;
  double standard_error = std::numeric_limits<double>::quiet_NaN();  ///< NaN where it is not known
};

/// What an item adds to a metric: 0 or 1 for accuracies, its log-likelihood for perplexities.
double item_value(Metric metric, const Item& item, std::span<const Score> scores);

/// The figure of a task; `scores[i]` are those of the pairs of items[i], at least one item.
Figure figure_of(Metric metric, std::span<const Item> items, std::span<const std::vector<Score>> scores);

/// s / sqrt(n); NaN of fewer than two values.
double standard_error_of_mean(std::span<const double> values);

}  // namespace nibble
