// The names of the hosts that the ranks of a job are on, for sentences about ranks.
#pragma once

#include <string>
#include <vector>

#include "nibble/dist/communicator.h"

namespace nibble {

/// What each rank's host calls itself, cut to 63 bytes, in the order of ranks, on every rank; one small all_gather.
std::vector<std::string> hosts_of(Communicator& communicator);

}  // namespace nibble
