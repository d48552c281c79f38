"""Bad input at every public door: it works, or one line of a ValueError says what was wrong, and no more.

A door is called with arguments of which all but one or two are right; those are replaced by something of another type,
shape or value, or a table of them is damaged in one place. `pytest -m slow` tries many more.
"""

import collections
import dataclasses
import functools
import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import common, fig8, gaussian_mixtures, oscillation
from jaxdistill import (
    MDP,
    METHODS,
    Cell,
    Config,
    Control,
    GridConfig,
    Method,
    Teacher,
    check_method,
    compare,
    concatenate,
    expected_update,
    from_gymnasium,
    from_text,
    load,
    methods,
    plus_reward,
    sample_mdps,
    stack,
    teachers,
    train,
)
from jaxdistill.cli import commands, main
from jaxdistill.mdp import validate
from jaxdistill.methods import guide
from jaxdistill.results.result import AXES, Result
from jaxdistill.theory import fields, flows, variance
from jaxdistill.training.sampling import sampled_updates
from jaxdistill.worlds import corridor, features, garnet, gridworld, gymnasium
from tests import small
from tests.results.random_results import make

MANY = 600  # examples of a door in the slow tests
KEY = jax.random.key(5)
INTERNALS = ("Traced", "Tracer", "jaxlib", "Xla", "XLA", "Abstract", "aval", "jit")
TRIED: collections.Counter = collections.Counter()


# --- What is put in the place of an argument ------------------------------------------------------------------


# fmt: off
def _junk() -> list[Any]:
    numbers = [0, 1, -1, 3, 2**31, 2**63, 10**30, -(10**30), 0.0, 0.5, -0.5, 1.5, 1e39, -1e300, math.nan, math.inf,
        -math.inf]
    scalars = [np.float32(math.nan), np.int64(-3), np.bool_(True), np.uint8(200), np.float16(0.5), 1j, True, False,
        None]
    words = ["", "x", "0.5", "é\n世界", "td", "a" * 5000, b"x", Path("x")]
    lists = [[], (), {}, set(), [1, 2], [[1], [2, 3]], ["a", None], {"a": 1}, range(3), [[[[[0.5]]]]], [math.nan] * 3]
    arrays = [np.zeros(0), np.zeros((2, 0)), np.full((2, 2), math.nan), np.array("a"), np.array([None, 1], object),
        np.zeros(3, complex), np.ones((1, 1, 1, 1)), np.array([2**40]), np.array(["2020-01-01"], "M8[D]"),
        np.arange(1000), np.full(3, 1e300), np.full(3, -1), np.zeros((3, 4, 3)), jnp.zeros(3), jnp.asarray(0.5),
        jnp.zeros(2, jnp.bfloat16), np.zeros(2, [("a", int)])]
    others = [object(), int, lambda *_: None, KEY, jax.random.split(KEY), jax.random.key_data(KEY), GridConfig,
        Ellipsis]
    return numbers + scalars + words + lists + arrays + others
# fmt: on


JUNK = _junk()
VALUES = [math.nan, math.inf, -math.inf, -1, -1e-3, 1.5, 2, 1e39, 1e300, 2**31, 0]


@st.composite
def damaged_table(draw: Any, table: Any) -> Any:
    """A table with one thing wrong with it, or nothing."""
    table = np.asarray(table)
    kind = draw(st.sampled_from(["entry", "type", "axes", "size", "scale"]))
    if kind == "entry" and table.size:
        wide = table.astype(np.float64) if table.dtype.kind == "f" else table.astype(np.int64)
        wide.flat[draw(st.integers(0, table.size - 1))] = draw(
            st.sampled_from(VALUES if wide.dtype.kind == "f" else VALUES[3:4] + [2**31, 2**40, 7])
        )
        return wide
    if kind == "type":
        return table.astype(draw(st.sampled_from([complex, object, str, np.float64, np.float16, np.int8, bool, "S5"])))
    if kind == "axes":
        return draw(
            st.sampled_from([table[None], table[..., None], table[:0], table.T, table.ravel(), table[..., :-1]])
        )
    if kind == "size":
        return draw(
            st.sampled_from([np.repeat(table, 2, 0), np.repeat(table, 2, -1), table[:1], table.tolist(), table[..., 0]])
        )
    return table * draw(st.sampled_from([-1, 2, 0, 1 + 1e-6])) if table.dtype.kind != "b" else ~table


def _is_table(value: Any) -> bool:
    is_key = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return not is_key and np.asarray(value).dtype.kind in "iufb" and np.ndim(value) > 0 and np.size(value) > 0


@dataclasses.dataclass
class Door:
    """A function, arguments that are right, and what its result must satisfy."""

    call: Callable[..., Any]
    right: Callable[[], dict[str, Any]]
    examples: int = 60  # 0: only in the slow tests, for what is slow to compile
    fits: Callable[[Any], bool] = lambda found: True
    only: tuple[str, ...] = ()  # arguments to damage; all by default
    says: dict[str, str] = dataclasses.field(default_factory=dict)  # what a message may call an argument
    others: tuple[type[Exception], ...] = ()  # documented exceptions besides ValueError
    makes_keys: bool = False  # whether an argument becomes a key of a dictionary on the way


