"""Runs a stage of training, from the run file to a checkpoint folder that the service can load.

A step depends only on the seed, its number and the weights, so a resumed run takes the same steps as an uninterrupted one.
Ctrl-C finishes the current step, saves the state, and stops. Distribution over GPUs is left to accelerate.
"""

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch import nn
from tqdm import tqdm

from model.dataflow import Ranking
from model.ranking import order_by_score, softmax
from model.training import checkpoint_folder
from model.training.batches import Visit, computed_ahead, shuffle_candidates
from model.training.datasets import read_examples
from model.training.errors import TrainingError
from model.training.evaluation import CUTOFFS, rank, recalls
from model.training.examples import RankingExample
from model.training.objective import batch_losses
from model.training.optimiser import learning_rate_at
from model.training.ranking_pass import PassOutput, PromptWriter, TrainingPrompt
from model.training.run_file import RunConfig, read_run_file
from model.training.saved_state import Progress, find_state, load_state
from model.training.training_run import TrainingRun, assemble, make_accelerator

PREPARE_THREADS = 4
PREPARED_STEPS_AHEAD = 2

logger = logging.getLogger(__name__)


def run_stage(stage: str, run_file: Path, overrides: Sequence[str] = ()) -> None:
    """Train `stage1` or `stage2` with the settings of `run_file` and `overrides` (each `section.key=value`).

    Raises: TrainingError; RerankerError for the checkpoint; KeyboardInterrupt after Ctrl-C, once the state is saved.
    """
    config = read_run_file(stage, Path(run_file), overrides)
    checkpoint_folder.check_target(Path(config.model.output))
    train(stage, config, read_examples(config.data))


def train(stage: str, config: RunConfig, examples: Sequence[RankingExample]) -> None:
    """Train on `examples` without the held-out ones, and write the checkpoint to `model.output`. Raises: as `run_stage`."""
    accelerator = make_accelerator(config)
    set_seed(config.training.seed)
    run = assemble(stage, config, examples, accelerator)
    progress = _start(run)
    with _stopping_gently(accelerator):
        progress = _take_steps(run, progress)
    run.write_checkpoint(Path(config.model.output))
    accelerator.end_training()
    best = f", the best by evaluation in {run.best_folder}" if progress.best else ""
    logger.info("%s is done after %d steps: the checkpoint is in %s%s", stage, progress.step, config.model.output, best)


def _start(run: TrainingRun) -> Progress:
    """Load the saved state to resume from, if there is one, and start the logs."""
    state = find_state(run.config.training.resume, run.states)
    progress = load_state(run.accelerator, state, settings=run.settings) if state else Progress()
    if run.accelerator.is_main_process:
        run.states.mkdir(parents=True, exist_ok=True)
        settings = json.dumps({"stage": run.stage, **asdict(run.config)}, indent=1)
        (run.states.parent / "run.json").write_text(settings + "\n", encoding="utf-8")
    # Discard the log entries that an interrupted run made after its last saved state.
    run.accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": progress.step + 1}})
    return progress


