// Gradients of neighbouring parameters on their way to being sums over ranks, in the format that travels.
//
//   as stored    all_reduce of the flat ranges, F32 or BF16
//   BF16         all_reduce of a copy rounded to BF16, whose sums come back to F32
//   FP8          matrices by ops/gradient_codes.h, one scale a tensor; vectors as stored:
//                  1  all_reduce Max of the amaxes
//                  2  all_to_all of codes: each rank has all ranks' codes of its piece, and adds them in F32
//                  3  all_gather of the sums' codes
//
//                                   FP8          BF16         F32
//   sent by a rank, bytes/element   2 (R-1)/R    4 (R-1)/R    8 (R-1)/R
//
// FP8 has steps that wait for each other. `advance` takes a bucket from one to the next, so that the buckets behind it
// are computed meanwhile and nobody waits for a message that has just been sent.
#pragma once

#include <memory>
#include <vector>

#include "nibble/dist/communicator.h"
#include "nibble/model/llama.h"
#include "nibble/train/exchange_format.h"
#include "nibble/train/gradient_scaling.h"

namespace nibble {

/// Which of a rank's passes of a step it is whose gradients set out.
struct BucketPass {
  bool first = true;
  bool last = true;
};

class GradientBucket {
 public:
  virtual ~GradientBucket() = default;
  /// The gradients of a pass are written: they set out. Returns at once.
  virtual void start(BucketPass pass) = 0;
  /// The next step, where there is one and the last one's messages have come; waits for them. After the first call
  /// pieces (train/piece_bucket.h) no longer read the whole gradients.
  virtual void advance() {}
  /// The gradients are sums over ranks, after the last pass.
  virtual void finish() = 0;
  virtual std::size_t bytes() const { return 0; }
};

/// What all FP8 buckets of an exchange share.
struct Fp8Sums {
  OwnedTensor saturated;  ///< I32 [1]: how many sums of the pieces that this rank adds up were held to 448
  GradientScaling scaling;
};

/// Of parameters [first, last), in a step's only exchange; communicator, model and `fp8` outlive the bucket.
std::unique_ptr<GradientBucket> make_gradient_bucket(ExchangeFormat format, Communicator& communicator, Llama& model,
                                                     std::size_t first, std::size_t last, const Fp8Sums& fp8);

}  // namespace nibble
