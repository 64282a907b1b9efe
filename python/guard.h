// A call of the library that runs without the GIL, calls back into Python, and can be stopped from there: by Ctrl-C,
// or by an exception in a callback. Both ask the library to stop, which saves what it has; what was raised goes on when
// it has returned.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <optional>
#include <string>

namespace nibble::python {

class Guard {
 public:
  const std::atomic<bool>& stop() const { return stop_; }

  /// Runs f under the GIL and looks for a signal. Once something was raised, nothing is called any more.
  template <class F>
  void call(F&& f) {
    const nanobind::gil_scoped_acquire gil;
    if (raised_) return;
    try {
      f();
      if (PyErr_CheckSignals() != 0) throw nanobind::python_error();
    } catch (nanobind::python_error& e) {
      raised_.emplace(std::move(e));
      stop_ = true;
    }
  }

  /// Under the GIL, when the library has returned: raises what was kept, with a note that says how to go on.
  void raise_kept(const std::string& note);

 private:
  std::atomic<bool> stop_{false};
  std::optional<nanobind::python_error> raised_;
};

}  // namespace nibble::python
