"""Array types with their shapes: jaxtyping's where something checks them, else the array's own.

To load jaxtyping takes an eighth of a plan's time (its import hook brings unittest.mock, that
asyncio), so modules that planning reads take the types from here. Who checks shapes, as the tests
do, has loaded jaxtyping before.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool as Bool
    from jaxtyping import Float as Float
    from jaxtyping import Float32 as Float32
    from jaxtyping import Float64 as Float64
    from jaxtyping import Int64 as Int64
    from jaxtyping import Shaped as Shaped
    from jaxtyping import UInt8 as UInt8
    from jaxtyping import UInt16 as UInt16
else:

    class Shaped:
        """An array of any shape."""

        def __class_getitem__(cls, array_and_shape: tuple[Any, str]) -> Any:  # noqa: ANN401
            """Return the array's type."""
            return array_and_shape[0]

    Bool = Float = Float32 = Float64 = Int64 = UInt8 = UInt16 = Shaped
