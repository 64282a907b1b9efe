#include "nibble/ops/embedding.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

// Mostly small numbers, as in text: many repeats.
std::vector<std::int32_t> skewed_tokens(std::int64_t count, std::int32_t vocab, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<std::int32_t> tokens;
  for (std::int64_t t = 0; t < count; ++t) {
    tokens.push_back(std::min(vocab - 1, static_cast<std::int32_t>(vocab * std::pow(uniform(random), 4))));
  }
  return tokens;
}

TEST(Embedding, ForwardCopiesTheRowOfEachToken) {
  for (DType dtype : {DType::F32, DType::BF16}) {
    for (std::int64_t d : {1, 7, 64, 129}) {
      const OwnedTensor table = random_tensor(DType::F32, {50, d}, 31);
      const std::vector<std::int32_t> tokens = skewed_tokens(300, 50, 32);
      const OwnedTensor x(dtype, {300, d});
      embedding_forward(tokens_tensor(tokens), table, x);
      dispatch_float(dtype, [&]<class T>(T*) {
        for (std::int64_t t = 0; t < 300; ++t) {
          for (std::int64_t i = 0; i < d; ++i) {
            const float want = table.view().data<float>()[tokens[static_cast<std::size_t>(t)] * d + i];
            ASSERT_EQ(x.view().data<T>()[t * d + i], from_float<T>(want)) << "position " << t << ", column " << i;
          }
        }
      });
    }
  }
}

// Exact equality with the sequential sum in ascending positions also says: for any number of threads.
TEST(Embedding, BackwardAddsTheRowsOfEachTokenInAscendingOrder) {
  for (DType dtype : {DType::F32, DType::BF16}) {
    for (std::int64_t count : {1, 5, 1000}) {
      for (std::int64_t d : {1, 33, 96}) {
        SCOPED_TRACE(fmt::format("{} {} tokens, width {}, seeds 33..35", dtype_name(dtype), count, d));
        const std::vector<std::int32_t> tokens = skewed_tokens(count, 70, 33);
        const OwnedTensor dx = random_tensor(dtype, {count, d}, 34);
        const OwnedTensor want = random_tensor(DType::F32, {70, d}, 35);
        dispatch_float(dtype, [&]<class T>(T*) {
          for (std::int64_t t = 0; t < count; ++t) {
            for (std::int64_t i = 0; i < d; ++i) {
              want.view().data<float>()[tokens[static_cast<std::size_t>(t)] * d + i] +=
                  to_float(dx.view().data<T>()[t * d + i]);
            }
          }
        });
        for (int threads : {1, 2, 5}) {
          const ThreadCount scope(threads);
          const OwnedTensor dtable = random_tensor(DType::F32, {70, d}, 35);
          Arena scratch;
          embedding_backward(tokens_tensor(tokens), dx, dtable, scratch);
          ASSERT_EQ(bytes_of(dtable), bytes_of(want)) << threads << " threads";
        }
      }
    }
  }
}

TEST(Embedding, ATokenOutsideTheVocabularyIsRefused) {
  const OwnedTensor table = random_tensor(DType::F32, {10, 4}, 36);
  const OwnedTensor x(DType::F32, {2, 4});
  Arena scratch;
  for (std::int32_t bad : {-1, 10}) {
    EXPECT_THROW(embedding_forward(tokens_tensor({3, bad}), table, x), InternalError);
    EXPECT_THROW(embedding_backward(tokens_tensor({3, bad}), x, table, scratch), InternalError);
  }
}

TEST(Embedding, NoTokensIsNoWork) {
  const OwnedTensor table = random_tensor(DType::F32, {10, 4}, 37);
  const std::vector<unsigned char> before = bytes_of(table);
  const OwnedTensor none(DType::F32, {0, 4});
  Arena scratch;
  embedding_forward(tokens_tensor({}), table, none);
  embedding_backward(tokens_tensor({}), none, table, scratch);
  EXPECT_EQ(bytes_of(table), before);
}

}  // namespace
}  // namespace nibble
