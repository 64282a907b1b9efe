#include "nibble/cost/device.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "nibble/io/config_table.h"
#include "nibble/io/file.h"
#include "nibble/tensor/parallel.h"

namespace nibble {

namespace {

constexpr double kTera = 1e12;
constexpr double kGiga = 1e9;
constexpr double kMicro = 1e-6;

std::size_t index(Unit unit) { return static_cast<std::size_t>(unit); }

double positive(const ConfigTable& table, const char* key, double high) {
  if (!table.has(key)) table.fail(key, "is missing");
  return table.number(key, 0, 1e-9, high);
}

/// Bytes a second of a copy by all threads, reads and writes counted: the best of a few.
double copy_bandwidth() {
  constexpr std::int64_t kBytes = 64 << 20;  // beyond the caches of most CPUs
  constexpr std::int64_t kChunk = 1 << 20;
  const std::vector<char> from(kBytes, 1);
  std::vector<char> to(kBytes);
  double best = 0;
  for (int i = 0; i < 4; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    parallel_for(kBytes, kChunk, [&](std::int64_t b, std::int64_t e) {
      std::memcpy(to.data() + b, from.data() + b, static_cast<std::size_t>(e - b));
    });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    best = std::max(best, 2.0 * static_cast<double>(kBytes) / took.count());
  }
  return best;
}

}  // namespace

const char* unit_name(Unit unit) {
  constexpr const char* kNames[] = {"fp4", "fp8", "bf16", "int8", "f32"};
  return kNames[index(unit)];
}

double DeviceSpec::rate(Unit unit) const {
  require(has(unit), "{} has no {} unit", name, unit_name(unit));
  return peak[index(unit)] * achieved[index(unit)];
}

double DeviceSpec::attention_rate() const { return peak[index(is_cpu ? Unit::F32 : Unit::Bf16)] * attention_achieved; }

DeviceSpec parse_device(const std::string& text, const std::string& origin) {
  const ConfigTable root = ConfigTable::parse_text(text, origin);
  DeviceSpec device;
  device.name = root.text("name");
  device.title = root.text("title", device.name);

  const ConfigTable peak = root.table("peak");
  const ConfigTable achieved = root.table("achieved");
  for (const Unit unit : {Unit::Fp4, Unit::Fp8, Unit::Bf16, Unit::F32}) {
    const bool optional = unit == Unit::Fp4 || unit == Unit::Fp8;
    const double value = optional && !peak.has(unit_name(unit)) ? 0 : positive(peak, unit_name(unit), 1e9);
    device.peak[index(unit)] = value * kTera;
    if (value > 0) device.achieved[index(unit)] = positive(achieved, unit_name(unit), 1);
  }
  device.attention_achieved = positive(achieved, "attention", 1);
  device.step_achieved = positive(achieved, "step", 1);
  device.sources.emplace_back("peak", peak.text("source"));
  device.sources.emplace_back("achieved", achieved.text("source"));
  peak.finish();
  achieved.finish();

  const ConfigTable memory = root.table("memory");
  device.memory_bytes = positive(memory, "size_gb", 1e9) * kGiga;
  device.bandwidth = positive(memory, "bandwidth_gb_s", 1e9) * kGiga;
  device.bandwidth_achieved = positive(memory, "achieved", 1);
  device.quantise_achieved = positive(memory, "quantise_achieved", 1);
  device.gather_bandwidth = positive(memory, "gather_gb_s", 1e9) * kGiga;
  device.sources.emplace_back("memory", memory.text("source"));
  memory.finish();

  if (root.has("links")) {
    const ConfigTable links = root.table("links");
    device.node_link = {positive(links, "node_gb_s", 1e9) * kGiga, positive(links, "node_achieved", 1),
                        positive(links, "node_latency_us", 1e6) * kMicro};
    device.network_link = {positive(links, "network_gbit_s", 1e9) * kGiga / 8, positive(links, "network_achieved", 1),
                           positive(links, "network_latency_us", 1e6) * kMicro};
    device.sources.emplace_back("links", links.text("source"));
    links.finish();
  }

  const ConfigTable price = root.table("price");
  device.usd_per_hour = price.number("usd_per_hour", 0, 0, 1e6);
  device.price_date = price.text("date", "");
  device.sources.emplace_back("price", price.text("source"));
  price.finish();
  root.finish();
  return device;
}

DeviceSpec load_device(const std::filesystem::path& path) { return parse_device(read_file(path), path.string()); }

DeviceSpec cpu_device(const MachinePeak& peak, double bandwidth, double memory_bytes) {
  DeviceSpec device;
  device.name = "cpu";
  device.is_cpu = true;
  device.peak[index(Unit::F32)] = peak.f32;
  device.peak[index(Unit::Bf16)] = peak.bf16;
  device.peak[index(Unit::Int8)] = peak.int8;
  // Quartet's 30M model on two cores (docs/results): float products reach 80-83 % of the peak, int8 products with
  // decoding and epilogue 68 %, attention 70-75 % of the FP32 peak, quantisers 40 % of a copy's rate, gathered rows
  // twice that rate.
  device.achieved[index(Unit::F32)] = 0.8;
  device.achieved[index(Unit::Bf16)] = 0.8;
  device.achieved[index(Unit::Int8)] = 0.68;
  device.attention_achieved = 0.7;
  device.memory_bytes = memory_bytes;
  device.bandwidth = bandwidth;
  device.bandwidth_achieved = 1;
  device.quantise_achieved = 0.4;
  device.gather_bandwidth = 2 * bandwidth;
  device.sources = {{"peak", "register-only loops"},
                    {"achieved", "docs/results: nibble's own products on an AMD EPYC with two cores"},
                    {"memory", "bandwidth by a copy; shares as in docs/results"},
                    {"price", "none"}};
  return device;
}

DeviceSpec this_cpu() {
  const double bytes = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  DeviceSpec device = cpu_device(machine_peak(), copy_bandwidth(), bytes);
  device.title = cpu_name();
  return device;
}

}  // namespace nibble
