"""A PCI bus as Linux shows it in folders, with invented devices."""

from pathlib import Path


def add_device(bus: Path, address: str, vendor: str, kind: str) -> None:
    folder = bus / address
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")
