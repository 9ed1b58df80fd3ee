"""The arms: ways from decoded pages and a query to letter logits, over the same weights.

R0 and R1 are the published path. A0 is ours with every lever off, and each arm after it adds one. An arm that a machine cannot
run is left out; one that changes nothing there says so.
"""

import copy
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.published_path import PublishedPath, published_path, published_path_without_faults
from benchmarks.stage_latency.own_path import (
    Answer,
    EverythingPath,
    LibraryPath,
    NeededPath,
    WarmPath,
    Work,
    library_path,
)
from benchmarks.workloads import make_reranker
from model import Observe, Reranker, RerankerConfig
from model.attention_kernels import unavailable_reason
from model.config import ModelConfig
from model.device import choose_compute
from model.quantisation import quantise_obstacle
from model.qwen3_vl.network import Network

REFERENCE = "R0"

Score = Callable[[Work, Observe], Answer]

_CACHED_PAGES = 24
_TOKENS_OF_LARGEST_PAGE = 1024
_THREADS_AT_MOST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to score."""

    adds: str  # what it does that the arm before does not
    score: Score
    is_exact: bool = True  # in float32 its logits are those of the reference
    is_warm: bool = False  # the pages have been seen before


def make_arms(network: Network, model_config: ModelConfig, config: RerankerConfig) -> dict[str, Arm]:
    """Every arm that this machine can run, by name, in order. `config`: device, dtype, and the kernels from A3 on."""
    make = partial(make_reranker, model_config=model_config, network=network)
    plain = _without_levers(config, model_config)
    compiled = replace(plain, compile=True)
    best = replace(compiled, attention=config.attention, vision_attention=config.vision_attention)
    warm = replace(best, feature_cache_gpu_bytes=_cache_bytes(config, model_config))
    if choose_compute(config.device, config.dtype).device.type == "cuda":
        make(best).warm_up()  # makes cuDNN's plans for the usual pages in this thread, as a service does when it starts
    threads = ThreadPoolExecutor(min(_THREADS_AT_MOST, os.cpu_count() or 1), thread_name_prefix="prepare")
    return {
        **_published_arms(make(plain)),
        **_arms_from_floats(make(plain), make(compiled), make(best)),
        **_arms_from_bytes(library_path(make(best), threads), library_path(make(warm), threads)),
        **_arms_beside_a_card(warm, model_config, network, threads),
    }


def _published_arms(reranker: Reranker) -> dict[str, Arm]:
    return {
        REFERENCE: Arm(adds="the published path, re-created", score=_published(published_path(reranker))),
        "R1": Arm(
            adds="no token-by-token loop, no key/value cache, the head at the last position alone",
            score=_published(published_path_without_faults(reranker)),
        ),
    }


def _published(path: PublishedPath) -> Score:
    def score(work: Work, observe: Observe) -> Answer:
        answer = path.score(work.query, work.pages, work.keep_ratio, observe)
        return Answer(logits=answer.logits, kept=answer.kept)

    return score


def _arms_from_floats(plain: Reranker, compiled: Reranker, best: Reranker) -> dict[str, Arm]:
    """The pages cross to the device as float32 patches."""
    return {
        "A0": Arm(
            adds=f"our packed loop, {_kernels(plain)}, every lever off", score=EverythingPath(reranker=plain).score
        ),
        "A1": Arm(adds="no work that nobody reads", score=NeededPath(reranker=plain).score),
        "A2": Arm(adds="compiled layers", score=NeededPath(reranker=compiled).score),
        "A3": Arm(
            adds=f"the best attention: {_kernels(best)}"
            + (" (the same: no other runs here)" if _kernels(best) == _kernels(plain) else ""),
            score=NeededPath(reranker=best).score,
        ),
    }


def _arms_from_bytes(cold: LibraryPath, warm: LibraryPath) -> dict[str, Arm]:
    return {
        "A4": Arm(adds="pages as bytes, cut into patches on the device", score=cold.score),
        "A5": Arm(
            adds="pages seen before, features cached on the device", score=WarmPath(path=warm).score, is_warm=True
        ),
    }


def _arms_beside_a_card(
    warm: RerankerConfig, model_config: ModelConfig, network: Network, threads: Executor
) -> dict[str, Arm]:
    """A5 with its features in host memory instead, and A6: none on a CPU."""
    compute = choose_compute(warm.device, warm.dtype)
    if compute.device.type != "cuda":
        return {}
    on_host = replace(warm, feature_cache_gpu_bytes=0, feature_cache_host_bytes=warm.feature_cache_gpu_bytes)
    path = library_path(make_reranker(on_host, model_config, network), threads)
    arms = {
        "A5-host": Arm(adds="features cached in host memory instead", score=WarmPath(path=path).score, is_warm=True)
    }
    if quantise_obstacle("fp8", compute):
        return arms
    rounded = make_reranker(replace(warm, quantise="fp8"), model_config, _with_own_layers(network))
    score = WarmPath(path=library_path(rounded, threads)).score
    return arms | {
        "A6": Arm(
            adds="8-bit floats in the decoder (fp8: Ada, Hopper and newer cards; not exact)",
            score=score,
            is_exact=False,
            is_warm=True,
        )
    }


def _with_own_layers(network: Network) -> Network:
    """Modules of its own, which may be replaced, over the same weights."""
    return copy.deepcopy(network, memo={id(parameter): parameter for parameter in network.parameters()})


def _without_levers(config: RerankerConfig, model_config: ModelConfig) -> RerankerConfig:
    return replace(
        config,
        attention=_plain_kernel(config, model_config),
        vision_attention=None,
        compile=False,
        quantise="none",
        feature_cache_gpu_bytes=0,
        feature_cache_host_bytes=0,
    )


def _plain_kernel(config: RerankerConfig, model_config: ModelConfig) -> str:
    """torch's own kernel for packed sequences where it runs, which needs no other package."""
    compute = choose_compute(config.device, config.dtype)
    head_dims = (model_config.vision.head_dim, model_config.text.head_dim)
    runs = all(unavailable_reason("torch-varlen", compute, head_dim) is None for head_dim in head_dims)
    return "torch-varlen" if runs else "sdpa"


def _kernels(reranker: Reranker) -> str:
    return f"{reranker.vision_attention.name} for pages and {reranker.text_attention.name} for text"


def _cache_bytes(config: RerankerConfig, model_config: ModelConfig) -> int:
    """Enough for a window of the largest pages."""
    levels = 1 + len(model_config.vision.deepstack_visual_indexes)
    itemsize = choose_compute(config.device, config.dtype).dtype.itemsize
    return _CACHED_PAGES * _TOKENS_OF_LARGEST_PAGE * levels * model_config.vision.out_hidden_size * itemsize
