"""Requests of a chosen size for the queue and the device thread."""

import numpy as np

from model import PreparedPage, PreparedRequest
from model.dataflow import Prompt


def request(tokens: int, patches: int = 4) -> PreparedRequest:
    page = PreparedPage(pixels=np.zeros((32, 32, 3), np.uint8), rows=1, columns=1, content_hash=b"")
    prompt = Prompt(segments=(np.zeros(tokens - 2, np.int64), np.zeros(1, np.int64)), context_length=1)
    prepared = PreparedRequest(prompt=prompt, pages=(page,), kept_counts=(1,), patch_count=patches)
    assert prepared.token_count == tokens
    return prepared
