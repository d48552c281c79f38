"""Which reading of the paper its curves follow: the open choices, fitted jointly to the points of Figs. 4 and 5.

A reading is one level for each of eleven choices that the text leaves open or that the curves may contradict. Readings
of a balanced random design are trained on few worlds; a Gaussian process predicts all others; the best predicted
readings, and the best of those that agree with the text, are trained on more worlds, and so on. All readings of a round
are trained on the same worlds, which are chosen so that their exact returns represent all worlds.

The table lists the distance of the best readings from the paper's points, by panel and by curve, the readings that the
worlds cannot tell from the best, what each choice costs, and what no reading explains. The figure draws the paper's
points over our curves, with 95 % intervals, for the best reading and for the best that agrees with the text.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from experiments.readings import curves, factors, pages, predictions, scores, surrogate
from experiments.readings.worlds import representative

TRANSITIONS = list(factors.FACTORS["transitions"].levels)
KINDS = tuple(pages.TITLES)
"""The best of all readings, and the best of those that agree with the text."""


@dataclasses.dataclass
class Settings(common.Output):
    """The flags of this command."""

    num_mdps: int = common.option(1000, "worlds that the worlds of each round represent")
    readings: list[str] = common.option(["32", "12", "4"], "number of readings in each round")
    worlds: list[str] = common.option(["6", "14", "40"], "number of worlds in each round")
    final_worlds: int = common.option(60, "number of worlds on which the two best readings are compared at the end")
    num_iterations: int = common.option(30_000, "episodes of each student and teacher; the paper has 30000")
    num_checkpoints: int = common.option(100, "points of each learning curve")
    predict: list[str] = common.option(list(predictions.FIGURES), "figures to predict, which no reading is fitted to")
    seed: int = common.option(0, "seed of the worlds, the design and the students")


SMOKE = {
    "num_mdps": 4, "readings": ["1", "2"], "worlds": ["1", "2"], "final_worlds": 2, "num_iterations": 40,
    "num_checkpoints": 10, "predict": ["fig6"],
}  # fmt: skip


def check(settings: Settings) -> list[tuple[int, int]]:
    """Validates the settings and returns the sizes of the rounds; raises ValueError with one line."""
    sizes = []
    for name in ("readings", "worlds"):
        values = getattr(settings, name)
        if not values or not all(value.isdigit() and int(value) > 0 for value in values):
            raise ValueError(f"--{name} takes whole numbers of at least 1, with commas; got {','.join(values)!r}.")
        sizes.append([int(value) for value in values])
    if len(sizes[0]) != len(sizes[1]):
        raise ValueError(f"--readings and --worlds need as many numbers; got {len(sizes[0])} and {len(sizes[1])}.")
    if min(sizes[0][1:], default=2) < 2:
        raise ValueError("--readings needs at least 2 in each round after the first: one of them agrees with the text.")
    most = max(*sizes[1], settings.final_worlds)
    if settings.num_mdps < most:
        raise ValueError(f"--num_mdps must be at least {most}, the most worlds of a round; got {settings.num_mdps}.")
    common.known("figure", settings.predict, predictions.FIGURES)
    for name in ("num_iterations", "num_checkpoints", "final_worlds"):
        if getattr(settings, name) < 1:
            raise ValueError(f"--{name} must be at least 1; got {getattr(settings, name)}.")
    return list(zip(*sizes, strict=True))


def choose(rounds: list[dict[str, np.ndarray]], num: int, seed: int, *, last: bool) -> np.ndarray:
    """The readings of the next round, int [num, F]: half the best predicted, half the best that agree with the text.

    Before the last round, the readings of each half differ from each other in two factors at least.
    """
    if not rounds:
        return factors.design(num, seed)
    candidates = factors.all_levels()
    expected = scores.distances(predicted(rounds, candidates))
    literal = factors.is_literal(candidates)
    halves = [
        _least(candidates, expected, num - num // 2, 1 if last else 2),
        _least(candidates[literal], expected[literal], num // 2, 1 if last else 2),
    ]
    return np.concatenate(halves)


def predicted(rounds: list[dict[str, np.ndarray]], candidates: np.ndarray) -> np.ndarray:
    """The expected values [C, N] of readings at the paper's points, from all rounds."""
    levels = np.concatenate([r["levels"] for r in rounds])
    means = np.concatenate([r["values"].mean(axis=1) for r in rounds])
    num_worlds = np.concatenate([np.full(len(r["levels"]), len(r["worlds"])) for r in rounds])
    return surrogate.predict(levels, means, num_worlds, candidates)


