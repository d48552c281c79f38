"""`train` from outside: axes and labels, cells, curves, exact evaluation, progress, and what is refused."""

import dataclasses
import json
import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import MDP, UNIFORM, Cell, Config, Method, methods, stack, teachers, train
from jaxdistill.mdp import exact
from jaxdistill.methods.combinators import length_normalised
from jaxdistill.results import package_versions
from jaxdistill.runtime import streams
from jaxdistill.scheduling import block, pool
from jaxdistill.training import tasks
from tests import small
from tests.lockstep import lockstep

KEY = jax.random.key(11)
NUM = 3
WORLDS = stack([small.random_mdp(30 + i) for i in range(NUM)])
ALIASED = stack([small.random_mdp(30 + i, aliased=True) for i in range(NUM)])
TEACHERS = jax.tree.map(lambda *x: jnp.stack(x), *(small.random_teacher(WORLDS[i], i) for i in range(NUM)))
BRIEF = {"num_iterations": 20, "num_checkpoints": 7}  # with the shapes above, one compiled program for most tests


def run(chosen, *, mdps=WORLDS, teacher=TEACHERS, key=KEY, **options):
    return train(key, mdps, teacher, chosen, **(BRIEF | options))


# --- Axes and labels ------------------------------------------------------------------------------------------


def test_a_method_may_fix_how_an_episode_is_reduced():
    """As configured for all methods, bit for bit; and it is not undone by a cell or the configuration."""
    fixed = run({"a": length_normalised(methods.METHODS["baseline"])}, reduction="sum")
    np.testing.assert_array_equal(fixed.logits, run({"a": "baseline"}, reduction="mean").logits)


def test_axes_and_labels():
    result = run(["on_policy_distill", "baseline"], mdps=ALIASED)
    assert result.labels == ("on_policy_distill", "baseline")
    assert result.returns.shape == result.lengths.shape == (2, NUM, 7)
    assert result.logits.shape == (2, NUM, 2, 3) and result.values.shape == (2, NUM, 2)
    assert result.final_returns.shape == result.teacher_returns.shape == (2, NUM)
    np.testing.assert_array_equal(result.mdp_ids, [30, 31, 32])
    np.testing.assert_array_equal(result.iterations, [3, 6, 9, 12, 15, 18, 20])
    assert result.curve_kind == ("sampled", "sampled") and result.faults == []
    for field in ("returns", "lengths", "logits", "values", "final_returns"):
        assert np.isfinite(getattr(result, field)).all()
    assert (result.lengths >= 1).all() and (result.logits != 0).any()
    assert result.settings["steps"] == round((result.lengths * [3, 3, 3, 3, 3, 3, 2]).sum())
    assert result.settings["config"]["learning_rate"] == 0.1
    assert result.settings["cells"]["baseline"]["method"] == "baseline"


def test_settings_and_versions_say_what_decided():
    result = run("baseline", key=jax.random.key(7, impl="rbg"))
    np.testing.assert_array_equal(result.logits, run("baseline", key=jax.random.key(7)).logits)
    assert result.settings["key"] == [0, 7]
    recorded, device = result.settings["surroundings"], jax.devices()[0]
    assert recorded["platform"] == device.platform and recorded["device_kind"] == device.device_kind
    assert recorded["float64"] is jax.config.jax_enable_x64 and isinstance(recorded["whole_loops"], bool)
    assert recorded["xla_flags"] == os.environ.get("XLA_FLAGS", "") and recorded["processor"]
    assert result.versions == package_versions() and {"jax", "jaxlib", "optax"} <= set(result.versions)
    assert json.loads(json.dumps(result.settings)) == result.settings


@pytest.mark.parametrize("one", ["baseline", methods.METHODS["baseline"], Cell("baseline"), {"baseline": "baseline"}])
def test_one_method_may_come_alone(one):
    result = run(one)
    assert result.labels == ("baseline",)
    np.testing.assert_array_equal(result.logits, run(["baseline"]).logits)


def test_exact_returns_of_everyone():
    """Final students, teachers, uniform and optimal policies: undiscounted, by independent means."""
    result = run(["baseline", "on_policy_distill"])
    for i in range(NUM):
        mdp = WORLDS[i]
        for p in range(2):
            policy = jax.nn.softmax(jnp.asarray(result.logits[p, i]))
            expected = exact.start_value(mdp, exact.policy_values(mdp, policy))
            assert result.final_returns[p, i] == pytest.approx(float(expected), abs=1e-5)
        for returns, policy in (
            (result.teacher_returns[1], TEACHERS.probs[i]),
            (result.uniform_returns, jnp.full((4, 3), 1 / 3)),
        ):
            expected = exact.start_value(mdp, exact.policy_values(mdp, policy))
            assert returns[i] == pytest.approx(float(expected), abs=1e-5)
        best = exact.start_value(mdp, exact.optimal_values(mdp))
        assert result.optimal_returns[i] == pytest.approx(float(best), abs=1e-3)
    assert np.isnan(run("baseline", teacher=None).teacher_returns).all()


