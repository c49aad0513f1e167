"""The one list that binds a stage's name to its room."""

from __future__ import annotations

from lmcraft.corpus.classifier import STAGE as CLASSIFIER
from lmcraft.corpus.collect import STAGE as COLLECT
from lmcraft.corpus.curate import STAGE as CURATE
from lmcraft.corpus.index import STAGE as INDEX
from lmcraft.corpus.ngrams import STAGE as NGRAMS
from lmcraft.evaluation.document_scores import STAGE as SCORE
from lmcraft.evaluation.stage import STAGE as EVALUATE
from lmcraft.posttraining.conversations import STAGE as CONVERSATIONS
from lmcraft.posttraining.sft import STAGE as SFT
from lmcraft.recipe.stage import Stage
from lmcraft.reporting.data_card import STAGE as DATA_CARD
from lmcraft.reporting.export import STAGE as EXPORT
from lmcraft.reporting.report import STAGE as REPORT
from lmcraft.tokens.pack import STAGE as TOKENS
from lmcraft.tokens.train import STAGE as TOKENIZER
from lmcraft.training.mixture import STAGE as MIXTURE
from lmcraft.training.pretrain import STAGE as PRETRAIN

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        COLLECT,
        CURATE,
        CLASSIFIER,
        NGRAMS,
        INDEX,
        MIXTURE,
        TOKENIZER,
        TOKENS,
        PRETRAIN,
        CONVERSATIONS,
        SFT,
        EVALUATE,
        SCORE,
        EXPORT,
        DATA_CARD,
        REPORT,
    )
}
