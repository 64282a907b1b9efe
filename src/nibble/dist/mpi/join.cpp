#include <algorithm>
#include <cstring>

#include "nibble/dist/backends.h"
#include "nibble/dist/mpi/worker.h"
#include "nibble/dist/rank_sum.h"

// The moves are MPI's own non-blocking collectives, on bytes; sums are taken here, in the order that communicator.h
// states. Long tensors go piece by piece: a piece fits MPI's 32-bit counts and restarts the watch over the time.
//
// A piece of every rank's part of a tensor [size * n] is one MPI type, whose extent is that of a part:
//
//   rank 0 [..PPP....] rank 1 [..PPP....] rank 2 [..PPP....]
//             |<---- extent ---->|

namespace nibble::mpi {

namespace {

/// Bytes of one rank's piece of what is only moved.
constexpr std::int64_t kMovedPiece = std::int64_t{16} << 20;
/// Bytes of all ranks' pieces of what is added: two of them are in memory.
constexpr std::int64_t kAddedPieces = std::int64_t{2} << 20;
/// Below this many bytes (of all ranks) each rank gathers everything and adds it up: one operation instead of two.
constexpr std::int64_t kGatherBelow = std::int64_t{64} << 10;

/// `bytes` that lie in each of parts `extent` bytes long; extent 0 = one behind the other.
class PieceType {
 public:
  PieceType(const Functions& mpi, std::int64_t bytes, std::int64_t extent) : mpi_(mpi) {
    check(mpi_, mpi_.type_contiguous(static_cast<int>(bytes), mpi_.byte, &type_), "a type of MPI");
    if (extent > 0) {
      MPI_Datatype whole = type_;
      check(mpi_, mpi_.type_resized(whole, 0, static_cast<MPI_Aint>(extent), &type_), "a type of MPI");
      mpi_.type_free(&whole);
    }
    check(mpi_, mpi_.type_commit(&type_), "a type of MPI");
  }
  ~PieceType() { mpi_.type_free(&type_); }  // MPI keeps it as long as an operation uses it
  PieceType(const PieceType&) = delete;
  PieceType& operator=(const PieceType&) = delete;
  MPI_Datatype get() const { return type_; }

 private:
  const Functions& mpi_;
  MPI_Datatype type_{};
};

class MpiCommunicator final : public Communicator, public RollCall {
 public:
  explicit MpiCommunicator(std::unique_ptr<Worker> worker)
      : Communicator(worker->ranks(), Device::Cpu), worker_(std::move(worker)), mpi_(worker_->mpi()) {}

  std::string name() const override { return "MPI"; }
  double waited() override { return worker_->waited(); }
  void barrier() override {
    worker_->start(Operation::Barrier, 0, [this] { barrier_now(); }).wait();
  }
  [[noreturn]] void abort(std::string_view sentence, int code) override { worker_->abort(sentence, code); }

  void began(std::int64_t number, int kind, std::int64_t bytes) override {
    worker_->roll().began({1, number, kind, bytes});
  }
  void ask() override { worker_->ask_other(); }
  std::string verdict(std::int64_t number) override { return worker_->roll().verdict(1, number); }

 protected:
  Pending do_all_reduce(const Tensor& x, Reduce reduce) override {
    return start(Operation::AllReduce, x, [=, this] { all_reduce_now(x, reduce); });
  }
  Pending do_reduce_scatter(const Tensor& from, const Tensor& to, Reduce reduce) override {
    return start(Operation::ReduceScatter, from, [=, this] { reduce_scatter_now(from, to, reduce); });
  }
  Pending do_all_gather(const Tensor& from, const Tensor& to) override {
    return start(Operation::AllGather, to, [=, this] { all_gather_now(from, to); });
  }
  Pending do_all_to_all(const Tensor& from, const Tensor& to) override {
    return start(Operation::AllToAll, to, [=, this] { all_to_all_now(from, to); });
  }
  Pending do_broadcast(const Tensor& x, int root) override {
    return start(Operation::Broadcast, x, [=, this] { broadcast_now(x, root); });
  }

 private:
  template <class Work>
  Pending start(Operation operation, const Tensor& whole, Work work) {
    return worker_->start(operation, static_cast<std::int64_t>(whole.bytes()), std::move(work));
  }

  void barrier_now() {
    MPI_Request request;
    check(mpi_, mpi_.ibarrier(mpi_.world, &request), "barrier");
    worker_->finish(request);
  }

  void broadcast_now(const Tensor& x, int root) {
    const auto bytes = static_cast<std::int64_t>(x.bytes());
    for (std::int64_t begin = 0; begin < bytes; begin += kMovedPiece) {
      const auto count = static_cast<int>(std::min(kMovedPiece, bytes - begin));
      MPI_Request request;
      check(mpi_, mpi_.ibcast(static_cast<std::byte*>(x.raw()) + begin, count, mpi_.byte, root, mpi_.world, &request),
            "broadcast");
      worker_->finish(request);
    }
  }

