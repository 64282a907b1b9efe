#include "nibble/train/checkpoint_writer.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "nibble/dist/gather.h"
#include "nibble/io/checksum.h"
#include "nibble/io/json.h"
#include "nibble/io/safetensors_folder.h"
#include "nibble/train/checkpoint_state.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

template <class T>
bool is_done(const std::future<T>& future) {
  return future.valid() && future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

/// The same on every rank of a job, another one for another job or step.
std::string identity(const TrainState& state) {
  Xxh3Stream stream;
  for (const std::string& text :
       {state.config, state.recipe, state.data_fingerprint, fmt::format("{} {}", state.step, state.tokens)}) {
    stream.update(std::as_bytes(std::span(text)));
    stream.update(std::as_bytes(std::span("", 1)));
  }
  return hex64(stream.digest());
}

/// Rank 0 makes the folder a checkpoint and removes what is older than the newest `keep`.
void complete_folder(const fs::path& run, AtomicDirectory& directory, const TrainState& state,
                     const Checksums& checksums, int ranks, std::int64_t keep) {
  write_json_atomic(directory.path() / kStateFile, state_json(state, checksums, ranks));
  directory.commit();
  const std::vector<fs::path> all = list_checkpoints(run);
  for (auto i = static_cast<std::size_t>(keep); i < all.size(); ++i) {
    std::error_code ignored;
    fs::remove_all(all[i], ignored);
  }
}

}  // namespace

CheckpointWriter::CheckpointWriter(Communicator& ranks, fs::path run, Device device, std::int64_t keep,
                                   bool asynchronous)
    : ranks_(ranks),
      run_(std::move(run)),
      keep_(keep),
      asynchronous_(asynchronous),
      snapshot_(ranks.ranks(), device, asynchronous) {}

CheckpointWriter::~CheckpointWriter() {
  if (ranks_.size() > 1 || !under_way_) return;
  try {
    finish();
  } catch (const std::exception&) {  // the run ends with another exception already
  }
}

void CheckpointWriter::save(const TrainState& state, Llama& model, const Optimizer& optimizer) {
  finish();
  state_ = state;
  if (ranks_.rank() == 0) {
    directory_ = std::make_unique<AtomicDirectory>(checkpoint_of(run_, state.step), Existing::Replace);
  }
  const fs::path folder = agree_on_folder(directory_ == nullptr ? fs::path() : directory_->path());
  snapshot_.take(model, optimizer);
  under_way_ = true;
  writing_ = std::async(asynchronous_ ? std::launch::async : std::launch::deferred,
                        [this, folder, part_of = identity(state)] { return write_parts(folder, part_of); });
  if (asynchronous_) return;
  finish();
  snapshot_.release();
}

bool CheckpointWriter::part_written() {
  if (is_done(completing_)) completing_.get();
  if (is_done(writing_)) written_ = writing_.get();
  return written_.has_value();
}

void CheckpointWriter::complete() {
  std::vector<std::uint64_t> mine;
  for (const auto& [stem, sum] : *written_) mine.push_back(sum);
  const std::vector<std::uint64_t> all = gather_values<std::uint64_t>(ranks_, mine);
  Checksums checksums;
  auto of_part = all.begin();
  for (int rank = 0; rank < ranks_.size(); ++rank) {
    for (const auto& [stem, sum] : *written_) {
      checksums[safetensors_part_name(stem, rank, ranks_.size())] = hex64(*of_part++);
    }
  }
  written_.reset();
  if (ranks_.rank() != 0) return;
  completing_ =
      std::async(asynchronous_ ? std::launch::async : std::launch::deferred, [this, checksums = std::move(checksums)] {
        const std::unique_ptr<AtomicDirectory> directory = std::move(directory_);
        complete_folder(run_, *directory, state_, checksums, ranks_.size(), keep_);
      });
}

void CheckpointWriter::finish() {
  if (!under_way_) return;
  if (writing_.valid()) written_ = writing_.get();
  if (written_) complete();
  if (completing_.valid()) completing_.get();
  ranks_.barrier();  // nobody ends, or looks for it, before it is there
  under_way_ = false;
}

std::vector<CheckpointWriter::Sum> CheckpointWriter::write_parts(const fs::path& folder, const std::string& part_of) {
  if (ranks_.rank() == 0) remove_leftovers(checkpoints_of(run_));
  std::vector<Sum> sums;
  for (const StateSnapshot::File& file : snapshot_.files()) {
    SafetensorsMetadata metadata;
    if (file.stem == kWeightsStem) metadata["format"] = "pt";
    const fs::path path = folder / safetensors_part_name(file.stem, ranks_.rank(), ranks_.size());
    if (ranks_.size() > 1) {
      sums.emplace_back(file.stem, write_safetensors_part(path, file.tensors, part_of, std::move(metadata)));
      continue;
    }
    std::vector<SafetensorsEntry> entries;
    for (const SafetensorsRows& tensor : file.tensors) entries.push_back(tensor.rows);
    sums.emplace_back(file.stem, write_safetensors(path, std::move(entries), metadata));
  }
  return sums;
}

fs::path CheckpointWriter::agree_on_folder(const fs::path& of_rank_0) {
  if (ranks_.size() == 1) return of_rank_0;
  using Name = std::array<char, 256>;  // as long as file systems take
  Name mine{};
  const std::string name = of_rank_0.filename().string();
  require(name.size() < mine.size(), "the folder '{}' has a long name", name);
  std::ranges::copy(name, mine.begin());
  return checkpoints_of(run_) / gather_value(ranks_, mine).front().data();
}

void save_checkpoint(const fs::path& run, const TrainState& state, Llama& model, const Optimizer& optimizer,
                     std::int64_t keep) {
  const auto alone = make_single_process(model.device());
  CheckpointWriter(*alone, run, model.device(), keep, false).save(state, model, optimizer);
}

}  // namespace nibble
