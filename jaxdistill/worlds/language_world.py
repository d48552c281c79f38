"""Worlds whose states are the ends of texts: an action appends a symbol, and a policy is a language model.

A state is a *context*: the last n - 1 symbols that were written, or all of them if there are fewer, after a mark of the
beginning. The contexts are those that occur in a text. Where a student writes what the text never has, the context is
the longest end of it that the text has, as in back-off models. Transitions are deterministic, and one more action, the
end symbol, ends the episode. There are no rewards: what counts is how close a student comes to its teacher.
"""

import collections
import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdistill.mdp import MDP
from jaxdistill.mdp.teacher import are_distributions
from jaxdistill.runtime import checks
from jaxdistill.worlds.texts import Text

Context = tuple[int, ...]
NOTHING = -1
"""In an array of contexts, the place before the first symbol of a context that is shorter than the others."""
_MOST_ENTRIES = 2**27  # of the table of successors


@dataclasses.dataclass(frozen=True, eq=False)
class Language:
    """A language world with what its states and actions mean.

    An action a < V writes symbol a of the vocabulary, and action V ends the text.

    Attributes:
      text: the text from which it was made.
      order: n; a context has at most n - 1 symbols.
      mdps: M stacked MDPs, which are equal but for their ids, so that M independent students train at the same time.
      contexts: int32 [S, n - 1], the context of each state, its last symbol in the last column; V + 1 is the mark of
        the beginning, where state 0 is, and `NOTHING` fills the places before a shorter context.
    """

    text: Text
    order: int
    mdps: MDP
    contexts: np.ndarray

    @property
    def end(self) -> int:
        """The action that ends a text, V."""
        return len(self.text.vocabulary)

    def __repr__(self) -> str:
        return f"Language({self.text.name}, order {self.order}: {self.mdps})"

    @functools.cached_property
    def states(self) -> dict[Context, int]:
        """The state of each context."""
        rows = ([int(symbol) for symbol in row if symbol != NOTHING] for row in self.contexts)
        return {tuple(row): state for state, row in enumerate(rows)}

    def shorter(self, order: int) -> np.ndarray:
        """Observations int [S] of a student that sees the last `order` - 1 symbols alone, for `MDP.with_observation`.

        Raises:
          ValueError: an order that is not in [1, n].
        """
        number = checks.whole("order", order, 1, self.order) - 1
        seen = self.contexts[:, self.order - 1 - number :]
        return np.unique(seen, axis=0, return_inverse=True)[1].reshape(-1)

    def state_after(self, prompt: str | npt.ArrayLike) -> int:
        """The state after a prompt, which is a string or a sequence of symbols from the beginning of a text.

        Raises:
          ValueError: a symbol outside the vocabulary.
        """
        return int(self._walk(self._symbols(prompt))[-1])

    def log_probs(self, policy: npt.ArrayLike, strings: Any) -> np.ndarray:
        """The natural logarithm of the probability of each whole text under a policy, the end symbol included, [N].

        Args:
          policy: [S, A], or [O, A] by observation of the world.
          strings: a string, a `Text`, or a list of strings or sequences of symbols.

        Raises:
          ValueError: a symbol outside the vocabulary, or a table that is no policy of this world.
        """
        table = self._by_state(policy)
        with np.errstate(divide="ignore"):
            logs = np.log(table)
        return np.array([self._log_prob(logs, symbols) for symbols in self._sequences(strings)])

    def perplexity(self, policy: npt.ArrayLike, text: Any) -> float:
        """The perplexity of a policy on texts that it did not see: exp of minus the mean log-probability of a symbol.

        The end symbols count as symbols. Arguments and errors are as for `log_probs`.
        """
        sequences = self._sequences(text)
        total = self.log_probs(policy, sequences).sum()
        return float(np.exp(-total / sum(len(sequence) + 1 for sequence in sequences)))

    def write(
        self,
        policy: npt.ArrayLike,
        prompt: str | npt.ArrayLike = "",
        *,
        number: int = 1,
        seed: int = 0,
        most: int = 200,
    ) -> list[str]:
        """Samples texts from a policy, each with its prompt.

        Args:
          policy: as for `log_probs`.
          prompt: what the texts begin with.
          number: of texts.
          seed: of the draws.
          most: symbols after which a text is cut.

        Raises:
          ValueError: as for `log_probs`, or a number that is impossible.
        """
        table, symbols = self._by_state(policy), self._symbols(prompt)
        sums = table.cumsum(axis=1)
        successor, rng = np.asarray(self.mdps.successor[0]), np.random.default_rng(checks.whole("seed", seed, 0))
        texts = []
        for _ in range(checks.whole("number", number, 1)):
            state, written = self.state_after(symbols), symbols.tolist()
            for _ in range(checks.whole("most", most, 1)):
                action = int(np.searchsorted(sums[state], rng.random() * sums[state, -1], side="right"))
                if action == self.end:
                    break
                written.append(action)
                state = int(successor[state, action])
            texts.append(self.text.decode(written))
        return texts

    def _log_prob(self, logs: np.ndarray, symbols: np.ndarray) -> float:
        return float(logs[self._walk(symbols), np.append(symbols, self.end)].sum())

    def _walk(self, symbols: np.ndarray) -> np.ndarray:
        """The states before each symbol and after the last one, int [length + 1]."""
        successor = np.asarray(self.mdps.successor[0])
        states = [0]
        for symbol in symbols:
            states.append(int(successor[states[-1], symbol]))
        return np.array(states)

    def _symbols(self, prompt: Any) -> np.ndarray:
        """The symbols of a string, or the sequence itself."""
        if isinstance(prompt, str):
            return self.text.encode(prompt)
        symbols = np.asarray(prompt)
        if symbols.ndim != 1 or (symbols.size and symbols.dtype.kind not in "iu"):
            raise ValueError(f"A text must be a string or a sequence of symbols; got {checks.shown(prompt)}.")
        if ((symbols < 0) | (symbols >= self.end)).any():
            raise ValueError(f"A symbol must be in [0, {self.end}), the vocabulary; got {checks.shown(prompt)}.")
        return symbols.astype(np.int64)

    def _sequences(self, strings: Any) -> list[np.ndarray]:
        if isinstance(strings, Text):
            if strings.vocabulary == self.text.vocabulary:
                return [sequence.astype(np.int64) for sequence in strings.sequences]
            strings = [strings.decode(sequence) for sequence in strings.sequences]
        sequences = [self._symbols(item) for item in ([strings] if isinstance(strings, str) else strings)]
        if not sequences:
            raise ValueError("There is no text whose probability could be computed; give at least one.")
        return sequences

    def _by_state(self, policy: npt.ArrayLike) -> np.ndarray:
        """A policy as float64 [S, A]; raises ValueError unless its rows are distributions."""
        table = checks.reals("policy", policy).astype(np.float64)
        shapes = [(self.mdps.num_states, self.end + 1), (self.mdps.num_observations, self.end + 1)]
        if table.shape not in shapes:
            raise ValueError(f"policy must have shape {shapes[0]} or {shapes[1]}; got {table.shape}.")
        if not are_distributions(table):
            raise ValueError("policy must be finite, >= 0 and sum to 1 over actions; normalise the table.")
        table = table / table.sum(axis=1, keepdims=True)
        return table if table.shape == shapes[0] else table[np.asarray(self.mdps.observation[0])]


