#include "nibble/ops/cuda/lt_matmul.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "nibble/ops/cuda/same_bits.h"
#include "nibble/tensor/cuda/graph.h"
#include "nibble/tensor/cuda/runtime.h"
#include "nibble/tensor/library.h"

// cuBLASLt sees column-major matrices, so it is asked for C^T = B A^T: its A is our B, its m our n.
//
//   ours, row-major                       its view of the same memory
//   C [m, n], stride s                    C^T [n, m], leading dimension s
//   B [n, k], not transposed              [k, n], operation T        "TN", all that FP8 on Hopper has
//   A [m, k], not transposed              [k, m], operation N

namespace nibble::cuda {
namespace {

/// Below 2 GFLOP a product takes a few microseconds, and little is lost by the first choice.
constexpr double kWorthTiming = 2e9;
/// Calls of each candidate: clocks change with the heat, so the candidates take turns and the best time counts.
constexpr int kRounds = 4;

/// What Hopper's kernels want; more brings them nothing.
constexpr std::size_t kWorkspace = std::size_t{64} << 20;

struct Functions {
  SharedLibrary library{"a matrix product on the GPU", {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}};
  decltype(&cublasLtCreate) create = library.function<decltype(&cublasLtCreate)>("cublasLtCreate");
  decltype(&cublasLtGetStatusString) status_string =
      library.function<decltype(&cublasLtGetStatusString)>("cublasLtGetStatusString");
  decltype(&cublasLtMatmulDescCreate) desc_create =
      library.function<decltype(&cublasLtMatmulDescCreate)>("cublasLtMatmulDescCreate");
  decltype(&cublasLtMatmulDescSetAttribute) desc_set =
      library.function<decltype(&cublasLtMatmulDescSetAttribute)>("cublasLtMatmulDescSetAttribute");
  decltype(&cublasLtMatrixLayoutCreate) layout_create =
      library.function<decltype(&cublasLtMatrixLayoutCreate)>("cublasLtMatrixLayoutCreate");
  decltype(&cublasLtMatmulPreferenceCreate) preference_create =
      library.function<decltype(&cublasLtMatmulPreferenceCreate)>("cublasLtMatmulPreferenceCreate");
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy =
      library.function<decltype(&cublasLtMatmulPreferenceDestroy)>("cublasLtMatmulPreferenceDestroy");
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set =
      library.function<decltype(&cublasLtMatmulPreferenceSetAttribute)>("cublasLtMatmulPreferenceSetAttribute");
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic =
      library.function<decltype(&cublasLtMatmulAlgoGetHeuristic)>("cublasLtMatmulAlgoGetHeuristic");
  decltype(&cublasLtMatmul) matmul = library.function<decltype(&cublasLtMatmul)>("cublasLtMatmul");
};

cudaDataType_t data_type(LtType type) {
  switch (type) {
    case LtType::F32: return CUDA_R_32F;
    case LtType::BF16: return CUDA_R_16BF;
    case LtType::E4M3: return CUDA_R_8F_E4M3;
    case LtType::E5M2: return CUDA_R_8F_E5M2;
    case LtType::E2M1: return CUDA_R_4F_E2M1;
  }
  return CUDA_R_32F;
}

bool is_narrow(LtType type) { return type == LtType::E4M3 || type == LtType::E5M2 || type == LtType::E2M1; }

std::int32_t scale_mode(LtProduct::Scales scales) {
  switch (scales) {
    case LtProduct::Scales::None:
    case LtProduct::Scales::Scalar: break;
    case LtProduct::Scales::Vector: return CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    case LtProduct::Scales::Blocks16: return CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3;
    case LtProduct::Scales::Blocks32: return CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0;
    case LtProduct::Scales::Blocks128: return CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
  }
  return CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
}

/// The largest power of two that divides the address, 256 at most (the library's default).
std::uint32_t alignment(const void* p) {
  const auto address = reinterpret_cast<std::uintptr_t>(p) | 256u;
  return static_cast<std::uint32_t>(address & (~address + 1));
}

/// What the library prepares for one kind of product. A kind that it refuses is remembered, too.
struct Plan {
  bool supported = false;
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t a = nullptr;
  cublasLtMatrixLayout_t b = nullptr;
  cublasLtMatrixLayout_t c = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

/// Everything that the choice of a kernel depends on.
using Kind = std::array<std::int64_t, 18>;

Kind kind_of(const LtProduct& p) {
  return {p.m,
          p.n,
          p.k,
          static_cast<std::int64_t>(p.a.type),
          p.a.stride,
          p.a.transposed,
          alignment(p.a.data),
          static_cast<std::int64_t>(p.b.type),
          p.b.stride,
          p.b.transposed,
          alignment(p.b.data),
          static_cast<std::int64_t>(p.c_type),
          p.c_stride,
          alignment(p.c),
          p.add,
          p.device_alpha_beta != nullptr,
          static_cast<std::int64_t>(p.scales),
          p.fast_accumulation};
}

class Lt {
 public:
  Lt() : workspace_(kWorkspace, Device::Cuda) { check(functions_.create(&handle_), "opening cuBLASLt"); }

