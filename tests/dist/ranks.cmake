# Tests that are started on several ranks: each operation on 1 to 4 of them, and jobs whose ranks fail. With a GPU and no
# MPI, tests/dist/gpus.sh N PROGRAM starts dist_ranks as torchrun would.
add_executable(dist_ranks dist/ranks/main.cpp dist/ranks/collectives_test.cpp dist/ranks/ordered_sum_test.cpp)
target_include_directories(dist_ranks PRIVATE ${CMAKE_SOURCE_DIR})
target_link_libraries(dist_ranks PRIVATE nibble_dist GTest::gtest)
if(NIBBLE_WITH_CUDA)
  target_link_libraries(dist_ranks PRIVATE nibble_cuda)
endif()

if(NIBBLE_WITH_MPI AND NIBBLE_MPIRUN)
  add_executable(dist_faulty dist/ranks/faulty.cpp)
  target_link_libraries(dist_faulty PRIVATE nibble_dist)
  add_dependencies(dist_tests dist_faulty)
  target_compile_definitions(cli_tests PRIVATE NIBBLE_MPIRUN="${NIBBLE_MPIRUN}")
  target_compile_definitions(dist_tests PRIVATE NIBBLE_MPIRUN="${NIBBLE_MPIRUN}" NIBBLE_FAULTY="$<TARGET_FILE:dist_faulty>")
  foreach(ranks 1 2 3 4)
    add_test(NAME dist.on_${ranks}_ranks
             COMMAND ${NIBBLE_MPIRUN} --oversubscribe --bind-to none -n ${ranks} $<TARGET_FILE:dist_ranks> --gtest_brief=1)
    # As many places as ctest has at most: ranks mostly wait for each other.
    set_tests_properties(dist.on_${ranks}_ranks PROPERTIES TIMEOUT 300 PROCESSORS 2 ENVIRONMENT
      "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMP_NUM_THREADS=1;NIBBLE_DIST_TIMEOUT=120")
  endforeach()
endif()
