"""The page that shows the API description: Swagger UI, whose files are shipped with the service (`swagger_ui/`)."""

from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response

_FOLDER = Path(__file__).with_name("swagger_ui")
_SCRIPT, _STYLE = "swagger-ui-bundle.js", "swagger-ui.css"
_MEDIA_TYPES = {_SCRIPT: "text/javascript", _STYLE: "text/css"}
_CACHED = {"Cache-Control": "public, max-age=3600"}
_NO_ICON = "data:,"


def add_docs_page(app: FastAPI, *, root_path: str) -> None:
    """Serve the page at /docs, and what it loads below that. root_path: before the paths in its links."""
    page = get_swagger_ui_html(
        openapi_url=f"{root_path}{app.openapi_url}",
        title=app.title,
        swagger_js_url=f"{root_path}/docs/{_SCRIPT}",
        swagger_css_url=f"{root_path}/docs/{_STYLE}",
        swagger_favicon_url=_NO_ICON,
        swagger_ui_parameters={"validatorUrl": None},  # which would send the description's address to a site
    )
    for path in ("/docs", "/docs/"):
        _serve(app, path, bytes(page.body), "text/html", {})
    for name, media_type in _MEDIA_TYPES.items():
        _serve(app, f"/docs/{name}", (_FOLDER / name).read_bytes(), media_type, _CACHED)


def _serve(app: FastAPI, path: str, content: bytes, media_type: str, headers: Mapping[str, str]) -> None:
    async def endpoint() -> Response:
        return Response(content, media_type=media_type, headers=headers)

    app.add_api_route(path, endpoint, include_in_schema=False, response_class=Response)
