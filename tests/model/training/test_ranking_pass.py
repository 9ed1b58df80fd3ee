"""The pass with gradients against inference, against transformers, and against itself in other surroundings."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from model import ConfigurationError, Reranker, RerankerConfig
from model.checkpoint import load_tokenizer
from model.dataflow import PreparedRequest
from model.image_processor import to_patches
from model.training.examples import RankingExample
from model.training.ranking_pass import (
    PassOutput,
    PromptWriter,
    RankingPass,
    TrainingPrompt,
    run_layer_again,
    written_order,
)
from tests.conformance import CHECKPOINT
from tests.model.training.tiny import make_checkpoint, make_example
from tests.oracle import load_oracle
from tests.sequences import expanded_ids
from tests.whole_networks import load_whole

TOLERANCE = 1e-5  # float32, the same products in other shapes
ORACLE_TOLERANCE = 1e-4  # as in test_against_transformers
HALF_TOLERANCE = 0.05  # bfloat16 has 8 bits: of logits of about 1


def load(folder: Path) -> Reranker:
    config = RerankerConfig(device="cpu", dtype="float32", feature_cache_gpu_bytes=0, feature_cache_host_bytes=0)
    return load_whole(folder, config)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_reranker(tiny: Path) -> Reranker:
    """Loaded anew for every test: a pass makes its weights trainable."""
    return load(tiny)


def writer_for(reranker: Reranker, *, keep_ratio: float = 1.0) -> PromptWriter:
    return PromptWriter(reranker, load_tokenizer(Path(reranker.name)), keep_ratio=keep_ratio)


def noise(*sizes: tuple[int, int]) -> RankingExample:
    """Pages of random pixels, the first one relevant and ranked last."""
    generator = np.random.default_rng(7)
    pages = [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    return RankingExample(
        id="noise",
        query="revenue of the third quarter",
        pages=tuple(page.copy for page in pages),
        page_ids=tuple(map(str, range(len(pages)))),
        ranking=tuple(reversed(range(len(pages)))),
        relevant=frozenset({0}),
    )


EXAMPLES = (noise((64, 96), (96, 64), (64, 64)), noise((128, 64)), noise((64, 64), (96, 96)))


def loss_of(output: PassOutput) -> torch.Tensor:
    """Any function in which all logits have a part."""
    return (output.letter_logits[:, :2].sin().sum() + output.token_logits.sin().mean()).float()


def gradients_of(ranking_pass: torch.nn.Module, prompts: list[TrainingPrompt]) -> dict[str, torch.Tensor]:
    ranking_pass.zero_grad()
    loss_of(ranking_pass(prompts)).backward()
    return {name: p.grad.clone() for name, p in ranking_pass.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("keep_ratio", [1.0, 0.5])
def test_letter_logits_are_those_of_inference(tiny_reranker: Reranker, keep_ratio: float) -> None:
    requests = [
        tiny_reranker.prepare(example.query, [page() for page in example.pages], keep_ratio) for example in EXAMPLES
    ]
    scores = [answer.logits for answer in tiny_reranker.score(requests)]
    writer = writer_for(tiny_reranker, keep_ratio=keep_ratio)
    output = RankingPass(tiny_reranker)([writer.example(example) for example in EXAMPLES])
    for logits, expected in zip(output.letter_logits, scores, strict=True):
        assert logits[: len(expected)].tolist() == pytest.approx(expected, abs=TOLERANCE)


def test_a_question_alone_gives_the_bits_of_inference(tiny_reranker: Reranker) -> None:
    [example, *_] = EXAMPLES
    pages = [page() for page in example.pages]
    [answer] = tiny_reranker.score([tiny_reranker.prepare(example.query, pages, 1.0)])
    output = RankingPass(tiny_reranker)([writer_for(tiny_reranker).question(example.query, pages)])
    assert tuple(output.letter_logits[0, :3].tolist()) == answer.logits


def test_logits_of_the_written_answer_are_those_of_transformers() -> None:
    reranker = load(CHECKPOINT)
    example = noise((256, 288), (320, 256))
    prompt = writer_for(reranker).example(example)
    output = RankingPass(reranker)([prompt])
    expected = oracle_token_logits(reranker, prompt.request)[-prompt.read_count :]
    assert torch.allclose(output.token_logits, expected, atol=ORACLE_TOLERANCE)
    letters = list(reranker.prompts.letter_ids)
    assert torch.allclose(output.letter_logits[0], expected[0, letters], atol=ORACLE_TOLERANCE)


@torch.no_grad()
def oracle_token_logits(reranker: Reranker, request: PreparedRequest) -> torch.Tensor:
    """Logits (tokens, vocabulary) through transformers' one public forward, which makes positions of its own."""
    oracle = load_oracle(CHECKPOINT, dtype=torch.float32, device=torch.device("cpu"))
    ids = torch.from_numpy(expanded_ids(request, reranker.model_config.image_token_id))[None]
    image = reranker.model_config.image
    logits: torch.Tensor = oracle(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=torch.cat([to_patches(torch.from_numpy(p.pixels), image, oracle.dtype) for p in request.pages]),
        image_grid_thw=torch.tensor([[1, page.rows * 2, page.columns * 2] for page in request.pages]),
        mm_token_type_ids=(ids == reranker.model_config.image_token_id).int(),
        use_cache=False,
    ).logits[0]
    return logits