def language(
    text: Text, order: int = 3, *, prompt_length: int = 0, max_length: int = 100, num_mdps: int = 1
) -> Language:
    """The language world of a text.

    Args:
      text: from `texts`, such as `texts.grammar()`.
      order: n >= 1; contexts have at most n - 1 symbols.
      prompt_length: symbols of the prompts: episodes begin after the first so many symbols of a sentence, as often as
        the text has them. Sentences that are not longer are left out.
      max_length: symbols after which an episode is cut, the prompt not counted.
      num_mdps: M, how many equal worlds are stacked.

    Raises:
      ValueError: a text that has no sentence as long as asked, or a world with too large tables.
    """
    if not isinstance(text, Text):
        raise ValueError(f"text must be a Text, such as texts.grammar(); got {checks.shown(text)}.")
    order, num_symbols = checks.whole("order", order, 1, 64), len(text.vocabulary)
    longest = max(map(len, text.sequences))
    if longest < order - 1:
        raise ValueError(
            f"The text {text.name} has no sentence of {order - 1} symbols, so that order {order} would be the same as "
            f"order {longest + 1}; choose an order of at most {longest + 1}."
        )
    begin = num_symbols + 1
    contexts = _contexts(text, order, begin)
    states, successor = _successors(contexts, order, num_symbols, begin)
    table = np.full((len(states), max(order - 1, 0)), NOTHING, np.int32)
    for context, state in states.items():
        table[state, order - 1 - len(context) :] = context
    start, start_probs = _starts(text, successor, checks.whole("prompt_length", prompt_length, 0))
    terminal = np.zeros(successor.shape, bool)
    terminal[:, num_symbols] = True
    limit = checks.whole("max_length", max_length, 1)
    mdps = _equal_worlds(num_mdps, successor, terminal, start=start, start_probs=start_probs, time_limit=limit)
    return Language(text, order, mdps, table)


