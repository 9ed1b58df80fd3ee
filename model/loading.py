"""Loads a checkpoint into a `Reranker`: find it, plan how it runs on this device, read its weights, assemble the parts.

All decisions and cheap checks come before the weights are read.
"""

from dataclasses import dataclass
from pathlib import Path

from model.attention import AttentionKernel
from model.checkpoint import find_checkpoint, load_tokenizer, read_model_config
from model.compilation import choose_runner
from model.config import ModelConfig, RerankerConfig
from model.device import Compute, choose_compute, give_back_memory
from model.placement import Placement, choose_kernels, make_cache, max_window_cost, place, refuse_silent_cpu
from model.prompt import ChatTokenizer, PromptBuilder
from model.quantisation import quantise_layers
from model.qwen3_vl.network import Network
from model.qwen3_vl.weights import build_network, expected_shapes, load_network, parameter_count
from model.reranker import Reranker


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingPlan:
    """The decisions that are made before the weights are read."""

    config: RerankerConfig
    model_config: ModelConfig
    compute: Compute
    prompts: PromptBuilder
    placement: Placement
    vision_attention: AttentionKernel
    text_attention: AttentionKernel


def load_reranker(
    path_or_hub_id: str | Path, config: RerankerConfig | None = None, *, revision: str | None = None
) -> Reranker:
    """Load a folder, a hub id (`revision`: branch, tag or commit), or the bundled `demo`.

    Raises: CheckpointError, ConfigurationError.
    """
    config = config or RerankerConfig()
    compute = choose_compute(config.device, config.dtype)
    checkpoint = find_checkpoint(str(path_or_hub_id), revision=revision)
    model_config = read_model_config(checkpoint.folder)
    refuse_silent_cpu(compute, parameter_count(model_config))
    plan = plan_loading(config, model_config, compute, load_tokenizer(checkpoint.folder))
    network = load_network(
        checkpoint.folder,
        model_config,
        compute,
        quantise=plan.placement.quantise,
        head_rows=plan.prompts.letter_ids,
    )
    return assemble_reranker(plan, network, name=checkpoint.name, revision=checkpoint.revision)


def plan_loading(
    config: RerankerConfig, model_config: ModelConfig, compute: Compute, tokenizer: ChatTokenizer
) -> LoadingPlan:
    """Resolve every `auto` of the configuration.

    Raises: ConfigurationError; CheckpointError for a tokenizer that does not match the prompt.
    """
    prompts = PromptBuilder(
        tokenizer,
        image_token_id=model_config.image_token_id,
        vision_start_token_id=model_config.vision_start_token_id,
    )
    largest = max_window_cost(prompts, model_config, config.max_query_characters)
    placement = place(config, model_config, expected_shapes(build_network(model_config)), compute, largest)
    vision_attention, text_attention = choose_kernels(config, model_config, compute)
    return LoadingPlan(
        config=config,
        model_config=model_config,
        compute=compute,
        prompts=prompts,
        placement=placement,
        vision_attention=vision_attention,
        text_attention=text_attention,
    )


def assemble_reranker(plan: LoadingPlan, network: Network, *, name: str = "", revision: str | None = None) -> Reranker:
    """Build the reranker. An unquantised `network` is quantised in place as planned; its head may have all rows.

    Raises: ConfigurationError if the feature cache cannot be allocated.
    """
    placement, compute = plan.placement, plan.compute
    quantise_layers(network.model.language_model.layers, placement.quantise)
    give_back_memory(compute.device)
    return Reranker(
        config=plan.config,
        model_config=plan.model_config,
        compute=compute,
        network=network,
        letter_rows=network.head_weights(plan.prompts.letter_ids).float(),
        prompts=plan.prompts,
        vision_attention=plan.vision_attention,
        text_attention=plan.text_attention,
        run_vision_block=choose_runner(plan.config.compile, compute, "vision blocks"),
        run_decoder_layer=choose_runner(
            plan.config.compile, compute, "decoder layers", is_fp8=placement.quantise == "fp8"
        ),
        feature_cache=make_cache(plan.config, plan.model_config, compute, placement.memory),
        batch_limits=placement.batch,
        quantise=placement.quantise,
        quantise_reason=placement.quantise_reason,
        memory=placement.memory,
        name=name,
        revision=revision,
    )
