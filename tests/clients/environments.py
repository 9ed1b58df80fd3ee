"""The environments of the client families: where they are, and the processes that answer cases in them."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_SECONDS

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / "build" / "clients"
LISTS = HERE / "families"
SCRIPTS = HERE / "scripts"
NODE = "node"  # the family of the JavaScript clients
INTEGRATIONS = HERE.parents[1] / "integrations"
LOCAL_PACKAGES: Mapping[str, tuple[Path, ...]] = {
    "langchain": (INTEGRATIONS / "ziprerank-client", INTEGRATIONS / "langchain-ziprerank"),
    "llama_index": (INTEGRATIONS / "ziprerank-client", INTEGRATIONS / "llama-index-postprocessor-ziprerank"),
    "haystack": (INTEGRATIONS / "ziprerank-client", INTEGRATIONS / "ziprerank-haystack"),
}
"""Packages of this repository that a family has beside those of its list."""
TIE = 1e-3
"""Logits of the demo model that are nearer than this may change places when something else is computed beside them."""

PYTHON_FAMILIES = tuple(sorted(file.stem for file in LISTS.glob("*.txt")))

_NOWHERE = "http://127.0.0.1:9"  # nothing listens there, so that no client reaches another machine
_VARIABLES = {
    "HTTP_PROXY": _NOWHERE,
    "HTTPS_PROXY": _NOWHERE,
    "NO_PROXY": "127.0.0.1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PYTHONUNBUFFERED": "1",
}


def interpreter(family: str) -> Path:
    """The Python of a family, which has its clients."""
    return ENVIRONMENTS / family / "bin" / "python"


def isolated(home: Path) -> dict[str, str]:
    """The environment of a client's process, in which it reaches this machine alone. home: its home folder."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), **_VARIABLES}


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyProcess:
    """A running script of a family, which answers one case after the other."""

    process: "subprocess.Popen[str]"
    log: Path  # what the clients print

    def answer(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """{"ranking": [[index, score], …]} or {"error": text of the client's exception}."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        watch = threading.Timer(PATIENCE_SECONDS, self.process.kill)
        watch.start()
        try:
            self.process.stdin.write(json.dumps(case) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        finally:
            watch.cancel()
        assert line, f"the script ended: {self.log.read_text()[-2000:]}"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def family_process(family: str, folder: Path) -> Iterator[FamilyProcess]:
    """The script of a family in its environment. folder: for its log and its home. An environment that lacks is an error."""
    log, home = folder / f"{family}.log", folder / f"{family}-home"
    home.mkdir()
    with log.open("w") as errors:
        process = subprocess.Popen(
            _command(family),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=home,
            env=isolated(home),
        )
    try:
        yield FamilyProcess(process=process, log=log)
    finally:
        process.kill()
        process.communicate()


def _command(family: str) -> list[str]:
    if family != NODE:
        return [str(interpreter(family)), str(SCRIPTS / f"{family}_clients.py")]
    # Node looks for packages beside the script.
    script = shutil.copy(SCRIPTS / NODE / "clients.mjs", ENVIRONMENTS / NODE)
    return ["node", str(script)]