def _least(candidates: np.ndarray, distance: np.ndarray, num: int, least_difference: int) -> np.ndarray:
    """Of candidates [C, F], the `num` of least distance that differ from each other in `least_difference` factors."""
    selected: list[np.ndarray] = []
    for index in np.argsort(distance, kind="stable"):
        if all((candidates[index] != other).sum() >= least_difference for other in selected):
            selected.append(candidates[index])
        if len(selected) == num:
            break
    return np.array(selected)


def run(settings: Settings, outdir: Path, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """Runs the rounds and the predictions that are not finished yet; returns their results by name."""
    rounds: list[dict[str, np.ndarray]] = []

    @functools.cache
    def taught() -> dict[str, curves.TaughtWorlds]:
        return {
            level: curves.teach(level, settings.num_mdps, settings.num_iterations, settings.seed)
            for level in TRANSITIONS
        }

    @functools.cache
    def features() -> np.ndarray:
        return np.concatenate([curves.features(some, settings.seed) for some in taught().values()], axis=1)

    def train(levels: np.ndarray, num_worlds: int) -> dict[str, np.ndarray]:
        worlds = representative(features(), num_worlds, settings.seed)
        of_round = {level: some[worlds] for level, some in taught().items()}
        numbers = settings.num_iterations, settings.num_checkpoints, settings.seed
        iterations, returns = curves.train(of_round, factors.from_levels(levels), *numbers)
        return {"levels": levels, "worlds": worlds, "iterations": iterations, "returns": returns}

    def one_round(index: int) -> dict[str, np.ndarray]:
        num_readings, num_worlds = sizes[index]
        levels = choose(rounds, num_readings, settings.seed, last=index == len(sizes) - 1)
        trained = train(levels, num_worlds)
        values = curves.at_points(trained["iterations"], trained["returns"])
        return {"levels": levels, "worlds": trained["worlds"], "values": values}

    parts: dict[str, Any] = {}
    for index in range(len(sizes)):
        name = f"round{index + 1}"
        parts |= common.run_parts(settings, outdir, {name: functools.partial(one_round, index)})
        rounds.append(parts[name])
        settings = dataclasses.replace(settings, restart=False)  # the first call has already moved the earlier work
    best = finalists(rounds[-1])
    remaining = {"final": lambda: train(factors.as_levels(list(best.values())), settings.final_worlds)}
    remaining |= {
        f"{kind}_{figure}": functools.partial(predictions.FIGURES[figure], settings, reading)
        for kind, reading in best.items()
        for figure in settings.predict
    }
    return parts | common.run_parts(settings, outdir, remaining)


def finalists(last: dict[str, np.ndarray]) -> dict[str, factors.Reading]:
    """The reading of least distance in the last round, and that of those that agree with the text, by `KINDS`."""
    distance = scores.distances(last["values"].mean(axis=1))
    of_text = np.where(factors.is_literal(last["levels"]), distance, np.inf)
    return dict(zip(KINDS, factors.from_levels(last["levels"][[distance.argmin(), of_text.argmin()]]), strict=True))


def work(settings: Settings) -> None:
    """Runs the parts that are not finished yet, writes the table and draws the figure."""
    sizes = check(settings)
    outdir = common.prepare_outdir(settings)
    parts = run(settings, outdir, sizes)
    rounds = [parts[f"round{i + 1}"] for i in range(len(sizes))]
    candidates = factors.all_levels()
    expected = predicted(rounds, candidates)
    common.deliver_table(pages.page(rounds, parts, candidates, expected), outdir, "calibration")
    best = {kind: factors.flags(reading) for kind, reading in finalists(rounds[-1]).items()}
    (outdir / "readings.json").write_text(json.dumps(best, indent=1))
    common.deliver(pages.plot(parts["final"]), outdir, "calibration")


if __name__ == "__main__":
    common.main(Settings, "calibration", SMOKE, work)
