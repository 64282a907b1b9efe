#include "nibble/ops/self_test.h"

namespace nibble::cuda {

std::vector<SelfTest> native_self_tests() { return {}; }

}  // namespace nibble::cuda
