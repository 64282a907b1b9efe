#include "nibble/model/compressed_tensors.h"

#include <cstring>
#include <deque>
#include <nlohmann/json.hpp>

#include "nibble/model/hugging_face_json.h"
#include "nibble/model/parameter_shapes.h"

namespace nibble {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {

constexpr std::string_view kWeight = ".weight";

/// "model.layers.0.mlp.down_proj" of "model.layers.0.mlp.down_proj.weight".
std::string module_of(const std::string& weight) { return weight.substr(0, weight.size() - kWeight.size()); }

/// A tensor of the folder: a part of a parameter, or one of the three that stand for a quantised part.
struct Piece {
  enum class Kind : std::uint8_t { Plain, Packed, Scale, GlobalScale };
  Kind kind = Kind::Plain;
  const ParameterShape* parameter = nullptr;
  const ServedLinear* linear = nullptr;  // of quantised pieces
  std::size_t part = 0;
  std::int64_t first_row = 0;  // of the part in the parameter
};

std::string piece_name(const Piece& piece) {
  const std::string& name = piece.parameter->parts[piece.part].hf_name;
  switch (piece.kind) {
    case Piece::Kind::Plain: return name;
    case Piece::Kind::Packed: return module_of(name) + ".weight_packed";
    case Piece::Kind::Scale: return module_of(name) + ".weight_scale";
    case Piece::Kind::GlobalScale: return module_of(name) + ".weight_global_scale";
  }
  return name;
}

std::uint64_t piece_bytes(const Piece& piece, const ServingPlan& plan, DType dtype) {
  const ParameterPart& part = piece.parameter->parts[piece.part];
  std::uint64_t elements = 1;
  for (const std::int64_t dim : piece.parameter->part_shape(part)) elements *= static_cast<std::uint64_t>(dim);
  switch (piece.kind) {
    case Piece::Kind::Plain: return elements * dtype_size(dtype);
    case Piece::Kind::Packed: return elements / 2;
    case Piece::Kind::Scale: return elements / static_cast<std::uint64_t>(serving_block(plan.format));
    case Piece::Kind::GlobalScale: return sizeof(float);
  }
  return 0;
}

std::vector<Piece> pieces_of(const std::vector<ParameterShape>& parameters, const ServingPlan& plan) {
  std::vector<Piece> pieces;
  for (const ParameterShape& parameter : parameters) {
    const ServedLinear* linear = plan.find(parameter.name);
    const bool quantised = linear != nullptr && linear->kind != ServedLinear::Kind::HighPrecision;
    std::int64_t row = 0;
    for (std::size_t p = 0; p < parameter.parts.size(); ++p) {
      const auto add = [&](Piece::Kind kind) {
        pieces.push_back({kind, &parameter, quantised ? linear : nullptr, p, row});
      };
      if (quantised) {
        add(Piece::Kind::Packed);
        add(Piece::Kind::Scale);
        if (plan.format == ServingFormat::Nvfp4) add(Piece::Kind::GlobalScale);
      } else {
        add(Piece::Kind::Plain);
      }
      row += parameter.parts[p].rows;
    }
  }
  return pieces;
}

/// The piece as an entry; `kept` holds its memory.
SafetensorsEntry piece_entry(const Piece& piece, ServedSource& source, ServingFormat format, DType dtype,
                             std::deque<OwnedTensor>& kept) {
  const ParameterPart& part = piece.parameter->parts[piece.part];
  const std::string name = piece_name(piece);
  if (piece.kind == Piece::Kind::Plain) {
    kept.emplace_back(dtype, piece.parameter->part_shape(part));
    const Tensor& values = source.parameter(*piece.parameter);
    const std::int64_t row = values.numel() / piece.parameter->shape[0];
    convert(values.elements(piece.first_row * row, (piece.first_row + part.rows) * row), kept.back());
    return safetensors_entry(name, kept.back());
  }
  const ServedWeight& served = source.quantised(*piece.parameter, *piece.linear);
  if (piece.kind == Piece::Kind::GlobalScale) {
    kept.emplace_back(DType::F32, std::initializer_list<std::int64_t>{1});
    kept.back().view().data<float>()[0] = 1.0f / served.tensor_scale;
    return safetensors_entry(name, kept.back());
  }
  const Tensor& all = piece.kind == Piece::Kind::Packed ? served.codes.view() : served.scales.view();
  const Tensor rows = all.row_range(piece.first_row, piece.first_row + part.rows);
  kept.emplace_back(DType::U8, std::initializer_list<std::int64_t>{rows.rows(), rows.cols()});
  std::memcpy(kept.back().view().raw(), rows.raw(), rows.bytes());
  SafetensorsEntry entry = safetensors_entry(name, kept.back());
  if (piece.kind == Piece::Kind::Scale && format == ServingFormat::Nvfp4) entry.dtype = "F8_E4M3";
  return entry;
}

ordered_json quantisation_args(ServingFormat format, bool inputs) {
  const bool nvfp4 = format == ServingFormat::Nvfp4;
  return {{"num_bits", 4},
          {"type", "float"},
          {"symmetric", true},
          {"group_size", serving_block(format)},
          {"strategy", nvfp4 ? "tensor_group" : "group"},
          {"dynamic", inputs},
          {"scale_dtype", nvfp4 ? "torch.float8_e4m3fn" : "torch.uint8"}};
}

}  // namespace

ordered_json compressed_tensors_config(const ServingPlan& plan, bool quantised_inputs) {
  const std::string format = fmt::format("{}-pack-quantized", serving_format_name(plan.format));
  ordered_json group = {{"targets", ordered_json::array({"Linear"})},
                        {"weights", quantisation_args(plan.format, false)},
                        {"input_activations", nullptr},
                        {"output_activations", nullptr},
                        {"format", format}};
  if (quantised_inputs) group["input_activations"] = quantisation_args(plan.format, true);
  return {{"quant_method", "compressed-tensors"}, {"format", format},
          {"quantization_status", "compressed"},  {"global_compression_ratio", nullptr},
          {"kv_cache_scheme", nullptr},           {"ignore", ordered_json::array({"lm_head"})},
          {"config_groups", {{"group_0", group}}}};
}

void export_compressed_tensors(const LlamaConfig& model, const TensorSource& weights,
                               const CompressedTensorsExport& options, const fs::path& folder) {
  const ServingPlan& plan = options.plan;
  if (options.quantised_inputs && plan.format == ServingFormat::Nvfp4) {
    user_error("NVFP4 inputs need scales from calibration, which nibble does not do; export weights alone, or mxfp4");
  }
  check_weights(model, weights);
  ordered_json quantisation = compressed_tensors_config(plan, options.quantised_inputs);
  const std::vector<ParameterShape> parameters = parameter_shapes(model);
  for (const ParameterShape& parameter : parameters) {
    const ServedLinear* linear = plan.find(parameter.name);
    if (linear == nullptr || linear->kind != ServedLinear::Kind::HighPrecision) continue;
    for (const ParameterPart& part : parameter.parts) quantisation["ignore"].push_back(module_of(part.hf_name));
  }

  const DType dtype = options.folder.dtype;
  const std::vector<Piece> pieces = pieces_of(parameters, plan);
  std::vector<TensorToWrite> tensors;
  tensors.reserve(pieces.size());
  for (const Piece& piece : pieces) tensors.push_back({piece_name(piece), piece_bytes(piece, plan, dtype)});
  ServedSource source(weights, plan.format);
  std::deque<OwnedTensor> kept;  // of one file
  const auto load = [&](std::size_t begin, std::size_t end) {
    kept.clear();
    std::vector<SafetensorsEntry> entries;
    for (std::size_t i = begin; i < end; ++i)
      entries.push_back(piece_entry(pieces[i], source, plan.format, dtype, kept));
    return entries;
  };
  write_hugging_face_folder(model, options.folder, weights.path().string(), {{"quantization_config", quantisation}},
                            tensors, load, folder);
}

}  // namespace nibble
