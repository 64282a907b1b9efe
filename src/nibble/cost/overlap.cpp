#include "nibble/cost/overlap.h"

#include <algorithm>

namespace nibble {

Timeline overlap(const std::vector<Piece>& pieces, std::size_t buckets) {
  Timeline line;
  double free = pieces.empty() ? 0 : pieces.front().gather;  // when the link is
  double gathered = free;
  double end = 0;
  std::vector<double> reduced;
  for (std::size_t k = 0; k < pieces.size(); ++k) {
    const Piece& piece = pieces[k];
    double begin = std::max(end, gathered);
    if (piece.reduce > 0 && buckets > 0 && reduced.size() >= buckets) {
      begin = std::max(begin, reduced[reduced.size() - buckets]);
    }
    end = begin + piece.compute;
    gathered = 0;
    if (k + 1 < pieces.size() && pieces[k + 1].gather > 0) {
      gathered = free = std::max(free, begin) + pieces[k + 1].gather;
    }
    if (piece.reduce > 0) {
      free = std::max(free, end) + piece.reduce;
      reduced.push_back(free);
    }
    line.compute += piece.compute;
    line.communication += piece.gather + piece.reduce;
  }
  line.seconds = std::max(end, free);
  return line;
}

}  // namespace nibble
