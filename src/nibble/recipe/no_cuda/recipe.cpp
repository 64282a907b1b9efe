// What a build without CUDA answers.
#include "nibble/recipe/backend.h"
#include "nibble/tensor/no_cuda/refuse.h"

namespace nibble::cuda {

void gather_columns(const Tensor&, const Tensor&, const Tensor&) { refuse(); }
void scatter_columns(const Tensor&, const Tensor&, const Tensor&, Accumulate) { refuse(); }
void zero_columns(const Tensor&, const Tensor&) { refuse(); }
void add_column_squares(const Tensor&, const Tensor&) { refuse(); }
void hiding_factors(const Tensor&, const Tensor&) { refuse(); }
void place_columns(const Tensor&, const Tensor&, std::int64_t) { refuse(); }
void first_columns(const Tensor&, const Tensor&) { refuse(); }
void apply_trust_mask(const Tensor&, const Tensor&) { refuse(); }
void masked_hadamard_inverse(const Tensor&, const Tensor&, const Hadamard&, const RandomStream&, const Tensor&) {
  refuse();
}
ProductQuality compare_products(const Tensor&, const Tensor&, const Tensor&) { refuse(); }
double sum_of_distances(const Tensor&, const Tensor&) { refuse(); }
void update_average(const Tensor&, const Tensor&, double) { refuse(); }
void add_way(const Tensor&, const Tensor&, const Tensor&) { refuse(); }
void reset_by_ratio(const Tensor&, const Tensor&, const Tensor&, const Tensor&, float, const Tensor&) { refuse(); }
void reset_at_edge(const Tensor&, const Tensor&, const Tensor&, float, const Tensor&) { refuse(); }
void copy_flagged_rows(const Tensor&, const Tensor&, const Tensor&) { refuse(); }
void fill_bytes(const Tensor&, std::uint8_t) { refuse(); }

}  // namespace nibble::cuda
