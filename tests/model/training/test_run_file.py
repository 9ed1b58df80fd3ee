import tomllib
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from model.training.errors import RunFileError
from model.training.run_file import PUBLISHED, STAGES, RunConfig, read_run_file


def written(tmp_path: Path, text: str = "") -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_an_empty_run_file_has_the_published_settings(tmp_path: Path) -> None:
    first, second = (read_run_file(stage, written(tmp_path)) for stage in STAGES)
    assert (first.data.format, first.loss.ranking, first.loss.ranking_weight) == ("rank_zephyr", "rank_net", 10)
    assert (second.data.format, second.loss.ranking, second.loss.ranking_weight) == ("mmdocir", "soft_ranking", 1)
    for run, warmup, epochs, batch in ((first, 100, 3, (8, 4)), (second, 50, 1, (2, 8))):
        optimiser = run.optimiser
        assert (optimiser.name, optimiser.learning_rate, optimiser.schedule) == ("adamw_8bit", 3e-6, "cosine")
        assert (optimiser.warmup_steps, optimiser.epochs) == (warmup, epochs)
        assert (optimiser.batch_size, optimiser.accumulate_steps) == batch
        assert (optimiser.weight_decay, optimiser.clip_norm, run.training.train_vision) == (0, 0, False)
        assert run.loss.language_weight == 1
    assert (first.data.page_size, second.data.max_candidates, second.data.shuffle_candidates) == (280, 10, False)


def test_the_ready_made_run_files_have_every_key_and_explain_it() -> None:
    for stage in STAGES:
        text = (PUBLISHED / f"{stage}.toml").read_text()
        table = tomllib.loads(text)
        for section, kind in get_type_hints(RunConfig).items():
            assert list(table[section]) == [field.name for field in fields(kind)]
        explained = (
            "#",
            "ranking_weight",
            "language_weight",
            "weight_decay",
            "warmup_steps",
            "epochs",
            "seed",
            "schedule",
        )
        settings = [line for line in text.splitlines() if " = " in line and not line.startswith(explained)]
        assert all("  #" in line or " # " in line for line in settings)


def test_a_run_file_and_the_command_line_override_one_after_the_other(tmp_path: Path) -> None:
    run_file = written(tmp_path, '[optimiser]\nepochs = 5\nname = "adamw"\n[training]\nseed = 7\n')
    run = read_run_file(
        "stage2", run_file, ["training.seed=8", "data.files=['a.parquet', 'b.parquet']", "loss.ranking_weight=2"]
    )
    assert (run.optimiser.epochs, run.optimiser.name, run.training.seed) == (5, "adamw", 8)
    assert run.data.files == ("a.parquet", "b.parquet")
    assert run.loss.ranking_weight == 2.0 and isinstance(run.loss.ranking_weight, float)


def test_the_last_of_several_overrides_counts(tmp_path: Path) -> None:
    overrides = ["training.seed=2", "training.seed=3", "training.seed=2"]
    assert read_run_file("stage1", written(tmp_path), overrides).training.seed == 2


@pytest.mark.parametrize("value", ["runs/1", '"runs/1"', "  runs/1 "])
def test_a_text_on_the_command_line_needs_no_quotes(tmp_path: Path, value: str) -> None:
    assert read_run_file("stage1", written(tmp_path), [f"model.output={value}"]).model.output == "runs/1"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[optimizer]\nepochs = 1", "no section 'optimizer'; there are model, data, loss, optimiser, training"),
        ("[loss]\nweight = 1", r"no key 'weight' in \[loss\]; there are ranking, ranking_weight, language_weight"),
        ("loss = 1", r"loss is 1; it must be a section, \[loss\]"),
        ("[loss]\nranking = 'listnet'", "loss.ranking is 'listnet'; it must be one of rank_net, soft_ranking"),
        ("[optimiser]\nepochs = 0", "optimiser.epochs is 0; it must be at least 1"),
        ("[optimiser]\nepochs = 1.5", "optimiser.epochs is 1.5; it must be a whole number"),
        ("[optimiser]\nlearning_rate = '3e-6'", "optimiser.learning_rate is '3e-6'; it must be a number"),
        ("[optimiser]\nlearning_rate = nan", "optimiser.learning_rate is nan; it must be at least 0"),
        ("[data]\nmax_candidates = 21", "data.max_candidates is 21; it must be at least 2 and at most 20"),
        ("[data]\nfiles = 'one.json'", "data.files is 'one.json'; it must be a list of texts"),
        ("[training]\ntrain_vision = 1", "training.train_vision is 1; it must be true or false"),
        ("[training]\nkeep_ratio = 0", "training.keep_ratio is 0.0; it must be at least 0.001 and at most 1"),
        ("epochs", "run.toml is not TOML"),
    ],
)
def test_what_cannot_be_is_refused_with_the_name_and_the_choices(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(RunFileError, match=complaint):
        read_run_file("stage1", written(tmp_path, text))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("seed=2", "must have the form section.key=value"),
        ("training.seed", "must have the form section.key=value"),
        ("training.sed=2", r"--set training.sed=2: there is no key 'sed' in \[training\]"),
        ("training.seed=two", "training.seed is 'two'; it must be a whole number"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path: Path, override: str, complaint: str) -> None:
    with pytest.raises(RunFileError, match=complaint):
        read_run_file("stage1", written(tmp_path), [override])


def test_a_missing_run_file_and_an_unknown_stage_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match=r"absent\.toml cannot be read \(FileNotFoundError\)"):
        read_run_file("stage1", tmp_path / "absent.toml")
    with pytest.raises(RunFileError, match="'stage3'; it must be one of stage1, stage2"):
        read_run_file("stage3", written(tmp_path))