def finite(found: Any) -> bool:
    """Whether every number in a result is finite; NaN stands for what is not there in a few named places."""
    leaves = [leaf for leaf in jax.tree.leaves(found) if hasattr(leaf, "dtype") and np.asarray(leaf).dtype.kind == "f"]
    return all(np.isfinite(leaf).all() for leaf in leaves)


def is_policy(teacher: Teacher) -> bool:
    return finite((teacher.probs, teacher.values)) and np.abs(np.asarray(teacher.probs).sum(-1) - 1).max() < 1e-4


def in_one_line(error: Exception, damaged: dict[str, Any], says: dict[str, str]) -> None:
    message = str(error)
    longest = max(len(value) if isinstance(value, str) else 0 for value in damaged.values())  # a long name may be said
    assert "\n" not in message and 10 < len(message) < 400 + longest, message
    assert not any(word in message for word in INTERNALS), message
    named = [word for name in damaged for word in (name, *says.get(name, "").split("|")) if word] + ["must have shape"]
    assert any(word.lower() in message.lower() for word in named), f"{named} not in: {message}"


def enter(name: str, data: st.DataObject) -> None:
    """One call of a door with one or two arguments damaged."""
    door = DOORS[name]
    right = door.right()
    names = data.draw(st.lists(st.sampled_from(door.only or tuple(right)), min_size=1, max_size=2, unique=True))
    damaged = {}
    for argument in names:
        value = right[argument]
        is_table = isinstance(value, np.ndarray | jax.Array | list) and _is_table(value)
        damage = st.sampled_from(JUNK)
        damaged[argument] = data.draw(st.one_of(damage, damaged_table(value)) if is_table else damage)
    TRIED[name] += 1
    try:
        found = door.call(**(right | damaged))
    except (ValueError, *door.others) as error:
        in_one_line(error, damaged, door.says)
    except TypeError as error:  # Python says so itself of a key of a dictionary
        assert "unhashable" in str(error) and door.makes_keys
    except UserWarning as warning:  # what was asked for, and cannot be done
        assert "diverged" in str(warning) or "were cut" in str(warning), warning
    else:
        assert door.fits(found), damaged


# --- The doors ------------------------------------------------------------------------------------------------


@functools.cache
def worlds() -> MDP:
    return stack([small.random_mdp(30 + i) for i in range(3)])


@functools.cache
def taught() -> Teacher:
    return jax.tree.map(lambda *x: jnp.stack(x), *(small.random_teacher(worlds()[i], i) for i in range(3)))


def one_mdp() -> dict[str, Any]:
    mdp = small.random_mdp(1)
    names = ("successor", "reward", "terminal", "outcome_probs", "continue_prob", "start", "start_probs", "observation")
    return {name: np.asarray(getattr(mdp, name)) for name in names} | {"num_observations": 4, "id": 3}


def a_matrix() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "transition_probs": rng.dirichlet(np.ones(3), (3, 2)),
        "reward": rng.normal(size=(3, 2)),
        "terminal_states": [2],
        "continue_prob": 0.9,
    }


def a_grid(**damaged: Any) -> MDP:
    return gridworld.grid_to_mdp(gridworld.Grid(**damaged))


class Env:
    """An environment with a transition table: two states, two actions."""

    def __init__(self, table: Any, start: Any):
        self.P, self.initial_state_distrib = table, start


def an_entry(**damaged: Any) -> MDP:
    """A table of Gymnasium one of whose entries is damaged."""
    prob, successor, reward, ends, start, entries, state = (damaged[name] for name in ENTRY)
    good = [(1.0, 0, 0.5, False)]
    mine = [(prob, successor, reward, ends), (0.5, 0, 1.0, True)] if entries is True else entries
    return from_gymnasium(Env({0: {0: mine, 1: good}, 1: {0: good, 1: good}} if state is True else state, start))


ENTRY = {
    "prob": 0.5,
    "successor": 1,
    "reward": -1.0,
    "ends": False,
    "start": [0.5, 0.5],
    "entries": True,
    "state": True,
}


class Played:
    """An environment of two states that ends at once."""

    def reset(self, seed: int | None = None) -> tuple[int, dict]:
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        return 1, 1.0, True, False, {}


def a_method(**arguments: Any) -> Method:
    return Method(**arguments)


def teacher_tables(**tables: Any) -> Result:
    """Training with a teacher one of whose tables is damaged."""
    return brief(teacher=Teacher(**tables))


def brief(**changes: Any) -> Result:
    """A training that is always the same program."""
    right = {"key": KEY, "mdps": worlds(), "teacher": taught(), "methods": ["on_policy_distill_r"], "progress": False}
    return train(**(right | {"num_iterations": 2, "num_checkpoints": 2} | changes))


