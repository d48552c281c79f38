"""A small grammar of English-like sentences, with what makes language hard for short contexts.

A sentence is a noun phrase, a verb that agrees with it in number, and often an object. A noun phrase may have an
adjective and a relative clause, which is a sentence of its own and may nest, so that the verb stands far from the noun
with which it agrees. The words of each kind follow Zipf's law: the word of rank r is drawn in proportion to 1 / r.
"""

import numpy as np

_NOUNS = ("dog", "cat", "bird", "girl", "boy", "horse", "king", "sailor", "teacher", "student")
_TRANSITIVE = ("see", "follow", "like", "help", "call", "meet")
_INTRANSITIVE = ("sleep", "run", "sing", "wait", "leave")
_ADJECTIVES = ("old", "small", "happy", "quiet", "tall", "clever")
_DETERMINERS = {False: ("the", "a", "every"), True: ("the", "some", "many")}  # by number: singular, plural
_PLURAL, _ADJECTIVE, _RELATIVE, _TRANSITIVE_VERB, _OF_OBJECT = 0.4, 0.3, 0.25, 0.6, 0.5
"""Probabilities of a plural, an adjective, a relative clause and a verb with an object, and that the noun which a
relative clause describes is the object in it and not its subject."""
_DEEPEST = 3  # relative clauses inside each other


def sentences(number: int, seed: int) -> list[list[str]]:
    """So many sentences, each a list of words.

    Args:
      number: >= 1.
      seed: of the draw; the first sentences do not depend on `number`.
    """
    rng = np.random.default_rng(seed)
    return [_sentence(rng) for _ in range(number)]


def _sentence(rng: np.random.Generator) -> list[str]:
    phrase, is_plural = _noun_phrase(rng, 0)
    return phrase + _verb_phrase(rng, is_plural, 0)


def _noun_phrase(rng: np.random.Generator, depth: int) -> tuple[list[str], bool]:
    """The words of a noun phrase inside `depth` relative clauses, and whether it is plural."""
    is_plural = bool(rng.random() < _PLURAL)
    words = [_word(rng, _DETERMINERS[is_plural])]
    if rng.random() < _ADJECTIVE:
        words.append(_word(rng, _ADJECTIVES))
    words.append(_word(rng, _NOUNS) + "s" * is_plural)
    if depth < _DEEPEST and rng.random() < _RELATIVE:
        words += ["that", *_relative_clause(rng, is_plural, depth + 1)]
    return words, is_plural


def _relative_clause(rng: np.random.Generator, is_plural: bool, depth: int) -> list[str]:
    """A clause about a noun, which is its object ("that the cats see") or its subject ("that sees the cats")."""
    if rng.random() < _OF_OBJECT:
        phrase, subject_is_plural = _noun_phrase(rng, depth)
        return [*phrase, _agreeing(_word(rng, _TRANSITIVE), subject_is_plural)]
    return _verb_phrase(rng, is_plural, depth)


def _verb_phrase(rng: np.random.Generator, is_plural: bool, depth: int) -> list[str]:
    if rng.random() < _TRANSITIVE_VERB:
        return [_agreeing(_word(rng, _TRANSITIVE), is_plural), *_noun_phrase(rng, depth)[0]]
    return [_agreeing(_word(rng, _INTRANSITIVE), is_plural)]


def _agreeing(verb: str, is_plural: bool) -> str:
    return verb if is_plural else verb + "s"


def _word(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    weights = 1 / np.arange(1, len(words) + 1)
    return words[int(np.searchsorted(np.cumsum(weights / weights.sum()), rng.random(), side="right"))]
