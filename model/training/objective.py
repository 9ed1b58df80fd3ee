"""The losses of a batch, weighted as the run file says. Knows no formulas and no loop."""

from collections.abc import Callable, Sequence

import torch

from model.training.losses import next_token_loss, rank_net_loss, soft_ranking_loss
from model.training.ranking_pass import PassOutput, TrainingPrompt
from model.training.run_file import LossSection


def batch_losses(output: PassOutput, prompts: Sequence[TrainingPrompt], section: LossSection) -> torch.Tensor:
    """Float32 (3,): the weighted total, and its parts before weighting: ranking and language. Means over the examples."""
    rank = _RANKING_LOSSES[section.ranking]
    token_logits = torch.split(output.token_logits, [prompt.read_count for prompt in prompts])
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
