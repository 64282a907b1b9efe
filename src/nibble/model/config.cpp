#include "nibble/model/config.h"

#include "nibble/io/data_file.h"
#include "nibble/model/hugging_face_config.h"

namespace nibble {

std::int64_t LlamaConfig::non_embedding_parameters() const {
  const std::int64_t attention = (qkv_width() + attention_width()) * width;
  const std::int64_t extras = (qkv_bias ? qkv_width() : 0) + (qk_norm ? 2 * head_dim() : 0);
  return layers * (attention + extras + 3 * width * ffn + 2 * width) + width;
}

std::int64_t LlamaConfig::parameters() const {
  return non_embedding_parameters() + vocab * width * (tied_head ? 1 : 2);
}

double LlamaConfig::flops_per_token() const {
  const double matrices =
      static_cast<double>(layers * ((qkv_width() + attention_width()) * width + 3 * width * ffn) + vocab * width);
  const double attention =
      static_cast<double>(layers) * static_cast<double>(attention_width()) * static_cast<double>(seq) / 2.0;
  return 6.0 * matrices + 12.0 * attention;
}

namespace {

const std::vector<std::pair<const char*, RopeScaling::Kind>> kRopeScalings = {
    {"none", RopeScaling::Kind::None}, {"linear", RopeScaling::Kind::Linear}, {"llama3", RopeScaling::Kind::Llama3}};

RopeScaling read_rope_scaling(const ConfigTable& t, RopeScaling base) {
  base.kind = t.choice("kind", base.kind, kRopeScalings);
  base.factor = t.number("factor", base.factor, 1, 1e6);
  base.low_freq_factor = t.number("low_freq_factor", base.low_freq_factor, 1e-6, 1e6);
  base.high_freq_factor = t.number("high_freq_factor", base.high_freq_factor, 1e-6, 1e6);
  base.original_seq = t.integer("original_seq", base.original_seq, 0, 1 << 24);
  t.finish();
  if (base.kind != RopeScaling::Kind::Llama3) return base;
  if (base.original_seq == 0) t.fail("original_seq", "is missing");
  if (base.high_freq_factor <= base.low_freq_factor) {
    t.fail("high_freq_factor",
           fmt::format("is {}, must be above low_freq_factor = {}", base.high_freq_factor, base.low_freq_factor));
  }
  return base;
}

LlamaConfig read_keys(const ConfigTable& t, LlamaConfig base, bool has_base) {
  const auto size = [&](const char* key, std::int64_t fallback, std::int64_t high) {
    return has_base || t.has(key) ? t.integer(key, fallback, 1, high) : t.integer(key, 1, high);
  };
  base.name = t.text("name", base.name);
  base.layers = size("layers", base.layers, 1024);
  base.width = size("width", base.width, 1 << 16);
  base.heads = size("heads", base.heads, 1024);
  base.kv_heads = t.integer("kv_heads", has_base ? base.kv_heads : base.heads, 1, 1024);
  base.ffn = size("ffn", base.ffn, 1 << 18);
  base.vocab = size("vocab", base.vocab, 1 << 20);
  base.seq = size("seq", base.seq, 1 << 17);
  base.own_head_dim = t.integer("head_dim", base.own_head_dim, 0, 256);
  base.qkv_bias = t.boolean("qkv_bias", base.qkv_bias);
  base.qk_norm = t.boolean("qk_norm", base.qk_norm);
  base.context = t.integer("context", base.context, 0, 1 << 24);
  base.rope_theta = t.number("rope_theta", base.rope_theta, 1, 1e9);
  base.rope_scaling = read_rope_scaling(t.table("rope_scaling"), base.rope_scaling);
  base.norm_eps = t.number("norm_eps", base.norm_eps, 0, 1);
  base.tied_head = t.boolean("tied_head", base.tied_head);
  base.init_std = t.number("init_std", base.init_std, 0, 10);
  t.finish();
  if (base.context > 0 && base.seq > base.context) {
    t.fail("seq", fmt::format("{} is more than the {} positions of the model's context", base.seq, base.context));
  }
  if (base.own_head_dim == 0 && base.width % base.heads != 0) {
    t.fail("heads", fmt::format("{} heads do not divide the width {}", base.heads, base.width));
  }
  if (base.head_dim() % 2 != 0) {
    t.fail(base.own_head_dim > 0 ? "head_dim" : "heads",
           fmt::format("gives heads of {} dimensions; rotary embedding needs an even number", base.head_dim()));
  }
  if (base.heads % base.kv_heads != 0) {
    t.fail("kv_heads", fmt::format("{} does not divide heads = {}", base.kv_heads, base.heads));
  }
  return base;
}

}  // namespace

LlamaConfig load_llama_config(const std::filesystem::path& path) {
  std::error_code ignored;  // a name that is too long is not there
  if (std::filesystem::is_directory(path, ignored)) return read_hugging_face_config(path);
  const ConfigTable root = ConfigTable::parse_file(path);
  const ConfigTable model = root.table("model");
  root.finish();
  return read_keys(model, LlamaConfig{}, false);
}

std::string plain_name(std::string name) {
  for (char& c : name) {
    const bool plain =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_';
    if (!plain) c = '-';
  }
  return name;
}

LlamaConfig read_llama_config(const ConfigTable& model) { return read_llama_config(model, load_llama_config); }

LlamaConfig read_llama_config(const ConfigTable& model,
                              const std::function<LlamaConfig(const std::filesystem::path&)>& load) {
  if (!model.has("file")) return read_keys(model, {}, false);
  const std::filesystem::path file = model.text("file");
  std::error_code ignored;
  const bool there = std::filesystem::exists(file, ignored);
  return read_keys(model, load(there ? file : find_data_file("models", file.string(), "model")), true);
}

std::string to_toml(const LlamaConfig& m) {
  std::string text = fmt::format(R"([model]
name = "{}"
layers = {}
width = {}
heads = {}
kv_heads = {}
head_dim = {}
ffn = {}
vocab = {}
seq = {}
context = {}
qkv_bias = {}
qk_norm = {}
rope_theta = {}
norm_eps = {}
tied_head = {}
init_std = {}
)",
                                 m.name, m.layers, m.width, m.heads, m.kv_heads, m.own_head_dim, m.ffn, m.vocab, m.seq,
                                 m.context, m.qkv_bias, m.qk_norm, m.rope_theta, m.norm_eps, m.tied_head, m.init_std);
  const RopeScaling& r = m.rope_scaling;
  if (r.kind == RopeScaling::Kind::None) return text;
  for (const auto& [name, kind] : kRopeScalings) {
    if (kind == r.kind) text += fmt::format("\n[model.rope_scaling]\nkind = \"{}\"\nfactor = {}\n", name, r.factor);
  }
  if (r.kind == RopeScaling::Kind::Linear) return text;
  return text + fmt::format("low_freq_factor = {}\nhigh_freq_factor = {}\noriginal_seq = {}\n", r.low_freq_factor,
                            r.high_freq_factor, r.original_seq);
}

std::vector<LinearShape> block_linears(const LlamaConfig& m) {
  return {{"attention.qkv", m.qkv_width(), m.width},
          {"attention.output", m.width, m.attention_width(), true},
          {"mlp.gate_up", 2 * m.ffn, m.width},
          {"mlp.down", m.width, m.ffn, true}};
}

}  // namespace nibble
