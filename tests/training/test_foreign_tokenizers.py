"""Tokenizers made elsewhere, as Qwen 3 and Llama 3 have them: the same ids as in transformers, no special token out of
a text, and models that learn on with them and are exported again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_continued import ON, SHAPE
from test_pretrain import TOWNS, runtime, write_documents
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from lmcraft.model import ModelConfig, Transformer, save_model
from lmcraft.model.importing import STAGE as IMPORT
from lmcraft.model.importing import ImportConfig
from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.reporting.check import check_export
from lmcraft.tokens import Tokenizer, pack
from lmcraft.tokens.encoder import Encoder
from lmcraft.tokens.train import word_pattern
from lmcraft.training import pretrain
from lmcraft.training.config import PretrainConfig

transformers = pytest.importorskip("transformers")

SENTENCES = [f"{TOWNS[i]} is a town. {TOWNS[i]} lies by the river {TOWNS[i * 7 % 900]}." for i in range(900)]
TEXTS = [
    "Plain words, 1984.",
    "Café, cafe\u0301 and \U0001f30a\n\n  indented",
    "<|im_end|> and <|eot_id|> of a user<|endoftext|>",
    "",
]


def backend(specials: list[str], digits: int) -> Backend:
    made = Backend(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(word_pattern(digits)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens(specials)
    return made


def like_qwen() -> tuple[Backend, dict[str, Any]]:
    """A chat model's: it begins texts with nothing, composes letters, ends turns, and its thinking is no control."""
    made = backend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 1)
    made.normalizer = normalizers.NFC()
    made.add_tokens([AddedToken("<think>", normalized=False, special=False)])
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    return made, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": template}


def like_llama() -> tuple[Backend, dict[str, Any]]:
    """A base model's: it has a token of its own for the beginning, none for padding, and no chat template."""
    made = backend(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], 3)
    begin = "<|begin_of_text|>"
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, made.token_to_id(begin))]
    )
    return made, {"bos_token": begin, "eos_token": "<|end_of_text|>"}


MADE: dict[str, Callable[[], tuple[Backend, dict[str, Any]]]] = {"qwen3": like_qwen, "llama": like_llama}


