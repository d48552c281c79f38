"""Markov decision processes as pytrees of fixed-shape arrays, made to be stacked by the thousand.

An action is a probability distribution over the K *outcomes* of a state. An outcome is a successor, a reward collected
on arrival, and whether arriving ends the episode. A grid world has K = 5 outcomes (left, right, up, down, stay), so
that |A| = 4000 actions need one table [4000, 5] instead of one [S, 4000, S].

Axes: M MDPs (leading, when stacked), S states, A actions, K outcomes, O observations, F features, B start states.
"""

import dataclasses
import math
import weakref
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdistill.mdp.transitions import Transitions, pack
from jaxdistill.runtime import checks

_SUM_TOLERANCE = 1e-5  # The sum of a row of probabilities may differ from 1 by this much.
_DTYPES = {"i": jnp.int32, "u": jnp.int32, "b": jnp.bool_, "f": jnp.float32}
_KIND_LETTERS = {"integers": "iu", "real numbers": "f", "booleans": "b"}  # NumPy's letters of the dtypes.
NO_TIME_LIMIT = 2**31 - 1
"""`MDP.time_limit` of a world whose episodes are never cut."""
_FIELDS_OF_KIND = {
    "integers": ("successor", "start", "observation", "id", "time_limit"),
    "real numbers": ("reward", "outcome_probs", "continue_prob", "start_probs"),
    "booleans": ("terminal",),
}
_NUM_AXES = {"successor": range(2, 4), "outcome_probs": range(2, 5), "start": range(1, 3)}
_LARGEST_TABLE = 2**28  # The largest number of entries in the tables of one student: a gigabyte.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MDP:
    """One MDP, or a stack of them if every array has a leading axis [M].

    Build one with `MDP.from_arrays`, `MDP.from_transition_matrix`, `gridworld.sample_mdps` or `gridworld.from_text`,
    which check their arguments. The plain constructor does not check them, because JAX also calls it with leaves that
    are not arrays.

    Attributes:
      successor: int32 [S, K], the state that outcome k leads to from s.
      reward: float32 [S, K], collected on arrival (units of return).
      terminal: bool [S, K], whether arrival ends the episode.
      outcome_probs: float32 [A, K] or [S, A, K], each action's distribution over outcomes; rows sum to 1.
      continue_prob: float32 [], probability that an episode goes on after a step that did not end it.
      start: int32 [B], start states.
      start_probs: float32 [B], their probabilities.
      observation: int32 [S], the row of the student's tables used in each state, in [0, num_observations); or int32
        [S, F], F >= 2, the rows whose sum is used there, padded with -1 (`with_features`).
      id: int32 [], the number of the world: random streams depend on it and not on the position in a stack.
      time_limit: int32 [], the number of steps after which an episode is cut; `NO_TIME_LIMIT` for none. A cut episode
        is truncated and not terminated: its last target bootstraps, as in Gymnasium.
      num_observations: number of rows O of the student's tables (static).
      grid: the cells of a grid world (`gridworld.Grid`), from which pictures are drawn, or None.
    """

    successor: jax.Array
    reward: jax.Array
    terminal: jax.Array
    outcome_probs: jax.Array
    continue_prob: jax.Array
    start: jax.Array
    start_probs: jax.Array
    observation: jax.Array
    id: jax.Array
    time_limit: jax.Array
    num_observations: int = dataclasses.field(metadata={"static": True})
    grid: Any = None

    @property
    def num_states(self) -> int:
        """Number of states S."""
        return self.successor.shape[-2]

    @property
    def num_outcomes(self) -> int:
        """Number of outcomes K of a state."""
        return self.successor.shape[-1]

    @property
    def num_actions(self) -> int:
        """Number of actions A."""
        return self.outcome_probs.shape[-2]

    @property
    def num_features(self) -> int:
        """F, the largest number of rows of the student's tables whose sum is used in a state; 1 for a plain table."""
        return self.features.shape[-1]

    @property
    def features(self) -> jax.Array:
        """The rows of the student's tables whose sum is used in each state, int32 [S, F], padded with -1."""
        return self.observation if self.observation.ndim == self.id.ndim + 2 else self.observation[..., None]

    @property
    def is_stacked(self) -> bool:
        """Whether every array has a leading axis [M]."""
        return self.id.ndim == 1

    @property
    def has_time_limit(self) -> bool:
        """Whether episodes are cut in this MDP, or in any of the stack; for concrete arrays."""
        return bool((np.asarray(self.time_limit) < NO_TIME_LIMIT).any())

    @property
    def num_mdps(self) -> int:
        """Length M of the stack. Raises ValueError for a single MDP."""
        if not self.is_stacked:
            raise ValueError("this is a single MDP, not a stack: use stack([mdp]) to make a stack of one")
        return self.id.shape[0]

    def __repr__(self) -> str:
        try:
            count = f"{self.num_mdps} stacked, " if self.is_stacked else ""
            sizes = f"{self.num_states} states, {self.num_actions} actions, {self.num_outcomes} outcomes"
        except (AttributeError, IndexError):  # A tree map put something else than arrays into the fields.
            return object.__repr__(self)
        rows = f"{self.num_observations} observations"
        if jnp.ndim(self.observation) == jnp.ndim(self.id) + 2:
            rows = f"{self.num_observations} features, at most {self.num_features} in a state"
        return f"MDP({count}{sizes}, {rows}{self._limit_text()})"

    def _limit_text(self) -> str:
        """The time limits in words; "" without any, and inside a trace, where they are unknown."""
        is_known = isinstance(self.time_limit, np.ndarray | jax.Array) and not checks.is_traced(self.time_limit)
        if not is_known or not self.has_time_limit:
            return ""
        limits = np.unique(np.asarray(self.time_limit))
        return f", cut after {limits[0]}{' or more' if len(limits) > 1 else ''} steps"

    def __getitem__(self, index: Any) -> "MDP":
        """Takes MDPs out of a stack: an int gives a single MDP; a slice, an int array or a bool array gives a stack.

        Ids and `num_observations` are kept, so a student has the same random stream and the same table shapes in a
        slice as in the whole stack.

        Raises:
          IndexError: outside the stack, where JAX would silently clamp.
        """
        return _take(self, checks.positions(index, self.num_mdps, "MDPs"))

    def with_observation(self, observation: npt.ArrayLike, num_observations: int | None = None) -> "MDP":
        """The same MDPs with other observations: states with equal observations share a row of the student's tables.

        Args:
          observation: int [S], for a single MDP or for all MDPs of a stack, or [M, S].
          num_observations: rows of the student's tables; None: as many as `observation` uses.

        Raises:
          ValueError: as `from_arrays` does.
        """
        rows = _broadcast("observation", _integers("observation", observation), (*self.id.shape, self.num_states))
        if num_observations is None:
            num_observations = int(rows.max(initial=0)) + 1
        size = checks.whole("num_observations", num_observations, 1)
        changes: dict[str, Any] = {"observation": jnp.asarray(rows, jnp.int32), "num_observations": size}
        return validate(dataclasses.replace(self, **changes))

    def with_features(self, features: npt.ArrayLike, num_observations: int | None = None) -> "MDP":
        """The same MDPs with students whose logits and value in a state are sums of rows of their tables.

        States that share some rows generalise to each other: such a student is linear in its features, each of which
        is present in a state or absent. `worlds.features` makes common features.

        Args:
          features: int [S, F], for a single MDP or for all MDPs of a stack, or [M, S, F]: the rows of each state, at
            least one and all different, in any order, padded with -1. With F = 1 they are observations.
          num_observations: rows O of the student's tables; None: as many as `features` uses.

        Raises:
          ValueError: one line, for a row that is out of range or twice in a state, a state without a row, or tables
            that are too large.
        """
        rows = _integers("features", features)
        if rows.ndim < 2 or rows.shape[-1] == 0:
            raise ValueError(f"features must be [S, F] or [M, S, F] with F >= 1, got shape {rows.shape}")
        rows = _broadcast("features", rows, (*self.id.shape, self.num_states, rows.shape[-1]))
        if rows.size > _LARGEST_TABLE:
            raise ValueError(
                f"features of shape {rows.shape} have more than {_LARGEST_TABLE} entries; use fewer features in a "
                "state, or fewer worlds at once"
            )
        if rows.shape[-1] == 1:
            _check("features", rows >= 0, rows, "must be at least 0 where a state has one, which is its row")
            return self.with_observation(rows[..., 0], num_observations)
        if num_observations is None:
            num_observations = max(int(rows.max(initial=0)), 0) + 1
        size = checks.whole("num_observations", num_observations, 1)
        changes: dict[str, Any] = {"observation": jnp.asarray(rows, jnp.int32), "num_observations": size}
        return validate(dataclasses.replace(self, **changes))

    def with_time_limit(self, time_limit: npt.ArrayLike | None) -> "MDP":
        """The same MDPs with episodes cut after `time_limit` steps, >= 1, one number or one for each MDP; None: never.

        Raises:
          ValueError: as `from_arrays` does.
        """
        limits = _broadcast("time_limit", _time_limits(time_limit), self.id.shape)
        if np.array_equal(limits, self.time_limit):
            return self  # so that an MDP that has been validated is not validated again
        return validate(dataclasses.replace(self, time_limit=jnp.asarray(limits, jnp.int32)))

    @classmethod
    def from_arrays(
        cls,
        successor: npt.ArrayLike,
        reward: npt.ArrayLike,
        terminal: npt.ArrayLike,
        outcome_probs: npt.ArrayLike,
        *,
        continue_prob: npt.ArrayLike = 1.0,
        start: npt.ArrayLike = 0,
        start_probs: npt.ArrayLike | None = None,
        observation: npt.ArrayLike | None = None,
        num_observations: int | None = None,
        id: npt.ArrayLike = 0,
        time_limit: npt.ArrayLike | None = None,
    ) -> "MDP":
        """Builds an MDP, or a stack if `successor` is [M, S, K], from array-like arguments, and checks it.

        In a stack every other argument has a leading axis [M] or is shared by all MDPs. `outcome_probs` with three axes
        means [M, A, K] in a stack and [S, A, K] in a single MDP. By default episodes start in state 0, several start
        states are equally probable, and every state has its own observation. In a stack, a scalar `id` is the id of
        the first MDP, and the others are numbered on from it. `time_limit` None means that episodes are never cut.

        Raises:
          ValueError: one line, if shapes disagree, an index is out of range, a number is not finite, or probabilities
            are negative or do not sum to 1 within 1e-5.
        """
        table = _integers("successor", successor)
        if table.ndim not in (2, 3) or 0 in table.shape:
            raise ValueError(f"successor must be [S, K] or [M, S, K] and not empty, got shape {table.shape}")
        lead, num_states = table.shape[:-2], table.shape[-2]
        probs = checks.numbers("outcome_probs", outcome_probs)
        starts = np.atleast_1d(_integers("start", start))
        if start_probs is None:
            start_probs = np.full(starts.shape, 1 / max(starts.shape[-1], 1))
        weights = np.atleast_1d(checks.numbers("start_probs", start_probs))
        rows = np.arange(num_states) if observation is None else _integers("observation", observation)
        if num_observations is None:
            num_observations = int(rows.max(initial=0)) + 1
        ids = _integers("id", id)
        arrays = {
            "successor": table,
            "reward": _broadcast("reward", checks.numbers("reward", reward), table.shape),
            "terminal": _broadcast("terminal", _booleans("terminal", terminal), table.shape),
            "outcome_probs": np.broadcast_to(probs, lead + probs.shape) if probs.ndim == 2 else probs,
            "continue_prob": _broadcast("continue_prob", checks.numbers("continue_prob", continue_prob), lead),
            "start": _broadcast("start", starts, lead + starts.shape[-1:]),
            "start_probs": _broadcast("start_probs", weights, lead + weights.shape[-1:]),
            "observation": _broadcast("observation", rows, lead + (num_states,)),
            "id": _integers("id", ids + np.arange(lead[0])) if lead and ids.ndim == 0 else _broadcast("id", ids, lead),
            "time_limit": _broadcast("time_limit", _time_limits(time_limit), lead),
        }
        leaves = {name: jnp.asarray(array, _DTYPES[array.dtype.kind]) for name, array in arrays.items()}
        return validate(cls(**leaves, num_observations=checks.whole("num_observations", num_observations, 1)))

    @classmethod
    def from_transition_matrix(
        cls,
        transition_probs: npt.ArrayLike,
        reward: npt.ArrayLike,
        terminal_states: npt.ArrayLike = (),
        **kwargs: Any,
    ) -> "MDP":
        """Builds a single MDP from a transition matrix P[S, A, S'], the form of textbooks.

        The outcomes of a state are the distinct pairs (successor, reward) that some action can produce there. K is the
        largest number of them in a state, so it is small if P is sparse.

        Args:
          transition_probs: [S, A, S'], rows sum to 1. Rows of terminal states may be all 0.
          reward: [S, A, S'], [S, A] (the same for every successor) or [S'] (collected on arrival).
          terminal_states: the states in which an arrival ends the episode, as indices or as bool [S].
          **kwargs: the keyword arguments of `from_arrays`.

        Raises:
          ValueError: as `from_arrays` does.
        """
        probs = checks.numbers("transition_probs", transition_probs)
        if probs.ndim != 3 or probs.shape[0] != probs.shape[2] or 0 in probs.shape:
            raise ValueError(f"transition_probs must be [S, A, S] and not empty, got shape {probs.shape}")
        num_states, num_actions, _ = probs.shape
        values = checks.numbers("reward", reward)
        values = _broadcast("reward", values[..., None] if values.ndim == 2 else values, probs.shape)
        terminal = _state_mask("terminal_states", terminal_states, num_states)
        is_zero = terminal & (probs == 0).all((1, 2))
        probs = np.where(is_zero[:, None, None], np.eye(num_states)[:, None], probs)  # These states lead to themselves.
        index = np.nonzero(probs)
        state, action, successor = index
        transitions = Transitions(state, action, successor, values[index], terminal[successor], probs[index])
        return cls.from_arrays(*pack(transitions, num_states, num_actions), **kwargs)