@contextmanager
def _stopping_gently(accelerator: Accelerator) -> Iterator[None]:
    """The first Ctrl-C sets the accelerator's trigger, which stops the run after the step; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(signal_number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        accelerator.set_trigger()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _take_steps(run: TrainingRun, progress: Progress) -> Progress:
    """Take all remaining steps, each with the evaluation and saving that are due after it."""
    if progress.step == 0 and _evaluates(run):
        _log_evaluation(run, 0)
    passes_by_step = computed_ahead(
        lambda step: _prepare(run, step),
        range(progress.step, run.plan.step_count),
        threads=PREPARE_THREADS,
        ahead=PREPARED_STEPS_AHEAD,
    )
    with closing(passes_by_step), _progress_bar(run, progress) as bar:
        started = time.monotonic()
        for passes in passes_by_step:
            values = _take_step(run, progress.step + 1, passes)
            progress = replace(progress, step=progress.step + 1)
            values["examples_per_second"] = run.plan.examples_a_step / (time.monotonic() - started)
            run.accelerator.log(values, step=progress.step)
            bar.update()
            bar.set_postfix_str(f"loss {values['loss/total']:.4g}")
            progress = _after_step(run, progress)
            started = time.monotonic()
    return progress


def _evaluates(run: TrainingRun) -> bool:
    return bool(run.held_out) and run.config.training.evaluate_every > 0


def _progress_bar(run: TrainingRun, progress: Progress) -> "tqdm[None]":
    return tqdm(
        total=run.plan.step_count,
        initial=progress.step,
        desc=run.stage,
        unit="step",
        disable=not run.accelerator.is_main_process,
    )


def _prepare(run: TrainingRun, step: int) -> list[list[TrainingPrompt]]:
    """The prompts for this process, by pass. Runs on the CPU in a preparation thread."""
    passes = run.plan.passes(step, run.accelerator.process_index)
    return [[run.writer.example(_visited(run, visit)) for visit in visits] for visits in passes]


def _visited(run: TrainingRun, visit: Visit) -> RankingExample:
    example = run.examples[visit.index]
    if run.config.data.shuffle_candidates:
        return shuffle_candidates(example, visit, seed=run.config.training.seed)
    return example


def _take_step(run: TrainingRun, step: int, passes: Sequence[Sequence[TrainingPrompt]]) -> dict[str, float]:
    """Take one step of the optimiser and return the values to log. Raises: TrainingError for a loss that is not finite."""
    section, accelerator = run.config.optimiser, run.accelerator
    rate = learning_rate_at(step, section, step_count=run.plan.step_count)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    losses = torch.stack([_take_pass(run, prompts) for prompts in passes]).mean(dim=0)  # (3,)
    gradient_norm = float(accelerator.clip_grad_norm_(run.model.parameters(), section.clip_norm or math.inf))
    total, ranking, language = accelerator.reduce(losses, "mean").tolist()
    if not math.isfinite(total) or not math.isfinite(gradient_norm):
        raise TrainingError(
            f"Step {step}: the loss is {total} and its gradient's norm {gradient_norm}; both must be finite. "
            "Lower optimiser.learning_rate, or set optimiser.clip_norm (1.0, say), and start again from the last state."
        )
    run.optimiser.step()
    run.optimiser.zero_grad()
    return {
        "loss/total": total,
        "loss/ranking": ranking,
        "loss/language": language,
        "gradient_norm": gradient_norm,
        "learning_rate": rate,
    }


def _take_pass(run: TrainingRun, prompts: Sequence[TrainingPrompt]) -> torch.Tensor:
    """Run forward and backward for one batch. Returns the losses, float32 (3,): total, ranking, language."""
    with run.accelerator.accumulate(run.model):
        losses = batch_losses(run.model(prompts), prompts, run.config.loss)
        run.accelerator.backward(losses[0])
    return losses.detach()


def _after_step(run: TrainingRun, progress: Progress) -> Progress:
    """Evaluate, save or stop if that is due after this step. Raises: KeyboardInterrupt."""
    settings, is_last = run.config.training, progress.step == run.plan.step_count
    if _evaluates(run) and (is_last or progress.step % settings.evaluate_every == 0):
        progress = _keep_best(run, progress, _log_evaluation(run, progress.step))
    is_interrupted = run.accelerator.check_trigger()
    if is_interrupted or (settings.save_every and progress.step % settings.save_every == 0):
        state = run.save(progress)
    if is_interrupted:
        run.accelerator.end_training()
        logger.info("stopped after step %d; start the run again to resume from %s", progress.step, state)
        raise KeyboardInterrupt(f"Stopped after step {progress.step}.")
    return progress


def _keep_best(run: TrainingRun, progress: Progress, recall: tuple[float, ...]) -> Progress:
    """Write the checkpoint if it is the best so far: compared by recall@1, then recall@3, and so on."""
    if recall <= progress.best:
        return progress
    run.write_checkpoint(run.best_folder)
    return replace(progress, best=recall)


def _log_evaluation(run: TrainingRun, step: int) -> tuple[float, ...]:
    """Evaluate on the held-out examples, and log and return the recall for each of `CUTOFFS`."""
    recall = _evaluate(run)
    run.accelerator.log({f"evaluation/recall@{k}": value for k, value in zip(CUTOFFS, recall, strict=True)}, step=step)
    return recall


def _evaluate(run: TrainingRun) -> tuple[float, ...]:
    """Recall for each of `CUTOFFS`, with the held-out examples divided among the processes.

    All processes must call the wrapped model equally often, so a process without an example left ranks one without counting it.
    """
    processes, count = run.accelerator.num_processes, len(run.held_out)
    ranker = _TrainedRanker(model=run.model, writer=run.writer)
    totals = torch.zeros(len(CUTOFFS) + 1, device=run.accelerator.device)  # sums by cutoff, then the number of examples
    for first in range(0, count, processes):
        place = first + run.accelerator.process_index
        example = run.held_out[place % count]
        found = recalls(rank(ranker, example), example)
        if place < count:
            totals += torch.tensor([*found.values(), 1.0], device=totals.device)
    *sums, counted = run.accelerator.reduce(totals, "sum").tolist()
    return tuple(total / counted for total in sums)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrainedRanker:
    """The network in training as a `PageRanker` for `evaluation`."""

    model: nn.Module
    writer: PromptWriter

    @torch.no_grad()
    def rank(self, query: str, images: Sequence[Image.Image], /) -> Ranking:
        output: PassOutput = self.model([self.writer.question(query, images)])
        logits = tuple(output.letter_logits[0, : len(images)].tolist())
        return Ranking(order=order_by_score(logits), logits=logits, scores=softmax(logits), windows=())
