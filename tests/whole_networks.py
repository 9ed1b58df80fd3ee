"""Rerankers with the whole vocabulary head, which training and the published path need; others have the letters' rows alone."""

from pathlib import Path

from model import Reranker, RerankerConfig
from model.checkpoint import load_tokenizer, read_model_config
from model.device import choose_compute
from model.loading import assemble_reranker, plan_loading
from model.qwen3_vl.weights import load_network


def load_whole(folder: Path, config: RerankerConfig) -> Reranker:
    model_config, compute = read_model_config(folder), choose_compute(config.device, config.dtype)
    plan = plan_loading(config, model_config, compute, load_tokenizer(folder))
    return assemble_reranker(plan, load_network(folder, model_config, compute), name=str(folder))