@jax.jit
def _take(mdps: MDP, index: jax.Array) -> MDP:
    """The MDPs at `index` [] or [N] of a stack."""
    return jax.tree.map(lambda leaf: leaf[index], mdps)


def stack(mdps: Sequence[MDP]) -> MDP:
    """Stacks single MDPs of equal shape into one MDP with a leading axis [M].

    `num_observations` becomes the largest one. Ids are kept if all differ. Otherwise the stack is numbered from 0,
    because students with equal ids would share random numbers. Grids are kept if every MDP has one.

    Raises:
      ValueError: for an empty list, a stack in the list, or MDPs whose shapes differ.
    """
    mdps = checks.listed(mdps)
    checks.on_host(mdps)
    others = [item for item in mdps if not isinstance(item, MDP)]
    if others:
        raise ValueError(f"stack takes a list of MDPs, got {checks.shown(others[0])}")
    if not mdps:
        raise ValueError("stack needs at least one MDP, got an empty list")
    if any(mdp.is_stacked for mdp in mdps):
        raise ValueError("stack takes single MDPs, got one that is a stack: pass the MDPs of it, list(stacked)")
    changes: dict[str, Any] = {"num_observations": max(mdp.num_observations for mdp in mdps)}
    if any(mdp.grid is None for mdp in mdps):
        changes["grid"] = None
    mdps = [dataclasses.replace(mdp, **changes) for mdp in mdps]
    for field in dataclasses.fields(MDP):
        shapes = {str([jnp.shape(leaf) for leaf in jax.tree.leaves(getattr(mdp, field.name))]) for mdp in mdps}
        if len(shapes) > 1:
            two_shapes = " and ".join(sorted(shapes)[:2])
            raise ValueError(f"MDPs of a stack need equal shapes, but {field.name} has {two_shapes}")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *mdps)
    if len(np.unique(stacked.id)) < len(mdps):
        stacked = dataclasses.replace(stacked, id=jnp.arange(len(mdps), dtype=jnp.int32))
    return stacked


