"""The playground: a page to try the service on, whose files are shipped with the service (`playground/`)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.http.caching import cache_headers, is_known
from service.http.openapi import OperationDescription
from service.http.route_registration import serve
from service.http.route_table import PLAYGROUND, PLAYGROUND_FILE

_FOLDER = Path(__file__).with_name("playground")
_SAMPLE = Path(__file__).parents[1] / "demo" / "town-guide.pdf"
_PAGE = "index.html"
_ROOT_PATH_MARK = b"{{root}}"
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".pdf": "application/pdf"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}

PLAYGROUND_DESCRIPTIONS: Mapping[str, OperationDescription] = {
    PLAYGROUND.name: OperationDescription(
        summary="A page to try the service on",
        text="The playground, where the setting `playground` is on. It needs no key; its requests send one.",
        answer_content={"text/html": {"schema": {"type": "string"}}},
        other_answers=[304],
    ),
    PLAYGROUND_FILE.name: OperationDescription(
        summary="A file of the playground",
        text="The scripts, the style and the sample document of the playground.",
        answer_content={
            kind: {"schema": {"type": "string", "format": "binary"}} for kind in sorted(_MEDIA_TYPES.values())
        },
        other_answers=[304],
        statuses=[404],
    ),
}
"""For the API description, by the name of the route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    content: bytes
    media_type: str
    tag: str


class PlaygroundRoutes:
    """Answers requests for the page and its files, from memory."""

    def __init__(self, *, root_path: str) -> None:
        """root_path: before the paths in the page's links."""
        page = (_FOLDER / _PAGE).read_bytes().replace(_ROOT_PATH_MARK, root_path.encode())
        self._page = _file(page, "text/html")
        paths = [*(path for path in _FOLDER.iterdir() if path.suffix in _MEDIA_TYPES), _SAMPLE]
        self._files = {path.name: _file(path.read_bytes(), _MEDIA_TYPES[path.suffix]) for path in paths}

    def add_to(self, router: APIRouter) -> None:
        serve(router, PLAYGROUND, self.show_page)
        serve(router, PLAYGROUND_FILE, self.show_file)

    async def show_page(self, request: Request) -> Response:
        """The page."""
        return _answer(request, self._page)

    async def show_file(self, request: Request) -> Response:
        """A script, the style or the sample."""
        file = self._files.get(request.path_params["file"])
        if file is None:
            raise HTTPException(404)
        return _answer(request, file)


def _file(content: bytes, media_type: str) -> _File:
    return _File(content=content, media_type=media_type, tag=hashlib.sha256(content).hexdigest()[:32])


def _answer(request: Request, file: _File) -> Response:
    headers = {**_HEADERS, **cache_headers(file.tag)}
    if is_known(request.headers, file.tag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
