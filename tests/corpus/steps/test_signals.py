"""The compiled signals are those of plain Python, and know scripts other than Latin."""

from __future__ import annotations

import random
import re

import numpy as np
import pyarrow as pa
import pytest

from lmcraft.corpus.signals import DOCS, NAMES, c4_lines, needs_repetition, signals
from lmcraft.corpus.signals_stop_words import STOP_WORDS


def of(text: str, language: str | None = "en") -> dict[str, float]:
    return {name: float(values[0]) for name, values in signals(pa.array([text]), [language]).items()}


def plain(text: str) -> dict[str, float]:
    """Signals of a text of ASCII letters, digits and . # { - by a second, slow way."""
    tokens = text.split()
    english = set(STOP_WORDS["en"].split())
    words = [token for token in tokens if re.search("[A-Za-z0-9]", token)]
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    keys = [" ".join(line.split()) for line in lines]
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    paragraph_keys = [tuple(" ".join(line.split()) for line in part.split("\n")) for part in paragraphs]
    found = {
        "characters": len(text),
        "letters": len(re.findall("[A-Za-z]", text)),
        "uppercase": len(re.findall("[A-Z]", text)),
        "digits": len(re.findall("[0-9]", text)),
        "newlines": text.count("\n"),
        "tokens": len(tokens),
        "words": len(words),
        "hashes": text.count("#"),
        "ellipses": text.count("..."),
        "curly_brackets": text.count("{"),
        "lines": len(lines),
        "bullet_lines": sum(line[0] == "-" for line in lines),
        "ellipsis_lines": sum(line.endswith("...") for line in lines),
        "punctuated_lines": sum(line.endswith(".") for line in lines),
        "short_lines": sum(len(line) <= 30 for line in lines),
        "line_characters": sum(map(len, lines)),
        "repeated_lines": len(keys) - len(set(keys)),
        "repeated_line_characters": sum(len(line) for at, line in enumerate(lines) if keys[at] in keys[:at]),
        "paragraphs": len(paragraphs),
        "repeated_paragraphs": len(paragraphs) - len(set(paragraph_keys)),
        "stop_words": len({re.sub("^[^a-z0-9]+|[^a-z0-9]+$", "", token.lower()) for token in tokens} & english),
        "word_length": len(re.findall("[A-Za-z0-9]", text)) / max(len(words), 1),
        "letter_word_share": sum(bool(re.search("[A-Za-z]", t)) for t in tokens) / max(len(tokens), 1),
    }  # fmt: skip
    for n in range(2, 5):
        grams = [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]
        counts = {gram: grams.count(gram) for gram in grams}
        best = max(counts.values(), default=0)
        gram = next((gram for gram in counts if counts[gram] == best), ())
        found[f"top_{n}_gram_share"] = len(" ".join(gram)) * best / len(text) if best > 1 else 0
    for n in range(5, 11):
        seen: set[tuple[str, ...]] = set()
        at = repeated = 0
        while at < len(tokens) - n + 1:
            gram = tuple(tokens[at : at + n])
            if gram in seen:
                repeated += len("".join(gram))
                at += n
            else:
                seen.add(gram)
                at += 1
        found[f"repeated_{n}_gram_share"] = repeated / len(text)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_the_compiled_pass_counts_as_plain_python_does(seed: int) -> None:
    chance = random.Random(seed)
    vocabulary = ["the", "River", "and", "a1", "77", "#", "-", "stone.", "wait...", "end.", "{x", "of", "And", "B"]
    words = [chance.choice(vocabulary[: chance.randint(2, len(vocabulary))]) for _ in range(chance.randint(1, 300))]
    text = "".join(word + chance.choice(["", " ", "  ", " ", "\n", " \n\n"]) for word in words) or "x"
    if seed % 3 == 0:
        text = text * 2
    found = of(text)
    for name, value in plain(text).items():
        assert found[name] == pytest.approx(value), (name, text)


def test_every_signal_is_named_and_explained() -> None:
    found = signals(pa.array(["x", None, ""]))
    assert set(found) == set(NAMES)
    assert all(len(values) == 3 for values in found.values())
    assert set(DOCS) < set(NAMES)
    less = signals(pa.array(["x"]), repetition=False)
    assert set(found) - set(less) == {name for name in NAMES if needs_repetition([name])}


def test_an_empty_text_has_shares_of_nothing() -> None:
    assert [name for name, value in of("", "xx").items() if value != 0] == ["stop_words"]


