"""`train`: worlds, a teacher and methods in; learning curves and students out."""

import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import methods
from jaxdistill.executors.ambient import resolved
from jaxdistill.executors.sharding import Sharding
from jaxdistill.mdp import MDP, Teacher, exact, validate
from jaxdistill.mdp.teacher import check
from jaxdistill.methods import Method, effects
from jaxdistill.results import Result, Stopped
from jaxdistill.runtime import checks, streams
from jaxdistill.runtime.errors import ExecutorFailed
from jaxdistill.runtime.progress import Hook, Progress
from jaxdistill.training.config import Cell, Config, ResolvedCell, check_effects, config_of, resolve_cell
from jaxdistill.training.first_updates import with_update_norms
from jaxdistill.training.live import LiveMetrics, OnMetrics, both
from jaxdistill.training.measuring import MeasureLike, Requested, requested
from jaxdistill.training.recorder import Recorder
from jaxdistill.training.run import run_students
from jaxdistill.training.shards import run_students_on

MethodLike = str | Method | Cell


def train(
    key: jax.Array,
    mdps: MDP,
    teacher: Teacher | None = None,
    methods: MethodLike | Sequence[MethodLike] | Mapping[str, MethodLike] = ("baseline", "on_policy_distill"),
    config: Config | None = None,
    *,
    initial_logits: np.ndarray | None = None,
    initial_values: np.ndarray | None = None,
    equal_steps: bool = False,
    keep_tables: bool = True,
    measure: MeasureLike | None = None,
    progress: bool | None = None,
    on_chunk: Hook | None = None,
    on_metrics: OnMetrics | None = None,
    executor: Executor | Sharding | None = None,
    **changes: Any,
) -> Result:
    """Trains one tabular student per method and MDP and returns their learning curves and final tables.

    A student's numbers depend on `key`, its label and its MDP's `id`, and on nothing else that is trained beside it.

    Args:
      key: random key, such as `jax.random.key(0)`.
      mdps: M stacked MDPs, such as `sample_mdps(key, 100)`, or a single one.
      teacher: M stacked teachers, such as `teachers.optimal(mdps)`; None where no method needs one.
      methods: P names of `METHODS` or `ZOO`, `Method`s or `Cell`s: one, several, or a mapping from labels to them.
      config: a `Config`; its fields may also be given by name, as `**changes`.
      initial_logits, initial_values: float [P, M, O, A] and [P, M, O], or what broadcasts to them; zeros if None.
      equal_steps: whether learning rates are scaled so that all first updates are equally large (`first_updates`).
      keep_tables: whether the result holds the final logits and values (O * (A + 1) floats per student).
      measure: computed at every checkpoint: a name of `measures.MEASURES`, such as "forward_kl:teacher"; a function of
        B stacked MDPs, their teachers and policies [B, S, A] in float64, written in JAX, which returns {name: numbers
        [B]}; a list of both; or a mapping from names of your own. A function needs a teacher in every cell.
      progress: True: a bar, or a line every ten seconds; None: no line for work of less than that; False: nothing.
      on_chunk: called about twice a second with (fraction done, environment steps so far, seconds left).
      on_metrics: called with named numbers for a log, as `live.LiveMetrics` says.
      executor: trains the students in shards, to the same bits; None: that of `executors.using`, or this process.
      **changes: fields of `Config`, such as num_iterations, learning_rate, discount, estimator. A field that has no
        effect on any of the methods is refused; a `config` may hold one, because several trainings may share it.

    Returns:
      A `Result`. Its curves are the undiscounted returns of the training episodes where the student acts itself, and
      exact returns of the student where another policy is in control.

    Raises:
      ValueError: one line that says what was wrong, what was expected and what to do.
      Stopped, ExecutorFailed: by Ctrl-C, or if shards were lost; `result` holds the students that had finished.
    """
    _check_functions(on_chunk=on_chunk, on_metrics=on_metrics)
    key, sharding = streams.as_key(key), resolved(executor)
    (mdps, teacher), config = stacked(mdps, teacher), config_of(config, changes)
    cells = resolve(methods, teacher, config)
    measures = _checked_measures(measure, mdps, cells, config, changes)
    initial = _initial_params(initial_logits, initial_values, len(cells), mdps)
    cells = with_update_norms(key, mdps, cells, initial, equal_steps)
    recorder = Recorder(key, mdps, cells, config, keep_tables, measures, is_live=on_metrics is not None)
    live = None if on_metrics is None else LiveMetrics(recorder, on_metrics)
    return _run(key, recorder, initial, Progress("students", progress, both(on_chunk, live)), sharding, live)


