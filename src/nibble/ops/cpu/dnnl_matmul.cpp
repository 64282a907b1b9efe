#include "nibble/ops/cpu/dnnl_matmul.h"

#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

namespace nibble::cpu {
namespace {

static_assert(DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP || DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_SEQ,
              "nibble runs oneDNN on one thread inside its own OpenMP regions: link an OpenMP or sequential oneDNN");

using dnnl::memory;

/// oneDNN takes its number of threads from OpenMP both when a primitive is made and when it runs, and more than one
/// thread may split the sum over k. The setting belongs to the calling thread's task, so no other thread sees it.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) {
    if (before_ != 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (before_ != 1) omp_set_num_threads(before_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

dnnl::engine cpu_engine() { return dnnl::engine(dnnl::engine::kind::cpu, 0); }

struct Types {
  memory::data_type a, b, c;
};

Types types_of(MatmulType type) {
  using T = memory::data_type;
  switch (type) {
    case MatmulType::U8S8: return {T::u8, T::s8, T::s32};
    case MatmulType::Bf16: return {T::bf16, T::bf16, T::f32};
    case MatmulType::F32: break;
  }
  return {T::f32, T::f32, T::f32};
}

/// The library's own scratchpad belongs to the thread that made the primitive; ours are shared between threads.
dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const memory::desc& a, const memory::desc& b,
                                      const memory::desc& c) {
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::matmul::primitive_desc(engine, a, b, c, user_scratchpad());
#else
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), user_scratchpad(), engine);
#endif
}

/// oneDNN wants non-const pointers for inputs too.
memory memory_at(const memory::desc& desc, const dnnl::engine& engine, const void* data) {
  return memory(desc, engine, const_cast<void*>(data));
}

}  // namespace

bool native_bf16() {
#if defined(__x86_64__)
  const auto has = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto wanted = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return (has & wanted) == wanted;
#else
  return false;
#endif
}

struct PackedMatmul::State {
  MatmulType type;
  std::int64_t n, k;
  dnnl::engine engine;
  memory::desc a, b, c;
  dnnl::matmul::primitive_desc description;
  dnnl::matmul primitive;

  State(MatmulType type_, std::int64_t m, std::int64_t n_, std::int64_t k_, const memory::desc* packed)
      : type(type_), n(n_), k(k_), engine(cpu_engine()) {
    const OneThread one_thread;
    const Types types = types_of(type);
    a = memory::desc({m, k}, types.a, memory::format_tag::ab);
    c = memory::desc({m, n}, types.c, memory::format_tag::ab);
    const memory::desc wanted = packed != nullptr ? *packed : memory::desc({k, n}, types.b, memory::format_tag::any);
    description = describe(engine, a, wanted, c);
    b = description.weights_desc();
    primitive = dnnl::matmul(description);
  }
};

PackedMatmul::PackedMatmul(MatmulType type, std::int64_t m, std::int64_t n, std::int64_t k)
    : state_(std::make_shared<const State>(type, m, n, k, nullptr)) {}

PackedMatmul::PackedMatmul(const PackedMatmul& other, std::int64_t m)
    : state_(std::make_shared<const State>(other.state_->type, m, other.state_->n, other.state_->k, &other.state_->b)) {
}

std::size_t PackedMatmul::packed_bytes() const { return state_->b.get_size(); }
std::size_t PackedMatmul::scratch_bytes() const { return state_->description.scratchpad_desc().get_size(); }

void PackedMatmul::run(const void* a, const void* packed_b, void* c, void* scratch) const {
  const OneThread one_thread;
  dnnl::stream stream(state_->engine);
  state_->primitive.execute(
      stream, {{DNNL_ARG_SRC, memory_at(state_->a, state_->engine, a)},
               {DNNL_ARG_WEIGHTS, memory_at(state_->b, state_->engine, packed_b)},
               {DNNL_ARG_DST, memory_at(state_->c, state_->engine, c)},
               {DNNL_ARG_SCRATCHPAD, memory_at(state_->description.scratchpad_desc(), state_->engine, scratch)}});
  stream.wait();
}

struct MatmulPacker::State {
  dnnl::engine engine;
  memory::desc from, to, scratch;
  dnnl::reorder primitive;
};

MatmulPacker::MatmulPacker(const PackedMatmul& matmul, std::int64_t stride_k, std::int64_t stride_n) {
  const OneThread one_thread;
  const PackedMatmul::State& target = *matmul.state_;
  State state;
  state.engine = target.engine;
  state.from = memory::desc({target.k, target.n}, types_of(target.type).b, memory::dims{stride_k, stride_n});
  state.to = target.b;
  const dnnl::reorder::primitive_desc description(state.engine, state.from, state.engine, state.to, user_scratchpad());
  state.scratch = description.scratchpad_desc();
  state.primitive = dnnl::reorder(description);
  state_ = std::make_shared<const State>(std::move(state));
}

void MatmulPacker::run(const void* b, void* packed_b) const {
  const OneThread one_thread;
  dnnl::stream stream(state_->engine);
  std::vector<std::byte> scratch(state_->scratch.get_size());  // none for plain to blocked of one type
  state_->primitive.execute(stream,
                            {{DNNL_ARG_FROM, memory_at(state_->from, state_->engine, b)},
                             {DNNL_ARG_TO, memory_at(state_->to, state_->engine, packed_b)},
                             {DNNL_ARG_SCRATCHPAD, memory_at(state_->scratch, state_->engine, scratch.data())}});
  stream.wait();
}

}  // namespace nibble::cpu
