#include "nibble/model/gguf_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string_view>

#include "nibble/io/format.h"
#include "nibble/io/ggml_blocks.h"
#include "nibble/model/gguf_layout.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

/// Keys of an architecture, without its name, that nibble reads or that change nothing it computes.
constexpr std::array<std::string_view, 19> kKnownKeys = {"block_count",
                                                         "context_length",
                                                         "embedding_length",
                                                         "feed_forward_length",
                                                         "vocab_size",
                                                         "attention.head_count",
                                                         "attention.head_count_kv",
                                                         "attention.key_length",
                                                         "attention.value_length",
                                                         "attention.layer_norm_rms_epsilon",
                                                         "attention.sliding_window",
                                                         "rope.freq_base",
                                                         "rope.dimension_count",
                                                         "rope.scaling.type",
                                                         "rope.scaling.factor",
                                                         "rope.scaling.finetuned",
                                                         "rope.scaling.original_context_length",
                                                         "rope.scale_linear",
                                                         "tensor_data_layout"};

/// Names outside the blocks, and within block N behind "blk.N." and "model.layers.N.".
struct NamePair {
  std::string_view gguf, hugging_face;
};
constexpr std::array<NamePair, 3> kNames = {{{kGgufEmbedding, "model.embed_tokens.weight"},
                                             {"output_norm.weight", "model.norm.weight"},
                                             {kGgufHead, "lm_head.weight"}}};
constexpr std::array<NamePair, 14> kBlockNames = {{{"attn_norm.weight", "input_layernorm.weight"},
                                                   {"attn_q.weight", "self_attn.q_proj.weight"},
                                                   {"attn_k.weight", "self_attn.k_proj.weight"},
                                                   {"attn_v.weight", "self_attn.v_proj.weight"},
                                                   {"attn_q.bias", "self_attn.q_proj.bias"},
                                                   {"attn_k.bias", "self_attn.k_proj.bias"},
                                                   {"attn_v.bias", "self_attn.v_proj.bias"},
                                                   {"attn_q_norm.weight", "self_attn.q_norm.weight"},
                                                   {"attn_k_norm.weight", "self_attn.k_norm.weight"},
                                                   {"attn_output.weight", "self_attn.o_proj.weight"},
                                                   {"ffn_norm.weight", "post_attention_layernorm.weight"},
                                                   {"ffn_gate.weight", "mlp.gate_proj.weight"},
                                                   {"ffn_up.weight", "mlp.up_proj.weight"},
                                                   {"ffn_down.weight", "mlp.down_proj.weight"}}};
constexpr std::string_view kBlock = "blk.";
constexpr std::string_view kLayer = "model.layers.";

/// `name` in the other naming, or "".
std::string translated(const std::string& name, std::string_view NamePair::*from, std::string_view NamePair::*to,
                       std::string_view from_block, std::string_view to_block) {
  for (const NamePair& pair : kNames) {
    if (name == pair.*from) return std::string(pair.*to);
  }
  if (!name.starts_with(from_block)) return "";
  const std::size_t dot = name.find('.', from_block.size());
  if (dot == std::string::npos) return "";
  const std::string block = name.substr(from_block.size(), dot - from_block.size());
  for (const NamePair& pair : kBlockNames) {
    if (std::string_view(name).substr(dot + 1) == pair.*from) return fmt::format("{}{}.{}", to_block, block, pair.*to);
  }
  return "";
}

