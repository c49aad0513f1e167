"""A user's mistake ends in one sentence that says what, where and how to mend it, and in exit code 2, the whole way
through the command line. The rooms' own tests hold the finer cases."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_pipeline import Said, SmallRun, environment, lmcraft

RECIPE = "recipes/quickstart.yaml"


@pytest.fixture(scope="module")
def checkout(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run with bad things lying about."""
    folder = small_run.copy(tmp_path_factory.mktemp("bad") / "checkout")
    (folder / "empty").mkdir()
    (folder / "a-file").write_text("not a folder")
    (folder / "few").mkdir()
    for number in range(12):
        text = f"Text number {number} tells of the {number * 7} stones of a river and of its {number + 3} bridges."
        (folder / "few" / f"{number}.txt").write_text(text)
    (folder / "one").mkdir()
    (folder / "one" / "novel.txt").write_text("It was a long story about a river and the people who lived there. " * 50)
    (folder / "pictures").mkdir()
    shutil.copy(folder / "my-texts" / "picture.png", folder / "pictures")
    text = (folder / RECIPE).read_text(encoding="utf-8")
    (folder / "circle.yaml").write_text(text.replace("documents: collect", "documents: curate"), encoding="utf-8")
    (folder / "misspelt.yaml").write_text(text.replace("vocab_size:", "vocab_sise:"), encoding="utf-8")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    (folder / "broken.yaml").write_text("name: x\nsteps: [unclosed\n")
    return folder


def refused(said: Said) -> str:
    """The one sentence. Before it there may be lines of progress, which are indented or numbered."""
    lines = said.err.splitlines()
    assert said.code == 2, said
    assert [line for line in lines if not line.startswith((" ", "["))] == [lines[-1]], said.err
    assert lines[-1].startswith("lmcraft: ")
    assert "Traceback" not in said.err
    return lines[-1].removeprefix("lmcraft: ")


def folder_source(path: str, **settings: Any) -> list[str]:
    return ["--set", f"collect.sources={json.dumps([{'kind': 'folder', 'path': path, **settings}])}"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.yaml"], "no recipe at nowhere.yaml"),
        (["empty"], "empty cannot be read as UTF-8 text"),
        (["binary.yaml"], "binary.yaml cannot be read as UTF-8 text"),
        (["broken.yaml"], "broken.yaml:3: not valid YAML"),
        (["circle.yaml"], "curate: the steps go in a circle: curate -> curate"),
        (["misspelt.yaml"], "tokenizer.vocab_sise: unknown setting; did you mean 'vocab_size'?"),
        ([RECIPE, "--set", "pretrain.dept=3"], "--set pretrain.dept=3: unknown setting; did you mean 'depth'?"),
        ([RECIPE, "--set", "sft.model=pretrian"], "refers to 'pretrian', which is no step; did you mean 'pretrain'?"),
        ([RECIPE, "--set", "tokens.shard_tokens=many"], 'should be a valid integer, not "many"'),
        ([RECIPE, "--until", "tokenizr"], "--until tokenizr: no such step; did you mean 'tokenizer'?"),
        ([RECIPE, "--set", "runtime.device=tpu9"], "device 'tpu9' is not available on this machine; choose one of"),
        ([RECIPE, "--set", "runtime.device=cuda:99"], "device 'cuda:99' is not available on this machine; choose"),
        (
            [RECIPE, "--set", "pretrain.precision=float16"],
            "precision=float16: input should be 'auto', 'float32', 'bfloat16' or 'float8'",
        ),
        ([RECIPE, "--set", "pretrain.depth=100000"], "step pretrain: training needs about "),
        ([RECIPE, "--set", "runtime.store=a-file"], "the store 'a-file' cannot be made: 'a-file' is a file"),
        ([RECIPE, "--set", "runtime.store=a-file/store"], "'a-file' is a file; name another folder"),
        ([RECIPE, *folder_source("nowhere")], "step collect: the folder 'nowhere' does not exist; correct `path`"),
        ([RECIPE, *folder_source("empty")], "step collect: no file in 'empty' matches '**/*'; put files ending in"),
        ([RECIPE, *folder_source("pictures")], "gave no document (1 x unknown format); give it text or take it out"),
        (
            [RECIPE, *folder_source("my-texts", text_column="body")],
            "articles.jsonl:1 has no column 'body'; it has 'title', 'text'",
        ),
        (
            [RECIPE, *folder_source("my-texts", on_bad_record="fail")],
            "step collect: my-texts/articles.jsonl:18: malformed JSON",
        ),
        ([RECIPE, *folder_source("one")], "step curate: the documents that are left (1) are too few to hold any out"),
        ([RECIPE, *folder_source("few")], "step tokenizer: vocab_size is 700, but 9 training documents"),
        ([RECIPE, "--set", "tokenizer.vocab_size=60000"], "support only "),
        (
            [RECIPE, "--set", "pretrain.train_tokens=500000000"],
            "too few for steps of 2.05k and 500M in all (at most 40 epochs): add text, or lower",
        ),
    ],
)
def test_a_run_that_cannot_be(checkout: Path, arguments: list[str], sentence: str) -> None:
    assert sentence in refused(lmcraft(checkout, ["run", *arguments]))


