#include "nibble/model/config.h"

namespace nibble {

std::int64_t LlamaConfig::non_embedding_parameters() const {
  const std::int64_t attention = qkv_width() * width + width * width;
  return layers * (attention + 3 * width * ffn + 2 * width) + width;
}

std::int64_t LlamaConfig::parameters() const {
  return non_embedding_parameters() + vocab * width * (tied_head ? 1 : 2);
}

double LlamaConfig::flops_per_token() const {
  const double matrices =
      static_cast<double>(layers * (qkv_width() * width + width * width + 3 * width * ffn) + vocab * width);
  const double attention = static_cast<double>(layers) * static_cast<double>(width) * static_cast<double>(seq) / 2.0;
  return 6.0 * matrices + 12.0 * attention;
}

namespace {

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
  base.rope_theta = t.number("rope_theta", base.rope_theta, 1, 1e9);
  base.norm_eps = t.number("norm_eps", base.norm_eps, 0, 1);
  base.tied_head = t.boolean("tied_head", base.tied_head);
  base.init_std = t.number("init_std", base.init_std, 0, 10);
  t.finish();
  if (base.width % base.heads != 0) {
    t.fail("heads", fmt::format("{} heads do not divide the width {}", base.heads, base.width));
  }
  if (base.head_dim() % 2 != 0) {
    t.fail("heads",
           fmt::format("gives heads of {} dimensions; rotary embedding needs an even number", base.head_dim()));
  }
  if (base.heads % base.kv_heads != 0) {
    t.fail("kv_heads", fmt::format("{} does not divide heads = {}", base.kv_heads, base.heads));
  }
  return base;
}

}  // namespace

LlamaConfig load_llama_config(const std::filesystem::path& path) {
  const ConfigTable root = ConfigTable::parse_file(path);
  const ConfigTable model = root.table("model");
  root.finish();
  return read_keys(model, LlamaConfig{}, false);
}

LlamaConfig read_llama_config(const ConfigTable& model) {
  const bool has_base = model.has("file");
  const LlamaConfig base = has_base ? load_llama_config(model.text("file")) : LlamaConfig{};
  return read_keys(model, base, has_base);
}

std::vector<LinearShape> block_linears(const LlamaConfig& m) {
  return {{"attention.qkv", m.qkv_width(), m.width},
          {"attention.output", m.width, m.width},
          {"mlp.gate_up", 2 * m.ffn, m.width},
          {"mlp.down", m.width, m.ffn}};
}

}  // namespace nibble
