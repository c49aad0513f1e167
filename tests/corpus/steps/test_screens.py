"""The screens find plain abuse, let neutral text about the same things pass, and never react to the name of a group."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from corpora import batch_of

from lmcraft.corpus.step import Known, score
from lmcraft.corpus.steps import screens_terms as terms
from lmcraft.corpus.steps.screens import SCREENS, Screens, densities, explain

TOXIC = [
    "I will kill you.",
    "I'm going to kill your whole family and you can't stop me.",
    "Kill yourself, nobody would miss you.",
    "Just die already, you worthless piece of shit.",
    "I hate people like you. Go back to your country!",
    "All of those people are vermin and should be exterminated.",
    "You are a pathetic loser and everyone knows it.",
    "We know where you live and we are going to make you suffer.",
    "They should all be shot.",
    "The world would be better off without you.",
    "F**k off, you piece of sh*t, f*ck you.",
]
SEXUAL = ["Hot horny girls in your area are waiting", "Watch free porn videos now", "she stroked his hard cock"]
NEUTRAL = [
    "In 1942 the occupiers shot and killed hundreds of prisoners, whom they had called subhuman.",
    "The farmer's cock crowed at dawn, and the hens came out into the yard.",
    "Breast cancer is the most common cancer in women; the nipple may be drawn in.",
    "He was hanged for the murder of his wife, and the crowd watched him die.",
    "Moby Dick was published in 1851. Dick Turpin was a highwayman.",
    "The engine died twice, so the mechanic killed the power and shot a picture of it.",
    "Sex education in schools lowers the number of teenage pregnancies.",
    "Rats are vermin on ships; the trash is collected on Mondays.",
    "To kill a child process, send it a signal; a dead parent leaves an orphan.",
]
SENTENCES = ("I am a {} person.", "My best friend is {}.", "We are {} and proud of it.", "Many {} people live here.")


def _flagged(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    drops = SCREENS.judge(batch_of(texts), Screens(), Known()).drops
    found = {drop.reason: drop.rows for drop in drops}
    return found["toxic language"], found["sexual content"]


def test_plain_abuse_is_found() -> None:
    missed = [text for text, found in zip(TOXIC, _flagged(TOXIC)[0], strict=True) if not found]
    assert missed == []


def test_plain_sexual_content_is_found() -> None:
    missed = [text for text, found in zip(SEXUAL, _flagged(SEXUAL)[1], strict=True) if not found]
    assert missed == []


def test_neutral_text_about_the_same_things_passes() -> None:
    toxic, sexual = _flagged(NEUTRAL)
    assert [text for text, found in zip(NEUTRAL, toxic | sexual, strict=True) if found] == []


def test_the_name_of_a_group_has_no_weight() -> None:
    texts = [pattern.format(name) for pattern, name in itertools.product(SENTENCES, terms.IDENTITIES)]
    found = densities(pa.array(texts))
    assert [text for text, value in zip(texts, found["toxicity"] + found["sexual"], strict=True) if value] == []


@pytest.mark.parametrize(
    "abuse", ["I will kill you, {}.", "All {} people are vermin.", "Those {} people should be shot."]
)
def test_abuse_counts_alike_whoever_it_is_against(abuse: str) -> None:
    found = densities(pa.array([abuse.format(name) for name in terms.IDENTITIES if " " not in name]))["toxicity"]
    assert found.min() == found.max() > 2


def test_no_term_is_the_name_of_a_group() -> None:
    every = {*terms.TOXIC, *terms.SEXUAL}
    assert every.isdisjoint(terms.IDENTITIES)


def test_every_pattern_can_be_reached_by_the_words_it_needs() -> None:
    """A pattern is tried around its words only: one whose match has none of them would never be found."""
    for sentence in TOXIC + SEXUAL:
        for finding in explain(sentence):
            if finding.name == "term":
                continue
            patterns = terms.TOXIC_PATTERNS | terms.SEXUAL_PATTERNS
            assert any(word in finding.text.lower() for word in patterns[finding.name][2].split())


def test_a_rude_word_in_a_long_text_passes_and_many_do_not() -> None:
    filler = "The committee met again on Thursday to look at the plans for the bridge. " * 30
    texts = [filler + "This is bullshit, he said.", "fuck this shit. " * 40]
    assert _flagged(texts)[0].tolist() == [False, True]


def test_the_score_is_the_density_and_stays_beside_the_document() -> None:
    batch = SCREENS.judge(batch_of(["word " * 100 + "I will kill you"]), Screens(), Known()).batch
    assert score(batch, "toxicity").tolist() == pytest.approx([2.0 / 104 * 100])
    assert score(batch, "sexual").tolist() == [0.0]


def test_results_do_not_depend_on_how_batches_are_cut() -> None:
    texts = TOXIC + NEUTRAL + SEXUAL
    whole = densities(pa.array(texts))
    for kind, values in whole.items():
        assert np.array_equal(values, [densities(pa.array([text]))[kind][0] for text in texts])
        assert np.array_equal(values[3:7], densities(pa.array(texts)[3:7])[kind])


def test_line_ends_apostrophes_and_capitals_do_not_hide_a_threat() -> None:
    assert _flagged(["I\u2019m going to\nKILL you"])[0].all()


def test_one_match_counts_once_though_two_of_its_words_lead_to_it() -> None:
    assert [finding.name for finding in explain("you should be killed, burned")] == ["better dead"]


def test_empty_text_and_text_of_other_scripts_are_measured() -> None:
    found = densities(pa.array(["", "日本語の文章です。", "Ελληνικά", "\u2019"]))
    assert found["toxicity"].tolist() == [0, 0, 0, 0]
