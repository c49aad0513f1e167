"""The one list that binds a stage's name to its room. A stage's module is imported when it is first asked for.

So a recipe that only curates does not wait for torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from lmcraft.recipe.stage import Stage

_MODULES = {
    "collect": "corpus.collect",
    "curate": "corpus.curate",
    "classifier": "corpus.classifier",
    "ngrams": "corpus.ngrams",
    "index": "corpus.index",
    "mixture": "training.mixture",
    "tokenizer": "tokens.train",
    "tokens": "tokens.pack",
    "import": "model.importing",
    "pretrain": "training.pretrain",
    "conversations": "posttraining.conversations",
    "sft": "posttraining.sft",
    "evaluate": "evaluation.stage",
    "score": "evaluation.document_scores",
    "export": "reporting.export",
    "data-card": "reporting.data_card",
    "report": "reporting.report",
}


class _Stages(Mapping[str, Stage]):
    def __getitem__(self, name: str) -> Stage:
        stage = import_module(f"lmcraft.{_MODULES[name]}").STAGE
        assert stage.name == name
        return stage

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


STAGES: Mapping[str, Stage] = _Stages()