def test_cells_have_their_own_teacher_and_configuration():
    other = teachers.uniform(WORLDS)
    cells = {
        "plain": "on_policy_distill",
        "slow": Cell("on_policy_distill", changes={"learning_rate": 0.01}),
        "other": Cell("on_policy_distill", other),
        "mc": Cell("baseline", changes={"estimator": "mc", "discount": [0.5, 0.9, 0.9]}),
    }
    result = run(cells)
    assert result.labels == tuple(cells)
    size = np.abs(result.logits).max((1, 2, 3))
    assert 0 < size[1] < 0.2 * size[0]
    # The uniform teacher is where students start: nothing to learn.
    np.testing.assert_allclose(result.logits[2], 0, atol=1e-6)
    np.testing.assert_allclose(result.teacher_returns[2], result.uniform_returns, atol=1e-5)
    alone = run({"mc": "baseline"}, estimator="mc", discount=[0.5, 0.9, 0.9])
    np.testing.assert_array_equal(alone.logits[0], result.logits[3])
    assert result.settings["cells"]["slow"]["config"]["learning_rate"] == 0.01


def test_a_single_world_with_its_teacher():
    alone = run(["on_policy_distill"], mdps=WORLDS[1], teacher=TEACHERS[1])
    np.testing.assert_array_equal(alone.logits[:, 0], run(["on_policy_distill"]).logits[:, 1])
    cell = run({"on_policy_distill": Cell("on_policy_distill", TEACHERS[1])}, mdps=WORLDS[1], teacher=None)
    np.testing.assert_array_equal(cell.logits, alone.logits)


def test_initial_tables():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    result = run("baseline", initial_logits=logits, initial_values=2.0, learning_rate=0.0, value_learning_rate=0.0)
    np.testing.assert_array_equal(result.logits[0], np.tile(logits, (NUM, 1, 1)))
    np.testing.assert_array_equal(result.values, 2.0)
    expected = exact.start_value(WORLDS, exact.policy_values(WORLDS, jax.nn.softmax(jnp.asarray(logits))))
    np.testing.assert_allclose(result.final_returns[0], expected, atol=1e-5)


def test_tables_may_be_dropped():
    dropped, kept = run("baseline", keep_tables=False), run("baseline")
    assert dropped.logits is None and dropped.values is None
    np.testing.assert_array_equal(dropped.returns, kept.returns)
    np.testing.assert_array_equal(dropped.final_returns, kept.final_returns)


# --- Curves ---------------------------------------------------------------------------------------------------


def chain() -> MDP:
    """Episodes of 4 steps for sure; only the last pays. Sizes as those of the other worlds."""
    successor = np.tile([[1], [2], [3], [3]], 3)
    terminal = np.tile([[False], [False], [False], [True]], 3)
    return MDP.from_arrays(successor, terminal * 3.0, terminal, np.eye(3))


@pytest.mark.parametrize(("num_iterations", "num_checkpoints"), [(20, 7), (23, 7), (8, 7), (7, 7), (3, 100)])
def test_bins_that_do_not_divide_the_iterations(num_iterations, num_checkpoints):
    """Each point is the mean of its own iterations: exactly 3, and 4 steps, however many they are."""
    sizes = {"num_iterations": num_iterations, "num_checkpoints": num_checkpoints}
    result = run("baseline", mdps=stack([chain()] * NUM), **sizes)
    count = min(num_iterations, num_checkpoints)
    assert len(result.iterations) == count and result.iterations[-1] == num_iterations
    widths = np.diff(result.iterations, prepend=0)
    assert widths.min() >= 1 and widths.max() - widths.min() <= 1
    np.testing.assert_array_equal(result.returns, np.full((1, NUM, count), 3.0))
    np.testing.assert_array_equal(result.lengths, np.full((1, NUM, count), 4.0))


def test_bins_hold_their_own_iterations():
    """One bin per iteration, then 7 bins of the same run: the bins' means are those of the episodes within."""
    fine = run("baseline", num_checkpoints=20)
    coarse = run("baseline")
    start = 0
    for bin_, end in enumerate(coarse.iterations):
        for field in ("returns", "lengths"):
            expected = getattr(fine, field)[:, :, start:end].mean(-1)
            np.testing.assert_allclose(getattr(coarse, field)[:, :, bin_], expected, atol=1e-5)
        start = end
    assert start == 20