  bool run(const LtProduct& p) {
    const auto [found, is_new] = plans_.try_emplace(kind_of(p));
    Plan& plan = found->second;
    if (is_new) plan = make_plan(p);
    if (!plan.supported || !set_scales(plan.product, p)) return false;
    const cublasStatus_t status = multiply(plan, p, plan.algorithm, p.c);
    // Some restrictions show only here.
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
      plan.supported = false;
      return false;
    }
    check(status, "a matrix product");
    return true;
  }

  bool offers(LtProduct p) {
    // Only the alignment of the pointers counts here, but some kinds of scales must have one.
    p.scale_a = p.scale_b = workspace_.data();
    p.a.data = p.b.data = p.c = static_cast<std::byte*>(workspace_.data()) + 16;
    const auto [found, is_new] = offers_.try_emplace(kind_of(p));
    if (is_new) found->second.supported = !candidates_for(found->second, p).empty();
    return found->second.supported;
  }

 private:
  void check(cublasStatus_t status, const char* what) const {
    require(status == CUBLAS_STATUS_SUCCESS, "{} failed on the GPU: {}", what, functions_.status_string(status));
  }

  cublasStatus_t multiply(const Plan& plan, const LtProduct& p, const cublasLtMatmulAlgo_t& algorithm,
                          void* result) const {
    const float host[2] = {p.alpha, p.add ? 1.0f : 0.0f};
    const float* alpha_beta = p.device_alpha_beta != nullptr ? p.device_alpha_beta : host;
    const void* addend = p.add && p.addend != nullptr ? p.addend : p.c;
    return functions_.matmul(handle_, plan.product, alpha_beta, p.b.data, plan.a, p.a.data, plan.b, alpha_beta + 1,
                             addend, plan.c, result, plan.c, &algorithm, workspace_.data(), workspace_.bytes(),
                             stream());
  }

  /// The fastest of the candidates that give the bits of the first, on the operands of this product.
  cublasLtMatmulAlgo_t fastest(const Plan& plan, const LtProduct& p,
                               const std::vector<cublasLtMatmulAlgo_t>& candidates) const {
    const double operations = 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
    if (candidates.size() < 2 || operations < kWorthTiming) return candidates[0];
    const std::size_t bytes = static_cast<std::size_t>(p.m * p.c_stride) * (p.c_type == LtType::F32 ? 4 : 2);
    std::size_t free_bytes = 0;
    std::size_t all_bytes = 0;
    cuda::check(cudaMemGetInfo(&free_bytes, &all_bytes), "asking for the GPU's memory");
    if (free_bytes < 4 * bytes) return candidates[0];
    const Buffer expected(bytes, Device::Cuda);
    const Buffer got(bytes, Device::Cuda);
    for (const Buffer* buffer : {&expected, &got}) {  // a stride leaves holes
      cuda::check(cudaMemsetAsync(buffer->data(), 0, bytes, stream()), "clearing memory");
    }
    if (multiply(plan, p, candidates[0], expected.data()) != CUBLAS_STATUS_SUCCESS) return candidates[0];
    std::vector<double> seconds(candidates.size(), std::numeric_limits<double>::infinity());
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      if (multiply(plan, p, candidates[i], got.data()) == CUBLAS_STATUS_SUCCESS &&
          same_bits(expected.data(), got.data(), bytes)) {
        seconds[i] = std::numeric_limits<double>::max();
      }
    }
    cudaEvent_t begin{};
    cudaEvent_t end{};
    cuda::check(cudaEventCreate(&begin), "creating an event");
    cuda::check(cudaEventCreate(&end), "creating an event");
    for (int round = 0; round < kRounds; ++round) {
      for (std::size_t i = 0; i < candidates.size(); ++i) {
        if (std::isinf(seconds[i])) continue;
        cuda::check(cudaEventRecord(begin, stream()), "recording an event");
        multiply(plan, p, candidates[i], got.data());
        cuda::check(cudaEventRecord(end, stream()), "recording an event");
        cuda::check(cudaEventSynchronize(end), "waiting");
        float milliseconds = 0;
        cuda::check(cudaEventElapsedTime(&milliseconds, begin, end), "reading an event");
        seconds[i] = std::min(seconds[i], 1e-3 * static_cast<double>(milliseconds));
      }
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return candidates[static_cast<std::size_t>(std::min_element(seconds.begin(), seconds.end()) - seconds.begin())];
  }

