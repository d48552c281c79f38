"""The engine against the scalar reference; company, order, chunks and ring change no student's numbers."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import MDP, Config, Teacher, from_text, teachers, train
from jaxdistill.engine import packing, tick, xla
from jaxdistill.scheduling import block, chunks, pool
from jaxdistill.training import tasks
from tests import reference, small

NUM_SEEDS, NUM_REFERENCE_SEEDS, NUM_ITERATIONS, NUM_BINS = 512, 80, 60, 4
RATES = {  # large, but where sums over long episodes do not make the spread of tables heavy-tailed
    "grid": {"learning_rate": 0.4, "value_learning_rate": 0.2, "discount": 0.9, "probability_floor": 0.01},
    "aliased": {"learning_rate": 0.1, "value_learning_rate": 0.05, "discount": 0.9, "probability_floor": 0.01},
}
KEY = jax.random.key(3)


def repeated(tree, num: int):
    """A stack of `num` copies; of an MDP, with ids 0 to num - 1."""
    tree = jax.tree.map(lambda x: jnp.tile(jnp.asarray(x), (num, *[1] * jnp.ndim(x))), tree)
    return dataclasses.replace(tree, id=jnp.arange(num, dtype=jnp.int32)) if isinstance(tree, MDP) else tree


@functools.cache
def world(name: str) -> tuple[MDP, Teacher]:
    """A grid of 4 x 5, where bumping into walls revisits states, or aliased states with chance, ties and two starts."""
    if name == "grid":
        mdp = from_text(["S.-..", ".#.x.", "..n.-", "-...+"], termination_prob=0.1)
        return mdp, small.random_teacher(mdp, 5, deterministic_rows=6)
    mdp = small.random_mdp(9, num_states=6, aliased=True, starts=2)
    mdp = dataclasses.replace(mdp, continue_prob=jnp.float32(0.85))
    return mdp, small.random_teacher(mdp, 6, deterministic_rows=2)


@functools.cache
def many(name: str) -> tuple[MDP, Teacher]:
    """Copies of the world, one for each seed; every test uses this shape, and so the same compiled programs."""
    mdp, teacher = world(name)
    return repeated(mdp, NUM_SEEDS), repeated(teacher, NUM_SEEDS)


def run(name, methods, *, rows=slice(None), key=KEY, **changes):
    mdps, teacher = many(name)
    options = RATES[name] | {"num_iterations": NUM_ITERATIONS, "num_checkpoints": NUM_BINS} | changes
    fields = {field.name for field in dataclasses.fields(Config)}  # in a Config, which methods may share
    config = Config(**{name: value for name, value in options.items() if name in fields})
    others = {name: value for name, value in options.items() if name not in fields}
    return train(key, mdps[rows], teacher[rows], methods, config, **others)


@functools.cache
def trained(name: str, methods: tuple[str, ...], estimator: str, reduction: str):
    return run(name, methods, estimator=estimator, reduction=reduction)


def assert_same(ours, theirs):
    """Two results are equal bit for bit."""
    for field in ("returns", "lengths", "final_returns", "logits", "values"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field), err_msg=field)


def assert_same_mean(ours, theirs, what):
    """Means over seeds agree within 4 standard errors of the difference, in every entry.

    The spread of one seed is taken from the larger sample, ours, for both sides. Entries that fewer than a
    quarter of the seeds ever touched are left out: their means over 80 seeds are far from normal.
    """
    spread = np.std(ours, axis=0, ddof=1)
    standard_error = spread * np.sqrt(1 / len(ours) + 1 / len(theirs))
    difference = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    compared = (ours != 0).mean(0) > 0.25
    off = (np.abs(difference) - 1e-5) / np.maximum(standard_error, 1e-12)
    assert compared.any()
    assert off[compared].max() <= 4, f"{what}: off by {off[compared].max():.1f} standard errors"


def binned(x):
    return np.stack(x).reshape(len(x), NUM_BINS, -1).mean(-1)


COMPARED = [
    ("grid", "td", "mean", ("baseline", "on_policy_distill", "on_policy_distill_r", "on_policy_distill_r_vcond",
     "entropy_regularised", "kl_regularised", "teacher_v_reward", "td_v0", "td_vpi")),
    ("grid", "td", "mean", ("n_distill", "exp_entropy_regularised")),
    ("grid", "td", "mean", ("teacher_distill",)),
    ("grid", "mc", "mean", ("n_distill", "exp_entropy_regularised")),
    ("aliased", "mc", "sum", ("baseline", "on_policy_distill_r_vcond", "kl_regularised", "teacher_v_reward")),
    ("aliased", "td", "sum", ("n_distill", "exp_entropy_regularised")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "estimator", "reduction", "methods"), COMPARED, ids=lambda x: x if isinstance(x, str) else x[0]
)
def test_learning_curves_and_tables_of_the_reference(name, estimator, reduction, methods):
    """60 iterations at large rates, so that a wrong update compounds: curves in 4 bins, and final tables."""
    mdp, teacher = world(name)
    result = trained(name, methods, estimator, reduction)
    scalar_world = reference.World.of(mdp)
    scalar_teacher = reference.Teacher(np.asarray(teacher.probs).tolist(), np.asarray(teacher.values).tolist())
    for p, method in enumerate(methods):
        settings = reference.Settings(method, estimator, reduction, **RATES[name])
        runs = [
            reference.train_student(
                scalar_world, scalar_teacher, settings, NUM_ITERATIONS, np.random.default_rng((p, i))
            )
            for i in range(NUM_REFERENCE_SEEDS)
        ]
        assert_same_mean(result.logits[p], np.stack([r.logits for r in runs]), f"{method} logits")
        if result.values[p].any():
            assert_same_mean(result.values[p], np.stack([r.values for r in runs]), f"{method} values")
        else:  # nothing to fit where there is no return
            assert method in ("on_policy_distill", "teacher_distill")
        if result.curve_kind[p] == "sampled":
            assert_same_mean(result.returns[p], binned([r.returns for r in runs]), f"{method} returns")
            assert_same_mean(result.lengths[p], binned([r.lengths for r in runs]), f"{method} lengths")


@pytest.mark.parametrize(("name", "control"), [("grid", "epsilon"), ("aliased", "epsilon"), ("aliased", "boltzmann")])
def test_q_learning_of_the_reference(name, control):
    mdps, _ = many(name)
    number = {"epsilon": {"epsilon": 0.3}, "boltzmann": {"control_temperature": 0.5}}[control]
    options = {"learning_rate": 0.1, "discount": 0.9}
    teacher = teachers.q_learning(KEY, mdps, num_iterations=NUM_ITERATIONS, control=control, **number, **options)
    options[{"epsilon": "epsilon", "boltzmann": "temperature"}[control]] = number.popitem()[1]
    mdp, _ = world(name)
    scalar_world = reference.World.of(mdp)
    runs = [
        reference.train_q_learning(scalar_world, NUM_ITERATIONS, np.random.default_rng(i), **options)
        for i in range(2 * NUM_REFERENCE_SEEDS)
    ]
    theirs = np.stack([r.logits for r in runs])[:, np.asarray(mdp.observation)]
    assert_same_mean(np.asarray(teacher.scores), theirs, "Q")
    assert np.abs(theirs.mean(0)).max() > 0.3, "the test could not fail"


# --- What changes nothing -------------------------------------------------------------------------------------

TOGETHER = COMPARED[0][3]
ALONE = [("grid", "td", "mean", TOGETHER, "baseline"), ("grid", "mc", "mean", COMPARED[3][3], "n_distill")]


@pytest.mark.parametrize(("name", "estimator", "reduction", "methods", "method"), ALONE)
def test_a_row_of_a_batch_is_the_student_alone(name, estimator, reduction, methods, method):
    """Bit for bit, though the program is another (its worlds are [1, ...]); ids, not positions, name the streams."""
    whole = trained(name, methods, estimator, reduction)
    row = 317
    alone = run(name, method, rows=slice(row, row + 1), estimator=estimator, reduction=reduction)
    assert_same(whole.select(labels=[method], mdps=[row]), alone)
    mdps, teacher = many(name)
    options = RATES[name] | {"num_iterations": NUM_ITERATIONS, "num_checkpoints": NUM_BINS}
    config = Config(estimator=estimator, reduction=reduction, **options)
    single = train(KEY, mdps[row], teacher[row], method, config)
    assert_same(alone, single)


def test_order_and_company_change_nothing():
    whole = trained("grid", TOGETHER, "td", "mean")
    order = np.random.default_rng(0).permutation(NUM_SEEDS)
    fewer = ("td_vpi", "baseline", "n_distill", "on_policy_distill")
    shuffled = run("grid", fewer, rows=order, estimator="td")
    for p, method in enumerate(fewer):
        if method in TOGETHER:
            q = TOGETHER.index(method)
            np.testing.assert_array_equal(shuffled.logits[p], whole.logits[q][order])
            np.testing.assert_array_equal(shuffled.returns[p], whole.returns[q][order])


@pytest.mark.parametrize(("name", "estimator", "reduction", "methods"), [COMPARED[0], COMPARED[3]], ids=["td", "mc"])
def test_chunks_and_workers_change_nothing(name, estimator, reduction, methods, monkeypatch):
    """Nor how often the host looks, nor how many lanes a worker keeps busy."""
    monkeypatch.setattr(chunks, "_CHUNK_SECONDS", 1e-9)
    one_worker = pool.workers()[:1]
    monkeypatch.setattr(pool, "workers", lambda: one_worker)
    chunked = run(name, methods, estimator=estimator, reduction=reduction)
    assert_same(trained(name, methods, estimator, reduction), chunked)


@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_the_write_of_an_accelerator_makes_the_same_students(estimator, monkeypatch):
    """On CPU rows are written in turn, elsewhere scattered, to wide blocks; numbers differ by rounding alone."""
    few = functools.partial(run, "grid", "baseline", rows=slice(0, 40), estimator=estimator, num_iterations=20)
    ours = few()
    monkeypatch.setattr(packing, "_write_in_turn", packing._scatter)
    monkeypatch.setattr(tasks, "lane_width", lambda *_: 64)  # another program, so that it is traced anew
    theirs = few()
    np.testing.assert_array_equal(theirs.lengths, ours.lengths)
    np.testing.assert_allclose(theirs.logits, ours.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("estimator", "methods"), [("td", COMPARED[1][3]), ("mc", COMPARED[3][3])], ids=["td", "mc"])
def test_a_small_ring_settles_and_changes_nothing(estimator, methods, monkeypatch):
    """At 128 remembered iterations of 300 the whole table is settled now and then, in the middle of episodes."""
    long = functools.partial(run, "grid", methods, estimator=estimator, num_iterations=300)
    roomy = long()
    settled = []
    monkeypatch.setattr(tasks, "Program", functools.partial(tick.Program, ring=128))
    settle = block.settle
    monkeypatch.setattr(block, "settle", lambda *args: settled.append(1) or settle(*args))
    tight = long()
    assert len(settled) > 10
    assert_same(roomy, tight)


def test_streams_are_named_by_key_label_and_id():
    """Seeds that are all alike are an old bug of JAX training loops; a key that is given again repeats its run."""
    first = run("grid", {"a": "baseline", "b": "baseline"}, estimator="td")
    assert_same(first, run("grid", {"a": "baseline", "b": "baseline"}, estimator="td"))
    other = run("grid", {"a": "baseline"}, estimator="td", key=jax.random.key(4))
    logits = np.concatenate([first.logits.reshape(2 * NUM_SEEDS, -1), other.logits.reshape(NUM_SEEDS, -1)])
    assert len(np.unique(logits, axis=0)) == 3 * NUM_SEEDS
    correlation = np.corrcoef(first.returns[0].mean(-1), first.returns[1].mean(-1))[0, 1]
    assert abs(correlation) < 4 / np.sqrt(NUM_SEEDS)  # the standard error of a correlation that is 0


def test_stream_keys_depend_on_label_and_id_alone():
    keys = tasks.stream_keys(KEY, "baseline", np.arange(100))
    np.testing.assert_array_equal(keys[[7, 3]], tasks.stream_keys(KEY, "baseline", np.array([7, 3])))
    everything = np.concatenate([keys, tasks.stream_keys(KEY, "td_v0", np.arange(100))])
    assert len(np.unique(everything, axis=0)) == 200
    assert not (tasks.stream_keys(jax.random.key(1), "baseline", np.arange(100)) == keys).all(-1).any()


@pytest.mark.filterwarnings("ignore:.*lies below probability_floor")  # the floors are large, to make a difference
def test_numbers_per_mdp_are_those_of_separate_runs_and_never_recompile(monkeypatch):
    """Rates, discounts, weights, floors, seeds and the number of iterations are data: the engine is traced once."""
    traced_once = xla.compiled(donate=1)(chex.assert_max_traces(tick.advance.fn, n=1))
    monkeypatch.setattr(block, "advance", traced_once)
    methods = ("on_policy_distill_r", "entropy_regularised")
    low = {"learning_rate": 0.1, "discount": 0.5, "probability_floor": 0.1, "loss_weight": 0.5, "return_weight": 2.0}
    high = {"learning_rate": 0.4, "discount": 0.9, "probability_floor": 0.01, "loss_weight": 1.0, "return_weight": 1.0}
    odd = np.arange(NUM_SEEDS) % 2 == 1
    both = run("grid", methods, estimator="td", **{name: np.where(odd, high[name], low[name]) for name in low})
    for rows, numbers in ((odd, high), (~odd, low)):
        apart = run("grid", methods, estimator="td", **numbers)
        np.testing.assert_array_equal(both.logits[:, rows], apart.logits[:, rows])
        np.testing.assert_array_equal(both.values[:, rows], apart.values[:, rows])
    run("grid", methods, estimator="td", num_iterations=40, key=jax.random.key(8))


# --- A world without chance: schedules, optimisers, truncation --------------------------------------------------

# 0 -> 1 -> 2 -> 1' -> end, whatever the action; 1 and 1' share an observation and have different teachers.
CHAIN = MDP.from_arrays(
    successor=[[1], [2], [3], [3]],
    reward=[[1.0], [-2.0], [0.5], [3.0]],
    terminal=[[False], [False], [False], [True]],
    outcome_probs=[[1.0], [1.0]],
    observation=[0, 1, 2, 1],
)
CHAIN_PROBS = np.array([[0.9, 0.1], [0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])
CHAIN_STEPS = [0, 1, 2, 3]


def train_chain(methods=("on_policy_distill", "baseline"), **changes):
    mdps = repeated(CHAIN, 3)
    teacher = teachers.from_table(mdps, CHAIN_PROBS)
    return train(
        KEY, mdps, teacher, methods, **({"num_iterations": 50, "num_checkpoints": 2, "discount": 0.9} | changes)
    )


DECAYS = {"td": 0.0, "mc": 1.0, "lambda": 0.6}


def chain_gradients(logits, values, estimator, reduction="mean", limit=4, bootstraps=True):
    """Descent directions of on-policy distillation's logits and of the baseline's V: no action can change them."""
    observation, reward = np.asarray(CHAIN.observation), np.asarray(CHAIN.reward)[:, 0]
    weight = 1 / limit if reduction == "mean" else 1.0
    to_logits, to_values = np.zeros_like(logits), np.zeros_like(values)
    following = values[observation[limit]] if limit < 4 and bootstraps else 0.0
    for s in reversed(CHAIN_STEPS[:limit]):
        o = observation[s]
        probs = np.exp(logits[o]) / np.exp(logits[o]).sum()
        to_logits[o] += weight * (probs - CHAIN_PROBS[s])
        target = reward[s] + 0.9 * following
        to_values[o] -= weight * (target - values[o])
        following = DECAYS[estimator] * target + (1 - DECAYS[estimator]) * values[o]
    return to_logits, to_values


def numpy_chain(step_fn, estimator, num_iterations=50, **options):
    """`step_fn(k, gradient, which)` -> what is added to the logits (which = 0) or the values (which = 1)."""
    logits, values = np.zeros((3, 2)), np.zeros(3)
    for k in range(num_iterations):
        to_logits, to_values = chain_gradients(logits, values, estimator, **options)
        logits, values = logits + step_fn(k, to_logits, 0), values + step_fn(k, to_values, 1)
    return logits, values


class Adam:
    """Kingma & Ba, algorithm 1, in NumPy."""

    def __init__(self, rate, b1=0.9, b2=0.999, eps=1e-8):
        self.rate, self.b1, self.b2, self.eps = rate, b1, b2, eps
        self.moments = [[0.0, 0.0], [0.0, 0.0]]

    def __call__(self, k, gradient, which):
        m, v = self.moments[which]
        m = self.b1 * m + (1 - self.b1) * gradient
        v = self.b2 * v + (1 - self.b2) * gradient**2
        self.moments[which] = [m, v]
        return -self.rate * (m / (1 - self.b1 ** (k + 1))) / (np.sqrt(v / (1 - self.b2 ** (k + 1))) + self.eps)


def assert_chain(result, expected):
    for i in range(3):
        np.testing.assert_allclose(result.logits[0, i], expected[0], rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(result.values[1, i], expected[1], rtol=2e-4, atol=2e-5)
    np.testing.assert_array_equal(result.returns[1], 2.5)
    np.testing.assert_array_equal(result.lengths[1], 4.0)
    assert result.settings["truncated_episodes"] == 0


def test_plain_sgd_on_the_chain():
    expected = numpy_chain(lambda k, g, which: -(0.3, 0.2)[which] * g, "td")
    assert_chain(train_chain(learning_rate=0.3, value_learning_rate=0.2, estimator="td"), expected)


def test_schedules():
    """A schedule sees the iteration, counted from 0."""
    linear, steps = optax.linear_schedule(0.4, 0.0, 50), optax.piecewise_constant_schedule(0.2, {10: 0.5})
    expected = numpy_chain(lambda k, g, which: -float((linear, steps)[which](k)) * g, "td")
    assert_chain(train_chain(learning_rate=linear, value_learning_rate=steps, estimator="td"), expected)


@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_adam_is_adam(estimator):
    """Over whole tables, once per iteration, on the mean over the episode, whichever row the next episode starts in."""
    result = train_chain(optimizer=optax.adam(0.05), estimator=estimator)
    assert_chain(result, numpy_chain(Adam(0.05), estimator))


def test_optax_sgd_is_the_plain_path():
    """Where chance decides, the same actions are drawn: rounding differs in the last bits only."""
    methods, options = ("on_policy_distill", "baseline"), {"estimator": "td", "num_iterations": 30}
    rates = {"learning_rate": 0.2, "value_learning_rate": 0.2}
    plain = run("grid", methods, **options, **rates)
    no_rates = {"learning_rate": None, "value_learning_rate": None}
    optimized = run("grid", methods, **options, **no_rates, optimizer=optax.sgd(0.2))
    close = np.abs(plain.logits - optimized.logits).max((0, 2, 3)) < 1e-3
    assert close.mean() > 0.99  # a last bit may flip an action, after which the two go apart


@pytest.mark.parametrize("estimator", ["td", "mc"])
def test_episodes_are_cut_and_counted(estimator):
    with pytest.warns(UserWarning, match=r"300 episodes were cut after 3 steps"):
        result = train_chain(estimator=estimator, max_episode_steps=3)
    assert result.settings["truncated_episodes"] == 300
    np.testing.assert_array_equal(result.lengths, 3.0)
    np.testing.assert_array_equal(result.returns, -0.5)


@pytest.mark.parametrize("truncation", ["bootstrap", "end"])
@pytest.mark.parametrize("estimator", DECAYS)
def test_the_value_where_an_episode_is_cut_takes_the_place_of_the_return_from_there(estimator, truncation):
    """By the limit of the world: the cut state shares its row with a step of the episode, which is credited too."""
    options = {"trace_decay": DECAYS["lambda"]} if estimator == "lambda" else {}
    mdps = repeated(CHAIN, 3).with_time_limit([3, 2, 3])
    teacher = teachers.from_table(mdps, CHAIN_PROBS)
    result = train(
        KEY, mdps, teacher, ["on_policy_distill", "baseline"], num_iterations=50, num_checkpoints=2, discount=0.9,
        learning_rate=0.3, value_learning_rate=0.2, estimator=estimator, truncation=truncation, **options,
    )  # fmt: skip
    for i, limit in enumerate([3, 2, 3]):
        is_bootstrapped = {"limit": limit, "bootstraps": truncation == "bootstrap"}
        logits, values = numpy_chain(lambda k, g, which: -(0.3, 0.2)[which] * g, estimator, **is_bootstrapped)
        np.testing.assert_allclose(result.logits[0, i], logits, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(result.values[1, i], values, rtol=2e-4, atol=2e-5)
        np.testing.assert_array_equal(result.lengths[1, i], limit)
    assert result.settings["truncated_episodes"] == 300  # and no warning: the limits belong to the worlds


@pytest.mark.parametrize("estimator", DECAYS)
def test_an_endless_reward_has_the_value_of_the_endless_sum(estimator):
    """Reward 1 for ever at discount 0.9 is worth 10, however early episodes are cut."""
    loop = MDP.from_arrays([[0]], 1.0, False, [[1.0], [1.0]], time_limit=5)
    options = {"num_iterations": 600, "value_learning_rate": 1.0, "learning_rate": 0.0, "discount": 0.9}
    result = train(KEY, loop, None, "baseline", num_checkpoints=1, estimator=estimator, **options)
    np.testing.assert_allclose(result.values, 10, rtol=1e-4)
    ended = train(KEY, loop, None, "baseline", num_checkpoints=1, estimator=estimator, truncation="end", **options)
    assert ended.values < 6
    np.testing.assert_array_equal(result.lengths, 5)
    np.testing.assert_array_equal(result.returns, 5)


def test_q_learning_looks_beyond_a_cut():
    """0 pays 1 at once by action 0; action 1 leads over 1 and 2 to a reward of 2, which is worth 1.62 in 0."""
    mdp = MDP.from_arrays(
        successor=[[3, 1], [2, 2], [3, 3], [3, 3]],
        reward=[[1.0, 0.0], [0.0, 0.0], [2.0, 2.0], [0.0, 0.0]],
        terminal=[[True, False], [False, False], [True, True], [True, True]],
        outcome_probs=[[1, 0], [0, 1]],
        start=[0, 1],
        start_probs=[0.9, 0.1],
        time_limit=2,
    )
    options = {"num_iterations": 6000, "learning_rate": 0.02, "epsilon": 0.3, "discount": 0.9}
    mdps = repeated(mdp, 2)
    assert (np.asarray(teachers.q_learning(KEY, mdps, **options).probs)[:, 0] == [0, 1]).all()
    ended = teachers.q_learning(KEY, mdps, truncation="end", **options)
    assert (np.asarray(ended.probs)[:, 0] == [1, 0]).all()
