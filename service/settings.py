"""Every setting of the service: typed, with its default, limits and meaning. Only this module reads the environment.

A setting `max_pages` is the variable ZIPRERANK_MAX_PAGES and the flag --max-pages; flags win. Unknown ZIPRERANK_ names are
refused: a misspelt limit would otherwise be ignored in silence.
"""

import difflib
import importlib.util
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import fsspec
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.api_keys import read_keys
from service.time_limits import MAX_TIMEOUT_MS
from service.urls.policy import parse_policy

PREFIX = "ZIPRERANK_"
KIBIBYTE = 1024
MEBIBYTE = 1024 * 1024

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?")  # as browsers send it
_LIMIT = "limit"  # marks the settings that bound a client's requests

Count = Annotated[int, Field(ge=1)]
CountLimit = Annotated[Count, _LIMIT]
OptionalCountLimit = Annotated[Count | None, _LIMIT]
Attention = Literal["auto", "flash-attn", "flash-attn-3", "flash-attn-2", "torch-varlen", "sdpa"]
SecondsLimit = Annotated[float, Field(gt=0, allow_inf_nan=False), _LIMIT]


def _default_document_store() -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ziprerank", "documents")


def _default_rasterizer_processes() -> int:
    """One per core; more than 8 would produce pages faster than any GPU consumes them."""
    return min(8, os.cpu_count() or 2)


def api_keys_file() -> Path | None:
    """The file of API keys that the environment names, for commands that need no other setting."""
    path = os.environ.get(f"{PREFIX}API_KEYS_FILE")
    return Path(path) if path else None


def _default_replica() -> str:
    """The host's name, which in a container or a pod is the name of that."""
    return re.sub(r"[^A-Za-z0-9._:-]", "-", socket.gethostname()) or "replica"


