"""Makes every call that waits for the card an error, as `torch.cuda.set_sync_debug_mode` offers it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def waiting_is_an_error(stage: str) -> Iterator[None]:
    """An `observe` for `Reranker.score`.

    torch warns when the mode is first set, after setting it: the warning, which the tests turn into an error, must neither
    end the test nor leave the mode on for the tests that follow.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("default")
