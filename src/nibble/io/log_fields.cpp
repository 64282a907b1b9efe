#include "nibble/io/log_fields.h"

#include "nibble/io/file.h"
#include "nibble/io/json.h"

namespace nibble {

using Json = OrderedJson;

Json read_json_object(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  if (is_too_deep(text)) user_error("{}: the JSON has more than {} levels", path.string(), kMaxJsonDepth);
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    user_error("{}: not valid JSON at byte {}; run the command that wrote it again", path.string(), error.byte);
  } catch (const Json::out_of_range&) {
    user_error("{}: holds a number that is too large; run the command that wrote it again", path.string());
  }
  if (!json.is_object()) user_error("{}: the top level is not an object", path.string());
  return json;
}

Quality parse_quality(const Json& object) {
  constexpr double kExact = std::numeric_limits<double>::infinity();
  Quality quality;
  for (std::size_t i = 0; i < kOperands; ++i) {
    const Json* entry = child_field(object, kOperandNames[i], Json::value_t::object);
    if (!entry) continue;
    quality[i] = {.snr_db = number_field(*entry, "snr_db", kExact),
                  .cosine = number_field(*entry, "cosine"),
                  .relative_mse = number_field(*entry, "relative_mse"),
                  .underflow = number_field(*entry, "underflow"),
                  .clamped = number_field(*entry, "clamped"),
                  .clipped = number_field(*entry, "clipped"),
                  .bias = number_field(*entry, "bias"),
                  .scale_saturated = number_field(*entry, "scale_saturated"),
                  .scale_underflow = number_field(*entry, "scale_underflow")};
  }
  return quality;
}

}  // namespace nibble
