"""Build, shrink, adapt and run Apple-style on-device language models on MLX."""

from afm_mlx.compat import load_blas

# Before anything imports MLX: on Linux its wheel is linked to a slow BLAS (see compat.load_blas).
load_blas()


def __getattr__(name: str) -> object:
    """`Session`, imported when it is asked for: it takes a second."""
    if name == "Session":
        from afm_mlx.inference.session import Session

        return Session
    raise AttributeError(f"module 'afm_mlx' has no attribute '{name}'")
