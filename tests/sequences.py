"""The full token sequence of a prepared request, image tokens expanded, as the published code builds it."""

import hashlib

import numpy as np

from model import PreparedRequest


def expanded_ids(request: PreparedRequest, image_token_id: int) -> np.ndarray:
    """int64 (tokens,)."""
    first, *others = request.prompt.segments
    pieces = [first]
    for page, segment in zip(request.pages, others, strict=True):
        pieces += [np.full(page.visual_token_count, image_token_id), segment]
    return np.concatenate(pieces)


def expanded_positions(request: PreparedRequest, text: np.ndarray, visual: np.ndarray) -> np.ndarray:
    """int64 (3, tokens) from the positions of text and of visual tokens."""
    is_visual = expanded_ids(request, image_token_id=-1) == -1
    positions = np.empty((3, len(is_visual)), dtype=np.int64)
    positions[:, ~is_visual] = text
    positions[:, is_visual] = visual
    return positions


def sha256_of(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<i8").tobytes()).hexdigest()
