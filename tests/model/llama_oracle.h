// A Llama in double precision, written as plainly as possible: the truth that the engine's gradients are held to.
#pragma once

#include <string>
#include <vector>

#include "nibble/model/llama.h"

namespace nibble {

class LlamaOracle {
 public:
  /// Copies the model's parameters.
  explicit LlamaOracle(const Llama& model);

  /// Mean loss over the targets >= 0.
  double loss(const std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& targets,
              std::int64_t sequences) const;
  /// All parameters in the order of the model's flat buffer; change them to take differences.
  std::vector<double>& values() { return values_; }

 private:
  const double* parameter(const std::string& name) const;
  LlamaConfig config_;
  std::vector<std::string> names_;
  std::vector<std::size_t> offsets_;
  std::vector<double> values_;
};

/// Expects the gradient of the mean loss, in the order of the model's flat buffer, to be its central differences.
void expect_central_differences(const Tensor& gradient, LlamaOracle& oracle, const std::vector<std::int32_t>& tokens,
                                const std::vector<std::int32_t>& targets, std::int64_t sequences);

}  // namespace nibble
