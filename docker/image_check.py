"""Builds the CPU image from the Dockerfile without a Docker daemon, and runs it: `make image-check`. For Debian, as root.

The base is made by debootstrap, the image by buildah with chroot isolation; no registry is asked. Then the image's own
configuration (user, environment, entrypoint, health check) is carried out in its own tree, which is mounted read-only: the
service must answer, must not be able to write outside its volumes, and must end with 0 on SIGTERM.

What this machine needs to reach packages (pip's configuration and the folders that it names, apt's sources) is handed in for
the build alone; that nothing of it stays in the image is checked.
"""

import argparse
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PROJECT = Path(__file__).parent.parent
PRIVATE_ROOT = PROJECT / "docker" / "private_root.sh"
PDF = PROJECT / "service" / "demo" / "town-guide.pdf"
BASE, IMAGE, CUDA_RUNTIME = (
    "localhost/ziprerank-base",
    "localhost/ziprerank:check-cpu",
    "localhost/ziprerank:check-cuda-runtime",
)
TOOLS = {"debootstrap": "debootstrap", "buildah": "buildah", "unshare": "util-linux", "pivot_root": "util-linux"}
RELEASE = "bookworm"
USER_ID = 10001
START_SECONDS, ANSWER_SECONDS, STOP_SECONDS = 300.0, 120.0, 60.0


class CheckError(Exception):
    """The image is not as it should be, or could not be built."""


def main() -> int:
    options = _read_options()
    if complaints := missing():
        print(f"image-check cannot run here: {'; '.join(complaints)}", file=sys.stderr)
        return 2
    try:
        check(options.folder.resolve())
    except (CheckError, subprocess.CalledProcessError) as error:
        print(f"image-check failed: {error}", file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(options.folder, ignore_errors=True)
    return 0


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=PROJECT / "build" / "image-check", help="for about 8 GB")
    parser.add_argument(
        "--keep", action="store_true", help="leave the folder, so that the next run has its base already"
    )
    return parser.parse_args()


def missing() -> list[str]:
    """What this machine lacks, in words."""
    complaints = [
        f"{tool} is not installed (apt-get install {package})"
        for tool, package in TOOLS.items()
        if shutil.which(tool) is None
    ]
    if os.geteuid() != 0:
        complaints.append("it needs root, for mounts and for files of other users")
    elif not complaints and subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        complaints.append("it needs CAP_SYS_ADMIN, for mounts; a container has it with --privileged only")
    return complaints


def check(folder: Path) -> None:
    """Everything. Raises: CheckError."""
    folder.mkdir(parents=True, exist_ok=True)
    buildah = Buildah(folder)
    with timed("base: debootstrap"):
        make_base(buildah, folder)
    with timed("build: the CPU image"):
        buildah.build(IMAGE, "--build-arg", "VARIANT=cpu", "--build-arg", "CPU_TORCH_INDEX=")
    with timed("build: the CUDA image as far as its compiler"):
        buildah.build(CUDA_RUNTIME, "--target", "runtime-cuda")
    config = buildah.config(IMAGE)
    check_config(config)
    with buildah.tree(CUDA_RUNTIME) as tree:
        check_compiler(tree)
    with buildah.tree(IMAGE) as tree:
        check_nothing_stays(tree, buildah.machine)
        check_fonts(tree)
        say(f"the image's tree: {_disk_megabytes(tree)} MB")
        check_service(tree, config)


