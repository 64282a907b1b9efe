# MPI between ranks on CPUs (NIBBLE_MPI = auto, on, off): Open MPI's header at build time. The library is opened at run time
# by processes that are one of several ranks, so others start without it. Sets NIBBLE_WITH_MPI, the target nibble_mpi, and
# NIBBLE_MPIRUN where the tests can use it.
set(NIBBLE_WITH_MPI OFF)
if(NOT NIBBLE_MPI STREQUAL "off")
  # Debian keeps each architecture's header in its own folder; the plain name may be another MPI's.
  find_path(NIBBLE_MPI_INCLUDE mpi.h
            HINTS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/openmpi/include $ENV{MPI_HOME}/include
            PATHS /usr/include/openmpi-${CMAKE_SYSTEM_PROCESSOR} /usr/lib64/openmpi/include
            DOC "Folder of Open MPI's mpi.h")
  if(NIBBLE_MPI_INCLUDE AND EXISTS ${NIBBLE_MPI_INCLUDE}/mpi.h)
    file(STRINGS ${NIBBLE_MPI_INCLUDE}/mpi.h nibble_open_mpi REGEX "define[ \t]+OMPI_MAJOR_VERSION")
    if(nibble_open_mpi)
      set(NIBBLE_WITH_MPI ON)
    endif()
  endif()
  if(NIBBLE_WITH_MPI)
    add_library(nibble_mpi INTERFACE)
    target_include_directories(nibble_mpi SYSTEM INTERFACE ${NIBBLE_MPI_INCLUDE})
    target_link_libraries(nibble_mpi INTERFACE ${CMAKE_DL_LIBS})
    find_program(NIBBLE_MPIRUN NAMES mpirun.openmpi mpirun DOC "Open MPI's mpirun, for the tests")
    message(STATUS "Open MPI: ${NIBBLE_MPI_INCLUDE}")
  elseif(NIBBLE_MPI STREQUAL "on")
    message(FATAL_ERROR "NIBBLE_MPI is on, but Open MPI's mpi.h was not found: install libopenmpi-dev, or set NIBBLE_MPI_INCLUDE")
  else()
    message(STATUS "Without MPI: Open MPI's mpi.h (libopenmpi-dev) was not found")
  endif()
endif()
