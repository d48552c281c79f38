"""Computations on rows: entropies, losses, random bits, sampling by inversion, and packed tables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import random as extend_random
from scipy import stats

from jaxdistill.engine import packing, threefry
from jaxdistill.methods import losses, numerics
from tests import small

RNG = np.random.default_rng(0)


def rows(num: int, size: int, *, zeros: bool = False) -> np.ndarray:
    """Random distributions; with `zeros` a third of the entries are 0, including the first and the last."""
    probs = np.random.default_rng(size).dirichlet(np.ones(size), num)
    if zeros:
        probs[:, ::3] = 0
        probs[:, -1] = 0
        probs /= probs.sum(-1, keepdims=True)
    return probs


# --- Entropies and losses -------------------------------------------------------------------------------------


def test_entropies_by_hand():
    p, q = jnp.array([0.5, 0.25, 0.25, 0.0]), jnp.array([0.25, 0.25, 0.25, 0.25])
    assert numerics.entropy(p) == pytest.approx(1.5 * np.log(2))
    assert numerics.entropy(jnp.eye(3)[1]) == 0
    assert numerics.cross_entropy(p=p, log_q=jnp.log(q)) == pytest.approx(2 * np.log(2))
    assert numerics.cross_entropy(p=p, log_q=jnp.log(p)) == pytest.approx(1.5 * np.log(2))  # 0 log 0 = 0
    assert numerics.cross_entropy(p=q, log_q=jnp.log(p)) == np.inf  # p is 0 where q is not
    np.testing.assert_allclose(numerics.log_positive(p), np.log([0.5, 0.25, 0.25, 1.0]), rtol=1e-6)
    terms = numerics.kl_terms(p=p, log_p=numerics.log_positive(p), log_q=jnp.log(q))
    np.testing.assert_allclose(terms, [0.5 * np.log(2), 0, 0, 0], atol=1e-6)


def test_log_floored():
    np.testing.assert_allclose(
        numerics.log_floored(jnp.array([0.0, 0.005, 0.5]), 0.01), np.log([0.01, 0.01, 0.5]), rtol=1e-6
    )
    assert numerics.log_floored(jnp.zeros(1), 0.0)[0] == -np.inf


LOSSES = {
    "cross_entropy": lambda p, q: -np.sum(p * np.log(q)),
    "reverse_cross_entropy": lambda p, q: -np.sum(q * np.log(p)),
    "forward_kl": lambda p, q: np.sum(p * (np.log(p) - np.log(q))),
    "reverse_kl": lambda p, q: np.sum(q * (np.log(q) - np.log(p))),
}


def evaluate(name, p, logits):
    teacher = {"teacher_probs": p} if name in ("cross_entropy", "forward_kl") else {"teacher_log_probs": jnp.log(p)}
    return getattr(losses, name)(student_logits=logits, **teacher)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients(name):
    """Values against NumPy in float64, gradients against central differences of the NumPy values."""
    for p, logits in zip(rows(5, 4), RNG.normal(size=(5, 4)), strict=True):

        def value(x, p=p):
            q = np.exp(x) / np.exp(x).sum()
            return LOSSES[name](p, q)

        loss = functools.partial(evaluate, name, jnp.asarray(p, jnp.float32))
        assert loss(jnp.asarray(logits, jnp.float32)) == pytest.approx(value(logits), rel=1e-4, abs=1e-6)
        slopes = [(value(logits + e) - value(logits - e)) / 2e-6 for e in 1e-6 * np.eye(4)]
        np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(logits, jnp.float32)), slopes, atol=3e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "forward_kl"])
def test_losses_at_probability_zero_and_at_extreme_logits(name):
    """A deterministic teacher gives finite values and gradients, and logits of +-200 neither overflow nor give NaN."""
    p = jnp.array([0.0, 1.0, 0.0])
    logits = jnp.array([0.3, -1.2, 0.8])
    np.testing.assert_allclose(jax.grad(lambda x: evaluate(name, p, x))(logits), jax.nn.softmax(logits) - p, atol=1e-6)
    far = jnp.array([200.0, -200.0, 0.0])
    assert evaluate(name, p, far) == pytest.approx(400.0)
    np.testing.assert_allclose(jax.grad(lambda x: evaluate(name, p, x))(far), [1, -1, 0], atol=1e-6)


def test_minimisers_of_the_cross_entropies():
    """H(p||q) is least at q = p, and H(q||p) at the Dirac at the mode of p (App. C)."""
    p = jnp.array([0.5, 0.3, 0.2])
    forward, reverse = jnp.zeros(3), jnp.zeros(3)
    for _ in range(300):
        forward -= jax.grad(lambda x: losses.cross_entropy(teacher_probs=p, student_logits=x))(forward)
        reverse -= jax.grad(lambda x: losses.reverse_cross_entropy(student_logits=x, teacher_log_probs=jnp.log(p)))(
            reverse
        )
    np.testing.assert_allclose(jax.nn.softmax(forward), p, atol=1e-3)
    assert jax.nn.softmax(reverse)[0] > 0.97


@pytest.mark.parametrize("size", [4, 16, 17, 40])
def test_pick(size):
    row = jnp.asarray(RNG.normal(size=size), jnp.float32)
    assert [float(numerics.pick(row, jnp.int32(i))) for i in (0, size // 2, size - 1)] == [
        float(row[i]) for i in (0, size // 2, size - 1)
    ]


# --- Random bits ----------------------------------------------------------------------------------------------


def test_threefry_is_that_of_jax_bit_for_bit():
    words = RNG.integers(2**32, size=(200, 4), dtype=np.uint64).astype(np.uint32)
    words[:3] = [[0, 0, 0, 0], [2**32 - 1] * 4, [0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3]]
    pairs = jax.vmap(lambda w: jnp.stack(threefry.random_bits(w[:2], w[2], w[3])))(jnp.asarray(words))
    for w, pair in zip(words, np.asarray(pairs), strict=True):
        np.testing.assert_array_equal(pair, extend_random.threefry_2x32(jnp.asarray(w[:2]), jnp.asarray(w[2:])))
    # The vectors that Random123 publishes for Threefry-2x32 with 20 rounds.
    assert [hex(x) for x in np.asarray(pairs[0])] == ["0x6b200159", "0x99ba4efe"]
    assert [hex(x) for x in np.asarray(pairs[1])] == ["0x1cb996fc", "0xbb002be7"]
    assert [hex(x) for x in np.asarray(pairs[2])] == ["0xc4923a9c", "0x483df7a0"]


def test_uniform_is_uniform_on_its_grid():
    bits = jnp.array([0, 511, 512, 2**31, 2**32 - 1], jnp.uint32)
    np.testing.assert_array_equal(threefry.uniform(bits), np.float32([0, 0, 2**-23, 0.5, 1 - 2**-23]))
    key, count = jnp.array([7, 9], jnp.uint32), jnp.arange(40_000, dtype=jnp.uint32)
    for stream in (0, 1):
        for word in jax.vmap(lambda c, s=stream: threefry.random_bits(key, c, s))(count):
            u = np.asarray(threefry.uniform(word))
            assert stats.kstest(u, "uniform").pvalue > 1e-4
            assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 4 / np.sqrt(len(u))


# --- Sampling by inversion ------------------------------------------------------------------------------------

U = np.sort(np.random.default_rng(1).random(40_000)).astype(np.float32).clip(0, 1 - 2**-23)
LARGEST = np.float32(1 - 2**-23)
SAMPLERS = {
    "sample_index": lambda probs, u: numerics.sample_index(probs, u),
    "scaled": lambda probs, u: numerics.sample_index(37.5 * probs, u),
    "count_reached": lambda probs, u: packing.count_reached(probs, u),
}


def sampled(name, probs, u):
    row = packing.cumulative(probs) if name == "count_reached" else np.asarray(probs, np.float32)
    return np.asarray(jax.vmap(SAMPLERS[name], (None, 0))(jnp.asarray(row), jnp.asarray(u)))


@pytest.mark.parametrize("size", [2, 5, 16, 17, 40])
@pytest.mark.parametrize("name", SAMPLERS)
def test_sampled_frequencies(name, size):
    """40 000 draws pass a chi-square test at 1e-4, and none has probability 0, also at the least and the greatest u."""
    for zeros in (False, True) if size > 2 else (False,):
        probs = rows(1, size, zeros=zeros)[0]
        index = sampled(name, probs, U)
        counts = np.bincount(index, minlength=size)
        assert len(counts) == size and not counts[probs == 0].any()
        keep = probs > 0
        assert stats.chisquare(counts[keep], len(U) * probs[keep] / probs[keep].sum()).pvalue > 1e-4
        ends = sampled(name, probs, np.float32([0, LARGEST]))
        assert list(ends) == [np.flatnonzero(keep)[0], np.flatnonzero(keep)[-1]]


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_never_lands_on_probability_zero(name):
    """Rounding of the sums could cause it: many float32 rows with zeros at the start, at the end and in between."""
    for size in (3, 5, 17):
        for probs in rows(20, size, zeros=True):
            index = sampled(name, probs, np.concatenate([U[::500], [0, LARGEST]]).astype(np.float32))
            assert (probs[index] > 0).all()
    for hot in range(4):
        assert set(sampled(name, np.eye(4)[hot], np.float32([0, 0.5, LARGEST]))) == {hot}


def test_count_reached_survives_a_u_that_rounded_to_one():
    """u / continue_prob may round up to 1."""
    for probs in (np.array([0.3, 0.7, 0.0]), rows(1, 20, zeros=True)[0]):
        index = int(packing.count_reached(jnp.asarray(packing.cumulative(probs)), jnp.float32(1.0)))
        assert index == np.flatnonzero(probs)[-1]


# --- Packed tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [5, 20])  # by selections, and by concatenation
def test_spread(num):
    row = jnp.asarray(RNG.normal(size=num - 1), jnp.float32)
    expected = np.concatenate([row, [7.0], np.zeros(24 - num)])
    np.testing.assert_array_equal(numerics.spread([row, jnp.float32(7)], 24), expected)


def test_read_and_write():
    table = jnp.asarray(RNG.normal(size=(10, 8)), jnp.float32)
    index = jnp.array([1, 4, 9], jnp.int32)
    np.testing.assert_array_equal(packing.read(table, index), np.asarray(table)[[1, 4, 9]])
    expected = np.array(table)
    expected[[1, 4, 9]] = -1
    np.testing.assert_array_equal(packing.write(table, index, -jnp.ones((3, 8), jnp.float32)), expected)


@pytest.mark.parametrize("by_state", [False, True])
def test_packed_worlds_hold_the_mdp(by_state):
    mdps = [small.random_mdp(i, num_states=4, aliased=True, by_state=by_state, starts=2) for i in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *mdps)
    packed = packing.pack_worlds(stacked)
    assert packed.outcomes_by_state == by_state
    arrivals = np.asarray(packed.arrivals).reshape(3, 4, 3, 4)
    successor = np.asarray(stacked.successor)
    np.testing.assert_array_equal(arrivals[..., 0], successor)
    np.testing.assert_array_equal(arrivals[..., 1], successor // 2)
    np.testing.assert_array_equal(np.ascontiguousarray(arrivals[..., 2]).view(np.float32), stacked.reward)
    np.testing.assert_array_equal(arrivals[..., 3], np.asarray(stacked.terminal))
    outcomes = np.asarray(packed.outcomes).reshape(stacked.outcome_probs.shape)
    np.testing.assert_allclose(outcomes[..., :-1], np.cumsum(stacked.outcome_probs, -1)[..., :-1], atol=1e-6)
    np.testing.assert_array_equal(outcomes[..., -1], 2.0)
    np.testing.assert_array_equal(packed.starts, np.tile([[0, 0], [1, 0]], (3, 1)))
    teacher = packing.pack_teacher(rows(12, 3).reshape(3, 4, 3), np.arange(12.0).reshape(3, 4))
    np.testing.assert_allclose(teacher[:, :3], rows(12, 3), atol=1e-7)
    np.testing.assert_array_equal(teacher[:, 3], np.arange(12.0))


@pytest.mark.parametrize("num", [1, 5, 16, 40])
def test_ranks_of_scores_with_ties(num):
    scores = np.random.default_rng(num).integers(0, 4, size=num).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    expected = np.empty(num, int)
    expected[order] = np.arange(num)
    np.testing.assert_array_equal(numerics.ranks(jnp.asarray(scores)), expected)
