// The physical limit of float arithmetic on this machine.
#pragma once

namespace nibble::bench {

/// Floating-point operations a second of one thread that does nothing but independent fused multiply-adds (two
/// operations each) on registers, with the widest vectors the machine has. Best of several short runs, measured anew
/// at each call: the clock varies.
double fma_peak();

}  // namespace nibble::bench
