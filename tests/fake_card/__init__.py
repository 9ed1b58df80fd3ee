"""A card that needs no hardware: the product's CUDA path runs on tensors without values, and every operation is watched.

    with FakeCard(flash_attention=3) as card:
        with card.waiting_allowed():               # loading weights may wait
            reranker = assemble_reranker(plan, network)      # on cuda:0
        card.reset_peak()
        answers = reranker.start(requests).wait()
    assert card.downloads == 1 and card.waits == ["Event.synchronize, …"]
    card.peak_bytes                                # the most device memory that was held at once, weights included

Tensors on cuda:0 are torch's FakeTensors: shape, dtype, strides and storage, no values; what comes down from the card is zeros.
Host tensors are real. The thread that entered is watched, at the level below autograd, where composite operations have been
taken apart. What a card would punish raises `CardFault`, which names operation and line, and stays in `card.faults`:

- a host tensor among device tensors (scalars excepted), as an operand or as an index;
- waiting for the device: a value that the host reads, a shape that depends on values, a copy that blocks;
- a pinned buffer that is written, read or freed before the copy from or into it is known to be complete;
- a matrix product in another dtype than the tower's, and whatever an attention kernel refuses.

Bytes are counted as torch's allocator counts them, by storage in units of 512. Not counted: memory that a kernel takes while it
runs (workspaces of cuBLAS, 32 MiB on Hopper, and of sort), and the gaps between the allocator's blocks.
"""

from tests.fake_card.card import FakeCard
from tests.fake_card.faults import CardFault

__all__ = ["CardFault", "FakeCard"]
