// Models in four bits as the compressed-tensors package keeps them and vLLM serves them: the folder of
// model/hugging_face.h, in which the weights of the blocks' linear layers are
//
//   NAME.weight_packed        U8 [N, K / 2]          column 2 j in the low nibble of byte j, 2 j + 1 in the high one
//   NAME.weight_scale         F8_E4M3 [N, K / 16]    NVFP4; value = E2M1(code) * weight_scale / weight_global_scale
//                             U8 [N, K / 32]         MXFP4: E8M0; value = E2M1(code) * 2^(weight_scale - 127)
//   NAME.weight_global_scale  F32 [1]                NVFP4 only: the inverse of nibble's tensor scale
//
// and config.json has the object quantization_config: format nvfp4-pack-quantized or mxfp4-pack-quantized, one group
// with the target Linear, and in `ignore` what stays unquantised. Query, key and value have one global scale, and so
// have gate and up: servers keep them in one matrix.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "nibble/model/hugging_face.h"
#include "nibble/model/serving_weights.h"

namespace nibble {

struct CompressedTensorsExport {
  ServingPlan plan;
  /// The server quantises what enters the layers, too: MXFP4 by MXFP4. Not with NVFP4, whose servers want a scale of
  /// the inputs from calibration.
  bool quantised_inputs = false;
  /// Of the folder; the dtype is that of the unquantised weights.
  HuggingFaceExport folder;
};

/// quantization_config of config.json.
nlohmann::ordered_json compressed_tensors_config(const ServingPlan& plan, bool quantised_inputs);

/// Writes `folder`, all or nothing, as export_hugging_face does, whose errors it has.
void export_compressed_tensors(const LlamaConfig& model, const TensorSource& weights,
                               const CompressedTensorsExport& options, const std::filesystem::path& folder);

}  // namespace nibble
