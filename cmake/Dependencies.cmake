# Distribution packages only; what each is for and why it was chosen: docs/dependencies.md.
find_package(OpenMP REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(ZLIB REQUIRED)

# A library without a CMake config that suits every distribution: header + library by name.
function(nibble_find name header library)
  string(MAKE_C_IDENTIFIER ${header} key)
  find_path(${key}_DIR_FOUND ${header} REQUIRED)
  add_library(${name} INTERFACE)
  target_include_directories(${name} SYSTEM INTERFACE ${${key}_DIR_FOUND})
  if(library)
    find_library(${library}_LIBRARY ${library} REQUIRED)
    target_link_libraries(${name} INTERFACE ${${library}_LIBRARY})
  endif()
endfunction()

# oneDNN's own config file wants OpenCL headers that the CPU library does not need.
nibble_find(nibble_dnnl oneapi/dnnl/dnnl.hpp dnnl)
nibble_find(hwy hwy/highway.h hwy)
nibble_find(nibble_sentencepiece sentencepiece_processor.h sentencepiece)
find_library(SENTENCEPIECE_TRAIN sentencepiece_train REQUIRED)
target_link_libraries(nibble_sentencepiece INTERFACE ${SENTENCEPIECE_TRAIN})
nibble_find(zstd_library zstd.h zstd)
nibble_find(simdjson_library simdjson.h simdjson)
nibble_find(xxhash_headers xxhash.h "")
nibble_find(tomlplusplus_headers toml++/toml.h "")
nibble_find(cli11_headers CLI/CLI.hpp "")
