"""The fake card itself: how it counts memory and copies, and what its kernels refuse."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.fake_card import CardFault, FakeCard

MIB = 2**20


@pytest.fixture
def card() -> Iterator[FakeCard]:
    with FakeCard() as card:
        yield card


def on_card(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda:0")


def test_live_bytes_are_those_of_storages_not_of_views(card: FakeCard) -> None:
    x = on_card(1024, 512)
    assert card.live_bytes == MIB
    parts = [x[:10], x.T, x.view(-1), *x.split(256), x.flatten(0), x[None, :, 3]]
    assert card.live_bytes == MIB
    del x
    assert card.live_bytes == MIB
    del parts
    assert card.live_bytes == 0


def test_sizes_are_rounded_up_as_the_allocator_does(card: FakeCard) -> None:
    _kept = on_card(1), on_card(257)
    assert card.live_bytes == 512 + 1024


def test_the_peak_holds_what_lives_at_once(card: FakeCard) -> None:
    x = on_card(512, 1024)
    y = F.gelu(F.linear(x, on_card(4096, 1024), on_card(4096)))  # weight 8 MiB, bias 8 KiB, 4 MiB before and after
    assert card.peak_bytes == 13 * MIB + 8192
    assert card.live_bytes == 5 * MIB
    card.reset_peak()
    y = y + y  # the old one lives until the new one is there
    y += 1
    assert (card.peak_bytes, card.live_bytes) == (9 * MIB, 5 * MIB)


@pytest.mark.parametrize("is_inference", [False, True])
def test_composite_operations_are_taken_apart(card: FakeCard, is_inference: bool) -> None:
    with torch.inference_mode(is_inference):
        x = on_card(512, 1024)
        x.float().to(torch.float32).contiguous()  # one copy of 2 MiB
        assert card.peak_bytes == 3 * MIB
        card.reset_peak()
        F.normalize(x.float(), dim=-1)  # a copy, the lengths, the quotients
        assert card.peak_bytes == 5 * MIB + 2048


def test_a_norm_is_one_kernel(card: FakeCard) -> None:
    x, weight = on_card(512, 1024), on_card(1024)
    F.rms_norm(x, (1024,), weight, 1e-6)
    assert card.peak_bytes == 2 * MIB + 2048 + 2048  # rows in and out, the weight, float32 of each row


def test_attention_counts_its_output_and_the_sums_of_each_row(card: FakeCard) -> None:
    q, k, v = (on_card(1, 8, 1024, 64) for _ in range(3))  # 1 MiB each
    F.scaled_dot_product_attention(q, k, v)
    assert card.peak_bytes == 4 * MIB + 8 * 1024 * 4


def test_unfused_attention_counts_its_scores_and_its_float32_copies(card: FakeCard) -> None:
    q, k, v = on_card(1, 8, 1, 64), on_card(1, 2, 1024, 64), on_card(1, 2, 1024, 64)
    with sdpa_kernel(SDPBackend.MATH):
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert out.shape == q.shape and card.kernel_calls == {"sdpa unfused": 1}
    assert card.peak_bytes > 4 * MIB, "keys and values for 8 heads in float32"


def test_a_full_card_is_out_of_memory() -> None:
    with FakeCard(total_bytes=MIB), pytest.raises(torch.OutOfMemoryError):
        on_card(MIB)


def test_varlen_attention_has_the_signature_of_either_torch() -> None:
    q, k = (2048, 8, 64), (2048, 2, 64)
    with FakeCard(varlen="2.13"):
        from torch.nn.attention.varlen import varlen_attn

        boundaries = on_card(3, dtype=torch.int32)
        with pytest.raises(ValueError, match="enable_gqa"):
            varlen_attn(on_card(*q), on_card(*k), on_card(*k), boundaries, boundaries, 1024, 1024)
        out = varlen_attn(on_card(*q), on_card(*k), on_card(*k), boundaries, boundaries, 9, 9, enable_gqa=True)
        assert isinstance(out, torch.Tensor) and out.shape == q and out.is_contiguous()
    with FakeCard(varlen="2.11"):
        from torch.nn.attention.varlen import varlen_attn

        boundaries = on_card(3, dtype=torch.int32)
        out = varlen_attn(on_card(*q), on_card(*k), on_card(*k), boundaries, boundaries, 9, 9)
        assert isinstance(out, torch.Tensor) and out.shape == q
        with pytest.raises(TypeError, match="enable_gqa"):
            varlen_attn(on_card(*q), on_card(*k), on_card(*k), boundaries, boundaries, 9, 9, enable_gqa=True)


@pytest.mark.parametrize("generation", [2, 3])
def test_flash_attention_refuses_what_the_real_one_refuses(generation: int) -> None:
    with FakeCard(flash_attention=generation) as card:
        if generation == 2:
            from flash_attn import flash_attn_varlen_func as attend
        else:
            from flash_attn_interface import flash_attn_varlen_func as attend

        def call(
            *, head_dim: int = 64, dtype: torch.dtype = torch.bfloat16, heads: int = 2, integers: torch.dtype
        ) -> None:
            q, k = on_card(64, 8, head_dim, dtype=dtype), on_card(64, heads, head_dim, dtype=dtype)
            boundaries = on_card(3, dtype=integers)
            attend(q, k, k, boundaries, boundaries, 32, 32, softmax_scale=1.0, causal=True)

        call(integers=torch.int32)
        with pytest.raises(CardFault, match="Heads of 12"):
            call(head_dim=12, integers=torch.int32)
        with pytest.raises(CardFault, match=r"torch\.float16 in a tower of torch\.bfloat16"):
            call(dtype=torch.float16, integers=torch.int32)
        with pytest.raises(CardFault, match="8 heads cannot share 3"):
            call(heads=3, integers=torch.int32)
        with pytest.raises(CardFault, match="not a contiguous row of int32"):
            call(integers=torch.int64)
        assert len(card.faults) == 4


def test_a_card_leaves_torch_as_it_was() -> None:
    before = torch.Tensor.__getitem__, torch.Tensor.copy_, torch.cuda.is_available, F.rms_norm
    with FakeCard():
        assert torch.cuda.is_available()
    assert before == (torch.Tensor.__getitem__, torch.Tensor.copy_, torch.cuda.is_available, F.rms_norm)
    x = torch.arange(6).view(2, 3)
    assert x[:, [0, 2]].tolist() == [[0, 2], [3, 5]] and not x.is_pinned()


def test_host_tensors_are_real_beside_a_card(card: FakeCard) -> None:
    x = torch.arange(4.0)
    pinned = x.pin_memory()
    assert (x * 2).tolist() == [0, 2, 4, 6] and pinned.tolist() == x.tolist()
    assert pinned.is_pinned() and pinned[1:].is_pinned() and not x.is_pinned()
    sent = pinned.to("cuda:0", non_blocking=True)
    assert (sent.shape, sent.dtype, str(sent.device)) == ((4,), torch.float32, "cuda:0")
    assert (sent * torch.tensor(2.0)).shape == (4,), "a scalar may stay on the host"
    assert (card.uploads, card.live_bytes, card.faults) == (1, 512, [])


def test_a_pinned_buffer_may_be_written_again_after_an_event_behind_its_copy(card: FakeCard) -> None:
    buffer, early, late = torch.ones(4).pin_memory(), torch.cuda.Event(), torch.cuda.Event()
    early.record()
    buffer.to("cuda:0", non_blocking=True)
    late.record()
    early.synchronize()
    with pytest.raises(CardFault, match=r"written before .* complete .*test_fake_card.py:\d+ .*\(zero_, "):
        buffer.zero_()
    assert not late.query()
    late.synchronize()
    buffer.zero_()
    assert late.query() and len(card.waits) == 2


def test_indices_of_every_kind_have_the_shapes_of_torch(card: FakeCard) -> None:
    real, rows = torch.empty(4, 5, 6), torch.tensor([0, 2, 2])
    fake, fake_rows = on_card(4, 5, 6), on_card(3, dtype=torch.int64)
    for index, fake_index in [
        ((rows,), (fake_rows,)),
        ((slice(1, 3), rows), (slice(1, 3), fake_rows)),
        ((..., rows), (..., fake_rows)),
        ((1, None, ..., rows), (1, None, ..., fake_rows)),
        ((rows, rows), (fake_rows, fake_rows)),
    ]:
        assert fake[fake_index].shape == real[index].shape
    fake[fake_rows] = 1.0
    fake[1:3] = fake[:2]
    assert fake.permute(1, 0, 2).contiguous().stride() == real.permute(1, 0, 2).contiguous().stride()
    with card.waiting_allowed():
        assert fake[[0, 1]].shape == (2, 5, 6)
    with pytest.raises(CardFault, match="is an index"):
        fake[[0, 1]]


def test_tensors_are_what_they_were_when_the_card_is_gone() -> None:
    """A scalar tensor that looked like a sequence would break torch.tensor for every test that follows."""
    with FakeCard():
        torch.empty(3, device="cuda")[1:]
    assert torch.tensor([torch.tensor(-1), torch.tensor(2)]).tolist() == [-1, 2]