def _equal_worlds(num_mdps: int, successor: np.ndarray, terminal: np.ndarray, **options: Any) -> MDP:
    """M equal worlds without rewards, in which action a has outcome a; the arguments are those of `from_arrays`."""
    shape = (checks.whole("num_mdps", num_mdps, 1),)

    def repeated(array: Any) -> np.ndarray:
        return np.broadcast_to(array, shape + np.shape(array))

    tables: dict[str, Any] = {name: repeated(option) for name, option in options.items()}
    return MDP.from_arrays(
        repeated(successor), np.zeros(()), repeated(terminal), repeated(np.eye(successor.shape[1])), **tables
    )


def _contexts(text: Text, order: int, begin: int) -> set[Context]:
    """All contexts that occur in a text, and all their ends."""
    contexts: set[Context] = set()
    for sequence in text.sequences:
        symbols = (begin, *sequence.tolist())
        contexts.update(symbols[max(i - order + 1, 0) : i] for i in range(1, len(symbols) + 1))
    if order == 1:
        return {()}
    return {context[i:] for context in contexts for i in range(len(context) + 1)}


def _successors(
    contexts: set[Context], order: int, num_symbols: int, begin: int
) -> tuple[dict[Context, int], np.ndarray]:
    """The states, of which 0 is the beginning, and the successor of each by each action, int [S, V + 1]."""
    first: Context = (begin,) if order > 1 else ()
    states, waiting, rows = {first: 0}, collections.deque([first]), []
    while waiting:
        context, row = waiting.popleft(), []
        for symbol in range(num_symbols):
            following = (*context, symbol)[-(order - 1) :] if order > 1 else ()
            while following not in contexts:
                following = following[1:]
            if following not in states:
                states[following] = len(states)
                waiting.append(following)
            row.append(states[following])
        rows.append([*row, states[context]])
        if len(rows) * (num_symbols + 1) > _MOST_ENTRIES:
            raise ValueError(
                f"The world needs a table of more than {_MOST_ENTRIES} successors; choose a smaller order or a smaller "
                "vocabulary."
            )
    return states, np.array(rows, np.int32)


def _starts(text: Text, successor: np.ndarray, prompt_length: int) -> tuple[np.ndarray, np.ndarray]:
    """The states after the prompts of a text, and how often each occurs among them."""
    counts: collections.Counter[int] = collections.Counter()
    for sequence in text.sequences:
        if len(sequence) > prompt_length or prompt_length == 0:
            state = 0
            for symbol in sequence[:prompt_length]:
                state = int(successor[state, symbol])
            counts[state] += 1
    if not counts:
        raise ValueError(
            f"prompt_length must leave symbols to write; no sentence of the text {text.name} has more than "
            f"{prompt_length}."
        )
    start = np.array(sorted(counts), np.int32)
    number = np.array([counts[state] for state in start.tolist()], np.float64)
    return start, number / number.sum()


def token_tree(vocabulary: int, length: int, *, num_mdps: int = 1) -> MDP:
    """M worlds whose states are all prefixes of fewer than `length` symbols: no two texts come to the same state.

    State 0 is the empty prefix, and the prefix of state s followed by symbol a is state s * vocabulary + a + 1. The
    last symbol ends the episode. There are no rewards.

    Args:
      vocabulary: V, the number of symbols and of actions, >= 1.
      length: symbols of each text, >= 1.
      num_mdps: M.

    Raises:
      ValueError: a number that is impossible, or a tree with too large tables.
    """
    num_symbols, depth = checks.whole("vocabulary", vocabulary, 1), checks.whole("length", length, 1, 2**20)
    num_states = sum(num_symbols**i for i in range(min(depth, 64)))
    if depth > 64 and num_symbols == 1:
        num_states = depth
    if num_states * num_symbols * checks.whole("num_mdps", num_mdps, 1) > _MOST_ENTRIES:
        raise ValueError(
            f"A tree of {num_symbols} symbols and length {depth} has too many prefixes; choose fewer of either."
        )
    children = num_symbols * np.arange(num_states)[:, None] + np.arange(num_symbols) + 1
    terminal = children >= num_states
    return _equal_worlds(num_mdps, np.where(terminal, np.arange(num_states)[:, None], children), terminal)