def test_how_texts_are_cut_into_batches_does_not_show() -> None:
    texts = ["A b c. A b c.\n", "", "人人生而自由。人人生而自由。", "é́" * 40, "x" * 5000, "the of\nthe of\n\n"] * 3
    array = pa.array(["dropped before", *texts])[1:]
    together = signals(array, ["en"] * len(texts))
    for row, text in enumerate(texts):
        alone = signals(pa.array([text]), ["en"])
        for name, values in together.items():
            np.testing.assert_equal(values[row], alone[name][0], err_msg=name)


def test_letters_of_any_script_are_letters() -> None:
    for text in (
        "Всі люди народжуються вільними.",
        "Όλοι οι άνθρωποι γεννιούνται.",
        "सभी मनुष्यों को गौरव।",
        "모든 인간은 자유로운.",
    ):
        found = of(text)
        assert found["letter_word_share"] == 1, text
        assert 3 <= found["word_length"] <= 10, text
        assert found["punctuated_line_share"] == 1, text


def test_composed_and_decomposed_letters_are_as_long() -> None:
    assert of("café naïve")["word_length"] == of("cafe\u0301 nai\u0308ve")["word_length"] == 4.5


def test_scripts_without_spaces_are_measured_in_characters() -> None:
    chinese = "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。"
    found = of(chinese)
    assert np.isnan(found["word_length"])
    assert found["words"] == sum(character.isalpha() for character in chinese) / 2
    assert found["sentences"] == 2
    assert found["punctuated_line_share"] == 1
    assert found["letter_word_share"] == 1
    assert found["repeated_5_gram_share"] == 0
    assert of(chinese * 2)["repeated_5_gram_share"] > 0.3
    thai = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ"
    assert np.isnan(of(thai)["word_length"])
    assert np.isnan(of(thai)["punctuated_line_share"]), "Thai ends sentences with a space"
    assert 10 < of(thai)["words"] < 20


def test_a_few_foreign_characters_do_not_change_the_measure() -> None:
    assert of("The Chinese word for river is 河 and that for mountain is 山, as the reader knows.")["word_length"] > 3


def test_stop_words_are_found_between_punctuation_and_in_capitals() -> None:
    assert of('"The end," said he (and left).')["stop_words"] == 2
    assert of("И вот, на реке.", "ru")["stop_words"] == 2
    assert np.isnan(of("the end of the road", "xx")["stop_words"])
    assert np.isnan(of("the end of the road", None)["stop_words"])
    assert of("the of and", "en-GB")["stop_words"] == 3


@pytest.mark.parametrize("language", STOP_WORDS)
def test_lists_of_stop_words_fit_the_compiled_table(language: str) -> None:
    words = STOP_WORDS[language].split()
    assert len(words) >= 8
    assert of(" ".join(words), language)["stop_words"] == len(set(words)), language
    assert max(len(word.encode()) for word in words) <= 24


def test_a_closing_quotation_mark_may_follow_the_end_of_a_sentence() -> None:
    assert of('"Yes."\n(No!)\n«Oui.»\nwithout\n')["punctuated_line_share"] == 0.75


C4_TEXT = """Home | About | Contact
The river begins in the mountains, where small streams meet.[12]
It ends in the sea and all is calm there. [citation needed]
Too few words.
Please enable JavaScript to see this page in full.
Read our privacy policy before you use this site.
And so on and so on and so on...
"Where does it begin?" asked the child of the teacher. "Here!"
"""


def test_c4_keeps_the_lines_that_its_code_keeps() -> None:
    cleaned, verdicts = c4_lines(
        pa.array([C4_TEXT, "", "nothing here\n", "大河は山から流れて、やがて海に注ぐのである。\nメニュー"])
    )
    assert cleaned.to_pylist() == [
        "The river begins in the mountains, where small streams meet.\n"
        "It ends in the sea and all is calm there.\n"
        '"Where does it begin?" asked the child of the teacher. "Here!"',
        "",
        "",
        "大河は山から流れて、やがて海に注ぐのである。",
    ]
    assert verdicts[0].tolist() == [3, 2, 1, 1, 1, 0]
    found = of(C4_TEXT)
    assert found["c4_lines"] == 3
    assert found["c4_sentences"] == 5
    quoted = ["He said to them, 'It ends here.'", "It was the house of the boys'"]
    assert c4_lines(pa.array(quoted))[0].to_pylist() == [quoted[0], ""]
    assert c4_lines(pa.array(["x" * 1001 + " a b c d e."]))[1][0].tolist() == [0, 0, 0, 0, 0, 1]


def test_c4_marks_of_bad_pages() -> None:
    assert of("Lorem Ipsum dolor sit amet, as they say.")["lorem_ipsums"] == 1
    assert of("function f() {")["curly_brackets"] == 1
    assert of("function f() {")["c4_curly_brackets"] == 0
