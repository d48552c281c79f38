"""Teachers of language worlds: n-gram models of a text (Kneser-Ney, add-k), and Zipf's law without structure."""

import collections
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jaxdistill.mdp import MDP, validate
from jaxdistill.mdp.teacher import Teacher
from jaxdistill.runtime import checks, streams
from jaxdistill.teachers.tabular import from_table
from jaxdistill.worlds.language_world import Context, Language
from jaxdistill.worlds.texts import Text

SMOOTHINGS = ("kneser_ney", "add")


def ngram(
    language: Language,
    smoothing: str = "kneser_ney",
    *,
    absolute_discount: float = 0.75,
    add: float = 0.1,
    temperature: float = 1.0,
    discount: float = 0.99,
    name: str | None = None,
) -> Teacher:
    """An n-gram model of the text of a language world, of the order of the world.

    "kneser_ney": interpolated Kneser-Ney smoothing (Kneser and Ney, 1995; Chen and Goodman, 1999). With n(c a) the
    number of times that symbol a follows context c, D the absolute discount and T(c) the number of different symbols
    that follow c,

      p(a | c) = (max(n(c a) - D, 0) + D T(c) p(a | c')) / n(c),

    where c' is c without its first symbol. In contexts that are shorter than n - 1 and do not begin a text, n(c a) is
    the number of different symbols that come before c a. The shortest context is followed by the uniform distribution.

    "add": p(a | c) = (n(c a) + k) / (n(c) + k A), with the plain counts of the context of each state.

    Args:
      language: the world and its text.
      smoothing: one of `SMOOTHINGS`.
      absolute_discount: D in (0, 1); of "kneser_ney".
      add: k > 0; of "add".
      temperature: > 0; the logarithms of the probabilities are divided by it.
      discount: the discount of V_pi, which is 0 in a world without rewards.
      name: the teacher's name in labels.

    Raises:
      ValueError: a number that is impossible.
    """
    if not isinstance(language, Language):
        raise ValueError(f"language must be a Language, such as worlds.language(text); got {checks.shown(language)}.")
    checks.one_of("smoothing", smoothing, SMOOTHINGS)
    d, k = checks.number("absolute_discount", absolute_discount), checks.number("add", add)
    t = checks.number("temperature", temperature)
    if not 0 < d < 1:
        raise ValueError(f"absolute_discount must be in (0, 1), so that every symbol stays possible; got {d}.")
    if k <= 0 or t <= 0:
        raise ValueError(f"add and temperature must be greater than 0; got {k} and {t}.")
    counts = context_counts(language.text, language.order)
    num_actions = language.end + 1
    if smoothing == "add":
        rows = {context: (row + k) / (row.sum() + k * num_actions) for context, row in counts.items()}
    else:
        rows = _kneser_ney(counts, language, d)
    probs = np.stack([rows[context] for context in language.states])
    probs = probs ** (1 / t)
    probs /= probs.sum(axis=1, keepdims=True)
    label = f"{language.order}-gram" if name is None else name
    return from_table(language.mdps, probs, discount=discount, name=label)


def context_counts(text: Text, order: int) -> dict[Context, np.ndarray]:
    """How often each symbol, or the end, follows each context of at most `order` - 1 symbols, float64 [A] each.

    A context that begins with the mark of the beginning is one of its own; every other context counts wherever it
    occurs.
    """
    end = len(text.vocabulary)
    counts: dict[Context, np.ndarray] = collections.defaultdict(lambda: np.zeros(end + 1))
    for sequence in text.sequences:
        symbols = (end + 1, *sequence.tolist(), end)
        for i in range(1, len(symbols)):
            for first in range(max(i - order + 1, 0), i + 1):
                counts[symbols[first:i]][symbols[i]] += 1
    return dict(counts)


def _kneser_ney(counts: dict[Context, np.ndarray], language: Language, d: float) -> dict[Context, np.ndarray]:
    """p(. | c) for every context."""
    begin, num_actions = language.end + 1, language.end + 1
    different: dict[Context, np.ndarray] = collections.defaultdict(lambda: np.zeros(num_actions))
    for context, row in counts.items():
        if context:  # its first symbol comes before the rest of it and what follows
            different[context[1:]] += row > 0
    rows: dict[Context, np.ndarray] = {}
    for context in sorted(counts, key=len):
        is_whole = len(context) == language.order - 1 or context[:1] == (begin,)
        number = counts[context] if is_whole else different[context]
        shorter = rows[context[1:]] if context else np.full(num_actions, 1 / num_actions)
        seen = np.maximum(number - d, 0)
        rows[context] = (seen + (number.sum() - seen.sum()) * shorter) / number.sum()
    return rows


def zipf(
    key: jax.Array, mdps: MDP, exponent: npt.ArrayLike = 1.0, *, discount: float = 0.99, name: str = "zipf"
) -> Teacher:
    """A teacher whose probabilities follow Zipf's law in each state: that of rank r is in proportion to r ** -exponent.

    The ranks of the actions are drawn in each state anew, so that nothing can be learned of one state in another.

    Args:
      key: random key; the ranks of a world depend on it and on the world's id.
      mdps: M stacked MDPs, such as `worlds.token_tree`.
      exponent: >= 0; 0 is the uniform policy.
      discount, name: as for `teachers.from_table`.

    Raises:
      ValueError: a single MDP, or an exponent that is not a number >= 0.
    """
    if not validate(mdps).is_stacked:
        raise ValueError("zipf takes stacked MDPs; stack a single one with mdp.stack([mdp]).")
    weights = np.arange(1, mdps.num_actions + 1) ** -checks.number("exponent", exponent, 0)
    words: list[Any] = streams.words(streams.as_key(key))
    generators = [np.random.default_rng([*words, int(number)]) for number in np.asarray(mdps.id)]
    table = np.broadcast_to(weights / weights.sum(), (mdps.num_states, mdps.num_actions))
    probs = np.stack([rng.permuted(table, axis=-1) for rng in generators])
    return from_table(mdps, probs, discount=discount, name=name)
