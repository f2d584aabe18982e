"""What each of several ranks computes of a decoder. Arithmetic of shapes; needs no MLX."""

from __future__ import annotations

import math

from afm_mlx.errors import ModelError
from afm_mlx.settings.sections import Shape


def part_shape(shape: Shape, size: int) -> Shape:
    """Shape of what each of `size` ranks computes of a model: some of its heads and units.

    Raises:
        ModelError: heads or units do not divide among the ranks.
    """
    counts = {
        "heads": shape.num_heads,
        "key/value heads": shape.num_kv_heads,
        "feed-forward units": shape.intermediate_size,
    }
    for what, count in counts.items():
        if count % size:
            most = math.gcd(*counts.values())
            fitting = [str(each) for each in range(2, most + 1) if most % each == 0]
            raise ModelError(
                f"{count:,} {what} do not divide among {size} machines",
                hint=f"this model can be cut in {', '.join(fitting)}"
                if fitting
                else "this model cannot be cut: each machine must hold all of it",
            )
    return shape.model_copy(
        update={
            "num_heads": shape.num_heads // size,
            "num_kv_heads": shape.num_kv_heads // size,
            "intermediate_size": shape.intermediate_size // size,
        }
    )