class Settings(BaseSettings):
    """The settings of one service. Frozen; relations between settings are checked when they are built."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: str = Field("mtri-admin/ZipRerank", min_length=1, description="checkpoint: hub id, folder, or demo")
    revision: str | None = Field(None, description="branch, tag or commit of a hub checkpoint")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="auto, cpu, cuda or cuda:N")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="auto, bfloat16, float16 or float32"
    )
    attention: Attention = Field(
        "auto", description="auto, flash-attn (3 or 2), flash-attn-3, flash-attn-2, torch-varlen or sdpa"
    )
    vision_attention: Attention | None = Field(None, description="the same names, for the vision tower alone")
    keep_ratio: float = Field(0.5, gt=0, le=1, description="share of each page's visual tokens that is kept")
    min_keep_ratio: float = Field(
        0.25, gt=0, le=1, description="the same where a request's time is short; at most keep_ratio is used"
    )
    window_size: int = Field(20, ge=1, le=20, description="pages in one forward pass")
    stride: int = Field(10, ge=1, le=20, description="pages by which the window moves when there are more")

    window_strategy: Literal["sliding", "tournament"] = Field(
        "sliding", description="over more pages than a window: sliding (published), or tournament (fewer, side by side)"
    )
    score: Literal["auto", "softmax", "relative", "logit", "rank"] = Field(
        "auto", description="kind of scores where a request names none: auto is by the client's API"
    )
    compile: bool | Literal["auto"] = Field(
        "auto", description="on: fuse layers by torch.compile (the start takes longer); off; auto: on a card"
    )
    quantise: Literal["none", "fp8", "int8", "auto"] = Field(
        "auto",
        description="decoder's weights in 8 bits, which changes scores: none; fp8 (Ada, Hopper and newer cards); int8 (any); "
        "or auto, which takes neither where the card has room without",
    )
    feature_cache_gpu_bytes: int | None = Field(
        None,
        ge=0,
        description="page features kept on the device; 0: none; absent: all that weights and a batch leave (CPU: 1 GiB)",
    )
    feature_cache_host_bytes: int | None = Field(
        None,
        ge=0,
        description="page features kept in host memory behind it; 0: none; absent: 8 GiB beside a card, else none",
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    root_path: str = Field(
        "",
        pattern=r"^((/[A-Za-z0-9._~-]+)+)?$",
        description="path under which a proxy serves the service, such as /ranker; requests come with or without it",
    )
    trusted_proxies: str = Field(
        "127.0.0.1,::1",
        description="addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, with commas "
        "between them; *: of all; empty: of none",
    )
    cors_origins: str = Field(
        "",
        description="origins whose web pages may send requests, such as https://app.example, with commas between them; *: all; "
        "empty: none",
    )
    keep_alive_seconds: float = Field(
        75.0,
        gt=0,
        allow_inf_nan=False,
        description="a connection without a request is closed after it; longer than that of the balancer in front",
    )
    playground: bool = Field(False, description="on: the page /playground, to try the service on in a browser; off")
    api_key: SecretStr | None = Field(None, description="key that clients must send as 'Authorization: Bearer …'")
    api_keys_file: Path | None = Field(
        None, description="file of further keys, which `ziprerank keys` writes; read again when it changes"
    )
    replica: str = Field(
        default_factory=_default_replica,
        pattern=r"^[A-Za-z0-9._:-]{1,253}$",
        description="name of this process in answers (X-ZipRerank-Replica), log lines and traces; absent: the host's name",
    )
    tracing: str = Field(
        "off",
        pattern=r"^(off|otlp|file:.+)$",
        description="where spans go: off; otlp, to OTEL_EXPORTER_OTLP_ENDPOINT; or file:PATH, one line of JSON each",
    )
    tracing_documents: bool = Field(
        False, description="spans also carry the ids and scores of documents; never a query or a page"
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error")

    document_store: str = Field(
        default_factory=_default_document_store,
        min_length=1,
        description="where registered documents are stored: a folder, or s3://bucket/prefix; absent: ziprerank/documents "
        "in XDG_CACHE_HOME, else in ~/.cache",
    )
    cache_scope: Literal["shared", "per_key"] = Field(
        "shared", description="per_key: cached pages and documents are for the callers of one API key alone"
    )

    url_fetch: str = Field(
        "off",
        description="hosts that documents given by a URL are fetched from: off; public, all with public addresses; or a list, "
        "such as example.org,*.example.net,example.com:8443,http://example.com",
    )
    url_fetch_seconds: SecondsLimit = Field(
        20.0, description="longest time to fetch the documents of one request, then 422"
    )
    url_fetch_requests: OptionalCountLimit = Field(
        None,
        description="requests that fetch documents at once; more are refused with 429; absent: a quarter of "
        "max_concurrent_requests",
    )

    max_pages: CountLimit = Field(100, description="pages of one request")
    max_files: CountLimit = Field(
        100, le=1024, description="uploaded documents of one request; texts and references count as pages alone"
    )
    max_held_pages: CountLimit = Field(
        2000,
        description="new pages, of up to 2.2 MB each, that requests hold at once, and twice as many where callers share them; "
        "more are refused with 429",
    )
    max_query_characters: CountLimit = Field(4096, description="length of a query")
    max_document_pages: CountLimit = Field(1000, description="pages of one registered document")
    max_waiting_documents: CountLimit = Field(
        256, description="documents waiting to be processed; more are refused with 429"
    )
    max_connections: CountLimit = Field(
        512,
        description="open connections; one that is idle is closed for a new one, which else is refused with 503; fewer where "
        "the limit of open files (ulimit -n) demands it",
    )
    max_header_bytes: CountLimit = Field(
        32 * KIBIBYTE, ge=1024, description="size of a request's target and headers together, then 431"
    )
    max_headers: CountLimit = Field(100, ge=16, description="headers of one request, then 431")
    max_body_bytes: CountLimit = Field(32 * MEBIBYTE, description="size of a request")
    max_file_bytes: CountLimit = Field(20 * MEBIBYTE, description="size of one decoded document")
    max_image_pixels: CountLimit = Field(40_000_000, description="pixels of one image")
    on_degraded_page: Literal["auto", "error", "flag"] = Field(
        "auto",
        description="pages that lost content: error refuses them; flag marks their results as degraded; auto refuses those "
        "that lack memory, forms that are XFA only and covers of portfolios, and marks others",
    )
    max_concurrent_requests: CountLimit = Field(64, description="requests worked on at once; more are refused with 429")
    max_receiving_requests: CountLimit = Field(
        256,
        description="requests whose body is received at once; above it the slowest sender gets 408, or the new one 429",
    )
    max_in_flight_bytes: CountLimit = Field(
        512 * MEBIBYTE,
        description="bytes of all bodies, as far as they were received; a quarter more, as of the two settings above, for "
        "callers that hold no more than an equal share",
    )
    min_body_rate: CountLimit = Field(
        32 * 1024, description="bytes a second that a body brings in each body_idle_seconds, else 408"
    )

    max_batch_tokens: OptionalCountLimit = Field(
        None, description="language tokens after pruning in one batch; absent: 40,960, fewer on a small card"
    )
    max_batch_patches: OptionalCountLimit = Field(
        None, description="vision patches in one batch; absent: 131,072, fewer on a small card"
    )
    queue_limit_tokens: CountLimit = Field(
        262_144,
        description="language tokens waiting; more are refused with 429, but for callers with less than an equal share of them",
    )
    queue_seconds: SecondsLimit = Field(
        10.0, description="longest wait for a batch, then 503; 429 at once where it would be longer"
    )
    request_seconds: SecondsLimit = Field(60.0, description="longest time for one request, then 504")
    default_timeout_ms: OptionalCountLimit = Field(
        None,
        le=MAX_TIMEOUT_MS,
        description="time of requests that name none, in which less is ranked rather than nothing answered; absent: no limit",
    )
    header_seconds: SecondsLimit = Field(10.0, description="longest time from a head's first byte to its end, then 408")
    body_idle_seconds: SecondsLimit = Field(10.0, description="longest pause while a body is received, then 408")
    body_seconds: SecondsLimit = Field(120.0, description="longest time to receive a body, then 408")
    write_idle_seconds: SecondsLimit = Field(
        10.0, description="a client that takes less than 1 KiB a second of its answer for so long loses its connection"
    )
    stall_seconds: SecondsLimit = Field(30.0, description="a batch that takes longer makes the service not ready")
    stall_exit_seconds: SecondsLimit = Field(
        90.0,
        description="and one that takes longer than this ends the process with exit code 71, so that it is restarted",
    )
    page_cache_bytes: int | None = Field(
        None,
        ge=0,
        description="rendered pages kept in memory; 0: none; absent: a tenth of the feature caches, at least 1 GiB",
    )
    rasterizer_processes: CountLimit = Field(
        default_factory=_default_rasterizer_processes,
        description="worker processes that decode PDFs and images; absent: by the number of cores",
    )
    drain_delay_seconds: float = Field(5.0, ge=0, description="after SIGTERM: not ready, but still accepting")
    drain_grace_seconds: float = Field(30.0, ge=0, description="then: time for requests in flight")

    @property
    def is_key_required(self) -> bool:
        """Whether callers need an API key."""
        return self.api_key is not None or self.api_keys_file is not None

    @field_validator("document_store")
    @classmethod
    def _require_store_packages(cls, url: str) -> str:
        try:
            fsspec.get_filesystem_class(fsspec.utils.get_protocol(url))
        except ImportError as error:
            raise ValueError(f"{url} needs a package that is not installed; for s3 it is ziprerank[s3]") from error
        return url

    @field_validator("api_keys_file")
    @classmethod
    def _require_readable_keys(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_keys(path)
        return path

    @field_validator("trusted_proxies")
    @classmethod
    def _require_networks(cls, proxies: str) -> str:
        names = [name.strip() for name in proxies.split(",") if name.strip()]
        for name in names:
            if name != "*":
                try:
                    ipaddress.ip_network(name)
                except ValueError:
                    raise ValueError(f"{name!r} is no IP address or network; send such as 10.0.0.0/8, or *") from None
        return ",".join(names)

    @field_validator("cors_origins")
    @classmethod
    def _require_origins(cls, origins: str) -> str:
        names = [name.strip() for name in origins.split(",") if name.strip()]
        for name in names:
            if name != "*" and not _ORIGIN.fullmatch(name):
                raise ValueError(
                    f"{name!r} is no origin; send scheme, host and port alone, such as https://app.example"
                )
        return ",".join(names)

    @field_validator("url_fetch")
    @classmethod
    def _require_hosts(cls, hosts: str) -> str:
        parse_policy(hosts)
        return hosts

    @field_validator("tracing")
    @classmethod
    def _require_tracing_packages(cls, destination: str) -> str:
        if destination != "off" and not _is_installed("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
            raise ValueError(f"{destination} needs packages that are not installed; they are ziprerank[otel]")
        path = destination.removeprefix("file:")
        if path != destination and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise ValueError(f"there is no folder for {path}")
        return destination

    @model_validator(mode="after")
    def _require_fitting_limits(self) -> Self:
        if self.stride > self.window_size:
            raise ValueError(f"stride is {self.stride} and window_size {self.window_size}: stride may not be larger")
        if self.max_file_bytes > self.max_in_flight_bytes or self.max_body_bytes > self.max_in_flight_bytes:
            raise ValueError("max_in_flight_bytes must be at least max_body_bytes and max_file_bytes")
        if self.stall_exit_seconds < self.stall_seconds:
            raise ValueError(
                f"stall_exit_seconds is {self.stall_exit_seconds:g} and stall_seconds {self.stall_seconds:g}: the service must "
                "be not ready before it ends, so stall_exit_seconds may not be smaller"
            )
        if self.url_fetch_requests is not None and self.url_fetch_requests >= self.max_concurrent_requests:
            raise ValueError(
                f"url_fetch_requests is {self.url_fetch_requests} and max_concurrent_requests {self.max_concurrent_requests}: "
                "slow hosts would take all places, so it must be less"
            )
        return self


def _is_installed(*modules: str) -> bool:
    try:
        return all(importlib.util.find_spec(module) for module in modules)
    except ModuleNotFoundError:  # the package above it is missing too
        return False


LIMITS = tuple(name for name, field in Settings.model_fields.items() if _LIMIT in field.metadata)
"""Names of the settings that bound a client's requests; GET /info shows them."""


def read_settings(flags: dict[str, Any]) -> Settings:
    """Settings from flags over the environment. Raises ValueError, naming every setting at fault."""
    if complaints := unknown_variables(os.environ):
        raise ValueError("; ".join(complaints))
    try:
        return Settings(**flags)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            name = ".".join(str(step) for step in fault["loc"])
            complaints.append(f"{PREFIX}{name.upper()}: {fault['msg']}" if name else fault["msg"])
        raise ValueError("; ".join(complaints)) from error


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A complaint for each ZIPRERANK_ variable that names no setting."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    complaints = []
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            complaints.append(f"{name} is not a setting" + (f"; did you mean {close[0]}?" if close else "."))
    return complaints
