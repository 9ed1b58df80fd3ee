"""Faults of a fake card and the places in the product where they occur."""

import contextlib
import sys
from pathlib import Path
from types import FrameType

import torch

_OTHERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), contextlib.__file__)
"""Files of torch, of the fake card and of `contextlib` are no places in the product."""


class CardFault(AssertionError):
    """What a card would have punished, with the operation and the line of the product."""


def product_frame() -> FrameType | None:
    """The innermost frame that is neither torch's nor the card's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OTHERS):
        frame = frame.f_back
    return frame


def place() -> str:
    """File, line and function of `product_frame`."""
    frame = product_frame()
    if frame is None:
        return "nowhere"
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno} in {frame.f_code.co_name}"
