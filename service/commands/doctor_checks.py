"""The checks of `ziprerank doctor`, in the order of the report; later checks use the results of earlier ones.

Each check runs the same code as the start of the service. An error inside a check becomes a failed check.
"""

import asyncio
import hashlib
import importlib.util
import os
import shutil
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from model import (
    LARGE_CHECKPOINT,
    AttentionFacts,
    CheckpointError,
    CheckpointFacts,
    DeviceFacts,
    MemoryFacts,
    RerankerConfig,
    RerankerError,
    ScoreError,
    card_obstacle,
    examine_attention,
    examine_checkpoint,
    examine_compilation,
    examine_device,
    examine_memory,
    examine_weights,
    missing_download,
    scripts_without_font,
    usable_fonts,
)
from service.app import load_reranker, raster_limits, reranker_config
from service.commands.demo import PDF, QUERY
from service.commands.doctor_report import Check
from service.errors import ServiceError
from service.raster.pool import Kind, RasterDocument, Rasterizer
from service.settings import Settings

GIBIBYTE = 2**30
PAGES = (1, 2)
"""Numbers of the pages of the bundled PDF that are rendered and then ranked."""

_MAX_BYTES_IN_USE = 2 * GIBIBYTE
"""Memory of a card that may be in use before the checkpoint is loaded. A CUDA context takes about a quarter of this."""

_Found = TypeVar("_Found")
_Pages = list[np.ndarray]

_CHOOSE_CHECKPOINT = "Choose a folder with a checkpoint, a hub id, or demo (--model)."
_REPORT_BUG = "This is not expected. Run `ziprerank serve` to see the whole traceback, and report it."


def examine(settings: Settings, *, with_forward: bool) -> Iterator[Check]:
    """Yield the checks one by one, as they end.

    with_forward: whether to load the checkpoint and rank two pages as the last check.
    """
    config = reranker_config(settings)
    checkpoint_check, checkpoint = _guarded("checkpoint", _CHOOSE_CHECKPOINT, lambda: _check_checkpoint(settings))
    parameters = checkpoint.parameters if checkpoint else None
    card_check, device = _guarded(
        "card",
        "Make nvidia-smi show the card to this process, or choose --device auto or cpu.",
        lambda: _check_card(config, parameters),
    )
    checks = [card_check, checkpoint_check]
    yield from checks
    for check in (
        _check_attention(config, checkpoint, device),
        _check_compilation(config, device),
        _check_memory(config, checkpoint, device),
    ):
        checks.append(check)
        yield check
    raster_check, pages = _guarded(
        "raster",
        "The workers are Python processes of this installation with 1.5 GiB of address space each: look at the limits on "
        "processes and memory (ulimit -a), or set fewer of them (--rasterizer-processes).",
        lambda: _check_raster(settings),
    )
    fonts_check, _ = _guarded("fonts", _REPORT_BUG, _check_fonts)
    checks += [raster_check, fonts_check]
    yield from (raster_check, fonts_check)
    yield _check_forward(settings, checks, pages or [], with_forward=with_forward)


def _guarded(name: str, remedy: str, check: Callable[[], tuple[Check, _Found | None]]) -> tuple[Check, _Found | None]:
    """Run `check` and turn an error into a failed check.

    Returns the check, and the facts that later checks need; None for the facts after an error.
    remedy: printed for the errors of the model and the service; any other error gets the advice to report it.
    """
    try:
        return check()
    except (RerankerError, ServiceError) as error:
        return Check(name=name, state="failed", found=str(error), remedy=remedy), None
    except Exception as error:  # noqa: BLE001 (drivers and libraries raise anything; go on with the other checks)
        text = str(error).strip().partition("\n")[0]
        return Check(name=name, state="failed", found=f"{type(error).__name__}: {text}", remedy=_REPORT_BUG), None


