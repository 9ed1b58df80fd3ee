"""Whole runs at a tiny size: stage 1 and stage 2 from files, stopped and resumed, torn, refused."""

import io
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model import Reranker, RerankerConfig
from model.training.batches import hold_out
from model.training.errors import DataError, RunFileError, TrainingError
from model.training.evaluation import evaluate
from model.training.examples import RankingExample
from model.training.loop import run_stage, train
from model.training.run_file import RunConfig, read_run_file
from service.cli import main
from tests.model.training.tiny import GREYS, grey_page, make_checkpoint, make_example

EXAMPLES = [make_example(greys, id=str(index)) for index, greys in enumerate(itertools.permutations(GREYS, 2))]
SHORT = [
    "data.held_out=0", "data.shuffle_candidates=true", "optimiser.name=adamw", "optimiser.learning_rate=1e-3",
    "optimiser.warmup_steps=2", "optimiser.batch_size=2", "optimiser.accumulate_steps=2", "training.precision=no",
    "training.evaluate_every=0", "training.save_every=0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def process_of_its_own() -> Iterator[None]:
    """Accelerate keeps a process's state: a test is a process's worth. Layers this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "checkpoint")
    return tmp_path


def short_run(folder: Path, name: str, *changes: str) -> RunConfig:
    """12 examples, 3 epochs of 3 steps, in folders called `name`."""
    run_file = folder / "run.toml"
    run_file.write_text("")
    places = [
        f"model.checkpoint={folder / 'checkpoint'}",
        f"model.output={folder / name}",
        f"training.log_folder={folder / f'{name}-log'}",
    ]
    return read_run_file("stage1", run_file, [*SHORT, *places, *changes])


def logged(log_folder: Path) -> dict[str, list[float]]:
    """Every series of a run's TensorBoard logs."""
    events = EventAccumulator(str(log_folder / "tensorboard"))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def states(folder: Path, name: str) -> list[str]:
    return sorted(state.name for state in (folder / f"{name}-log" / "states").iterdir())


def with_signal(examples: Sequence[RankingExample], *, at_page: int) -> list[RankingExample]:
    """The same examples; opening the page of that number, over all examples and epochs, presses Ctrl-C."""
    opened = itertools.count(1)

    def pressing(open_page: Callable[[], Image.Image]) -> Callable[[], Image.Image]:
        def open_and_press() -> Image.Image:
            if next(opened) == at_page:
                os.kill(os.getpid(), signal.SIGINT)
            return open_page()

        return open_and_press

    return [replace(example, pages=tuple(map(pressing, example.pages))) for example in examples]


def test_stage_1_then_stage_2_learn_to_rank_and_the_service_loads_the_result(folder: Path) -> None:
    optimiser = 'name = "adamw", learning_rate = 5e-3, warmup_steps = 2, batch_size = 6, accumulate_steps = 2'
    (folder / "stage1.toml").write_text(
        f"""
        model = {{ checkpoint = "{folder / "checkpoint"}", output = "{folder / "first"}" }}
        data = {{ files = ["{write_conversations(folder)}"], page_size = 64, held_out = 1 }}
        optimiser = {{ {optimiser}, epochs = 10 }}
        training = {{ precision = "no", evaluate_every = 4, log_folder = "{folder / "first-log"}" }}
        """
    )
    (folder / "stage2.toml").write_text(
        f"""
        model = {{ checkpoint = "{folder / "first"}", output = "{folder / "second"}" }}
        data = {{ files = ["{write_pages(folder)}"], rankings = "{write_rankings(folder)}", held_out = 0 }}
        loss = {{ ranking_weight = 10 }}
        optimiser = {{ {optimiser}, epochs = 100 }}
        training = {{ precision = "no", log_folder = "{folder / "second-log"}" }}
        """
    )
    assert main(["train", "stage1", str(folder / "stage1.toml")]) == 0
    assert main(["train", "stage2", str(folder / "stage2.toml")]) == 0
    first, second = logged(folder / "first-log"), logged(folder / "second-log")
    assert len(first["loss/total"]) == 10 and len(second["loss/total"]) == 100
    # The ranking part stays near 0.18 here whatever the random weights, for 40 epochs too; stage 2 has what can be learned.
    for part in ("loss/total", "loss/language"):
        assert first[part][-1] < 0.95 * first[part][0]
    assert second["loss/language"][-1] < 0.2 * second["loss/language"][0]
    # From ln 2 = 0.693, where both pages are alike, to the least that the weights 2/3 and 1/3 allow, their entropy of 0.637.
    assert second["loss/ranking"][0] > 0.69 and second["loss/ranking"][-1] < 0.65
    assert first["evaluation/recall@5"] == [1.0, 1.0, 1.0, 1.0]  # steps 0, 4, 8 and 10; of three pages
    reranker = Reranker.from_checkpoint(folder / "second", RerankerConfig(device="cpu", keep_ratio=1.0))
    for greys in itertools.permutations(GREYS, 2):
        order = reranker.rank("the brightest page", [grey_page(grey) for grey in greys]).order
        assert order == ((0, 1) if greys[0] > greys[1] else (1, 0))


def write_conversations(folder: Path) -> Path:
    """RankZephyr's format: lists of three passages, in all orders."""
    passages = ("Tides rise.", "Mirrors shine.", "Sensors fail.")
    records = []
    for order in itertools.permutations(range(3)):
        listed = "\n".join(f"[{number}] {passages[passage]}" for number, passage in enumerate(order, 1))
        human = (
            "I will provide you with 3 passages, each indicated by a numerical identifier []. Rank the passages based on "
            f"their relevance to the search query: tides.\n\n{listed}\n\nSearch Query: tides.\nRank the 3 passages above."
        )
        ranking = " > ".join(f"[{order.index(passage) + 1}]" for passage in range(3))
        turns = [("system", "You rank."), ("human", human), ("gpt", ranking)]
        records.append({"conversations": [{"from": who, "value": value} for who, value in turns]})
    path = folder / "conversations.json"
    path.write_text(json.dumps(records))
    return path


def write_pages(folder: Path) -> Path:
    """MMDocIR's format: a document of four grey pages."""
    images = []
    for grey in GREYS:
        buffer = io.BytesIO()
        grey_page(grey).save(buffer, "PNG")
        images.append(buffer.getvalue())
    table = {"file_name": ["greys"] * 4, "page": [0, 1, 2, 3], "image": images, "domain": ["demo"] * 4}
    path = folder / "demo_filter.parquet"
    pq.write_table(pa.table(table), path)
    return path


def write_rankings(folder: Path) -> Path:
    """The teacher's: the brighter page first."""
    lines = []
    for number, pages in enumerate(itertools.permutations(range(4), 2)):
        ranking = [0, 1] if pages[0] > pages[1] else [1, 0]
        record = {
            "query_id": number, "query": "the brightest page", "doc_name": "greys", "domain": "demo",
            "candidate_page_ids": pages, "gt_page_ids": [max(pages)], "openai_ranking": ranking,
            "ranked_page_ids": [pages[place] for place in ranking],
        }  # fmt: skip
        lines.append(json.dumps(record))
    path = folder / "rankings.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("at_page", [9, 25])
def test_a_run_that_was_stopped_and_resumed_equals_an_unbroken_one(folder: Path, at_page: int) -> None:
    train("stage1", short_run(folder, "unbroken"), EXAMPLES)
    broken = short_run(folder, "broken")
    with pytest.raises(KeyboardInterrupt, match="Stopped after step"):
        train("stage1", broken, with_signal(EXAMPLES, at_page=at_page))
    [state] = states(folder, "broken")
    assert state < "step-00000009" and not (folder / "broken").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train("stage1", broken, EXAMPLES)
    assert_same_weights(folder / "broken", folder / "unbroken")
    assert logged(folder / "broken-log")["loss/total"] == logged(folder / "unbroken-log")["loss/total"]


def test_pruned_recomputed_half_precision_runs_resume_to_the_bit_too(folder: Path) -> None:
    changes = (
        "training.keep_ratio=0.5", "training.precision=bf16", "training.train_vision=true", "training.save_every=4",
        "data.held_out=2", "training.evaluate_every=3", "optimiser.clip_norm=0.5", "optimiser.weight_decay=0.01",
    )  # fmt: skip
    train("stage1", short_run(folder, "unbroken", *changes), EXAMPLES)
    assert states(folder, "unbroken") == ["step-00000004", "step-00000008"]
    state = folder / "unbroken-log" / "states" / "step-00000004"
    train("stage1", short_run(folder, "resumed", *changes, f"training.resume={state}"), EXAMPLES)
    assert_same_weights(folder / "resumed", folder / "unbroken")
    before, after = weights(folder / "checkpoint"), weights(folder / "resumed")
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_a_tied_head_stays_tied_through_saving_and_resuming(folder: Path) -> None:
    make_checkpoint(folder / "checkpoint", tied=True)
    train("stage1", short_run(folder, "unbroken"), EXAMPLES)
    tied = short_run(folder, "tied")
    with pytest.raises(KeyboardInterrupt):
        train("stage1", tied, with_signal(EXAMPLES, at_page=17))
    train("stage1", tied, EXAMPLES)
    assert_same_weights(folder / "tied", folder / "unbroken")
    assert "lm_head.weight" not in weights(folder / "tied")


def test_the_vision_tower_keeps_its_weights_and_seeds_differ(folder: Path) -> None:
    train("stage1", short_run(folder, "one"), EXAMPLES)
    train("stage1", short_run(folder, "two", "training.seed=1"), EXAMPLES)
    before, one, two = (weights(folder / name) for name in ("checkpoint", "one", "two"))
    for name in before:
        is_vision = name.startswith("model.visual.")
        assert torch.equal(before[name], one[name]) == torch.equal(one[name], two[name]) == is_vision


def test_a_torn_state_is_not_resumed(folder: Path) -> None:
    config = short_run(folder, "run", "training.save_every=4")
    with pytest.raises(KeyboardInterrupt):
        train("stage1", config, with_signal(EXAMPLES, at_page=33))
    states_folder = folder / "run-log" / "states"
    for torn in ("step-00000042", ".step-00000043.incomplete"):
        (states_folder / torn).mkdir()
        (states_folder / torn / "model.safetensors").write_bytes(b"half of it")
    train("stage1", config, EXAMPLES)
    train("stage1", short_run(folder, "unbroken"), EXAMPLES)
    assert_same_weights(folder / "run", folder / "unbroken")


def test_only_the_newest_states_are_kept(folder: Path) -> None:
    train("stage1", short_run(folder, "run", "training.save_every=2", "training.keep_checkpoints=3"), EXAMPLES)
    assert states(folder, "run") == ["step-00000004", "step-00000006", "step-00000008"]


def test_a_finished_run_that_is_started_again_takes_no_more_steps(folder: Path) -> None:
    config = short_run(folder, "run", "training.save_every=9")
    train("stage1", config, EXAMPLES)
    before = (folder / "run" / "model.safetensors").read_bytes()
    train("stage1", config, EXAMPLES)
    assert (folder / "run" / "model.safetensors").read_bytes() == before
    assert len(logged(folder / "run-log")["loss/total"]) == 9


def test_a_state_of_other_settings_is_refused(folder: Path) -> None:
    train("stage1", short_run(folder, "run", "training.save_every=9"), EXAMPLES)
    with pytest.raises(RunFileError, match=r"optimiser.batch_size was 2 and is 1\. .*start a new run"):
        train("stage1", short_run(folder, "run", "optimiser.batch_size=1"), EXAMPLES)
    with pytest.raises(RunFileError, match="elsewhere', which holds no saved state"):
        train("stage1", short_run(folder, "run", "training.resume=elsewhere"), EXAMPLES)


def test_the_best_checkpoint_by_evaluation_is_kept_beside_the_last(folder: Path) -> None:
    changes = ("data.held_out=4", "training.evaluate_every=1", "optimiser.epochs=8", "optimiser.learning_rate=5e-3")
    train("stage1", short_run(folder, "run", *changes), EXAMPLES)
    recall = logged(folder / "run-log")["evaluation/recall@1"]
    assert len(recall) == 1 + 8 * 2  # before the first step, and after each
    best = Reranker.from_checkpoint(folder / "run-log" / "best", RerankerConfig(device="cpu", keep_ratio=1.0))
    _, held_out = hold_out(EXAMPLES, 4, seed=0)
    assert evaluate(best, held_out)["recall@1"] == max(recall[1:])


def test_a_loss_that_is_not_finite_stops_the_run(folder: Path) -> None:
    with pytest.raises(TrainingError, match=r"Step \d+: the loss is (nan|inf).*optimiser.learning_rate"):
        train("stage1", short_run(folder, "run", "optimiser.learning_rate=1e30"), EXAMPLES)
    assert not (folder / "run").exists()


def test_a_place_that_is_taken_is_refused_before_anything_is_read(folder: Path) -> None:
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.txt").write_text("years of work")
    (folder / "run.toml").write_text(f'model = {{ output = "{folder / "taken"}" }}')
    with pytest.raises(RunFileError, match="which holds other files than a checkpoint"):
        run_stage("stage1", folder / "run.toml")


def test_files_without_examples_are_refused(folder: Path) -> None:
    (folder / "none.json").write_text("[]")
    (folder / "run.toml").write_text(f'data = {{ files = ["{folder / "none.json"}"] }}')
    with pytest.raises(DataError):
        run_stage("stage1", folder / "run.toml", [f"model.output={folder / 'out'}"])
