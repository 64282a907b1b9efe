#include "tests/model/llama_oracle.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble {

namespace {

using Matrix = std::vector<std::vector<double>>;

/// x [T, K] times w^T, w [N, K] row-major.
Matrix multiply(const Matrix& x, const double* w, std::int64_t n) {
  Matrix y(x.size(), std::vector<double>(static_cast<std::size_t>(n), 0.0));
  for (std::size_t t = 0; t < x.size(); ++t) {
    const std::size_t k = x[t].size();
    for (std::size_t o = 0; o < static_cast<std::size_t>(n); ++o) {
      for (std::size_t i = 0; i < k; ++i) y[t][o] += x[t][i] * w[o * k + i];
    }
  }
  return y;
}

Matrix norm(const Matrix& x, const double* gain, double eps) {
  Matrix y = x;
  for (auto& row : y) {
    double mean = 0;
    for (double v : row) mean += v * v / static_cast<double>(row.size());
    for (std::size_t i = 0; i < row.size(); ++i) row[i] *= gain[i] / std::sqrt(mean + eps);
  }
  return y;
}

void add(Matrix& to, const Matrix& from) {
  for (std::size_t t = 0; t < to.size(); ++t) {
    for (std::size_t i = 0; i < to[t].size(); ++i) to[t][i] += from[t][i];
  }
}

void rotate(double* head, std::size_t dim, std::size_t position, const LlamaConfig& c) {
  for (std::size_t j = 0; j < dim / 2; ++j) {
    const double frequency = std::pow(c.rope_theta, -2.0 * static_cast<double>(j) / static_cast<double>(dim));
    const double angle = static_cast<double>(position) * scaled_frequency(frequency, c.rope_scaling);
    const double a = head[j];
    const double b = head[j + dim / 2];
    head[j] = a * std::cos(angle) - b * std::sin(angle);
    head[j + dim / 2] = a * std::sin(angle) + b * std::cos(angle);
  }
}

/// RMSNorm of `heads` heads of each row from element `begin` on.
void norm_heads(Matrix& qkv, std::size_t begin, std::size_t heads, std::size_t dim, const double* gain, double eps) {
  for (auto& row : qkv) {
    for (std::size_t h = 0; h < heads; ++h) {
      double* head = row.data() + begin + h * dim;
      const Matrix normed = norm({{head, head + dim}}, gain, eps);
      for (std::size_t i = 0; i < dim; ++i) head[i] = normed[0][i];
    }
  }
}

Matrix attend(Matrix qkv, const LlamaConfig& c, std::size_t sequences) {
  const auto heads = static_cast<std::size_t>(c.heads);
  const auto kv_heads = static_cast<std::size_t>(c.kv_heads);
  const auto dim = static_cast<std::size_t>(c.head_dim());
  const std::size_t seq = qkv.size() / sequences;
  Matrix out(qkv.size(), std::vector<double>(heads * dim, 0.0));
  for (std::size_t t = 0; t < qkv.size(); ++t) {
    for (std::size_t h = 0; h < heads + kv_heads; ++h) rotate(&qkv[t][h * dim], dim, t % seq, c);
  }
  for (std::size_t s = 0; s < sequences; ++s) {
    for (std::size_t h = 0; h < heads; ++h) {
      const std::size_t k_at = (heads + h / (heads / kv_heads)) * dim;
      const std::size_t v_at = k_at + kv_heads * dim;
      for (std::size_t t = 0; t < seq; ++t) {
        std::vector<double> p(t + 1);
        double sum = 0;
        for (std::size_t u = 0; u <= t; ++u) {
          double score = 0;
          for (std::size_t i = 0; i < dim; ++i) score += qkv[s * seq + t][h * dim + i] * qkv[s * seq + u][k_at + i];
          p[u] = std::exp(score / std::sqrt(static_cast<double>(dim)));
          sum += p[u];
        }
        for (std::size_t u = 0; u <= t; ++u) {
          for (std::size_t i = 0; i < dim; ++i) {
            out[s * seq + t][h * dim + i] += p[u] / sum * qkv[s * seq + u][v_at + i];
          }
        }
      }
    }
  }
  return out;
}

}  // namespace

LlamaOracle::LlamaOracle(const Llama& model) : config_(model.config()) {
  const float* flat = model.flat_values().data<float>();
  values_.assign(flat, flat + model.flat_values().numel());
  std::size_t offset = 0;
  for (const Parameter& p : model.parameters()) {
    names_.push_back(p.name);
    offsets_.push_back(offset);
    offset += static_cast<std::size_t>(p.value.numel());
  }
}

