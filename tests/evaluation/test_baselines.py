"""The baselines are what they say: proper distributions over bytes, and constants that no other constant beats."""

import math

import pytest

from lmcraft.evaluation.baselines import ByteNgram, best_constant, most_frequent


def test_unigram_by_hand():
    # a: 3 of 4 bytes, b: 1 of 4; two kinds seen; Witten-Bell: (count + kinds/256) / (4 + 2)
    model = ByteNgram(1, ["aab", "a"])
    expected = -math.log((3 + 2 / 256) / 6) - math.log((0 + 2 / 256) / 6)
    assert model.nats("ac") == pytest.approx(expected)
    assert model.bytes == 4 and model.name == "byte unigram"


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_of_all_continuations_add_up_to_one(order):
    model = ByteNgram(order, ["banana band", "bandana", ""])
    for context in ("ban", "xx", ""):
        total = sum(math.exp(model.nats(context) - model.nats(context + chr(c))) for c in range(128))
        unseen = 128 * math.exp(model.nats(context) - model.nats(context + "\x7f"))  # bytes 128.. are all unseen
        assert total + unseen == pytest.approx(1.0)


def test_longer_contexts_predict_regular_text_better():
    text = ["the cat sat on the mat and the dog sat on the log " * 20]
    one, two, five = (ByteNgram(order, text).nats("the cat sat on the log ") for order in (1, 2, 5))
    assert five < two < one < 23 * math.log(256)


def test_nothing_to_fit_on_means_uniform():
    assert ByteNgram(3, []).nats("ab") == pytest.approx(2 * math.log(256))


def test_most_frequent_answer_counts_spellings_together():
    assert most_frequent(["Dog", "dog.", "cat", "cat", "DOG"]) == "DOG"
    assert most_frequent([]) is None


def test_best_constant_beats_the_others():
    answers = ["country in Europe"] * 3 + ["country in Asia"] * 4 + ["country in northern Europe"] * 4
    assert best_constant(answers) == "country in Europe"
    assert best_constant([]) is None
