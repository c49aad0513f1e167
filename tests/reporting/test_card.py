"""The model card is one that the hub reads, and says what is known and what is not."""

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from lmcraft.reporting.artifacts import read_artifact
from lmcraft.reporting.card import model_card


def card(artifacts, *, evaluation=True, documents=True, licence=None):
    return model_card(
        "small",
        "A model of rivers.",
        licence,
        read_artifact(artifacts["sft"]),
        read_artifact(artifacts["evaluate"]) if evaluation else None,
        [read_artifact(artifacts["curate"])] if documents else [],
    )


@pytest.fixture(scope="module")
def text(artifacts):
    return card(artifacts)


def test_metadata_is_what_the_hub_reads(text):
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["library_name"] == "transformers" and metadata["pipeline_tag"] == "text-generation"
    assert metadata["license"] == "cc-by-sa-4.0" and metadata["language"] == ["en", "fr"]
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "small" and len(results) == 4

    data = ModelCard(text).data
    assert data.license == "cc-by-sa-4.0" and len(data.eval_results) == 4
    first = data.eval_results[0]
    assert (first.task_type, first.dataset_type, first.metric_type) == (
        "text-generation",
        "held-out-text",
        "bits_per_byte",
    )
    assert first.metric_value == 2.0 and first.metric_args["n"] == 100 and first.metric_args["low_95"] == 1.8
    assert data.eval_results[1].dataset_config == "fr"
    again = ModelCard(str(ModelCard(text))).data
    assert [r.metric_value for r in again.eval_results] == [2.0, 3.9, 0.3, 0.1]


def test_sections_say_what_is_known(text):
    for heading in ("How to use it", "Training data", "Training procedure", "Results", "Limits", "Environment"):
        assert f"\n## {heading}\n" in text
    for expected in (
        "AutoModelForCausalLM.from_pretrained",
        "lmcraft chat",
        "| CC-BY-SA-4.0 | 40 | 4 kB |",
        'Of 50 documents, 40 were kept. Removed: 10 as "too short".',
        "Licence of this model: CC-BY-SA-4.0 (that of its training text).",
        "40 steps, 4k tokens, final loss 2.500 nats a token, 1.900 bits a byte on held-out text",
        "No better than its hardest baseline, on 1 of 3: topic",
        "| topic | exact match | 30% | 27% to 33% | 100 | 31% (some",
        "1 scores of models with known answers, all as known",
        "Energy and emissions: not measured",
    ):
        assert expected in text, expected


def test_text_from_data_stays_in_its_cell(text):
    assert "<script" not in text.split("---\n", 2)[2]
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert "\n\n\n" not in text


def test_what_is_not_known_is_said(artifacts):
    text = card(artifacts, evaluation=False, documents=False)
    assert "## Results\n\nNot measured." in text
    assert "see the run report" in text
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert "model-index" not in metadata
    # The licence is known from the source's settings alone.
    assert metadata["license"] == "cc-by-sa-4.0"


def test_a_chosen_licence_goes_first(artifacts):
    text = card(artifacts, licence="Apache-2.0")
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "apache-2.0"
    assert "Licence of this model: Apache-2.0." in text


def test_the_card_holds_no_times(artifacts, text):
    assert "2026-01-01" not in text and "a processor" not in text
