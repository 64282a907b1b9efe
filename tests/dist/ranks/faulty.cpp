// dist_faulty HOW RANK: a job that adds up numbers for a while, until rank RANK does what HOW says. The others never
// print "finished".
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "nibble/dist/launch.h"

namespace {

using namespace nibble;

void work(Communicator& ranks, const std::string& how, int faulty) {
  const OwnedTensor x(DType::F32, {1000});
  for (int step = 0; step < 6; ++step) {
    if (step == 3 && ranks.rank() == faulty) {
      if (how == "throw") user_error("the data of rank {} are gone", ranks.rank());
      if (how == "internal") throw InternalError("a contract was broken");
      if (how == "exit") std::exit(0);
      if (how == "kill") raise(SIGKILL);
      if (how == "stop") raise(SIGSTOP);
      if (how == "sleep") sleep(3600);
      if (how == "slow") sleep(2);
      if (how == "disagree") ranks.barrier();
      if (how == "end") return;
    }
    ranks.all_reduce(x, Reduce::Sum);
  }
  ranks.barrier();
  std::printf("finished\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 3;
  try {
    const auto ranks = world(Device::Cpu);
    on_every_rank(*ranks, [&](Communicator& c) { work(c, argv[1], std::atoi(argv[2])); });
  } catch (const UserError& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
  return 0;
}
