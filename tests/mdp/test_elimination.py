"""Linear systems by elimination: against NumPy, in batches, differentiated; no program contains a factorisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.mdp.elimination import resolve
from jaxdistill.theory import fields
from jaxdistill.theory.exact_update import expected_update
from jaxdistill.theory.moments import update_moments
from jaxdistill.theory.precision import float64


def chain(num_states, batch=(), sums=0.999, seed=0):
    """Random probabilities [*batch, S, S] with these row sums, about a fifth of which are 0."""
    rng = np.random.default_rng(seed)
    shape = (*batch, num_states, num_states)
    weights = rng.dirichlet(np.full(num_states, 0.5), shape[:-1]) * (rng.random(shape) < 0.8)
    return sums * weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)


@pytest.mark.parametrize(("num_states", "columns"), [(1, ()), (65, (2,)), (150, ())])
def test_against_numpy(num_states, columns):
    """Systems of one block and of several, forward and backward in time."""
    matrix = chain(num_states)
    source = np.random.default_rng(1).normal(size=(num_states, *columns))
    solve = jax.jit(resolve, static_argnums=2)
    with float64():
        for m, transpose in ((matrix, False), (matrix.T, True)):
            solution = solve(jnp.asarray(matrix), jnp.asarray(source), transpose)
            np.testing.assert_allclose(solution, np.linalg.solve(np.eye(num_states) - m, source), rtol=1e-9, atol=1e-9)


def test_derivatives_by_central_differences():
    """With respect to both arguments, in forward and in reverse mode, for a batch."""
    matrix, source = chain(6, (2,), 0.9), np.random.default_rng(1).normal(size=(2, 6))

    def total(scale):
        return jnp.sum(jnp.sin(jax.vmap(resolve)(scale * matrix, scale**2 * source)))

    with float64():
        slope = (total(1 + 1e-6) - total(1 - 1e-6)) / 2e-6
        for derivative in (jax.jacfwd, jax.grad):
            assert derivative(total)(1.0) == pytest.approx(float(slope), rel=1e-7)


@pytest.mark.parametrize("program", [expected_update, update_moments])
def test_no_program_contains_a_factorisation(program):
    """With JAX 0.10, two batches of factorisations that run at the same time on two cores wait for ever."""
    mdps, teacher = fields.random_problems(jax.random.key(0), 2)
    fn = jax.vmap(lambda mdp, teacher, x: program(mdp, teacher, "n_distill", x, estimator="mc"))
    text = str(jax.make_jaxpr(fn)(mdps, teacher, jnp.zeros((2, 5, 3))))
    assert "= custom_linear_solve[" in text
    assert not any(f"= {name}{end}" in text for name in ("lu", "triangular_solve") for end in "[ ")


def test_many_batches_at_the_same_time_do_not_deadlock():
    """`jnp.linalg.solve` deadlocked on chains of 30 states in eight batches of 64."""
    matrix = jnp.asarray(chain(30, (8, 64)), jnp.float32)
    total = jax.jit(lambda m: sum(jnp.sum(jax.vmap(resolve)(x, x[..., 0])) for x in m))(matrix)
    assert np.isfinite(total)
