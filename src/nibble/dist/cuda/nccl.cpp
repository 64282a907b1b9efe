#include <cstdlib>
#include <cstring>
#include <exception>

#include "nibble/dist/backends.h"
#include "nibble/dist/cuda/stalls.h"
#include "nibble/dist/cuda/watch.h"
#include "nibble/tensor/cuda/graph.h"
#include "nibble/tensor/cuda/runtime.h"

// Operations run on a stream of their own. `ready` is where the device's other work stands when an operation is
// started, `done` is its end:
//
//   stream()   ... work | ready |   other work meanwhile   | wait: done |  work that reads the result
//   ours                    \-> wait: ready | operation | done -/

namespace nibble::nccl {

namespace {

using cuda::check;

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> start_up, std::unique_ptr<Functions> nccl, const Ranks& ranks,
                   int device, double timeout)
      : Communicator(ranks, Device::Cuda),
        start_up_(std::move(start_up)),
        opened_(std::move(nccl)),
        nccl_(*opened_),
        watch_(nccl_, ranks, device, timeout, start_up_ ? &mpi::roll_call(*start_up_) : nullptr) {
    if (start_up_ == nullptr) {
      connect();
    } else {
      on_every_rank(*start_up_, [this](Communicator&) { connect(); });
    }
  }

  ~NcclCommunicator() override {
    if (std::uncaught_exceptions() > 0) watch_.end_job("an error ends the job", 1);
    barrier();
    watch_.joined(nullptr);
    nccl_.destroy(comm_);
    cudaFree(token_);
    cudaStreamDestroy(stream_);
  }

  std::string name() const override { return "NCCL"; }
  double waited() override { return stalls_->seconds(); }

  void barrier() override {
    launch(Operation::Barrier, 0, [&] {
      return nccl_.all_reduce(token_, token_, 1, Type::I32, Op::Max, comm_, stream_);
    }).wait();
    check(cudaStreamSynchronize(cuda::stream()), "barrier");
  }

  [[noreturn]] void abort(std::string_view sentence, int code) override {
    if (start_up_ != nullptr) start_up_->abort(sentence, code);
    wait_for_turn(rank());
    watch_.end_job(sentence, code);
  }

 protected:
  Pending do_all_reduce(const Tensor& x, Reduce reduce) override {
    return start(Operation::AllReduce, x,
                 [&] { return nccl_.all_reduce(x.raw(), x.raw(), count(x), type(x), op(reduce), comm_, stream_); });
  }
  Pending do_reduce_scatter(const Tensor& from, const Tensor& to, Reduce reduce) override {
    return start(Operation::ReduceScatter, from, [&] {
      return nccl_.reduce_scatter(from.raw(), to.raw(), count(to), type(to), op(reduce), comm_, stream_);
    });
  }
  Pending do_all_gather(const Tensor& from, const Tensor& to) override {
    return start(Operation::AllGather, to,
                 [&] { return nccl_.all_gather(from.raw(), to.raw(), count(from), type(from), comm_, stream_); });
  }
  Pending do_all_to_all(const Tensor& from, const Tensor& to) override {
    return start(Operation::AllToAll, to, [&] {
      const std::size_t part = from.bytes() / static_cast<std::size_t>(size());
      const std::size_t each = count(from) / static_cast<std::size_t>(size());
      must(nccl_.group_start(), "all_to_all");
      for (int r = 0; r < size(); ++r) {
        const std::size_t at = static_cast<std::size_t>(r) * part;
        must(nccl_.send(static_cast<const std::byte*>(from.raw()) + at, each, type(from), r, comm_, stream_),
             "all_to_all");
        must(nccl_.receive(static_cast<std::byte*>(to.raw()) + at, each, type(to), r, comm_, stream_), "all_to_all");
      }
      return nccl_.group_end();
    });
  }
  Pending do_broadcast(const Tensor& x, int root) override {
    return start(Operation::Broadcast, x,
                 [&] { return nccl_.broadcast(x.raw(), x.raw(), count(x), type(x), root, comm_, stream_); });
  }