DRIVEN = {
    "teacher": "teacher_distill",
    "uniform": dataclasses.replace(methods.METHODS["on_policy_distill"], name="uniform_distill", control=UNIFORM),
}


@pytest.mark.parametrize("control", DRIVEN)
def test_curves_are_exact_where_the_student_does_not_play(control):
    """Their point at iteration k is the exact return of the student after k iterations, found by stopping there."""
    whole = run({"baseline": "baseline", "driven": DRIVEN[control]})
    assert whole.curve_kind == ("sampled", "exact")
    np.testing.assert_array_equal(whole.returns[1, :, -1], whole.final_returns[1])
    assert whole.iterations[3] == 12
    shorter = run({"driven": DRIVEN[control]}, num_iterations=12)
    np.testing.assert_allclose(whole.returns[1, :, 3], shorter.final_returns[0], atol=1e-6)
    length = exact.start_value(WORLDS, exact.expected_length(WORLDS, jax.nn.softmax(jnp.asarray(whole.logits[1]))))
    np.testing.assert_allclose(whole.lengths[1, :, -1], length, rtol=1e-5)


# --- Progress and interruption --------------------------------------------------------------------------------


def test_progress_increases_to_one(capsys):
    calls = []
    with lockstep():
        run(["baseline", "teacher_distill"], num_iterations=300, on_chunk=lambda *a: calls.append(a), progress=False)
    fractions, steps, left = np.array(calls).T
    assert len(calls) > 5 and fractions[-1] == 1 and left[-1] == 0
    for increasing in (fractions, steps):
        assert (np.diff(increasing) >= 0).all() and (increasing >= 0).all()
    assert (fractions <= 1).all() and len(np.unique(fractions)) > 3
    assert capsys.readouterr() == ("", "")


def alive():
    return [t.name for t in threading.enumerate() if t.name.startswith("jaxdistill")]


def test_an_interrupt_stops_the_workers():
    def interrupt(fraction, steps, left):
        if fraction > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), lockstep():
        run(["baseline"], num_iterations=300, on_chunk=interrupt)
    assert not alive()
    np.testing.assert_array_equal(run("baseline").labels, ("baseline",))  # and the next run is none the worse


def test_an_error_in_a_worker_comes_out(monkeypatch):
    def broken(*_):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(block, "extract", broken)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        run(["baseline"])
    assert not alive()


# --- What is refused ------------------------------------------------------------------------------------------

