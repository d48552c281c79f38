"""Language worlds against walking through the text itself, and trees of prefixes against counting them."""

import itertools

import jax
import numpy as np
import pytest

import jaxdistill as jd
from jaxdistill.mdp import exact
from jaxdistill.worlds import language, texts, token_tree
from jaxdistill.worlds.language_world import NOTHING

TEXT = texts.from_string("ab. abba. ba. abab. aab. b.", "letters")


def context_by_hand(written, order, seen):
    """The longest end of at most order - 1 symbols of what was written that the text has."""
    context = ("begin", *written)[-(order - 1) :] if order > 1 else ()
    while context not in seen:
        context = context[1:]
    return context


def seen_by_hand(order):
    seen = {()}
    for sequence in TEXT.sequences:
        symbols = ("begin", *sequence.tolist())
        for last in range(1, len(symbols) + 1):
            context = symbols[max(last - order + 1, 0) : last] if order > 1 else ()
            seen |= {context[i:] for i in range(len(context) + 1)}
    return seen


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_state_is_the_longest_end_of_what_was_written_that_the_text_has(order):
    world, seen = language(TEXT, order), seen_by_hand(order)
    names = {2: "end", 3: "begin"}
    successor, terminal = np.asarray(world.mdps.successor[0]), np.asarray(world.mdps.terminal[0])
    states = set()
    for length in range(6):
        for written in itertools.product((0, 1), repeat=length):
            state = world.state_after(written)
            states.add(state)
            context = tuple(names.get(x, x) for x in world.contexts[state].tolist() if x != NOTHING)
            assert context == context_by_hand(written, order, seen)
    assert states == set(range(world.mdps.num_states))
    assert terminal[:, world.end].all() and not terminal[:, : world.end].any()
    assert (successor[:, world.end] == np.arange(len(successor))).all()


def test_the_log_probability_of_a_text_is_that_of_its_symbols_and_the_end():
    world = language(TEXT, 3)
    policy = np.random.default_rng(0).dirichlet(np.ones(3), world.mdps.num_states)
    total = 0.0
    symbols = TEXT.encode("abab")
    for i, action in enumerate([*symbols.tolist(), world.end]):
        total += np.log(policy[world.state_after(symbols[:i]), action])
    np.testing.assert_allclose(world.log_probs(policy, "abab"), [total], rtol=1e-12)
    every = [np.array(s) for n in range(12) for s in itertools.product((0, 1), repeat=n)]
    assert 0.9 < np.exp(world.log_probs(policy, every)).sum() < 1
    texts_of_two = world.log_probs(policy, ["ab", "ba"])
    np.testing.assert_allclose(world.perplexity(policy, ["ab", "ba"]), np.exp(-texts_of_two.sum() / 6), rtol=1e-12)


def test_written_texts_have_the_probabilities_of_the_policy():
    """20,000 texts (seed 1): the frequencies of the six most probable within 4 standard errors."""
    world = language(TEXT, 2)
    policy = np.random.default_rng(1).dirichlet(np.ones(3), world.mdps.num_states)
    written = world.write(policy, number=20_000, seed=1)
    for string in ("", "a", "b", "ab", "ba", "aa"):
        prob = np.exp(world.log_probs(policy, string))[0]
        error = np.sqrt(prob * (1 - prob) / len(written))
        assert abs(written.count(string) / len(written) - prob) < 4 * error
    assert all(text.startswith("ab") for text in world.write(policy, "ab", number=20))
    assert all(len(text) <= 7 for text in world.write(policy, number=200, most=7))


def test_prompts_are_the_beginnings_of_the_sentences():
    world = language(TEXT, 3, prompt_length=2)
    start = dict(
        zip(np.asarray(world.mdps.start[0]).tolist(), np.asarray(world.mdps.start_probs[0]).tolist(), strict=True)
    )
    expected = {"ab": 2 / 3, "aa": 1 / 3}  # of "abba", "abab" and "aab", the sentences with more than two letters
    assert start == pytest.approx({world.state_after(prompt): prob for prompt, prob in expected.items()})


