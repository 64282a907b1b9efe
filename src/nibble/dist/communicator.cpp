#include "nibble/dist/communicator.h"

#include "nibble/tensor/device.h"

namespace nibble {

namespace {

void require_reducible(const char* what, const Tensor& x, Reduce reduce) {
  const DType t = x.dtype();
  const bool defined = reduce == Reduce::Sum ? t == DType::F32 || t == DType::BF16 || t == DType::I32 : t != DType::F16;
  require(defined, "{}: no {} of {}", what, reduce == Reduce::Sum ? "sum" : "maximum", to_string(x));
}

void require_here(const char* what, const Tensor& x, Device device) {
  require(x.defined() && x.device() == device, "{}: {} should be on {}", what, to_string(x), device_name(device));
}

/// `pieces` is as large as `size` tensors like `piece`.
void require_pieces(const char* what, const Tensor& piece, const Tensor& pieces, int size, Device device) {
  require_here(what, piece, device);
  require_here(what, pieces, device);
  require(piece.dtype() == pieces.dtype() && piece.numel() * size == pieces.numel(), "{}: {} and {} among {} ranks",
          what, to_string(piece), to_string(pieces), size);
}

class SingleProcess final : public Communicator {
 public:
  explicit SingleProcess(Device device) : Communicator({}, device) {}
  std::string name() const override { return "one process"; }
  void barrier() override { synchronize(device()); }
  [[noreturn]] void abort(std::string_view sentence, int) override { throw UserError(std::string(sentence)); }

 protected:
  Pending do_all_reduce(const Tensor&, Reduce) override { return {}; }
  Pending do_reduce_scatter(const Tensor& from, const Tensor& to, Reduce) override { return take(from, to); }
  Pending do_all_gather(const Tensor& from, const Tensor& to) override { return take(from, to); }
  Pending do_all_to_all(const Tensor& from, const Tensor& to) override { return take(from, to); }
  Pending do_broadcast(const Tensor&, int) override { return {}; }

 private:
  static Pending take(const Tensor& from, const Tensor& to) {
    if (from.raw() != to.raw() && from.numel() > 0) copy(from, to);
    return {};
  }
};

}  // namespace

Pending Communicator::start_all_reduce(const Tensor& x, Reduce reduce) {
  require_here("all_reduce", x, device_);
  require_reducible("all_reduce", x, reduce);
  return do_all_reduce(x, reduce);
}

Pending Communicator::start_reduce_scatter(const Tensor& from, const Tensor& to, Reduce reduce) {
  require_pieces("reduce_scatter", to, from, size(), device_);
  require_reducible("reduce_scatter", from, reduce);
  return do_reduce_scatter(from, to, reduce);
}

Pending Communicator::start_all_gather(const Tensor& from, const Tensor& to) {
  require_pieces("all_gather", from, to, size(), device_);
  return do_all_gather(from, to);
}

Pending Communicator::start_all_to_all(const Tensor& from, const Tensor& to) {
  require_here("all_to_all", from, device_);
  require_here("all_to_all", to, device_);
  require(from.dtype() == to.dtype() && from.numel() == to.numel() && from.numel() % size() == 0,
          "all_to_all: {} to {} among {} ranks", to_string(from), to_string(to), size());
  return do_all_to_all(from, to);
}

Pending Communicator::start_broadcast(const Tensor& x, int root) {
  require_here("broadcast", x, device_);
  require(0 <= root && root < size(), "broadcast: rank {} of {} ranks", root, size());
  return do_broadcast(x, root);
}

std::unique_ptr<Communicator> make_single_process(Device device) { return std::make_unique<SingleProcess>(device); }

}  // namespace nibble
