// Every operation against its definition, on the ranks that the program was started with.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "nibble/tensor/device.h"
#include "tests/dist/ranks/ranks.h"
#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using testing_support::ranks;

/// Bytes that differ by rank and place; as numbers they are small integers, whose sums are exact in every order.
OwnedTensor input(DType dtype, std::int64_t n, int rank, std::uint32_t seed) {
  OwnedTensor x(dtype, {n});
  for (std::int64_t i = 0; i < n; ++i) {
    const auto mixed =
        static_cast<std::uint32_t>(i + 1) * 2654435761u + static_cast<std::uint32_t>(rank) * 40503u + seed * 97u;
    const int value = static_cast<int>((mixed >> 13) % 17) - 8;
    switch (dtype) {
      case DType::F32: x.view().data<float>()[i] = static_cast<float>(value); break;
      case DType::BF16: x.view().data<bf16>()[i] = bf16_encode(static_cast<float>(value)); break;
      case DType::F16: x.view().data<std::uint16_t>()[i] = static_cast<std::uint16_t>(mixed >> 9); break;
      case DType::I32: x.view().data<std::int32_t>()[i] = value * 1'000'003; break;
      case DType::U8: x.view().data<std::uint8_t>()[i] = static_cast<std::uint8_t>(mixed >> 11); break;
    }
  }
  return x;
}

double number(const Tensor& x, std::int64_t i) {
  switch (x.dtype()) {
    case DType::F32: return static_cast<double>(x.data<float>()[i]);
    case DType::BF16: return static_cast<double>(bf16_decode(x.data<bf16>()[i]));
    case DType::F16: return x.data<std::uint16_t>()[i];
    case DType::I32: return x.data<std::int32_t>()[i];
    case DType::U8: return x.data<std::uint8_t>()[i];
  }
  return 0;
}