  void all_gather_now(const Tensor& from, const Tensor& to) {
    const auto bytes = static_cast<std::int64_t>(from.bytes());
    auto* const out = static_cast<std::byte*>(to.raw());
    const auto* const in = static_cast<const std::byte*>(from.raw());
    const bool in_place = in == out + rank() * bytes;
    for (std::int64_t begin = 0; begin < bytes; begin += kMovedPiece) {
      const std::int64_t count = std::min(kMovedPiece, bytes - begin);
      const PieceType piece(mpi_, count, bytes);
      MPI_Request request;
      check(mpi_,
            mpi_.iallgather(in_place ? MPI_IN_PLACE : in + begin, static_cast<int>(count), mpi_.byte, out + begin, 1,
                            piece.get(), mpi_.world, &request),
            "all_gather");
      worker_->finish(request);
    }
  }

  /// Bytes [begin, begin + count) of the parts of `from`, `extent` bytes each, to `to`, where parts are `to_extent`
  /// long.
  MPI_Request start_exchange(const std::byte* from, std::int64_t extent, std::int64_t begin, std::int64_t count,
                             std::byte* to, std::int64_t to_extent) {
    const PieceType sent(mpi_, count, extent);
    const PieceType received(mpi_, count, to_extent);
    MPI_Request request;
    check(mpi_, mpi_.ialltoall(from + begin, 1, sent.get(), to, 1, received.get(), mpi_.world, &request), "all_to_all");
    return request;
  }

  void all_to_all_now(const Tensor& from, const Tensor& to) {
    const std::int64_t extent = static_cast<std::int64_t>(from.bytes()) / size();
    for (std::int64_t begin = 0; begin < extent; begin += kMovedPiece) {
      MPI_Request request =
          start_exchange(static_cast<const std::byte*>(from.raw()), extent, begin,
                         std::min(kMovedPiece, extent - begin), static_cast<std::byte*>(to.raw()) + begin, extent);
      worker_->finish(request);
    }
  }

  /// While one piece travels, the one before it is added up.
  void reduce_scatter_now(const Tensor& from, const Tensor& to, Reduce reduce) {
    const std::int64_t n = to.numel();
    if (n == 0) return;
    const auto element = static_cast<std::int64_t>(dtype_size(to.dtype()));
    const std::int64_t extent = n * element;
    const std::int64_t piece = std::clamp<std::int64_t>(kAddedPieces / (size() * element), 1024, n < 1024 ? 1024 : n);
    const auto start_piece = [&](std::int64_t begin, int buffer) {
      const std::int64_t count = std::min(piece, n - begin);
      return start_exchange(static_cast<const std::byte*>(from.raw()), extent, begin * element, count * element,
                            staging(buffer, size() * piece * element), 0);
    };
    MPI_Request request = start_piece(0, 0);
    int buffer = 0;
    for (std::int64_t begin = 0; begin < n; begin += piece, buffer = 1 - buffer) {
      worker_->finish(request);
      if (begin + piece < n) request = start_piece(begin + piece, 1 - buffer);
      const std::int64_t count = std::min(piece, n - begin);
      reduce_pieces(Tensor(staging(buffer, 0), to.dtype(), {size() * count}), size(), to.elements(begin, begin + count),
                    reduce);
    }
  }

  void all_reduce_now(const Tensor& x, Reduce reduce) {
    const std::int64_t n = x.numel();
    if (n == 0) return;
    if (static_cast<std::int64_t>(x.bytes()) * size() <= kGatherBelow) {
      const Tensor all(staging(0, kGatherBelow), x.dtype(), {size() * n});
      all_gather_now(x, all);
      return reduce_pieces(all, size(), x, reduce);
    }
    // The part that divides by the ranks in place, the rest (less than `size` elements) by gathering.
    const std::int64_t even = n - n % size();
    const Tensor whole = x.elements(0, even);
    const std::int64_t each = even / size();
    const Tensor mine = whole.elements(rank() * each, (rank() + 1) * each);
    reduce_scatter_now(whole, mine, reduce);
    all_gather_now(mine, whole);
    if (even < n) all_reduce_now(x.elements(even, n), reduce);
  }

  std::byte* staging(int which, std::int64_t bytes) {
    Buffer& buffer = staging_[static_cast<std::size_t>(which)];
    if (buffer.bytes() < static_cast<std::size_t>(bytes)) buffer = Buffer(static_cast<std::size_t>(bytes));
    return static_cast<std::byte*>(buffer.data());
  }

  std::unique_ptr<Worker> worker_;
  const Functions& mpi_;
  std::array<Buffer, 2> staging_;  // of the worker's thread
};

}  // namespace

std::unique_ptr<Communicator> join(double timeout) {
  return std::make_unique<MpiCommunicator>(std::make_unique<Worker>(timeout));
}

std::string library_version() {
  const Functions mpi;
  std::string text(MPI_MAX_LIBRARY_VERSION_STRING, '\0');
  int length = 0;
  check(mpi, mpi.library_version(text.data(), &length), "asking for MPI's version");
  text.resize(static_cast<std::size_t>(length));
  return text.substr(0, text.find(','));  // what follows is about how it was built
}

RollCall& roll_call(Communicator& joined) { return dynamic_cast<RollCall&>(joined); }

}  // namespace nibble::mpi
