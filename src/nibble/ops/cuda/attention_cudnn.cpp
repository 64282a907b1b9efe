#include "nibble/ops/cuda/attention_cudnn.h"

#ifdef NIBBLE_CUDNN_FRONTEND

#include <dlfcn.h>
#include <glob.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <sstream>
#include <unordered_map>
#include <vector>

#include "nibble/tensor/cuda/graph.h"
#include "nibble/tensor/cuda/runtime.h"
#include "nibble/tensor/device.h"

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // through which the frontend finds cuDNN's functions
}

namespace nibble::cuda {
namespace {

namespace fe = cudnn_frontend;

// What the loader finds, then what pip and toolkits install beside the programs on the PATH.
std::vector<std::string> candidates(const std::string& library) {
  std::vector<std::string> names = {library};
  const auto add = [&](const std::string& pattern) {
    glob_t found{};
    if (glob(pattern.c_str(), 0, nullptr, &found) == 0) {
      names.insert(names.end(), found.gl_pathv, found.gl_pathv + found.gl_pathc);
    }
    globfree(&found);
  };
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  std::istringstream path(variable("PATH") + ":" + variable("HOME") + "/.local/bin:/usr/local/cuda/bin");
  for (std::string folder; std::getline(path, folder, ':');) {
    if (folder.empty()) continue;
    add(folder + "/../lib/python3*/*-packages/nvidia/*/lib/" + library);
    add(folder + "/../lib64/" + library);
  }
  return names;
}

struct Opened {
  void* handle = nullptr;
  std::string name;
  std::string reason;  // why it could not be opened
};

Opened open_library(const std::string& library) {
  Opened opened;
  for (const std::string& name : candidates(library)) {
    opened.handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    opened.name = name;
    if (opened.handle != nullptr) return opened;
    const char* reason = dlerror();
    if (opened.reason.empty()) opened.reason = reason == nullptr ? library + " cannot be opened" : reason;
  }
  return opened;
}

enum class Pass { Forward, Backward, DeterministicBackward };

// A compiled graph, or why there is none.
struct Plan {
  std::unique_ptr<fe::graph::Graph> graph;
  std::int64_t workspace = 0;
  std::string refusal;
};

enum Uid : std::int64_t { kQ = 1, kK, kV, kOut, kStats, kDout, kDq, kDk, kDv };

// Heads inside the packed rows of qkv and out, addressed by strides.
void place(const AttentionShape& shape, Uid uid, fe::graph::Tensor_attributes& tensor) {
  const bool in_out = uid == kOut || uid == kDout;
  const bool of_keys = uid == kK || uid == kV || uid == kDk || uid == kDv;
  const std::int64_t heads = of_keys ? shape.kv_heads : shape.heads;
  const std::int64_t row = (in_out ? shape.heads : shape.heads + 2 * shape.kv_heads) * shape.head_dim;
  tensor.set_uid(uid);
  if (uid == kStats) {
    tensor.set_data_type(fe::DataType_t::FLOAT)
        .set_dim({shape.batch, heads, shape.seq, 1})
        .set_stride({heads * shape.seq, shape.seq, 1, 1});
  } else {
    tensor.set_data_type(fe::DataType_t::BFLOAT16)
        .set_dim({shape.batch, heads, shape.seq, shape.head_dim})
        .set_stride({shape.seq * row, shape.head_dim, row, 1});
  }
}

std::unique_ptr<fe::graph::Graph> describe(const AttentionShape& shape, Pass pass) {
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
  auto graph = std::make_unique<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT)
      .set_sm_version(cuda_device().compute_capability);
  const auto input = [&](Uid uid) {
    fe::graph::Tensor_attributes tensor;
    place(shape, uid, tensor);
    return graph->tensor(tensor);
  };
  const auto output = [&](const std::shared_ptr<fe::graph::Tensor_attributes>& tensor, Uid uid) {
    tensor->set_output(true);
    place(shape, uid, *tensor);
  };
  const auto q = input(kQ);
  const auto k = input(kK);
  const auto v = input(kV);
  if (pass == Pass::Forward) {
    const auto [out, stats] = graph->sdpa(q, k, v,
                                          fe::graph::SDPA_attributes()
                                              .set_generate_stats(true)
                                              .set_attn_scale(scale)
                                              .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                                              .set_diagonal_band_right_bound(0));
    output(out, kOut);
    output(stats, kStats);
  } else {
    const auto out = input(kOut);
    const auto dout = input(kDout);
    const auto stats = input(kStats);
    const auto [dq, dk, dv] = graph->sdpa_backward(q, k, v, out, dout, stats,
                                                   fe::graph::SDPA_backward_attributes()
                                                       .set_attn_scale(scale)
                                                       .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                                                       .set_diagonal_band_right_bound(0)
                                                       .set_deterministic_algorithm(pass != Pass::Backward));
    output(dq, kDq);
    output(dk, kDk);
    output(dv, kDv);
  }
  return graph;
}

class Cudnn {
 public:
  // Never destroyed: at exit the driver may be gone before the plans that hold its modules.
  static Cudnn& instance() {
    static Cudnn* const opened = new Cudnn;
    return *opened;
  }

