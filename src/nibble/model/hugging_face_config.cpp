#include "nibble/model/hugging_face_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "nibble/io/json.h"
#include "nibble/model/hugging_face_json.h"

namespace nibble {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct Family {
  const char* model_type;
  const char* architecture;
  bool qkv_bias;
  bool qk_norm;
  std::int64_t head_dim;  // where the file has none; 0 = hidden_size / num_attention_heads
};
constexpr Family kFamilies[] = {{"llama", "LlamaForCausalLM", false, false, 0},
                                {"mistral", "MistralForCausalLM", false, false, 0},
                                {"qwen2", "Qwen2ForCausalLM", true, false, 0},
                                {"qwen3", "Qwen3ForCausalLM", false, true, 128}};

/// The keys of one JSON object; a null counts as absent.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {}

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> message, Args&&... args) const {
    user_error("'{}': {}", where_, fmt::format(message, std::forward<Args>(args)...));
  }
  bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }
  const json& operator[](const char* key) const { return object_[key]; }

  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) const {
    if (!has(key)) fail("{} is missing", key);
    const json& value = object_[key];
    if (!value.is_number_integer() || value < low || value > high) {
      fail("{} is {}, must be an integer from {} to {}", key, value.dump(), low, high);
    }
    return value.get<std::int64_t>();
  }
  std::int64_t integer_or(const char* key, std::int64_t fallback, std::int64_t low, std::int64_t high) const {
    return has(key) ? integer(key, low, high) : fallback;
  }
  double number_or(const char* key, double fallback, double low, double high) const {
    return has(key) ? number(key, low, high) : fallback;
  }
  double number(const char* key, double low, double high) const {
    if (!has(key)) fail("{} is missing", key);
    const json& value = object_[key];
    if (!value.is_number() || value < low || value > high) {
      fail("{} is {}, must be a number from {} to {}", key, value.dump(), low, high);
    }
    return value.get<double>();
  }
  bool boolean_or(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!object_[key].is_boolean()) fail("{} is {}, must be true or false", key, object_[key].dump());
    return object_[key].get<bool>();
  }
  std::string text_or(const char* key, const char* fallback) const {
    if (!has(key)) return fallback;
    if (!object_[key].is_string()) fail("{} is {}, must be a string", key, object_[key].dump());
    return object_[key].get<std::string>();
  }
  Fields object(const char* key) const {
    if (!object_[key].is_object()) fail("{} is {}, must be an object", key, object_[key].dump());
    return Fields(object_[key], where_ + "': '" + key);
  }

 private:
  const json& object_;
  std::string where_;
};

const Family& family_of(const Fields& f) {
  std::string supported;
  for (const Family& family : kFamilies) {
    supported += fmt::format("{}{} ({})", supported.empty() ? "" : ", ", family.model_type, family.architecture);
  }
  const std::string type = f.text_or("model_type", "");
  const auto* family =
      std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const Family& k) { return type == k.model_type; });
  if (family == std::end(kFamilies)) f.fail("model_type '{}' is not supported; nibble knows {}", type, supported);
  if (!f.has("architectures")) return *family;
  const json& architectures = f["architectures"];
  if (!architectures.is_array() ||
      std::find(architectures.begin(), architectures.end(), family->architecture) == architectures.end()) {
    f.fail("architectures {} is not supported; nibble knows {}", architectures.dump(), supported);
  }
  return *family;
}

/// What would change the model's arithmetic in a way that nibble does not know.
void refuse_unsupported(const Fields& f, const Family& family) {
  const std::string activation = f.text_or("hidden_act", "silu");
  if (activation != "silu") f.fail("hidden_act '{}' is not supported; nibble computes silu", activation);
  // Qwen2 has its biases whatever the file says.
  if (!family.qkv_bias && f.boolean_or("attention_bias", false)) {
    f.fail("attention_bias is not supported: nibble has no bias of the output projection");
  }
  if (f.boolean_or("mlp_bias", false)) f.fail("mlp_bias is not supported: nibble has no biases in the SwiGLU block");
  if (f.has("quantization_config")) {
    f.fail("quantization_config is not supported: the weights must be in F32, BF16 or F16");
  }
  if (f.number_or("attention_dropout", 0, 0, 1) > 0) f.fail("attention_dropout is not supported, it must be 0");
}

void read_rope(const Fields& f, LlamaConfig& m) {
  // Newer files keep the base and its scaling in one object.
  const char* key = f.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  m.rope_theta = f.number_or("rope_theta", 1e4, 1, 1e9);
  if (f.number_or("partial_rotary_factor", 1, 0, 1) != 1)
    f.fail("partial_rotary_factor is not supported, it must be 1");
  if (!f.has(key)) return;
  const Fields scaling = f.object(key);
  m.rope_theta = scaling.number_or("rope_theta", m.rope_theta, 1, 1e9);
  if (scaling.number_or("partial_rotary_factor", 1, 0, 1) != 1) {
    scaling.fail("partial_rotary_factor is not supported, it must be 1");
  }
  const std::string type = scaling.text_or(scaling.has("rope_type") ? "rope_type" : "type", "default");
  RopeScaling& r = m.rope_scaling;
  if (type == "default") return;
  if (type != "linear" && type != "llama3") {
    scaling.fail("RoPE scaling '{}' is not supported; nibble knows default, linear and llama3", type);
  }
  r.factor = scaling.number("factor", 1, 1e6);
  r.kind = RopeScaling::Kind::Linear;
  if (type == "linear") return;
  r.kind = RopeScaling::Kind::Llama3;
  r.low_freq_factor = scaling.number("low_freq_factor", 1e-6, 1e6);
  r.high_freq_factor = scaling.number("high_freq_factor", 1e-6, 1e6);
  r.original_seq = scaling.integer("original_max_position_embeddings", 1, 1 << 24);
  if (r.high_freq_factor <= r.low_freq_factor) scaling.fail("high_freq_factor must be above low_freq_factor");
}

