"""Rerankers with the whole vocabulary head, which training and the published path need; others have the letters' rows alone."""

from dataclasses import replace
from pathlib import Path

from model import Reranker, RerankerConfig
from model.checkpoint import load_tokenizer, read_model_config
from model.device import choose_compute
from model.qwen3_vl.weights import load_network


def load_whole(folder: Path, config: RerankerConfig) -> Reranker:
    model_config, compute = read_model_config(folder), choose_compute(config.device, config.dtype)
    reranker = Reranker.assemble(
        config,
        model_config,
        compute,
        load_tokenizer(folder),
        lambda quantise, letter_ids: load_network(folder, model_config, compute),
    )
    return replace(reranker, name=str(folder))
