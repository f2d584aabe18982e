"""Build, shrink, adapt and run Apple-style on-device language models on MLX."""

from afm_mlx.compat import load_blas

# Before anything imports MLX: on Linux its wheel is linked to a slow BLAS (see compat.load_blas).
load_blas()
