// A device as data: peak rates, the share of them that large products reach, memory, and a rental price. The files lie
// in devices/ (docs/cost.md says how to add one); `this_cpu` measures the machine it runs on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "nibble/ops/machine.h"

namespace nibble {

/// The arithmetic that a matrix product runs on.
enum class Unit : std::uint8_t {
  Fp4,   ///< FP4 tensor cores with block scales (Blackwell)
  Fp8,   ///< FP8 tensor cores
  Bf16,  ///< BF16 tensor cores or dot products
  Int8,  ///< int8 dot products of a CPU, exact for four-bit codes
  F32,   ///< vector units
};
inline constexpr std::size_t kUnits = 5;
const char* unit_name(Unit unit);  ///< "fp4", ...

/// What one GPU sends over, in each direction.
struct Link {
  double bandwidth = 0;  ///< bytes a second
  double achieved = 1;   ///< of it, by large messages
  double latency = 0;    ///< seconds of a step of a collective
  double rate() const { return bandwidth * achieved; }
};

struct DeviceSpec {
  std::string name;
  std::string title;
  bool is_cpu = false;

  /// Dense rates (no structured sparsity) in operations a second, a multiply-add counting two; 0 = there is no such
  /// unit.
  double peak[kUnits] = {};
  /// What large products reach of the peak.
  double achieved[kUnits] = {};
  double attention_achieved = 0;  ///< by the attention core, of the BF16 peak (on a CPU of the F32 peak)
  double step_achieved = 1;       ///< time that all parts account for, of a step's time: launches, gaps, waiting

  double memory_bytes = 0;
  double bandwidth = 0;           ///< bytes a second
  double bandwidth_achieved = 0;  ///< by elementwise kernels
  double quantise_achieved = 0;   ///< of the bandwidth, by quantisers
  /// Bytes a second at which rows are gathered from cache for a sparse residual's product.
  double gather_bandwidth = 0;

  /// To the GPUs of its node, and to those of others; both without bandwidth where the file says nothing of them.
  Link node_link;
  Link network_link;

  double usd_per_hour = 0;
  std::string price_date;
  /// Table of the file and where its figures come from.
  std::vector<std::pair<std::string, std::string>> sources;

  /// Bytes a second of elementwise kernels.
  double elementwise_bandwidth() const { return bandwidth * bandwidth_achieved; }
  bool has(Unit unit) const { return peak[static_cast<std::size_t>(unit)] > 0; }
  /// Operations a second that a large product reaches; require()s that the device has the unit.
  double rate(Unit unit) const;
  /// Bf16, or F32 where there is none.
  Unit high_precision() const { return has(Unit::Bf16) ? Unit::Bf16 : Unit::F32; }
  double attention_rate() const;
  bool has_links() const { return node_link.bandwidth > 0 && network_link.bandwidth > 0; }
};

/// Throws UserError with file, line and key for anything missing, unknown or out of range.
DeviceSpec load_device(const std::filesystem::path& path);
DeviceSpec parse_device(const std::string& text, const std::string& origin);

/// This machine: rates by register-only loops (ops/machine.h), bandwidth by copying, memory as the system states it;
/// takes about a fifth of a second. It has no price.
DeviceSpec this_cpu();
/// A CPU with these peak rates and this bandwidth, bytes a second of a copy, read and written counted. What it reaches
/// of them is what nibble reaches (docs/results).
DeviceSpec cpu_device(const MachinePeak& peak, double bandwidth, double memory_bytes);

}  // namespace nibble
