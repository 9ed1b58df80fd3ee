"""Checks of what runs on the device: attention, matrix products, the patch embedding, whole layers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.micro_checks.check import NEEDS_CUDA, ON_CARD, Sizes, attempt, milliseconds, tflops
from benchmarks.workloads import random_network, with_fewer_layers
from model.attention import AttentionWorkload, PackedAttention, make_kernel, time_attention
from model.attention_kernels import KERNELS, unavailable_reason
from model.compilation import RunLayer, choose_runner
from model.device import Compute, choose_compute, seconds_of

NEW_LENGTHS_FLAG = "--new-lengths"
"""Starts `time_new_lengths` in a process of its own: the variable below is read once, when a process first needs it."""

_AVOID_RECOMPILE = "TORCH_CUDNN_SDPA_AVOID_RECOMPILE"
_SUBPROCESS_SECONDS = 60
_FUSED_BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def check_attention(compute: Compute, sizes: Sizes) -> dict[str, Any]:
    """Each kernel, at pages of the vision tower and at prompts of the decoder, and what a length never seen before costs."""
    workloads = {
        **{f"vision, {count} pages": _vision_workload(sizes, count) for count in sizes.page_counts},
        **{f"text, {length} tokens": _text_workload(sizes, length) for length in sizes.sequence_lengths},
    }
    return {
        "tflop": {name: round(_attention_flop(workload) / 1e12, 6) for name, workload in workloads.items()},
        "packed_ms": {name: _time_kernels(workload, compute) for name, workload in workloads.items()},
        "dense_ms": {name: _time_backends(workload, compute) for name, workload in workloads.items()},
        "new_length_ms": _new_lengths_by_setting(compute),
    }


def _vision_workload(sizes: Sizes, page_count: int) -> AttentionWorkload:
    vision = sizes.model.vision
    return AttentionWorkload(
        heads=vision.num_heads,
        key_value_heads=vision.num_heads,
        head_dim=vision.head_dim,
        lengths=(sizes.page_patches,) * page_count,
        causal=False,
        is_fused=True,
    )


def _text_workload(sizes: Sizes, length: int) -> AttentionWorkload:
    text = sizes.model.text
    return AttentionWorkload(
        heads=text.num_attention_heads,
        key_value_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        lengths=(length,),
        causal=True,
    )


def _attention_flop(workload: AttentionWorkload) -> float:
    """Two products of every query with every key that it sees."""
    pairs = sum(length**2 for length in workload.lengths) / (2 if workload.causal else 1)
    return 4 * pairs * workload.heads * workload.head_dim


def _time_kernels(workload: AttentionWorkload, compute: Compute) -> dict[str, float | str]:
    """The project's own kernels, over packed sequences."""

    def measure(name: str) -> float:
        return time_attention(make_kernel(name), workload, compute) * 1000

    obstacles = {name: unavailable_reason(name, compute, workload.head_dim) for name in KERNELS}
    return {name: obstacle or attempt(partial(measure, name)) for name, obstacle in obstacles.items()}


def _time_backends(workload: AttentionWorkload, compute: Compute) -> dict[str, float | str]:
    """Each of SDPA's fused backends on a dense batch of equal sequences."""
    if compute.device.type == "cpu":
        return {name: NEEDS_CUDA for name in _FUSED_BACKENDS}
    return {
        name: attempt(partial(_time_backend, backend, workload, compute)) for name, backend in _FUSED_BACKENDS.items()
    }


def _time_backend(backend: SDPBackend, workload: AttentionWorkload, compute: Compute) -> float:
    q, k, v = _dense_inputs(workload, compute)
    with sdpa_kernel(backend):
        return milliseconds(lambda: _attend(q, k, v, workload.causal), compute)


def _dense_inputs(workload: AttentionWorkload, compute: Compute) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (sequences, heads, length, head_dim), k and v alike with their own number of heads."""
    shape = len(workload.lengths), workload.lengths[0], workload.head_dim
    q, k, v = (
        torch.randn(shape[0], shape[1], heads, shape[2], device=compute.device, dtype=compute.dtype).transpose(1, 2)
        for heads in (workload.heads, workload.key_value_heads, workload.key_value_heads)
    )
    return q, k, v


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])


def _new_lengths_by_setting(compute: Compute) -> dict[str, Any]:
    """cuDNN's plans, made anew for every length, and with lengths rounded up."""
    if compute.device.type == "cpu":
        return {"status": NEEDS_CUDA}
    return {setting: _time_new_lengths_elsewhere(setting) for setting in ("0", "1")}


def _time_new_lengths_elsewhere(avoid_recompile: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.micro_checks", NEW_LENGTHS_FLAG]
    environment = {**os.environ, _AVOID_RECOMPILE: avoid_recompile}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=_SUBPROCESS_SECONDS
        )
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        return f"failed: {error.stderr.strip().splitlines()[-1:]}"
    except subprocess.TimeoutExpired:
        return f"took over {_SUBPROCESS_SECONDS} s"