/// The window of a layer that looks at fewer tokens than all before it; 0 = none does.
std::int64_t sliding_window(const Fields& f, const Family& family) {
  bool slides = std::string_view(family.model_type) == "mistral";
  if (family.qkv_bias || family.qk_norm) slides = f.boolean_or("use_sliding_window", false);
  if (f.has("layer_types")) {
    if (!f["layer_types"].is_array()) f.fail("layer_types is not an array");
    for (const json& type : f["layer_types"]) {
      if (type != "full_attention" && type != "sliding_attention") {
        f.fail("layer_types holds {}, which is not supported; nibble knows full_attention", type.dump());
      }
      slides = slides || type == "sliding_attention";
    }
  }
  return slides ? f.integer_or("sliding_window", 0, 1, 1 << 24) : 0;
}

}  // namespace

LlamaConfig read_hugging_face_config(const fs::path& folder) {
  const fs::path path = folder / kHuggingFaceConfigFile;
  const json root = read_json(path);
  if (!root.is_object()) user_error("'{}' is not a JSON object", path.string());
  const Fields f(root, path.string());
  const Family& family = family_of(f);
  refuse_unsupported(f, family);
  LlamaConfig m;
  m.name = plain_name(fs::canonical(folder).filename().string());
  m.layers = f.integer("num_hidden_layers", 1, 1024);
  m.width = f.integer("hidden_size", 1, 1 << 16);
  m.heads = f.integer("num_attention_heads", 1, 1024);
  m.kv_heads = f.integer_or("num_key_value_heads", m.heads, 1, 1024);
  m.ffn = f.integer("intermediate_size", 1, 1 << 18);
  m.vocab = f.integer("vocab_size", 1, 1 << 20);
  m.norm_eps = f.number_or("rms_norm_eps", 1e-6, 0, 1);
  m.tied_head = f.boolean_or("tie_word_embeddings", false);
  m.init_std = f.number_or("initializer_range", 0.02, 0, 10);
  m.own_head_dim = f.integer_or("head_dim", family.head_dim, 1, 256);
  if (m.own_head_dim == 0 && m.width % m.heads != 0) f.fail("num_attention_heads does not divide hidden_size");
  if (m.own_head_dim * m.heads == m.width) m.own_head_dim = 0;
  if (m.head_dim() % 2 != 0) f.fail("heads have {} dimensions; rotary embedding needs an even number", m.head_dim());
  if (m.heads % m.kv_heads != 0) f.fail("num_key_value_heads does not divide num_attention_heads");
  m.qkv_bias = family.qkv_bias;
  m.qk_norm = family.qk_norm;
  read_rope(f, m);
  m.context = f.integer("max_position_embeddings", 1, 1 << 24);
  if (const std::int64_t window = sliding_window(f, family); window > 0) m.context = std::min(m.context, window);
  m.seq = std::min(m.context, kLongestDefaultSeq);
  return m;
}

nlohmann::ordered_json hugging_face_config(const LlamaConfig& m, DType dtype) {
  const auto* family = std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const Family& k) {
    return k.qkv_bias == m.qkv_bias && k.qk_norm == m.qk_norm;
  });
  if (family == std::end(kFamilies)) {
    user_error("the model '{}' has both qkv_bias and qk_norm, which no model of the Hugging Face tools has", m.name);
  }
  require(dtype == DType::F32 || dtype == DType::BF16, "weights as {}", dtype_name(dtype));
  nlohmann::ordered_json scaling;
  const RopeScaling& r = m.rope_scaling;
  if (r.kind == RopeScaling::Kind::Linear) scaling = {{"rope_type", "linear"}, {"factor", r.factor}};
  if (r.kind == RopeScaling::Kind::Llama3) {
    scaling = {{"rope_type", "llama3"},
               {"factor", r.factor},
               {"low_freq_factor", r.low_freq_factor},
               {"high_freq_factor", r.high_freq_factor},
               {"original_max_position_embeddings", r.original_seq}};
  }
  nlohmann::ordered_json config = {{"architectures", {family->architecture}},
                                   {"model_type", family->model_type},
                                   {"attention_dropout", 0.0},
                                   {"bos_token_id", nullptr},
                                   {"eos_token_id", nullptr},
                                   {"head_dim", m.head_dim()},
                                   {"hidden_act", "silu"},
                                   {"hidden_size", m.width},
                                   {"initializer_range", m.init_std},
                                   {"intermediate_size", m.ffn},
                                   {"max_position_embeddings", std::max(m.context, m.seq)},
                                   {"num_attention_heads", m.heads},
                                   {"num_hidden_layers", m.layers},
                                   {"num_key_value_heads", m.kv_heads},
                                   {"rms_norm_eps", m.norm_eps},
                                   {"rope_scaling", scaling},
                                   {"rope_theta", m.rope_theta},
                                   {"tie_word_embeddings", m.tied_head},
                                   {"torch_dtype", dtype == DType::F32 ? "float32" : "bfloat16"},
                                   {"use_cache", true},
                                   {"vocab_size", m.vocab}};
  if (!family->qkv_bias) config["attention_bias"] = false;
  if (family->qkv_bias || family->qk_norm) config["use_sliding_window"] = false;
  return config;
}

}  // namespace nibble