def _checked_measures(
    measure: MeasureLike | None, mdps: MDP, cells: list[ResolvedCell], config: Config, changes: Mapping[str, Any]
) -> Requested:
    """What is measured; ValueError unless every cell can be trained and measured and every change has an effect."""
    measures = requested(measure, mdps, cells[0].teacher, config)
    _check_cells(cells, mdps, needs_teachers=measures.needs_teachers)
    check_effects(cells, measures.unused(changes), mdps.num_actions, mdps.num_features)
    _warn_of_floors(cells)
    return measures


def _run(
    key: jax.Array,
    recorder: Recorder,
    initial: np.ndarray | None,
    progress: Progress,
    sharding: Sharding | None,
    live: LiveMetrics | None,
) -> Result:
    """Trains the students of the recorder's cells and returns its result."""
    mdps, start = recorder.mdps, time.perf_counter()
    policy = exact.optimal_policy(mdps)
    lengths = exact.start_value(mdps, exact.expected_length(mdps, policy))  # by which students are ordered
    has_limit = mdps.has_time_limit
    optimal_returns = exact.optimal_return(mdps) if has_limit else exact.episode_return(mdps, policy)

    def result(rounding: Mapping[str, Any] | None = None) -> Result:
        return recorder.result(optimal_returns, progress.steps, time.perf_counter() - start, rounding)

    rounding = None
    try:
        with progress as report:
            if sharding is None:
                run_students(key, recorder, lengths, initial, report)
            else:
                rounding = run_students_on(sharding, key, recorder, lengths, initial, report)
    except KeyboardInterrupt as stop:
        if not recorder.finished.any():
            raise
        raise Stopped(result()) from stop
    except ExecutorFailed as failure:
        failure.result = result()
        raise
    whole = result(rounding)
    if live is not None:
        live.give_checkpoints()  # those whose exact numbers were not known before
    return whole


def _check_functions(**functions: Any) -> None:
    """ValueError unless each is a function or None."""
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise ValueError(f"{name} must be a function or None; got {checks.shown(function)}.")


def _check_cells(cells: list[ResolvedCell], mdps: MDP, needs_teachers: bool) -> None:
    """ValueError unless every cell can be trained on these worlds."""
    for cell in cells:
        checks.concrete(list(vars(cell.config).values()))
        _check_teacher(cell, mdps)
        methods.check_episodes_end(cell.method, mdps, cell.teacher)
    if needs_teachers and any(cell.teacher is None for cell in cells):
        raise ValueError("measure compares students with their teacher; pass one, such as teachers.uniform(mdps).")


def _warn_of_floors(cells: list[ResolvedCell]) -> None:
    """Warns of each share of a teacher below the floor that is not negligible, once for all cells with this share."""
    labels: dict[str, list[str]] = {}
    for cell in cells:
        share = cell.mass_below_floor()
        if share is not None and share > effects.NEGLIGIBLE_MASS:
            labels.setdefault(effects.floor_text(share, cell.config.probability_floor), []).append(cell.label)
    for text, cell_labels in labels.items():
        warnings.warn(f"{', '.join(cell_labels)}: {text}.", stacklevel=4)


def stacked(mdps: MDP, teacher: Teacher | None) -> tuple[MDP, Teacher | None]:
    """The validated worlds with a leading axis [M]. A single world and its teacher get an axis of length 1."""
    validate(mdps)
    if teacher is not None and not isinstance(teacher, Teacher):
        raise ValueError(f"teacher must be a Teacher, such as teachers.optimal(mdps); got {type(teacher).__name__}.")
    if not mdps.is_stacked:
        mdps = jax.tree.map(lambda x: jnp.asarray(x)[None], mdps)
        teacher = jax.tree.map(lambda x: np.asarray(x)[None], teacher)
    return mdps, teacher


