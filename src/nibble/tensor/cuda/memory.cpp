#include "nibble/tensor/cuda/memory.h"

#include "nibble/tensor/cuda/graph.h"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

struct Found {
  int count = 0;
  std::string reason;
};

const Found& found() {
  static const Found result = [] {
    Found f;
    const cudaError_t status = cudaGetDeviceCount(&f.count);
    if (status != cudaSuccess) {
      f = {0, cudaGetErrorString(status)};
    } else if (f.count == 0) {
      f.reason = "the driver lists none";
    } else if (!has_kernels()) {
      cudaDeviceProp properties{};
      cudaGetDeviceProperties(&properties, 0);
      f = {0, fmt::format(
                  "{} has compute capability {}.{}, which this build has no kernels for (NIBBLE_CUDA_ARCHITECTURES)",
                  properties.name, properties.major, properties.minor)};
    }
    return f;
  }();
  return result;
}

}  // namespace

int devices() { return found().count; }

CudaDevice device() {
  if (found().count == 0) user_error("no GPU can be used here ({}): choose device = \"cpu\"", found().reason);
  cudaDeviceProp properties{};
  int current = 0;
  check(cudaGetDevice(&current), "asking for the GPU");
  check(cudaGetDeviceProperties(&properties, current), "asking for the GPU's properties");
  std::size_t free_memory = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free_memory, &total), "asking for the GPU's memory");
  return {.name = properties.name,
          .compute_capability = 10 * properties.major + properties.minor,
          .multiprocessors = properties.multiProcessorCount,
          .memory = properties.totalGlobalMem,
          .free_memory = free_memory,
          .l2 = static_cast<std::size_t>(properties.l2CacheSize)};
}

void* allocate(std::size_t bytes) {
  if (found().count == 0) device();  // says why
  void* p = nullptr;
  const cudaError_t status = cudaMalloc(&p, std::max<std::size_t>(bytes, 64));
  if (status == cudaErrorMemoryAllocation) {
    std::size_t free_bytes = 0;
    std::size_t total = 0;
    cudaGetLastError();  // an allocation that failed leaves nothing else behind
    check(cudaMemGetInfo(&free_bytes, &total), "asking for the GPU's memory");
    user_error(
        "{:.2f} GiB are wanted on the GPU, {:.2f} of its {:.2f} GiB are free: lower train.micro_batch or the model's "
        "size",
        static_cast<double>(bytes) / (1 << 30), static_cast<double>(free_bytes) / (1 << 30),
        static_cast<double>(total) / (1 << 30));
  }
  check(status, "allocating memory");
  return p;
}

void free(void* p) { cudaFree(p); }

void copy(const Tensor& from, const Tensor& to) {
  if (from.bytes() == 0) return;
  if (from.device() == Device::Cpu) return to_device(to.raw(), from.raw(), from.bytes());
  if (to.device() == Device::Cpu) return to_host(to.raw(), from.raw(), from.bytes());
  check(cudaMemcpyAsync(to.raw(), from.raw(), from.bytes(), cudaMemcpyDeviceToDevice, stream()), "copying");
}

void synchronize() {
  const Uncaptured at_once;
  check(cudaStreamSynchronize(stream()), "waiting");
}

}  // namespace nibble::cuda