DETERMINISTIC = teachers.optimal(WORLDS)
BAD = [
    (dict(chosen="ppo"), "Unknown method 'ppo'; the methods are baseline, teacher_distill"),
    (dict(chosen="n_distil"), "Unknown method 'n_distil' (did you mean 'n_distill'?)"),
    (dict(lerning_rate=3), "Unknown option 'lerning_rate' (did you mean 'learning_rate'?); a configuration has"),
    (dict(chosen=[]), "methods is empty"),
    (dict(chosen=["baseline", "baseline"]), "Two methods are called 'baseline'"),
    (dict(chosen=[7]), "Unknown method 7"),
    (dict(key=0), "key must be one random key, such as jax.random.key(0); got int"),
    (dict(key=jax.random.split(KEY)), "key must be one random key"),
    (dict(mdps=np.zeros(3)), "mdps must be an MDP, such as sample_mdps(key, 100); got ndarray"),
    (dict(teacher=None), "n_distill needs a teacher"),
    (dict(teacher=np.zeros(3)), "teacher must be a Teacher, such as teachers.optimal(mdps); got ndarray"),
    (dict(teacher=TEACHERS[:2]), "tables do not fit the worlds: probs [M, S, A] must be [3, 4, 3]"),
    (dict(teacher=dataclasses.replace(TEACHERS, values=TEACHERS.values[:, :3])), "tables do not fit the worlds"),
    (dict(teacher=dataclasses.replace(TEACHERS, probs=TEACHERS.probs[..., :2])), "tables do not fit the worlds"),
    (dict(teacher=dataclasses.replace(TEACHERS, probs=2 * TEACHERS.probs)), "sum to 1 over actions"),
    (dict(teacher=dataclasses.replace(TEACHERS, probs=TEACHERS.probs * np.nan)), "finite"),
    (dict(teacher=dataclasses.replace(TEACHERS, probs=1 - TEACHERS.probs * 2)), ">= 0"),
    (dict(teacher=dataclasses.replace(TEACHERS, values=TEACHERS.values / 0)), "values must be finite"),
    (dict(chosen="entropy_regularised", teacher=DETERMINISTIC, probability_floor=0.0), "set probability_floor > 0"),
    (
        dict(chosen="exp_entropy_regularised", teacher=DETERMINISTIC, probability_floor=[0.1, 0, 0.1]),
        "probability_floor",
    ),
    (dict(chosen="kl_regularised", teacher=DETERMINISTIC, probability_floor=0.0), "set probability_floor > 0"),
    (dict(initial_logits=np.full((4, 3), np.nan)), "initial_logits must be finite"),
    (dict(initial_logits=np.full((4, 3), np.inf)), "initial_logits must be finite"),
    (dict(initial_logits=np.zeros((5, 3))), "initial_logits must broadcast to [1, 3, 4, 3]; got shape [5, 3]"),
    (dict(initial_values=np.zeros(7)), "initial_values must broadcast to [1, 3, 4]"),
    (dict(num_iterations=0), "num_iterations must be a whole number of at least 1; got 0"),
    (dict(num_iterations=2.5), "num_iterations must be a whole number"),
    (dict(num_iterations=True), "num_iterations must be a whole number"),
    (dict(num_iterations=2**25), "at most 16777216"),
    (dict(num_checkpoints=0), "num_checkpoints must be a whole number"),
    (dict(max_episode_steps=-1), "max_episode_steps must be a whole number"),
    (dict(estimator="gae"), "estimator must be 'td', 'mc' or 'lambda'; got 'gae'"),
    (dict(reduction="max"), "reduction must be 'mean', 'sum' or 'fixed'; got 'max'"),
    (dict(learning_rate=-0.1), "learning_rate must be finite and >= 0; got -0.1"),
    (dict(learning_rate="fast"), "learning_rate must be a number"),
    (dict(value_learning_rate=np.nan), "value_learning_rate must be finite and >= 0"),
    (dict(learning_rate=[0.1, 0.2]), "learning_rate must be one number or one for each of the 3 MDPs; got shape (2,)"),
    (dict(discount=1.1), "discount must be in [0, 1]; got 1.1"),
    (dict(discount=[0.9, 0.9, -1]), "discount must be in [0, 1]"),
    (dict(probability_floor=1.0), "probability_floor must be in [0, 1); got 1.0"),
    (dict(loss_weight=np.inf), "loss_weight must be finite"),
    (dict(return_weight=np.nan), "return_weight must be finite"),
    (dict(speed=3), "Unknown option 'speed'; a configuration has estimator"),
    (dict(chosen=Cell("n_distill", changes={"speed": 3})), "Unknown option 'speed'"),
    (dict(chosen=Cell("n_distill", changes={"num_iterations": 3})), "num_iterations must be the same for every method"),
    (dict(chosen=Cell("td_vpi", changes={"estimator": "mc"})), "td_vpi is defined with estimator 'td'"),
    (
        dict(chosen=Cell(length_normalised(methods.METHODS["baseline"]), changes={"reduction": "sum"})),
        "baseline is defined with reduction 'mean'; it cannot use 'sum'",
    ),
    (dict(chosen=Cell("n_distill", np.zeros(3))), "teacher must be a Teacher"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_bad_input_is_refused_in_one_line_before_any_work(arguments, message, monkeypatch):
    monkeypatch.setattr(pool, "run", lambda *_: pytest.fail("the work began"))
    with pytest.raises(ValueError) as error:
        run(**({"chosen": "n_distill"} | arguments))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_worlds_are_checked_too():
    broken = dataclasses.replace(WORLDS, outcome_probs=WORLDS.outcome_probs * 2)
    with pytest.raises(ValueError, match="outcome_probs"):
        run("baseline", mdps=broken)


def test_floor_zero_is_allowed_where_no_logarithm_is_taken():
    shared = Config(probability_floor=0.0)
    result = run(["on_policy_distill", "baseline"], teacher=DETERMINISTIC, config=shared)
    assert np.isfinite(result.logits).all()
    run("entropy_regularised", probability_floor=0.0)  # this teacher is positive everywhere


def test_configurations():
    np.testing.assert_array_equal(Config(num_iterations=10, num_checkpoints=3).checkpoints, [4, 7, 10])
    result = train(KEY, WORLDS, None, "baseline", Config(num_iterations=10, num_checkpoints=7), num_iterations=14)
    np.testing.assert_array_equal(result.iterations, [2, 4, 6, 8, 10, 12, 14])
    raw = jax.random.key_data(KEY)
    np.testing.assert_array_equal(tasks.stream_keys(streams.as_key(raw), "a", np.arange(3)),
                                  tasks.stream_keys(KEY, "a", np.arange(3)))  # fmt: skip


def test_a_methods_own_numbers_are_checked():
    with pytest.raises(ValueError, match="weight must be one number or one for each of the 3 MDPs"):
        run(Method("mine", loss=methods.cross_entropy, params={"weight": [1.0, 2.0]}))
