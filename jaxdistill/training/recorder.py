"""What a training run finds out: curves, exact returns and measures of its students, a batch at a time."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.mdp import MDP, exact
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.results.result import Result
from jaxdistill.runtime import processes
from jaxdistill.runtime.checkpoints import Output
from jaxdistill.training.config import Config, ResolvedCell

Measure = Callable[[MDP, Teacher, jax.Array], Mapping[str, jax.Array]]
_EVALUATED = 64  # students evaluated together


class Recorder:
    """Collects what the pool hands out and evaluates students exactly, a batch at a time."""

    def __init__(
        self,
        mdps: MDP,
        cells: Sequence[ResolvedCell],
        config: Config,
        keep_tables: bool,
        measure: Measure | None,
        measure_names: tuple[str, ...],
    ):
        self.mdps, self.cells, self.config = mdps, cells, config
        num, m, c = len(cells), mdps.num_mdps, len(config.checkpoints)
        self.measure = _compiled_measure(measure) if measure else None
        self.returns = np.full((num, m, c), np.nan)
        self.lengths = np.full((num, m, c), np.nan)
        self.final_returns = np.full((num, m), np.nan)
        self.truncated = np.zeros((num, m), int)
        rows = (num, m, mdps.num_observations)
        self.logits = np.full((*rows, mdps.num_actions), np.nan, np.float32) if keep_tables else None
        self.values = np.full(rows, np.nan, np.float32) if keep_tables else None
        self.finished = np.zeros((num, m), bool)
        self.faults: dict[tuple[int, int], int] = {}  # (cell, MDP) -> iteration
        self.pending: list[tuple[int, int, int, np.ndarray]] = []
        self.measure_names = measure_names
        self.measurements = np.full((num, m, c, len(measure_names)), np.nan) if measure else None

    def add(self, cell: int, mdp: int, pause: int, output: Output) -> None:
        """Takes what a student hands out; one that met a number that is not finite stays NaN in every array."""
        params, checkpoints = output.params, self.config.checkpoints
        fault = output.fault or (0 if np.isfinite(params).all() else int(checkpoints[pause]))
        if fault or (cell, mdp) in self.faults:
            self.faults.setdefault((cell, mdp), fault)
            return
        logits = params[:, :-1]
        if pause < 0:
            self.finished[cell, mdp], self.truncated[cell, mdp] = True, output.truncated
            if self.cells[cell].method.control.is_student:
                edges = np.diff(checkpoints, prepend=0)
                self.returns[cell, mdp], self.lengths[cell, mdp] = output.curves.T.astype(np.float64) / edges
            if self.logits is not None and self.values is not None:
                self.logits[cell, mdp], self.values[cell, mdp] = logits, params[:, -1]
        self.pending.append((cell, mdp, pause, logits))
        if len(self.pending) == _EVALUATED:
            self.flush()

    def flush(self) -> None:
        """Exact returns (and lengths) of the pending students; the batch is padded, so that nothing recompiles."""
        if not self.pending:
            return
        index = np.array([item[:3] for item in self.pending])
        padding = [0] * (_EVALUATED - len(index))
        logits = np.stack([item[3] for item in self.pending] + [self.pending[0][3]] * len(padding))
        mdps = self.mdps[np.concatenate([index[:, 1], index[padding, 1]]).astype(int)]
        if any(pause < 0 or not self.cells[c].method.control.is_student for c, _, pause in index):
            self._set_returns(index, _evaluate(mdps, jnp.asarray(logits)))
        if self.measure is not None and self.measurements is not None:
            found = self.measure(mdps, self._teachers(index, len(padding)), jnp.asarray(logits))
            for q, name in enumerate(self.measure_names):
                self.measurements[(*index.T, q)] = np.asarray(found[name])[: len(index)]
        self.pending = []

    def _set_returns(self, index: np.ndarray, found: tuple[jax.Array, ...]) -> None:
        for (cell, mdp, pause), value, length in zip(index, *map(np.asarray, found), strict=False):
            if pause < 0:
                self.final_returns[cell, mdp] = value
            if not self.cells[cell].method.control.is_student:
                self.returns[cell, mdp, pause], self.lengths[cell, mdp, pause] = value, length

    def _teachers(self, index: np.ndarray, num_padding: int) -> Teacher:
        """The teachers of the students (cell, MDP, pause) in `index`, stacked."""
        padded = np.concatenate([index, index[[0] * num_padding]])
        picked = [self.cells[cell].teacher[mdp] for cell, mdp, _ in padded.tolist()]  # type: ignore[index]
        names = ["probs", "values", "scores"] + ["others"] * (
            picked[0].others is not None
        )  # teachers' labels may differ
        tables = {name: np.stack([np.asarray(getattr(teacher, name)) for teacher in picked]) for name in names}
        return dataclasses.replace(picked[0], **tables)

    def gather(self) -> None:
        """Makes this the record of the students of all processes."""
        self.flush()
        faults = np.zeros(self.finished.shape, int)
        for student, iteration in self.faults.items():
            faults[student] = iteration
        names = ("returns", "lengths", "final_returns", "truncated", "finished", "logits", "values", "measurements")
        arrays = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        whole = processes.combined(self.finished | (faults > 0), {**arrays, "faults": faults})
        faults = whole.pop("faults")
        self.faults = {(int(c), int(m)): int(faults[c, m]) for c, m in np.argwhere(faults > 0)}
        for name, array in whole.items():
            setattr(self, name, array)

    def result(self, optimal: jax.Array, steps: int, seconds: float) -> Result:
        """What is known now; students that have not finished, or diverged, are NaN."""
        self.flush()
        faults = [
            {"method": self.cells[cell].label, "mdp": int(self.mdps.id[mdp]), "iteration": fault}
            for (cell, mdp), fault in sorted(self.faults.items())
        ]
        for student in self.faults:  # what was found at its earlier checkpoints is no result of it
            for array in (self.returns, self.lengths, self.final_returns, self.measurements):
                if array is not None:
                    array[student] = np.nan
        if faults:
            named = ", ".join("{method} in MDP {mdp} at iteration {iteration}".format(**fault) for fault in faults[:3])
            warnings.warn(
                f"{len(faults)} students diverged, were stopped and are NaN in the result ({named}"
                f"{', ...' if len(faults) > 3 else ''}); lower the learning rate.",
                stacklevel=3,
            )
        if self.truncated.any():
            warnings.warn(
                f"{int(self.truncated.sum())} episodes were cut after {self.config.max_episode_steps} steps; raise "
                "max_episode_steps if that is too few.",
                stacklevel=3,
            )
        mdps = self.mdps
        teacher_returns = np.full(self.final_returns.shape, np.nan)
        known: dict[int, np.ndarray] = {}
        for i, cell in enumerate(self.cells):
            if cell.teacher is not None:
                if id(cell.teacher) not in known:
                    known[id(cell.teacher)] = exact_returns(mdps, cell.teacher.probs)
                teacher_returns[i] = known[id(cell.teacher)]
        uniform = jnp.full((mdps.num_mdps, mdps.num_states, mdps.num_actions), 1 / mdps.num_actions)
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
            measurements=self.measurements,
            measure_names=self.measure_names,
            teacher_returns=teacher_returns,
            uniform_returns=exact_returns(mdps, uniform),
            optimal_returns=exact_returns(mdps, optimal),
            faults=faults,
            settings={
                "config": _settings(self.config),
                "cells": {
                    c.label: {"method": c.method.name, "teacher": c.teacher.name if c.teacher else None}
                    | {"config": _settings(c.config)}
                    for c in self.cells
                },
                "steps": int(steps),
                "seconds": round(seconds, 3),
                "truncated_episodes": int(self.truncated.sum()),
                "unfinished_students": int(self.finished.size - self.finished.sum() - len(faults)),
                "device": str(jax.devices()[0]),
            },
        )


def exact_returns(mdps: MDP, policy: jax.Array) -> np.ndarray:
    """Exact undiscounted return of a policy [M, S, A] from the start, float64 [M]."""
    return np.asarray(exact.start_value(mdps, exact.policy_values(mdps, policy)), np.float64)


@jax.jit
def _evaluate(mdps: MDP, logits: jax.Array) -> tuple[jax.Array, ...]:
    policy = exact.policy_from_table(mdps, jax.nn.softmax(logits))
    found = exact.policy_values(mdps, policy), exact.expected_length(mdps, policy)
    return tuple(exact.start_value(mdps, values) for values in found)


@functools.lru_cache(maxsize=8)  # so that a second run with the same measure does not compile again
def _compiled_measure(measure: Measure) -> Callable[..., Mapping[str, jax.Array]]:
    @jax.jit
    def measured(mdps: MDP, teacher: Teacher, logits: jax.Array) -> Mapping[str, jax.Array]:
        return measure(mdps, teacher, exact.policy_from_table(mdps, jax.nn.softmax(logits)))

    return measured


def _settings(config: Config) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if callable(value) or isinstance(value, tuple):
            return repr(value)
        return np.asarray(value).tolist() if not isinstance(value, str | type(None)) else value

    return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
