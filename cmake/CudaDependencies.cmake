# cuDNN's header-only frontend, for attention on the GPU: from a distribution, or from pip's nvidia-cudnn-frontend (and
# cudnn.h from a CUDA toolkit or pip's nvidia-cudnn). The library itself is opened at run time. The target
# nibble_cudnn_frontend exists when both headers are there; without it attention runs on nibble's own kernels.
set(nibble_python_folders $ENV{VIRTUAL_ENV} $ENV{CONDA_PREFIX} $ENV{HOME}/.local /usr/local /usr)
string(REPLACE ":" ";" nibble_path "$ENV{PATH}")
list(TRANSFORM nibble_path APPEND "/..")
list(APPEND nibble_python_folders ${nibble_path})
list(TRANSFORM nibble_python_folders APPEND "/lib/python3*/*-packages")
file(GLOB nibble_packages ${nibble_python_folders})

set(nibble_frontend_hints ${nibble_packages})
list(TRANSFORM nibble_frontend_hints APPEND "/include")
set(nibble_cudnn_hints ${nibble_packages})
list(TRANSFORM nibble_cudnn_hints APPEND "/nvidia/cudnn/include")
find_path(NIBBLE_CUDNN_FRONTEND_INCLUDE cudnn_frontend.h
          HINTS ${nibble_frontend_hints} ${CUDAToolkit_INCLUDE_DIRS} PATHS /usr/local/cuda/include
          PATH_SUFFIXES cudnn_frontend/include DOC "Folder of cudnn_frontend.h")
find_path(NIBBLE_CUDNN_INCLUDE cudnn.h
          HINTS ${CUDAToolkit_INCLUDE_DIRS} ${nibble_cudnn_hints} PATHS /usr/local/cuda/include
          DOC "Folder of cudnn.h, version 9")

# 1.13 is the first with the names used here.
set(nibble_frontend_version 0)
if(NIBBLE_CUDNN_FRONTEND_INCLUDE AND EXISTS ${NIBBLE_CUDNN_FRONTEND_INCLUDE}/cudnn_frontend_version.h)
  file(READ ${NIBBLE_CUDNN_FRONTEND_INCLUDE}/cudnn_frontend_version.h nibble_version_header)
  if(nibble_version_header MATCHES "MAJOR_VERSION ([0-9]+).*MINOR_VERSION ([0-9]+)")
    set(nibble_frontend_version ${CMAKE_MATCH_1}.${CMAKE_MATCH_2})
  endif()
endif()

if(NIBBLE_CUDNN_INCLUDE AND nibble_frontend_version VERSION_GREATER_EQUAL 1.13)
  add_library(nibble_cudnn_frontend INTERFACE)
  target_include_directories(nibble_cudnn_frontend SYSTEM INTERFACE ${NIBBLE_CUDNN_FRONTEND_INCLUDE} ${NIBBLE_CUDNN_INCLUDE})
  target_compile_definitions(nibble_cudnn_frontend INTERFACE NIBBLE_CUDNN_FRONTEND)
  target_link_libraries(nibble_cudnn_frontend INTERFACE ${CMAKE_DL_LIBS})
  message(STATUS "cudnn-frontend ${nibble_frontend_version}: ${NIBBLE_CUDNN_FRONTEND_INCLUDE}")
else()
  message(STATUS "Attention on the GPU without cuDNN: cudnn_frontend.h (1.13 or newer) or cudnn.h is missing; "
                 "pip install nvidia-cudnn-frontend nvidia-cudnn-cu13, or set NIBBLE_CUDNN_FRONTEND_INCLUDE and "
                 "NIBBLE_CUDNN_INCLUDE")
endif()
