from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))  # the benchmarks are no part of the package

from benchmarks.time_to_quality import contest, judging, nanochat_side, text

ROOT = Path(__file__).parents[2]
VOCABULARY = 64
LENGTHS = (1, 7, 8, 9, 40, 123)


def bytes_as_tokens(piece: str) -> list[int]:
    return [1 + byte % (VOCABULARY - 1) for byte in piece.encode()]


def pieces() -> list[dict[str, str]]:
    return [{"kind": "even" if n % 2 == 0 else "odd", "name": str(n), "text": "x" * n} for n in LENGTHS]


def test_a_uniform_model_needs_log2_of_the_vocabulary_for_each_token_whatever_the_windows() -> None:
    for context in (4, 8, 64, 512):
        judged = judging.Judge(lambda t: torch.zeros(*t.shape, VOCABULARY), bytes_as_tokens, 0, context)
        found = judging.judge(judged, pieces())
        assert found["bits_per_byte"] == pytest.approx(math.log2(VOCABULARY), rel=1e-6)
        assert found["tokens_judged"] == found["bytes"] == sum(LENGTHS)
        assert found["standard_error"] == pytest.approx(0, abs=1e-6)
        assert found["by_kind"]["odd"]["bits_per_byte"] == pytest.approx(math.log2(VOCABULARY), rel=1e-6)


def test_every_token_is_judged_once_with_half_a_context_before_it() -> None:
    seen: list[int] = []
    context = 8

    def counting(tokens: torch.Tensor) -> torch.Tensor:
        """A model that is sure of nothing but of how many tokens it has seen: its nats give that number away."""
        assert tokens.shape[1] <= context
        logits = torch.zeros(*tokens.shape, 2)
        before = torch.arange(1, tokens.shape[1] + 1)
        logits[..., 1] = -torch.log(torch.expm1(before.double() / 10)).float()  # p(token 1) = exp(-before / 10)
        logits[..., 0] = (
            torch.log(-torch.expm1(-before.double() / 10)).float() - torch.log(torch.exp(-before.double() / 10)).float()
        )
        logits[..., 1] = 0
        return logits

    scorer = judging.Scorer(counting)
    scores = scorer.log_likelihood([[0] + [1] * 7, [0, 1, 1]])
    assert [len(each) for each in scores] == [7, 2]
    assert np.allclose(-scores[0] * 10, np.arange(1, 8), atol=1e-4)
    judged = judging.Judge(counting, lambda piece: [1] * len(piece), 0, context)
    found = judging.judge(judged, [{"kind": "a", "name": "", "text": "x" * 15}])
    seen = [1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7]
    assert found["bits_per_byte"] == pytest.approx(sum(seen) / 10 / math.log(2) / 15, rel=1e-4)


def test_padding_of_a_batch_changes_no_score() -> None:
    torch.manual_seed(0)
    table = torch.randn(VOCABULARY, VOCABULARY)
    together = judging.Scorer(lambda tokens: table[tokens])
    alone = judging.Scorer(lambda tokens: table[tokens], batch_tokens=1)
    sequences = [[0, 5, 9], [0, 3], [0, 1, 2, 3, 4]]
    for a, b in zip(together.log_likelihood(sequences), alone.log_likelihood(sequences), strict=True):
        assert np.allclose(a, b, atol=1e-6)


def test_rows_predict_each_token_of_the_stream_once_an_epoch(tmp_path: Path) -> None:
    texts = ["abc", "", "defghij" * 5]
    contest.TokenFile.make(tmp_path, iter(texts), lambda batch: [list(each.encode()) for each in batch], 0)
    tokens = contest.TokenFile.open(tmp_path)
    assert [bytes(tokens.document(n)[1:].tolist()).decode() for n in range(3)] == texts
    rows = contest.Rows(tokens, 6, seed=3)
    batches = rows.batches(rows.count)
    for _ in range(2):
        batch = next(batches)
        assert sorted(batch[:, 1:].flatten().tolist()) == sorted(tokens.ids[1 : 1 + 6 * rows.count].tolist())


