#include "nibble/model/gguf_export.h"

#include <algorithm>
#include <cstring>

#include "nibble/io/ggml_pack.h"
#include "nibble/model/gguf_layout.h"
#include "nibble/model/gguf_model.h"
#include "nibble/model/hugging_face.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

/// llama.cpp's number for "most tensors are of this type" (llama.h, llama_ftype).
std::uint32_t file_type(GgmlType type) {
  switch (type) {
    case GgmlType::F32: return 0;
    case GgmlType::BF16: return 32;
    case GgmlType::MXFP4: return 38;
    case GgmlType::NVFP4: return 39;
    default: throw InternalError(fmt::format("no export as ggml type {}", static_cast<std::uint32_t>(type)));
  }
}

const GgufArchitecture& architecture_of(const LlamaConfig& m) {
  for (const GgufArchitecture& known : gguf_architectures()) {
    if (known.qkv_bias != m.qkv_bias || known.qk_norm != m.qk_norm) continue;
    if (m.rope_scaling.kind == RopeScaling::Kind::Llama3 && !known.rope_factors) {
      user_error("llama.cpp's architecture {} has no RoPE scaling 'llama3', which the model '{}' has", known.name,
                 m.name);
    }
    return known;
  }
  user_error("the model '{}' has both qkv_bias and qk_norm, which no architecture of llama.cpp has", m.name);
}

GgufMetadata metadata_of(const LlamaConfig& m, const GgufArchitecture& architecture, const GgufExport& options) {
  GgufMetadata metadata;
  const auto add = [&](const std::string& key, GgufValue value) { metadata.emplace_back(key, std::move(value)); };
  const auto count = [](std::int64_t n) { return GgufValue(static_cast<std::uint32_t>(n)); };
  const auto number = [](double x) { return GgufValue(static_cast<float>(x)); };
  const std::string prefix = std::string(architecture.name) + ".";
  add(kGgufArchitectureKey, std::string(architecture.name));
  add("general.type", std::string("model"));
  add("general.name", m.name);
  add("general.file_type", file_type(options.type));
  if (ggml_is_fp4(options.type)) add("general.quantization_version", std::uint32_t{2});
  add(prefix + "vocab_size", count(m.vocab));
  add(prefix + "context_length", count(std::max(m.context, m.seq)));
  add(prefix + "embedding_length", count(m.width));
  add(prefix + "block_count", count(m.layers));
  add(prefix + "feed_forward_length", count(m.ffn));
  add(prefix + "attention.head_count", count(m.heads));
  add(prefix + "attention.head_count_kv", count(m.kv_heads));
  add(prefix + "attention.key_length", count(m.head_dim()));
  add(prefix + "attention.value_length", count(m.head_dim()));
  add(prefix + "attention.layer_norm_rms_epsilon", number(m.norm_eps));
  add(prefix + "rope.dimension_count", count(m.head_dim()));
  add(prefix + "rope.freq_base", number(m.rope_theta));
  if (m.rope_scaling.kind == RopeScaling::Kind::Linear) {
    add(prefix + "rope.scaling.type", std::string("linear"));
    add(prefix + "rope.scaling.factor", number(m.rope_scaling.factor));
  } else if (m.rope_scaling.kind == RopeScaling::Kind::Llama3) {
    add(prefix + "rope.scaling.original_context_length", count(m.rope_scaling.original_seq));
  }
  metadata.insert(metadata.end(), options.tokenizer.begin(), options.tokenizer.end());
  return metadata;
}

/// A tensor of the file and what it comes from.
struct Piece {
  enum class Kind : std::uint8_t { Plain, Fp4, TensorScale, RopeFactors };
  GgufTensorInfo info;
  Kind kind = Kind::Plain;
  const ParameterShape* parameter = nullptr;
  const ServedLinear* linear = nullptr;  // of Fp4 and TensorScale
  std::int64_t first_row = 0;            // of the part in the parameter
  std::int64_t heads = 0;                // whose rows the file interleaves; 0 = none
};

std::vector<Piece> pieces_of(const LlamaConfig& model, const std::vector<ParameterShape>& parameters,
                             const GgufArchitecture& architecture, const GgufExport& options) {
  std::vector<Piece> pieces;
  if (model.rope_scaling.kind == RopeScaling::Kind::Llama3) {
    pieces.push_back({{kGgufRopeFactors, GgmlType::F32, {model.head_dim() / 2}}, Piece::Kind::RopeFactors});
  }
  const GgmlType plain = ggml_is_fp4(options.type) ? GgmlType::BF16 : options.type;
  for (const ParameterShape& parameter : parameters) {
    const ServedLinear* linear = ggml_is_fp4(options.type) ? options.plan.find(parameter.name) : nullptr;
    if (linear != nullptr && linear->kind == ServedLinear::Kind::HighPrecision) linear = nullptr;
    std::int64_t row = 0;
    for (const ParameterPart& part : parameter.parts) {
      const std::vector<std::int64_t> shape = parameter.part_shape(part);
      Piece piece{{gguf_tensor_name(part.hf_name), shape.size() == 1 ? GgmlType::F32 : plain, shape},
                  Piece::Kind::Plain,
                  &parameter,
                  linear,
                  row,
                  0};
      if (architecture.interleaved && part.hf_name.ends_with("q_proj.weight")) piece.heads = model.heads;
      if (architecture.interleaved && part.hf_name.ends_with("k_proj.weight")) piece.heads = model.kv_heads;
      if (linear != nullptr) {
        piece.kind = Piece::Kind::Fp4;
        piece.info.type = options.type;
      }
      pieces.push_back(piece);
      if (linear != nullptr && options.type == GgmlType::NVFP4) {
        pieces.push_back({{gguf_scale_name(piece.info.name), GgmlType::F32, {1}},
                          Piece::Kind::TensorScale,
                          &parameter,
                          linear,
                          row,
                          0});
      }
      row += part.rows;
    }
  }
  return pieces;
}

