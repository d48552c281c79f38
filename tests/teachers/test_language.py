"""n-gram teachers against a plain implementation of their formulas, and teachers from the k largest values."""

import jax
import numpy as np
import pytest

import jaxdistill as jd
from jaxdistill.worlds import language, texts, token_tree
from jaxdistill.worlds.language_world import NOTHING

TEXT = texts.grammar(60, seed=1)


def plain_grams(order):
    """All symbols in a row that the text has and the last of which was written, as a list of tuples."""
    sequences = [("begin", *s.tolist(), "end") for s in TEXT.sequences]
    grams = [s[i : i + order] for s in sequences for i in range(len(s) - order + 1)]
    return [gram for gram in grams if gram[-1] != "begin"]


def plain_kneser_ney(context, symbol, order, d, num_actions):
    """p(symbol | context), by the formulas of Chen and Goodman, computed from lists of n-grams."""
    if len(context) == order - 1 or context[:1] == ("begin",):
        follow = [gram[-1] for gram in plain_grams(len(context) + 1) if gram[:-1] == context]
    else:  # the number of different symbols that come before
        longer = set(plain_grams(len(context) + 2))
        follow = [gram[-1] for gram in longer if gram[1:-1] == context]
    shorter = plain_kneser_ney(context[1:], symbol, order, d, num_actions) if context else 1 / num_actions
    total, different = len(follow), len(set(follow))
    return (max(follow.count(symbol) - d, 0) + d * different * shorter) / total


def contexts_of(world):
    names = {world.end + 1: "begin"}
    return [tuple(names.get(x, x) for x in row if x != NOTHING) for row in world.contexts.tolist()]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kneser_ney(order):
    world = language(TEXT, order)
    probs = np.asarray(jd.teachers.ngram(world, absolute_discount=0.6).probs[0], np.float64)
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)
    rng = np.random.default_rng(0)
    contexts = contexts_of(world)
    for state in rng.choice(len(contexts), min(len(contexts), 12), replace=False):
        for action in rng.choice(world.end + 1, 4, replace=False).tolist() + [world.end]:
            symbol = "end" if action == world.end else action
            expected = plain_kneser_ney(contexts[state], symbol, order, 0.6, world.end + 1)
            assert probs[state, action] == pytest.approx(expected, rel=1e-5)


def test_add():
    world = language(TEXT, 3)
    probs = np.asarray(jd.teachers.ngram(world, "add", add=0.3).probs[0], np.float64)
    for state, context in enumerate(contexts_of(world)):
        follow = [gram[-1] for gram in plain_grams(len(context) + 1) if gram[:-1] == context]
        for action in (0, 5, world.end):
            symbol = "end" if action == world.end else action
            expected = (follow.count(symbol) + 0.3) / (len(follow) + 0.3 * (world.end + 1))
            assert probs[state, action] == pytest.approx(expected, rel=1e-5)


def test_a_temperature_divides_the_logarithms():
    world = language(TEXT, 2)
    one, two = (np.log(np.asarray(jd.teachers.ngram(world, temperature=t).probs[0], np.float64)) for t in (1, 2))
    np.testing.assert_allclose(two[:, :-1] - two[:, 1:], (one[:, :-1] - one[:, 1:]) / 2, atol=1e-4)


def test_smoothing_helps_with_sentences_that_were_held_out():
    first, second = texts.grammar(400).split(0.2)
    world = language(first, 3)
    teachers = [jd.teachers.ngram(world), jd.teachers.ngram(world, "add", add=1.0)]
    kneser_ney, add = (world.perplexity(teacher.probs[0], second) for teacher in teachers)
    assert kneser_ney < add < world.end + 1


def test_zipf():
    tree = token_tree(4, 3, num_mdps=2)
    probs = np.asarray(jd.teachers.zipf(jax.random.key(0), tree, 2.0).probs)
    expected = np.array([1, 1 / 4, 1 / 9, 1 / 16]) / (1 + 1 / 4 + 1 / 9 + 1 / 16)
    np.testing.assert_allclose(np.sort(probs)[..., ::-1], np.broadcast_to(expected, probs.shape), rtol=1e-6)
    assert len(np.unique(probs.argmax(-1))) == 4 and (probs[0] != probs[1]).any()
    np.testing.assert_array_equal(probs[1], jd.teachers.zipf(jax.random.key(0), tree[1:], 2.0).probs[0])


# --- The k largest values --------------------------------------------------------------------------------------------


def test_the_k_largest_values_divided_by_their_sum():
    tree = token_tree(4, 2)
    logits, ids = np.tile([2.0, 1.0], (tree.num_states, 1)), np.tile([3, 1], (tree.num_states, 1))
    probs = np.asarray(jd.teachers.from_logits(tree, logits, ids=ids).probs[0])
    np.testing.assert_allclose(probs, np.tile([0, 1 / (1 + np.e), 0, np.e / (1 + np.e)], (5, 1)), rtol=1e-6)


def test_the_rest_of_the_probability_goes_to_one_action():
    tree = token_tree(4, 2)
    logs, ids = np.log(np.tile([0.5, 0.2], (tree.num_states, 1))), np.tile([3, 1], (tree.num_states, 1))
    probs = np.asarray(jd.teachers.from_logits(tree, logs, ids=ids, rest=0).probs[0])
    np.testing.assert_allclose(probs, np.tile([0.3, 0.2, 0, 0.5], (5, 1)), rtol=1e-6)


TREE, ROWS, IDS = token_tree(4, 2), np.log(np.full((5, 2), 0.25)), np.tile([3, 1], (5, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jd.teachers.from_logits(TREE, np.zeros((5, 4)), rest=1), "together with ids only"),
        (lambda: jd.teachers.from_logits(TREE, ROWS, ids=IDS[:, :1]), "of the shape of logits"),
        (lambda: jd.teachers.from_logits(TREE, ROWS * np.inf, ids=IDS), "must be finite"),
        (lambda: jd.teachers.from_logits(TREE, ROWS, ids=IDS + 1), r"actions in \[0, 4\)"),
        (lambda: jd.teachers.from_logits(TREE, ROWS, ids=IDS * 0), "must not repeat"),
        (lambda: jd.teachers.from_logits(TREE, ROWS, ids=IDS, rest=3), "among the ids"),
        (lambda: jd.teachers.from_logits(TREE, ROWS + 2, ids=IDS, rest=0), "sum to at most 1"),
        (lambda: jd.teachers.from_logits(TREE, ROWS[:3], ids=IDS[:3]), "probs must have shape"),
        (lambda: jd.teachers.ngram(TREE), "must be a Language"),
        (lambda: jd.teachers.ngram(language(TEXT, 2), "kneser"), "did you mean 'kneser_ney'"),
        (lambda: jd.teachers.ngram(language(TEXT, 2), absolute_discount=1.0), "absolute_discount must be in"),
        (lambda: jd.teachers.ngram(language(TEXT, 2), temperature=0.0), "greater than 0"),
        (lambda: jd.teachers.zipf(jax.random.key(0), TREE[0]), "stacked MDPs"),
        (lambda: jd.teachers.zipf(jax.random.key(0), TREE, -1), "exponent must be"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
