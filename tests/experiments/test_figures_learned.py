"""Figures 3 and 5: exact divergences along trajectories, and a row shared with Figure 8."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from experiments import fig3, fig5, fig8
from jaxdistill import teachers
from jaxdistill.mdp import exact
from tests import small
from tests.plotting import ambient

TINY = {"num_mdps": 3, "num_iterations": 60, "num_checkpoints": 3, "num_rows": 6, "num_cols": 6, "p_plus10": 0.1}


@pytest.fixture(scope="module")
def worlds():
    return jaxdistill.sample_mdps(jax.random.key(3), 3, num_rows=6, num_cols=6, p_plus10=0.1)


@pytest.fixture(scope="module")
def measured(worlds):
    """Students of every control, measured at each checkpoint."""
    methods = {name: method for name, (method, _) in fig3.CONTROLS.items()}
    options = {"num_iterations": 40, "num_checkpoints": 4}
    teacher = teachers.optimal(worlds)
    plain = jaxdistill.train(jax.random.key(0), worlds, teacher, methods, **options)
    return jaxdistill.train(jax.random.key(0), worlds, teacher, methods, measure=fig3.measure, **options), plain


def test_before_training_the_kl_is_log_4_times_the_length(worlds):
    """For a deterministic teacher it is log 4 in every state, and so log 4 times the mean length of an episode."""
    q = exact.optimal_action_values(worlds, 0.99)
    greedy = jax.nn.one_hot(q.argmax(-1), 4)
    teacher = teachers.from_table(worlds, greedy)
    uniform = jnp.full(greedy.shape, 0.25)
    measured = fig3.measure(worlds, teacher, uniform)
    for name, policy in (("uniform", uniform), ("student", uniform), ("teacher", greedy)):
        length = exact.start_value(worlds, exact.expected_length(worlds, policy))
        np.testing.assert_allclose(measured[f"kl_{name}"], np.log(4) * length, rtol=1e-4)
    value = exact.start_value(worlds, exact.policy_values(worlds, uniform))
    np.testing.assert_allclose(measured["return"], value, rtol=1e-3, atol=1e-3)


def test_kl_along_trajectories_against_simulation():
    """On a small MDP, within 4 standard errors of the mean over 40 000 simulated episodes (seed 0)."""
    mdp = small.random_mdp(5)
    teacher = small.random_teacher(mdp, 5)
    logits, _ = small.random_student(mdp, 5)
    policy = np.asarray(jax.nn.softmax(jnp.asarray(logits)))[np.asarray(mdp.observation)]
    stacked, stacked_teacher = jax.tree.map(lambda x: jnp.asarray(x)[None], (mdp, teacher))
    measured = fig3.measure(stacked, stacked_teacher, jnp.asarray(policy)[None])
    pi = np.asarray(teacher.probs)
    kl = (pi * (np.log(pi) - np.log(policy))).sum(-1)
    rng = np.random.default_rng(0)
    for name, q in (("student", policy), ("teacher", pi), ("uniform", np.full_like(pi, 1 / 3))):
        state = np.full(40_000, int(mdp.start[0]))
        alive, total = np.ones(40_000, bool), np.zeros(40_000)
        while alive.any():
            total += np.where(alive, kl[state], 0)
            action = (rng.random((40_000, 1)) > np.cumsum(q, -1)[state]).sum(-1).clip(0, 2)
            outcome = (rng.random((40_000, 1)) > np.cumsum(mdp.outcome_probs, -1)[action]).sum(-1).clip(0, 2)
            alive &= ~np.asarray(mdp.terminal)[state, outcome] & (rng.random(40_000) < float(mdp.continue_prob))
            state = np.asarray(mdp.successor)[state, outcome]
        error = total.std() / np.sqrt(len(total))
        assert abs(total.mean() - measured[f"kl_{name}"][0]) < 4 * error, name


def test_measures_of_train_are_those_of_the_final_tables(worlds, measured):
    """The measures of the last checkpoint agree with the saved tables, for every control policy."""
    result, plain = measured
    assert result.measure_names == tuple(fig3.COLUMNS)
    assert np.isfinite(result.measurements).all()
    for p in range(len(result.labels)):
        policy = exact.policy_from_table(worlds, jax.nn.softmax(jnp.asarray(result.logits[p])))
        for name, value in fig3.measure(worlds, teachers.optimal(worlds), policy).items():
            np.testing.assert_allclose(result.measure(name)[p, :, -1], value, rtol=1e-4)
        np.testing.assert_allclose(result.measure("return")[p, :, -1], result.final_returns[p], rtol=1e-3, atol=1e-3)
    assert (np.diff(result.measure("kl_student")[0].mean(0)) < 0).all()  # on-policy distillation lowers it
    np.testing.assert_array_equal(plain.logits, result.logits)  # measuring changes nothing
    with pytest.raises(ValueError, match="kl_student"):
        result.measure("kl")
    with pytest.raises(ValueError, match="teacher"):
        jaxdistill.train(jax.random.key(0), worlds, methods="baseline", num_iterations=1, measure=fig3.measure)


def test_measures_are_saved_selected_and_joined(measured, tmp_path):
    result, _ = measured
    loaded = jaxdistill.load(result.save(tmp_path / "a.npz"))
    np.testing.assert_array_equal(loaded.measure("return"), result.measure("return"))
    selected = loaded.select("teacher_distill", [int(loaded.mdp_ids[2])])
    assert selected.measure("return").tolist() == result.measure("return")[1:2, 2:3].tolist()
    parts = [result.select(mdps=[int(i)]) for i in result.mdp_ids]
    np.testing.assert_array_equal(jaxdistill.concatenate(parts).measurements, result.measurements)


def test_fig3(tmp_path, capsys, monkeypatch):
    settings = fig3.Settings(out=str(tmp_path), temperatures=["0", "0.1"], controls=["teacher_distill"], **TINY)
    fig3.work(settings)
    part = np.load(tmp_path / "temperature_0.1.npz")
    assert part["kl_uniform"].shape == (1, 3, 4)
    assert part["iterations"].tolist() == [0, 20, 40, 60]
    assert all(np.isfinite(part[name]).all() for name in part.files)
    capsys.readouterr()
    ambient.assert_drawn_again(tmp_path / "fig3.png", lambda: fig3.work(settings), monkeypatch)  # reads the files
    assert "2 parts, 2 of them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"), [({"temperatures": ["-1"]}, "temperatures"), ({"controls": ["nobody"]}, "uniform_distill")]
)
def test_fig3_refuses(change, expected):
    with pytest.raises(ValueError, match=expected):
        fig3.check(fig3.Settings(**TINY | change))


def test_fig5_is_the_first_row_of_fig8(tmp_path, capsys, monkeypatch):
    """The row read from a folder of fig8 with the same settings equals the row that fig5 trains."""
    sizes = {**TINY, "methods": ["on_policy_distill"], "columns": ["td"]}
    fig8.work(fig8.Settings(out=str(tmp_path / "8"), teachers=["q_learning", "optimal"], **sizes))
    settings = fig5.Settings(out=str(tmp_path / "5"), shared=str(tmp_path / "8"), **sizes)
    alone = fig5.row(dataclasses.replace(settings, shared=str(tmp_path / "nowhere")), "q_learning")
    with monkeypatch.context() as patched:
        patched.delattr(fig8, "row")  # nothing may be trained
        fig5.work(settings)
    assert "from" in capsys.readouterr().out
    shared = jaxdistill.load(tmp_path / "5" / "q_learning.npz")
    np.testing.assert_array_equal(shared.returns, alone.returns)
    other = dataclasses.replace(settings, seed=1, out=str(tmp_path / "6"))
    assert not np.array_equal(fig5.row(other, "q_learning").returns, shared.returns)


def test_the_return_of_a_noisy_teacher_is_drawn_in_its_panels():
    """In the panels of students whose teacher errs there is one more line, at the mean return of that teacher."""
    settings = fig8.Settings(methods=["baseline"], teachers=["q_learning"])
    labels = tuple(f"q_learning/{column}/baseline" for column in fig8.COLUMNS)
    rng = np.random.default_rng(0)
    returns = rng.normal(size=(4, 5, 3))
    result = jaxdistill.Result(
        labels=labels, mdp_ids=np.arange(5), iterations=np.arange(1, 4), returns=returns, lengths=returns + 9,
        final_returns=returns[..., -1], teacher_returns=np.array([[7.0], [7], [5], [3]]) + np.zeros((4, 5)),
        uniform_returns=np.zeros(5), optimal_returns=np.ones(5),
    )  # fmt: skip
    figure = fig8.plot(settings, {"q_learning": result})
    levels = [{line.get_ydata()[0] for line in ax.get_lines() if line.get_linestyle() == ":"} for ax in figure.axes]
    assert levels == [{7.0, 0.0}, {7.0, 0.0}, {7.0, 5.0, 0.0}, {7.0, 3.0, 0.0}]
    assert "Teacher with this noise" in [text.get_text() for text in figure.legends[0].get_texts()]