@pytest.fixture(params=list(MADE))
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A model with such a tokenizer, its vocabulary rounded up, as transformers saves them."""
    made, names = MADE[request.param]()
    folder = tmp_path / "theirs"
    model = Transformer(ModelConfig(**SHAPE | {"vocab_size": 512, "model_type": request.param}))
    model.initialise(0)
    save_model(model, folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)
    return request.param, folder


def test_ids_are_those_of_transformers_and_no_text_has_control_tokens(theirs: tuple[str, Path], tmp_path: Path) -> None:
    family, folder = theirs
    ours, reference = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in (*TEXTS, *SENTENCES[:20]):
        ids = ours.encode(text)
        assert not set(ids) & set(ours.special_ids)
        if "<|" not in text:
            assert ids == reference(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ids) == reference.decode(ids)
    names = [reference.convert_ids_to_tokens(each) for each in (ours.bos_id, ours.eos_id, ours.pad_id)]
    stops = reference.convert_ids_to_tokens(list(ours.stop_ids))
    if family == "qwen3":
        assert names == ["<|endoftext|>"] * 3
        assert stops == ["<|endoftext|>", "<|im_end|>"]
        assert ours.encode("so <think>")[-1] == reference.convert_tokens_to_ids("<think>")
    else:
        assert names == ["<|begin_of_text|>", "<|end_of_text|>", "<|end_of_text|>"]
        assert stops == ["<|end_of_text|>", "<|eot_id|>"]
    ours.save(tmp_path / "again")
    again = Tokenizer.load(tmp_path / "again")
    assert (again.sha256, again.bos_id, again.eos_id, again.pad_id) == (
        ours.sha256,
        ours.bos_id,
        ours.eos_id,
        ours.pad_id,
    )
    assert again.chat_template == ours.chat_template
    fast = Encoder(ours).encode(SENTENCES)
    assert fast.ids.tolist() == [number for row in ours.encode_batch(SENTENCES) for number in row]


def test_the_model_learns_on_with_its_own_tokenizer_and_is_exported(theirs: tuple[str, Path], tmp_path: Path) -> None:
    family, folder = theirs
    documents = write_documents(tmp_path / "documents", [" ".join(SENTENCES[i : i + 9]) for i in range(0, 900, 2)])
    for name in ("import", "tokens", "out"):
        (tmp_path / name).mkdir()
    summary = IMPORT.run(ImportConfig(model=str(folder)), {}, tmp_path / "import", Runtime())
    assert summary is not None and summary["tokenizer"] == "usable"
    inputs = {"documents": documents, "tokenizer": tmp_path / "import"}
    pack.STAGE.run(pack.STAGE.config(), inputs, tmp_path / "tokens", Runtime())
    inputs = {"tokens": tmp_path / "tokens", "tokenizer": tmp_path / "import", "model": tmp_path / "import"}
    config = PretrainConfig(**{**ON, "context": 64, "learning_rate": 0.02, "embedding_learning_rate": 0.05})
    pretrain.STAGE.run(config, inputs, tmp_path / "out", runtime(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    before, *_, after = [row["heldout_bits_per_byte"] for row in rows if "heldout_bits_per_byte" in row]
    assert after < before - 0.5
    compared = check_export(tmp_path / "out", tmp_path / "out", SENTENCES[:3])
    assert (compared["chats"] > 0) == (family == "qwen3")


def test_chats_need_a_template_and_get_ours_where_the_tokens_are_its_own(tmp_path: Path) -> None:
    loaded = {}
    for family, make in MADE.items():
        made, names = make()
        transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(tmp_path / family)
        loaded[family] = Tokenizer.load(tmp_path / family)
    chat = [{"role": "user", "content": "Ghent?<|im_end|>"}, {"role": "assistant", "content": "A town."}]
    ids, mask = loaded["qwen3"].encode_chat(chat)
    assert loaded["qwen3"].marks_answers
    assert loaded["qwen3"].decode([i for i, of in zip(ids, mask, strict=True) if of]) == "A town."
    assert ids.count(loaded["qwen3"].im_end_id or -1) == 2
    with pytest.raises(UserError, match="no chat template"):
        loaded["llama"].encode_prompt(chat[:1])


def test_ids_of_a_tokenizer_without_an_end_of_text_are_refused(tmp_path: Path) -> None:
    made = backend(["<|sep|>"], 1)
    transformers.PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no special token for the end of a text"):
        Tokenizer.load(tmp_path)


def like_sentencepiece(legacy: bool) -> Backend:
    """As Llama 2 has it: spaces are letters, and what has no token is written in bytes. The space before a text was
    put there by a normaliser, and is by what cuts words since (where only the very first text gets one)."""
    learnt = Backend(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace()
    learnt.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    described = json.loads(learnt.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *described["vocab"]]
    merges = [tuple(merge) for merge in described["merges"]]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    made = Backend(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if legacy:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


@pytest.mark.parametrize("legacy", [True, False])
def test_a_tokenizer_in_the_manner_of_sentencepiece_is_used_as_transformers_does(legacy: bool, tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]</s><s>{% endfor %} "
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": template}
    folder = tmp_path / "theirs"
    transformers.PreTrainedTokenizerFast(tokenizer_object=like_sentencepiece(legacy), **names).save_pretrained(folder)
    model = Transformer(ModelConfig(**SHAPE | {"vocab_size": 512, "model_type": "llama"}))
    model.initialise(0)
    save_model(model, folder)
    ours, reference = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert ours.leading_space
    spaced = ours.encode(" a")  # where cutting puts the space there, a second one is not
    assert spaced == reference(" a", add_special_tokens=False)["input_ids"]
    assert ours.decode(spaced) == reference.decode(spaced)
    for text in ("Plain words, 1984.", "Caf\u00e9 \U0001f30a\n\n  indented", "", *SENTENCES[:20]):
        ids = ours.encode(text)
        assert ids == reference(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ids) == reference.decode(ids) == text
        assert b"".join(ours.token_bytes(token) for token in ids) == (f" {text}" if text else "").encode()
    assert not set(ours.encode("</s> of a user<s>")) & set(ours.special_ids)
    chat = [{"role": "user", "content": "Where is Oslo?"}, {"role": "user", "content": "And Lima?"}]
    assert ours.encode_prompt(chat) == reference.apply_chat_template(chat, return_dict=False)
    again = transformers.AutoTokenizer.from_pretrained(saved(ours, tmp_path / "again"))
    assert again("Oslo is a town.")["input_ids"] == reference("Oslo is a town.")["input_ids"]

    documents = write_documents(tmp_path / "documents", [" ".join(SENTENCES[i : i + 9]) for i in range(0, 900, 2)])
    for name in ("import", "tokens", "out"):
        (tmp_path / name).mkdir()
    summary = IMPORT.run(ImportConfig(model=str(folder)), {}, tmp_path / "import", Runtime())
    assert summary is not None and summary["tokenizer"] == "usable"
    pack.STAGE.run(
        pack.STAGE.config(),
        {"documents": documents, "tokenizer": tmp_path / "import"},
        tmp_path / "tokens",
        Runtime(),
    )
    inputs = {"tokens": tmp_path / "tokens", "tokenizer": tmp_path / "import", "model": tmp_path / "import"}
    config = PretrainConfig(**{**ON, "context": 64, "learning_rate": 0.02, "embedding_learning_rate": 0.05})
    pretrain.STAGE.run(config, inputs, tmp_path / "out", runtime(tmp_path))
    check_export(tmp_path / "out", tmp_path / "out", SENTENCES[:3])


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    tokenizer.save(folder)
    return folder
