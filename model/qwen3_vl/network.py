"""The trained parts under the checkpoint's names: `model.visual`, `model.language_model`, `lm_head`."""

from collections.abc import Sequence

import torch
from torch import nn

from model.config import ModelConfig
from model.qwen3_vl.language_model import LanguageModel
from model.qwen3_vl.vision_encoder import VisionEncoder


class Backbone(nn.Module):
    """The vision tower and the decoder, without the vocabulary head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.visual = VisionEncoder(config.vision)
        self.language_model = LanguageModel(config.text)


class Network(nn.Module):
    """All weights. It has no `forward`: the stages of the pipeline run its parts.

    With tied embeddings the head is the embedding table. Inference needs only the letters' rows of the head, so the others may
    be missing.
    """

    head_rows: tuple[int, ...] | None = None  # vocabulary ids of the head's rows; None: the whole vocabulary

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.language_model.embed_tokens.weight

    def head_weights(self, ids: Sequence[int]) -> torch.Tensor:
        """The head's rows (ids, D) for these vocabulary ids. Raises: ValueError for an id whose row is missing."""
        places = list(ids) if self.head_rows is None else [self.head_rows.index(id) for id in ids]
        return self.lm_head.weight[places]