def _check_card(config: RerankerConfig, parameters: int | None) -> tuple[Check, DeviceFacts | None]:
    """parameters: the number of weights of the checkpoint; None if unknown."""
    facts = examine_device(config)
    details = {
        "device": str(facts.compute.device),
        "dtype": facts.compute.dtype_name,
        "name": facts.name,
        "driver_version": facts.driver_version,
        "torch_version": facts.torch_version,
        "cuda_version": facts.cuda_version,
        "compute_capability": facts.compute_capability,
        "total_bytes": facts.total_bytes,
        "free_bytes": facts.free_bytes,
    }
    state, found, remedy = _judge_card(facts) if facts.total_bytes else _judge_cpu(facts, config, parameters)
    check = Check(name="card", state=state, found=found, remedy=remedy, details=details)
    return check, facts


def _judge_card(facts: DeviceFacts) -> tuple[Any, str, str]:
    """The state, findings and remedy of the check."""
    total, free = facts.total_bytes or 0, facts.free_bytes or 0
    found = (
        f"{facts.name}, compute capability {facts.compute_capability}, {_size(free)} of {_size(total)} free; "
        f"driver {facts.driver_version or 'of unknown version'}, {_torch(facts)}. Runs in {facts.compute.dtype_name}."
    )
    if total - free > _MAX_BYTES_IN_USE:
        return (
            "warning",
            f"{found} {_size(total - free)} are in use before the checkpoint is loaded.",
            "Look up the process in nvidia-smi: the service expects to have the card to itself.",
        )
    return "ok", found, ""


def _judge_cpu(facts: DeviceFacts, config: RerankerConfig, parameters: int | None) -> tuple[Any, str, str]:
    is_large = (parameters or 0) > LARGE_CHECKPOINT
    obstacle = card_obstacle()
    reason = "The settings choose the CPU" if config.device != "auto" else obstacle or "CUDA found no usable card"
    found = f"{_sentence(reason)} {_torch(facts)}, {facts.cores} cores. Runs on the CPU in {facts.compute.dtype_name}."
    if is_large:
        found += f" A request takes minutes with {(parameters or 0) / 1e9:.1f} billion parameters."
    if config.device == "auto" and obstacle:
        remedy = (
            "Repair the driver or the installation: nvidia-smi must show the card to this process, and torch must be a "
            "build with CUDA. Or choose --device cpu."
        )
        return ("failed" if is_large else "warning"), found, remedy
    if is_large:
        return (
            "warning",
            found,
            "Serve this checkpoint from an NVIDIA card; `ziprerank doctor --plan` lists suitable ones.",
        )
    return "ok", found, ""


def _torch(facts: DeviceFacts) -> str:
    built = f"for CUDA {facts.cuda_version}" if facts.cuda_version else "(a build without CUDA)"
    return f"torch {facts.torch_version} {built}"


def _check_checkpoint(settings: Settings) -> tuple[Check, CheckpointFacts | None]:
    try:
        checkpoint = examine_checkpoint(settings.model, revision=settings.revision)
    except CheckpointError as error:
        return _checkpoint_failed(settings, str(error)), None
    details: dict[str, Any] = {
        "name": checkpoint.name,
        "folder": str(checkpoint.folder),
        "revision": checkpoint.revision,
        "architecture": checkpoint.architecture,
        "parameters": checkpoint.parameters,
    }
    try:
        weights = examine_weights(checkpoint)
    except CheckpointError as error:
        return _checkpoint_failed(settings, str(error), details), checkpoint
    details |= {**asdict(weights), "dtypes": list(weights.dtypes)}
    found = (
        f"{checkpoint.name} in {checkpoint.folder}: {checkpoint.architecture}, {_count(checkpoint.parameters)} parameters; "
        f"all {weights.tensors} tensors are there, {' and '.join(weights.dtypes)}, {_size(weights.file_bytes)}."
    )
    return Check(name="checkpoint", state="ok", found=found, details=details), checkpoint


