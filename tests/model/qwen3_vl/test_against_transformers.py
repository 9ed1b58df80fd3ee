"""The library against transformers' own Qwen3-VL: the same random weights, two configurations, no pruning."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from model import PreparedRequest, Reranker, RerankerConfig
from model.checkpoint import read_model_config
from model.image_processor import to_patches
from model.qwen3_vl.weights import build_network, expected_shapes
from model.sequence_packer import mrope_positions
from tests.closeness import assert_bfloat16_is_close, keeping
from tests.conformance import CASES, CHECKPOINT, Case
from tests.oracle import load_oracle, oracle_logits
from tests.sequences import expanded_ids, expanded_positions

TOLERANCE = 1e-4  # float32 on both sides; measured: below 1e-5

WIDE_HEADS_FEW_LAYERS: dict[str, Any] = {
    # As many decoder layers as DeepStack features, heads of the published sizes, ungrouped heads.
    "text_config": {
        "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 3,
        "num_key_value_heads": 3, "head_dim": 128,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
    },
    "vision_config": {
        "depth": 5, "hidden_size": 144, "num_heads": 2, "intermediate_size": 200, "out_hidden_size": 96,
        "num_position_embeddings": 144, "deepstack_visual_indexes": [0, 2, 4],
    },
}  # fmt: skip
GROUPED_DEEP_TIED: dict[str, Any] = {
    # Grouped heads, more layers, a tied head, theta inside `rope_parameters` as newer configurations have it.
    "tie_word_embeddings": True,
    "text_config": {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 32, "rope_theta": None, "rope_scaling": None,
        "rope_parameters": {
            "mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default", "rope_theta": 10000.0,
        },
    },
    "vision_config": {
        "depth": 6, "hidden_size": 64, "num_heads": 4, "intermediate_size": 96, "out_hidden_size": 64,
        "num_position_embeddings": 400, "deepstack_visual_indexes": [1, 3],
    },
}  # fmt: skip


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict) and not key.startswith("rope"):
            result[key] = merged(result[key], value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


def make_checkpoint(folder: Path, changes: dict[str, Any], *, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """Random weights under transformers' own names in `folder`, and transformers' model that holds them."""
    for file in CHECKPOINT.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, folder)
    config = merged(json.loads((CHECKPOINT / "config.json").read_text()), changes)
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    oracle = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_pretrained(folder))
    oracle.eval()
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.normal_(std=0.1) if parameter.ndim > 1 else parameter.add_(torch.randn_like(parameter) * 0.1)
    tensors = {name: tensor.contiguous() for name, tensor in oracle.state_dict().items()}
    if config.get("tie_word_embeddings"):
        del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return oracle


def random_pages(*sizes: tuple[int, int]) -> list[np.ndarray]:
    generator = np.random.default_rng(7)
    return [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


@pytest.mark.parametrize("changes", [WIDE_HEADS_FEW_LAYERS, GROUPED_DEEP_TIED], ids=["wide-heads", "grouped-tied"])
def test_logits_agree_with_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    oracle = make_checkpoint(tmp_path, changes)
    reranker = Reranker.from_checkpoint(str(tmp_path), RerankerConfig(device="cpu", dtype="float32"))
    pages = random_pages((448, 320), (300, 700), (64, 64), (1024, 724))
    request = reranker.prepare("revenue of the third quarter", pages, 1.0)
    [answer] = reranker.score([request])
    assert answer.logits == pytest.approx(oracle_logits(oracle, reranker, request), abs=TOLERANCE)
    assert answer.logits == pytest.approx(whole_forward_logits(oracle, reranker, request), abs=TOLERANCE)


@torch.no_grad()
def whole_forward_logits(oracle: Qwen3VLForConditionalGeneration, reranker: Reranker, request: PreparedRequest) -> Any:
    """Letter logits through transformers' one public forward, positions left to it."""
    image_token_id = reranker.model_config.image_token_id
    ids = torch.from_numpy(expanded_ids(request, image_token_id))[None]
    image = reranker.model_config.image
    outputs = oracle(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=torch.cat([to_patches(torch.from_numpy(p.pixels), image, oracle.dtype) for p in request.pages]),
        image_grid_thw=torch.tensor([[1, page.rows * 2, page.columns * 2] for page in request.pages]),
        mm_token_type_ids=(ids == image_token_id).int(),
        use_cache=False,
    )
    return outputs.logits[0, -1, list(reranker.prompts.letter_ids[: len(request.pages)])].tolist()


@pytest.mark.parametrize("case", [case for case in CASES if case.kept], ids=lambda case: case.name)
def test_pruned_logits_agree_with_transformers_modules_at_the_same_indices(reranker: Reranker, case: Case) -> None:
    oracle = load_oracle(CHECKPOINT, dtype=torch.float32, device=torch.device("cpu"))
    assert_within_tolerance(reranker, oracle, case)


def assert_within_tolerance(reranker: Reranker, oracle: Qwen3VLForConditionalGeneration, case: Case) -> None:
    assert case.kept is not None
    request = reranker.prepare(case.query, case.pages(), case.keep_ratio)
    [answer] = keeping(reranker, case.kept).score([request])
    assert answer.logits == pytest.approx(oracle_logits(oracle, reranker, request, case.kept), abs=TOLERANCE)


@pytest.mark.parametrize("pruned", [False, True], ids=["r=1", "r<1"])
def test_bfloat16_is_as_close_to_float32_as_transformers_own_run(reranker: Reranker, pruned: bool) -> None:
    """At r < 1 with the float32 indices fed in, so that the dtype alone is compared."""
    half = Reranker.from_checkpoint(str(CHECKPOINT), RerankerConfig(device="cpu", dtype="bfloat16"))
    oracle = load_oracle(CHECKPOINT, dtype=torch.bfloat16, device=torch.device("cpu"))
    cases = [case for case in CASES if bool(case.kept) == pruned]
    assert_bfloat16_is_close(reranker, half, oracle, cases)


def test_our_positions_are_those_of_transformers(reranker: Reranker) -> None:
    config = Qwen3VLConfig.from_pretrained(CHECKPOINT)
    with torch.device("meta"):
        oracle = Qwen3VLForConditionalGeneration(config)
    request = reranker.prepare("a", random_pages((448, 320), (320, 640)), 1.0)
    ids = torch.from_numpy(expanded_ids(request, config.image_token_id))[None]
    grids = torch.tensor([[1, page.rows * 2, page.columns * 2] for page in request.pages])
    theirs, _ = oracle.model.get_rope_index(ids, (ids == config.image_token_id).int(), image_grid_thw=grids)
    text, visual = mrope_positions(request.prompt.segments, request.pages)
    assert np.array_equal(theirs[:, 0].numpy(), expanded_positions(request, text, visual))


def test_every_parameter_of_the_published_shape_has_the_name_and_shape_of_transformers(tmp_path: Path) -> None:
    config = json.loads((Path(__file__).parents[2] / "data" / "published_config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(CHECKPOINT / "preprocessor_config.json", tmp_path)
    ours = expected_shapes(build_network(read_model_config(tmp_path)))
    with torch.device("meta"):
        oracle = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_pretrained(tmp_path))
    theirs = {name: tuple(tensor.shape) for name, tensor in oracle.state_dict().items()}
    assert ours == theirs
    assert sum(np.prod(shape) for shape in ours.values()) == pytest.approx(8.767e9, rel=1e-3)
