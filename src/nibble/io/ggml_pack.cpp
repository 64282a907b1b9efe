#include "nibble/io/ggml_pack.h"

#include "nibble/tensor/error.h"

namespace nibble {

void pack_ggml_fp4(GgmlType type, std::span<const std::uint8_t> codes, std::span<const std::uint8_t> scales,
                   std::span<std::byte> blocks) {
  require(ggml_is_fp4(type), "no four-bit float: ggml type {}", static_cast<std::uint32_t>(type));
  const GgmlTypeInfo& info = ggml_type_info(type);
  const auto elements = static_cast<std::size_t>(info.block_size);
  const auto bytes = static_cast<std::size_t>(info.block_bytes);
  const std::size_t scales_in_block = bytes - elements / 2;
  const std::size_t group = elements / scales_in_block;  // elements that share a scale
  const std::size_t count = codes.size() / (elements / 2);
  require(codes.size() == count * elements / 2 && scales.size() == count * scales_in_block &&
              blocks.size() == count * bytes,
          "{} bytes of codes and {} of scales for {} bytes of {} blocks", codes.size(), scales.size(), blocks.size(),
          info.name);
  const auto code = [&](std::size_t element) {
    const std::uint8_t pair = codes[element / 2];
    return static_cast<std::uint8_t>(element % 2 == 0 ? pair & 15 : pair >> 4);
  };
  for (std::size_t b = 0; b < count; ++b) {
    const std::span<std::byte> block = blocks.subspan(b * bytes, bytes);
    for (std::size_t s = 0; s < scales_in_block; ++s) {
      block[s] = static_cast<std::byte>(scales[b * scales_in_block + s]);
      const std::size_t first = b * elements + s * group;
      for (std::size_t j = 0; j < group / 2; ++j) {
        block[scales_in_block + s * group / 2 + j] =
            static_cast<std::byte>(code(first + j) | code(first + group / 2 + j) << 4);
      }
    }
  }
}

}  // namespace nibble
