"""Every primitive that has a translation gives, in C, what XLA gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdistill.kernels.indexing import INDEXING, SCATTERING
from jaxdistill.kernels.primitives import ELEMENTWISE, SPECIAL
from jaxdistill.kernels.rearranging import REARRANGING
from jaxdistill.kernels.reductions import COMBINING
from tests.kernels.functions import compiled

FLOATS = np.array([0.0, -0.0, 1.0, -1.5, 2.5, 0.3, -0.7, 80.0, -90.0, 3e9, -3e9, np.inf, -np.inf, np.nan], np.float32)
INTS = np.array([0, 1, -1, 7, -7, 2**31 - 1, -(2**31), 12345], np.int32)
UINTS = INTS.view(np.uint32)
BOOLS = np.array([True, False, True, False])
SAMPLES = {"f": FLOATS, "i": INTS, "u": UINTS, "b": BOOLS}
ROW = np.array([0.3, -1.2, 2.0, 0.5, 2.0, -0.1], np.float32)
TABLE = np.arange(12, dtype=np.float32).reshape(3, 4) ** 1.5
# XLA computes these by the exponential of a changed argument, whose rounding weighs more the larger the argument is.
UNITS = {"exp2_f": 16, "sinh_f": 16, "cosh_f": 16}
LAX_NAMES = {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "not": "bitwise_not", "add_any": "add"}
NUM_OPERANDS = dict.fromkeys(
    ("add", "add_any", "sub", "mul", "div", "rem", "max", "min", "and", "or", "xor", "shift_left",
     "shift_right_logical", "lt", "le", "gt", "ge", "eq", "ne", "atan2", "nextafter", "pow"), 2,
) | {"clamp": 3}  # fmt: skip


def pairs(sample):
    """All pairs of entries, as two arrays."""
    return np.repeat(sample, len(sample)), np.tile(sample, len(sample))


def elementwise_case(name, kind):
    number, sample = NUM_OPERANDS.get(name, 1), SAMPLES[kind]
    function = getattr(lax, LAX_NAMES.get(name, name))
    if number == 3:
        low, high = np.sort(np.stack(pairs(sample[: 5 if kind == "f" else None])), axis=0)
        return function, (low, np.resize(sample, low.shape), high)
    return function, pairs(sample) if number == 2 else (sample,)


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (doubled(x), x), lambda x, slope: (slope * x,))


def collatz(n):
    def step(carry):
        n, count = carry
        return jnp.where(n % 2 == 0, n // 2, 3 * n + 1), count + 1

    return lax.while_loop(lambda carry: carry[0] != 1, step, (n, jnp.int32(0)))


def exchange(n):
    """Variables of a loop that take each other's place."""
    return lax.while_loop(
        lambda c: c[0] < n, lambda c: (c[0] + 1, c[2], c[1], c[1]), tuple(np.arange(4, dtype=np.int32))
    )


def nested(n):
    def outer(carry):
        i, total = carry
        return i + 1, lax.fori_loop(0, i, lambda j, total: total * 3 + j, total)

    return lax.while_loop(lambda carry: carry[0] < n, outer, (np.int32(0), np.int32(1)))