_VALIDATED: weakref.WeakSet[MDP] = weakref.WeakSet()
"""MDPs that have passed `validate` and cannot have changed since: all of their arrays are immutable."""


def validate(mdps: MDP) -> MDP:
    """Checks shapes, index ranges, finiteness and probabilities of concrete arrays; returns `mdps` unchanged.

    An MDP of JAX arrays is checked once. Every public function may therefore validate its MDPs without copying the
    stack to the host each time.

    Raises:
      ValueError: one line with the name of the field, its fault and the expectation.
    """
    if not isinstance(mdps, MDP):
        raise ValueError(f"mdps must be an MDP, such as sample_mdps(key, 100); got {type(mdps).__name__}.")
    if mdps in _VALIDATED:
        return mdps
    _check_arrays(jax.device_get(mdps))
    if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(mdps)):
        _VALIDATED.add(mdps)
    return mdps


def _check_arrays(host: Any) -> None:
    """ValueError unless the NumPy arrays of an MDP are those of an MDP."""
    _check_kinds(host)
    _check_shapes(host)
    for name, bound in {
        "successor": host.num_states,
        "start": host.num_states,
        "observation": host.num_observations,
    }.items():
        value = getattr(host, name)
        if name == "observation" and value.ndim == host.id.ndim + 2:
            _check_features(value, bound)
        else:
            _check(name, (value >= 0) & (value < bound), value, f"must be in [0, {bound})")
    _check("time_limit", host.time_limit >= 1, host.time_limit, "must be at least 1 step, or None for no limit")
    _check("reward", np.isfinite(host.reward), host.reward, "must be finite")
    for name in ("outcome_probs", "start_probs", "continue_prob"):
        value = getattr(host, name)
        _check(name, (value >= 0) & (value <= 1 + _SUM_TOLERANCE), value, "must hold probabilities in [0, 1]")
    for name in ("outcome_probs", "start_probs"):
        total = getattr(host, name).sum(-1, dtype=np.float64)
        _check(name, np.abs(total - 1) <= _SUM_TOLERANCE, total, "must sum to 1 along the last axis")
    if int(host.num_observations) * (host.num_actions + 1) > _LARGEST_TABLE:
        raise ValueError(
            f"{host.num_observations} observations of {host.num_actions} actions need tables of more than "
            f"{_LARGEST_TABLE} entries; number the observations from 0 without gaps"
        )


