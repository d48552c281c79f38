"""Texts as sequences of symbols, from which language worlds are made: a grammar, English, strings and files."""

import collections
import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from pydoc_data import topics

import numpy as np

from jaxdistill.runtime import checks
from jaxdistill.worlds.grammar import sentences

SYMBOLS = ("letters", "characters", "words")
"""What a symbol of a text is: a letter (a to z, or a space for everything else), any character, or a word."""
OTHER = "<other>"
"""The symbol that stands for the words or characters that are not in a vocabulary."""

_END_OF_SENTENCE = re.compile(r"[.!?]+(?:\s+|$)|\n\s*\n")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A text as sequences of symbols.

    Attributes:
      sequences: int32 arrays [length], one for each sentence, of indices into the vocabulary.
      vocabulary: the symbols.
      symbols: one of `SYMBOLS`.
      name: of the text, for labels and settings.
      digest: the first 16 hexadecimal digits of the SHA-256 of the sequences and the vocabulary.
    """

    sequences: tuple[np.ndarray, ...]
    vocabulary: tuple[str, ...]
    symbols: str
    name: str

    @functools.cached_property
    def digest(self) -> str:
        digest = hashlib.sha256("\0".join(self.vocabulary).encode())
        for sequence in self.sequences:
            digest.update(np.append(sequence, -1).astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    @property
    def num_symbols(self) -> int:
        """The number of symbols in all sequences together."""
        return sum(map(len, self.sequences))

    def __repr__(self) -> str:
        return (
            f"Text({self.name}: {len(self.sequences)} sentences of {self.num_symbols} {self.symbols}, "
            f"a vocabulary of {len(self.vocabulary)})"
        )

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {symbol: index for index, symbol in enumerate(self.vocabulary)}

    def encode(self, string: str) -> np.ndarray:
        """The symbols of a string, int32 [length].

        Raises:
          ValueError: a symbol outside the vocabulary, if the vocabulary has no symbol for others.
        """
        if not isinstance(string, str):
            raise ValueError(f"A text must be a string; got {checks.shown(string)}.")
        indices = [self._index.get(symbol, self._index.get(OTHER, -1)) for symbol in split(string, self.symbols)]
        if -1 in indices:
            missing = split(string, self.symbols)[indices.index(-1)]
            raise ValueError(
                f"{missing!r} is not among the {len(self.vocabulary)} symbols of the text {self.name}; leave it out, "
                f"or make the text with a vocabulary that holds it."
            )
        return np.array(indices, np.int32)

    def decode(self, sequence: Iterable[int]) -> str:
        """The string of a sequence of symbols."""
        return (" " if self.symbols == "words" else "").join(self.vocabulary[int(index)] for index in sequence)

    def split(self, held_out: float = 0.1, seed: int = 0) -> tuple["Text", "Text"]:
        """Two texts with the same vocabulary: most sentences, and a random part of them that is held out.

        Args:
          held_out: the part of the sentences that the second text gets, in (0, 1).
          seed: of the draw.

        Raises:
          ValueError: a part for which one of the texts would be empty.
        """
        number = round(len(self.sequences) * checks.number("held_out", held_out, 0, 1))
        if not 0 < number < len(self.sequences):
            raise ValueError(
                f"held_out must leave sentences on both sides; got {held_out!r} of {len(self.sequences)} sentences."
            )
        order = np.random.default_rng(checks.whole("seed", seed, 0, 2**32 - 1)).permutation(len(self.sequences))
        parts = np.sort(order[number:]), np.sort(order[:number])
        first, second = (tuple(self.sequences[i] for i in part) for part in parts)
        return (
            dataclasses.replace(self, sequences=first, name=f"{self.name} without {held_out:.0%}"),
            dataclasses.replace(self, sequences=second, name=f"{held_out:.0%} of {self.name}"),
        )


def split(string: str, symbols: str) -> list[str]:
    """The symbols of a string as short strings; `symbols` is one of `SYMBOLS`."""
    if symbols == "words":
        return _WORD.findall(string.lower())
    if symbols == "letters":
        return list(re.sub(r"[^a-z]+", " ", string.lower()).strip())
    return list(string)


def from_string(
    string: str, symbols: str = "letters", *, vocabulary: int | Sequence[str] | None = None, name: str = "text"
) -> Text:
    """A text from a string, which is cut into sentences at full stops, question and exclamation marks and empty lines.

    With symbols="characters" it is cut into lines, and every character counts.

    Args:
      string: the text.
      symbols: what a symbol is, one of `SYMBOLS`.
      vocabulary: the symbols, or how many of the most frequent ones to keep; all others become the symbol `OTHER`.
        None: all symbols of the string.
      name: of the text.

    Raises:
      ValueError: no string, no sentence, an unknown kind of symbol, or a vocabulary that is not one.
    """
    if not isinstance(string, str):
        raise ValueError(f"A text must be a string; got {checks.shown(string)}.")
    checks.one_of("symbols", symbols, SYMBOLS)
    parts = string.splitlines() if symbols == "characters" else _END_OF_SENTENCE.split(string)
    return _of_sentences([s for s in (split(part, symbols) for part in parts) if s], symbols, vocabulary, name)


def from_file(
    path: str | os.PathLike[str], symbols: str = "letters", *, vocabulary: int | Sequence[str] | None = None
) -> Text:
    """A text from a file in UTF-8; the arguments are those of `from_string`.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not text in UTF-8, or as `from_string` raises it.
    """
    try:
        string = Path(path).read_text("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text in UTF-8; convert it first.") from None
    return from_string(string, symbols, vocabulary=vocabulary, name=Path(path).stem)


def english(symbols: str = "letters", *, vocabulary: int | Sequence[str] | None = None) -> Text:
    """The language reference that comes with Python (`pydoc_data.topics`), some 460,000 characters of English.

    Its wording differs from one version of Python to the next; `Text.digest` tells them apart.
    """
    string = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    return from_string(string, symbols, vocabulary=vocabulary, name="english")


def grammar(num_sentences: int = 2000, seed: int = 0, *, symbols: str = "words") -> Text:
    """Sentences of a small grammar, so that everyone has the same text, of any length.

    Subjects and verbs agree in number across relative clauses, which nest, and the words of each kind follow Zipf's law
    (`grammar.sentences`).

    Args:
      num_sentences: >= 1; the sentences of a shorter text are the first ones of a longer text.
      seed: of the draw.
      symbols: "words", or "letters" to spell them.

    Raises:
      ValueError: a number or a kind of symbol that is impossible.
    """
    checks.one_of("symbols", symbols, ("words", "letters"))
    drawn = sentences(checks.whole("num_sentences", num_sentences, 1, 10**7), checks.whole("seed", seed, 0, 2**32 - 1))
    split_sentences = [words if symbols == "words" else list(" ".join(words)) for words in drawn]
    return _of_sentences(split_sentences, symbols, None, "grammar")


def _of_sentences(parts: list[list[str]], symbols: str, vocabulary: int | Sequence[str] | None, name: str) -> Text:
    if not parts:
        raise ValueError(f"The text {name} has no {symbols}; give one with at least one sentence.")
    counts = collections.Counter(symbol for part in parts for symbol in part)
    names = _vocabulary(counts, vocabulary)
    index = {symbol: i for i, symbol in enumerate(names)}
    others = index.get(OTHER, -1)
    sequences = tuple(np.array([index.get(symbol, others) for symbol in part], np.int32) for part in parts)
    if any((sequence < 0).any() for sequence in sequences):
        missing = next(symbol for symbol in counts if symbol not in index)
        raise ValueError(
            f"vocabulary lacks {missing!r}, which the text {name} has; add it, or add {OTHER!r} for others."
        )
    return Text(sequences, names, symbols, name)


def _vocabulary(counts: collections.Counter[str], vocabulary: int | Sequence[str] | None) -> tuple[str, ...]:
    """The symbols in the order of their frequency, or those that were given."""
    by_frequency = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    if vocabulary is None:
        return tuple(by_frequency)
    if isinstance(vocabulary, str) or not isinstance(vocabulary, Sequence):
        size = checks.whole("vocabulary", vocabulary, 1)
        return tuple(by_frequency[:size]) + (OTHER,) * (size < len(by_frequency))
    names = tuple(vocabulary)
    if not names or len(set(names)) < len(names) or not all(isinstance(symbol, str) for symbol in names):
        raise ValueError(f"vocabulary must be different strings, or how many to keep; got {checks.shown(vocabulary)}.")
    return names