/// The keys of the file's architecture.
class Keys {
 public:
  explicit Keys(const GgufFile& file) : file_(file) {
    const auto name = file.text(kGgufArchitectureKey);
    if (!name) fail("general.architecture is missing");
    std::vector<std::string> supported;
    for (const GgufArchitecture& known : gguf_architectures()) {
      if (*name == known.name) architecture_ = &known;
      supported.emplace_back(known.name);
    }
    if (architecture_ == nullptr) {
      fail("the architecture '{}' is not supported; nibble knows {}", *name, join_names(supported));
    }
    prefix_ = *name + ".";
    for (const auto& [key, value] : file.metadata()) {
      if (!key.starts_with(prefix_)) continue;
      const std::string_view rest = std::string_view(key).substr(prefix_.size());
      if (std::find(kKnownKeys.begin(), kKnownKeys.end(), rest) == kKnownKeys.end()) {
        fail("{} is not supported, so the model would be computed wrongly", key);
      }
    }
  }

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> message, Args&&... args) const {
    user_error("'{}': {}", file_.path().string(), fmt::format(message, std::forward<Args>(args)...));
  }
  const GgufArchitecture& architecture() const { return *architecture_; }
  bool has(const char* key) const { return file_.find(prefix_ + key) != nullptr; }

  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) const {
    const auto value = file_.integer(prefix_ + key);
    if (!value) fail("{}{} is missing", prefix_, key);
    if (*value < low || *value > high) {
      fail("{}{} is {}, must be an integer from {} to {}", prefix_, key, *value, low, high);
    }
    return *value;
  }
  std::int64_t integer_or(const char* key, std::int64_t fallback, std::int64_t low, std::int64_t high) const {
    return has(key) ? integer(key, low, high) : fallback;
  }
  /// Files hold F32: the shortest decimal fraction that becomes the same is what was meant.
  double number_or(const char* key, double fallback, double low, double high) const {
    const auto value = file_.number(prefix_ + key);
    if (!value) return fallback;
    if (!(*value >= low && *value <= high)) {
      fail("{}{} is {}, must be a number from {} to {}", prefix_, key, *value, low, high);
    }
    return std::stod(fmt::format("{}", static_cast<float>(*value)));
  }
  std::string text_or(const char* key, const char* fallback) const {
    return file_.text(prefix_ + key).value_or(fallback);
  }

 private:
  const GgufFile& file_;
  const GgufArchitecture* architecture_ = nullptr;
  std::string prefix_;
};

bool nearly_equal(const std::vector<float>& a, const std::vector<float>& b) {
  return std::ranges::equal(a, b, [](float x, float y) { return std::abs(x - y) <= 1e-5f * std::abs(y); });
}

/// Llama 3's scaling with these divisors. Several lengths may give the same, where few wavelengths lie between; 8192
/// is Llama's.
RopeScaling read_rope_factors(const Keys& keys, const GgufFile& file, const LlamaConfig& m) {
  const OwnedTensor stored(DType::F32, {m.head_dim() / 2});
  read_gguf_floats(file, kGgufRopeFactors, stored);
  const auto* first = stored.view().data<float>();
  const std::vector<float> divisors(first, first + stored.view().numel());
  if (std::all_of(divisors.begin(), divisors.end(), [](float x) { return x == 1; })) return {};
  RopeScaling scaling{.kind = RopeScaling::Kind::Llama3, .low_freq_factor = 1, .high_freq_factor = 4};
  scaling.factor = std::stod(fmt::format("{}", divisors.back()));
  std::vector<std::int64_t> lengths = {8192};
  for (std::int64_t length = 1; length <= 1 << 24; length *= 2) lengths.push_back(length);
  if (keys.has("rope.scaling.original_context_length")) {
    lengths.insert(lengths.begin(), keys.integer("rope.scaling.original_context_length", 1, 1 << 24));
  }
  for (const std::int64_t length : lengths) {
    scaling.original_seq = length;
    if (nearly_equal(gguf_rope_factors(m.rope_theta, m.head_dim(), scaling), divisors)) return scaling;
  }
  keys.fail("{} is not a scaling of RoPE that is supported; nibble knows linear and Llama 3's", kGgufRopeFactors);
}