def _check_features(features: np.ndarray, num_rows: int) -> None:
    """Raises ValueError unless every state has different rows of the student's tables, padded with -1."""
    rule = f"must be in [0, {num_rows}), or -1 where a state has fewer than the others"
    _check("features", (features >= -1) & (features < num_rows), features, rule)
    has_one = (features >= 0).any(-1)
    if not has_one.all():
        *world, state = np.argwhere(~has_one)[0].tolist()
        place = f"state {state}{f' of world {world[0]}' if world else ''}"
        raise ValueError(f"features has none in {place}: every state needs a row of the student's tables")
    ordered = np.sort(features, axis=-1)
    repeated = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
    if repeated.any():
        *world, state, place = np.argwhere(repeated)[0].tolist()
        row = ordered[(*world, state, place)]
        place = f"state {state}{f' of world {world[0]}' if world else ''}"
        raise ValueError(f"features has row {row} twice in {place}; a state may use a row of the tables once")


def _check_kinds(mdps: MDP) -> None:
    """Raises ValueError unless every field is an array of its kind of numbers with a possible number of axes."""
    for kind, names in _FIELDS_OF_KIND.items():
        for name in names:
            array, num_axes = getattr(mdps, name), _NUM_AXES.get(name, range(4))
            letter = array.dtype.kind if isinstance(array, np.ndarray | np.generic) else "O"
            if letter not in _KIND_LETTERS[kind] or array.ndim not in num_axes:
                raise ValueError(
                    f"{name} must be an array of {kind} with {num_axes[0]} to {num_axes[-1]} axes, got "
                    f"{checks.shown(array)}; build the MDP with MDP.from_arrays"
                )
    checks.whole("num_observations", mdps.num_observations, 1)


