from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))  # the benchmarks are no part of the package

from benchmarks.time_to_quality import contest, judging, nanochat_side, text

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
