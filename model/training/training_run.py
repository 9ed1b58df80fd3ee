"""Assembles a training run: the model under accelerate, its optimiser, its examples and its folders.

Accelerate places, wraps, synchronises and saves the model; its configuration selects one GPU, several, or FSDP.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import ProjectConfiguration
from torch import nn

from model.checkpoint import find_checkpoint, load_tokenizer, read_model_config
from model.compilation import run_layer
from model.config import RerankerConfig
from model.device import Compute, choose_compute
from model.loading import assemble_reranker, plan_loading
from model.prompt import ChatTokenizer
from model.qwen3_vl.weights import load_network
from model.reranker import Reranker
from model.training import checkpoint_folder
from model.training.batches import BatchPlan, hold_out
from model.training.examples import RankingExample
from model.training.optimiser import make_optimiser
from model.training.ranking_pass import PromptWriter, RankingPass, run_layer_again
from model.training.run_file import RunConfig
from model.training.saved_state import Progress, save_state


def make_accelerator(config: RunConfig) -> Accelerator:
    """An accelerator with the precision, the gradient accumulation and the TensorBoard folder of the run file."""
    folder = config.training.log_folder
    return Accelerator(
        mixed_precision=config.training.precision,
        gradient_accumulation_steps=config.optimiser.accumulate_steps,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=folder, logging_dir=folder),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """The objects that all steps share."""

    stage: str
    config: RunConfig
    accelerator: Accelerator
    model: nn.Module  # a `RankingPass`, wrapped by accelerate
    optimiser: AcceleratedOptimizer
    writer: PromptWriter
    plan: BatchPlan
    examples: Sequence[RankingExample]
    held_out: Sequence[RankingExample]
    source: Path  # the folder of the initial checkpoint

    @property
    def states(self) -> Path:
        return Path(self.config.training.log_folder) / "states"

    @property
    def best_folder(self) -> Path:
        return Path(self.config.training.log_folder) / "best"

    def write_checkpoint(self, folder: Path) -> None:
        """Write the current weights as a checkpoint. All processes must call it, to gather the weights; the main one writes."""
        weights = self.accelerator.get_state_dict(self.model)
        if self.accelerator.is_main_process:
            names = {name.removeprefix("network."): tensor for name, tensor in weights.items()}
            checkpoint_folder.write(folder, names, source=self.source)
        self.accelerator.wait_for_everyone()

    def save(self, progress: Progress) -> Path:
        """Save a state to resume from, and return its folder."""
        keep = self.config.training.keep_checkpoints
        return save_state(self.accelerator, self.states, progress, settings=self.settings, keep=keep)

    @property
    def settings(self) -> dict[str, object]:
        """All settings, by name, that influence the steps. A saved state can only be resumed with equal ones."""
        sections = {name: getattr(self.config, name) for name in ("data", "loss", "optimiser")}
        chosen = {
            f"{name}.{key}": value for name, section in sections.items() for key, value in asdict(section).items()
        }
        training = asdict(self.config.training)
        return {
            "stage": self.stage,
            "model.checkpoint": self.config.model.checkpoint,
            "model.revision": self.config.model.revision,
            **chosen,
            **{f"training.{key}": training[key] for key in ("seed", "keep_ratio", "train_vision", "precision")},
            "examples": self.plan.example_count,
            "processes": self.plan.process_count,
        }


def assemble(
    stage: str, config: RunConfig, examples: Sequence[RankingExample], accelerator: Accelerator
) -> TrainingRun:
    """Load the checkpoint and build the run around it. Raises: TrainingError; RerankerError for the checkpoint."""
    learnt, held_out = hold_out(examples, config.data.held_out, seed=config.training.seed)
    source = find_checkpoint(config.model.checkpoint, revision=config.model.revision or None).folder
    tokenizer = load_tokenizer(source)
    reranker = _load_reranker(config, source, tokenizer, accelerator.device)
    network = RankingPass(
        reranker,
        vision_is_trained=config.training.train_vision,
        run_layer=run_layer_again if config.training.gradient_checkpointing else run_layer,
    )
    optimiser = make_optimiser(network.parameters(), config.optimiser, device=accelerator.device)
    model, optimiser = accelerator.prepare(network, optimiser)
    return TrainingRun(
        stage=stage,
        config=config,
        accelerator=accelerator,
        model=model,
        optimiser=optimiser,
        writer=PromptWriter(reranker, tokenizer, keep_ratio=config.training.keep_ratio),
        plan=_plan(config, len(learnt), accelerator.num_processes),
        examples=learnt,
        held_out=held_out,
        source=source,
    )


def _load_reranker(config: RunConfig, source: Path, tokenizer: ChatTokenizer, device: torch.device) -> Reranker:
    """A reranker with kernels for `device` and the precision, but float32 weights in host memory, for accelerate to move."""
    choice = RerankerConfig(
        device=str(device),
        dtype="bfloat16" if config.training.precision == "bf16" else "float32",
        keep_ratio=config.training.keep_ratio,
        quantise="none",
        feature_cache_gpu_bytes=0,
        feature_cache_host_bytes=0,
    )
    model_config = read_model_config(source)
    on_host = Compute(device=torch.device("cpu"), dtype=torch.float32, reason="accelerate places the weights")
    plan = plan_loading(choice, model_config, choose_compute(choice.device, choice.dtype), tokenizer)
    return assemble_reranker(plan, load_network(source, model_config, on_host))


def _plan(config: RunConfig, example_count: int, process_count: int) -> BatchPlan:
    return BatchPlan(
        example_count=example_count,
        seed=config.training.seed,
        epochs=config.optimiser.epochs,
        batch_size=config.optimiser.batch_size,
        accumulate_steps=config.optimiser.accumulate_steps,
        process_count=process_count,
    )
