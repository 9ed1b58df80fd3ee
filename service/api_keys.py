"""The file of API keys: an id, the SHA-256 of the key and optional limits for each. The keys themselves are written nowhere.

    {"keys": [{"id": "search-team", "sha256": "9f86…", "created": 1764115200, "max_concurrent_requests": 8}]}

Two entries may have one id: an old and a new key of the same caller, while the key is being replaced.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

_KEY_PREFIX = "zr_"
_KEY_BYTES = 32
_MAX_FILE_BYTES = 10 << 20
_SECONDS_BETWEEN_LOOKS = 1.0

logger = logging.getLogger(__name__)

KeyId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class KeysFileError(ValueError):
    """The file of keys cannot be read or is malformed. The message names the file and the entry."""


class ApiKey(BaseModel):
    """One accepted key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: KeyId = Field(description="names the caller in log lines and metrics; callers of one id are one tenant")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = Field(description="of the key, in hex")
    created: int = Field(0, ge=0, description="seconds since 1970; 0: not known")
    max_concurrent_requests: int | None = Field(None, ge=1, description="requests at once; null: the service's limit")
    max_pages_per_minute: int | None = Field(None, ge=1, description="pages ranked in a minute; null: no limit")
    priority: int = Field(
        0,
        ge=0,
        le=999,
        description="its share of the device beside others: at 3 a quarter of that at 0, never less than a sixteenth",
    )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[ApiKey]


_FILES = TypeAdapter(_File)


def hash_of(key: str) -> str:
    """SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_key(id: str, **limits: int | None) -> tuple[str, ApiKey]:
    """A new random key, and its entry. limits: fields of `ApiKey`; None: the default.

    Raises: KeysFileError for a malformed id or limit.
    """
    key = _KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    try:
        given = {name: limit for name, limit in limits.items() if limit is not None}
        return key, ApiKey.model_validate({"id": id, "sha256": hash_of(key), "created": int(time.time()), **given})
    except ValidationError as error:
        raise KeysFileError(_first_fault(error)) from error


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Raises: KeysFileError."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeysFileError(f"Cannot read the file of API keys {path}: {error.strerror}.") from error
    if len(text) > _MAX_FILE_BYTES:
        raise KeysFileError(f"The file of API keys {path} has over {_MAX_FILE_BYTES} bytes, which is the limit.")
    try:
        return tuple(_FILES.validate_json(text).keys)
    except ValidationError as error:
        raise KeysFileError(f"The file of API keys {path} is malformed: {_first_fault(error)}") from error


def write_keys(path: Path, keys: Sequence[ApiKey]) -> None:
    """Replace the file in one step, readable by its owner alone. Raises: KeysFileError."""
    entries = [key.model_dump(exclude_none=True) for key in keys]
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            json.dump({"keys": entries}, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
    except OSError as error:
        raise KeysFileError(f"Cannot write the file of API keys {path}: {error.strerror}.") from error


class KeyRing:
    """The accepted keys. A file is read again when it has changed; a malformed one leaves the keys as they were."""

    def __init__(
        self, *, single: str | None = None, path: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """single: a key without a file, whose id is `default`. Raises: KeysFileError."""
        self._single = () if single is None else (ApiKey(id="default", sha256=hash_of(single)),)
        self._path = path
        self._clock = clock
        self._looked_at = clock()
        self._version = _version_of(path)
        self._keys = self._single if path is None else (*self._single, *read_keys(path))

    @property
    def is_required(self) -> bool:
        """Whether callers need a key. A file without entries accepts none."""
        return bool(self._single) or self._path is not None

    def find(self, sent: str) -> ApiKey | None:
        """The entry of a key. Compares with all of them, each in constant time, so that the duration reveals none."""
        self._read_again()
        digest = hash_of(sent)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def _read_again(self) -> None:
        now = self._clock()
        if self._path is None or now - self._looked_at < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked_at = now
        if (version := _version_of(self._path)) == self._version:
            return
        self._version = version
        try:
            self._keys = (*self._single, *read_keys(self._path))
        except KeysFileError as error:
            logger.error("the keys stay as they were: %s", error)
        else:
            logger.info("read %d API keys from %s", len(self._keys) - len(self._single), self._path)


def _version_of(path: Path | None) -> tuple[int, int, int] | None:
    """Changes with the content: files are replaced as a whole, by `write_keys` and by Kubernetes."""
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return None if status is None else (status.st_ino, status.st_mtime_ns, status.st_size)


def _first_fault(error: ValidationError) -> str:
    """Place and rule; never a value, which may be a key in the wrong place."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault["loc"]).lstrip(".")
    return f"{place or 'the whole'}: {fault['msg']}."
