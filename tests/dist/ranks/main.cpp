#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "nibble/dist/launch.h"
#include "tests/dist/ranks/ranks.h"

namespace {
nibble::Communicator* g_ranks = nullptr;
}

nibble::Communicator& nibble::testing_support::ranks() { return *g_ranks; }

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const char* device = std::getenv("NIBBLE_TEST_DEVICE");
  const bool cuda = device != nullptr && std::string_view(device) == "cuda";
  try {
    const auto world = nibble::world(cuda ? nibble::Device::Cuda : nibble::Device::Cpu);
    if (world->rank() == 0) std::printf("%d ranks, %s\n", world->size(), world->name().c_str());
    g_ranks = world.get();
    // One report is enough, but for failures, which every rank tells.
    if (world->rank() != 0) {
      auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
      delete listeners.Release(listeners.default_result_printer());
      class Failures : public ::testing::EmptyTestEventListener {
        void OnTestPartResult(const ::testing::TestPartResult& result) override {
          if (result.failed()) std::fprintf(stderr, "%s\n", result.message());
        }
      };
      listeners.Append(new Failures);
    }
    return RUN_ALL_TESTS();
  } catch (const nibble::UserError& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