def _checkpoint_failed(settings: Settings, found: str, details: dict[str, Any] | None = None) -> Check:
    """The failed check. The remedy for an incomplete checkpoint depends on whether the hub can supply the missing files."""
    remedy = (
        _CHOOSE_CHECKPOINT
        if details is None
        else "Copy or save the whole checkpoint again, or choose another (--model)."
    )
    try:
        missing = missing_download(settings.model, revision=settings.revision)
    except CheckpointError as error:
        found = found if details else str(error)  # the list of missing parts helps more than the download error
        remedy = (
            f"Check the name; for a private checkpoint log in (`hf auth login`). Without a network, run `hf download "
            f"{settings.model}` on another machine, copy the folder to this one, and pass it as --model FOLDER."
        )
    else:
        if missing:
            found = (
                f"{settings.model} is not complete on this machine; the hub has it, {missing / 1e9:.1f} GB to download."
            )
            remedy = f"Run `hf download {settings.model}`; otherwise `ziprerank serve` downloads it when it starts."
    return Check(name="checkpoint", state="failed", found=found, remedy=remedy, details=details or {})


def _skipped(name: str, missing: str) -> Check:
    remedy = f"Fix the {missing} first."
    return Check(name=name, state="skipped", found=f"Not run: it needs the {missing}.", remedy=remedy)


def _missing(checkpoint: CheckpointFacts | None, device: DeviceFacts | None) -> str:
    return "checkpoint" if checkpoint is None else "card" if device is None else ""


def _check_attention(config: RerankerConfig, checkpoint: CheckpointFacts | None, device: DeviceFacts | None) -> Check:
    if checkpoint is None or device is None:
        return _skipped("attention", _missing(checkpoint, device))

    def check() -> tuple[Check, None]:
        vision, decoder = examine_attention(config, checkpoint.model_config, device.compute)
        chosen = f"Vision tower: {_chosen(vision)}. Decoder: {_chosen(decoder)}."
        obstacles = [f"Vision tower: {_obstacles(vision)}", f"Decoder: {_obstacles(decoder)}"]
        if vision.obstacles == decoder.obstacles:
            obstacles = [_obstacles(vision)]
        found = " ".join([chosen, *obstacles]).rstrip()
        details = {"vision": asdict(vision), "decoder": asdict(decoder)}
        return Check(name="attention", state="ok", found=found, details=details), None

    return _guarded("attention", "Choose --attention auto, or sdpa, which runs everywhere.", check)[0]


def _chosen(facts: AttentionFacts) -> str:
    """The kernel, and the reason for preferring it to others that can run."""
    why = facts.reason.partition("; not ")[0]
    return facts.chosen if why.startswith("not ") or not why else f"{facts.chosen} ({why})"


def _obstacles(facts: AttentionFacts) -> str:
    """A sentence for each obstacle, naming the kernels that cannot run because of it."""
    names: dict[str, list[str]] = {}  # obstacle -> names of kernels
    for name, obstacle in facts.obstacles.items():
        if obstacle:
            names.setdefault(obstacle, []).append(name)
    return " ".join(f"Not {', '.join(kernels)}: {obstacle}." for obstacle, kernels in names.items())


def _check_compilation(config: RerankerConfig, device: DeviceFacts | None) -> Check:
    if device is None:
        return _skipped("compile", "card")
    facts = examine_compilation(config, device.compute)
    is_card = device.total_bytes is not None
    compiler = _find_compiler(is_card=is_card)
    has_headers = Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    has_triton = importlib.util.find_spec("triton") is not None
    found = f"{'On' if facts.is_on else 'Off'} ({facts.reason})."
    details = {
        "is_on": facts.is_on,
        "reason": facts.reason,
        "compiler": compiler,
        "has_triton": has_triton,
        "has_python_headers": has_headers,
    }
    lacking = [
        part
        for part, is_there in (
            ("Triton", has_triton or not is_card),
            (f"a {'C' if is_card else 'C++'} compiler", compiler is not None),
            ("Python's headers (Python.h)", has_headers),
        )
        if not is_there
    ]
    if not facts.is_on and not (lacking and is_card and config.compile == "auto"):
        return Check(name="compile", state="ok", found=found, details=details)
    if not lacking:
        return Check(name="compile", state="ok", found=f"{found} The compiler is {compiler}.", details=details)
    found += f" Missing: {', '.join(lacking)}. Without compilation the layers are correct but slower."
    remedy = "Install it (on Debian: gcc, g++ and python3-dev; Triton comes with torch's CUDA builds), or choose --compile off."
    return Check(name="compile", state="warning", found=found, remedy=remedy, details=details)


