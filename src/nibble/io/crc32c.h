// CRC-32C (Castagnoli): polynomial 0x1EDC6F41, bits reflected, initial value and final xor 0xFFFFFFFF; RFC 3720
// appendix B.4. crc32c("123456789") = 0xE3069283. A byte at a time by table: the records it guards are a hundred
// bytes a step.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace nibble {

namespace detail {
constexpr std::array<std::uint32_t, 256> crc32c_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78u : 0u);
    table[byte] = crc;
  }
  return table;
}
inline constexpr auto kCrc32cTable = crc32c_table();
}  // namespace detail

constexpr std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xFFFFFFFFu;
  for (char c : bytes) crc = (crc >> 8) ^ detail::kCrc32cTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF];
  return ~crc;
}

/// The form in which TFRecord files store a CRC, so that the CRC of data that holds CRCs stays a good one: rotated
/// right by 15 bits plus 0xA282EAD8.
constexpr std::uint32_t masked_crc32c(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

}  // namespace nibble
