import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from lmcraft.inference.text import TextStream

TOKENIZER = tiny_tokenizer()


@given(st.text(max_size=30))
def test_deltas_join_to_the_text_and_never_split_a_character(text: str) -> None:
    stream = TextStream(TOKENIZER, ())
    deltas = [stream.push(token) for token in TOKENIZER.encode(text)]
    assert stream.finish() == ""
    assert "".join(deltas) == text == stream.text
    assert "\ufffd" in text or not any("\ufffd" in delta for delta in deltas)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=20))
def test_any_tokens_give_the_text_that_decode_gives(tokens: list[int]) -> None:
    stream = TextStream(TOKENIZER, ())
    text = "".join([stream.push(token) for token in tokens]) + stream.finish()
    assert text == TOKENIZER.decode(tokens)


@given(st.text("abc", max_size=24), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string_to_be_completed(text: str, stop: list[str]) -> None:
    stream = TextStream(TOKENIZER, stop)
    given_out = ""
    for token in (token for character in text for token in TOKENIZER.encode(character)):
        given_out += stream.push(token)
        if stream.stopped:
            break
    given_out += stream.finish()
    completed = min((end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stop)), default=None)
    if completed is None:
        assert given_out == text and not stream.stopped
    else:
        longest = max(len(s) for s in stop if text[:completed].endswith(s))
        assert given_out == text[: completed - longest] and stream.stopped


@pytest.mark.parametrize("stop", ["é", "🙂", "東京"])
def test_a_stop_string_of_several_bytes(stop: str) -> None:
    stream = TextStream(TOKENIZER, (stop,))
    assert "".join(stream.push(token) for token in TOKENIZER.encode(f"abc {stop} def")) == "abc "
    assert stream.stopped
