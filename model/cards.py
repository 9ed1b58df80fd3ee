"""Finds NVIDIA cards that CUDA cannot use, and the reason, to prevent running an 8B model on the CPU by accident.

It reads the PCI bus from Linux's sysfs, which lists the cards even in a container without access to them.
"""

from pathlib import Path

import torch

_PCI_DEVICES = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
_DISPLAY_CLASSES = ("0x0300", "0x0302")  # VGA and 3D controllers: a card also has audio and USB functions


def nvidia_cards(pci_devices: Path | None = None) -> tuple[str, ...]:
    """PCI addresses of NVIDIA cards, ascending; empty if the bus cannot be read (on systems other than Linux)."""
    folder = pci_devices or _PCI_DEVICES
    try:
        devices = sorted(folder.iterdir())
    except OSError:
        return ()
    return tuple(device.name for device in devices if _is_card(device))


def _is_card(device: Path) -> bool:
    try:
        vendor = (device / "vendor").read_text().strip()
        kind = (device / "class").read_text().strip()
    except OSError:
        return False
    return vendor == _NVIDIA and kind.startswith(_DISPLAY_CLASSES)


def card_without_cuda() -> str | None:
    """The reason why torch cannot use the cards of this machine; None without a card, or if CUDA works."""
    cards = nvidia_cards()
    if not cards or torch.cuda.is_available():
        return None
    count = f"{len(cards)} NVIDIA cards are" if len(cards) > 1 else "an NVIDIA card is"
    return f"{count} in this machine (PCI {', '.join(cards)}), but torch cannot use CUDA: {_cuda_obstacle()}"


def _cuda_obstacle() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0].rstrip(".")
    return "no card is visible to this process (see CUDA_VISIBLE_DEVICES, or the container's --gpus)"
