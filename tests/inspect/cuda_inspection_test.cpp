// An inspection on the GPU against one on the CPU.
#include "nibble/inspect/inspection.h"
#include "tests/cuda_testing.h"
#include "tests/inspect/small_checkpoint.h"

namespace nibble {
namespace {

TEST(CudaInspection, FindsWhatTheCpuFinds) {
  NIBBLE_NEEDS_GPU();
  const TemporaryDirectory folder;
  const TrainConfig config = inspected_config(folder.path() / "data", 96);
  const StoredModel model = StoredModel::open(write_checkpoint(folder.path() / "run", config));
  const std::vector<Recipe> recipes = {recipe_for_test("fp4-direct"), recipe_for_test("wang2025")};
  const std::vector<std::int32_t> ids = random_ids(config.model, 2);
  const Inspection cpu = inspect_model(model, recipes, ids);
  const Inspection gpu = inspect_model(model, recipes, ids, Device::Cuda);
  EXPECT_NEAR(gpu.loss, cpu.loss, 1e-3);
  ASSERT_EQ(gpu.recipes.size(), cpu.recipes.size());
  for (std::size_t r = 0; r < cpu.recipes.size(); ++r) {
    EXPECT_NEAR(gpu.recipes[r].loss, cpu.recipes[r].loss, 1e-2);
    ASSERT_EQ(gpu.recipes[r].telemetry.layers.size(), cpu.recipes[r].telemetry.layers.size());
    for (std::size_t l = 0; l < cpu.recipes[r].telemetry.layers.size(); ++l) {
      for (std::size_t p = 0; p < 3; ++p) {
        const double error = relative_error(cpu.recipes[r].telemetry.layers[l].products[p]);
        EXPECT_NEAR(relative_error(gpu.recipes[r].telemetry.layers[l].products[p]), error, 0.05 * error + 2e-3)
            << "a few codes differ";
      }
    }
    EXPECT_EQ(gpu.recipes[r].quantised, cpu.recipes[r].quantised);
    EXPECT_EQ(gpu.recipes[r].histograms.size(), cpu.recipes[r].histograms.size());
  }
}

}  // namespace
}  // namespace nibble
