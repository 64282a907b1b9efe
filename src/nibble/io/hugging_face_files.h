// Names of the files beside a model's weights in a folder of the Hugging Face tools. The weights' own stand in
// io/safetensors_folder.h.
#pragma once

namespace nibble {

inline constexpr const char* kTokenizerJsonFile = "tokenizer.json";           ///< all of a tokenizer but its two ends
inline constexpr const char* kSentencePieceFile = "tokenizer.model";          ///< or a SentencePiece model
inline constexpr const char* kTokenizerConfigFile = "tokenizer_config.json";  ///< which tokens begin and end a text
inline constexpr const char* kChatTemplateFile = "chat_template.jinja";
inline constexpr const char* kGenerationConfigFile = "generation_config.json";

}  // namespace nibble
