"""`Summary`, a table with one row for each method, which prints as text, Markdown or LaTeX."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdistill.runtime import checks
from jaxdistill.runtime.optional import import_pandas
from jaxdistill.statistics import NO_INTERVAL, Interval, iqm_interval, mean_interval, paired_difference


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """A method in a `Summary`: mean and IQM of its returns, and their mean paired difference to the baseline's."""

    label: str
    num_mdps: int  # MDPs with a finite return
    mean: Interval
    iqm: Interval
    difference: Interval | None  # None for the baseline
    teacher: float  # mean return of this method's teacher, nan without one

    def record(self) -> dict[str, Any]:
        """The row as named numbers: every estimate with its `_low` and `_high`."""
        intervals = {"mean": self.mean, "iqm": self.iqm, "difference": self.difference}
        return {"label": self.label, "num_mdps": self.num_mdps, **named(intervals), "teacher": self.teacher}


Column = tuple[str, Callable[[Any], str]]  # header, and the cell of a row


@dataclasses.dataclass(frozen=True)
class Summary:
    """Returns per method with 95 % intervals over MDPs (`jaxdistill.statistics`); prints as a table.

    `rows` keeps the order of the methods, and `summary[label]` is the row of one method. The difference of a method is
    the mean over MDPs of (its return - the baseline's return in the same MDP). An interval is nan, and "[n/a]" in the
    table, where the MDPs are too few for it; a note below the table then says how many it needs.
    """

    rows: tuple[Any, ...]  # of SummaryRow, or of a subclass
    baseline: str
    quantity: str  # description of the returns, printed above the table
    notes: tuple[str, ...] = ()

    def __getitem__(self, label: str) -> Any:
        for row in self.rows:
            if row.label == label:
                return row
        labels = [row.label for row in self.rows]
        raise KeyError(f"no method {checks.shown_among(label, labels)} in this summary; it has {', '.join(labels)}")

    def _columns(self) -> dict[str, Column]:
        """The columns by name, in the order of the table."""
        columns: dict[str, Column] = {
            "num_mdps": ("MDPs", lambda row: str(row.num_mdps)),
            "mean": ("mean [95 %]", lambda row: cell(row.mean)),
            "iqm": ("IQM [95 %]", lambda row: cell(row.iqm)),
            "difference": (f"minus {self.baseline} [95 %]", lambda row: cell(row.difference, "+")),
        }
        if any(np.isfinite(row.teacher) for row in self.rows):
            columns["teacher"] = ("teacher", lambda row: f"{row.teacher:.3f}" if np.isfinite(row.teacher) else "-")
        return columns

    def _cells(self, columns: Sequence[str] | None = None) -> list[list[str]]:
        """Lines of cells, the header first: the label, and then the given columns or all."""
        all_columns = self._columns()
        for name in columns or ():
            if name not in all_columns:
                given = checks.shown_among(name, all_columns)
                raise ValueError(f"no column {given} in this table; it has {', '.join(all_columns)}")
        selected = [all_columns[name] for name in (all_columns if columns is None else columns)]
        header = ["method", *(text for text, _ in selected)]
        return [header] + [[row.label, *(cell_text(row) for _, cell_text in selected)] for row in self.rows]

    def __str__(self) -> str:
        lines = self._cells()
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        table = []
        for label, *cells in lines:
            table.append("  ".join([label.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]))
        return "\n".join([self.quantity, table[0], "-" * len(table[0]), *table[1:], *self.notes])

    __repr__ = __str__

    def to_markdown(self, columns: Sequence[str] | None = None) -> str:
        """The table and its notes in Markdown, without a trailing newline; `columns` as in `to_latex`."""
        header, *lines = self._cells(columns)
        rule = [":--"] + ["--:"] * (len(header) - 1)
        escaped = [[cell.replace("|", r"\|") for cell in line] for line in [header, rule, *lines]]
        table = "\n".join("| " + " | ".join(line) + " |" for line in escaped)
        return "\n\n".join([table, *self.notes])

    def to_latex(self, columns: Sequence[str] | None = None) -> str:
        """The table as a LaTeX tabular with the rules of the package booktabs, without a trailing newline.

        The notes follow as comments.

        Args:
          columns: names of columns in this order, such as ["mean", "difference"]; None for all. ValueError for an
            unknown name, with a list of the known ones.
        """
        header, *lines = self._cells(columns)
        body = [[_latex(label), *map(_latex_numbers, cells)] for label, *cells in lines]
        rows = [" & ".join(line) + r" \\" for line in [list(map(_latex, header)), *body]]
        rules = [r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}", r"\toprule", rows[0], r"\midrule"]
        notes = [f"% {note}" for note in self.notes]
        return "\n".join([*rules, *rows[1:], r"\bottomrule", r"\end{tabular}", *notes])

    def to_dataframe(self) -> Any:
        """One row per method as a pandas DataFrame: every estimate with its `_low` and `_high` column."""
        return import_pandas().DataFrame.from_records([row.record() for row in self.rows])


def named(intervals: dict[str, Interval | None]) -> dict[str, float]:
    """Numbers of the intervals as {name: estimate, name_low: low, name_high: high}; nan where the interval is None."""
    record: dict[str, float] = {}
    for name, interval in intervals.items():
        estimate, low, high = interval or (np.nan, np.nan, np.nan)
        record |= {name: estimate, f"{name}_low": low, f"{name}_high": high}
    return record


def cell(interval: Interval | None, sign: str = "-", digits: int = 3) -> str:
    """An interval as the text of a cell; `sign` is that of a format specification: "+" shows a plus sign too."""
    if interval is None or not np.isfinite(interval.estimate):
        return "-"
    return f"{interval:{sign}.{digits}f}"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
}  # fmt: skip


def _latex(text: str) -> str:
    """`text` with the special characters of LaTeX escaped."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _latex_numbers(text: str) -> str:
    """A cell of numbers in LaTeX: in mathematics mode, where a minus sign is not set as a hyphen."""
    if text == "-":
        return "--"
    return re.sub(r"(?:> )?[+-]?\d+(?:\.\d+)?", lambda match: f"${match[0]}$", text)


def summarise(
    labels: Sequence[str], returns: np.ndarray, teacher_returns: np.ndarray, baseline: str, quantity: str
) -> Summary:
    """Builds the `Summary` of `returns` [P, M]; MDPs without a finite return are left out and counted in a note."""
    baseline_returns = np.asarray(returns[list(labels).index(baseline)], np.float64)
    rows, notes = [], []
    for p, label in enumerate(labels):
        x = np.asarray(returns[p], np.float64)
        num_finite = int(np.isfinite(x).sum())
        if num_finite < x.size:
            missing = f"{x.size - num_finite} of {x.size} MDPs are not finite and are left out"
            notes.append(f"note: {label}: {missing}")
        difference = None if label == baseline else mean_interval(paired_difference(x, baseline_returns))
        teacher = float(mean_interval(teacher_returns[p]).estimate)
        rows.append(SummaryRow(label, num_finite, mean_interval(x), iqm_interval(x), difference, teacher))
    if any(is_unknown(interval) for row in rows for interval in (row.mean, row.iqm, row.difference)):
        notes.append(f"note: {NO_INTERVAL}")
    return Summary(tuple(rows), baseline, quantity, tuple(notes))


def is_unknown(interval: Interval | None) -> bool:
    """Whether there is an estimate without an interval."""
    return interval is not None and bool(np.isfinite(interval.estimate) and np.isnan(interval.low))
