"""Pages of documents as JPEG images for people: drawn by the raster pool with the lowest priority, encoded here."""

import asyncio
import io
from concurrent.futures import Executor

from PIL import Image

from service.documents.sources import Source
from service.raster.pool import LONGEST_VIEW_EDGE, RasterDocument, Rasterizer, RasterPage

PAGE_IMAGE_WIDTHS = (160, 320, 800, 1600)
"""In pixels. Few, so that browsers and proxies find an image that they have."""

PAGE_IMAGE_TYPE = "image/jpeg"
_QUALITY = 85  # of JPEG: text keeps its edges


class PageImages:
    """Used on the event loop. At most `at_once` documents are in memory."""

    def __init__(self, rasterizer: Rasterizer, *, at_once: int) -> None:
        self._rasterizer = rasterizer
        self._places = asyncio.Semaphore(at_once)

    async def draw(self, source: Source, number: int, *, width: int, threads: Executor, share_id: str = "") -> bytes:
        """Page `number` (1-based, one that exists) as a JPEG image, at most `width` pixels wide.

        A page is not enlarged: a small image, or a page whose height is `LONGEST_VIEW_EDGE` at a smaller width, stays narrower.
        threads: the caller's, which read the document and encode the page. share_id: of the caller, see `Caller.share_id`.
        Raises: UnusableDocumentError; UnavailableError about the pool; the errors of the source's `read`.
        """
        loop = asyncio.get_running_loop()
        async with self._places:
            content = await loop.run_in_executor(threads, source.read)
            document = RasterDocument(
                index=None,
                data=content.data,
                sha256=content.sha256,
                kind=content.kind,
                outline=content.outline,
                longest_edge=LONGEST_VIEW_EDGE,
            )
            async with self._rasterizer.request([document], share_id=share_id, background=True) as request:
                await request.opened()
                [page] = await request.render_all([[number]])
            return await loop.run_in_executor(threads, _encoded, page, width)


def _encoded(page: RasterPage, width: int) -> bytes:
    image = Image.fromarray(page.pixels)
    if image.width > width:
        height = max(1, round(image.height * width / image.width))
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
