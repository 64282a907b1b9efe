#include "nibble/model/parameter_shapes.h"

namespace nibble {

std::vector<std::int64_t> ParameterShape::part_shape(const ParameterPart& part) const {
  std::vector<std::int64_t> of_part = shape;
  of_part[0] = part.rows;
  return of_part;
}

std::vector<ParameterShape> parameter_shapes(const LlamaConfig& m) {
  std::vector<ParameterShape> all;
  const auto gain = [&](std::string name, std::string hf_name, std::int64_t n) {
    all.push_back({std::move(name), {n}, false, {{std::move(hf_name), n}}});
  };
  const std::int64_t d = m.width;
  const std::int64_t q = m.attention_width();
  const std::int64_t kv = m.kv_heads * m.head_dim();
  all.push_back({"embedding", {m.vocab, d}, false, {{"model.embed_tokens.weight", m.vocab}}});
  for (std::int64_t b = 0; b < m.layers; ++b) {
    const std::string name = fmt::format("layers.{}.", b);
    const std::string hf = fmt::format("model.layers.{}.", b);
    const std::string attention = hf + "self_attn.";
    gain(name + "attention_norm", hf + "input_layernorm.weight", d);
    all.push_back(
        {name + "attention.qkv",
         {m.qkv_width(), d},
         true,
         {{attention + "q_proj.weight", q}, {attention + "k_proj.weight", kv}, {attention + "v_proj.weight", kv}}});
    if (m.qkv_bias) {
      all.push_back(
          {name + "attention.qkv_bias",
           {m.qkv_width()},
           false,
           {{attention + "q_proj.bias", q}, {attention + "k_proj.bias", kv}, {attention + "v_proj.bias", kv}}});
    }
    if (m.qk_norm) {
      gain(name + "attention.q_norm", attention + "q_norm.weight", m.head_dim());
      gain(name + "attention.k_norm", attention + "k_norm.weight", m.head_dim());
    }
    all.push_back({name + "attention.output", {d, q}, true, {{attention + "o_proj.weight", d}}});
    gain(name + "ffn_norm", hf + "post_attention_layernorm.weight", d);
    all.push_back({name + "mlp.gate_up",
                   {2 * m.ffn, d},
                   true,
                   {{hf + "mlp.gate_proj.weight", m.ffn}, {hf + "mlp.up_proj.weight", m.ffn}}});
    all.push_back({name + "mlp.down", {d, m.ffn}, true, {{hf + "mlp.down_proj.weight", d}}});
  }
  gain("final_norm", "model.norm.weight", d);
  if (!m.tied_head) all.push_back({"head", {m.vocab, d}, true, {{"lm_head.weight", m.vocab}}});
  return all;
}

}  // namespace nibble