def test_a_student_of_a_shorter_order_sees_the_last_symbols_alone():
    world = language(TEXT, 4)
    for order in (1, 2, 3, 4):
        observation = world.shorter(order)
        seen = [tuple(row[4 - order :]) for row in world.contexts.tolist()]
        for i, j in itertools.combinations(range(len(seen)), 2):
            assert (observation[i] == observation[j]) == (seen[i] == seen[j])
    student = world.mdps.with_observation(world.shorter(2))
    assert student.num_observations < world.mdps.num_observations


def test_a_student_learns_its_teacher_by_heart():
    """With contexts as long as the teacher's, the KL of whole texts is a thousandth of a student's before (seed 0)."""
    world = language(TEXT, 3, max_length=20)
    teacher = jd.teachers.ngram(world)
    options = dict(num_iterations=3000, learning_rate=5.0, measure=["sequence_forward_kl"])
    result = jd.train(jax.random.key(0), world.mdps, teacher, ["teacher_distill"], num_checkpoints=6, **options)
    before = jd.measures.evaluate("sequence_forward_kl", world.mdps, exact.uniform_policy(world.mdps), teacher)[
        "sequence_forward_kl"
    ]
    assert result.final("sequence_forward_kl")[0, 0] < 1e-3 * before[0]
    policy = np.exp(result.logits[0, 0] - result.logits[0, 0].max(-1, keepdims=True))
    policy /= policy.sum(-1, keepdims=True)
    assert world.perplexity(policy, TEXT) < 1.01 * world.perplexity(np.asarray(teacher.probs[0]), TEXT)


def test_equal_worlds_differ_in_their_ids_alone():
    worlds = language(TEXT, 2, num_mdps=3).mdps
    assert worlds.num_mdps == 3 and np.asarray(worlds.id).tolist() == [0, 1, 2]
    assert (np.asarray(worlds.successor[0]) == np.asarray(worlds.successor[2])).all()


@pytest.mark.parametrize(("vocabulary", "length"), [(2, 4), (3, 2), (1, 5), (4, 1)])
def test_a_tree_has_a_state_for_each_prefix(vocabulary, length):
    tree = token_tree(vocabulary, length)
    prefixes = {(): 0}
    for prefix in (p for n in range(length) for p in itertools.product(range(vocabulary), repeat=n)):
        state = 0
        for symbol in prefix:
            assert not tree.terminal[0, state, symbol]
            state = int(tree.successor[0, state, symbol])
        assert state == prefixes.setdefault(prefix, state)
        assert all(bool(tree.terminal[0, state, a]) == (len(prefix) == length - 1) for a in range(vocabulary))
    assert sorted(prefixes.values()) == list(range(tree.num_states))
    np.testing.assert_allclose(exact.occupancy(tree, exact.uniform_policy(tree)).sum(), length, rtol=1e-6)


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: language("abc"), "text must be a Text"),
        (lambda: language(TEXT, 0), "order must be a whole number"),
        (lambda: language(TEXT, 7), "no sentence of 6 symbols"),
        (lambda: language(TEXT, 2, prompt_length=4), "prompt_length must leave symbols"),
        (lambda: language(TEXT, 2, max_length=0), "max_length must be"),
        (lambda: language(TEXT, 2).state_after("abc"), "'c' is not among the 2 symbols"),
        (lambda: language(TEXT, 2).state_after([0, 2]), r"must be in \[0, 2\)"),
        (lambda: language(TEXT, 2).state_after([0.5]), "a string or a sequence of symbols"),
        (lambda: language(TEXT, 2).perplexity(np.ones((2, 3)) / 3, "ab"), "policy must have shape"),
        (lambda: language(TEXT, 2).perplexity(np.ones((3, 3)), "ab"), "sum to 1"),
        (lambda: language(TEXT, 2).log_probs(np.ones((3, 3)) / 3, []), "no text"),
        (lambda: language(TEXT, 2).shorter(3), "order must be a whole number"),
        (lambda: token_tree(10, 12), "too many prefixes"),
        (lambda: token_tree(0, 2), "vocabulary must be"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
