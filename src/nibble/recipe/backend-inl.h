// The functions of the recipe room that every backend defines; backend.h includes this file once in each namespace.

void gather_columns(const Tensor& x, const Tensor& columns, const Tensor& out);
void scatter_columns(const Tensor& part, const Tensor& columns, const Tensor& to, Accumulate accumulate);
void zero_columns(const Tensor& x, const Tensor& columns);
void add_column_squares(const Tensor& x, const Tensor& sums);
void hiding_factors(const Tensor& columns, const Tensor& factors);
void place_columns(const Tensor& from, const Tensor& to, std::int64_t first);
void first_columns(const Tensor& x, const Tensor& out);

void apply_trust_mask(const Tensor& gradient, const Tensor& mask);
void masked_hadamard_inverse(const Tensor& gradient, const Tensor& mask, const Hadamard& transform,
                             const RandomStream& stream, const Tensor& out);

ProductQuality compare_products(const Tensor& exact, const Tensor& computed, const Tensor& before);
double sum_of_distances(const Tensor& a, const Tensor& b);

void update_average(const Tensor& average, const Tensor& w, double decay);
void add_way(const Tensor& now, const Tensor& last, const Tensor& way);
void reset_by_ratio(const Tensor& w, const Tensor& quantised, const Tensor& weight_way, const Tensor& quantised_way,
                    float threshold, const Tensor& flagged);
void reset_at_edge(const Tensor& w, const Tensor& quantised, const Tensor& scales, float threshold,
                   const Tensor& flagged);
void copy_flagged_rows(const Tensor& from, const Tensor& flagged, const Tensor& to);
void fill_bytes(const Tensor& bytes, std::uint8_t value);
