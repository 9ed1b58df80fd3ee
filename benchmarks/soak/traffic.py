"""The requests of a soak: ordinary ones, and hostile ones by kind, all drawn by a seeded generator."""

import asyncio
import base64
import io
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from benchmarks.paper import make_pdf, page_text

MAX_PAGES = 20
MAX_BODY_BYTES = 2 << 20
BODY_IDLE_SECONDS = 3
"""Limits of the service, low so that requests over them are cheap to send."""

PATIENCE_SECONDS = 60.0
"""For the end of a hostile request; the limits above end it long before."""

_IMAGES, _PDFS = 60, 12
_EDGE = 320
_NO_STATUS = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Documents that come again, so that caches fill up and their entries are replaced."""

    images: tuple[bytes, ...]
    pdfs: tuple[bytes, ...]


def make_corpus() -> Corpus:
    pdfs = tuple(make_pdf(range(2 * number, 2 * number + 2)) for number in range(_PDFS))
    return Corpus(images=tuple(_make_image(number) for number in range(_IMAGES)), pdfs=pdfs)


def _make_image(number: int) -> bytes:
    image = Image.new("RGB", (_EDGE, _EDGE), "white")
    ImageDraw.Draw(image).multiline_text((8, 8), "\n".join(page_text(number)), fill="black")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


def good_body(corpus: Corpus, random: Random) -> bytes:
    """One to three images, or pages of a PDF."""
    if random.random() < 0.15:
        documents = [_document("pdf", random.choice(corpus.pdfs))]
    else:
        documents = [_document("image", image) for image in random.sample(corpus.images, random.randint(1, 3))]
    return _rerank_body(documents)


def canary_body(corpus: Corpus) -> bytes:
    """The request whose scores must never change."""
    return _rerank_body([_document("image", image) for image in corpus.images[:3]])


def _document(kind: str, data: bytes) -> dict[str, str]:
    return {kind: base64.b64encode(data).decode()}


def _rerank_body(documents: list[dict[str, str]]) -> bytes:
    return json.dumps({"query": "locks and keys", "documents": documents, "ziprerank": {"score": "logit"}}).encode()


def post(body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A POST /rerank as it goes over the wire. length: that it declares; None: the body's."""
    lines = [
        "POST /rerank HTTP/1.1", "Host: ziprerank", "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}", *headers,
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where hostile requests go."""

    host: str
    port: int


async def exchange(service: Service, data: bytes, *, ends_sending: bool = False) -> str:
    """Send the bytes and wait until the service has answered and closed, or answered: the status, or "closed" without one."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            writer.write(data)
            if ends_sending:
                writer.write_eof()
            line = await reader.readline()
    except ConnectionError:
        return _NO_STATUS
    finally:
        writer.close()
    return line.split()[1].decode() if line.startswith(b"HTTP/1.") else _NO_STATUS


async def broken_document(service: Service, corpus: Corpus, random: Random) -> str:
    """Cut off, or with a piece overwritten."""
    kind, files = random.choice((("image", corpus.images), ("pdf", corpus.pdfs)))
    data = bytearray(random.choice(files))
    if random.random() < 0.5:
        del data[random.randrange(len(data)) :]
    else:
        place = random.randrange(len(data))
        data[place : place + 40] = random.randbytes(40)
    return await exchange(service, post(_rerank_body([_document(kind, bytes(data))])))


async def endless_document(service: Service, corpus: Corpus, random: Random) -> str:
    """A PDF of 3 KB that no renderer finishes: forms that draw each other ten times, twelve levels deep."""
    form = b"/Type/XObject/Subtype/Form/BBox[0 0 100 100]"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 100 100]/Contents 4 0 R/Resources<</XObject<</X 5 0 R>>>>>>",
        b"<</Length 5>>\nstream\n/X Do\nendstream",
        *(
            b"<<%s/Resources<</XObject<</X %d 0 R>>>>/Length 60>>\nstream\n%s\nendstream"
            % (form, 6 + level, b"/X Do " * 10)
            for level in range(12)
        ),
        b"<<%s/Length 15>>\nstream\n0 0 10 10 re f \nendstream" % form,
    ]
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (number, text) for number, text in enumerate(objects, start=1))
    # A comment with chance in it: a document that has killed two workers is refused without being drawn.
    pdf = b"%%PDF-1.7\n%%%d\n" % random.getrandbits(60) + body + b"trailer\n<</Root 1 0 R/Size 20>>\n"
    return await exchange(service, post(_rerank_body([_document("pdf", pdf)])))


async def slow_sender(service: Service, corpus: Corpus, random: Random) -> str:
    """Half a body, and then nothing."""
    body = good_body(corpus, random)
    return await exchange(service, post(body[: len(body) // 2], length=len(body)))


async def huge_head(service: Service, corpus: Corpus, random: Random) -> str:
    return await exchange(service, post(b"{}", *(f"X-{number}: {'a' * 4000}" for number in range(50))))


async def not_http(service: Service, corpus: Corpus, random: Random) -> str:
    return await exchange(service, random.randbytes(random.randint(1, 2000)) + b"\r\n\r\n", ends_sending=True)


async def malformed_json(service: Service, corpus: Corpus, random: Random) -> str:
    """With one byte that JSON cannot have."""
    body = bytearray(good_body(corpus, random))
    body[random.randrange(40)] = random.choice(b"\x00\xff")
    return await exchange(service, post(bytes(body)))


async def too_many_pages(service: Service, corpus: Corpus, random: Random) -> str:
    return await exchange(service, post(_rerank_body([_document("image", corpus.images[0])] * (MAX_PAGES + 1))))


async def too_large(service: Service, corpus: Corpus, random: Random) -> str:
    """Declared and sent, or only declared."""
    body = b" " * (MAX_BODY_BYTES + 1) if random.random() < 0.5 else b""
    return await exchange(service, post(body, length=MAX_BODY_BYTES + 1))


async def disconnect(service: Service, corpus: Corpus, random: Random) -> str:
    """Gone in the middle of the body, after it, or a moment later, when work has begun."""
    _, writer = await asyncio.open_connection(service.host, service.port)
    data = post(good_body(corpus, random))
    writer.write(data[: random.choice((60, len(data) // 2, len(data)))])
    await writer.drain()
    await asyncio.sleep(random.choice((0.0, 0.01, 0.1)))
    writer.transport.abort()
    return _NO_STATUS


Hostile = Callable[[Service, Corpus, Random], Coroutine[Any, Any, str]]
HOSTILE: tuple[Hostile, ...] = (
    broken_document,
    broken_document,
    slow_sender,
    huge_head,
    not_http,
    malformed_json,
    too_many_pages,
    too_large,
    disconnect,
    disconnect,
)
"""Drawn with equal shares."""

ENDLESS_SHARE = 0.02
"""Of the hostile requests, those with an endless document: each costs a raster worker 5 s and its life."""


def draw_hostile(random: Random) -> Hostile:
    return endless_document if random.random() < ENDLESS_SHARE else random.choice(HOSTILE)
