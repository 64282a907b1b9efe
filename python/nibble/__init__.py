"""Pre-train large language models with 4-bit floating-point matrix products.

q = nibble.quantize(x, nibble.QuantSpec(element="e2m1", granularity=16, scale="nvfp4"))
result = nibble.train("demo", recipe="quartet2", out="runs/mine", on_step=print)

docs/python.md leads through the package; the library behind it is nibble's C++ library.
"""

from nibble._core import (
    AlarmStop,
    Dgrad,
    Fprop,
    LinearRecipe,
    QTensor,
    QuantSpec,
    Recipe,
    Step,
    UserError,
    Wgrad,
    compare,
    evaluate,
    parse_recipe,
    quantize,
    read_run,
    recipe,
    recipes,
    train,
)
from nibble._core import version as __version__

__all__ = [
    "AlarmStop",
    "Dgrad",
    "Fprop",
    "LinearRecipe",
    "QTensor",
    "QuantSpec",
    "Recipe",
    "Step",
    "UserError",
    "Wgrad",
    "__version__",
    "compare",
    "evaluate",
    "parse_recipe",
    "quantize",
    "read_run",
    "recipe",
    "recipes",
    "train",
]
