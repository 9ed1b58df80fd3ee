"""The three trained parts under the checkpoint's names: `model.visual`, `model.language_model`, `lm_head`."""

from torch import nn

from model.config import ModelConfig
from model.language_model import LanguageModel
from model.vision_encoder import VisionEncoder


class Backbone(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.visual = VisionEncoder(config.vision)
        self.language_model = LanguageModel(config.text)


class Network(nn.Module):
    """Holds the weights; the stages run its parts. With tied embeddings the head is the embedding table."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.language_model.embed_tokens.weight
