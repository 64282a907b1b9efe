#include "python/guard.h"

namespace nibble::python {

void Guard::raise_kept(const std::string& note) {
  if (!raised_) return;
  raised_->value().attr("add_note")(note.c_str());
  throw std::move(*raised_);
}

}  // namespace nibble::python
