// Which precision to train in, by Quartet's measure (Castro et al. 2025, section 4.3): given a model size and a number
// of tokens that fit the budget in the reference precision, a faster forward pass allows a larger model at the same
// cost of inference, and a faster training step allows more data in the same time. With speed-ups f of the forward
// pass, b of the backward pass and t of the whole step, each relative to the reference, a precision reaches
//
//   L(N f, D t / f; effN, effD),   t = 3 / (1 / f + 2 / b)
//
// since the backward pass has two of the three products. The one with the least loss is the best at (N, D).
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "nibble/scaling/law.h"

namespace nibble {

struct Precision {
  std::string name;    ///< "FP4:FP8", forward:backward
  double forward = 1;  ///< speed-up over the reference
  double backward = 1;
  double training = 1;
  bool has_n = false;  ///< pays the recipe's effN
  bool has_d = false;  ///< pays the recipe's effD
};

/// Speed-up of a training step: 3 / (1 / forward + 2 / backward).
double training_speedup(double forward, double backward);

/// FP8:FP8 (the reference, taken to lose nothing), FP4:FP8 (2, 1, 1.2), FP8:FP4 (1, 2, 1.5) and FP4:FP4 (2, 2, 2):
/// twice the rate for FP4, as the tensor cores' peaks are.
std::vector<Precision> default_precisions();

/// Replaces the speed-ups of one precision by "NAME=forward/backward" or "NAME=forward/backward/training". UserError
/// for an unknown name and for what is not a positive number.
void set_speedup(std::vector<Precision>& precisions, const std::string& assignment);

struct PrecisionMap {
  std::vector<Precision> precisions;
  std::vector<double> params;  ///< rows
  std::vector<double> ratios;  ///< columns, D / N
  struct Cell {
    std::vector<double> losses;  ///< by precision
    std::size_t best = 0;        ///< index of the least; of equals the first
  };
  std::vector<std::vector<Cell>> cells;  ///< [row][column]
};

PrecisionMap map_precisions(const ScalingLaw& law, const Efficiency& recipe, const std::vector<Precision>& precisions,
                            const std::vector<double>& params, const std::vector<double>& ratios);

/// Two model sizes a decade from 10^7 to 10^12, and 10 to 5000 tokens a parameter.
std::vector<double> map_params();
std::vector<double> map_ratios();

}  // namespace nibble
