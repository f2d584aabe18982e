"""Muon's direction: a momentum matrix with all its singular values brought near 1.

Shapes. R rows (outputs), C columns (inputs) of a weight matrix.
"""

from __future__ import annotations

import mlx.core as mx

# Odd polynomial a x + b x**3 + c x**5 that drives singular values to 0.7 - 1.2 when repeated.
# Source: https://kellerjordan.github.io/posts/muon/
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
REPEATS = 5

# Added to the Frobenius norm that a matrix is divided by. Source: as above.
NORM_EPS = 1e-7

# Root mean square of an update, so that AdamW's learning rate and weight decay suit both.
# Source: arXiv:2502.16982, section 2.2, equation 4.
UPDATE_RMS = 0.2


def orthogonalize(matrix: mx.array) -> mx.array:
    """[R, C] float32 with the same singular vectors and singular values of about 0.7 to 1.2.

    Five Newton-Schulz steps on the smaller side. Directions more than a thousand times weaker
    than the matrix's norm stay smaller. A matrix of zeros stays zero.
    """
    a, b, c = POLYNOMIAL
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (mx.linalg.norm(x) + NORM_EPS)
    for _ in range(REPEATS):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.T if tall else x


def muon_direction(momentum: mx.array) -> mx.array:
    """[R, C] momentum, orthogonalized and scaled to a root mean square of about 0.2."""
    return UPDATE_RMS * max(momentum.shape) ** 0.5 * orthogonalize(momentum)
