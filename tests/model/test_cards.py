"""Cards that CUDA cannot use are found on the PCI bus, and no large model runs on the CPU beside one unasked."""

from pathlib import Path

import pytest
import torch

from model import ConfigurationError, Reranker, RerankerConfig, cards, placement
from model.cards import card_without_cuda, nvidia_cards
from model.device import choose_compute
from tests.conformance import CHECKPOINT
from tests.pci_bus import add_device

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PCI bus with one NVIDIA card, its audio function, and a card of somebody else."""
    add_device(tmp_path, "0000:3b:00.0", "0x10de", "0x030200")
    add_device(tmp_path, "0000:3b:00.1", "0x10de", "0x040300")
    add_device(tmp_path, "0000:00:02.0", "0x8086", "0x030000")
    (tmp_path / "0000:ff:00.0").mkdir()  # no files to read
    monkeypatch.setattr(cards, "_PCI_DEVICES", tmp_path)
    return tmp_path


def test_cards_are_display_controllers_of_nvidia(bus: Path) -> None:
    assert nvidia_cards() == ("0000:3b:00.0",)
    add_device(bus, "0000:5e:00.0", "0x10de", "0x030000")
    assert nvidia_cards() == ("0000:3b:00.0", "0000:5e:00.0")


def test_a_machine_without_a_bus_has_no_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_PCI_DEVICES", tmp_path / "missing")
    assert nvidia_cards() == ()
    assert card_without_cuda() is None


def test_auto_says_why_the_card_is_not_used(bus: Path) -> None:
    compute = choose_compute("auto", "auto")
    assert compute.device.type == "cpu"
    assert "an NVIDIA card is in this machine (PCI 0000:3b:00.0), but torch cannot use CUDA" in compute.reason
    assert choose_compute("cpu", "auto").unused_card is None, "asked for, so nothing is to be said"


def test_a_driver_that_cannot_be_used_is_named(bus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nPlease update")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    assert str(card_without_cuda()).endswith("The NVIDIA driver on your system is too old (found version 12020)")


def test_asking_for_cuda_says_why_there_is_none(bus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigurationError, match=r"0 CUDA devices are visible .*build without CUDA"):
        choose_compute("cuda", "auto")


def test_auto_refuses_a_large_checkpoint_beside_an_unused_card(bus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "MOST_PARAMETERS_BESIDE_A_CARD", 1000)
    with pytest.raises(ConfigurationError, match=r"device is auto.*PCI 0000:3b:00.0.*--device cpu"):
        Reranker.from_checkpoint(str(CHECKPOINT))
    loaded = Reranker.from_checkpoint(str(CHECKPOINT), RerankerConfig(device="cpu", feature_cache_gpu_bytes=0))
    assert loaded.compute.device.type == "cpu"


def test_auto_takes_a_small_checkpoint_to_the_cpu_beside_an_unused_card(bus: Path) -> None:
    loaded = Reranker.from_checkpoint(str(CHECKPOINT), RerankerConfig(feature_cache_gpu_bytes=0))
    assert "torch cannot use CUDA" in loaded.compute.reason