/// Rows [first, first + count) of a matrix of rows of `row_bytes`, in the file's order.
std::vector<std::byte> rows_of(const void* matrix, std::size_t row_bytes, std::int64_t first, std::int64_t count,
                               std::int64_t heads) {
  std::vector<std::byte> rows(static_cast<std::size_t>(count) * row_bytes);
  const auto* from = static_cast<const std::byte*>(matrix);
  const std::int64_t head_dim = heads == 0 ? count : count / heads;
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t in_head = heads == 0 ? r : r / head_dim * head_dim + deinterleaved_row(r % head_dim, head_dim);
    std::memcpy(rows.data() + static_cast<std::size_t>(r) * row_bytes,
                from + static_cast<std::size_t>(first + in_head) * row_bytes, row_bytes);
  }
  return rows;
}

std::span<const std::uint8_t> codes_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()};
}

/// Makes the bytes of one tensor after the other.
class Packer {
 public:
  Packer(const LlamaConfig& model, const TensorSource& weights, const GgufExport& options)
      : model_(model), source_(weights, options.plan.format) {}

  std::span<const std::byte> pack(const Piece& piece) {
    switch (piece.kind) {
      case Piece::Kind::RopeFactors: {
        const std::vector<float> factors = gguf_rope_factors(model_.rope_theta, model_.head_dim(), model_.rope_scaling);
        bytes_.resize(factors.size() * sizeof(float));
        std::memcpy(bytes_.data(), factors.data(), bytes_.size());
        break;
      }
      case Piece::Kind::TensorScale: {
        const float scale = source_.quantised(*piece.parameter, *piece.linear).tensor_scale;
        bytes_.resize(sizeof(float));
        std::memcpy(bytes_.data(), &scale, sizeof(float));
        break;
      }
      case Piece::Kind::Fp4: pack_fp4(piece); break;
      case Piece::Kind::Plain: pack_plain(piece); break;
    }
    return bytes_;
  }

 private:
  void pack_fp4(const Piece& piece) {
    const ServedWeight& served = source_.quantised(*piece.parameter, *piece.linear);
    const auto rows = [&](const Tensor& all) {
      return rows_of(all.raw(), static_cast<std::size_t>(all.cols()), piece.first_row, piece.info.shape[0],
                     piece.heads);
    };
    const std::vector<std::byte> codes = rows(served.codes), scales = rows(served.scales);
    bytes_.resize(gguf_bytes(piece.info));
    pack_ggml_fp4(piece.info.type, codes_of(codes), codes_of(scales), bytes_);
  }
  void pack_plain(const Piece& piece) {
    const Tensor values = source_.parameter(*piece.parameter);
    const std::int64_t rows = piece.info.shape[0];
    const std::int64_t cols = piece.info.shape.size() == 1 ? 1 : piece.info.shape[1];
    if (piece.info.type == GgmlType::F32) {
      bytes_ =
          rows_of(values.raw(), static_cast<std::size_t>(cols) * sizeof(float), piece.first_row, rows, piece.heads);
      return;
    }
    const OwnedTensor rounded(DType::BF16, {rows, cols});
    convert(values.elements(piece.first_row * cols, (piece.first_row + rows) * cols), rounded);
    bytes_ =
        rows_of(rounded.view().raw(), static_cast<std::size_t>(cols) * dtype_size(DType::BF16), 0, rows, piece.heads);
  }

  const LlamaConfig& model_;
  ServedSource source_;
  std::vector<std::byte> bytes_;
};

}  // namespace

void export_gguf(const LlamaConfig& model, const TensorSource& weights, const GgufExport& options,
                 const fs::path& file) {
  check_weights(model, weights);
  const GgufArchitecture& architecture = architecture_of(model);
  const std::vector<ParameterShape> parameters = parameter_shapes(model);
  const std::vector<Piece> pieces = pieces_of(model, parameters, architecture, options);
  std::vector<GgufTensorInfo> tensors;
  tensors.reserve(pieces.size());
  for (const Piece& piece : pieces) tensors.push_back(piece.info);
  Packer packer(model, weights, options);
  write_gguf(file, metadata_of(model, architecture, options), tensors,
             [&](std::size_t i) { return packer.pack(pieces[i]); });
}

}  // namespace nibble