const double* LlamaOracle::parameter(const std::string& name) const {
  for (std::size_t i = 0; i < names_.size(); ++i) {
    if (names_[i] == name) return values_.data() + offsets_[i];
  }
  throw InternalError("no parameter " + name);
}

double LlamaOracle::loss(const std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& targets,
                         std::int64_t sequences) const {
  const auto d = static_cast<std::size_t>(config_.width);
  const auto ffn = static_cast<std::size_t>(config_.ffn);
  Matrix x;
  const double* table = parameter("embedding");
  for (std::int32_t token : tokens) {
    const double* row = table + static_cast<std::size_t>(token) * d;
    x.emplace_back(row, row + d);
  }
  for (std::int64_t b = 0; b < config_.layers; ++b) {
    const std::string name = "layers." + std::to_string(b) + ".";
    const Matrix h = norm(x, parameter(name + "attention_norm"), config_.norm_eps);
    Matrix qkv = multiply(h, parameter(name + "attention.qkv"), config_.qkv_width());
    const auto heads = static_cast<std::size_t>(config_.heads);
    const auto kv_heads = static_cast<std::size_t>(config_.kv_heads);
    const auto dim = static_cast<std::size_t>(config_.head_dim());
    if (config_.qkv_bias) {
      const double* bias = parameter(name + "attention.qkv_bias");
      for (auto& row : qkv) {
        for (std::size_t i = 0; i < row.size(); ++i) row[i] += bias[i];
      }
    }
    if (config_.qk_norm) {
      norm_heads(qkv, 0, heads, dim, parameter(name + "attention.q_norm"), config_.norm_eps);
      norm_heads(qkv, heads * dim, kv_heads, dim, parameter(name + "attention.k_norm"), config_.norm_eps);
    }
    const Matrix a = attend(qkv, config_, static_cast<std::size_t>(sequences));
    add(x, multiply(a, parameter(name + "attention.output"), config_.width));
    const Matrix f = norm(x, parameter(name + "ffn_norm"), config_.norm_eps);
    const Matrix gate_up = multiply(f, parameter(name + "mlp.gate_up"), 2 * config_.ffn);
    Matrix hidden(x.size(), std::vector<double>(ffn));
    for (std::size_t t = 0; t < x.size(); ++t) {
      for (std::size_t j = 0; j < ffn; ++j) {
        const double g = gate_up[t][j];
        hidden[t][j] = g / (1 + std::exp(-g)) * gate_up[t][ffn + j];
      }
    }
    add(x, multiply(hidden, parameter(name + "mlp.down"), config_.width));
  }
  const Matrix logits = multiply(norm(x, parameter("final_norm"), config_.norm_eps),
                                 parameter(config_.tied_head ? "embedding" : "head"), config_.vocab);
  double total = 0;
  std::int64_t count = 0;
  for (std::size_t t = 0; t < logits.size(); ++t) {
    if (targets[t] < 0) continue;
    double sum = 0;
    for (double v : logits[t]) sum += std::exp(v);
    total += std::log(sum) - logits[t][static_cast<std::size_t>(targets[t])];
    ++count;
  }
  return total / static_cast<double>(count);
}

void expect_central_differences(const Tensor& gradient, LlamaOracle& oracle, const std::vector<std::int32_t>& tokens,
                                const std::vector<std::int32_t>& targets, std::int64_t sequences) {
  constexpr double kStep = 1e-5;
  double difference = 0;
  double norm = 0;
  ASSERT_EQ(static_cast<std::size_t>(gradient.numel()), oracle.values().size());
  for (std::size_t i = 0; i < oracle.values().size(); ++i) {
    double& value = oracle.values()[i];
    const double original = value;
    value = original + kStep;
    const double up = oracle.loss(tokens, targets, sequences);
    value = original - kStep;
    const double down = oracle.loss(tokens, targets, sequences);
    value = original;
    const double slope = (up - down) / (2 * kStep);
    const auto got = static_cast<double>(gradient.data<float>()[i]);
    EXPECT_NEAR(got, slope, 2e-5 + 2e-4 * std::abs(slope)) << "parameter element " << i;
    difference += (got - slope) * (got - slope);
    norm += slope * slope;
  }
  EXPECT_LT(std::sqrt(difference / norm), 2e-5);
}

}  // namespace nibble