def time_new_lengths() -> dict[str, float]:
    """Milliseconds of the first and of a second call at each of four lengths, after one other length."""
    compute = choose_compute("cuda", "auto")
    times = {}
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        for length in (4000, 4001, 4100, 5000, 8001):
            workload = _text_workload(ON_CARD, length)
            q, k, v = _dense_inputs(workload, compute)
            for call in ("first", "second"):
                seconds = seconds_of(partial(_attend, q, k, v, causal=True), compute.device)
                times[f"{length}, {call}"] = round(seconds * 1000, 3)
    return times


def check_matrix_products(compute: Compute, sizes: Sizes) -> dict[str, Any]:
    """TFLOP/s of the towers' linear maps, by number of rows."""
    text, vision = sizes.model.text, sizes.model.vision
    attended = (text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    maps = {
        "text: q, k and v": (text.hidden_size, attended),
        "text: gate and up": (text.hidden_size, 2 * text.intermediate_size),
        "text: down": (text.intermediate_size, text.hidden_size),
        "vision: q, k and v": (vision.hidden_size, 3 * vision.hidden_size),
        "vision: first of the MLP": (vision.hidden_size, vision.intermediate_size),
    }
    return {
        "tflops": {
            f"{name}, {into} to {out}": {
                str(rows): attempt(partial(_product_rate, rows, into, out, compute)) for rows in sizes.sequence_lengths
            }
            for name, (into, out) in maps.items()
        }
    }


def _product_rate(rows: int, into: int, out: int, compute: Compute) -> float:
    x, weight = (torch.randn(n, into, device=compute.device, dtype=compute.dtype) for n in (rows, out))
    return tflops(2 * rows * into * out, milliseconds(lambda: F.linear(x, weight), compute))


def check_patch_embedding(compute: Compute, sizes: Sizes) -> dict[str, Any]:
    """The patch embedding as the convolution that the checkpoint names, and as the product that it is."""
    vision = sizes.model.vision
    kernel = (vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    convolution = nn.Conv3d(vision.in_channels, vision.hidden_size, kernel, stride=kernel)
    convolution.to(device=compute.device, dtype=compute.dtype)
    patches = torch.randn(
        sizes.page_patches * sizes.pages, vision.patch_values, device=compute.device, dtype=compute.dtype
    )
    cubes = patches.view(-1, vision.in_channels, *kernel)
    weight = convolution.weight.flatten(1)
    with torch.inference_mode():
        return {
            "convolution_ms": attempt(lambda: milliseconds(lambda: convolution(cubes), compute)),
            "product_ms": attempt(lambda: milliseconds(lambda: F.linear(patches, weight, convolution.bias), compute)),
        }


def check_compiled_layers(compute: Compute, sizes: Sizes) -> dict[str, Any]:
    """One layer of each tower as written and compiled, by number of tokens; the first compiled call includes the compiler."""
    network = random_network(with_fewer_layers(sizes.model, 1), compute)
    vision, text = sizes.model.vision, sizes.model.text
    towers: dict[str, tuple[nn.Module, int, int, bool]] = {
        "text": (network.model.language_model.layers[0], text.hidden_size, text.head_dim, True),
        "vision": (network.model.visual.blocks[0], vision.hidden_size, vision.head_dim, False),
    }
    return {tower: _time_layer(*parts, compute, sizes) for tower, parts in towers.items()}


def _time_layer(
    layer: nn.Module, width: int, head_dim: int, causal: bool, compute: Compute, sizes: Sizes
) -> dict[str, Any]:
    compiled, eager = (choose_runner(is_on, compute, "layer under test") for is_on in (True, False))
    calls = {tokens: _layer_call(layer, width, head_dim, causal, tokens, compute) for tokens in sizes.sequence_lengths}
    first = seconds_of(lambda: calls[sizes.sequence_lengths[0]](compiled), compute.device)
    return {
        "first_call_seconds": round(first, 2),
        "ms": {
            str(tokens): {
                "eager": attempt(partial(milliseconds, partial(call, eager), compute)),
                "compiled": attempt(partial(milliseconds, partial(call, compiled), compute)),
            }
            for tokens, call in calls.items()
        },
    }


def _layer_call(
    layer: nn.Module, width: int, head_dim: int, causal: bool, tokens: int, compute: Compute
) -> Callable[[RunLayer], torch.Tensor]:
    """Runs the layer on random states of one sequence."""
    name = "sdpa" if unavailable_reason("torch-varlen", compute, head_dim) else "torch-varlen"
    kernel = make_kernel(name)
    sequence = kernel.place(torch.tensor([0, tokens], dtype=torch.int32), tokens, compute.device)
    attend = PackedAttention(kernel=kernel, queries=sequence, keys=sequence, causal=causal)
    hidden = torch.randn(tokens, width, device=compute.device, dtype=compute.dtype)
    angles = torch.randn(
        tokens, head_dim, device=compute.device
    )  # float32 in the vision tower, the dtype in the decoder
    angles = angles.to(compute.dtype) if causal else angles
    cos, sin = angles.cos(), angles.sin()

    @torch.inference_mode()
    def call(run_layer: RunLayer) -> torch.Tensor:
        return run_layer(layer, hidden, cos, sin, attend)

    return call