class Machine:
    """How this machine reaches packages."""

    def __init__(self) -> None:
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], check=True, text=True, stdout=subprocess.PIPE
        ).stdout
        pairs = (line.partition("=") for line in listed.splitlines())
        self._pip = {name.rpartition(".")[2]: value.strip("'\"").replace("\\n", " ") for name, _, value in pairs}
        self.apt_sources = [path for path in _apt_sources() if path.stat().st_size]

    def pip_configuration(self) -> str:
        """A pip.conf with all that files and variables say here."""
        return "\n".join(["[global]", *(f"{name} = {value}" for name, value in self._pip.items())]) + "\n"

    def folders(self) -> list[Path]:
        """Folders and files of this machine that pip's settings name; of an index in a folder, also the files beside it."""
        words = [urlsplit(word) for value in self._pip.values() for word in value.split()]
        named = {Path(word.path) for word in words if word.scheme == "" and word.path.startswith("/")}
        indexes = {Path(word.path.rstrip("/")).parent for word in words if word.scheme == "file"}
        return sorted(path for path in named | indexes if path.exists())

    def hosts(self) -> list[str]:
        """Hosts that pip's settings name."""
        words = (urlsplit(word) for value in self._pip.values() for word in value.split())
        return sorted({word.hostname for word in words if word.hostname})

    def mirror(self) -> str:
        """The Debian mirror of the first source of this release's main archive."""
        for source in self.apt_sources:
            for words in (line.split() for line in source.read_text().splitlines()):
                uris = [word for word in words if urlsplit(word).scheme in ("http", "https")]
                if uris and words[0] in ("deb", "URIs:") and urlsplit(uris[0]).path.rstrip("/").endswith("/debian"):
                    return uris[0]
        raise CheckError("apt's sources name no Debian mirror")


def _apt_sources() -> Iterator[Path]:
    folder = Path("/etc/apt")
    yield from folder.glob("sources.list")
    yield from folder.glob("sources.list.d/debian*")


