import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from model import Reranker, RerankerConfig
from model.training.demo import run
from model.training.demo.optimiser import LearningRates, Optimiser
from model.training.demo.recipe import Course, Lessons, Reading, Recipe, World, read_recipe
from model.training.demo.run import train
from model.training.demo.stage import Stage
from model.training.errors import RunFileError
from tests.model.training.demo.worlds import PILLOWS_OWN, small_style

LESSONS = Lessons(
    pages=6,
    tokens=700,
    courses=(
        Course(pages=(1, 2), keep_ratios=(0.5,), steps=2, help_share=1.0, near_share=0.0),
        Course(pages=(3,), keep_ratios=(0.25, 1.0), steps=1, help_share=0.5, near_share=0.5),
    ),
    matrix_rate=0.005,
    other_rate=0.001,
)

READING: dict[str, Any] = {
    "pages": 6, "phases": 2, "tokens": 100, "band_rows": (4, 20), "matrix_rate": 0.01, "other_rate": 0.002,
}  # fmt: skip


def tiny_recipe() -> Recipe:
    return Recipe(
        seed=3,
        world=World(
            fewest_pixels=65_536,
            most_pixels=196_608,
            smallest_print=26,
            largest_print=30,
            fonts=(PILLOWS_OWN,),
        ),
        reading=(
            Reading(most_pixels=65_536, steps=2, **READING),
            Reading(most_pixels=196_608, steps=4, **READING),
        ),
        ranking=LESSONS,
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small are slower on several threads, and far slower where another process has one of the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def fonts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The world's font, whatever this machine has."""
    style = small_style(tmp_path_factory.mktemp("fonts"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "installed_fonts", lambda: style.fonts)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, one_thread: None, fonts: None) -> Path:
    work = tmp_path_factory.mktemp("demo-training")
    train(tiny_recipe(), work)
    return work


def test_all_stages_run_and_the_folder_can_be_ranked_with(trained: Path) -> None:
    reranker = Reranker.from_checkpoint(trained / "checkpoint", RerankerConfig(device="cpu"))
    ranking = reranker.rank("people number", [Image.new("RGB", (724, 1024), shade) for shade in ("white", "grey")])
    assert sorted(ranking.order) == [0, 1]


def test_a_run_that_was_broken_off_ends_where_an_unbroken_one_does(trained: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(trained, broken)
    (broken / "ranking.pt").unlink()
    (broken / "checkpoint" / "model.safetensors").unlink()
    train(tiny_recipe(), broken)
    ours, theirs = (load_file(work / "checkpoint" / "model.safetensors") for work in (broken, trained))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_without_fonts_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "installed_fonts", tuple)
    with pytest.raises(RunFileError, match=f"no fonts. Install some of {PILLOWS_OWN}"):
        train(tiny_recipe(), tmp_path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    loss: torch.Tensor


def run_stage(state_file: Path, stop: int) -> torch.Tensor:
    """Weights after steps up to `stop`, going on from the file."""
    torch.manual_seed(0)
    linear = nn.Linear(3, 3)
    optimiser = Optimiser([linear], LearningRates(), steps=4)
    stage = Stage(
        name="test",
        module=linear,
        device=torch.device("cpu"),
        optimiser=optimiser,
        steps=4,
        seed=1,
        state_file=state_file,
    )

    def take_step(step: int, chance: np.random.Generator) -> Report:
        inputs = torch.from_numpy(chance.normal(size=(5, 3))).float()
        return Report(loss=(linear(inputs) + torch.randn(5, 3)).pow(2).mean())

    stage.run(range(stage.steps_done(), stop), take_step)
    return linear.weight.detach()


def test_a_stage_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = run_stage(tmp_path / "whole.pt", 4)
    run_stage(tmp_path / "parts.pt", 2)
    assert torch.equal(run_stage(tmp_path / "parts.pt", 4), whole)


def test_the_bundled_recipes_can_be_read() -> None:
    assert read_recipe("small").ranking.course(10**9).pages == read_recipe("small").ranking.courses[-1].pages


def test_a_misspelt_key_of_a_recipe_is_named(tmp_path: Path) -> None:
    text = (Path(__file__).parents[4] / "model/training/demo/recipes/small.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace("band_rows", "bandrows"))
    with pytest.raises(RunFileError, match="bandrows"):
        read_recipe(str(tmp_path / "mine.toml"))