def resolve(given: Any, teacher: Teacher | None, config: Config) -> list[ResolvedCell]:
    """The cells of the argument `methods` of `train`."""
    if isinstance(given, str | Method | Cell):
        given = [given]
    pairs = list(given.items()) if isinstance(given, Mapping) else [(None, item) for item in checks.listed(given)]
    if not pairs:
        raise ValueError(f"methods is empty; give at least one of {', '.join(methods.METHODS)}, or of ZOO.")
    cells = []
    for label, item in pairs:
        if not isinstance(label, str | None) or not (label or "").isprintable():
            raise ValueError(f"methods must map labels of one line to methods; got the label {checks.shown(label)}.")
        cells.append(_resolve_cell(label, item if isinstance(item, Cell) else Cell(item), teacher, config))
    labels = [cell.label for cell in cells]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"Two methods are called {label!r}; name them with a mapping, {{'a': ..., 'b': ...}}.")
    return cells


def _resolve_cell(label: str | None, cell: Cell, teacher: Teacher | None, config: Config) -> ResolvedCell:
    method = methods.get(cell.method)
    if not isinstance(cell.changes, Mapping):
        raise ValueError(f"changes of a Cell must map options to values; got {checks.shown(cell.changes)}.")
    shared = {"num_iterations", "num_checkpoints"} & set(cell.changes)
    if shared:
        raise ValueError(f"{' and '.join(sorted(shared))} must be the same for every method; set it for all.")
    for name in ("estimator", "reduction"):
        fixed = getattr(method, name)
        requested = cell.changes.get(name, fixed)
        if fixed not in (None, requested):
            raise ValueError(f"{method.name} is defined with {name} {fixed!r}; it cannot use {requested!r}.")
    if cell.teacher is not None:
        is_single = isinstance(cell.teacher, Teacher) and np.ndim(cell.teacher.probs) == 2
        teacher = cell.teacher[None] if is_single else cell.teacher
    return resolve_cell(label or method.name, method, teacher, config_of(config, cell.changes), changes=cell.changes)


def _check_teacher(cell: ResolvedCell, mdps: MDP) -> None:
    """ValueError unless the teacher of a cell fits the worlds and the method's functions are finite with it."""
    teacher = cell.teacher
    if teacher is None:
        if cell.method.needs_teacher:
            raise ValueError(f"{cell.label} needs a teacher; pass one, such as teachers.q_learning(key, mdps).")
        methods.check_functions(cell.method, mdps.num_actions)
        return
    check(teacher, (mdps.num_mdps, mdps.num_states, mdps.num_actions))
    methods.check_functions(cell.method, mdps.num_actions, teacher.num_others)
    methods.check_zeros(cell.method, teacher.probs, teacher.others, cell.config.probability_floor, cell.label)


def _initial_params(logits: Any, values: Any, num_cells: int, mdps: MDP) -> np.ndarray | None:
    """The parameters to start from, float32 [P, M, O, A + 1]; None if neither table is given."""
    if logits is None and values is None:
        return None
    logits_shape = (num_cells, mdps.num_mdps, mdps.num_observations, mdps.num_actions)
    tables = []
    for name, table, shape in (
        ("initial_logits", logits, logits_shape),
        ("initial_values", values, logits_shape[:3]),
    ):
        table = np.zeros(()) if table is None else checks.numbers(name, table).astype(np.float32)
        try:
            table = np.broadcast_to(table, shape)
        except ValueError:
            raise ValueError(f"{name} must broadcast to {list(shape)}; got shape {list(table.shape)}.") from None
        if not np.isfinite(table).all():
            raise ValueError(f"{name} must be finite; it holds NaN or infinity.")
        tables.append(table)
    return np.concatenate([tables[0], tables[1][..., None]], axis=-1).astype(np.float32)
