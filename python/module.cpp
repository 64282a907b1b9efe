// nibble._core: the library as Python sees it. Errors: UserError is nibble.UserError, a ValueError with the library's
// sentence; AlarmStop is nibble.AlarmStop, a RuntimeError; whatever else the library throws is a RuntimeError.
#include "nibble/tensor/error.h"
#include "nibble/train/trainer.h"
#include "python/bindings.h"

namespace nb = nanobind;

NB_MODULE(_core, m) {
  m.attr("version") = NIBBLE_VERSION;
  m.doc() = "The library behind nibble; its names are public in the package itself.";
  nb::exception<nibble::UserError>(m, "UserError", PyExc_ValueError).attr("__doc__") =
      "A mistake that the caller can mend: one sentence that says what was wrong, where, and what to do.";
  nb::exception<nibble::AlarmStop>(m, "AlarmStop", PyExc_RuntimeError).attr("__doc__") =
      "An alarm that is to stop a run fired (alarms.stop in the settings). Everything is saved.";
  nibble::python::bind_spec(m);
  nibble::python::bind_quant(m);
  nibble::python::bind_recipe(m);
  nibble::python::bind_train(m);
  nibble::python::bind_eval(m);
  nibble::python::bind_logs(m);
}