def in_a_cell(method: Any, label: Any, teacher: Any, changes: Any) -> Result:
    return brief(methods={label: Cell(method, teacher, changes)})


def is_result(result: Result) -> bool:
    diverged = [fault for fault in result.faults if fault.get("method") == result.labels[0]]
    return bool(diverged) or bool(np.isfinite(result.final_returns).all() and np.isfinite(result.logits).all())


def a_result() -> dict[str, Any]:
    result = make(num_mdps=3)
    return {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if getattr(result, field.name) is not None
    }


def exact_options() -> dict[str, Any]:
    return {
        "estimator": "mc",
        "reduction": "sum",
        "discount": 0.9,
        "probability_floor": 0.01,
        "loss_weight": 1.0,
        "return_weight": 1.0,
        "num_nodes": 4,
    }


def one_world() -> dict[str, Any]:
    logits = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    return {"teacher": taught()[0], "method": "n_distill", "logits": logits, "values": logits[:, 0].copy()}


OF_MDPS = "MDP|mdps|stack|worlds|successor"
OF_TEACHER = "teacher|probs|values|others"
OF_METHOD = "method"
# fmt: off
DOORS: dict[str, Door] = {
    "from_arrays": Door(MDP.from_arrays, one_mdp, 150, finite, says={"num_observations": "observation",
        "observation": "num_observations", "start": "start_probs", "terminal": "successor"}),
    "from_transition_matrix": Door(MDP.from_transition_matrix, a_matrix, 80, finite,
        says={"transition_probs": "outcome_probs|reward|terminal"}),
    "with_observation": Door(lambda **changes: worlds().with_observation(**changes),
        lambda: {"observation": np.array([0, 0, 1, 1]), "num_observations": 2}, 40, finite,
        says={"num_observations": "observation"}),
    "with_features": Door(lambda **changes: worlds().with_features(**changes),
        lambda: {"features": np.array([[0, 1], [1, -1], [2, 0], [1, 2]]), "num_observations": 3}, 80, finite,
        says={"num_observations": "features|observation"}),
    "tiles": Door(lambda **changes: features.tiles(from_text(["S.+"]), **changes),
        lambda: {"width": 2, "offsets": [(0, 0), (1, 1)]}, 60, finite, says={"width": "offsets"}),
    "ngram": Door(features.ngram, lambda: {"contexts": np.array([[-1, 0], [0, 1], [1, 1]]), "max_order": 2}, 60,
        finite),
    "validate": Door(lambda **damaged: validate(dataclasses.replace(worlds(), **damaged)),
        lambda: {field.name: getattr(worlds(), field.name) for field in dataclasses.fields(MDP) if field.name !=
        "grid"}, 100, says={"num_observations": "observation", "id": "mdps|stack|MDPs",
        "successor": "id must|reward must"}),
    "stack": Door(lambda **mdps: stack([*mdps.values()]), lambda: {"first": worlds()[0], "second": worlds()[1]}, 30,
        says={"first": "MDPs", "second": "MDPs"}),
    "stack of": Door(stack, lambda: {"mdps": [worlds()[0]]}, 30, says={"mdps": "MDP"}),
    "index": Door(lambda index: worlds()[index], lambda: {"index": 0}, 60, others=(IndexError,)),
    "index of a teacher": Door(lambda index: taught()[index], lambda: {"index": 0}, 60, others=(IndexError,)),
    "GridConfig": Door(GridConfig, lambda: dataclasses.asdict(GridConfig()), 150, says={f"p_{kind}": "probabilit" for
        kind in ("wall", "plus10", "plus5", "minus1", "minus5", "minus10")} | {"num_rows": "cells",
        "num_cols": "cells", "num_actions": "actions"}),
    "sample_mdps": Door(sample_mdps, lambda: {"key": KEY, "num_mdps": 2, "config": GridConfig(num_rows=3, num_cols=3,
        p_plus10=0.3)}, 50, finite, says={"num_mdps": "worlds"}),
    "from_text": Door(from_text, lambda: {"text": ["#.+", "S-."], "rewards": {"a": (1.0, True)}, "config": None,
        "noise": 0.2, "observation": "window", "window_radius": 1, "num_actions": 5}, 120, finite,
        says={"text": "map|rows", "num_actions": "actions"}),
    "rewards of from_text": Door(lambda **cell: from_text("S+", rewards={cell["letter"]: (cell["reward"],
        cell["terminal"])}), lambda: {"letter": "+", "reward": 2.0, "terminal": True}, 80, finite,
        says={"letter": "characters|start|map", "terminal": "rewards|start", "reward": "rewards"}, makes_keys=True),
    "grid_to_mdp": Door(a_grid, lambda: {"wall": np.array([[False, True, False]]), "reward": np.array([[1.0, 0.0,
        0.0]]), "terminal": np.array([[True, False, False]]), "start": np.array([0, 2])}, 80, finite,
        says={"wall": "grid"}),
    "chain": Door(corridor.chain, lambda: {"length": 2, "num_mdps": 2, "goal_reward": 1.0, "trap_reward": -1.0,
        "noise": 0.1, "termination_prob": 0.01, "num_actions": 4}, 80, finite, says={"num_mdps": "worlds",
        "num_actions": "actions"}),
    "garnet": Door(garnet.garnet, lambda: {"key": KEY, "num_mdps": 2, "num_states": 4, "num_actions": 2,
        "branching": 2, "num_observations": 3, "terminal_prob": 0.1, "termination_prob": 0.1}, 80, finite,
        says=dict.fromkeys(("num_mdps", "num_states", "num_actions", "branching"),
        "sizes|num_states|num_observations")),
    "random_policies": Door(garnet.random_policies, lambda: {"key": KEY, "mdps": worlds(), "concentration": 1.0}, 40,
        finite, says={"mdps": OF_MDPS}),
    "oscillation_game": Door(oscillation.oscillation_game, lambda: {"num_mdps": 2}, 30, finite),
    "from_gymnasium": Door(an_entry, lambda: dict(ENTRY), 150, finite, says=dict.fromkeys(ENTRY,
        "table|outcome_probs|successor|reward|must be|start|initial_state")),
    "from_gymnasium of": Door(from_gymnasium, lambda: {"env": Env({0: {0: [(1.0, 0, 0.5, True)]}}, [1.0]),
        "continue_prob": 0.9, "observation": [0], "num_observations": 1}, 60, finite,
        says={"env": "table|gymnasium|has no", "num_observations": "observation"}),
    "play": Door(gymnasium.play, lambda: {"env": Played(), "policy": np.full((2, 2), 0.5), "num_episodes": 3,
        "seed": 0}, 60, finite, only=("policy", "num_episodes", "seed")),
    "Control": Door(Control, lambda: {"student": 0.5, "teacher": 0.5, "uniform": 0.0, "per": "step"}, 60, lambda
        found: abs(sum(found.weights) - 1) < 1e-5, says=dict.fromkeys(("student", "teacher", "uniform"), "Control")),
    "Method": Door(a_method, lambda: {"name": "mine", "loss": METHODS["n_distill"].loss, "reward": None,
        "next_reward": None, "control": Control(student=1.0), "estimator": "td", "reduction": None,
        "bootstrap": "student", "baseline": True, "discount": None, "params": {"a": 1.0}, "needs_teacher": True,
        "description": "d"}, 150),
    "plus_reward": Door(plus_reward, lambda: {"method": METHODS["n_distill"], "name": "x"}, 30),
    "from_table": Door(lambda **x: teachers.from_table(x.pop("mdps"), **x), lambda: {"mdps": worlds(),
        "probs": np.asarray(taught().probs), "scores": np.asarray(taught().scores), "discount": 0.9, "name": "t"}, 80,
        is_policy, says={"mdps": OF_MDPS}),
    "from_logits": Door(lambda **x: teachers.from_logits(x.pop("mdps"), **x), lambda: {"mdps": worlds(),
        "logits": np.linspace(-1, 1, 12).reshape(4, 3), "discount": 0.9}, 50, is_policy, says={"mdps": OF_MDPS}),
    "from_policy": Door(teachers.from_policy, lambda: {"mdps": worlds(), "policy": lambda state: state % 3,
        "sees": "state", "discount": 0.9, "name": "t"}, 60, is_policy, says={"mdps": OF_MDPS, "policy": "num_rows"}),
    "an answer of from_policy": Door(lambda answer: teachers.from_policy(worlds(), lambda state: answer),
        lambda: {"answer": np.full(3, 1 / 3)}, 60, is_policy, says={"answer": "policy"}),
    "mixture": Door(teachers.mixture, lambda: {"mdps": worlds(), "members": [taught(), taught()], "weights": [0.5,
        1.0], "discount": 0.9, "name": "m"}, 60, is_policy, says={"mdps": OF_MDPS, "members": "teachers"}),
    "optimal": Door(teachers.optimal, lambda: {"mdps": worlds(), "discount": 0.9}, 30, is_policy,
        says={"mdps": OF_MDPS}),
    "adversarial": Door(teachers.adversarial, lambda: {"mdps": worlds(), "discount": 0.9}, 30, is_policy,
        says={"mdps": OF_MDPS}),
    "uniform": Door(teachers.uniform, lambda: {"mdps": worlds(), "discount": 0.9}, 30, is_policy,
        says={"mdps": OF_MDPS}),
    "with_noise": Door(teachers.with_noise, lambda: {"key": KEY, "mdps": worlds(), "teacher": taught(), "noise": 0.5},
        50, is_policy, says={"mdps": OF_MDPS}),
    "with_others": Door(lambda **x: teachers.with_others(*x.values()), lambda: {"teacher": taught(),
        "other": taught()}, 30, is_policy, says={"other": "teachers"}),
    "q_learning": Door(teachers.q_learning, lambda: {"key": KEY, "mdps": worlds(), "temperature": 0.5,
        "learning_rate": 0.1, "epsilon": 0.2, "discount": 0.9, "num_iterations": 2, "max_episode_steps": 4096}, 40,
        is_policy, says={"mdps": OF_MDPS}),
    "from_q": Door(teachers.from_q, lambda: {"mdps": worlds(), "q": np.linspace(-1, 1, 12).reshape(4, 3),
        "temperature": 0.5, "discount": 0.9}, 60, is_policy, says={"mdps": OF_MDPS}),
    "actor_critic": Door(teachers.actor_critic, lambda: {"key": KEY, "mdps": worlds(),
        "config": Config(num_iterations=2), "learning_rate": 0.1, "discount": 0.9}, 40, is_policy,
        says={"mdps": OF_MDPS}),
    "train": Door(brief, lambda: {"key": KEY, "mdps": worlds(), "teacher": taught(),
        "methods": ["on_policy_distill_r"], "config": None, "initial_logits": np.zeros((4, 3)), "initial_values": 0.0,
        "measure": None, "on_chunk": None}, 60, is_result, says={"mdps": OF_MDPS, "config": "config"}),
    "options of train": Door(brief, lambda: {"methods": "exp_entropy_regularised", "num_iterations": 2,
        "num_checkpoints": 2, "learning_rate": 0.1, "value_learning_rate": 0.1, "discount": 0.9,
        "probability_floor": 1e-6, "loss_weight": 1.0, "return_weight": 1.0, "optimizer": None, "estimator": "td",
        "reduction": "mean"}, 80, is_result, only=("num_iterations", "learning_rate", "value_learning_rate", "discount",
        "probability_floor", "loss_weight", "return_weight", "optimizer", "estimator", "reduction")),
    "Config": Door(Config, lambda: {field.name: getattr(Config(), field.name) for field in dataclasses.fields(Config)},
        200),
    "cells of train": Door(in_a_cell, lambda: {"method": "on_policy_distill_r", "label": "x", "teacher": None,
        "changes": {"learning_rate": 0.2}}, 60, is_result, says={"label": "methods", "changes": "option"},
        makes_keys=True),
    "teacher of train": Door(teacher_tables, lambda: {"probs": taught().probs, "values": taught().values,
        "scores": taught().scores, "others": taught().probs[:, None]}, 60, is_result, only=("probs", "values",
        "others"), says={"probs": "teacher", "values": "teacher"}),
    "expected_update": Door(lambda **x: expected_update(**x), lambda: {"mdp": worlds()[0], **one_world(),
        **exact_options()}, 40, finite, only=("mdp", "teacher", "method", "logits", "values", *(set(exact_options()) -
        {"num_nodes"})), says={"teacher": "probs"}),
    "check_method": Door(check_method, lambda: {"method": "n_distill", "loss": None, "num_mdps": 2, "key": KEY,
        "discount": 0.9, "num_nodes": 4}, 30, says={}),
    "asymmetry": Door(fields.asymmetry, lambda: {name: value for name, value in {"mdps": worlds()[0], **one_world(),
        "discount": 0.9, "loss_weight": 1.0}.items() if name != "values"}, 30, only=("mdps", "teacher", "method",
        "logits", "discount", "loss_weight"), says={"mdps": OF_MDPS}),
    "potential": Door(fields.potential, lambda: {"mdps": worlds()[0], "teacher": taught()[0], "method": "n_distill",
        "logits": np.ones((4, 3)), "base": 0.0}, 0, finite, says={"mdps": OF_MDPS}),
    "flow": Door(flows.flow, lambda: {"mdps": worlds()[0], **one_world(), "num_steps": 2, "step_size": 0.1,
        "num_records": 1, "discount": 0.9}, 30, says={"mdps": OF_MDPS}),
    "fixed_point": Door(flows.fixed_point, lambda: {"mdps": worlds()[0], **one_world(), "step_size": 1.0,
        "tolerance": 1e-3, "max_steps": 5, "discount": 0.9}, 0, says={"mdps": OF_MDPS}),
    "assess": Door(variance.assess, lambda: {"mdps": worlds()[0], **one_world(), "target": "n_distill",
        "control": Control(student=1.0), "discount": 0.9}, 30, finite, says={"mdps": OF_MDPS, "target": "method"}),
    "sampled_updates": Door(sampled_updates, lambda: {"key": KEY, "mdps": worlds(), "teacher": taught(),
        "methods": ["n_distill"], "logits": np.zeros((3, 4, 3)), "values": np.zeros((3, 4)), "num_updates": 2,
        "discount": 0.9}, 30, finite, says={"mdps": OF_MDPS, "methods": "method"}),
    "Result": Door(Result, a_result, 150, says={"mdp_ids": "mdps", "iterations": "checkpoints",
        "labels": "methods|curve_kind", "logits": "observations|values"} | dict.fromkeys(AXES, "has shape")),
    "select": Door(lambda **x: make(num_mdps=3).select(**x), lambda: {"labels": ["baseline"], "mdps": [1]}, 60,
        says={"labels": "method", "mdps": "MDP"}),
    "summary": Door(lambda **x: make(num_mdps=3).summary(**x), lambda: {"checkpoint": -1, "baseline": None}, 50,
        says={"baseline": "method"}),
    "measure": Door(lambda name: make().measure(name), lambda: {"name": "kl"}, 20, says={"name": "measure"}),
    "concatenate": Door(concatenate, lambda: {"results": [make(), make(first_id=4)], "axis": "mdp"}, 50),
    "compare": Door(compare, lambda: {"results": make(num_mdps=3), "baseline": None, "checkpoint": "final",
        "reach": 0.5}, 60, says={"results": "Result", "baseline": "method"}),
    "load": Door(load, lambda: {"path": "x"}, 40, says={"path": "results file|Errno"}, others=(OSError,)),
    "mixture of Gaussians": Door(gaussian_mixtures.mixture, lambda: {
        "means": [0.0, 1.0], "scales": 1.0, "weights": [1.0, 2.0]},
        60, finite, says=dict.fromkeys(("means", "scales", "weights"), "mixture")),
    "fit": Door(gaussian_mixtures.fit, lambda: {
        "key": KEY, "target": gaussian_mixtures.mixture([0.0, 1.0]), "num_components": 1,
        "direction": "forward", "free": ("means",), "scale": 1.0, "num_restarts": 2, "num_steps": 2,
        "learning_rate": 0.1}, 30, lambda found: True, only=("key", "target", "direction", "free", "scale",
        "learning_rate")),
    "recommend": Door(guide.recommend, lambda: dict.fromkeys(guide.QUESTIONS, True), 60),
    "methods.get": Door(methods.get, lambda: {"method": "n_distill_r"}, 20),
}
# fmt: on


