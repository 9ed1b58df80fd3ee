"""Install the client families under build/clients, each whose list changed since: `python -m tests.clients.install`.

Only what a list names is installed, at its version, so a family has neither more nor less than was tried; and the packages
under integrations/ that belong to it. `--lock` makes the
lists anew from families/*.in. Clients need no machine learning framework, and none comes in unseen.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.clients.environments import ENVIRONMENTS, LISTS, LOCAL_PACKAGES, NODE, PYTHON_FAMILIES, SCRIPTS, interpreter

UV = ENVIRONMENTS.parent / "image-tools" / "bin" / "uv"
_FRAMEWORKS = re.compile(r"torch|triton|transformers|sentence-transformers|tensorflow|jax|jaxlib|nvidia-c\S*")
_OLDEST_PYTHON = "3.11"


def frameworks_in(requirements: str) -> list[str]:
    """Names of machine learning frameworks in a requirement list."""
    names = (re.match(r"[A-Za-z0-9._-]+", line) for line in requirements.splitlines())
    return [name[0] for name in names if name and _FRAMEWORKS.fullmatch(name[0].lower())]


def install(family: str) -> bool:
    """Whether there was anything to do. Raises: CalledProcessError, SystemExit."""
    sources = (
        [SCRIPTS / NODE / "package.json", SCRIPTS / NODE / "package-lock.json"]
        if family == NODE
        else [
            LISTS / f"{family}.txt",
            *(file for package in LOCAL_PACKAGES.get(family, ()) for file in _files(package)),
        ]
    )
    digest = hashlib.sha256(sys.version.encode() + b"".join(source.read_bytes() for source in sources)).hexdigest()
    stamp = ENVIRONMENTS / family / ".installed"
    if stamp.exists() and stamp.read_text() == digest:
        return False
    stamp.unlink(missing_ok=True)
    fill: Callable[[str, Path], None] = _install_node if family == NODE else _install_python
    fill(family, *sources[:1])
    stamp.write_text(digest)
    return True


def _files(package: Path) -> list[Path]:
    """What is built into a package of this repository."""
    built = (file for file in package.rglob("*") if file.suffix in (".py", ".typed"))
    return [package / "pyproject.toml", package / "README.md", *sorted(built)]


def _install_python(family: str, requirements: Path) -> None:
    if found := frameworks_in(requirements.read_text()):
        raise SystemExit(f"{requirements}: {', '.join(found)}: clients need no framework. Lock again, or exclude it.")
    python = str(interpreter(family))
    _run(str(UV), "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENTS / family))
    _run(str(UV), "pip", "sync", "--quiet", "--python", python, str(requirements))
    # Without their dependencies, which the list has: the check says if one lacks.
    for package in LOCAL_PACKAGES.get(family, ()):
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(package, Path(folder) / package.name)  # the build writes beside the sources
            _run(str(UV), "pip", "install", "--quiet", "--no-deps", "--python", python, str(copy))
    _run(str(UV), "pip", "check", "--quiet", "--python", python)


def _install_node(family: str, manifest: Path) -> None:
    if shutil.which("npm") is None:
        raise SystemExit(
            "There is no npm, which installs the JavaScript clients. Install Node.js 20 or newer with npm."
        )
    folder = ENVIRONMENTS / family
    folder.mkdir(parents=True, exist_ok=True)
    for file in (manifest, manifest.with_name("package-lock.json")):
        shutil.copy(file, folder)
    _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=folder)


def lock() -> None:
    """Resolve every list anew, for each Python from 3.11. Raises: CalledProcessError."""
    for family in PYTHON_FAMILIES:
        _run(
            *(str(UV), "pip", "compile", "--quiet", "--universal", "--python-version", _OLDEST_PYTHON),
            *("--no-header", "--no-annotate", "--no-emit-index-url", f"{family}.in", "--output-file", f"{family}.txt"),
            cwd=LISTS,
        )
    _run("npm", "install", "--package-lock-only", "--omit-lockfile-registry-resolved", cwd=SCRIPTS / NODE)


def _run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", action="store_true", help="first resolve families/*.in anew")
    if parser.parse_args().lock:
        lock()
    for family in (*PYTHON_FAMILIES, NODE):
        started = time.monotonic()
        if install(family):
            print(f"{family}: installed in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
