"""transformers' own Qwen3-VL as the oracle: the same weights, its own modules, one request at a time.

Pruning, which transformers does not have, is done from outside: its vision tower's features at the kept indices go through
its language model, at the positions of the full sequence.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from model import PreparedRequest, Reranker
from model.image_processor import to_patches
from model.sequence_packer import mrope_positions
from tests.sequences import expanded_ids, expanded_positions


def load_oracle(folder: Path, *, dtype: torch.dtype, device: torch.device) -> Qwen3VLForConditionalGeneration:
    """The checkpoint in transformers' own class."""
    oracle = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    torch.nn.Module.to(oracle, device)  # the class's own `to`, which only refuses quantised weights, has no usable type
    oracle.eval()
    return oracle


@torch.no_grad()
def oracle_logits(
    oracle: Qwen3VLForConditionalGeneration,
    reranker: Reranker,
    request: PreparedRequest,
    kept: Sequence[Sequence[int]] | None = None,
) -> list[float]:
    """Letter logits of a request; `kept` are the indices that each page keeps, None for all."""
    device = oracle.device
    token_ids, positions, is_kept = _sequence(reranker, request, kept)
    main, deepstack = _visual_features(oracle, reranker, request)
    is_visual = token_ids == reranker.model_config.image_token_id
    visual_kept = is_kept[is_visual].to(device)
    embeddings = oracle.model.language_model.embed_tokens(token_ids[is_kept].to(device))
    mask = is_visual[is_kept].to(device)
    embeddings[mask] = main[visual_kept].to(embeddings.dtype)
    hidden = oracle.model.language_model(
        inputs_embeds=embeddings[None],
        position_ids=positions[:, is_kept][:, None].to(device),
        visual_pos_masks=mask[None],
        deepstack_visual_embeds=[features[visual_kept] for features in deepstack],
        use_cache=False,
    ).last_hidden_state
    logits = oracle.lm_head(hidden[0, -1])
    return [logits[token_id].item() for token_id in reranker.prompts.letter_ids[: len(request.pages)]]


def _sequence(
    reranker: Reranker, request: PreparedRequest, kept: Sequence[Sequence[int]] | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids (S,), positions (3, S) and kept (S,) of the full sequence."""
    ids = torch.from_numpy(expanded_ids(request, reranker.model_config.image_token_id))
    text, visual = mrope_positions(request.prompt.segments, request.pages)
    positions = torch.from_numpy(expanded_positions(request, text, visual))
    is_kept = torch.ones(len(ids), dtype=torch.bool)
    if kept is not None:
        slots = (ids == reranker.model_config.image_token_id).nonzero().flatten()
        is_kept[slots] = False
        start = 0
        for page, indices in zip(request.pages, kept, strict=True):
            is_kept[slots[start + torch.tensor(list(indices))]] = True
            start += page.visual_token_count
    return ids, positions, is_kept


def _visual_features(
    oracle: Qwen3VLForConditionalGeneration, reranker: Reranker, request: PreparedRequest
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    image = reranker.model_config.image
    patches = torch.cat([to_patches(torch.from_numpy(page.pixels), image, oracle.dtype) for page in request.pages])
    grids = torch.tensor([[1, page.rows * 2, page.columns * 2] for page in request.pages])
    features = oracle.model.visual(patches.to(oracle.device), grids.to(oracle.device))
    return features.pooler_output, list(features.deepstack_features)
