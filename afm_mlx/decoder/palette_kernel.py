"""Kernels of look-up layers: one body for Metal, CUDA and, in the tests, C++.

The body is C++ that all three read. What differs is in a few macros: where the tables of a block
lie, how lanes wait for each other and sum. 32 lanes (a simdgroup, a warp) work in step; code under
EACH_LANE is what one lane does, and on a CPU a loop over them.

Seen so far: the bodies as C++, in tests/decoder/test_palette_kernel.py. Four rows to 32 lanes, and
two such teams in a block, are what MLX's own kernel for a quantized matrix and a vector has.

Shapes. M rows of x, O rows and I columns of the weight, S words of a row, G tables of K values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import mlx.core as mx

LANES = 32
"""Threads that work in step, of Apple's and NVIDIA's GPUs."""

TEAM_ROWS = 4
"""Rows of the weight that 32 lanes compute: each value of x is read once for all."""

TEAMS = 2
"""Teams of 32 lanes in a block of threads."""

MATVEC = """
    constexpr int IDS = 32 / BITS;                        // in a word
    constexpr int ENTRIES = BITS == 8 ? 1 : (1 << BITS);  // of a table; at 8 bits the row's scale
    const int rows = ids_shape[0];
    const int words = ids_shape[1];
    const int first = (block * TEAMS + team) * TEAM_ROWS;

    SHARED float table[TEAMS][TEAM_ROWS][ENTRIES];
    EACH_LANE {
        for (int at = lane; at < TEAM_ROWS * ENTRIES; at += LANES) {
            const int row = min(first + at / ENTRIES, rows - 1);
            const int group = row / GROUP_ROWS;
            table[team][at / ENTRIES][at % ENTRIES] =
                static_cast<float>(tables[group * ENTRIES + at % ENTRIES]);
        }
    }
    WAIT;

    OF_LANE(sums, TEAM_ROWS);
    EACH_LANE {
        for (int r = 0; r < TEAM_ROWS; r++) {
            MINE(sums)[r] = 0;
        }
        for (int word = lane; word < words; word += LANES) {
            float inputs[IDS];
            for (int i = 0; i < IDS; i++) {
                inputs[i] = static_cast<float>(x[(batch * words + word) * IDS + i]);
            }
            for (int r = 0; r < TEAM_ROWS; r++) {
                const unsigned packed = ids[min(first + r, rows - 1) * words + word];
                for (int i = 0; i < IDS; i++) {
                    const int id = int(packed << (32 - BITS - BITS * i)) >> (32 - BITS);
                    MINE(sums)[r] += inputs[i] * (
                        BITS == 8 ? float(id) : table[team][r][id & (ENTRIES - 1)]);
                }
            }
        }
    }
    for (int r = 0; r < TEAM_ROWS; r++) {
        const float sum = SUM_OF_LANES(sums, r) * (BITS == 8 ? table[team][r][0] : 1.0f);
        if (IS_FIRST_LANE && first + r < rows) {
            y[batch * rows + first + r] = static_cast<T>(sum);
        }
    }
"""
"""y [M, O] = x [M, S * 32 / BITS] times the weight, for few rows of x; sums in float32."""

EXPAND = """
    constexpr int IDS = 32 / BITS;
    constexpr int ENTRIES = BITS == 8 ? 1 : (1 << BITS);
    const int words = ids_shape[1];
    EACH_LANE {
        const int at = (block * TEAMS + team) * LANES + lane;
        const int row = at / words;
        if (row < ids_shape[0]) {
            const unsigned packed = ids[at];
            const int first = (row / GROUP_ROWS) * ENTRIES;
            for (int i = 0; i < IDS; i++) {
                const int id = int(packed << (32 - BITS - BITS * i)) >> (32 - BITS);
                const float value = static_cast<float>(
                    tables[first + (BITS == 8 ? 0 : id & (ENTRIES - 1))]);
                const int column = (at % words) * IDS + i;
                if (column < COLUMNS) {
                    w[row * COLUMNS + column] =
                        static_cast<T>(BITS == 8 ? value * float(id) : value);
                }
            }
        }
    }
