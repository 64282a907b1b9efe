// oneDNN's own matmul, called directly with plain layouts and all threads: what the rates of gemm are compared with.
#pragma once

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "bench/threads.h"

namespace nibble::bench {

/// C [m, n] = A [m, k] B [k, n] with any strides for A and B; C is row-major.
class MatmulReference {
 public:
  using Type = dnnl::memory::data_type;
  MatmulReference(Type a, Type b, Type c, std::int64_t m, std::int64_t n, std::int64_t k, bool a_transposed,
                  bool b_transposed)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    using Tag = dnnl::memory::format_tag;
    const dnnl::memory::desc da({m, k}, a, a_transposed ? Tag::ba : Tag::ab);
    const dnnl::memory::desc db({k, n}, b, b_transposed ? Tag::ba : Tag::ab);
    const dnnl::memory::desc dc({m, n}, c, Tag::ab);
#if DNNL_VERSION_MAJOR >= 3
    matmul_ = dnnl::matmul(dnnl::matmul::primitive_desc(engine_, da, db, dc));
#else
    matmul_ = dnnl::matmul(dnnl::matmul::primitive_desc(dnnl::matmul::desc(da, db, dc), engine_));
#endif
    a_ = dnnl::memory(da, engine_);
    b_ = dnnl::memory(db, engine_);
    c_ = dnnl::memory(dc, engine_);
    fill(a_);
    fill(b_);
  }

  void run() {
    matmul_.execute(stream_, {{DNNL_ARG_SRC, a_}, {DNNL_ARG_WEIGHTS, b_}, {DNNL_ARG_DST, c_}});
    stream_.wait();
  }

 private:
  /// Bytes 0x3E are about 0.18 in F32 and BF16 and 62 in int8: no zeros, subnormals or infinities.
  static void fill(dnnl::memory& x) {
    auto* p = static_cast<std::uint8_t*>(x.get_data_handle());
    std::fill_n(p, x.get_desc().get_size(), std::uint8_t{0x3E});
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul matmul_;
  dnnl::memory a_, b_, c_;
};

template <class F>
double seconds(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

}  // namespace nibble::bench