def tried(door: str, examples: int) -> None:
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def property(data: st.DataObject) -> None:
        enter(door, data)

    before = TRIED[door]
    property()
    assert TRIED[door] - before >= min(examples, 10)


@pytest.mark.parametrize("door", [name for name, door in DOORS.items() if door.examples])
def test_bad_arguments(door):
    tried(door, DOORS[door].examples)


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_many_bad_arguments(door):
    tried(door, MANY)


# --- Functions of a user's that are no such functions ---------------------------------------------------------

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "a row": lambda step: step.student_logits,
    "nothing": lambda step: None,
    "a word": lambda step: "x",
    "two numbers": lambda step: (step.reward, step.reward),
    "a complex number": lambda step: step.reward * 1j,
    "an if": lambda step: step.reward if step.reward > 0 else 0.0,
    "a float": lambda step: float(step.reward),
    "NumPy": lambda step: np.log(np.asarray(step.teacher_probs)).sum(),
    "an index": lambda step: [1, 2, 3][step.action],
    "no such number": lambda step: step.params["weight"],
    "no such field": lambda step: step.observation,
    "a wrong shape": lambda step: jnp.sum(step.student_logits * jnp.ones(7)),
    "no argument": lambda: 0.0,
    "a class": GridConfig,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("field", ["loss", "reward", "next_reward"])
