// Runs a check under every instruction set that this CPU and this build have for the kernels written with Highway.
#pragma once

#include <gtest/gtest.h>
#include <hwy/highway.h>

namespace nibble {

template <class F>
void for_each_target(F&& check) {
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    check();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace nibble
