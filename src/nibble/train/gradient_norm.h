// The sum of squares of all gradients, in an order that neither the number of ranks changes nor what they share.
//
//   |-- embedding: 16 rows | 16 rows | ... --|-- a vector --|-- layers.0.attention.qkv: 16 rows | ... --| ...
//
// Each of these is added up in double by whoever has it, then all of them one after the other.
#pragma once

#include "nibble/dist/communicator.h"
#include "nibble/model/llama.h"

namespace nibble {

/// Of a model whose gradients are sums over ranks; the same number on every rank.
double squares_of_gradients(Communicator& ranks, Llama& model);

}  // namespace nibble
