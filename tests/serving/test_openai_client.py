"""The official client against a real server on loopback."""

import threading

import openai
import pytest

from lmcraft.inference import Sampling

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is Paris? 🙂"}]


@pytest.fixture(scope="module")
def client(served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0)


def _expected(served, prompt, **settings):
    settings = {"temperature": 0, "max_tokens": 20} | settings
    return served.engine.generate([prompt], Sampling(**settings))[0]


def test_models(client, served) -> None:
    [model] = client.models.list().data
    assert model.id == "tiny" == client.models.retrieve("tiny").id
    assert model.context == served.engine.context
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("other")


def test_chat(client, served) -> None:
    expected = _expected(served, served.engine.tokenizer.encode_prompt(MESSAGES))
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_completion_tokens=20)
    assert answer.choices[0].message.content == expected.text and answer.choices[0].finish_reason == expected.finish
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.usage.completion_tokens == len(expected.tokens)
    assert answer.usage.total_tokens == expected.prompt_tokens + len(expected.tokens)


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
def test_answers_of_few_tokens_are_whole(client, served, max_tokens) -> None:
    tokenizer = served.engine.tokenizer
    expected = _expected(served, [tokenizer.bos_id, *tokenizer.encode("Paris is")], max_tokens=max_tokens)
    answer = client.completions.create(model="tiny", prompt="Paris is", temperature=0, max_tokens=max_tokens)
    assert answer.choices[0].text == expected.text and answer.usage.completion_tokens == max_tokens


def test_chat_streams_the_same(client, served) -> None:
    expected = _expected(served, served.engine.tokenizer.encode_prompt(MESSAGES))
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=[*MESSAGES[:1], {"role": "user", "content": [{"type": "text", "text": MESSAGES[1]["content"]}]}],
            temperature=0,
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected.text
    assert chunks[-2].choices[0].finish_reason == expected.finish
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len(expected.tokens)
    assert len({chunk.id for chunk in chunks}) == 1 and len(chunks) > 5
    stop = expected.text[8:12]  # the helper raises on an answer that ends by its length
    with client.chat.completions.stream(model="tiny", messages=MESSAGES, temperature=0, stop=stop) as stream:
        content = stream.get_final_completion().choices[0].message.content
    assert content == expected.text[: expected.text.index(stop)]


def test_completions_of_text_ids_and_several(client, served) -> None:
    tokenizer = served.engine.tokenizer
    texts = ["Paris is", "Où"]
    ids = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
    expected = [_expected(served, each).text for each in ids]
    for prompt, count in ((texts, 2), (ids, 2), (texts[0], 1), (ids[0], 1)):
        answer = client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=20)
        assert [choice.text for choice in answer.choices] == expected[:count]
        assert [choice.index for choice in answer.choices] == list(range(count))
        chunks = list(client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=20, stream=True))
        for index in range(count):
            mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
            assert "".join(choice.text for choice in mine) == expected[index] and mine[-1].finish_reason
    assert client.completions.create(model="tiny", prompt="Paris").usage.completion_tokens <= 16


def test_seed_and_stop(client, served) -> None:
    ask = {"model": "tiny", "prompt": "Paris", "max_tokens": 40, "seed": 3, "top_p": 0.9, "extra_body": {"top_k": 50}}
    text = client.completions.create(**ask).choices[0].text
    assert client.completions.create(**ask).choices[0].text == text
    assert client.completions.create(**ask | {"seed": 4}).choices[0].text != text
    stop = text[4:7]
    stopped = client.completions.create(**ask, stop=["\x00", stop])
    assert stopped.choices[0].text == text[: text.index(stop)] and stopped.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("change", "error", "code", "param"),
    [
        ({"model": "other"}, openai.NotFoundError, "model_not_found", "model"),
        (
            {"messages": [{"role": "user", "content": "x " * 500}]},
            openai.BadRequestError,
            "context_length_exceeded",
            "messages",
        ),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, openai.BadRequestError, "invalid_value", "messages.0.role"),
        ({"n": 2}, openai.BadRequestError, "unsupported_value", "n"),
        ({"logprobs": True}, openai.BadRequestError, "unsupported_value", "logprobs"),
        ({"frequency_penalty": 0.5}, openai.BadRequestError, "unsupported_value", "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "unsupported_value", "response_format"),
        ({"temperature": -1}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"max_tokens": 0}, openai.BadRequestError, "invalid_value", "max_tokens"),
        ({"extra_body": {"colour": 1}}, openai.BadRequestError, "unknown_parameter", "colour"),
    ],
)
def test_errors_have_openais_shape(client, change, error, code, param, stream) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, "stream": stream} | change)
    assert caught.value.code == code and caught.value.param == param and caught.value.type == "invalid_request_error"


def test_neutral_values_of_settings_we_lack_are_accepted(client) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=2, n=1, logprobs=False, presence_penalty=0, user="me", tools=[]
    )
    message = answer.choices[0].message
    again = [*MESSAGES, message.model_dump(), {"role": "user", "content": "Où"}]  # as clients send answers back
    assert client.chat.completions.create(model="tiny", messages=again, max_tokens=2).choices


def test_concurrent_streams_all_progress_and_equal_themselves_alone(client, served) -> None:
    prompts = [f"Paris {'is ' * index}" for index in range(7)]  # more than the 4 slots

    def ask(prompt: str, results: dict[str, str]) -> None:
        chunks = client.completions.create(model="tiny", prompt=prompt, max_tokens=30, seed=1, stream=True)
        results[prompt] = "".join(chunk.choices[0].text for chunk in chunks)

    alone: dict[str, str] = {}
    for prompt in prompts:
        ask(prompt, alone)
    together: dict[str, str] = {}
    threads = [threading.Thread(target=ask, args=(prompt, together)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert together == alone
