#include "nibble/io/ggml_blocks.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "nibble/numerics/bf16.h"
#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/fp16.h"
#include "nibble/tensor/error.h"
#include "nibble/tensor/parallel.h"

namespace nibble {

namespace {

using Byte = std::uint8_t;

template <class T>
T load(const Byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
float half(const Byte* at) { return fp16_decode(load<std::uint16_t>(at)); }

/// Bits [at, at + count) of a byte.
constexpr int bits(Byte byte, int at, int count) { return (byte >> at) & ((1 << count) - 1); }

void decode_f32(const Byte* in, float* out) { *out = load<float>(in); }
void decode_f16(const Byte* in, float* out) { *out = half(in); }
void decode_bf16(const Byte* in, float* out) { *out = to_float(bf16{load<std::uint16_t>(in)}); }

/// Q4_0, Q4_1, Q5_0, Q5_1: y = d (q - zero) or d q + m.
template <bool with_minimum, bool five_bits>
void decode_32(const Byte* in, float* out) {
  constexpr int zero = with_minimum ? 0 : five_bits ? 16 : 8;
  const float d = half(in);
  const float m = with_minimum ? half(in + 2) : 0.0f;
  in += with_minimum ? 4 : 2;
  const std::uint32_t high = five_bits ? load<std::uint32_t>(in) : 0;
  in += five_bits ? 4 : 0;
  for (int i = 0; i < 32; ++i) {
    const int q = bits(in[i % 16], i < 16 ? 0 : 4, 4) | static_cast<int>((high >> i) & 1u) << 4;
    const float product = d * static_cast<float>(q - zero);
    out[i] = with_minimum ? product + m : product;
  }
}

void decode_q8_0(const Byte* in, float* out) {
  const float d = half(in);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<std::int8_t>(in[2 + i]));
}

/// Twice the value of an E2M1 code under half the scale, as ggml has it: the code of -0 gives +0.
float e2m1_value(int code, float half_scale) {
  return half_scale * static_cast<float>(e2m1_twice(static_cast<std::uint8_t>(code)));
}

void decode_mxfp4(const Byte* in, float* out) {
  const int e = in[0];
  // 2^(e - 128); the two smallest are subnormal.
  const float half_scale = bits_float(e < 2 ? 0x0020'0000u << e : static_cast<std::uint32_t>(e - 1) << 23);
  for (int i = 0; i < 32; ++i) out[i] = e2m1_value(bits(in[1 + i % 16], i < 16 ? 0 : 4, 4), half_scale);
}

/// Half of an unsigned E4M3 number; ggml ignores the sign bit and takes the NaN for zero.
float half_of_ue4m3(Byte code) {
  if (code == 0 || code == 0x7F) return 0.0f;
  const int exponent = bits(code, 3, 4);
  const auto mantissa = static_cast<float>(bits(code, 0, 3));
  if (exponent == 0) return mantissa * 0x1p-10f;
  return (1.0f + mantissa / 8.0f) * bits_float(static_cast<std::uint32_t>(exponent - 8 + 127) << 23);
}

void decode_nvfp4(const Byte* in, float* out) {
  for (int i = 0; i < 64; ++i) {
    const int s = i / 16;
    out[i] = e2m1_value(bits(in[4 + 8 * s + i % 8], i % 16 < 8 ? 0 : 4, 4), half_of_ue4m3(in[s]));
  }
}

/// The code of two bits of element i, where bytes hold four at a distance of 32.
int two_bits(const Byte* codes, int i) { return bits(codes[32 * (i / 128) + i % 32], 2 * (i % 128 / 32), 2); }

void decode_q2_k(const Byte* in, float* out) {
  const Byte* codes = in + 16;
  const float d = half(in + 80);
  const float dmin = half(in + 82);
  for (int i = 0; i < 256; ++i) {
    const Byte scale = in[i / 16];
    const float dl = d * static_cast<float>(bits(scale, 0, 4));
    out[i] = dl * static_cast<float>(two_bits(codes, i)) - dmin * static_cast<float>(bits(scale, 4, 4));
  }
}

void decode_q3_k(const Byte* in, float* out) {
  const Byte* codes = in + 32;
  const Byte* scales = in + 96;  // low four bits of 0..7 | of 8..15 in eight bytes, then the high two of j, j + 4, ...
  const float d = half(in + 108);
  for (int i = 0; i < 256; ++i) {
    const int j = i / 16;
    const int scale = bits(scales[j % 8], j < 8 ? 0 : 4, 4) | bits(scales[8 + j % 4], 2 * (j / 4), 2) << 4;
    const int q = two_bits(codes, i) | bits(in[i % 32], i / 32, 1) << 2;
    out[i] = d * static_cast<float>(scale - 32) * static_cast<float>(q - 4);
  }
}

struct ScaleAndMinimum {
  int scale, minimum;
};
/// Of 32 elements of Q4_K and Q5_K, six bits each: bytes 0..3 have the scales of 0..3, bytes 4..7 their minima, and
/// bytes 8..11 the low four bits of both of 4..7, whose high two are those above the others.
ScaleAndMinimum scale_and_minimum(const Byte* packed, int j) {
  if (j < 4) return {bits(packed[j], 0, 6), bits(packed[j + 4], 0, 6)};
  return {bits(packed[j + 4], 0, 4) | bits(packed[j - 4], 6, 2) << 4, bits(packed[j + 4], 4, 4) | bits(packed[j], 6, 2)
                                                                                                      << 4};
}

template <bool five_bits>
void decode_q45_k(const Byte* in, float* out) {
  const float d = half(in);
  const float dmin = half(in + 2);
  const Byte* high = in + 16;
  const Byte* codes = in + (five_bits ? 48 : 16);
  for (int b = 0; b < 8; ++b) {
    const auto [scale, minimum] = scale_and_minimum(in + 4, b);
    const float dl = d * static_cast<float>(scale);
    const float ml = dmin * static_cast<float>(minimum);
    for (int l = 0; l < 32; ++l) {
      const int fifth = five_bits ? bits(high[l], b, 1) << 4 : 0;
      out[32 * b + l] = dl * static_cast<float>(bits(codes[32 * (b / 2) + l], 4 * (b % 2), 4) | fifth) - ml;
    }
  }
}

void decode_q6_k(const Byte* in, float* out) {
  const Byte* high = in + 128;
  const Byte* scales = in + 192;
  const float d = half(in + 208);
  for (int i = 0; i < 256; ++i) {
    const int low = bits(in[64 * (i / 128) + i % 64], 4 * (i % 128 / 64), 4);
    const int q = low | two_bits(high, i) << 4;
    out[i] = d * static_cast<float>(static_cast<std::int8_t>(scales[i / 16])) * static_cast<float>(q - 32);
  }
}

using DecodeBlock = void (*)(const Byte* in, float* out);
constexpr std::array<std::pair<GgmlType, DecodeBlock>, 15> kDecoders = {{{GgmlType::F32, decode_f32},
                                                                         {GgmlType::F16, decode_f16},
                                                                         {GgmlType::BF16, decode_bf16},
                                                                         {GgmlType::Q4_0, decode_32<false, false>},
                                                                         {GgmlType::Q4_1, decode_32<true, false>},
                                                                         {GgmlType::Q5_0, decode_32<false, true>},
                                                                         {GgmlType::Q5_1, decode_32<true, true>},
                                                                         {GgmlType::Q8_0, decode_q8_0},
                                                                         {GgmlType::Q2_K, decode_q2_k},
                                                                         {GgmlType::Q3_K, decode_q3_k},
                                                                         {GgmlType::Q4_K, decode_q45_k<false>},
                                                                         {GgmlType::Q5_K, decode_q45_k<true>},
                                                                         {GgmlType::Q6_K, decode_q6_k},
                                                                         {GgmlType::MXFP4, decode_mxfp4},
                                                                         {GgmlType::NVFP4, decode_nvfp4}}};

DecodeBlock find_decoder(GgmlType type) {
  for (const auto& [known, decode] : kDecoders) {
    if (known == type) return decode;
  }
  return nullptr;
}

template <class Range>
std::string list(const Range& items) {
  std::string text;
  for (const auto& item : items) text += fmt::format("{}{}", text.empty() ? "" : ", ", item);
  return text;
}

}  // namespace

bool ggml_is_decodable(GgmlType type) { return find_decoder(type) != nullptr; }

void decode_ggml(GgmlType type, std::span<const std::byte> bytes, std::span<float> values) {
  const GgmlTypeInfo& info = ggml_type_info(type);
  const DecodeBlock decode = find_decoder(type);
  require(decode != nullptr, "{} is not decoded", info.name);
  const auto blocks = static_cast<std::int64_t>(bytes.size()) / info.block_bytes;
  require(static_cast<std::size_t>(blocks * info.block_bytes) == bytes.size() &&
              static_cast<std::size_t>(blocks * info.block_size) == values.size(),
          "{} bytes of {} for {} values", bytes.size(), info.name, values.size());
  const auto* in = reinterpret_cast<const Byte*>(bytes.data());
  parallel_for(blocks, (1 << 16) / info.block_size, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) decode(in + b * info.block_bytes, values.data() + b * info.block_size);
  });
}

void read_gguf_floats(const GgufFile& file, const std::string& name, const Tensor& to) {
  const GgufTensor& tensor = file.tensor(name);
  if (!ggml_is_decodable(tensor.type)) {
    std::array<const char*, kDecoders.size()> known{};
    std::ranges::transform(kDecoders, known.begin(), [](const auto& d) { return ggml_type_info(d.first).name; });
    user_error("tensor '{}' of '{}' is {}; weights are read from {}", name, file.path().string(),
               ggml_type_info(tensor.type).name, list(known));
  }
  const std::vector<std::int64_t> shape = tensor.shape.empty() ? std::vector<std::int64_t>{1} : tensor.shape;
  if (!std::ranges::equal(shape, to.shape())) {
    user_error("tensor '{}' of '{}' has the shape [{}] where [{}] is expected", name, file.path().string(), list(shape),
               list(to.shape()));
  }
  decode_ggml(tensor.type, tensor.bytes, {to.data<float>(), static_cast<std::size_t>(to.numel())});
}

}  // namespace nibble