  template <class T>
  bool set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute, const T& value) const {
    return functions_.desc_set(product, attribute, &value, sizeof(value)) == CUBLAS_STATUS_SUCCESS;
  }
  template <class T>
  void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
           const T& value) const {
    check(functions_.preference_set(preference, attribute, &value, sizeof(value)), "choosing a matrix product");
  }

  bool set_scales(cublasLtMatmulDesc_t product, const LtProduct& p) const {
    if (p.scales == LtProduct::Scales::None) return true;
    return set(product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.scale_b) &&
           set(product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.scale_a);
  }

  cublasLtMatrixLayout_t layout(LtType type, std::int64_t rows, std::int64_t cols, std::int64_t stride) const {
    cublasLtMatrixLayout_t made = nullptr;
    check(functions_.layout_create(&made, data_type(type), static_cast<std::uint64_t>(cols),
                                   static_cast<std::uint64_t>(rows), stride),
          "describing a matrix");
    return made;
  }
  cublasLtMatrixLayout_t layout(const LtMatrix& x, std::int64_t outer, std::int64_t k) const {
    return x.transposed ? layout(x.type, k, outer, x.stride) : layout(x.type, outer, k, x.stride);
  }

  bool describe(cublasLtMatmulDesc_t product, const LtProduct& p) const {
    const cublasOperation_t op_b = p.b.transposed ? CUBLAS_OP_N : CUBLAS_OP_T;
    const cublasOperation_t op_a = p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    bool known = set(product, CUBLASLT_MATMUL_DESC_TRANSA, op_b) && set(product, CUBLASLT_MATMUL_DESC_TRANSB, op_a);
    if (p.device_alpha_beta != nullptr) {
      const std::int32_t mode = CUBLASLT_POINTER_MODE_DEVICE;
      known = known && set(product, CUBLASLT_MATMUL_DESC_POINTER_MODE, mode);
    }
    if (p.fast_accumulation) {
      const std::int8_t fast = 1;
      known = known && set(product, CUBLASLT_MATMUL_DESC_FAST_ACCUM, fast);
    }
    if (const std::int32_t mode = scale_mode(p.scales); mode != CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F) {
      known = known && set(product, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode) &&
              set(product, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
    }
    return known && set_scales(product, p);
  }

  Plan make_plan(const LtProduct& p) const {
    const Uncaptured at_once;  // candidates are timed
    Plan plan;
    const std::vector<cublasLtMatmulAlgo_t> candidates = candidates_for(plan, p);
    if (candidates.empty()) return plan;
    plan.algorithm = fastest(plan, p, candidates);
    plan.supported = true;
    return plan;
  }

  /// Fills the descriptions of a plan; what the library offers for it, its first choice first.
  std::vector<cublasLtMatmulAlgo_t> candidates_for(Plan& plan, const LtProduct& p) const {
    std::vector<cublasLtMatmulAlgo_t> candidates;
    check(functions_.desc_create(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a matrix product");
    if (!describe(plan.product, p)) return candidates;
    plan.a = layout(p.b, p.n, p.k);
    plan.b = layout(p.a, p.m, p.k);
    plan.c = layout(p.c_type, p.m, p.n, p.c_stride);

    cublasLtMatmulPreference_t preference = nullptr;
    check(functions_.preference_create(&preference), "choosing a matrix product");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace_.bytes()));
    // Parts of a split contraction go to the workspace in F32 and are added by a kernel of their own, in a fixed order.
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.b.data));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.a.data));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p.c));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.c));

    std::array<cublasLtMatmulHeuristicResult_t, 8> results{};
    int count = 0;
    const cublasStatus_t status =
        functions_.heuristic(handle_, plan.product, plan.a, plan.b, plan.c, plan.c, preference,
                             static_cast<int>(results.size()), results.data(), &count);
    functions_.preference_destroy(preference);
    if (status != CUBLAS_STATUS_SUCCESS) return candidates;
    for (int i = 0; i < count; ++i) {
      if (results[static_cast<std::size_t>(i)].state == CUBLAS_STATUS_SUCCESS) {
        candidates.push_back(results[static_cast<std::size_t>(i)].algo);
      }
    }
    return candidates;
  }

  Functions functions_;
  cublasLtHandle_t handle_ = nullptr;
  Buffer workspace_;
  std::map<Kind, Plan> plans_;
  std::map<Kind, Plan> offers_;
};

Lt& library() {
  // Never destroyed: at the end of the process the driver may be gone before the handle.
  static Lt& lt = *new Lt;
  return lt;
}

}  // namespace

bool lt_matmul(const LtProduct& product) {
  require(!is_narrow(product.a.type) || (!product.a.transposed && !product.b.transposed),
          "an FP8 or FP4 product with transposed operands");
  return library().run(product);
}

bool lt_offers(const LtProduct& product) { return library().offers(product); }

}  // namespace nibble::cuda
