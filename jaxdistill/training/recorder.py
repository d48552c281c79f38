"""Collects the results of a training run: curves, exact returns and measures of its students, a batch at a time."""

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.kernels import choice
from jaxdistill.mdp import MDP, exact
from jaxdistill.mdp.evaluation import Evaluator
from jaxdistill.mdp.named_measures import parse
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.methods.schedules import Schedule, is_schedule
from jaxdistill.results.result import Result
from jaxdistill.runtime import streams
from jaxdistill.runtime.checkpoints import Outputs
from jaxdistill.training.config import Config, ResolvedCell
from jaxdistill.training.diagnosis import largest_finite, likely_cause
from jaxdistill.training.measuring import Requested, compiled

_EVALUATED = 64  # students to which a function of the user is applied together
_MOST_PENDING, _PENDING_BYTES = 512, 2**26  # students, and bytes of their tables, that wait to be evaluated together
_MOST_WAITING = 2  # evaluations that have not begun
_FEWEST_PLANNED = 20  # checkpoints of a curve from which it pays to plan the elimination of a world
_RETURN, _LENGTH = parse("return"), parse("length")
_RECORDS = (  # the arrays of a recorder with an entry for each student
    "returns", "lengths", "final_returns", "truncated", "finished", "logits", "values", "measurements", "largest",
)  # fmt: skip


