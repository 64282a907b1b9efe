// What a build without CUDA answers.
#include "nibble/optim/backend.h"
#include "nibble/tensor/no_cuda/refuse.h"

namespace nibble::cuda {

void adamw_step(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const AdamWStep&) { refuse(); }
void adamw_fp8_measure(const Tensor&, const ScaledTensor&, const ScaledTensor&, const ScaledTensor&, const AdamWStep&,
                       const Tensor&) {
  refuse();
}
void adamw_fp8_store(const Tensor&, const Tensor&, const ScaledTensor&, const ScaledTensor&, const ScaledTensor&,
                     const AdamWStep&, const Tensor&, Arena&) {
  refuse();
}
void scaled_measure(const Tensor&, const Tensor&) { refuse(); }
void scaled_store(const Tensor&, const Tensor&, const ScaledTensor&) { refuse(); }
void scaled_store(const Tensor&, const ScaledTensor&) { refuse(); }
void scaled_load(const ScaledTensor&, const Tensor&) { refuse(); }

}  // namespace nibble::cuda
