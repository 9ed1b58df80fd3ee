"""Spans as the file exporter writes them, read back."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSpan:
    name: str
    kind: str
    trace_id: str  # hex, as in a traceparent
    span_id: str
    parent_id: str | None
    began: datetime
    ended: datetime
    attributes: dict[str, Any]
    linked_ids: tuple[str, ...]  # of spans
    resource: dict[str, Any]
    status: str


def read_spans(path: Path) -> list[ReadSpan]:
    """In the order of their beginnings. A line that is still being written is left out."""
    spans = [_read(json.loads(line)) for line in path.read_text().rpartition("\n")[0].splitlines()]
    return sorted(spans, key=lambda span: (span.began, -span.ended.timestamp()))


def _read(span: dict[str, Any]) -> ReadSpan:
    return ReadSpan(
        name=span["name"],
        kind=span["kind"].removeprefix("SpanKind."),
        trace_id=span["context"]["trace_id"].removeprefix("0x"),
        span_id=span["context"]["span_id"].removeprefix("0x"),
        parent_id=span["parent_id"] and span["parent_id"].removeprefix("0x"),
        began=datetime.fromisoformat(span["start_time"]),
        ended=datetime.fromisoformat(span["end_time"]),
        attributes=span["attributes"],
        linked_ids=tuple(link["context"]["span_id"].removeprefix("0x") for link in span["links"]),
        resource=span["resource"]["attributes"],
        status=span["status"]["status_code"],
    )
