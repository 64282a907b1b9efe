# The installed library: one libnibble.so, its public headers, a CMake package, the program and its data files.
# docs/library.md is the user's side of it.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# A header that is installed is a promise. It must compile by itself with nothing but fmt beside it (tests/install checks
# that), so none of these includes JSON, the command line, OpenMP or a backend.
set(NIBBLE_PUBLIC_HEADERS
    nibble.h
    numerics/bf16.h numerics/e2m1.h numerics/e3m0.h numerics/fp16.h numerics/fp8.h numerics/int4.h numerics/philox.h
    numerics/portable.h numerics/rounding.h numerics/small_float.h
    tensor/device.h tensor/error.h tensor/profile.h tensor/staging.h tensor/tensor.h tensor/work_graphs.h
    quant/dge.h quant/hadamard.h quant/qtensor.h quant/quant_spec.h quant/quantize.h quant/requantize.h
    ops/attention.h ops/bias.h ops/cross_entropy.h ops/embedding.h ops/gemm.h ops/head_norm.h ops/machine.h ops/reduce.h
    ops/rmsnorm.h ops/rope.h ops/self_test.h ops/spmm.h ops/swiglu.h
    optim/adamw.h
    io/atomic_file.h io/checksum.h io/config_table.h io/data_file.h io/file.h io/file_lock.h io/run_log.h io/safetensors.h
    io/safetensors_folder.h io/safetensors_parts.h io/tensor_source.h
    data/dataset.h data/loader.h data/prepare.h data/shard.h data/text_reader.h data/tokenizer.h
    dist/communicator.h dist/launch.h dist/row_pieces.h
    recipe/describe.h recipe/linear.h recipe/oscillation_watch.h recipe/outlier_channels.h recipe/product_quality.h
    recipe/random_streams.h recipe/recipe.h recipe/row_gather.h recipe/weight_gather.h
    model/config.h model/gather_weights.h model/hugging_face.h model/hugging_face_config.h model/llama.h model/memory.h
    model/packed_sequences.h model/parameter.h model/parameter_memory.h model/parameter_shapes.h model/recompute.h
    model/state_tensor.h
    train/alarms.h train/checkpoint.h train/compare.h train/config.h train/exchange_format.h train/gradient_scaling.h
    train/import.h train/memory.h train/optimizer.h train/stage.h train/stored_model.h train/telemetry.h train/trainer.h
    eval/evaluate.h eval/items.h eval/log_likelihood.h eval/metrics.h eval/model_evaluation.h eval/request.h eval/task.h
    eval/template.h eval/text_rules.h
    report/html.h report/runs.h report/summary.h report/table.h
    cost/communication.h cost/device.h cost/estimate.h cost/memory.h cost/operand.h cost/overlap.h cost/parallel.h
    cost/scaling_curve.h cost/step.h cost/theory.h cost/traffic.h cost/twelve.h
    scaling/fit.h scaling/law.h scaling/law_file.h scaling/points.h
    inspect/figures.h inspect/histogram.h inspect/inspection.h inspect/page.h inspect/text.h)

# What they include is installed too: said here, long before a test would meet it.
foreach(header ${NIBBLE_PUBLIC_HEADERS})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/nibble/${header})
  file(STRINGS ${CMAKE_SOURCE_DIR}/src/nibble/${header} includes REGEX "^#include \"nibble/")
  foreach(line ${includes})
    string(REGEX REPLACE "^#include \"nibble/([^\"]*)\".*" "\\1" included "${line}")
    if(NOT included IN_LIST NIBBLE_PUBLIC_HEADERS)
      message(FATAL_ERROR "${header} is installed and includes ${included}, which is not: cmake/Install.cmake")
    endif()
  endforeach()
endforeach()

# One shared library of all rooms but the command line. What they are built on is linked into it, so that a program that
# uses it needs none of that at build time. Its objects are the rooms'; the rooms themselves only bring their libraries.
set(rooms tensor quant ops dist io data optim recipe model train eval report scaling cost inspect)
list(TRANSFORM rooms PREPEND nibble_)
add_library(nibble_shared SHARED)
foreach(room ${rooms})
  target_sources(nibble_shared PRIVATE $<TARGET_OBJECTS:${room}>)
endforeach()
target_link_libraries(nibble_shared PRIVATE ${rooms} PUBLIC fmt::fmt)
target_include_directories(nibble_shared PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src>
                                                $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(nibble_shared PUBLIC cxx_std_20)
# Before 1.0 a new minor version may change the interface.
set_target_properties(nibble_shared PROPERTIES
                      OUTPUT_NAME nibble EXPORT_NAME nibble VERSION ${PROJECT_VERSION}
                      SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}
                      LINKER_LANGUAGE CXX LINK_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/exports.map)
target_link_options(nibble_shared PRIVATE LINKER:--version-script=${CMAKE_CURRENT_LIST_DIR}/exports.map LINKER:-z,defs)

foreach(header ${NIBBLE_PUBLIC_HEADERS})
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES src/nibble/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/nibble/${folder} COMPONENT development)
endforeach()
install(TARGETS nibble_shared EXPORT nibbleTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT development)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/nibble)
install(EXPORT nibbleTargets NAMESPACE nibble:: DESTINATION ${package_dir} COMPONENT development)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/nibbleConfig.cmake.in ${CMAKE_BINARY_DIR}/nibbleConfig.cmake
                              INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/nibbleConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/nibbleConfig.cmake ${CMAKE_BINARY_DIR}/nibbleConfigVersion.cmake
        DESTINATION ${package_dir} COMPONENT development)

install(TARGETS nibble RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
# io/data_file.h finds these beside the program and beside the library, wherever the prefix has been moved.
install(DIRECTORY recipes models configs devices laws tasks chat_templates DESTINATION ${CMAKE_INSTALL_DATADIR}/nibble COMPONENT runtime)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright COMPONENT runtime)

# ./run package: one .deb of all of it. dpkg-shlibdeps finds what it depends on.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME nibble)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Pre-train language models with 4-bit floating-point matrix products")
set(CPACK_PACKAGE_DESCRIPTION
    "The program nibble and its recipes, the library libnibble, its C++ headers and a CMake package.")
set(CPACK_PACKAGE_CONTACT "The nibble authors <nibble@localhost>")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)  # ldconfig runs after installation and removal
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "libfmt-dev")  # which the headers include
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "openmpi-bin")  # and the library that joins several ranks, which is opened when it is needed
include(CPack)