  // "cuDNN 9.19.0"; every plan says why, where there is none.
  const std::string& name() const { return name_; }

  const Plan& plan(const AttentionShape& s, Pass pass) {
    const Key key{s.batch, s.seq, s.heads, s.kv_heads, s.head_dim, static_cast<std::int64_t>(pass)};
    const auto [at, is_new] = plans_.try_emplace(key);
    if (is_new && refusal_.empty()) at->second = build(s, pass);
    if (is_new && !refusal_.empty()) at->second.refusal = refusal_;
    return at->second;
  }

  void execute(const Plan& plan, std::unordered_map<std::int64_t, void*> pointers, Arena& scratch) {
    const ArenaScope scope(scratch);
    const Tensor workspace = scratch.allocate(DType::U8, {std::max<std::int64_t>(plan.workspace, 1)});
    auto status = plan.graph->execute(handle_, pointers, workspace.raw());
    require(status.is_good(), "attention: {} failed: {}", name_, status.get_message());
  }

 private:
  using Key = std::array<std::int64_t, 6>;

  Cudnn() {
    // The frontend opens a CUDA runtime beside the one that this program is linked with; it shall be of the same major.
    const Opened runtime = open_library(fmt::format("libcudart.so.{}", CUDART_VERSION / 1000));
    const Opened library = open_library("libcudnn.so.9");
    for (const Opened* opened : {&runtime, &library}) {
      if (opened->handle == nullptr) {
        refusal_ = opened->reason;
        return;
      }
    }
    setenv("CUDNN_FRONTEND_CUDART_LIB_NAME", runtime.name.c_str(), 0);
    fe::cudnn_dlhandle = library.handle;
    try {
      const std::size_t version = fe::detail::get_backend_version();
      name_ = fmt::format("cuDNN {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
      cudnnStatus_t status = fe::detail::create_handle(&handle_);
      if (status == CUDNN_STATUS_SUCCESS) status = fe::detail::set_stream(handle_, stream());
      if (status != CUDNN_STATUS_SUCCESS) refusal_ = name_ + " does not start: " + fe::detail::get_error_string(status);
    } catch (const std::exception& error) {  // a function that this version of cuDNN lacks
      refusal_ = library.name + ": " + error.what();
    }
  }

  Plan build(const AttentionShape& shape, Pass pass) {
    const Uncaptured at_once;  // kernels may be compiled and loaded
    Plan plan;
    try {
      plan.graph = describe(shape, pass);
      auto status = plan.graph->build(handle_, {fe::HeurMode_t::A});
      if (status.is_good()) status = plan.graph->get_workspace_size(plan.workspace);
      if (!status.is_good()) plan.refusal = name_ + " refuses the shape: " + status.get_message();
    } catch (const std::exception& error) {
      plan.refusal = name_ + " refuses the shape: " + error.what();
    }
    if (!plan.refusal.empty()) plan.graph.reset();
    return plan;
  }

  std::string name_, refusal_;
  cudnnHandle_t handle_ = nullptr;
  std::map<Key, Plan> plans_;
};

// What cuDNN's kernels take, but some versions don't check: rows of 16-byte vectors.
bool aligned(const AttentionShape& shape, std::initializer_list<const Tensor*> tensors) {
  return shape.head_dim % 8 == 0 && std::all_of(tensors.begin(), tensors.end(), [](const Tensor* tensor) {
           return reinterpret_cast<std::uintptr_t>(tensor->raw()) % 16 == 0;
         });
}

// The deterministic backward keeps dS of every score in BF16. Batches in which that is more than 1 GiB (8 sequences of
// 2048 tokens and 16 heads) are taken in equal parts, each of them still enough to fill a GPU.
std::int64_t sequences_at_once(const AttentionShape& shape) {
  constexpr std::int64_t kMostBytes = std::int64_t{1} << 30;
  const std::int64_t bytes = shape.heads * shape.seq * shape.seq * static_cast<std::int64_t>(sizeof(bf16));
  std::int64_t sequences = std::clamp<std::int64_t>(kMostBytes / bytes, 1, shape.batch);
  while (shape.batch % sequences != 0) --sequences;
  return sequences;
}

AttentionShape part_of(AttentionShape shape, Pass pass) {
  if (pass == Pass::DeterministicBackward) shape.batch = sequences_at_once(shape);
  return shape;
}

bf16* columns(const Tensor& tensor, std::int64_t first) { return tensor.data<bf16>() + first; }

}  // namespace

bool cudnn_attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                             Arena& scratch) {
  Cudnn& cudnn = Cudnn::instance();
  if (!aligned(shape, {&qkv, &out, &lse})) return false;
  const Plan& plan = cudnn.plan(shape, Pass::Forward);
  if (!plan.refusal.empty()) return false;
  const std::int64_t k = shape.heads * shape.head_dim;
  const std::int64_t v = k + shape.kv_heads * shape.head_dim;
  cudnn.execute(plan,
                {{kQ, qkv.raw()}, {kK, columns(qkv, k)}, {kV, columns(qkv, v)}, {kOut, out.raw()}, {kStats, lse.raw()}},
                scratch);
  return true;
}

