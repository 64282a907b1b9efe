#include "nibble/dist/mpi/functions.h"

#include "nibble/tensor/error.h"

namespace nibble::mpi {

std::string error_text(const Functions& mpi, int code) {
  std::string text(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  if (mpi.error_string(code, text.data(), &length) != MPI_SUCCESS) return fmt::format("error {}", code);
  text.resize(static_cast<std::size_t>(length));
  return text;
}

void check(const Functions& mpi, int code, const char* what) {
  if (code != MPI_SUCCESS) throw InternalError(fmt::format("{}: MPI says: {}", what, error_text(mpi, code)));
}

}  // namespace nibble::mpi
