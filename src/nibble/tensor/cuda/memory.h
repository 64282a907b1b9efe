// Memory of a device: what tensor.cpp and device.cpp ask of a backend.
#pragma once

#include "nibble/tensor/device.h"

namespace nibble::cuda {

void* allocate(std::size_t bytes);
void free(void* p);
void fill_zero(const Tensor& tensor);
/// F32 <-> BF16, or a copy; both on the GPU.
void convert(const Tensor& from, const Tensor& to);
/// At least one side is on the GPU.
void copy(const Tensor& from, const Tensor& to);
void synchronize();
/// GPUs that can be used: there, and of a kind that this program has kernels for.
int devices();
/// Whether kernels were compiled for the current GPU.
bool has_kernels();
CudaDevice device();

}  // namespace nibble::cuda
