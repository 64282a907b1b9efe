# CUDA: a toolkit if there is one (NIBBLE_CUDA = auto, on, off). Sets NIBBLE_WITH_CUDA and the target nibble_cuda, with what
# the sources under cuda/ need to compile and to link. cuBLASLt and cuDNN are opened at run time, when they are first needed,
# so the program starts on a machine without them.
set(NIBBLE_WITH_CUDA OFF)
if(NOT NIBBLE_CUDA STREQUAL "off" AND NOT NIBBLE_SANITIZE)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(NIBBLE_WITH_CUDA ON)
  elseif(NIBBLE_CUDA STREQUAL "on")
    message(FATAL_ERROR "NIBBLE_CUDA is on, but no CUDA compiler was found: set CMAKE_CUDA_COMPILER to nvcc")
  endif()
endif()

if(NIBBLE_WITH_CUDA)
  set(CMAKE_CUDA_ARCHITECTURES ${NIBBLE_CUDA_ARCHITECTURES})
  enable_language(CUDA)
  # CMake 3.25 knows no C++20 flag of nvcc 13: the flag is passed below, and the requirement taken over from C++ dropped.
  set(CMAKE_CUDA_STANDARD_REQUIRED OFF)
  unset(CMAKE_CUDA_STANDARD)
  # Exact arithmetic, as on the CPU: no contraction, so that codes are the same bits; kernels write fmaf where they want it.
  add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--expt-relaxed-constexpr;-fmad=false;-lineinfo;--threads=0>"
                      "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-ffp-contract=off>")
  find_package(CUDAToolkit REQUIRED)
  add_library(nibble_cuda INTERFACE)
  target_link_libraries(nibble_cuda INTERFACE CUDA::cudart_static ${CMAKE_DL_LIBS})
  include(${CMAKE_CURRENT_LIST_DIR}/CudaDependencies.cmake)
  message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${NIBBLE_CUDA_ARCHITECTURES}")
endif()
