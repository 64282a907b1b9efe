// Where the time of a step goes: wall-clock seconds by op, for the thread that drives the step.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <utility>

#include "nibble/tensor/device.h"

namespace nibble {

class StepProfile {
 public:
  /// Of a step on this device. A GPU is waited for after each op, or its time would count for a later one.
  explicit StepProfile(Device device = Device::Cpu) : device_(device) {}
  void wait() const { synchronize(device_); }
  void add(const char* op, double seconds) { seconds_[op] += seconds; }
  const std::map<std::string, double>& seconds() const { return seconds_; }
  void clear() { seconds_.clear(); }

 private:
  Device device_;
  std::map<std::string, double> seconds_;
};

/// Calls f(arguments...) and adds the time it took to `profile`, when there is one.
template <class F, class... Arguments>
decltype(auto) timed(StepProfile* profile, const char* op, F&& f, Arguments&&... arguments) {
  struct Stop {
    StepProfile* profile;
    const char* op;
    std::chrono::steady_clock::time_point start;
    ~Stop() {
      if (profile == nullptr) return;
      profile->wait();
      profile->add(op, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
  } stop{profile, op, profile == nullptr ? std::chrono::steady_clock::time_point{} : std::chrono::steady_clock::now()};
  return std::forward<F>(f)(std::forward<Arguments>(arguments)...);
}

}  // namespace nibble