def test_an_answer_is_written_behind_the_opening_bracket_and_ends_the_turn(tiny_reranker: Reranker) -> None:
    tokenizer = load_tokenizer(Path(tiny_reranker.name))
    prompt = writer_for(tiny_reranker).example(EXAMPLES[0])  # ranked 2, 1, 0, with 0 relevant
    ids = list(prompt.answer_ids)
    assert tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False) == "A] > [C] > [B]<|im_end|>"
    letters = tiny_reranker.prompts.letter_ids
    assert [token_id for token_id in ids if token_id in letters[:3]] == [letters[0], letters[2], letters[1]]
    question = tiny_reranker.prompts.build(EXAMPLES[0].query, 3)
    assert prompt.request.prompt.segments[-1].tolist() == [*question.segments[-1].tolist(), *ids[:-1]]
    assert prompt.read_count == len(ids)


def test_the_first_relevant_page_is_written_first() -> None:
    assert written_order((3, 1, 0, 2), frozenset({0, 2})) == (0, 3, 1, 2)
    assert written_order((3, 1, 0, 2), frozenset({3})) == (3, 1, 0, 2)
    assert written_order((3, 1, 0, 2), frozenset()) == (3, 1, 0, 2)


def test_packing_changes_no_example(tiny_reranker: Reranker) -> None:
    ranking_pass, writer = RankingPass(tiny_reranker), writer_for(tiny_reranker, keep_ratio=0.5)
    prompts = [writer.example(example) for example in EXAMPLES]
    together = ranking_pass(prompts)
    alone = [ranking_pass([prompt]) for prompt in prompts]
    assert torch.allclose(together.letter_logits, torch.cat([o.letter_logits for o in alone]), atol=TOLERANCE)
    assert torch.allclose(together.token_logits, torch.cat([o.token_logits for o in alone]), atol=TOLERANCE)


def test_the_vision_tower_is_frozen_and_everything_else_learns(tiny_reranker: Reranker) -> None:
    ranking_pass = RankingPass(tiny_reranker)
    gradients = gradients_of(ranking_pass, [writer_for(tiny_reranker).example(e) for e in EXAMPLES])
    names = {name for name, _ in ranking_pass.named_parameters()}
    assert set(gradients) == {name for name in names if ".visual." not in name}
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("keep_ratio", [1.0, 0.5])
def test_gradients_reach_the_vision_tower_through_the_kept_tokens(tiny_reranker: Reranker, keep_ratio: float) -> None:
    ranking_pass = RankingPass(tiny_reranker, vision_is_trained=True)
    prompts = [writer_for(tiny_reranker, keep_ratio=keep_ratio).example(e) for e in EXAMPLES]
    gradients = gradients_of(ranking_pass, prompts)
    assert set(gradients) == {name for name, _ in ranking_pass.named_parameters()}
    assert gradients["network.model.visual.patch_embed.proj.weight"].any()
    assert gradients["network.model.visual.deepstack_merger_list.0.linear_fc1.weight"].any()


def test_gradients_are_the_slope_of_the_loss(tiny_reranker: Reranker) -> None:
    """Along the gradient of two weights, early and late, against the difference quotient."""
    ranking_pass = RankingPass(tiny_reranker, vision_is_trained=True)
    prompts = [writer_for(tiny_reranker).example(EXAMPLES[0])]
    gradients = gradients_of(ranking_pass, prompts)
    parameters = dict(ranking_pass.named_parameters())
    for name in (
        "network.model.visual.patch_embed.proj.weight",
        "network.model.language_model.layers.1.mlp.up_proj.weight",
    ):
        step = 1e-3 * gradients[name] / gradients[name].norm()
        with torch.no_grad():
            parameters[name].add_(step)
            above = loss_of(ranking_pass(prompts)).item()
            parameters[name].sub_(2 * step)
            below = loss_of(ranking_pass(prompts)).item()
            parameters[name].add_(step)
        assert (above - below) / 2e-3 == pytest.approx(gradients[name].norm().item(), rel=0.05)  # a quotient in float32