def test_what_a_run_refuses_a_plan_refuses(checkout: Path) -> None:
    for arguments in (["circle.yaml"], [RECIPE, "--set", "runtime.device=tpu9"], [RECIPE, *folder_source("empty")]):
        refused(lmcraft(checkout, ["plan", *arguments]))


def test_the_device_is_refused_before_any_step_runs(checkout: Path, tmp_path: Path) -> None:
    said = lmcraft(
        checkout, ["run", RECIPE, "--set", f"runtime.store={tmp_path / 's'}", "--set", "runtime.device=tpu9"]
    )
    refused(said)
    assert "collect" not in said.err
    assert not (tmp_path / "s").exists()


def test_bad_files_are_counted_by_reason_and_do_not_stop_a_run(small_run: SmallRun) -> None:
    statistics = json.loads((small_run.artifact("collect") / "statistics.json").read_text(encoding="utf-8"))
    removed = {reason: entry["documents"] for reason, entry in statistics["removed"].items()}
    assert removed == {"malformed JSON": 1, "invalid UTF-8": 1, "unknown format": 1}
    assert statistics["removed"]["malformed JSON"]["samples"][0]["path"] == "articles.jsonl:18"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["chat", "quickstart/export", "--prompt", "word " * 400], "tokens but the context of the model is 128 tokens"),
        (["chat", "quickstart/export", "--prompt", "x", "--device", "tpu9"], "device 'tpu9' is not available"),
        (["chat", "quickstart/tokens", "--prompt", "x"], "is not a model but tokens; `lmcraft ls` shows the kinds"),
        (["chat", "quickstart/exprt", "--prompt", "x"], "did you mean 'quickstart/export'?"),
        (["serve", "quickstart/export", "--port", "99999"], "--port is 99999; ports are 0 to 65535"),
        (["show", "nothing"], "no artifact 'nothing' in the store"),
        (["lineage", "quickstart/exprt"], "did you mean 'quickstart/export'?"),
        (["ls", "--store", "a-file"], "'a-file' is a file; name another folder"),
        (["verify", "--rebuild", "quickstart/tokens"], "--rebuild needs --recipe FILE"),
    ],
)
def test_other_verbs(checkout: Path, arguments: list[str], sentence: str) -> None:
    assert sentence in refused(lmcraft(checkout, arguments))


def test_a_port_in_use(checkout: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        sentence = refused(lmcraft(checkout, ["serve", "quickstart/export", "--port", str(port)]))
    assert f"port {port} on 127.0.0.1 is in use by another program; stop that, or choose another port" in sentence


def test_a_damaged_artifact_is_named_and_the_way_back_works(small_run: SmallRun, tmp_path: Path) -> None:
    folder = small_run.copy(tmp_path / "checkout")
    damaged = small_run.artifact("curate", folder)
    file = damaged / "documents-00000.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    until = ["--until", "tokenizer", "--set", "tokenizer.vocab_size=650"]
    sentence = refused(lmcraft(folder, ["run", RECIPE, *until]))
    assert f"step tokenizer: artifact {damaged.name} is damaged: documents-00000.parquet has sha256" in sentence
    assert "`lmcraft verify --repair` sets it aside and the next run builds it again" in sentence

    assert lmcraft(folder, ["verify"]).code == 1
    repaired = lmcraft(folder, ["verify", "--repair"])
    assert repaired.code == 1
    assert "set aside in damaged/" in repaired.out
    assert lmcraft(folder, ["run", RECIPE, *until]).code == 0
    manifest = json.loads((damaged / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["digest"] == small_run.manifests["curate"]["digest"]
    assert lmcraft(folder, ["verify"]).code == 0


@pytest.mark.parametrize("step", ["tokenizer", "sft"])
def test_a_damaged_model_or_tokenizer_is_not_talked_to(small_run: SmallRun, tmp_path: Path, step: str) -> None:
    folder = small_run.copy(tmp_path / "checkout")
    name = "model.safetensors" if step == "sft" else "tokenizer.json"
    file = small_run.artifact("export", folder) / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert name in refused(lmcraft(folder, ["chat", "quickstart/export", "--prompt", "Hello"]))


def test_a_read_only_store(small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, whom no permission stops: the refusal is made here."""
    folder = small_run.copy(tmp_path / "checkout")

    def refuse(path: Path, *arguments: Any, **keywords: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    sentence = refused(lmcraft(folder, ["run", RECIPE, "--set", "tokenizer.vocab_size=650"]))
    assert "step collect: 'store/locks' cannot be used (Permission denied)" in sentence


def test_the_program_itself_prints_the_sentence_and_nothing_else(checkout: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "lmcraft", "run", "circle.yaml"],
        cwd=checkout,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("lmcraft: circle.yaml:")
