"""Measures of a result: by name, with their direction, and computed after the training."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdistill import compare, concatenate, load, measures, teachers
from jaxdistill.mdp import exact
from jaxdistill.worlds.gridworld import sample_mdps
from tests.results.random_results import make

MEASURED = {"forward_kl:student": "forward_kl:student", "kl": "reverse_kl:student:floor=0.01", "length": "length"}


def with_values(seed=0, **changes):
    """A result of random numbers that measured three named numbers and one of the user's own."""
    result = make(num_mdps=12, seed=seed, **changes)
    values = np.random.default_rng(seed).normal(size=(*result.returns.shape, 4))
    names = (*MEASURED, "own")
    return dataclasses.replace(result, measurements=values, measure_names=names, settings={"measures": MEASURED})


def test_a_measure_is_found_by_every_spelling_of_its_name():
    result = with_values()
    for name, column in (
        ("forward_kl", 0), ("forward_kl:student", 0), ("kl", 1), ("reverse_kl:floor", 1), ("reverse_kl:floor=0.01", 1),
        ("length", 2), ("length:student", 2), ("own", 3),
    ):  # fmt: skip
        np.testing.assert_array_equal(result.measure(name), result.measurements[..., column])
        np.testing.assert_array_equal(result.final(name), result.measurements[..., -1, column])
    np.testing.assert_array_equal(result.measure("return"), result.returns)
    np.testing.assert_array_equal(result.final("return"), result.final_returns)
    for name in ("reverse_kl", "reverse_kl:floor=0.1", "forward_kl:teacher", "kk"):
        with pytest.raises(ValueError, match=f"no measure {name!r}"):
            result.measure(name)
    with pytest.raises(ValueError, match=r"did you mean 'forward_kl'.*has forward_kl:student, kl, length, own"):
        result.measure("forward-kl")
    with pytest.raises(ValueError, match="no exact length of the final students"):
        make().final("length")


def test_the_meaning_survives_a_file_a_selection_and_a_join(tmp_path):
    result = with_values()
    other = dataclasses.replace(with_values(first_id=50), settings={"measures": MEASURED, "seed": 2})
    loaded = load(result.save(tmp_path / "x.npz"))
    for copy in (loaded, result.select(["td_vpi", "baseline"]), concatenate([result, other])):
        assert copy.describe("kl")[:3] == (
            "reverse KL along the student's trajectories, floor 0.01",
            "nats per step",
            "lower",
        )
        assert copy.describe("own")[:3] == ("own", "", "")


@pytest.mark.parametrize(("name", "sign", "head"), [("forward_kl", -1, "P(< "), ("own", 1, "P(> "), (None, 1, "P(> ")])
def test_better_is_lower_for_a_divergence(name, sign, head):
    result = with_values()
    values = result.final_returns if name is None else result.final(name)
    table = compare(result, measure=name)
    wins = (sign * (values[1] - values[0]) > 0).mean()
    np.testing.assert_allclose(table["n_distill"].improvement.estimate, wins)
    np.testing.assert_allclose(table["n_distill"].difference.estimate, (values[1] - values[0]).mean())
    np.testing.assert_allclose(result.summary("final", measure=name)["td_vpi"].mean.estimate, values[2].mean())
    assert head in str(table)
    assert table.better == {"forward_kl": "lower", "own": "", None: "higher"}[name]
    texts = [ax.get_xlabel() for ax in table.plot().axes]
    assert texts[-1] == f"P({'larger' if name == 'own' else 'better'} than Baseline)"


def test_a_level_of_a_divergence_is_reached_from_above():
    result = with_values()
    curves = np.broadcast_to([3.0, 2.0, 1.0], result.returns.shape)
    values = np.array(result.measurements)
    values[..., 0] = curves
    result = dataclasses.replace(result, measurements=values)
    reached = [compare(result, measure="forward_kl", reach=level)["n_distill"].reached.median for level in (3, 2, 0.5)]
    assert reached == [10, 20, np.inf]