def test_a_function_that_does_not_make_a_number_of_a_step(name, field):
    """Before the work, by name, and with what to do; also in the exact update."""
    method = Method("mine", **{field: FUNCTIONS[name]})
    for call in (
        lambda: brief(methods=[method]),
        lambda: expected_update(worlds()[0], taught()[0], method, np.zeros((4, 3))),
        lambda: fields.asymmetry(worlds()[0], taught()[0], method, np.zeros((4, 3))),
    ):
        with pytest.raises(ValueError) as error:
            call()
        in_one_line(error.value, {field: None}, {})
        assert "'mine'" in str(error.value)


@pytest.mark.parametrize(
    "measure",
    [
        lambda *_: None,
        lambda *_: {"a": 1.0},
        lambda m, t, p: {"a": p},
        lambda m, t, p: {1: p[:, 0, 0]},
        lambda m, t: {},
        lambda m, t, p: {"a": jnp.asarray([float(x) for x in p[:, 0, 0]])},
        GridConfig,
        3,
    ],
)
def test_a_measure_that_measures_nothing(measure):
    with pytest.raises(ValueError) as error:
        brief(measure=measure)
    in_one_line(error.value, {"measure": None}, {})


@pytest.mark.parametrize("field", ["learning_rate", "value_learning_rate"])
@pytest.mark.parametrize(
    "schedule", [lambda k: None, lambda k: jnp.ones(2), lambda: 0.1, lambda k: 0.1 if k > 3 else 0.2, int]
)
def test_a_schedule_that_is_none(schedule, field):
    with pytest.raises(ValueError) as error:
        Config(**{field: schedule})
    in_one_line(error.value, {field: None}, {})


