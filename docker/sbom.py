"""Writes the software bill of materials of each image as CycloneDX JSON: `make sbom`. Runs where cyclonedx-bom is installed.

What is in an image, with versions and hashes, comes from its lock file; licences, which a lock file does not have, from the
packages installed in the environment that is named. Where a package is not installed there (NVIDIA's libraries beside a CPU
build of torch) the licence stays open, and the package is listed.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from email.message import Message
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, cast

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

PROJECT = Path(__file__).parent.parent
VARIANTS = ("cuda", "cpu", "ray")
_LONGEST_LICENCE_NAME = 120  # some packages put the whole text where the name belongs

Document = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Arguments: the folder of the installed packages, and the folder to write to."""
    packages, folder = arguments
    folder_path = Path(folder)
    folder_path.mkdir(parents=True, exist_ok=True)
    licences = {_key(found.name, found.version): licence_of(found) for found in distributions(path=[packages])}
    for variant in VARIANTS:
        document = read_lock(PROJECT / "docker" / f"requirements-{variant}.lock")
        open_ones = add_licences(document, licences)
        file = folder_path / f"ziprerank-{variant}.cdx.json"
        file.write_text(validated(document))
        print(
            f"{file}: {len(document['components'])} packages; no licence known here: {', '.join(open_ones) or 'none'}"
        )
    return 0


def read_lock(lock: Path) -> Document:
    """The packages of a lock file with their hashes."""
    tool = str(Path(sys.executable).parent / "cyclonedx-py")
    options = ("--pyproject", str(PROJECT / "pyproject.toml"), "--output-reproducible")
    done = subprocess.run([tool, "requirements", str(lock), *options], check=True, text=True, stdout=subprocess.PIPE)
    document: Document = json.loads(done.stdout)
    for component in document["components"]:
        del component["description"]  # the lock's line once more, with all hashes
    return document


def add_licences(document: Document, licences: dict[tuple[str, str], Document | None]) -> list[str]:
    """Fill in what is known; the names of the components that stay without."""
    for component in document["components"]:
        if known := licences.get(_key(component["name"], component["version"])):
            component["licenses"] = [known]
    return [component["name"] for component in document["components"] if "licenses" not in component]


def licence_of(package: Distribution) -> Document | None:
    """What the package's metadata say: an SPDX expression, else a name, else what its classifiers say."""
    metadata = cast(Message, package.metadata)  # as it is; the type that Python 3.11 declares lacks `get`
    if expression := metadata.get("License-Expression"):
        return {"expression": expression}
    classifiers = [
        line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if line.startswith("License ::")
    ]
    names = [name for name in (metadata.get("License"), *classifiers) if name and len(name) <= _LONGEST_LICENCE_NAME]
    return {"license": {"name": names[0]}} if names else None


def validated(document: Document) -> str:
    """As text. Raises: ValueError where it is not as CycloneDX wants it."""
    text = json.dumps(document, indent=2) + "\n"
    if error := JsonStrictValidator(SchemaVersion.from_version(document["specVersion"])).validate_str(text):
        raise ValueError(f"not a CycloneDX document: {error}")
    return text


def _key(name: str, version: str) -> tuple[str, str]:
    """torch 2.13.0+cpu is the same package as torch 2.13.0."""
    return re.sub(r"[-_.]+", "-", name).lower(), version.partition("+")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