class Recorder:
    """Collects the outputs that the pool hands out, and evaluates students exactly, a batch at a time."""

    def __init__(
        self,
        key: jax.Array,
        mdps: MDP,
        cells: Sequence[ResolvedCell],
        config: Config,
        keep_tables: bool,
        measures: Requested,
        is_live: bool = False,
    ):
        self.key, self.mdps, self.cells, self.config = key, mdps, cells, config
        num, m, c = len(cells), mdps.num_mdps, len(config.checkpoints)
        self.measures, self.is_live = measures, is_live
        self.returns = np.full((num, m, c), np.nan)
        self.lengths = np.full((num, m, c), np.nan)
        self.final_returns = np.full((num, m), np.nan)
        self.truncated = np.zeros((num, m), int)
        rows = (num, m, mdps.num_observations)
        self.logits = np.full((*rows, mdps.num_actions), np.nan, np.float32) if keep_tables else None
        self.values = np.full(rows, np.nan, np.float32) if keep_tables else None
        self.finished = np.zeros((num, m), bool)
        self.faults: dict[tuple[int, int], int] = {}  # (cell, MDP) -> iteration
        self.largest = np.zeros((num, m))  # the size of the largest finite parameter of a student that diverged
        self.pending: list[tuple[int, int, int, np.ndarray]] = []
        self.evaluations: list[Future[None]] = []
        self.executor = ThreadPoolExecutor(1)
        self.loops: list[dict[str, str]] = []  # the different loops that trained the students, see `note_loops`
        self.without_return: tuple[MDP, np.ndarray] | None = None  # the first student whose exact return is NaN
        self.measurements = np.full((num, m, c, len(measures.names)), np.nan) if measures.names else None
        # A schedule is never used, because `measuring` refuses measures that would take it.
        discount, floor = (0.0 if is_schedule(x) else x for x in (config.discount, config.probability_floor))
        planned = [
            c >= _FEWEST_PLANNED and (bool(measures.names) or not cell.method.control.is_student) for cell in cells
        ]
        named = list(dict.fromkeys([_RETURN, _LENGTH, *measures.named.values()]))
        teachers = [cell.teacher for cell in cells]
        self.evaluator = Evaluator(mdps, teachers, named, discount, floor, planned)
        table_bytes = 4 * mdps.num_observations * mdps.num_actions
        self.most_pending = min(max(_PENDING_BYTES // table_bytes, 1), _MOST_PENDING)

    def add(self, cell: np.ndarray, mdp: np.ndarray, pause: np.ndarray, outputs: Outputs) -> None:
        """Takes the outputs of N students of cells [N] on MDPs [N] at pauses [N], -1 at the end.

        A student whose parameters are not finite stays NaN in every array.
        """
        is_good = self._note_faults(cell, mdp, pause, outputs)
        cell, mdp, pause, outputs = cell[is_good], mdp[is_good], pause[is_good], outputs[is_good]
        acts = np.array([c.method.control.is_student for c in self.cells])[cell]
        self._add_curves(cell[acts], mdp[acts], pause[acts], outputs.curves[acts])
        logits, is_last = outputs.params[..., :-1], pause < 0
        self.finished[cell[is_last], mdp[is_last]] = True
        self.truncated[cell[is_last], mdp[is_last]] = outputs.truncated[is_last]
        if self.logits is not None and self.values is not None:
            self.logits[cell[is_last], mdp[is_last]] = logits[is_last]
            self.values[cell[is_last], mdp[is_last]] = outputs.params[is_last, :, -1]
        # A student that acts may have paused only so that its curve can be reported.
        is_evaluated = is_last | ~acts | bool(self.measures.names)
        students = zip(*(x[is_evaluated].tolist() for x in (cell, mdp, pause)), logits[is_evaluated], strict=True)
        for student in students:
            self.pending.append(student)
            if len(self.pending) == self.most_pending:
                self._begin_evaluation()

    def _note_faults(self, cell: np.ndarray, mdp: np.ndarray, pause: np.ndarray, outputs: Outputs) -> np.ndarray:
        """Notes the students that have diverged; bool [N], whether a student has not."""
        is_finite = np.isfinite(outputs.params).all(axis=(1, 2))
        fault = np.where((outputs.fault == 0) & ~is_finite, self.config.checkpoints[pause], outputs.fault)
        for i in np.flatnonzero(fault):
            self.faults.setdefault((int(cell[i]), int(mdp[i])), int(fault[i]))
        if not self.faults:
            return np.ones(len(cell), bool)
        students = list(zip(cell.tolist(), mdp.tolist(), strict=True))
        is_good = np.array([student not in self.faults for student in students], bool)
        for i in np.flatnonzero(~is_good):
            self.largest[students[i]] = max(self.largest[students[i]], largest_finite(outputs.params[i]))
        return is_good

    def _add_curves(self, cell: np.ndarray, mdp: np.ndarray, pause: np.ndarray, curves: np.ndarray) -> None:
        """Takes the bins that are complete of the curves [N, C, 2] of students that act."""
        checkpoints = self.config.checkpoints
        means = curves.astype(np.float64) / np.diff(checkpoints, prepend=0)[:, None]
        number = np.where(pause < 0, len(checkpoints), pause + 1)
        student, place = np.nonzero(np.arange(len(checkpoints)) < number[:, None])
        for record, values in ((self.returns, means[..., 0]), (self.lengths, means[..., 1])):
            record[cell[student], mdp[student], place] = values[student, place]

    def note_loops(self, loops: Sequence[Mapping[str, str]]) -> None:
        """Notes the loops that train students: for each program its estimator and the settings of its `loops.Loop`."""
        different = {tuple(sorted(loop.items())) for loop in (*self.loops, *loops)}
        self.loops = [dict(loop) for loop in sorted(different)]

    def flush(self) -> None:
        """Evaluates the pending students, and waits until all students have been evaluated."""
        if self.pending:
            self._begin_evaluation()
        for evaluation in self.evaluations:
            evaluation.result()
        self.evaluations.clear()
        self.executor.shutdown()

    def _begin_evaluation(self) -> None:
        """Has the pending students evaluated in a thread of its own, because `add` is called under the pool's lock."""
        if not self.evaluations:
            self.executor = ThreadPoolExecutor(1, thread_name_prefix="jaxdistill-exact")
        self.evaluations.append(self.executor.submit(self._evaluate, self.pending))
        self.pending = []
        if len(self.evaluations) > _MOST_WAITING:  # so that their tables do not fill the memory
            self.evaluations[-_MOST_WAITING].result()

    def _evaluate(self, students: list[tuple[int, int, int, np.ndarray]]) -> None:
        """Evaluates students (cell, MDP, pause, logits) exactly."""
        index = np.array([item[:3] for item in students])
        logits = np.stack([item[3] for item in students])
        values = self.evaluator(index[:, 0], index[:, 1], logits)
        by_measure = dict(zip(self.evaluator.measures, values.T, strict=True))
        returns = by_measure[_RETURN]
        self._set_returns(index, returns, by_measure[_LENGTH])
        if self.without_return is None and np.isnan(returns).any():
            student = int(np.isnan(returns).argmax())
            self.without_return = self.mdps[int(index[student, 1])], logits[student]
        if self.measurements is not None:
            for name, measure in self.measures.named.items():
                self.measurements[(*index.T, self.measures.names.index(name))] = by_measure[measure]
            for start in range(0, len(index), _EVALUATED):
                self._apply_functions(index[start : start + _EVALUATED], logits[start : start + _EVALUATED])

    def _apply_functions(self, index: np.ndarray, logits: np.ndarray) -> None:
        """Applies the user's functions to students (cell, MDP, pause); the batch is padded, so nothing recompiles."""
        assert self.measurements is not None
        padded = np.resize(np.arange(len(index)), _EVALUATED)
        for function, names in self.measures.functions:
            mdps, teachers = self.mdps[index[padded, 1]], self._teachers(index[padded])
            numbers = compiled(function)(mdps, teachers, logits[padded])
            for name in names:
                # A single number may have a name of the caller's in place of the function's.
                values = numbers[name] if name in numbers else next(iter(numbers.values()))
                self.measurements[(*index.T, self.measures.names.index(name))] = np.asarray(values)[: len(index)]

    def _set_returns(self, index: np.ndarray, returns: np.ndarray, lengths: np.ndarray) -> None:
        for (cell, mdp, pause), value, length in zip(index, returns, lengths, strict=False):
            if pause < 0:
                self.final_returns[cell, mdp] = value
            if not self.cells[cell].method.control.is_student:
                self.returns[cell, mdp, pause], self.lengths[cell, mdp, pause] = value, length

    def _teachers(self, index: np.ndarray) -> Teacher:
        """The teachers of the students (cell, MDP, pause) in `index`, stacked."""
        teachers = [self.cells[cell].teacher[mdp] for cell, mdp, _ in index.tolist()]  # type: ignore[index]
        names = ["probs", "values", "scores"] + ["others"] * (teachers[0].others is not None)
        tables = {name: np.stack([np.asarray(getattr(teacher, name)) for teacher in teachers]) for name in names}
        return dataclasses.replace(teachers[0], **tables)  # the labels of the teachers may differ

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is recorded, as arrays [P, M, ...], for `insert` of another recorder."""
        self.flush()
        faults = np.zeros(self.finished.shape, int)
        for student, iteration in self.faults.items():
            faults[student] = iteration
        arrays = {name: getattr(self, name) for name in _RECORDS if getattr(self, name) is not None}
        if self.without_return is not None:
            mdp, arrays["without_return"] = self.without_return
            arrays["without_return_id"] = np.asarray(mdp.id)
        return {**arrays, "faults": faults, "loops": np.array(json.dumps(self.loops))}

    def insert(self, cells: np.ndarray, mdps: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes over the finished and the diverged students of some cells on some MDPs.

        Args:
          cells, mdps: int [p] and [m], their indices here.
          arrays: of the recorder that has only these cells and MDPs, as its `arrays` returns them.
        """
        faults = arrays["faults"]
        p, m = np.nonzero(arrays["finished"] | (faults > 0))
        for name in _RECORDS:
            if name in arrays:
                getattr(self, name)[cells[p], mdps[m]] = arrays[name][p, m]
        self.note_loops(json.loads(str(arrays["loops"])))
        self.faults |= {(int(cells[c]), int(mdps[w])): int(faults[c, w]) for c, w in np.argwhere(faults > 0)}
        if self.without_return is None and "without_return" in arrays:
            position = int(np.flatnonzero(np.asarray(self.mdps.id)[mdps] == arrays["without_return_id"])[0])
            self.without_return = self.mdps[int(mdps[position])], arrays["without_return"]

    def result(
        self, optimal_returns: np.ndarray, steps: int, seconds: float, rounding: Mapping[str, Any] | None = None
    ) -> Result:
        """The result so far; students that have not finished, or diverged, are NaN.

        Args:
          optimal_returns: [M], the largest exact return of any policy in each world.
          steps: environment steps of all students.
          seconds: that the training took.
          rounding: what decided how numbers were rounded where the students were trained, as `choice.rounding` does;
            None: what decides it here.
        """
        self.flush()
        is_result = self.finished.copy()
        is_result[tuple(np.array(list(self.faults), int).reshape(-1, 2).T)] = False
        for array in (self.returns, self.lengths, self.final_returns, self.measurements):
            if array is not None:
                array[~is_result] = np.nan  # Values at checkpoints are no results of a student that has not finished.
        faults = self._faults()
        self._warn(faults)
        if self.without_return is not None:
            mdp, logits = self.without_return
            policy = exact.policy_from_logits(mdp, jnp.asarray(logits))
            exact.episode_return(mdp, policy)  # It warns that the return is NaN, with the state and the reason.
        mdps = self.mdps
        return Result(
            labels=tuple(cell.label for cell in self.cells),
            mdp_ids=np.asarray(mdps.id),
            iterations=self.config.checkpoints,
            returns=self.returns,
            lengths=self.lengths,
            curve_kind=tuple("sampled" if c.method.control.is_student else "exact" for c in self.cells),
            final_returns=self.final_returns,
            logits=self.logits,
            values=self.values,
            features=np.asarray(mdps.features) if mdps.num_features > 1 else None,
            measurements=self.measurements,
            measure_names=self.measures.names,
            teacher_returns=self._teacher_returns(),
            uniform_returns=exact.episode_return(mdps, exact.uniform_policy(mdps)),
            optimal_returns=np.asarray(optimal_returns, np.float64),
            faults=faults,
            settings=self._settings(steps, seconds, len(faults), rounding or choice.rounding()),
        )

    def _faults(self) -> list[dict[str, Any]]:
        """The students that diverged, with the iteration at which they did."""
        return [
            {"method": self.cells[cell].label, "mdp": int(self.mdps.id[mdp]), "iteration": iteration}
            for (cell, mdp), iteration in sorted(self.faults.items())
        ]

    def _causes(self) -> str:
        """The likely causes of the divergences, in words; the cause for a cell is that of its first student."""
        labels: dict[str, list[str]] = {}
        for index, cell in enumerate(self.cells):
            students = sorted(student for student in self.faults if student[0] == index)
            if students:
                mdp, iteration = students[0][1], self.faults[students[0]]
                cause = likely_cause(cell, self.mdps, mdp, iteration, float(self.largest[students[0]]))
                labels.setdefault(cause, []).append(cell.label)
        if len(labels) == 1:
            return f"Likely cause: {next(iter(labels))}."
        return "Likely causes: " + ". ".join(f"{', '.join(names)}: {cause}" for cause, names in labels.items()) + "."

    def _warn(self, faults: list[dict[str, Any]]) -> None:
        if faults:
            first = ", ".join("{method} in MDP {mdp} at iteration {iteration}".format(**fault) for fault in faults[:3])
            warnings.warn(
                f"{len(faults)} students diverged, were stopped and are NaN in the result ({first}"
                f"{', ...' if len(faults) > 3 else ''}). {self._causes()}",
                stacklevel=6,
            )
        limits = np.array([cell.config.max_episode_steps for cell in self.cells])
        # A cut by the time limit of the world itself is part of the world.
        num_cut = int(self.truncated[limits[:, None] < np.asarray(self.mdps.time_limit)].sum())
        if num_cut:
            warnings.warn(
                f"{num_cut} episodes were cut after {limits.max()} steps; raise max_episode_steps if that is too few.",
                stacklevel=6,
            )

    def _teacher_returns(self) -> np.ndarray:
        """Exact return of each cell's teacher, [P, M]; nan without a teacher."""
        teacher_returns = np.full(self.final_returns.shape, np.nan)
        by_teacher: dict[int, np.ndarray] = {}
        for i, teacher in enumerate(cell.teacher for cell in self.cells):
            if teacher is not None:
                if id(teacher) not in by_teacher:
                    by_teacher[id(teacher)] = exact.episode_return(self.mdps, teacher.probs)
                teacher_returns[i] = by_teacher[id(teacher)]
        return teacher_returns

    def _settings(self, steps: int, seconds: float, num_faults: int, rounding: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that are saved with the result, and the surroundings, which decide how numbers are rounded."""
        cells = {
            cell.label: {
                "method": cell.method.name,
                "params": {name: _plain(value) for name, value in cell.method.params.items()},
                "teacher": cell.teacher.name if cell.teacher else None,
                "teacher_mass_below_floor": cell.mass_below_floor(),
                "config": _config_settings(cell.config),
                "update_norm": cell.update_norm,
            }
            for cell in self.cells
        }
        return {
            "config": _config_settings(self.config.with_rates()),
            "cells": cells,
            "measures": {name: measure.name for name, measure in self.measures.named.items()},
            "better": {name: way for item in self.measures.functions for name, way in item.better.items()},
            "steps": int(steps),
            "seconds": round(seconds, 3),
            "truncated_episodes": int(self.truncated.sum()),
            "unfinished_students": int(self.finished.size - self.finished.sum() - num_faults),
            "key": streams.words(self.key),
            "device": str(jax.devices()[0]),
            "surroundings": dict(rounding),
            "loops": self.loops,
        }


def _config_settings(config: Config) -> dict[str, Any]:
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    """A setting in the types of JSON."""
    if isinstance(value, Schedule):
        return value.settings
    if callable(value) or isinstance(value, tuple):
        return repr(value)
    return np.asarray(value).tolist() if not isinstance(value, str | type(None)) else value
