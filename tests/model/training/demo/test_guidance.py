"""Where guided heads look, and what a layer gives when its heads look where they are told."""

import math

import pytest
import torch

from model.attention import PackedAttention, make_kernel
from model.config import TextConfig
from model.qwen3_vl.language_model import DecoderLayer
from model.training.demo.guidance import (
    AttentionTargets,
    Heads,
    LayerInput,
    attend_only_to,
    attention_loss,
    place_loss,
    to_places,
)

WIDTH, HEADS, KEY_HEADS, HEAD_DIM = 16, 4, 2, 8
LENGTHS = [1, 1, 3]
STARTS = torch.tensor([0, 1, 2, 2, 2])


@pytest.fixture
def given() -> LayerInput:
    """A layer of random weights over three sequences of one, one and three tokens, not turned."""
    torch.manual_seed(0)
    layer = DecoderLayer(
        TextConfig(
            vocab_size=8,
            hidden_size=WIDTH,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_HEADS,
            head_dim=HEAD_DIM,
            rms_norm_eps=1e-6,
            rope_theta=10_000.0,
            mrope_section=(2, 1, 1),
        )
    )
    tokens = sum(LENGTHS)
    return LayerInput(
        layer=layer,
        hidden=torch.randn(tokens, WIDTH),
        cos=torch.ones(tokens, HEAD_DIM),
        sin=torch.zeros(tokens, HEAD_DIM),
    )


def run_layer(given: LayerInput) -> torch.Tensor:
    kernel = make_kernel("sdpa")
    bounds = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
    sequences = kernel.place(bounds, max(LENGTHS), given.hidden.device)
    attend = PackedAttention(kernel=kernel, queries=sequences, keys=sequences, causal=True)
    out: torch.Tensor = given.layer(given.hidden, given.cos, given.sin, attend)
    return out


def test_a_token_that_sees_itself_alone_gives_what_the_layer_gives(given: LayerInput) -> None:
    alone = torch.tensor([0, 1, 2])  # the first token of every sequence
    assert torch.allclose(attend_only_to(given, alone, alone), run_layer(given)[alone], atol=1e-6)


def test_what_a_token_looks_at_decides_what_it_gives(given: LayerInput) -> None:
    last = torch.tensor([4, 4])
    there, elsewhere = attend_only_to(given, last, torch.tensor([2, 3]))
    assert not torch.allclose(there, elsewhere, atol=1e-3)


@pytest.mark.parametrize("heads", [Heads.ALL, Heads.FIRST, Heads.SECOND])
def test_the_loss_is_the_mean_cross_entropy_of_the_guided_heads(given: LayerInput, heads: Heads) -> None:
    """Worked out head by head: the last token of the last sequence shall look at that sequence's second."""
    wanted = AttentionTargets(slots=torch.tensor([4]), is_target=torch.arange(5)[None] == 3, heads=heads)
    attention = given.layer.self_attn
    normalised = given.layer.input_layernorm(given.hidden)
    keys, _ = attention.keys_and_values(normalised, given.cos, given.sin)
    queries = attention.queries(normalised, given.cos, given.sin)
    guided = {Heads.ALL: (0, 1, 2, 3), Heads.FIRST: (0, 2), Heads.SECOND: (1, 3)}[heads]
    losses = []
    for head in guided:
        scores = [(queries[4, head] @ keys[seen, head // 2]).item() / math.sqrt(HEAD_DIM) for seen in (2, 3, 4)]
        losses.append(math.log(sum(map(math.exp, scores))) - scores[1])
    loss, _ = attention_loss(given, wanted, STARTS)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_it_tells_whether_the_target_is_looked_at_most(given: LayerInput) -> None:
    found = [
        attention_loss(given, to_places(torch.tensor([4]), torch.tensor([place]), 5), STARTS)[1] for place in (2, 3, 4)
    ]
    assert sorted(found) == [0.0, 0.0, 1.0]


def test_places_are_told_by_the_shares_of_two_heads(given: LayerInput) -> None:
    """The last token, at place 5 of at most 20, divides its attention between the token before it and its prompt's first."""
    attention = given.layer.self_attn
    normalised = given.layer.input_layernorm(given.hidden)
    keys, _ = attention.keys_and_values(normalised, given.cos, given.sin)
    queries = attention.queries(normalised, given.cos, given.sin)
    losses, errors = [], []
    for head, wave in ((1, math.cos), (3, math.sin)):
        wanted = 1 / (1 + math.exp(-3 * wave(5 * 2 * math.pi / 22)))
        scores = [(queries[4, head] @ keys[seen, head // 2]).item() / math.sqrt(HEAD_DIM) for seen in (2, 3, 4)]
        to_first, to_anchor, _ = [score - math.log(sum(map(math.exp, scores))) for score in scores]
        losses.append(-wanted * to_anchor - (1 - wanted) * to_first)
        errors.append(abs(math.exp(to_anchor) - wanted))
    loss, error = place_loss(given, torch.tensor([4]), torch.tensor([5]), torch.tensor([3]), STARTS)
    assert loss.item() == pytest.approx(sum(losses) / 2, abs=1e-5)
    assert error == pytest.approx(sum(errors) / 2, abs=1e-5)