@pytest.mark.parametrize("progress", [None, True, False])
@pytest.mark.parametrize("value", [0, "x", [1]])
def test_a_hook_is_a_function(value, progress):
    with pytest.raises(ValueError) as error:
        brief(on_chunk=value, progress=progress)
    in_one_line(error.value, {"on_chunk": None}, {})


def test_what_is_too_large_is_refused_at_once():
    """And not by the operating system, hours later."""
    for call, named in (
        (lambda: sample_mdps(KEY, 10**9), "num_mdps|worlds"),
        (lambda: sample_mdps(KEY, 1, num_rows=10**6, num_cols=10**6), "cells"),
        (lambda: sample_mdps(KEY, 1, num_actions=10**9), "actions"),
        (lambda: corridor.chain(10**9), "length"),
        (lambda: corridor.chain(3, 10**9), "num_mdps"),
        (lambda: garnet.garnet(KEY, 10**9), "sizes"),
        (lambda: garnet.garnet(KEY, 1, num_states=10**6, branching=10**6), "sizes"),
        (lambda: oscillation.oscillation_game(10**9), "num_mdps"),
        (lambda: worlds().with_observation([0, 1, 2, 2**30]), "observation"),
        (lambda: flows.flow(worlds()[0], taught()[0], "n_distill", num_records=10**9), "num_records"),
        (
            lambda: sampled_updates(KEY, worlds(), taught(), ["n_distill"], np.zeros((3, 4, 3)), num_updates=2**31),
            "num_updates",
        ),
        (lambda: brief(num_iterations=2**40), "num_iterations"),
        (lambda: Config(max_episode_steps=2**40), "max_episode_steps"),
        (
            lambda: expected_update(worlds()[0], taught()[0], "n_distill", np.zeros((4, 3)), num_nodes=10**6),
            "num_nodes",
        ),
    ):
        with pytest.raises(ValueError) as error:
            call()
        in_one_line(error.value, {"": None}, {"": named})
    large = sample_mdps(KEY, 2, num_rows=3, num_cols=3, p_plus10=0.3, observation="window", window_radius=10**9)
    small_window = sample_mdps(KEY, 2, num_rows=3, num_cols=3, p_plus10=0.3, observation="window", window_radius=2)
    np.testing.assert_array_equal(large.observation, small_window.observation)  # a window larger than the world