void read_rope(const Keys& keys, const GgufFile& file, LlamaConfig& m) {
  m.rope_theta = keys.number_or("rope.freq_base", 1e4, 1, 1e9);
  const std::int64_t rotated = keys.integer_or("rope.dimension_count", m.head_dim(), 1, 1 << 16);
  if (rotated != m.head_dim()) {
    keys.fail("{} of {} dimensions of a head are rotated; partial rotary embedding is not supported", rotated,
              m.head_dim());
  }
  const double old_factor = keys.number_or("rope.scale_linear", 1, 1e-6, 1e6);  // in files before rope.scaling
  const std::string type = keys.text_or("rope.scaling.type", old_factor == 1 ? "none" : "linear");
  if (type != "none" && type != "linear") {
    keys.fail("RoPE scaling '{}' is not supported; nibble knows linear and Llama 3's", type);
  }
  if (type == "linear") {
    const double factor = keys.number_or("rope.scaling.factor", old_factor, 1, 1e6);
    if (factor != 1) m.rope_scaling = {.kind = RopeScaling::Kind::Linear, .factor = factor};
  }
  if (!file.contains(kGgufRopeFactors)) return;
  if (m.rope_scaling.kind != RopeScaling::Kind::None)
    keys.fail("RoPE is scaled twice, linearly and by {}", kGgufRopeFactors);
  m.rope_scaling = read_rope_factors(keys, file, m);
}

LlamaConfig read_config(const Keys& keys, const GgufFile& file) {
  const GgufArchitecture& architecture = keys.architecture();
  LlamaConfig m;
  m.name = plain_name(file.path().stem().string());
  m.layers = keys.integer("block_count", 1, 1024);
  m.width = keys.integer("embedding_length", 1, 1 << 16);
  m.heads = keys.integer("attention.head_count", 1, 1024);
  m.kv_heads = keys.integer_or("attention.head_count_kv", m.heads, 1, 1024);
  m.ffn = keys.integer("feed_forward_length", 1, 1 << 18);
  m.own_head_dim = keys.integer_or("attention.key_length", 0, 1, 256);
  if (m.own_head_dim == 0 && m.width % m.heads != 0) keys.fail("the number of heads does not divide the width");
  if (m.own_head_dim * m.heads == m.width) m.own_head_dim = 0;
  if (m.head_dim() % 2 != 0) keys.fail("heads have {} dimensions; RoPE needs an even number", m.head_dim());
  if (m.heads % m.kv_heads != 0) keys.fail("the number of key heads does not divide that of query heads");
  if (const std::int64_t values = keys.integer_or("attention.value_length", m.head_dim(), 1, 1 << 16);
      values != m.head_dim()) {
    keys.fail("values of {} dimensions by keys of {} are not supported", values, m.head_dim());
  }
  m.norm_eps = keys.number_or("attention.layer_norm_rms_epsilon", 1e-5, 0, 1);
  m.qkv_bias = architecture.qkv_bias;
  m.qk_norm = architecture.qk_norm;
  const std::vector<std::int64_t>& table = file.tensor(kGgufEmbedding).shape;
  if (table.size() != 2 || table[0] < 1 || table[0] > 1 << 20) keys.fail("{} is not a table of tokens", kGgufEmbedding);
  m.vocab = table[0];
  m.tied_head = !file.contains(kGgufHead);
  read_rope(keys, file, m);
  m.context = keys.integer("context_length", 1, 1 << 24);
  if (const std::int64_t window = keys.integer_or("attention.sliding_window", 0, 0, 1 << 24); window > 0) {
    m.context = std::min(m.context, window);
  }
  m.seq = std::min(m.context, kLongestDefaultSeq);
  return m;
}

/// Whether the tensor is the factor of another one.
bool is_scale(const GgufFile& file, const std::string& name) {
  constexpr std::string_view kScale = ".scale";
  return name.ends_with(kScale) && file.contains(name.substr(0, name.size() - kScale.size()) + ".weight");
}

/// Whether the file has a factor for a tensor.
bool has_scale(const GgufFile& file, const std::string& stored) {
  const std::string name = gguf_scale_name(stored);
  return !name.empty() && file.contains(name);
}

