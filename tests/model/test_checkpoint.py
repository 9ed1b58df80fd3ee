"""Finding, reading and loading checkpoints, and what is said when they do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from model import CheckpointError, Reranker, RerankerConfig
from model.checkpoint import BUNDLED, find_checkpoint, read_model_config
from model.pages.text_page_format import PUBLISHED_TEXT_PAGE, TextPageFormat
from tests.conformance import CASES, CHECKPOINT

CPU = RerankerConfig(device="cpu", dtype="float32", keep_ratio=1.0)
CASE = next(case for case in CASES if case.name == "five_small-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the checkpoint to damage."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def change_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def shard(folder: Path) -> None:
    """Rewrite the single file as three shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for part in range(3):
        file = f"model-{part + 1:05}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[part::3]}, folder / file)
        weight_map.update(dict.fromkeys(names[part::3], file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_a_sharded_checkpoint_gives_the_weights_of_the_single_file(folder: Path, reranker: Reranker) -> None:
    """Weights, not scores: products over tensors that lie elsewhere in memory may round differently in the last bits."""
    shard(folder)
    sharded = Reranker.from_checkpoint(str(folder), CPU).network.state_dict()
    single = reranker.network.state_dict()
    assert sharded.keys() == single.keys()
    assert all(torch.equal(sharded[name], tensor) for name, tensor in single.items())


def test_a_shard_that_is_not_there_is_named(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors is missing"):
        Reranker.from_checkpoint(str(folder), CPU)


def test_an_index_that_disagrees_with_its_shards_names_the_tensor(folder: Path) -> None:
    shard(folder)
    index = folder / "model.safetensors.index.json"
    change_json(index, lambda raw: raw["weight_map"].update({"lm_head.weight": "model-00002-of-00003.safetensors"}))
    misplaced = json.loads(index.read_text())["weight_map"]["lm_head.weight"]
    assert misplaced == "model-00002-of-00003.safetensors"
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is in model-00002"):
        Reranker.from_checkpoint(str(folder), CPU)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop("model.visual.merger.norm.bias"))
    with pytest.raises(CheckpointError, match=r"lacks tensors: model\.visual\.merger\.norm\.bias"):
        Reranker.from_checkpoint(str(folder), CPU)


def test_a_surplus_tensor_is_named(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({"lora.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"surplus tensors: lora\.weight"):
        Reranker.from_checkpoint(str(folder), CPU)


def test_a_wrongly_shaped_tensor_is_named_with_both_shapes(folder: Path) -> None:
    name = "model.language_model.norm.weight"
    change_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(65)}))
    with pytest.raises(CheckpointError, match=r"norm\.weight is \[65\], expected \[64\]"):
        Reranker.from_checkpoint(str(folder), CPU)


def test_a_cut_off_weight_file_is_an_error(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a readable"):
        Reranker.from_checkpoint(str(folder), CPU)


def test_a_folder_without_weights_is_an_error(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        Reranker.from_checkpoint(str(folder), CPU)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda raw: raw.update(architectures=["LlamaForCausalLM"]), "LlamaForCausalLM"),
        (lambda raw: raw.update(model_type="qwen2_5_vl"), "qwen2_5_vl"),
        (lambda raw: raw["text_config"].pop("num_key_value_heads"), "num_key_value_heads"),
        (lambda raw: raw["text_config"].update(hidden_act="relu"), "relu"),
        (lambda raw: raw["text_config"]["rope_scaling"].update(rope_type="yarn"), "yarn"),
        (lambda raw: raw["text_config"].pop("rope_theta"), "rope_theta"),
        (lambda raw: raw["vision_config"].update(depth="many"), "depth is 'many'"),
        (lambda raw: raw["vision_config"].update(deepstack_visual_indexes=[0, 9]), "deepstack_visual_indexes"),
        (lambda raw: raw["vision_config"].update(out_hidden_size=128), "out_hidden_size"),
        (lambda raw: raw.pop("vision_config"), "vision_config is missing"),
    ],
)
def test_another_architecture_is_refused_by_name(folder: Path, change: Any, named: str) -> None:
    change_json(folder / "config.json", change)
    with pytest.raises(CheckpointError, match=named):
        read_model_config(folder)


def test_theta_is_read_from_both_places(folder: Path) -> None:
    old = read_model_config(folder)

    def as_newer(raw: dict[str, Any]) -> None:
        text = raw["text_config"]
        text["rope_parameters"] = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")}

    change_json(folder / "config.json", as_newer)
    assert read_model_config(folder) == old


def test_other_pixel_statistics_are_refused(folder: Path) -> None:
    change_json(folder / "preprocessor_config.json", lambda raw: raw.update(image_mean=[0.48, 0.46, 0.41]))
    with pytest.raises(CheckpointError, match="image_mean"):
        read_model_config(folder)


TEXT_PAGE = {"width": 448, "height": 640, "smallest_print": 18, "largest_print": 34, "longest_edge": 640}


def test_a_checkpoint_may_say_on_which_pages_it_reads_text(folder: Path) -> None:
    change_json(folder / "preprocessor_config.json", lambda raw: raw.pop("text_page", None))
    assert read_model_config(folder).image.text_page == PUBLISHED_TEXT_PAGE
    change_json(folder / "preprocessor_config.json", lambda raw: raw.update(text_page=TEXT_PAGE))
    assert read_model_config(folder).image.text_page == TextPageFormat(**TEXT_PAGE)


@pytest.mark.parametrize(
    "change",
    [{"width": 2000}, {"longest_edge": 500}, {"smallest_print": 40}, {"smallest_print": 2}, {"largest_print": 400}],
    ids=str,
)
def test_an_unusable_text_page_is_refused(folder: Path, change: dict[str, int]) -> None:
    change_json(folder / "preprocessor_config.json", lambda raw: raw.update(text_page={**TEXT_PAGE, **change}))
    with pytest.raises(CheckpointError, match="text_page"):
        read_model_config(folder)


def test_broken_json_names_the_file(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not readable JSON"):
        read_model_config(folder)


def test_a_template_that_puts_images_first_is_refused(folder: Path) -> None:
    template = (
        "{% for turn in messages %}{% for part in turn.content %}{% if part.type == 'image' %}<|image_pad|>{% endif %}"
        "{% endfor %}{{ turn.content[0].text }}{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(CheckpointError, match="chat template"):
        Reranker.from_checkpoint(str(folder), CPU)


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "/no/such/folder", "a/b/c"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_said_so(name: str) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        find_checkpoint(name)


def test_a_hub_id_that_is_neither_cached_nor_reachable_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="not in the hub's cache on this machine"):
        find_checkpoint("somebody/some-checkpoint")


def test_a_cached_hub_checkpoint_loads_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the layout of the hub's own cache: refs point to a commit, a snapshot holds the files."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--somebody--ranker"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(CHECKPOINT, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for revision in (None, "main", commit):
        loaded = Reranker.from_checkpoint("somebody/ranker", CPU, revision=revision)
        assert (loaded.name, loaded.revision) == ("somebody/ranker", commit)
    with pytest.raises(CheckpointError, match="at revision 'v2'"):
        find_checkpoint("somebody/ranker", revision="v2")


def test_the_bundled_checkpoint_is_asked_for_by_name() -> None:
    assert find_checkpoint("demo").folder == BUNDLED["demo"]
    assert Reranker.from_checkpoint("demo", CPU).rank(CASE.query, CASE.pages()).order


def test_half_precision_weights_are_converted_to_the_chosen_dtype(folder: Path) -> None:
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    change_tensors(folder, halve)
    loaded = Reranker.from_checkpoint(str(folder), CPU)
    assert {parameter.dtype for parameter in loaded.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("is_wrapped", [False, True], ids=["as it is", "as a cause"])
def test_a_refusal_of_the_hub_is_reported_with_its_status(monkeypatch: pytest.MonkeyPatch, is_wrapped: bool) -> None:
    class Response:
        status_code = 401
        headers: ClassVar[dict[str, str]] = {}
        request = None

    def refuse(*arguments: Any, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        refusal = HfHubHTTPError("401 Client Error", response=Response())  # type: ignore[arg-type]
        if is_wrapped:
            raise LocalEntryNotFoundError("could not be fetched") from refusal
        raise refusal

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=r"The hub refused 'owner/name': status 401\. Check the id"):
        find_checkpoint("owner/name")
