// From a model of the Hugging Face tools, or of a GGUF file, to a checkpoint, and back.
#pragma once

#include <filesystem>

#include "nibble/model/hugging_face.h"

namespace nibble {

/// Writes RUN/checkpoints/step-00000000 with the weights of `folder` (model/hugging_face.h) in F32 and the recipe bf16:
/// a checkpoint that every command reads. Its context is `seq` tokens; 0 = that of read_hugging_face_config. Its data
/// folder is `folder`, for the sake of a SentencePiece tokenizer there. UserError for what cannot be read, and for a
/// run that has checkpoints.
void import_hugging_face(const std::filesystem::path& folder, const std::filesystem::path& run, std::int64_t seq);

/// The same for a GGUF file (model/gguf_model.h). Its tokenizer, where it has one, goes into the checkpoint's folder,
/// which becomes the data folder.
void import_gguf(const std::filesystem::path& file, const std::filesystem::path& run, std::int64_t seq);

/// export_hugging_face of a GGUF file with its tokenizer, or of another Hugging Face folder with that folder's.
void convert_to_hugging_face(const std::filesystem::path& from, HuggingFaceExport options,
                             const std::filesystem::path& folder);

/// export_hugging_face of a checkpoint folder, or of the newest checkpoint of a run.
void export_checkpoint(const std::filesystem::path& checkpoint, const HuggingFaceExport& options,
                       const std::filesystem::path& folder);

}  // namespace nibble