def test_the_clock_begins_the_schedule_after_the_first_step_and_stops_before_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(contest.time, "time", lambda: now[0])
    clock = contest.Clock(100.0, 50.0)
    shares = []
    now[0] += 5  # imports
    while clock.another_step():
        shares.append(clock.share())
        now[0] += 15 if len(shares) == 1 else 4
    assert shares[:2] == [0.0, 0.0]
    assert shares[-1] == pytest.approx(24 / 30)
    assert 46 < clock.elapsed() <= 50


def test_books_are_cut_at_paragraphs_and_lose_their_headers() -> None:
    assert text.clean("# Title: A\n\n## Year: 1\n\n-------\n\nOnce. \n\nTwice.\n") == "Once.\n\nTwice."
    parts = list(text.cut("aaa\n\nbbb\n\ncccccccccccccc", 10))
    assert parts == ["aaa\n\nbbb", "cccccccccc", "cccc"]


def test_nanochat_s_schedules_end_where_its_script_s_end() -> None:
    settings = nanochat_side.Settings()
    assert nanochat_side.rate(0.0, 0, settings) == pytest.approx(1 / 40)
    assert nanochat_side.rate(0.3, 100, settings) == 1.0
    assert nanochat_side.rate(1.0, 1000, settings) == pytest.approx(0.05)
    assert nanochat_side.momentum(0.2, 500, settings) == pytest.approx(0.97)
    assert nanochat_side.momentum(1.0, 500, settings) == pytest.approx(0.90)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.time_to_quality", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def made_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prepare` makes, of words drawn at random: what can be learnt by heart, is."""
    folder = tmp_path_factory.mktemp("text")
    syllables = [a + b for a in "bdfglmnprst" for b in "aeiou"]
    words = [a + b for a in syllables for b in syllables[:8]]
    random = np.random.default_rng(0)
    rows = [
        {
            "kind": "book" if n % 2 else "lead",
            "name": str(n),
            "text": " ".join(words[n] for n in random.integers(len(words), size=300)),
        }
        for n in range(60)
    ]
    text.write_documents(folder / "documents", rows[:50])
    for name, part in (("train", rows[:50]), ("heldout", rows[50:56]), ("tuning", rows[56:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "text.json").write_text(json.dumps({"sha256": {"train": "0"}}))
    return folder


def test_contenders_run_in_their_time_and_stand_in_the_table(made_text: Path, tmp_path: Path) -> None:
    small = {
        "lmcraft": "--vocab 512 --compile off "
        + " ".join(f"--set {each}" for each in ("depth=1", "hidden_size=32", "context=64", "batch_tokens=512")),
        "nanogpt": "--vocab 512 --no-compile --depth 1 --width 64 --context 64 --batch 512",
    }
    for contender, settings in small.items():
        place = ["--text", str(made_text), "--out", str(tmp_path), "--budget", "15", "--threads", "1"]
        words = ["run", "--contender", contender, *place, *settings.split()]
        ran = run(*words)
        assert ran.returncode == 0, ran.stderr[-2000:]
        assert "bits per byte (SE" in ran.stdout
        assert "the row is there already" in run(*words).stdout
    for row in map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines()):
        assert row["seconds"] < 16 and row["steps"] > 5
        assert row["bits_per_byte"] < 8, "less than a byte takes"
        assert row["pieces"] == 6
    table = run("table", str(tmp_path)).stdout
    assert "| 15 | cold | lmcraft |" in table and "| 15 | cold | nanogpt |" in table


def test_a_folder_without_text_is_refused_with_a_sentence(tmp_path: Path) -> None:
    ran = run("run", "--contender", "nanogpt", "--text", str(tmp_path), "--out", str(tmp_path))
    assert ran.returncode == 2
    assert f"{tmp_path} has no text.json: make the text with `prepare`" in ran.stderr
    assert "Traceback" not in ran.stderr