def _check_shapes(mdps: MDP) -> None:
    """Raises ValueError unless the shapes of all fields agree and no array is empty."""
    lead, (num_states, num_outcomes) = mdps.successor.shape[:-2], mdps.successor.shape[-2:]
    num_actions, num_starts = mdps.num_actions, mdps.start.shape[-1]
    shapes = {
        "id": [lead],
        "time_limit": [lead],
        "reward": [mdps.successor.shape],
        "terminal": [mdps.successor.shape],
        "outcome_probs": [lead + (num_actions, num_outcomes), lead + (num_states, num_actions, num_outcomes)],
        "continue_prob": [lead],
        "start": [lead + (num_starts,)],
        "start_probs": [lead + (num_starts,)],
        "observation": [lead + (num_states,)],
    }
    if mdps.observation.ndim == len(lead) + 2:
        shapes["observation"] = [lead + (num_states, max(mdps.observation.shape[-1], 2))]
    for name, allowed in shapes.items():
        shape = getattr(mdps, name).shape
        if shape not in allowed or math.prod(shape) == 0:
            raise ValueError(f"{name} must have shape {' or '.join(map(str, allowed))}, not empty; got {shape}")


def _check(name: str, is_valid: np.ndarray, value: np.ndarray, rule: str) -> None:
    """Raises ValueError with the first entry of `value` that is not valid."""
    if not np.all(is_valid):
        index = tuple(int(i) for i in np.argwhere(~np.asarray(is_valid))[0])
        place = f" at index {index}" if index else ""
        raise ValueError(f"{name} {rule}, got {np.asarray(value)[index]}{place}")