def _find_compiler(*, is_card: bool) -> str | None:
    """The C compiler that Triton needs for a card, or the C++ compiler that torch needs for a CPU.

    Looked up by the same environment variables and names as Triton and torch use; None if there is none.
    """
    names = (os.environ.get("CC"), "gcc", "clang") if is_card else (os.environ.get("CXX"), "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _check_memory(config: RerankerConfig, checkpoint: CheckpointFacts | None, device: DeviceFacts | None) -> Check:
    if checkpoint is None or device is None:
        return _skipped("memory", _missing(checkpoint, device))

    def check() -> tuple[Check, None]:
        facts = examine_memory(config, checkpoint, device.compute)
        found = f"Quantisation: {facts.quantise} ({facts.reason})."
        if facts.plan is None:
            dtype = device.compute.dtype_name
            found = f"{_size(facts.weight_bytes)} of weights in {dtype}, in host memory, without a memory plan. {found}"
        else:
            found = f"As {facts.plan.describe()}. {found}"
        details = _memory_details(facts)
        if facts.plan is None and facts.host_bytes is not None and facts.weight_bytes > facts.host_bytes:
            found = f"{found} The machine has {_size(facts.host_bytes)}."
            remedy = (
                "Use a machine with more memory or with a card, --dtype bfloat16, or a smaller checkpoint (--model)."
            )
            return Check(name="memory", state="failed", found=found, remedy=remedy, details=details), None
        return Check(name="memory", state="ok", found=found, details=details), None

    remedy = (
        "Change the settings that the message names. `ziprerank doctor --plan` lists the cards with enough memory, and "
        "nvidia-smi shows the memory that other processes hold on this one."
    )
    return _guarded("memory", remedy, check)[0]


def _memory_details(facts: MemoryFacts) -> dict[str, Any]:
    plan = facts.plan
    details = {
        "quantise": facts.quantise,
        "reason": facts.reason,
        "weight_bytes": facts.weight_bytes,
        "batch_tokens": facts.batch.tokens,
        "batch_patches": facts.batch.patches,
        "host_bytes": facts.host_bytes,
    }
    if plan is not None:
        details |= {
            "batch_bytes": plan.batch_bytes,
            "page_feature_bytes": plan.cache_bytes,
            "taken_or_reserved_bytes": plan.taken_bytes,
            "needed_bytes": plan.needed_bytes,
            "total_bytes": plan.total_bytes,
        }
    return details


def _check_raster(settings: Settings) -> tuple[Check, _Pages | None]:
    """Start the raster workers, render pages of the bundled PDF, and stop the workers."""
    pool = Rasterizer(raster_limits(settings))
    try:
        started = time.perf_counter()
        pool.start()
        rendering = time.perf_counter()
        running, wanted = len(pool.worker_pids), settings.rasterizer_processes
        pages = asyncio.run(_render(pool))
        seconds = {"start": rendering - started, "render": time.perf_counter() - rendering}
    finally:
        pool.close()
    details = {"workers": running, "configured_workers": wanted, "seconds": _rounded(seconds)}
    found = (
        f"{running} of {wanted} workers started in {seconds['start']:.1f} s and rendered {len(pages)} pages of "
        f"{PDF.name} in {seconds['render']:.1f} s."
    )
    if running < wanted:
        remedy = (
            "Look at the limits on processes and memory (ulimit -a), or set fewer workers (--rasterizer-processes)."
        )
        return Check(name="raster", state="warning", found=found, remedy=remedy, details=details), pages
    return Check(name="raster", state="ok", found=found, details=details), pages


async def _render(pool: Rasterizer) -> _Pages:
    """The pixels of each of `PAGES`, uint8 (height, width, 3). Raises: ServiceError."""
    data = PDF.read_bytes()
    document = RasterDocument(index=None, data=data, sha256=hashlib.sha256(data).hexdigest(), kind=Kind.PDF)
    async with pool.request([document]) as request:
        await request.opened()
        return [page.pixels for page in await request.render_all([PAGES])]


def _check_fonts() -> tuple[Check, None]:
    fonts = usable_fonts()
    without = scripts_without_font()
    details = {"fonts": len(fonts), "first": str(fonts[0]) if fonts else None, "scripts_without_font": list(without)}
    if fonts:
        found = f"{len(fonts)} usable fonts, the first one {fonts[0].name}."
        if without:
            found += f" None has {', '.join(without)}: boxes are drawn for texts in these scripts."
        return Check(name="fonts", state="ok", found=found, details=details), None
    found = "No usable font: text is rendered in Pillow's built-in font, which has Latin letters only."
    remedy = (
        "Install fonts (Debian's fonts-dejavu-core, or fonts-noto-core and fonts-noto-cjk) to render text as pages, "
        "as is done for documents that are texts and by `ziprerank train stage1`. PDFs and images need no fonts."
    )
    return Check(name="fonts", state="warning", found=found, remedy=remedy, details=details), None


def _check_forward(settings: Settings, earlier: Sequence[Check], pages: _Pages, *, with_forward: bool) -> Check:
    failed = [check.name for check in earlier if check.state == "failed"]
    if failed:
        remedy = "Fix those first."
        return Check(
            name="forward",
            state="skipped",
            found=f"Not run, because these checks failed: {', '.join(failed)}.",
            remedy=remedy,
        )
    if not with_forward:
        remedy = "Leave out --no-forward to load the checkpoint and rank two pages."
        return Check(name="forward", state="skipped", found="Not run, because of --no-forward.", remedy=remedy)
    remedy = "`ziprerank serve` would fail in the same way; the message names the remedy."
    return _guarded("forward", remedy, lambda: (_rank_pages(settings, pages), None))[0]


def _rank_pages(settings: Settings, pages: _Pages) -> Check:
    """Load the checkpoint and rank `pages` twice, without and with cached page features. Raises: RerankerError."""
    seconds: dict[str, float] = {}
    reranker = _timed(seconds, "load", lambda: load_reranker(settings))
    _timed(seconds, "warm_up", reranker.warm_up)
    request = reranker.prepare(QUERY, pages)
    _timed(seconds, "cold", lambda: reranker.score([request]))
    [answer] = _timed(seconds, "warm", lambda: reranker.score([request]))
    if not answer.is_finite:
        raise ScoreError(f"The network gave scores that are not finite: {answer.logits}.")
    found = (
        f"Loaded in {seconds['load']:.1f} s, warmed up in {seconds['warm_up']:.1f} s; {len(pages)} pages in "
        f"{seconds['cold'] * 1000:.0f} ms, and again in {seconds['warm'] * 1000:.0f} ms "
        f"with the features of {answer.cached_pages} from the cache."
    )
    details = {
        "seconds": _rounded(seconds),
        "pages": len(pages),
        "cached_pages": answer.cached_pages,
        "visual_tokens": answer.visual_tokens,
        "kept_tokens": answer.kept_tokens,
        "device_memory_bytes": reranker.device_memory(),
    }
    reasons = (reranker.run_vision_block.reason, reranker.run_decoder_layer.reason)
    if failed := next((reason for reason in reasons if "torch.compile failed" in reason), None):
        remedy = "The service works all the same, but slower. See the check `compile`, or choose --compile off."
        found = f"{found} But {failed}."
        return Check(name="forward", state="warning", found=found, remedy=remedy, details=details)
    return Check(name="forward", state="ok", found=found, details=details)


def _timed(seconds: dict[str, float], name: str, work: Callable[[], _Found]) -> _Found:
    started = time.perf_counter()
    result = work()
    seconds[name] = time.perf_counter() - started
    return result


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in seconds.items()}


def _sentence(text: str) -> str:
    """The text with a capital letter at the start and one full stop at the end."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _size(byte_count: int) -> str:
    return f"{byte_count / GIBIBYTE:.1f} GiB" if byte_count >= GIBIBYTE else f"{byte_count / 2**20:.0f} MiB"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"
