#include "nibble/model/initialise.h"

#include <cmath>
#include <numbers>

#include "nibble/numerics/philox.h"
#include "nibble/tensor/device.h"
#include "nibble/tensor/parallel.h"

namespace nibble {

namespace {

// Separates these numbers from those of stochastic rounding, whose steps count from 1.
constexpr std::uint32_t kInitStep = 0xFFFF'FFFFu;

/// Two standard normal values from two uniform ones (Box and Muller 1958).
void normal_pair(std::uint32_t a, std::uint32_t b, float* out) {
  const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(a) + 0.5) * 0x1p-32));
  const double angle = 2.0 * std::numbers::pi * static_cast<double>(b) * 0x1p-32;
  out[0] = static_cast<float>(radius * std::cos(angle));
  out[1] = static_cast<float>(radius * std::sin(angle));
}

void fill_normal(const Tensor& tensor, float std_dev, const RandomStream& stream) {
  float* values = tensor.data<float>();
  const std::int64_t n = tensor.numel();
  parallel_for((n + 3) / 4, 1 << 12, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t group = begin; group < end; ++group) {
      const Philox4 words = stream.words(static_cast<std::uint64_t>(group));
      float normal[4];
      normal_pair(words.v[0], words.v[1], normal);
      normal_pair(words.v[2], words.v[3], normal + 2);
      for (std::int64_t i = 4 * group; i < std::min(n, 4 * group + 4); ++i) values[i] = std_dev * normal[i - 4 * group];
    }
  });
}

}  // namespace

void initialise_parameters(const LlamaConfig& config, std::vector<Parameter>& parameters, std::uint64_t seed) {
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    // Drawn on the CPU for every device, so that they are the same weights.
    OwnedTensor staged;
    if (p.value.device() != Device::Cpu || p.in_half() || p.value_piece.defined())
      staged = OwnedTensor(DType::F32, p.value.shape());
    const Tensor value = staged.view().defined() ? staged.view() : p.value;
    if (p.value.dims() == 1) {
      std::fill_n(value.data<float>(), value.numel(), p.name.ends_with("bias") ? 0.0f : 1.0f);
      copy(value, p.value);
      continue;
    }
    const bool output_projection = p.name.ends_with("attention.output") || p.name.ends_with("mlp.down");
    const double std_dev =
        output_projection ? config.init_std / std::sqrt(2.0 * static_cast<double>(config.layers)) : config.init_std;
    fill_normal(value, static_cast<float>(std_dev), {seed, kInitStep, static_cast<std::uint32_t>(i)});
    if (staged.view().defined()) set_values(p, copy_to(value, p.value.device()));
  }
}

}  // namespace nibble
