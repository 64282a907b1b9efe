// The ranks of a test program that is started on several (main.cpp). NIBBLE_TEST_DEVICE=cuda puts them on GPUs.
#pragma once

#include "nibble/dist/communicator.h"

namespace nibble::testing_support {

Communicator& ranks();

}  // namespace nibble::testing_support
