// What `nibble doctor` says about the kernels of this machine.
#include "nibble/tensor/device.h"
#include "tests/cli/program.h"

namespace nibble {
namespace {

bool holds(const Output& out, const std::string& text) { return out.text.find(text) != std::string::npos; }

TEST(Doctor, OnTheCpuNativeProductsAreRefusedWithWhatTheyNeed) {
  const Output out = run("doctor --cpu --recipes bf16");
  EXPECT_EQ(out.code, 0) << out.text;
  EXPECT_TRUE(holds(out, "self-tests  none")) << out.text;
  EXPECT_TRUE(holds(out, "native FP4 products: refused: they need a GPU of compute capability 10.0 or 12.0"))
      << out.text;
}

TEST(Doctor, SaysWhatJoinsRanksAndHowItWasStarted) {
  const Output alone = run("doctor --cpu --recipes bf16");
  EXPECT_TRUE(holds(alone, "\nstarted  alone\n")) << alone.text;
#ifdef NIBBLE_MPIRUN
  EXPECT_TRUE(holds(alone, "\nmpi      Open MPI v")) << alone.text;
#else
  EXPECT_TRUE(holds(alone, "\nmpi      none: ")) << alone.text;
#endif
  EXPECT_TRUE(holds(alone, "\nnccl     NCCL ") || holds(alone, "\nnccl     none: ")) << alone.text;
  const Output rank = run("doctor --cpu --recipes bf16",
                          "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 "
                          "OMPI_COMM_WORLD_LOCAL_SIZE=2");
  EXPECT_EQ(rank.code, 0) << rank.text;
  EXPECT_TRUE(holds(rank, "\nstarted  rank 1 of 4 (1 of 2 on this host), by mpirun\n")) << rank.text;
}

TEST(Doctor, OnAGpuEveryKernelHasALineAndNoneFails) {
  if (cuda_devices() == 0) GTEST_SKIP() << "no GPU here";
  const Output out = run("doctor --recipes bf16");
  EXPECT_EQ(out.code, 0) << out.text;
  for (const char* kernel :
       {"quantise NVFP4 1x16", "product FP4 codes, path fp8", "product BF16 by NVFP4, path bf16", "attention forward",
        "attention backward", "native NVFP4 by cuBLASLt", "native MXFP4 by mma.sync"}) {
    EXPECT_TRUE(holds(out, kernel)) << kernel << "\n" << out.text;
  }
  EXPECT_FALSE(holds(out, " failed ")) << out.text;
}

}  // namespace
}  // namespace nibble