/// Multiplies by the factor that the file has for a tensor, if it has one.
void apply_scale(const GgufFile& file, const std::string& stored, const Tensor& values) {
  if (!has_scale(file, stored)) return;
  const OwnedTensor scale(DType::F32, {1});
  read_gguf_floats(file, gguf_scale_name(stored), scale);
  const float factor = scale.view().data<float>()[0];
  float* v = values.data<float>();
  for (std::int64_t i = 0; i < values.numel(); ++i) v[i] *= factor;
}

}  // namespace

std::string gguf_scale_name(const std::string& weight) {
  constexpr std::string_view kWeight = ".weight";
  return weight.ends_with(kWeight) ? weight.substr(0, weight.size() - kWeight.size()) + ".scale" : "";
}

std::string gguf_tensor_name(const std::string& hugging_face_name) {
  return translated(hugging_face_name, &NamePair::hugging_face, &NamePair::gguf, kLayer, kBlock);
}

GgufModel::GgufModel(const std::filesystem::path& path) : file_(path) {
  const Keys keys(file_);
  interleaved_ = keys.architecture().interleaved;
  config_ = read_config(keys, file_);
  for (const auto& [name, tensor] : file_.tensors()) {
    if (name == kGgufRopeFactors || is_scale(file_, name)) continue;
    const std::string known = translated(name, &NamePair::gguf, &NamePair::hugging_face, kBlock, kLayer);
    if (!stored_.emplace(known.empty() ? name : known, name).second) {
      keys.fail("two tensors are {} to nibble", known.empty() ? name : known);
    }
  }
}

std::vector<std::string> GgufModel::names() const { return names_of(stored_); }

const std::string& GgufModel::stored_name(const std::string& name) const {
  const auto at = stored_.find(name);
  if (at == stored_.end()) {
    const std::string own = gguf_tensor_name(name);
    if (!own.empty()) user_error("'{}' has no tensor '{}', which is '{}'", path().string(), own, name);
    no_such_tensor(path(), name, names());
  }
  return at->second;
}

std::vector<std::int64_t> GgufModel::shape(const std::string& name) const {
  return file_.tensor(stored_name(name)).shape;
}

std::int64_t GgufModel::interleaved_heads(const std::string& name) const {
  if (!interleaved_) return 0;
  if (name.ends_with("self_attn.q_proj.weight")) return config_.heads;
  if (name.ends_with("self_attn.k_proj.weight")) return config_.kv_heads;
  return 0;
}

void GgufModel::read_floats(const std::string& name, const Tensor& to) const {
  const std::int64_t heads = interleaved_heads(name);
  if (heads == 0) {
    read_gguf_floats(file_, stored_name(name), to);
    apply_scale(file_, stored_name(name), to);
    return;
  }
  const OwnedTensor stored(DType::F32, to.shape());
  read_gguf_floats(file_, stored_name(name), stored);
  apply_scale(file_, stored_name(name), stored);
  if (to.rows() % (2 * heads) != 0) {
    user_error("tensor '{}' of '{}' has {} rows, which are not {} heads", stored_name(name), path().string(), to.rows(),
               heads);
  }
  const std::int64_t half = to.rows() / heads / 2;
  const std::int64_t columns = to.cols();
  for (std::int64_t row = 0; row < to.rows(); ++row) {
    const std::int64_t head = row / (2 * half);
    const std::int64_t in_head = row % (2 * half);
    const std::int64_t target = head * 2 * half + deinterleaved_row(in_head, 2 * half);
    std::memcpy(to.data<float>() + target * columns, stored.view().data<float>() + row * columns,
                static_cast<std::size_t>(columns) * sizeof(float));
  }
}

std::span<const std::byte> GgufModel::bytes_as(DType dtype, const std::string& name) const {
  const GgufTensor& tensor = file_.tensor(stored_name(name));
  if (interleaved_heads(name) != 0 || has_scale(file_, tensor.name)) return {};
  const bool kept = (dtype == DType::F32 && tensor.type == GgmlType::F32) ||
                    (dtype == DType::F16 && tensor.type == GgmlType::F16) ||
                    (dtype == DType::BF16 && tensor.type == GgmlType::BF16);
  return kept ? tensor.bytes : std::span<const std::byte>();
}

}  // namespace nibble
