"""The record of a page's kept visual tokens, without torch: the service hands it from the model to the answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTokens:
    """The visual tokens of one page that the decoder read."""

    rows: int  # of the page's visual tokens, from top to bottom
    columns: int
    mask: bytes  # rows x columns values, row by row: 1 for a kept token, 0 for a pruned one
