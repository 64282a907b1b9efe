// What the backward computes again on the GPU gives the bits that it would have kept.
#include "tests/cuda_testing.h"
#include "tests/model/recompute_trace.h"

namespace nibble {
namespace {

class CudaRecomputeOf : public testing_support::ShippedRecipe {};
TEST_P(CudaRecomputeOf, GivesTheBitsOfWhatIsKept) {
  NIBBLE_NEEDS_GPU();
  testing_support::expect_recomputed_bits(recipe_, Device::Cuda);
}
INSTANTIATE_TEST_SUITE_P(Recipes, CudaRecomputeOf, testing::ValuesIn(testing_support::shipped_recipes()),
                         testing_support::recipe_test_name);

}  // namespace
}  // namespace nibble