constexpr DType kAll[] = {DType::F32, DType::BF16, DType::F16, DType::I32, DType::U8};
/// Elements of one rank's part: none, fewer than ranks, odd, more than a strip of the CPU's sums.
constexpr std::int64_t kSizes[] = {0, 1, 2, 3, 7, 1000, 16'411};
/// More than a piece of them.
constexpr std::int64_t kSeveralPieces = 300'007;

bool reduces(DType dtype, Reduce reduce) {
  return dtype != DType::F16 && (reduce == Reduce::Max || dtype != DType::U8);
}

OwnedTensor there(const Tensor& x) { return copy_to(x, ranks().device()); }
OwnedTensor here(const Tensor& x) { return copy_to(x, Device::Cpu); }

/// What element i of all ranks' inputs reduces to.
std::vector<double> reduced(DType dtype, std::int64_t n, Reduce reduce, std::uint32_t seed) {
  std::vector<double> all;
  for (int r = 0; r < ranks().size(); ++r) {
    const OwnedTensor x = input(dtype, n, r, seed);
    for (std::int64_t i = 0; i < n; ++i) {
      const double v = number(x, i);
      const auto at = static_cast<std::size_t>(i);
      if (r == 0) {
        all.push_back(v);
      } else {
        all[at] = reduce == Reduce::Sum ? all[at] + v : std::max(all[at], v);
      }
    }
  }
  return all;
}

/// One line of failure for a whole tensor.
void expect_numbers(const std::vector<double>& expected, std::int64_t begin, const Tensor& got,
                    const std::string& what) {
  std::int64_t wrong = 0;
  std::int64_t first = -1;
  for (std::int64_t i = 0; i < got.numel(); ++i) {
    if (number(got, i) == expected[static_cast<std::size_t>(begin + i)]) continue;
    if (first < 0) first = i;
    ++wrong;
  }
  EXPECT_EQ(wrong, 0) << what << ", rank " << ranks().rank() << " of " << ranks().size() << ": first at " << first;
}

std::string name_of(DType dtype, std::int64_t n, Reduce reduce) {
  return fmt::format("{} of {} {}", reduce == Reduce::Sum ? "sum" : "max", n, dtype_name(dtype));
}

template <class F>
void for_each_case(F&& f) {
  std::uint32_t seed = 0;
  for (const DType dtype : kAll) {
    for (const std::int64_t n : kSizes) f(dtype, n, ++seed);
    if (dtype == DType::F32) f(dtype, kSeveralPieces, ++seed);
  }
}

TEST(Collectives, AllReduce) {
  for_each_case([](DType dtype, std::int64_t n, std::uint32_t seed) {
    for (const Reduce reduce : {Reduce::Sum, Reduce::Max}) {
      if (!reduces(dtype, reduce)) continue;
      const OwnedTensor x = there(input(dtype, n, ranks().rank(), seed));
      ranks().all_reduce(x, reduce);
      expect_numbers(reduced(dtype, n, reduce, seed), 0, here(x), name_of(dtype, n, reduce));
    }
  });
}

TEST(Collectives, ReduceScatter) {
  for_each_case([](DType dtype, std::int64_t n, std::uint32_t seed) {
    for (const Reduce reduce : {Reduce::Sum, Reduce::Max}) {
      if (!reduces(dtype, reduce)) continue;
      const std::int64_t all = n * ranks().size();
      const OwnedTensor from = there(input(dtype, all, ranks().rank(), seed));
      const OwnedTensor to(dtype, {n}, ranks().device());
      ranks().reduce_scatter(from, to, reduce);
      const std::vector<double> expected = reduced(dtype, all, reduce, seed);
      expect_numbers(expected, n * ranks().rank(), here(to), name_of(dtype, n, reduce));
      const Tensor mine = from.view().elements(n * ranks().rank(), n * (ranks().rank() + 1));
      ranks().reduce_scatter(from, mine, reduce);
      expect_numbers(expected, n * ranks().rank(), here(mine), name_of(dtype, n, reduce) + " in place");
    }
  });
}

TEST(Collectives, AllGather) {
  for_each_case([](DType dtype, std::int64_t n, std::uint32_t seed) {
    const OwnedTensor mine = there(input(dtype, n, ranks().rank(), seed));
    const OwnedTensor whole(dtype, {n * ranks().size()}, ranks().device());
    const OwnedTensor in_place(dtype, {n * ranks().size()}, ranks().device());
    const Tensor piece = in_place.view().elements(n * ranks().rank(), n * (ranks().rank() + 1));
    if (n > 0) copy(mine, piece);
    ranks().all_gather(mine, whole);
    ranks().all_gather(piece, in_place);
    std::vector<double> expected;
    for (int r = 0; r < ranks().size(); ++r) {
      const OwnedTensor x = input(dtype, n, r, seed);
      for (std::int64_t i = 0; i < n; ++i) expected.push_back(number(x, i));
    }
    expect_numbers(expected, 0, here(whole), fmt::format("{} {}", n, dtype_name(dtype)));
    expect_numbers(expected, 0, here(in_place), fmt::format("{} {} in place", n, dtype_name(dtype)));
  });
}

TEST(Collectives, AllToAll) {
  for_each_case([](DType dtype, std::int64_t n, std::uint32_t seed) {
    const std::int64_t all = n * ranks().size();
    const OwnedTensor from = there(input(dtype, all, ranks().rank(), seed));
    const OwnedTensor to(dtype, {all}, ranks().device());
    ranks().all_to_all(from, to);
    std::vector<double> expected;
    for (int r = 0; r < ranks().size(); ++r) {
      const OwnedTensor theirs = input(dtype, all, r, seed);
      for (std::int64_t i = 0; i < n; ++i) expected.push_back(number(theirs, n * ranks().rank() + i));
    }
    expect_numbers(expected, 0, here(to), fmt::format("{} {}", n, dtype_name(dtype)));
  });
}

TEST(Collectives, BroadcastFromEveryRoot) {
  for (int root = 0; root < ranks().size(); ++root) {
    for_each_case([&](DType dtype, std::int64_t n, std::uint32_t seed) {
      const OwnedTensor x = there(input(dtype, n, ranks().rank(), seed));
      ranks().broadcast(x, root);
      const OwnedTensor sent = input(dtype, n, root, seed);
      EXPECT_EQ(testing_support::bytes_of(here(x)), testing_support::bytes_of(sent)) << n << " " << dtype_name(dtype);
    });
  }
}

TEST(Collectives, SumsOfAnyValuesAreTheSameBitsOnEveryRank) {
  constexpr std::int64_t kNumel = 50'003;
  const OwnedTensor x =
      there(testing_support::random_tensor(DType::F32, {kNumel}, 3 + static_cast<std::uint32_t>(ranks().rank()), 1e3f));
  ranks().all_reduce(x, Reduce::Sum);
  const OwnedTensor first = there(here(x));
  ranks().broadcast(first, 0);
  EXPECT_EQ(testing_support::bytes_of(here(first)), testing_support::bytes_of(here(x)));
}

TEST(Collectives, SeveralUnderWayAreDoneInOrder) {
  constexpr std::int64_t kNumel = 300'001;
  std::vector<OwnedTensor> tensors;
  std::vector<Pending> pending;
  for (std::uint32_t i = 0; i < 8; ++i) tensors.push_back(there(input(DType::F32, kNumel, ranks().rank(), i)));
  for (const OwnedTensor& x : tensors) pending.push_back(ranks().start_all_reduce(x, Reduce::Sum));
  // The last is waited for first; a second sum of the same tensor follows the first by itself.
  pending.push_back(ranks().start_all_reduce(tensors[0], Reduce::Max));
  for (std::size_t i = pending.size(); i-- > 0;) pending[i].wait();
  for (std::uint32_t i = 0; i < 8; ++i) {
    expect_numbers(reduced(DType::F32, kNumel, Reduce::Sum, i), 0, here(tensors[i]), fmt::format("tensor {}", i));
  }
}

TEST(Collectives, LongTensorsTravelInPieces) {
  constexpr std::int64_t kNumel = (std::int64_t{16} << 20) + 5;
  const auto value = [](std::int64_t i, int rank) { return static_cast<std::uint8_t>(i * 31 + (i >> 16) + rank * 7); };
  OwnedTensor mine(DType::U8, {kNumel});
  for (std::int64_t i = 0; i < kNumel; ++i) mine.view().data<std::uint8_t>()[i] = value(i, ranks().rank());
  const OwnedTensor x = there(mine);
  const OwnedTensor whole(DType::U8, {kNumel * ranks().size()}, ranks().device());
  ranks().all_gather(x, whole);
  const OwnedTensor turned(DType::U8, {kNumel * ranks().size()}, ranks().device());
  ranks().all_to_all(whole, turned);  // all ranks have the same: each receives its own piece from everyone
  ranks().broadcast(x, ranks().size() - 1);
  const OwnedTensor gathered = here(whole);
  const OwnedTensor exchanged = here(turned);
  const OwnedTensor sent = here(x);
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < kNumel; ++i) {
    wrong += sent.view().data<std::uint8_t>()[i] != value(i, ranks().size() - 1);
    for (int r = 0; r < ranks().size(); ++r) {
      wrong += gathered.view().data<std::uint8_t>()[r * kNumel + i] != value(i, r);
      wrong += exchanged.view().data<std::uint8_t>()[r * kNumel + i] != value(i, ranks().rank());
    }
  }
  EXPECT_EQ(wrong, 0) << "rank " << ranks().rank() << " of " << ranks().size();
}

TEST(Collectives, BarrierAndPlacesOnTheHost) {
  ranks().barrier();
  EXPECT_LT(ranks().local_rank(), ranks().local_size());
  EXPECT_LE(ranks().local_size(), ranks().size());
}

TEST(Collectives, WaitingIsCounted) {
  ranks().barrier();
  const double before = ranks().waited();
  if (ranks().rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const OwnedTensor x(DType::F32, {1000}, ranks().device());
  ranks().all_reduce(x, Reduce::Sum);
  ranks().barrier();  // on a GPU waits that are not over do not count
  if (ranks().size() > 1) {
    EXPECT_GT(ranks().waited(), before);
  } else {
    EXPECT_EQ(ranks().waited(), before);
  }
}

}  // namespace
}  // namespace nibble