def test_results_must_mean_the_same_by_a_name():
    first, second = with_values(), with_values(labels=("x", "y"))
    second = dataclasses.replace(
        second, **{name: getattr(first, name) for name in ("uniform_returns", "optimal_returns")}
    )
    assert len(compare([first, second], measure="kl").rows) == 5
    changed = dataclasses.replace(second, settings={"measures": MEASURED | {"kl": "reverse_kl:student:floor=0.1"}})
    with pytest.raises(ValueError, match="not the same in all results"):
        compare([first, changed], measure="kl")
    with pytest.raises(ValueError, match="no measure 'kl'"):
        compare([first, dataclasses.replace(second, measurements=None, measure_names=())], measure="kl")


# --- After the training ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A result whose students are random tables, its worlds and its teacher."""
    mdps = sample_mdps(jax.random.key(3), 3, num_rows=5, num_cols=5)
    rng = np.random.default_rng(0)
    teacher = teachers.from_table(mdps, rng.dirichlet(np.ones(4), (3, 25)))
    result = make(
        num_mdps=3, observations=25, mdp_ids=np.asarray(mdps.id), curve_kind=("exact", "sampled", "sampled"),
        uniform_returns=exact.episode_return(mdps, exact.uniform_policy(mdps)),
        teacher_returns=np.tile(exact.episode_return(mdps, teacher.probs), (3, 1)),
    )  # fmt: skip
    return result, mdps, teacher


def test_measures_are_computed_after_the_training(trained):
    result, mdps, teacher = trained
    names = ["forward_kl", "reverse_kl:teacher:floor", "length", "discounted_return"]
    more = result.with_measures(names, mdps, teacher, discount=0.9)
    policies = exact.policy_from_table(mdps, np.asarray(jax.nn.softmax(result.logits[1].astype(np.float64))))
    values = measures.evaluate(names, mdps, policies, teacher, discount=0.9)
    assert more.measure_names == tuple(values)
    for name, value in values.items():
        np.testing.assert_allclose(more.final(name)[1], value, rtol=1e-5)
        assert np.isnan(more.measure(name)[..., :-1]).all()
    assert compare(more, measure="forward_kl")["n_distill"].num_mdps == 3
    again = more.with_measures("entropy", mdps)
    assert again.measure_names == (*values, "entropy:student")
    by_label = result.with_measures("forward_kl", mdps, dict.fromkeys(result.labels, teacher))
    np.testing.assert_array_equal(by_label.final("forward_kl"), more.final("forward_kl"))


def test_what_is_missing_is_named_in_one_line(trained):
    result, mdps, teacher = trained
    other, moved = teachers.uniform(mdps), dataclasses.replace(result, uniform_returns=result.uniform_returns + 1)
    for call, message in (
        (lambda: result.with_measures("entropy"), "does not hold its worlds; pass them"),
        (lambda: result.with_measures("forward_kl", mdps), "needs the teacher of baseline"),
        (lambda: result.with_measures("forward_kl", mdps, {"baseline": teacher}), "needs the teacher of n_distill"),
        (lambda: result.with_measures("forward_kl", mdps, other), "the teacher is not that of baseline"),
        (lambda: result.with_measures("entropy", mdps[:2]), "their ids differ"),
        (lambda: result.with_measures("entropy", mdps[np.array([1, 0, 2])]), "their ids differ"),
        (lambda: result.with_measures("entropi", mdps), "did you mean 'entropy'"),
        (lambda: dataclasses.replace(result, logits=None).with_measures("entropy", mdps), "keep_tables=True"),
        (lambda: moved.with_measures("entropy", mdps), "the worlds are not"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_student_that_diverged_stays_unknown(trained):
    result, mdps, _ = trained
    logits = np.array(result.logits)
    logits[1, 2] = np.nan
    values = dataclasses.replace(result, logits=logits).with_measures("entropy", mdps).final("entropy")
    assert np.isnan(values[1, 2]) and np.isfinite(values).sum() == values.size - 1
