"""Texts: what a symbol is, vocabularies, sentences of the grammar, and parts that are held out."""

import collections

import numpy as np
import pytest

from jaxdistill.worlds import texts


def test_letters_words_and_characters():
    string = "The cat's 2 toys. It runs!\n\nEnd"
    decoded = {
        symbols: [text.decode(s) for s in text.sequences]
        for symbols in texts.SYMBOLS
        for text in [texts.from_string(string, symbols)]
    }
    assert decoded["letters"] == ["the cat s toys", "it runs", "end"]
    assert decoded["words"] == ["the cat's 2 toys", "it runs", "end"]
    assert decoded["characters"] == ["The cat's 2 toys. It runs!", "End"]


def test_rare_words_become_one_symbol():
    text = texts.from_string("a a a b b c. a d.", "words", vocabulary=2)
    assert text.vocabulary == ("a", "b", texts.OTHER)
    assert [s.tolist() for s in text.sequences] == [[0, 0, 0, 1, 1, 2], [0, 2]]
    assert text.encode("b zebra a").tolist() == [1, 2, 0]
    given = texts.from_string("b a.", "words", vocabulary=["a", "b", "c"])
    assert given.vocabulary == ("a", "b", "c") and given.sequences[0].tolist() == [1, 0]


def test_what_is_held_out_is_a_part_of_the_sentences():
    text = texts.grammar(50)
    first, second = text.split(0.2, seed=3)
    assert (len(first.sequences), len(second.sequences)) == (40, 10)
    count = collections.Counter(text.decode(s) for s in text.sequences)
    assert count == collections.Counter(text.decode(s) for s in (*first.sequences, *second.sequences))
    assert first.vocabulary == second.vocabulary == text.vocabulary
    assert len({text.digest, first.digest, second.digest, text.split(0.2, seed=4)[0].digest}) == 4


def test_sentences_of_the_grammar_agree_in_number():
    """The first verb after a noun without a relative clause has the noun's number, in 2000 sentences."""
    singular, plural = ("the dog", "a dog", "every dog"), ("the dogs", "some dogs", "many dogs")
    verbs = set()
    for sequence in (text := texts.grammar(2000)).sequences:
        sentence = text.decode(sequence)
        for phrase in singular + plural:
            if sentence.startswith(phrase + " ") and not sentence.startswith(phrase + " that"):
                verb = sentence.removeprefix(phrase).split()[0]
                verbs.add(verb)
                assert verb.endswith("s") == (phrase in singular)
    assert len(verbs) > 10
    counts = collections.Counter(text.vocabulary[i].removesuffix("s") for s in text.sequences for i in s.tolist())
    nouns = np.array([counts["dog"], counts["cat"], counts["bird"]])
    expected = nouns[0] / np.array([1, 2, 3])  # Zipf's law, within 4 standard errors
    assert (np.abs(nouns - expected) < 4 * np.sqrt(2 * expected)).all()


def test_a_longer_text_of_the_grammar_begins_with_a_shorter_one():
    short, long = texts.grammar(20, seed=5), texts.grammar(40, seed=5)
    assert [short.decode(s) for s in short.sequences] == [long.decode(s) for s in long.sequences[:20]]
    spelt = texts.grammar(20, seed=5, symbols="letters")
    assert spelt.decode(spelt.sequences[0]) == short.decode(short.sequences[0])


def test_english_comes_with_python():
    text = texts.english()
    assert len(text.vocabulary) == 27 and text.num_symbols > 200_000 and len(text.digest) == 16


def test_a_text_of_a_file(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("One. Two.")
    text = texts.from_file(path, "words")
    assert text.name == "story" and text.vocabulary == ("one", "two")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text in UTF-8"):
        texts.from_file(path)
    with pytest.raises(OSError, match="No such file"):
        texts.from_file(tmp_path / "missing.txt")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: texts.from_string(3), "must be a string"),
        (lambda: texts.from_string("..."), "has no letters"),
        (lambda: texts.from_string("a", "word"), "did you mean 'words'"),
        (lambda: texts.from_string("a b", "words", vocabulary=["a"]), "vocabulary lacks 'b'"),
        (lambda: texts.from_string("a", vocabulary=["a", "a"]), "different strings"),
        (lambda: texts.from_string("a", vocabulary=0), "vocabulary must be"),
        (lambda: texts.grammar(0), "num_sentences must be"),
        (lambda: texts.grammar(3, -1), "seed must be"),
        (lambda: texts.grammar(3).split(0.01), "leave sentences on both sides"),
        (lambda: texts.grammar(3).encode("zebra"), "'zebra' is not among"),
        (lambda: texts.grammar(3).encode(3), "must be a string"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
