#include "nibble/cli/launcher.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "nibble/cli/settings.h"
#include "nibble/dist/launch.h"
#include "nibble/tensor/error.h"

extern char** environ;

namespace nibble {

namespace {

std::atomic<pid_t> g_child{0};  // a signal handler can reach nothing else
std::atomic<bool> g_stopping{false};
static_assert(std::atomic<pid_t>::is_always_lock_free);

/// mpirun kills its ranks on SIGINT and SIGTERM, but hands SIGUSR1 on, which stops a run as they do.
void hand_on(int) {
  g_stopping = true;
  if (const pid_t child = g_child; child > 0) kill(child, SIGUSR1);
}

std::vector<std::string> command_of(const Launcher& launcher, const std::vector<std::string>& arguments) {
  std::vector<std::string> command;
  if (launcher.ranks > 1) {
    command = {"mpirun", "--bind-to", "none", "-n", std::to_string(launcher.ranks)};
    if (launcher.ranks > static_cast<std::int64_t>(std::thread::hardware_concurrency())) {
      command.emplace_back("--oversubscribe");
    }
    if (geteuid() == 0) command.emplace_back("--allow-run-as-root");
  }
  command.push_back(std::filesystem::read_symlink("/proc/self/exe").string());
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

/// This process's environment, and each rank's share of the cores where that does not say it.
std::vector<std::string> environment_of(const Launcher& launcher) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) all.emplace_back(*entry);
  if (launcher.cpu && launcher.ranks > 1 && std::getenv("OMP_NUM_THREADS") == nullptr) {
    const auto cores = static_cast<std::int64_t>(std::thread::hardware_concurrency());
    all.push_back(fmt::format("OMP_NUM_THREADS={}", std::max<std::int64_t>(1, cores / launcher.ranks)));
  }
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  all.reserve(texts.size() + 1);
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

/// In a process group of its own: what a terminal sends on Ctrl-C reaches this process alone, which hands it on.
pid_t start(std::vector<std::string> command, std::vector<std::string> environment) {
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);  // not the terminal's any more
  pid_t child = 0;
  const int error = posix_spawnp(&child, command[0].c_str(), &actions, &attributes, pointers(command).data(),
                                 pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error == ENOENT && command[0] == "mpirun") {
    user_error("several ranks are started by mpirun, which is not installed here: install Open MPI (openmpi-bin)");
  }
  if (error != 0) user_error("cannot start '{}': {}", command[0], std::strerror(error));
  return child;
}

/// The exit code, as a shell gives it.
int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool is_final(int code) { return code == 0 || code == 2 || code == kStopped || code == kStoppedByAlarm; }

}  // namespace

int launch(const Launcher& launcher, const std::vector<std::string>& arguments, const std::vector<std::string>& again) {
  if (read_launch(Device::Cpu).ranks.size > 1) {
    user_error(
        "this process is one of several ranks already, and --ranks and --restarts are for the one that starts them: "
        "leave mpirun, srun or torchrun away, or these options");
  }
  struct sigaction action {};
  action.sa_handler = hand_on;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  const std::vector<std::string> environment = environment_of(launcher);
  for (std::int64_t restart = 0;; ++restart) {
    g_child = start(command_of(launcher, restart == 0 ? arguments : again), environment);
    if (g_stopping) kill(g_child, SIGUSR1);  // it came between
    const int code = wait_for(g_child);
    g_child = 0;
    if (is_final(code) || g_stopping || restart == launcher.restarts) return code;
    fmt::print(stderr, "nibble: the run ended with code {}; restart {} of {}\n", code, restart + 1, launcher.restarts);
  }
}

}  // namespace nibble