"""
"""w [O, I] = the weight, for a matrix product; a lane takes a word."""

SIZES = f"""
#define LANES {LANES}
#define TEAM_ROWS {TEAM_ROWS}
#define TEAMS {TEAMS}
"""

_IN_STEP = """
#define EACH_LANE
#define OF_LANE(name, size) float name[size]
#define MINE(name) name
#define IS_FIRST_LANE (lane == 0)
"""


@dataclass(frozen=True)
class Dialect:
    """What one language needs around the bodies."""

    header: str
    """Macros and functions, before the kernel."""
    start: str
    """First lines of the kernel: `lane`, `team`, `block` along rows, and `batch`."""


METAL = Dialect(
    SIZES
    + _IN_STEP
    + """
#define SHARED threadgroup
#define WAIT simdgroup_barrier(mem_flags::mem_threadgroup)
#define SUM_OF_LANES(name, r) simd_sum(name[r])
""",
    """
    const int lane = thread_index_in_simdgroup;
    const int team = simdgroup_index_in_threadgroup;
    const int block = threadgroup_position_in_grid.x;
    const int batch = threadgroup_position_in_grid.y;
""",
)

CUDA = Dialect(
    SIZES
    + _IN_STEP
    + """
#define SHARED __shared__
#define WAIT __syncwarp()
#define SUM_OF_LANES(name, r) sum_of_lanes(name[r])
__device__ inline float sum_of_lanes(float value) {
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
        value += __shfl_xor_sync(0xffffffff, value, offset);
    }
    return value;
}
""",
    """
    const int lane = threadIdx.x % LANES;
    const int team = threadIdx.x / LANES;
    const int block = blockIdx.x;
    const int batch = blockIdx.y;
""",
)


@dataclass(frozen=True)
class Kernels:
    """The two kernels of a device. Ids are words [O, S], also those of 8 bits."""

    matvec: Callable[..., mx.array]
    """y [M, O] of x [M, S * 32 / bits], ids, tables; keywords bits and group_rows."""
    expand: Callable[..., mx.array]
    """Weight [O, I] of ids, tables; keywords bits, group_rows, columns and dtype."""


@cache
def device_kernels() -> Kernels | None:
    """Those of Metal or CUDA; None where there is neither."""
    make: Any
    if mx.metal.is_available():
        make, dialect = mx.fast.metal_kernel, METAL
    elif mx.cuda.is_available():
        make, dialect = mx.fast.cuda_kernel, CUDA
    else:
        return None

    def built(
        name: str, inputs: list[str], output: str, body: str
    ) -> Callable[..., list[mx.array]]:
        made: Callable[..., list[mx.array]] = make(
            name=f"afm_palette_{name}",
            input_names=inputs,
            output_names=[output],
            source=dialect.start + body,
            header=dialect.header,
        )
        return made

    matvec = built("matvec", ["x", "ids", "tables"], "y", MATVEC)
    expand = built("expand", ["ids", "tables"], "w", EXPAND)
    return Kernels(partial(_matvec, matvec), partial(_expand, expand))


def _matvec(
    kernel: Callable[..., list[mx.array]],
    x: mx.array,
    ids: mx.array,
    tables: mx.array,
    *,
    bits: int,
    group_rows: int,
) -> mx.array:
    rows, threads = ids.shape[0], LANES * TEAMS
    blocks = -(-rows // (TEAMS * TEAM_ROWS))
    (y,) = kernel(
        inputs=[x, ids, tables],
        template=[("T", x.dtype), ("BITS", bits), ("GROUP_ROWS", group_rows)],
        grid=(blocks * threads, x.shape[0], 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[(x.shape[0], rows)],
        output_dtypes=[x.dtype],
    )
    return y


def _expand(
    kernel: Callable[..., list[mx.array]],
    ids: mx.array,
    tables: mx.array,
    *,
    bits: int,
    group_rows: int,
    columns: int,
    dtype: mx.Dtype,
) -> mx.array:
    threads = LANES * TEAMS
    (weight,) = kernel(
        inputs=[ids, tables],
        template=[
            ("T", dtype),
            ("BITS", bits),
            ("GROUP_ROWS", group_rows),
            ("COLUMNS", columns),
        ],
        grid=(-(-ids.size // threads) * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[(ids.shape[0], columns)],
        output_dtypes=[dtype],
    )
    return weight
