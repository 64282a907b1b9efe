// Weights that are stored in half on the GPU: the bits of F32 storage there.
#include "tests/cuda_testing.h"
#include "tests/train/storage_trace.h"

namespace nibble {
namespace {

class CudaStorageOf : public testing_support::ShippedRecipe {};
TEST_P(CudaStorageOf, WeightsInHalfAreTheWeightsInF32) {
  NIBBLE_NEEDS_GPU();
  testing_support::expect_bits_of_f32_storage(recipe_, Device::Cuda);
}
INSTANTIATE_TEST_SUITE_P(Recipes, CudaStorageOf, testing::ValuesIn(testing_support::shipped_recipes()),
                         testing_support::recipe_test_name);

}  // namespace
}  // namespace nibble
