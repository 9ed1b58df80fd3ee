"""The open connections: how many there may be, which one is closed to make room, and which ones are checked for slowness.

A connection is checked, every tenth of a second, only while its client owes something: the rest of a head or of a body, or
the reading of an answer. So an ordinary request costs one entry in a dictionary here.
"""

import asyncio
import resource
from dataclasses import dataclass
from typing import Protocol

_LOOK_SECONDS = 0.1
_SLOW_SECONDS = 1.0
_FEWEST_CONNECTIONS = 8
_LINGERING = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """max_header_bytes: of target, headers and trailers of one request. max_headers: trailers count too.
    header_seconds: from the first byte of a head to its end. body_seconds: for the rest of a body whose request was answered.
    write_idle_seconds: after so long a client that took less than 1 KiB a second of its answer loses its connection.
    """

    max_connections: int
    max_header_bytes: int
    max_headers: int
    header_seconds: float
    body_seconds: float
    write_idle_seconds: float


class Connection(Protocol):
    """What this module asks of a connection."""

    unfinished_since: float | None
    """On the clock of the event loop: when a head began that is not complete, or the rest of a body that nobody reads."""

    unsent_since: float | None
    """On the same clock: since when the client takes too little of its answer."""

    def make_room(self) -> None:
        """End; another connection takes the place."""

    def look(self, now: float) -> None:
        """End if the client was too slow."""


class Connections:
    """Those of one server. Belongs to its event loop."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.lingering: set[Connection] = set()  # turned away, and open until the client has the answer
        self._places: set[Connection] = set()
        self._unused: dict[Connection, float] = {}  # idle since that time, before any request
        self._kept: dict[Connection, None] = {}  # idle after an answer, that idle longest first
        self._watched: dict[Connection, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, connection: Connection) -> bool:
        """Give the connection a place. False where there is none, and no other connection can be closed for it."""
        while len(self._places) >= self.limits.max_connections:
            other = self._least_useful()
            if other is None:
                return False
            self.leave(other)
            other.make_room()
        self._places.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """The connection is closed, or is being closed to make room. It is looked at until `unwatch`."""
        self._places.discard(connection)
        self._kept.pop(connection, None)
        self._unused.pop(connection, None)

    def may_linger(self) -> bool:
        """Whether a connection without a place may stay open for a moment. Each has a file of its own."""
        return len(self.lingering) < _LINGERING

    def rest(self, connection: Connection, *, is_used: bool) -> None:
        """The connection is idle from now on. is_used: it has had an answer."""
        if connection not in self._places:
            return
        if is_used:
            self._kept[connection] = None
        else:
            self._unused[connection] = asyncio.get_running_loop().time()

    def wake(self, connection: Connection, *, is_used: bool) -> None:
        """The connection is not idle any more. is_used: as in `rest`."""
        if is_used:
            self._kept.pop(connection, None)
        else:
            self._unused.pop(connection, None)

    def watch(self, connection: Connection) -> None:
        """Call `look` of the connection every tenth of a second until `unwatch`."""
        self._watched[connection] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def unwatch(self, connection: Connection) -> None:
        self._watched.pop(connection, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._watched):
            connection.look(now)
        self._timer = loop.call_later(_LOOK_SECONDS, self._look) if self._watched else None

    def _least_useful(self) -> Connection | None:
        """The first of these that there is: one unused for a second; one whose head, or rest of a body, comes slowly; an idle
        one, of the larger of the two kinds; one whose client does not read."""
        latest = asyncio.get_running_loop().time() - _SLOW_SECONDS
        unused, kept = list(self._unused), list(self._kept)
        watched = [connection for connection in self._watched if connection in self._places]
        groups = (
            [connection for connection in unused[:1] if self._unused[connection] < latest],
            [each for each in watched if each.unfinished_since is not None and each.unfinished_since < latest],
            max(kept, unused, key=len),
            [each for each in watched if each.unsent_since is not None and each.unsent_since < latest],
        )
        return next((group[0] for group in groups if group), None)


def connections_by_files(wanted: int, *, other_files: int) -> tuple[int, str]:
    """How many connections the process may have beside `other_files` files, and the reason in words.

    The process's limit of open files is raised as far as that needs and the system lets it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + other_files
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted, f"max_connections; open files: {other_files} more are kept for other uses"
    allowed = max(_FEWEST_CONNECTIONS, soft - other_files)
    return min(wanted, allowed), (
        f"the limit of {soft} open files, {other_files} of them for other uses; max_connections is {wanted}, "
        f"for which `ulimit -n` must be at least {needed}"
    )