def test_an_integer_of_numpy_is_a_number_of_worlds():
    sizes = {"num_rows": np.uint8(3), "num_cols": np.int16(3), "p_plus10": np.float32(0.3)}
    mdps = sample_mdps(KEY, np.uint8(200), **sizes)
    assert mdps.num_mdps == 200 and mdps.num_states == 9
    assert Config(num_iterations=np.uint8(200), num_checkpoints=np.int8(100)).checkpoints[-1] == 200
    assert (
        garnet.garnet(
            KEY, np.int8(2), num_states=np.uint8(20), num_actions=np.uint8(20), branching=np.uint8(20)
        ).num_outcomes
        == 400
    )


@pytest.mark.parametrize("temperature", [1e-45, 2e-38, 1e-34, 1e30, np.inf])
def test_teachers_of_extreme_temperatures_are_policies(temperature):
    q = np.array([[1e6, 0, -1e6], [3, 3, 3], [1, 2, 3], [0, 0, 1]])
    assert is_policy(teachers.from_q(worlds(), q, temperature=temperature))


@settings(max_examples=2)
@given(name=st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12))
def test_names_of_any_language(name, tmp_path_factory):
    """Through training, tables and files."""
    result = brief(methods=dict.fromkeys((name, name + "2"), "on_policy_distill_r"))
    path = result.save(tmp_path_factory.mktemp("named") / "run.npz")
    assert load(path).labels == (name, name + "2") and name in str(compare(load(path)))
    result.to_csv(path.with_suffix(".csv"))
    assert name in path.with_suffix(".csv").read_text(encoding="utf-8") or '"' in name


# --- Flags ----------------------------------------------------------------------------------------------------

# fmt: off
WORDS = ["1", "0.05", "baseline", "optimal", "", "nan", "inf", "-1", "0", "1e400", "1e39", "ten", "1.5", "9" * 40,
    "true", "-9999999999999999999999", "None", "[1]", "a,b", ",", "'", '"', "é", "\u2028", "--", "x" * 5000, "9" * 5000,
    "0x10", "1_000", "٣", " ", "1 2", "$(x)"]
# fmt: on
word = st.one_of(st.sampled_from(WORDS), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))


def fails_well(capsys: pytest.CaptureFixture[str], call: Callable[[], Any]) -> bool:
    """Whether it was refused, with exit code 2 and one line on stderr; False if it was let through."""
    try:
        call()
    except SystemExit as stopped:
        if stopped.code in (0, None):  # --help
            return False
        error = capsys.readouterr().err
        assert stopped.code == 2, stopped.code
        assert error.startswith("error: ") and error.count("\n") == 1 and len(error) < 1100, error[:2000]
        assert not any(word in error for word in INTERNALS), error
        return True
    finally:
        capsys.readouterr()
    return False