 private:
  void connect() {
    UniqueId id{};
    if (start_up_ == nullptr || rank() == 0) must(nccl_.get_unique_id(&id), "naming the job");
    if (start_up_ != nullptr) start_up_->broadcast(Tensor::of(reinterpret_cast<std::uint8_t*>(id.bytes), {128}), 0);
    watch_.joining(true);
    const Result joined = nccl_.init_rank(&comm_, size(), id, rank());
    // Mostly two ranks that see the same single GPU; where each sees one of its own, only NCCL can tell.
    if (joined == Result::InvalidUsage) user_error("the ranks' GPUs can't be joined: NCCL says: {}", explained(joined));
    must(joined, "joining the ranks");
    watch_.joining(false);
    watch_.joined(comm_);
    int least = 0;
    int greatest = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for priorities");
    check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest), "creating a stream");
    check(cudaMalloc(&token_, sizeof(std::int32_t)), "allocating");
    check(cudaMemset(token_, 0, sizeof(std::int32_t)), "allocating");
  }

  class Done final : public Pending::Work {
   public:
    Done(std::shared_ptr<Event> done, std::shared_ptr<Stalls> stalls)
        : done_(std::move(done)), stalls_(std::move(stalls)) {}
    void wait() override {
      const cuda::Uncaptured at_once;
      stalls_->wait_for(done_->get());
    }

   private:
    std::shared_ptr<Event> done_;
    std::shared_ptr<Stalls> stalls_;
  };

  static std::size_t count(const Tensor& x) { return static_cast<std::size_t>(x.numel()); }
  static Op op(Reduce reduce) { return reduce == Reduce::Sum ? Op::Sum : Op::Max; }
  static Type type(const Tensor& x) {
    switch (x.dtype()) {
      case DType::F32: return Type::F32;
      case DType::BF16: return Type::BF16;
      case DType::F16: return Type::F16;
      case DType::I32: return Type::I32;
      case DType::U8: break;
    }
    return Type::U8;
  }

  void must(Result result, const char* what) const {
    if (result != Result::Success) throw InternalError(fmt::format("{}: NCCL says: {}", what, explained(result)));
  }
  std::string explained(Result result) const {
    const char* more = nccl_.last_error(nullptr);
    const bool has_more = more != nullptr && *more != '\0';
    return fmt::format("{}{}{}", nccl_.error_string(result), has_more ? ": " : "", has_more ? more : "");
  }

  template <class Call>
  Pending start(Operation operation, const Tensor& whole, Call&& call) {
    if (whole.numel() == 0) return {};
    return launch(operation, static_cast<std::int64_t>(whole.bytes()), call);
  }

  template <class Call>
  Pending launch(Operation operation, std::int64_t bytes, Call&& call) {
    const cuda::Uncaptured at_once;
    const auto ready = std::make_shared<Event>();
    const auto done = std::make_shared<Event>();
    check(cudaEventRecord(ready->get(), cuda::stream()), "recording an event");
    check(cudaStreamWaitEvent(stream_, ready->get(), 0), "waiting for the device");
    watch_.begins(operation, bytes);
    must(call(), operation_name(operation));
    check(cudaEventRecord(done->get(), stream_), "recording an event");
    watch_.given(ready, done);
    return Pending(std::make_unique<Done>(done, stalls_));
  }

  std::unique_ptr<Communicator> start_up_;  // ends after all else
  std::unique_ptr<Functions> opened_;
  const Functions& nccl_;
  Watch watch_;
  std::shared_ptr<Stalls> stalls_ = std::make_shared<Stalls>();
  Comm comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  void* token_ = nullptr;  // what a barrier adds up
};

/// A rank's GPU: that of its place on the host, or the only one that it sees (Slurm may show each task its own).
int choose_device(const Ranks& ranks) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    user_error("there is no GPU on this host that a rank could use");
  }
  if (count > 1 && ranks.local_rank >= count) {
    user_error("there are more ranks on this host than its {} GPUs: start as many ranks on a host as it has GPUs",
               count);
  }
  const int device = count == 1 ? 0 : ranks.local_rank;
  check(cudaSetDevice(device), "choosing the GPU");
  return device;
}

}  // namespace

void check_built() {}

std::string library_version() {
  const Functions nccl;
  int code = 0;  // 10000 major + 100 minor + patch, since 2.9
  if (nccl.version(&code) != Result::Success) throw InternalError("NCCL does not say its version");
  return fmt::format("NCCL {}.{}.{}", code / 10000, code / 100 % 100, code % 100);
}

std::unique_ptr<Communicator> join(const Launch& launch, std::unique_ptr<Communicator> start_up, double timeout) {
  const Ranks ranks = start_up ? start_up->ranks() : launch.ranks;
  // Sums inside NVLink's switches (multicast) have an order of their own; ours are the same from run to run.
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  // With this NCCL meets at the address by itself: rank 0 listens there, and every rank makes the same id of it.
  if (start_up == nullptr) setenv("NCCL_COMM_ID", launch.address.c_str(), 0);
  int device = 0;
  std::unique_ptr<Functions> nccl;
  const auto prepare = [&] {
    device = choose_device(ranks);
    nccl = std::make_unique<Functions>();
  };
  if (start_up == nullptr) {
    prepare();
  } else {
    on_every_rank(*start_up, [&](Communicator&) { prepare(); });
  }
  return std::make_unique<NcclCommunicator>(std::move(start_up), std::move(nccl), ranks, device, timeout);
}

}  // namespace nibble::nccl