def _as_array(name: str, value: npt.ArrayLike, letters: str, contents: str) -> np.ndarray:
    """`value` as an array; raises ValueError unless the kind of its dtype is one of NumPy's `letters`."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # The rows differ in length, or the value is a random key.
        raise ValueError(f"{name} must be a rectangular array of {contents}, got {checks.shown(value)}") from None
    if array.dtype.kind not in letters:
        raise ValueError(f"{name} must hold {contents}, got dtype {array.dtype}")
    return array


def _integers(name: str, value: npt.ArrayLike) -> np.ndarray:
    """`value` as an array of integers that fit in 32 bits."""
    array = _as_array(name, value, "iu", "integers")
    _check(name, (array >= -(2**31)) & (array < 2**31), array, "must fit in 32 bits")
    return array


def _time_limits(value: npt.ArrayLike | None) -> np.ndarray:
    """Time limits as integers; `NO_TIME_LIMIT` for None."""
    return _integers("time_limit", NO_TIME_LIMIT if value is None else value)


def _booleans(name: str, value: npt.ArrayLike) -> np.ndarray:
    """`value`, which may hold 0 and 1, as a bool array."""
    array = _as_array(name, value, "iub", "booleans")
    _check(name, np.isin(array, (0, 1)), array, "must hold booleans")
    return array.astype(bool)


def _broadcast(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`value` broadcast to `shape`; raises ValueError if that is impossible."""
    try:
        return np.broadcast_to(value, shape)
    except ValueError:
        raise ValueError(f"{name} must have shape {shape} or broadcast to it, got {value.shape}") from None


def _state_mask(name: str, states: npt.ArrayLike, num_states: int) -> np.ndarray:
    """Whether each state is among `states`, given as indices or as booleans: bool [S]."""
    array = _as_array(name, states, "iubf", "states, or booleans [S]")
    if array.dtype == bool:
        return _broadcast(name, array, (num_states,))
    indices = _integers(name, array.astype(np.int64) if array.size == 0 else array)
    _check(name, (indices >= 0) & (indices < num_states), indices, f"must be in [0, {num_states})")
    return np.isin(np.arange(num_states), indices)