bool cudnn_attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                              const Tensor& dout, const Tensor& dqkv, Arena& scratch, bool deterministic) {
  Cudnn& cudnn = Cudnn::instance();
  if (!aligned(shape, {&qkv, &out, &lse, &dout, &dqkv})) return false;
  const Pass pass = deterministic ? Pass::DeterministicBackward : Pass::Backward;
  const AttentionShape part = part_of(shape, pass);
  const Plan& plan = cudnn.plan(part, pass);
  if (!plan.refusal.empty()) return false;
  const std::int64_t k = shape.heads * shape.head_dim;
  const std::int64_t v = k + shape.kv_heads * shape.head_dim;
  for (std::int64_t b = 0; b < shape.batch; b += part.batch) {
    const std::int64_t x = b * shape.seq * (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    const std::int64_t y = b * shape.seq * shape.heads * shape.head_dim;
    cudnn.execute(plan,
                  {{kQ, columns(qkv, x)},
                   {kK, columns(qkv, x + k)},
                   {kV, columns(qkv, x + v)},
                   {kOut, columns(out, y)},
                   {kStats, lse.data<float>() + b * shape.heads * shape.seq},
                   {kDout, columns(dout, y)},
                   {kDq, columns(dqkv, x)},
                   {kDk, columns(dqkv, x + k)},
                   {kDv, columns(dqkv, x + v)}},
                  scratch);
  }
  return true;
}

std::string attention_backend(const AttentionShape& shape) {
  if (shape.head_dim % 8 != 0) return "own kernels (head_dim is no multiple of 8)";
  Cudnn& cudnn = Cudnn::instance();
  for (const Pass pass : {Pass::Forward, Pass::DeterministicBackward}) {
    const Plan& plan = cudnn.plan(part_of(shape, pass), pass);
    if (!plan.refusal.empty()) return "own kernels (" + plan.refusal + ")";
  }
  return cudnn.name();
}

}  // namespace nibble::cuda

#else

namespace nibble::cuda {

bool cudnn_attention_forward(const AttentionShape&, const Tensor&, const Tensor&, const Tensor&, Arena&) {
  return false;
}
bool cudnn_attention_backward(const AttentionShape&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                              const Tensor&, Arena&, bool) {
  return false;
}
std::string attention_backend(const AttentionShape&) {
  return "own kernels (cudnn-frontend's headers were missing when this program was built)";
}

}  // namespace nibble::cuda

#endif
