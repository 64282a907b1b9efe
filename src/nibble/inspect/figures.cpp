#include "nibble/inspect/figures.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nibble {

TensorFigures tensor_figures(const Tensor& x) {
  TensorFigures f;
  f.rows = x.rows();
  f.cols = x.cols();
  const std::int64_t n = x.numel();
  if (n == 0) return f;
  const auto count = static_cast<double>(n);
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    const T* values = x.data<T>();
    double sum = 0;
    double squares = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const auto v = static_cast<double>(to_float(values[i]));
      sum += v;
      squares += v * v;
      f.amax = std::max(f.amax, std::abs(v));
    }
    f.rms = std::sqrt(squares / count);
    const double mean = sum / count;
    double second = 0;
    double fourth = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const double d = static_cast<double>(to_float(values[i])) - mean;
      second += d * d;
      fourth += d * d * d * d;
    }
    f.kurtosis = second > 0 ? count * fourth / (second * second) : 0;
  });
  return f;
}

ChannelFigures channel_figures(const Tensor& x) {
  ChannelFigures f;
  const std::int64_t cols = x.cols();
  if (x.numel() == 0) return f;
  std::vector<double> energy(static_cast<std::size_t>(cols));
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    const T* values = x.data<T>();
    for (std::int64_t r = 0; r < x.rows(); ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        const auto v = static_cast<double>(to_float(values[r * cols + c]));
        energy[static_cast<std::size_t>(c)] += v * v;
      }
    }
  });
  std::vector<std::int64_t> order(energy.size());
  std::iota(order.begin(), order.end(), 0);
  const auto of = [&](std::int64_t channel) { return energy[static_cast<std::size_t>(channel)]; };
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return of(a) > of(b); });

  const auto rms = [&](std::size_t place) { return std::sqrt(of(order[place]) / static_cast<double>(x.rows())); };
  const std::size_t n = order.size();
  const double median = (rms(n / 2) + rms((n - 1) / 2)) / 2;
  for (std::size_t i = 0; i < std::min(kTopChannels, n); ++i) {
    f.top.push_back({order[i], rms(i) == 0 ? 0 : rms(i) / median});
  }
  double all = 0;
  double top = 0;
  for (std::size_t i = 0; i < n; ++i) {
    all += of(order[i]);
    if (i < (n + 99) / 100) top = all;
  }
  f.top_energy = all == 0 ? 0 : top / all;
  return f;
}

}  // namespace nibble