SEVEN, I3, I1 = np.float32(7), np.int32(3), np.array([2, 0, 5, -1], np.int32)
OTHERS = {
    "select_bool": (lambda c, x, y: jnp.where(c, x, y), (ROW > 0, ROW, ROW * 2)),
    "select_int": (lambda i, *rows: lax.select_n(i, *rows), (np.array([0, 2, 1, 2], np.int32), *TABLE)),
    "convert": (
        lambda f, i, u, b: [x.astype(t) for x in (f, i, u, b) for t in (jnp.float32, jnp.int32, jnp.uint32, bool)],
        (FLOATS[[0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13]], INTS, UINTS, BOOLS),
    ),
    "convert_negative": (lambda f: f.astype(jnp.int32), (FLOATS,)),
    "convert_constant": (lambda x: x + jnp.arange(-1, 3, dtype=jnp.int32).astype(jnp.uint32), (UINTS[:4],)),
    "bitcast": (
        lambda *xs: [lax.bitcast_convert_type(x, t) for x in xs for t in (jnp.float32, jnp.int32, jnp.uint32)],
        (FLOATS[:-1], INTS[:5], UINTS[:5]),
    ),
    "integer_pow": (lambda x: [lax.integer_pow(x, n) for n in (0, 1, 2, 3, 7, -2)], (ROW,)),
    "integer_pow_of_int": (lambda x: lax.integer_pow(x, 3), (INTS,)),
    "pow_int": (lambda x, n: lax.pow(x, n), (np.abs(ROW), np.array([0, 1, 2, 3, -1, -2], np.int32))),
    "round": (lambda x: (lax.round(x), jnp.round(x)), (FLOATS * 0.5,)),
    "places": (
        lambda x: (x.T[::-1, 1:], jnp.pad(x, ((1, 0), (0, 2))), lax.pad(x, SEVEN, ((0, 0, 1), (-1, 0, 0))), x[None]),
        (TABLE,),
    ),
    "joined": (
        lambda x, y: (jnp.concatenate([x, y]), jnp.stack([x, y], 1), jnp.split(x, [2, 3]), lax.expand_dims(x, (1,))),
        (ROW, ROW * 2),
    ),
    "iota": (lambda x: x + lax.broadcasted_iota(jnp.int32, (3, 4), 0) * lax.iota(jnp.float32, 4), (TABLE,)),
    "sums": (lambda x: (x.sum(), x.sum(0), x.max(1), x.min((0, 1)), x.prod(1), jnp.cumsum(x, 1)), (TABLE,)),
    "running": (
        lambda x: (lax.cummax(x, reverse=True), lax.cummin(x), lax.cumprod(x), lax.cumsum(x, reverse=True)),
        (ROW,),
    ),
    "bits_reduced": (
        lambda b, i: (b.all(), b.any(), lax.reduce_xor(i, (0,)), lax.reduce_and(i, (0,)), lax.reduce_or(i, (0,))),
        (ROW > 0, INTS),
    ),
    "extremes": (lambda x: (jnp.argmax(x), jnp.argmin(x), jnp.argmax(x.at[3].set(jnp.nan))), (ROW,)),
    "extremes_of_ints": (lambda x: (jnp.argmax(x, 0), jnp.argmin(x)), (INTS,)),
    "dot": (lambda x, y: (x @ y, x.T @ x, jnp.einsum("ij,ij->i", x, x), jnp.outer(y, y)), (TABLE, ROW[:4])),
    "picked": (lambda x, i: (x[i], x[jnp.clip(i, 0, 2)], x.at[i].get(mode="fill")), (ROW, I3)),
    "picked_twice": (lambda x, i: (x[i % 3, i % 4], x[:, i % 4], x[i % 3]), (TABLE, I3)),
    "picked_many": (lambda x, i: (x[i], jnp.take(x, i), x.at[i].get(mode="clip")), (ROW, INTS[[0, 3, 4, 5]])),
    "picked_by_rows": (lambda x, i: jnp.take_along_axis(x, i[:, None], 1), (TABLE, np.array([1, 3, 0], np.int32))),
    "picked_by_lanes": (jax.vmap(lambda x, i: x[i]), (TABLE, np.array([1, 3, 0], np.int32))),
    "slope_of_pick": (jax.grad(lambda x, i: jnp.exp(x)[i], argnums=0), (ROW, I3)),
    "slope_by_lanes": (jax.vmap(jax.grad(lambda x, i: x[i] ** 2)), (TABLE, np.array([1, 3, 0], np.int32))),
    "placed": (
        lambda x, i: (x.at[i].set(9.0), x.at[i].add(2.0), x.at[i].multiply(3.0), x.at[i].min(0.0), x.at[i].max(1.0)),
        (ROW, I1),
    ),
    "placed_by_rows": (lambda x, i: (x.at[i % 3].set(0.0), x.at[:, i % 4].add(1.0)), (TABLE, I3)),
    "window": (
        lambda x, i: (lax.dynamic_slice(x, (i,), (4,)), lax.dynamic_update_slice(x, x[:2] * 7, (i,))),
        (ROW, I3),
    ),
    "window_of_table": (lambda x, i: lax.dynamic_update_slice(x, x[:2, :1] - 5, (i, i)), (TABLE, I3)),
    "called": (lambda x: jax.jit(jnp.sin)(x) + jax.checkpoint(jnp.cos)(x) + jax.nn.relu(x), (ROW,)),
    "custom_vjp": (lambda x: (doubled(x), jax.grad(lambda x: doubled(x).sum())(x)), (ROW,)),
    "softmax": (lambda x: (jax.nn.softmax(x), jax.nn.log_softmax(x), jax.grad(jax.nn.logsumexp)(x)), (ROW,)),
    "while": (collatz, (np.int32(27),)),
    "exchange": (exchange, (np.int32(5),)),
    "nested": (nested, (np.int32(6),)),
    "scan": (lambda x: lax.scan(lambda c, y: (c * y + 1, c - y), jnp.float32(0.5), x, reverse=True), (ROW,)),
    "fori": (lambda x: lax.fori_loop(0, 4, lambda k, c: c + x[k] * k, jnp.float32(0)), (ROW,)),
    "branch_of_platform": (
        lambda x: lax.platform_dependent(x, tpu=lambda x: x * 0, default=lambda x: x + 1),
        (ROW,),
    ),
    "constants": (lambda x: x + np.array([np.inf, -np.inf, np.nan, 1e-40, -0.1, 1e30], np.float32), (ROW,)),
}  # fmt: skip
CASES = {f"{name}_{kind}": elementwise_case(name, kind) for name, op in ELEMENTWISE.items() for kind in op.expressions}
CASES |= OTHERS


@pytest.fixture(scope="module")
def functions(compiler):
    return compiled(CASES)


def assert_near(ours, theirs, name):
    """Equal integers; floats within 4 units in the last place, NaN and infinities in the same places."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, name
    if ours.dtype != np.float32:
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
        return
    np.testing.assert_allclose(ours, theirs, rtol=UNITS.get(name, 4) * 2.0**-23, atol=2e-38, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_c_gives_what_xla_gives(functions, name):
    function, arguments = CASES[name]
    ours, theirs = functions[name](*arguments), jax.jit(function)(*arguments)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert_near(x, y, name)


def primitives_of(jaxpr):
    """The names of all primitives of a jaxpr, those of the jaxprs inside of it included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from primitives_of(getattr(inner, "jaxpr", inner))


def test_every_row_of_the_tables_is_tested():
    used = {name for fn, arguments in CASES.values() for name in primitives_of(jax.make_jaxpr(fn)(*arguments).jaxpr)}
    tables = {*ELEMENTWISE, *SPECIAL, *REARRANGING, *COMBINING, *INDEXING, *SCATTERING, "split"} - {"add_any"}
    assert not tables - used
