"""Requests with mutated documents, mutated bodies and mutated JSON, in every dialect and as forms."""

import base64
import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from service.dialects.examples import DOCUMENT_EXAMPLES, REGISTERED_ID
from service.raster.page import Kind
from tests.fuzzing.mutations import flip_bits, mutated, splice, truncate
from tests.fuzzing.samples import Sample, samples
from tests.service.dialects.bodies import WIRES

_MEDIA = {Kind.PDF: ("pdf", "application/pdf"), Kind.IMAGE: ("image", "image/png")}
_CONTENT_TYPES = (
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "multipart/form-data",
    "",
    "a/b;c=d",
)
_ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e308, 10**30, "", "\0", "a" * 5000, "\u202e", [], {}, [[]], {"": {}}, [None] * 50,
    {"query": {"text": ["a"]}}, f"ziprerank://{REGISTERED_ID}#page=0", "data:;base64,", "data:image/png;base64,AAAA", "http://[",
)  # fmt: skip
_ODD_TOKENS = (
    b"NaN",
    b"1e999",
    b"-",
    b"[" * 400,
    b'{"a":' * 200,
    b"\\ud800",
    b"\xff",
    b'"',
    b"}",
    b",,",
    b"\xef\xbb\xbf",
    b"\0",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    kind: str  # for the count of outcomes
    path: str
    content_type: str
    body: bytes


def request_of(random: Random) -> Request:
    """One request; of about a third, only the document is damaged."""
    make = random.choice((_in_dialect, _in_own_format, _as_form))
    request = make(random)
    if random.random() < 0.3:
        return Request(
            kind=f"{request.kind}, damaged",
            path=random.choice((request.path, random.choice(WIRES).path)),
            content_type=request.content_type if random.random() < 0.7 else random.choice(_CONTENT_TYPES),
            body=_damaged(request.body, random),
        )
    return request


def _document(random: Random) -> tuple[Sample, bytes]:
    sample = random.choice(samples())
    return sample, mutated(sample.data, [other.data for other in samples()], random)


def _string(random: Random) -> str:
    """A document in a string, as dialects of texts send it."""
    sample, data = _document(random)
    text = base64.b64encode(data).decode()
    match random.randrange(5):
        case 0:
            return f"data:{_MEDIA[sample.kind][1]};base64,{text}"
        case 1:
            return f"data:{_MEDIA[sample.kind][1]};base64,{text}#page={random.randrange(-1, 5)}"
        case 2:
            return json.dumps({_MEDIA[sample.kind][0]: text})
        case 3:
            return data[:200].decode("latin-1")
        case _:
            return text


def _in_dialect(random: Random) -> Request:
    wire = random.choice(WIRES)
    body = wire.body("locks", [_string(random) for _ in range(random.randint(1, 3))])
    return Request(
        kind="dialect", path=wire.path, content_type="application/json", body=_json(_odd(body, random), random)
    )


def _in_own_format(random: Random) -> Request:
    if random.random() < 0.3:
        body = json.loads(json.dumps(random.choice(list(DOCUMENT_EXAMPLES.values()))))
    else:
        documents = []
        for _ in range(random.randint(1, 3)):
            sample, data = _document(random)
            field = _MEDIA[sample.kind][0]
            documents.append(
                {field: base64.b64encode(data).decode(), "pages": random.choice(("1", "1-", "0", "2,9-8"))}
            )
            if random.random() < 0.7:
                del documents[-1]["pages"]
        body = {"query": "locks", "documents": documents, "ziprerank": {"include_timings": True}}
    return Request(kind="own", path="/rerank", content_type="application/json", body=_json(_odd(body, random), random))


def _as_form(random: Random) -> Request:
    boundary = "".join(random.choices("abcXYZ019'()+_,-./:=?", k=random.choice((1, 8, 70))))
    parts = [_part(boundary, b'name="query"', b"locks")]
    for _ in range(random.randint(1, 3)):
        sample, data = _document(random)
        head = b'name="file"; filename="a.%s"\r\nContent-Type: %s' % (
            sample.kind.value.encode(),
            _MEDIA[sample.kind][1].encode(),
        )
        parts.append(_part(boundary, head, data))
    if random.random() < 0.3:
        parts.append(_part(boundary, b'name="pages"', random.choice((b"1", b"9", b"-", b"1-999999999"))))
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return Request(kind="form", path="/rerank", content_type=f'multipart/form-data; boundary="{boundary}"', body=body)


def _part(boundary: str, head: bytes, data: bytes) -> bytes:
    return b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (boundary.encode(), head, data)


def _odd(body: Any, random: Random) -> Any:
    """The body, with odd values in the place of up to two of its values in four of ten cases."""
    if random.random() < 0.6:
        return body
    for _ in range(random.randint(1, 2)):
        holder, key = random.choice(_places(body))
        holder[key] = copy.deepcopy(random.choice(_ODD_VALUES))
        if isinstance(holder, dict) and random.random() < 0.2:
            holder[random.choice(("documents", "texts", "query", "top_n", "ziprerank", "\ud800", "a" * 300))] = (
                holder.pop(key)
            )
    return body


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every value inside, by the container and the key."""
    keys: Sequence[Any] = list(value) if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    return found + [
        place for key in keys if isinstance(value[key], dict | list) and value[key] for place in _places(value[key])
    ]


def _json(body: Any, random: Random) -> bytes:
    return json.dumps(body, ensure_ascii=True, indent=random.choice((None, None, 1))).encode()


def _damaged(body: bytes, random: Random) -> bytes:
    for _ in range(random.randint(1, 3)):
        match random.randrange(5):
            case 0:
                body = truncate(body, random)
            case 1:
                body = flip_bits(body, random)
            case 2:
                body = splice(body, body, random)
            case 3:
                place = random.randrange(len(body) + 1)
                body = body[:place] + random.choice(_ODD_TOKENS) + body[place:]
            case _:
                body = re.sub(rb'"[^"]{0,40}"', lambda found: random.choice((found[0], b'""', b"7")), body, count=3)
        body = body or b" "
    return body