FLAGS = [field.name for field in dataclasses.fields(fig8.Settings)]
refused: collections.Counter = collections.Counter()


def flags_of_an_experiment(data: st.DataObject, capsys: Any, folder: Path) -> None:
    """Everything up to the work itself, which is not begun."""
    names = st.one_of(st.sampled_from(FLAGS), st.text(max_size=5))
    given_ = [f"--{name}={data.draw(word)}" for name in data.draw(st.lists(names, min_size=1, max_size=3))]
    if data.draw(st.booleans()):
        given_.append(data.draw(word))

    def call() -> None:
        settings_ = common.parse(fig8.Settings, "fig8", fig8.SMOKE, ["fig8", *given_, f"--out={folder}/out"])
        try:
            fig8.check(settings_)
            common.keys(settings_.seed)
        except ValueError as error:
            common.fail(str(error))

    refused["experiment", fails_well(capsys, call)] += 1
    assert not list(folder.iterdir())


# fmt: off
COMMANDS = {"methods": [], "check": ["--num_mdps", "--seed"], "show": [], "table": ["--baseline", "--reach",
    "--format", "--columns"], "plot": ["--out", "--methods", "--quantity"], "compare": ["--methods", "--worlds",
    "--num_mdps", "--num_rows", "--num_cols", "--teacher", "--teacher_noise", "--num_iterations", "--seed",
    "--baseline", "--reach", "--out", *(f"--{name}" for name in commands.TRAINING)]}
# fmt: on


def flags_of_the_command(data: st.DataObject, capsys: Any, results_file: Path, monkeypatch: Any) -> None:
    """A command with right arguments and up to three that are drawn; what would train does not."""
    command = data.draw(st.sampled_from([*COMMANDS, "compare", "compare"]))
    small_worlds = ["--worlds=grid", "--teacher=uniform", "--num_mdps=2", "--num_rows=3", "--num_cols=3", "--overwrite"]
    right = {
        "compare": small_worlds,
        "check": ["n_distill"],
        "show": [str(results_file)],
        "table": [str(results_file)],
        "plot": [str(results_file)],
    }
    options = st.sampled_from(COMMANDS[command] or ["--none"])
    line = [command, *right.get(command, [])]
    line += [f"{name}={data.draw(word)}" for name in data.draw(st.lists(options, max_size=3))]
    if data.draw(st.integers(0, 3)) == 0:
        line.append(data.draw(word))
    refused["command", fails_well(capsys, lambda: main.main(line))] += 1


def run_flags(what: str, capsys: Any, tmp_path: Path, monkeypatch: Any, examples: int) -> None:
    refused.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr("warnings.formatwarning", __import__("warnings").formatwarning)
    for name, instead in (
        ("train", lambda *_, **__: make()),
        ("check_method", lambda *_, **__: "found"),
        ("draw", lambda *_, **__: []),
    ):
        monkeypatch.setattr(commands, name, instead)
    results_file = make().save(tmp_path / "run.npz") if what == "command" else tmp_path

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def property(data: st.DataObject) -> None:
        if what == "experiment":
            flags_of_an_experiment(data, capsys, tmp_path)
        else:
            flags_of_the_command(data, capsys, results_file, monkeypatch)

    property()
    TRIED[f"flags of the {what}"] += refused.total()
    assert refused[what, True] > 0.4 * examples and refused[what, False] > 0  # neither is everything refused


@pytest.mark.parametrize("what", ["experiment", "command"])
def test_flags(what, capsys, tmp_path, monkeypatch):
    run_flags(what, capsys, tmp_path, monkeypatch, 100)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["experiment", "command"])
def test_many_flags(what, capsys, tmp_path, monkeypatch):
    run_flags(what, capsys, tmp_path, monkeypatch, 3000)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64, 10**30])
def test_seeds_that_are_none(seed, capsys, tmp_path, monkeypatch):
    """They would be cut to 32 bits, and two seeds be one; or not fit at all."""
    monkeypatch.chdir(tmp_path)
    for line in (["compare", f"--seed={seed}"], ["check", "n_distill", f"--seed={seed}"]):
        assert fails_well(capsys, lambda line=line: main.main(line))
    with pytest.raises(ValueError, match="seed"):
        common.keys(seed)


def test_what_can_be_refused_is_refused_before_the_work(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_worlds", lambda *_: pytest.fail("the work began"))
    for flag in (
        "--reach=nan",
        "--teacher_noise=nan",
        "--teacher_noise=2",
        "--out=",
        "--learning_rate=1e39",
        "--max_episode_steps=99999999999",
    ):
        assert fails_well(capsys, lambda flag=flag: main.main(["compare", flag]))


@pytest.fixture(autouse=True, scope="module")
def report():
    """Says how much was tried: pytest -s tests/test_fuzz.py."""
    yield
    print(f"\ninputs tried: {TRIED.total()} at {len(TRIED)} doors")
    gc.collect()
