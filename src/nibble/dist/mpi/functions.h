// Open MPI's functions and handles, opened when the first is asked for: a process that is no rank never loads them. Its
// handles are addresses of variables of the library, which the macros of its header cannot name without linking.
#pragma once

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include "nibble/tensor/library.h"

namespace nibble::mpi {

struct Functions {
  // Open MPI's plug-ins look for its names among those that every library sees.
  SharedLibrary library{"joining several ranks", {"libmpi.so.40", "libmpi.so"}, SharedLibrary::Names::ByAll};

  decltype(&MPI_Init_thread) init = library.function<decltype(&MPI_Init_thread)>("MPI_Init_thread");
  decltype(&MPI_Finalize) finalize = library.function<decltype(&MPI_Finalize)>("MPI_Finalize");
  decltype(&MPI_Abort) abort = library.function<decltype(&MPI_Abort)>("MPI_Abort");
  decltype(&MPI_Error_string) error_string = library.function<decltype(&MPI_Error_string)>("MPI_Error_string");
  decltype(&MPI_Get_library_version) library_version =
      library.function<decltype(&MPI_Get_library_version)>("MPI_Get_library_version");
  decltype(&MPI_Comm_set_errhandler) set_errhandler =
      library.function<decltype(&MPI_Comm_set_errhandler)>("MPI_Comm_set_errhandler");
  decltype(&MPI_Comm_rank) rank = library.function<decltype(&MPI_Comm_rank)>("MPI_Comm_rank");
  decltype(&MPI_Comm_size) size = library.function<decltype(&MPI_Comm_size)>("MPI_Comm_size");
  decltype(&MPI_Comm_dup) dup = library.function<decltype(&MPI_Comm_dup)>("MPI_Comm_dup");
  decltype(&MPI_Comm_split_type) split_type = library.function<decltype(&MPI_Comm_split_type)>("MPI_Comm_split_type");
  decltype(&MPI_Comm_free) comm_free = library.function<decltype(&MPI_Comm_free)>("MPI_Comm_free");
  decltype(&MPI_Type_contiguous) type_contiguous =
      library.function<decltype(&MPI_Type_contiguous)>("MPI_Type_contiguous");
  decltype(&MPI_Type_create_resized) type_resized =
      library.function<decltype(&MPI_Type_create_resized)>("MPI_Type_create_resized");
  decltype(&MPI_Type_commit) type_commit = library.function<decltype(&MPI_Type_commit)>("MPI_Type_commit");
  decltype(&MPI_Type_free) type_free = library.function<decltype(&MPI_Type_free)>("MPI_Type_free");
  decltype(&MPI_Isend) isend = library.function<decltype(&MPI_Isend)>("MPI_Isend");
  decltype(&MPI_Irecv) irecv = library.function<decltype(&MPI_Irecv)>("MPI_Irecv");
  decltype(&MPI_Test) test = library.function<decltype(&MPI_Test)>("MPI_Test");
  decltype(&MPI_Cancel) cancel = library.function<decltype(&MPI_Cancel)>("MPI_Cancel");
  decltype(&MPI_Wait) wait = library.function<decltype(&MPI_Wait)>("MPI_Wait");
  decltype(&MPI_Ibcast) ibcast = library.function<decltype(&MPI_Ibcast)>("MPI_Ibcast");
  decltype(&MPI_Iallgather) iallgather = library.function<decltype(&MPI_Iallgather)>("MPI_Iallgather");
  decltype(&MPI_Ialltoall) ialltoall = library.function<decltype(&MPI_Ialltoall)>("MPI_Ialltoall");
  decltype(&MPI_Ibarrier) ibarrier = library.function<decltype(&MPI_Ibarrier)>("MPI_Ibarrier");

  MPI_Comm world = static_cast<MPI_Comm>(library.variable("ompi_mpi_comm_world"));
  MPI_Datatype byte = static_cast<MPI_Datatype>(library.variable("ompi_mpi_byte"));
  MPI_Info no_info = static_cast<MPI_Info>(library.variable("ompi_mpi_info_null"));
  MPI_Errhandler errors_return = static_cast<MPI_Errhandler>(library.variable("ompi_mpi_errors_return"));
  MPI_Request no_request = static_cast<MPI_Request>(library.variable("ompi_request_null"));
};

/// The words for an error code.
std::string error_text(const Functions& mpi, int code);

/// Throws InternalError when a call failed; `what` names it.
void check(const Functions& mpi, int code, const char* what);

}  // namespace nibble::mpi
