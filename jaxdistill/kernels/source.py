"""The whole source of a kernel, in C for the system's compiler and in CUDA C++ for NVRTC.

Both have the same function of one lane. They differ in what stands before it, and in who calls it: a loop over the
lanes, or a thread for each.
"""

from jaxdistill.kernels.translation import INPUTS, Translation

KERNEL_NAME = "advance"

_C_TYPES = """#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define FUNCTION static inline
#define RESTRICT restrict
#define INFINITE __builtin_inff()
#define NOT_A_NUMBER __builtin_nanf("")

typedef struct { float x, y; } float2;
typedef struct { float x, y, z, w; } float4;
typedef struct { int x, y; } int2;
typedef struct { int x, y, z, w; } int4;
typedef struct { unsigned x, y; } uint2;
typedef struct { unsigned x, y, z, w; } uint4;

FUNCTION float2 make_float2(float x, float y) { return (float2){x, y}; }
FUNCTION float4 make_float4(float x, float y, float z, float w) { return (float4){x, y, z, w}; }
FUNCTION int2 make_int2(int x, int y) { return (int2){x, y}; }
FUNCTION int4 make_int4(int x, int y, int z, int w) { return (int4){x, y, z, w}; }
FUNCTION uint2 make_uint2(unsigned x, unsigned y) { return (uint2){x, y}; }
FUNCTION uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return (uint4){x, y, z, w}; }
FUNCTION float float_of(int bits) { float x; memcpy(&x, &bits, 4); return x; }
FUNCTION int bits_of(float x) { int bits; memcpy(&bits, &x, 4); return bits; }
"""

_CUDA_TYPES = """#define FUNCTION static __device__ __forceinline__
#define RESTRICT __restrict__
#define INFINITE __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fc00000)

FUNCTION float float_of(int bits) { return __int_as_float(bits); }
FUNCTION int bits_of(float x) { return __float_as_int(x); }
"""

_ARITHMETIC = """
/* Where C leaves a result open, it is that of XLA. */
FUNCTION int add_int(int a, int b) { return (int)((unsigned)a + (unsigned)b); }
FUNCTION int sub_int(int a, int b) { return (int)((unsigned)a - (unsigned)b); }
FUNCTION int mul_int(int a, int b) { return (int)((unsigned)a * (unsigned)b); }
FUNCTION int div_int(int a, int b) { return b == 0 ? -1 : b == -1 ? sub_int(0, a) : a / b; }
FUNCTION int rem_int(int a, int b) { return b == 0 ? a : b == -1 ? 0 : a % b; }
FUNCTION unsigned div_uint(unsigned a, unsigned b) { return b == 0u ? 0xffffffffu : a / b; }
FUNCTION unsigned rem_uint(unsigned a, unsigned b) { return b == 0u ? a : a % b; }
FUNCTION int abs_int(int a) { return a < 0 ? sub_int(0, a) : a; }
FUNCTION int clamp_int(int low, int x, int high) {
  x = x > low ? x : low;
  return x < high ? x : high;
}
FUNCTION unsigned clamp_uint(unsigned low, unsigned x, unsigned high) {
  x = x > low ? x : low;
  return x < high ? x : high;
}
FUNCTION unsigned shift_left(unsigned a, unsigned n) { return n < 32u ? a << n : 0u; }
FUNCTION unsigned shift_right(unsigned a, unsigned n) { return n < 32u ? a >> n : 0u; }
FUNCTION bool is_finite(float x) { return (bits_of(x) & 0x7f800000) != 0x7f800000; }
FUNCTION float max_float(float a, float b) { return a >= b || a != a ? a : b; }
FUNCTION float min_float(float a, float b) { return a <= b || a != a ? a : b; }
FUNCTION float sign_float(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }
FUNCTION int to_int(float x) {
  return x != x ? 0 : x >= 2147483648.0f ? 2147483647 : x <= -2147483648.0f ? -2147483647 - 1 : (int)x;
}
FUNCTION unsigned to_uint(float x) { return !(x > 0.0f) ? 0u : x >= 4294967296.0f ? 0xffffffffu : (unsigned)x; }
"""


C_PRELUDE, CUDA_PRELUDE = _C_TYPES + _ARITHMETIC, _CUDA_TYPES + _ARITHMETIC
"""What the function of one lane needs, and stands before it."""


def c_source(translation: Translation) -> str:
    """The kernel in C: `advance` advances one lane after another."""
    call = f"  for (int lane = 0; lane < num_lanes; lane++) advance_lane({_names(translation)}, lane);\n"
    return f"{C_PRELUDE}{_lane_function(translation)}\nvoid {KERNEL_NAME}({_parameters(translation)}) {{\n{call}}}\n"


def cuda_source(translation: Translation) -> str:
    """The kernel in CUDA C++: thread number `lane` of the grid advances that lane."""
    call = (
        "  const int lane = blockIdx.x * blockDim.x + threadIdx.x;\n"
        f"  if (lane < num_lanes) advance_lane({_names(translation)}, lane);\n"
    )
    head = f'extern "C" __global__ void {KERNEL_NAME}({_parameters(translation)})'
    return f"{CUDA_PRELUDE}{_lane_function(translation)}\n{head} {{\n{call}}}\n"


def _lane_function(translation: Translation) -> str:
    return f"\nFUNCTION void advance_lane({_parameters(translation)}, int lane) {{\n{translation.body}\n}}\n"


def _parameters(translation: Translation) -> str:
    arrays = [x.declaration for x in (*translation.lane_parameters, *translation.shared_parameters)]
    inputs = [f"const int* RESTRICT {name}" for name in INPUTS]
    return ", ".join([*arrays, *inputs, "int* RESTRICT status", "int num_lanes"])


def _names(translation: Translation) -> str:
    arrays = [x.name for x in (*translation.lane_parameters, *translation.shared_parameters)]
    return ", ".join([*arrays, *INPUTS, "status", "num_lanes"])
