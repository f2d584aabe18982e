// The kernels of palette_kernel.py as C++: a thin shim around their bodies, lanes run one by one.
//
// matvec.inc, expand.inc and sizes.inc are written by the test, from the Python file.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "sizes.inc"

using std::min;

static float float_of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

static uint32_t bits_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

struct bfloat {
    uint16_t bits;
    explicit bfloat(float value) {  // to the nearest, ties to even
        const uint32_t wide = bits_of_float(value);
        bits = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
    }
    explicit operator float() const { return float_of_bits(uint32_t(bits) << 16); }
};

struct half {
    uint16_t bits;
    explicit half(float value) {
        // Adding 2^14 times the spacing's power rounds to 11 bits, and to multiples of 2^-24 below.
        const uint32_t wide = bits_of_float(value), sign = (wide >> 16) & 0x8000;
        const float size = float_of_bits(wide & 0x7fffffff);
        if (size >= 65520) {
            bits = sign | 0x7c00;
            return;
        }
        const uint32_t power = std::max(bits_of_float(size) >> 23, 113u);
        const float shift = float_of_bits((power + 13) << 23);
        const float rounded = (size + shift) - shift;
        const uint32_t exact = bits_of_float(rounded);
        bits = sign | (rounded < 6.103515625e-05f ? uint32_t(rounded * 16777216)
                                                  : (exact >> 13) - (112u << 10));
    }
    explicit operator float() const {
        const uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = bits & 0x7fff;
        const float size = rest < 0x400 ? rest * 5.9604644775390625e-08f
                                        : float_of_bits((rest << 13) + (112u << 23));
        return float_of_bits(bits_of_float(size) | sign);
    }
};

#define EACH_LANE for (int lane = 0; lane < LANES; lane++)
#define OF_LANE(name, size) float name[LANES][size]
#define MINE(name) name[lane]
#define IS_FIRST_LANE true
#define SHARED
#define WAIT
#define SUM_OF_LANES(name, r) sum_of_lanes(name, r)

static float sum_of_lanes(float (*sums)[TEAM_ROWS], int r) {
    float values[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        values[lane] = sums[lane][r];
    }
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
        for (int lane = 0; lane < offset; lane++) {
            values[lane] += values[lane + offset];
        }
    }
    return values[0];
}

template <typename T, typename U, int BITS>
void matvec(const T* x, const uint32_t* ids, const int* ids_shape, const U* tables, T* y,
            int GROUP_ROWS, int block, int team, int batch) {
#include "matvec.inc"
}

template <typename T, typename U, int BITS>
void expand(const uint32_t* ids, const int* ids_shape, const U* tables, T* w, int GROUP_ROWS,
            int COLUMNS, int block, int team) {
#include "expand.inc"
}

template <typename T, typename U, int BITS>
void run(bool wants_matvec, const void* x, const uint32_t* ids, const int* ids_shape,
         const void* tables, void* out, int group_rows, int count, int blocks) {
    const U* typed = static_cast<const U*>(tables);
    for (int block = 0; block < blocks; block++) {
        for (int team = 0; team < TEAMS; team++) {
            if (!wants_matvec) {
                expand<T, U, BITS>(ids, ids_shape, typed, static_cast<T*>(out), group_rows, count,
                                   block, team);
                continue;
            }
            for (int batch = 0; batch < count; batch++) {
                matvec<T, U, BITS>(static_cast<const T*>(x), ids, ids_shape, typed,
                                   static_cast<T*>(out), group_rows, block, team, batch);
            }
        }
    }
}

template <typename T, typename U, typename... Rest>
int by_bits(int bits, Rest... rest) {
    switch (bits) {
        case 2: run<T, U, 2>(rest...); return 0;
        case 4: run<T, U, 4>(rest...); return 0;
        case 8: run<T, U, 8>(rest...); return 0;
        default: return 1;
    }
}

// `count`: rows of x for matvec, columns for expand. Formats: 0 float32, 1 float16, 2 bfloat16.
extern "C" int run_kernel(int wants_matvec, int format, int table_format, int bits, const void* x,
                          const uint32_t* ids, const int* ids_shape, const void* tables, void* out,
                          int group_rows, int count, int blocks) {
#define RUN(T, U) \
    return by_bits<T, U>(bits, wants_matvec, x, ids, ids_shape, tables, out, group_rows, count, blocks)
    switch (format * 2 + table_format) {
        case 0: RUN(float, float);
        case 1: RUN(float, half);
        case 2: RUN(half, float);
        case 3: RUN(half, half);
        case 4: RUN(bfloat, float);
        case 5: RUN(bfloat, half);
        default: return 1;
    }
}
