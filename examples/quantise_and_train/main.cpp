// Quantises a tensor, multiplies FP4 matrices exactly and trains a small Llama by a recipe.
#include <nibble/nibble.h>

#include <random>

using namespace nibble;

Tensor normal(std::int64_t rows, std::int64_t cols, Arena& arena) {
  static std::mt19937 generator(1);
  const Tensor t = arena.allocate(DType::F32, {rows, cols});
  for (float& x : std::span(t.data<float>(), t.bytes() / sizeof(float)))
    x = std::normal_distribution<float>()(generator);
  return t;
}

int main() {
  Arena arena;
  const Tensor x = normal(256, 512, arena), w = normal(128, 512, arena), y = normal(256, 128, arena);

  const QuantSpec nvfp4{.element = ElementFormat::E2M1, .granularity = {1, 16}, .scale = ScaleRule::Nvfp4};
  const QTensor q = quantize(x, nvfp4, {}, arena);
  fmt::print("NVFP4: {} bytes of {}, {:.2f} dB\n", stored_bytes(q), x.bytes(),
             measure_quality(x, q, nvfp4, {}, arena).snr_db());

  // Codes are integers and the scales powers of two, one a row: sums of products have no rounding at all.
  const QuantSpec by_row{.element = ElementFormat::E2M1, .scale = ScaleRule::AbsmaxPow2};
  const QTensor a = quantize(x, by_row, {}, arena), b = quantize(w, by_row, {}, arena);
  gemm({a}, {b}, y, Accumulate::Overwrite, arena);
  double exact = 0;
  for (std::int64_t k = 0; k < a.cols; ++k) exact += double{a.value_at(7, k)} * b.value_at(3, k);
  fmt::print("product by {}: y[7, 3] = {}, exactly {}\n", gemm_path_name(gemm_path({a}, {b})),
             y.data<float>()[7 * 128 + 3], exact);

  const Recipe recipe = load_recipe(find_recipe("quartet2"));
  Llama model({.layers = 2, .width = 128, .heads = 4, .kv_heads = 2, .ffn = 256, .vocab = 64, .seq = 64}, recipe, 1);
  const auto optimizer = make_optimizer(OptimizerKind::AdamW, model);
  std::vector<std::int32_t> text{3};  // every token follows from the one before it
  while (text.size() < 4 * 64 + 1) text.push_back((5 * text.back() + 7) % 64);
  const Llama::Batch batch{Tensor::of(text.data(), {4, 64}), Tensor::of(text.data() + 1, {4, 64})};
  for (std::uint32_t step = 1; step <= 20; ++step) {
    model.prepare(step, false);  // the step's FP4 weights
    const BatchLoss loss = model.forward_backward(batch, 1.0 / 256, step, 0, true, false);
    optimizer->step({.lr = 3e-3F, .t = step});
    model.after_update(step, 20);
    if (step % 5 == 0) fmt::print("{} step {}: loss {:.4f}\n", recipe.name, step, loss.mean());
  }
}