@pytest.mark.parametrize("vision_is_trained", [False, True])
def test_gradient_checkpointing_changes_no_bit(tiny_reranker: Reranker, vision_is_trained: bool) -> None:
    prompts = [writer_for(tiny_reranker, keep_ratio=0.5).example(e) for e in EXAMPLES]
    plain = gradients_of(RankingPass(tiny_reranker, vision_is_trained=vision_is_trained), prompts)
    again = RankingPass(tiny_reranker, vision_is_trained=vision_is_trained, run_layer=run_layer_again)
    computed_twice = gradients_of(again, prompts)
    assert plain.keys() == computed_twice.keys()
    assert all(torch.equal(computed_twice[name], gradient) for name, gradient in plain.items())


def test_autocast_gives_nearly_the_same_logits_and_letters_in_float32(tiny_reranker: Reranker) -> None:
    ranking_pass = RankingPass(tiny_reranker, vision_is_trained=True, run_layer=run_layer_again)
    prompts = [writer_for(tiny_reranker, keep_ratio=0.5).example(e) for e in EXAMPLES]
    exact = ranking_pass(prompts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = ranking_pass(prompts)
        loss = loss_of(half)
    loss.backward()
    assert (half.letter_logits.dtype, half.token_logits.dtype) == (torch.float32, torch.bfloat16)
    assert torch.allclose(half.letter_logits, exact.letter_logits, atol=HALF_TOLERANCE)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in ranking_pass.parameters())


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone: the wrappers do all that they do, with nobody to talk to."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_replicated_pass_has_the_same_gradients(tiny_reranker: Reranker, process_group: None) -> None:
    prompts = [writer_for(tiny_reranker).example(e) for e in EXAMPLES]
    plain = RankingPass(tiny_reranker, run_layer=run_layer_again)
    expected = gradients_of(plain, prompts)
    wrapped = gradients_of(DistributedDataParallel(plain), prompts)
    assert {name.removeprefix("module.") for name in wrapped} == expected.keys()
    assert all(torch.equal(wrapped[f"module.{name}"], gradient) for name, gradient in expected.items())


def test_a_sharded_pass_has_the_same_gradients(tiny_reranker: Reranker, process_group: None) -> None:
    """Sharded as accelerate does it: every module of `_no_split_modules`, then the whole."""
    prompts = [writer_for(tiny_reranker).example(e) for e in EXAMPLES]
    ranking_pass = RankingPass(tiny_reranker, run_layer=run_layer_again)
    expected = gradients_of(ranking_pass, prompts)
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    for module in list(ranking_pass.modules()):
        if type(module).__name__ in ranking_pass._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(ranking_pass, mesh=mesh)
    sharded = gradients_of(ranking_pass, prompts)
    assert sharded.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(sharded[name].full_tensor(), gradient, atol=TOLERANCE)  # type: ignore[attr-defined]


def test_a_reranker_that_remembers_features_is_refused(tiny_reranker: Reranker, tiny: Path) -> None:
    remembering = Reranker.from_checkpoint(tiny, RerankerConfig(device="cpu"))
    with pytest.raises(ConfigurationError, match="must not cache page features"):
        RankingPass(remembering)


def test_a_reranker_for_inference_alone_is_refused(tiny_reranker: Reranker) -> None:
    for_inference = Reranker.from_checkpoint(tiny_reranker.name, tiny_reranker.config)
    with pytest.raises(ConfigurationError, match="20 rows of the head"):
        RankingPass(for_inference)
    with pytest.raises(ConfigurationError, match="quantise 'int8'"):
        RankingPass(replace(tiny_reranker, quantise="int8"))


def test_a_single_page_without_an_order_is_an_example(tiny_reranker: Reranker) -> None:
    example = replace(make_example((20,)), relevant=frozenset())
    output = RankingPass(tiny_reranker)([writer_for(tiny_reranker).example(example)])
    assert output.token_logits.shape == (3, tiny_reranker.model_config.text.vocab_size)  # A, ], end
