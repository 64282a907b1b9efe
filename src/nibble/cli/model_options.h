// The options of every command that opens a trained model (train/stored_model.h).
#pragma once

#include <filesystem>
#include <string>

#include "nibble/cli/arguments.h"
#include "nibble/train/stored_model.h"

namespace nibble {

class ModelOptions {
 public:
  /// --model, --tokenizer, --seq and --device.
  void declare(Arguments& arguments);
  /// --bos, for commands that give the model texts of their own.
  void declare_bos(Arguments& arguments);

  Device device() const { return device_of(device_); }
  /// The model that --model names, which reads as many tokens as --seq says.
  StoredModel open() const;
  /// Whether --seq says it.
  bool has_seq() const { return seq_ > 0; }
  Tokenizer tokenizer(const StoredModel& model) const { return model.tokenizer(tokenizer_); }
  /// Whether texts begin with <s>. UserError where they should and the tokenizer has none.
  bool bos(const StoredModel& model, const Tokenizer& tokenizer) const;

 private:
  std::filesystem::path model_, tokenizer_;
  std::int64_t seq_ = 0;
  std::string device_ = "cpu";
  std::string bos_ = "auto";
};

}  // namespace nibble