class Buildah:
    """buildah in a private root, with its storage in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine()
        self._folder = folder
        self._pip_configuration = folder / "pip.conf"
        self._pip_configuration.write_text(self.machine.pip_configuration())

    def build(self, name: str, *options: str) -> None:
        """One `buildah bud` of the project's Dockerfile on our base. OCI's format would drop the HEALTHCHECK."""
        folders = [f"--volume={path}:{path}:ro" for path in (*self.machine.folders(), *self.machine.apt_sources)]
        secret = f"--secret=id=pip_conf,src={self._pip_configuration}"
        base = f"--build-arg=BASE={BASE}"
        self._run("bud", "--format=docker", f"--tag={name}", base, secret, *folders, *options, str(PROJECT))

    def add_base(self, tree: Path) -> None:
        """`tree` as the image that stands for the Dockerfile's BASE."""
        container = self._run("from", "scratch", quiet=True).strip()
        self._run("add", container, str(tree), "/", quiet=True)
        self._run("config", "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        self._run("commit", "--format=docker", "--rm", container, BASE, quiet=True)

    def config(self, name: str) -> dict[str, Any]:
        """What a container runtime would read: User, Env, Entrypoint, Cmd, Healthcheck, …"""
        inspected: dict[str, Any] = json.loads(self._run("inspect", "--type=image", name, quiet=True))
        config: dict[str, Any] = inspected["Docker"]["config"]
        return config

    @contextmanager
    def tree(self, name: str) -> Iterator[Path]:
        """The image's files."""
        container = self._run("from", name, quiet=True).strip()
        try:
            yield Path(self._run("mount", container, quiet=True).strip())
        finally:
            self._run("rm", container, quiet=True)

    def _run(self, *arguments: str, quiet: bool = False) -> str:
        storage = (f"--root={self._folder / 'storage'}", f"--runroot={self._folder / 'run'}", "--storage-driver=vfs")
        done = subprocess.run(
            [str(PRIVATE_ROOT), str(self._folder / "root"), "buildah", *storage, *arguments],
            check=True,
            text=True,
            stdout=subprocess.PIPE if quiet else None,
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
        )
        return done.stdout if quiet else ""


def make_base(buildah: Buildah, folder: Path) -> None:
    """Debian with its own Python where the Dockerfile's base, python:3.11-slim, has one."""
    tree = folder / "base"
    if not (tree / "usr/local/bin/python3").exists():
        shutil.rmtree(tree, ignore_errors=True)
        packages = "--include=ca-certificates,python3,python3-pip,python3-venv"
        options = ("--variant=minbase", packages, RELEASE, str(tree), buildah.machine.mirror())
        subprocess.run(["debootstrap", *options], check=True, stdout=subprocess.DEVNULL)
        (tree / "usr/local/bin/python3").symlink_to("/usr/bin/python3")
    buildah.add_base(tree)


def check_config(config: dict[str, Any]) -> None:
    """Raises: CheckError."""
    expect(config["User"] == f"{USER_ID}:0", f"the user is {config['User']}")
    expect(
        config["Entrypoint"][:1] == ["tini"] and "-g" not in config["Entrypoint"], "the entrypoint is tini without -g"
    )
    expect(config["StopSignal"] in ("SIGTERM", "15"), "the stop signal is SIGTERM")
    expect("8000/tcp" in config["ExposedPorts"], "port 8000 is exposed")
    expect(config["Healthcheck"]["Test"][0] == "CMD", "there is a health check")


def check_compiler(tree: Path) -> None:
    """Triton's need: a C compiler with its library, for the user who will run it. Raises: CheckError."""
    source = "#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n"
    command = "cc -x c -shared -fPIC -o /tmp/launcher.so - && test -s /tmp/launcher.so"
    done = subprocess.run(_in_tree(tree, ["sh", "-c", command]), input=source, text=True, check=False)
    expect(done.returncode == 0, "the CUDA image's compiler works")


def check_nothing_stays(tree: Path, machine: Machine) -> None:
    """Raises: CheckError where the image holds a word of this machine's own settings."""
    words = [str(path) for path in machine.folders() if path.is_dir()] + machine.hosts()
    places = [str(tree / place) for place in ("opt", "root", "usr/local", "var/cache", "etc/pip.conf")]
    options = ("--recursive", "--files-with-matches", "--fixed-strings", "--binary-files=without-match")
    patterns = [f"--regexp={word}" for word in words]
    if patterns:
        command = ["grep", *options, *patterns, *places]
        found = subprocess.run(command, check=False, text=True, capture_output=True).stdout.split()
        expect(not found, f"nothing of this machine's package settings is in the image {' '.join(found[:3])}".rstrip())
    left = [
        path for path in (tree / "root/.cache", tree / "var/lib/apt/lists") if path.is_dir() and any(path.iterdir())
    ]
    expect(not left, "no package cache is in the image")
    weights = [path for path in tree.rglob("*.safetensors") if path.parent.name != "demo"]
    expect(not weights, "no weights but the demo checkpoint's are in the image")


def check_fonts(tree: Path) -> None:
    """Raises: CheckError where texts in a usual script would be drawn as boxes, or Arabic letters apart."""
    code = "import model; from PIL import features; print(features.check('raqm'), *model.scripts_without_font())"
    done = subprocess.run(
        _in_tree(tree, ["/opt/venv/bin/python", "-c", code]), text=True, check=False, stdout=subprocess.PIPE
    )
    expect(done.stdout.split() == ["True"], "there are fonts for the usual scripts, and letters are joined")


def check_service(tree: Path, config: dict[str, Any]) -> None:
    """Start the image as its configuration says, ask it, stop it. Raises: CheckError."""
    port = _free_port()
    with started(tree, config, port) as service:
        wait_until_ready(service, port)
        expect(_get(port, "/livez") == 200, "/livez answers 200")
        check_confinement(service.pid)
        check_health_check(tree, config, port)
        pages = [result["page"] for result in _rerank(port)["results"]]
        expect(
            sorted(pages) == list(range(1, len(pages) + 1)) and len(pages) > 1, f"/rerank ranks the pages as {pages}"
        )
        service.terminate()
        expect(service.wait(STOP_SECONDS) == 0, "SIGTERM ends the service with exit code 0")
    expect(_get(port, "/livez") is None, "nothing of it is left")


@contextmanager
def started(tree: Path, config: dict[str, Any], port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """The image's process."""
    environment = dict(variable.split("=", 1) for variable in config["Env"]) | {"ZIPRERANK_PORT": str(port)}
    command = [*config["Entrypoint"], *config["Cmd"]]
    service = subprocess.Popen(_in_tree(tree, command), env=environment)
    try:
        yield service
    finally:
        if service.poll() is None:
            service.kill()
            service.wait()


def _in_tree(tree: Path, command: Sequence[str]) -> list[str]:
    """`command` as the image's user with `tree` as a read-only root, no capabilities, and volumes where the image asks.

    Each step replaces the one before, so that the process that is started is the command itself.
    """
    script = r"""
        set -e
        mount --bind "$1" "$1"
        mount -o remount,bind,ro "$1"
        mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
        [ ! -d "$1/cache" ] || mount -t tmpfs -o uid=10001,gid=0,mode=770 tmpfs "$1/cache"
        mount --rbind /dev "$1/dev"
        mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
        mount --rbind /proc "$1/proc"
        tree=$1
        shift
        exec chroot "$tree" setpriv --reuid=10001 --regid=0 --clear-groups --no-new-privs \
            --inh-caps=-all --bounding-set=-all "$@"
    """
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(tree), *command]


def wait_until_ready(service: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        expect(service.poll() is None, "the service runs", quiet=True)
        if _get(port, "/readyz") == 200:
            return
        time.sleep(0.5)
    raise CheckError(f"the service was not ready within {START_SECONDS:g} s")


def check_confinement(pid: int) -> None:
    """Raises: CheckError where the process could do more than it should."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    expect(set(status["Uid"].split()) == {str(USER_ID)} and set(status["Gid"].split()) == {"0"}, "it runs as 10001:0")
    expect(int(status["CapEff"], 16) == 0 and int(status["CapBnd"], 16) == 0, "it has no capabilities")
    mounts = Path(f"/proc/{pid}/mounts").read_text().splitlines()
    roots = [words[3].split(",") for words in map(str.split, mounts) if words[1] == "/"]
    expect(bool(roots) and "ro" in roots[-1], "its root is read-only")


def check_health_check(tree: Path, config: dict[str, Any], port: int) -> None:
    """The image's own HEALTHCHECK: healthy here, unhealthy where nobody listens. Raises: CheckError."""
    path = dict(variable.split("=", 1) for variable in config["Env"])["PATH"]
    for asked, healthy in ((port, True), (_free_port(), False)):
        done = subprocess.run(
            _in_tree(tree, config["Healthcheck"]["Test"][1:]),
            env={"PATH": path, "ZIPRERANK_PORT": str(asked)},
            check=False,
        )
        expect((done.returncode == 0) == healthy, f"the health check says {'healthy' if healthy else 'unhealthy'}")


def _rerank(port: int) -> dict[str, Any]:
    body = {
        "query": "bank loan interest",
        "documents": [{"pdf": base64.b64encode(PDF.read_bytes()).decode()}],
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/rerank", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except OSError as error:
        raise CheckError(f"/rerank: {error}") from error


def _get(port: int, path: str) -> int | None:
    """The status, or None where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _disk_megabytes(tree: Path) -> int:
    listed = subprocess.run(
        ["du", "--summarize", "--block-size=1M", str(tree)], check=True, text=True, stdout=subprocess.PIPE
    )
    return int(listed.stdout.split()[0])


def expect(holds: bool, claim: str, *, quiet: bool = False) -> None:
    """Raises CheckError where the claim does not hold, says it where it does."""
    if not holds:
        raise CheckError(f"not so: {claim}")
    if not quiet:
        say(claim)


def say(text: str) -> None:
    print(f"image-check: {text}", flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    started_at = time.monotonic()
    say(f"{what} …")
    yield
    say(f"{what}: {time.monotonic() - started_at:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
