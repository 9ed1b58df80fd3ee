import numpy as np
import torch

from model import PreparedPage, PreparedRequest
from model.dataflow import Prompt, VisualTokens
from model.sequence_packer import mrope_positions, pack_sequences, plan_packing


def page(rows: int, columns: int) -> PreparedPage:
    return PreparedPage(
        pixels=np.zeros((rows * 32, columns * 32, 3), np.uint8), rows=rows, columns=columns, content_hash=b""
    )


def request(segments: list[list[int]], pages: list[PreparedPage], kept: list[int]) -> PreparedRequest:
    prompt = Prompt(segments=tuple(np.array(segment, dtype=np.int64) for segment in segments), context_length=1)
    return PreparedRequest(prompt=prompt, pages=tuple(pages), kept_counts=tuple(kept), patch_count=0)


def test_text_advances_and_a_page_spans_rows_and_columns() -> None:
    text, visual = mrope_positions([np.array([7, 7]), np.array([7])], [page(2, 3)])
    assert text.tolist() == [[0, 1, 5], [0, 1, 5], [0, 1, 5]]  # the page takes max(2, 3) positions from 2
    assert visual.tolist() == [[2, 2, 2, 2, 2, 2], [2, 2, 2, 3, 3, 3], [2, 3, 4, 2, 3, 4]]


def test_packing_interleaves_text_and_kept_tokens_of_two_requests() -> None:
    requests = [
        request([[10, 11], [12]], [page(1, 3)], [2]),
        request([[20], [21], [22, 23]], [page(1, 2), page(2, 1)], [1, 2]),
    ]
    plan = plan_packing(requests)
    text = plan.text_ids[:, None].float()  # each embedding is its id
    visual = torch.arange(100, 107)[:, None].float()
    kept = torch.tensor([0, 2, 4, 5, 6])
    packed = pack_sequences(text, VisualTokens(main=visual, deepstack=(visual + 100,)).gather(kept), kept, plan)
    assert packed.embeddings[:, 0].tolist() == [10, 11, 100, 102, 12, 20, 104, 21, 105, 106, 22, 23]
    assert packed.visual_slots.tolist() == [2, 3, 6, 8, 9]
    assert packed.deepstack[0][:, 0].tolist() == [200, 202, 204, 205, 206]
    assert packed.cu_seqlens.tolist() == [0, 5, 12] and packed.cu_seqlens.dtype == torch.int32
    assert packed.read_slots.tolist() == [4, 11]
    assert packed.max_seqlen == 7


def test_the_last_positions_of_each_prompt_are_read_one_unless_more_are_asked_for() -> None:
    requests = [request([[1], [2, 3]], [page(1, 2)], [2]), request([[1], [2]], [page(1, 1)], [1])]
    one, several = plan_packing(requests), plan_packing(requests, [3, 2])
    assert (one.read_slots.tolist(), one.read_cu_seqlens.tolist(), one.max_read_len) == ([4, 7], [0, 1, 2], 1)
    assert (several.read_slots.tolist(), several.read_cu_seqlens.tolist(), several.max_read_len) == (
        [2, 3, 4, 6, 7],
        [0, 3, 5],
        3,
    )
    assert several.read_cu_seqlens.dtype == torch.int32


def test_kept_tokens_keep_the_position_of_the_full_sequence() -> None:
    plan = plan_packing([request([[1], [2]], [page(2, 2)], [1])])
    kept_token = VisualTokens(main=torch.zeros(1, 1), deepstack=())
    packed = pack_sequences(torch.zeros(2, 1), kept_token, torch.tensor([3]), plan)
    assert packed.positions.tolist() == [[0, 1, 3], [0, 2, 3], [0, 2, 3]]
