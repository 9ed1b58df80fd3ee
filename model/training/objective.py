"""Computes the loss of a batch with the weights of the run file."""

from collections.abc import Callable, Sequence

import torch

from model.training.losses import next_token_loss, rank_net_loss, soft_ranking_loss
from model.training.ranking_pass import PassOutput, TrainingPrompt
from model.training.run_file import LossSection


def batch_losses(output: PassOutput, prompts: Sequence[TrainingPrompt], section: LossSection) -> torch.Tensor:
    """Float32 (3,), means over the examples: the weighted total, the ranking loss, and the language loss, both unweighted."""
    rank = _RANKING_LOSSES[section.ranking]
    token_logits = torch.split(output.token_logits, [prompt.read_count for prompt in prompts])  # each (t, vocabulary)
    ranking = torch.stack(
        [rank(logits[: len(p.ranking)], p) for logits, p in zip(output.letter_logits, prompts, strict=True)]
    ).mean()
    language = torch.stack(
        [
            next_token_loss(logits, torch.tensor(prompt.answer_ids, device=logits.device))
            for logits, prompt in zip(token_logits, prompts, strict=True)
        ]
    ).mean()
    total = section.ranking_weight * ranking + section.language_weight * language
    return torch.stack([total, ranking, language])


_RANKING_LOSSES: dict[str, Callable[[torch.Tensor, TrainingPrompt], torch.Tensor]] = {
    "rank_net": lambda logits, prompt: rank_net_loss(logits, prompt.ranking),
    "soft_ranking": lambda logits, prompt: soft_ranking_loss(logits, prompt.ranking, prompt.relevant),
}
