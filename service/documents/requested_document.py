"""One document of a request while it is loaded: which of its pages are selected, and which of those are ready."""

from contextlib import suppress

from model import TextPageFormat
from service.documents.loaded import ListedPage, LoadedPage
from service.documents.page_cache import CachedPage, ContentKey, PageCache
from service.documents.sources import Content, Source
from service.errors import PageOutOfRangeError, ServiceError
from service.raster.page import DocumentOutline, Kind
from service.raster.pool import RasterDocument


class RequestedDocument:
    """One source of a request, and the facts and pages of it that are known so far."""

    def __init__(
        self,
        source: Source,
        *,
        index: int,
        tenant: bytes,
        cache: PageCache,
        max_pages: int,
        skips_missing_pages: bool,
    ) -> None:
        self.source = source
        self.index = index
        self.pages: dict[int, CachedPage] = {}  # the selected pages that are available, by number
        self.content: Content | None = None  # once it is read
        self._tenant = tenant
        self._cache = cache
        self._max_pages = max_pages
        self._skips_missing_pages = skips_missing_pages
        self._key: ContentKey | None = None
        self._outline: DocumentOutline | None = None
        self._numbers: tuple[int, ...] = ()  # of the selected pages that are to be loaded
        self._left_out: tuple[int, ...] = ()  # of the others, which follow those
        self._identify(source.sha256, source.kind, source.outline)

    @property
    def missing(self) -> tuple[int, ...]:
        return tuple(number for number in self._numbers if number not in self.pages)

    @property
    def is_incomplete(self) -> bool:
        return self._key is None or self._outline is None or bool(self.missing)

    def read(self) -> None:
        """Blocks. Raises: ServiceError."""
        try:
            self.content = self.source.read()
        except ServiceError as error:
            raise error.at(document_index=self.index) from error
        if self._key != self._key_of(self.content.sha256, self.content.kind):
            self._identify(self.content.sha256, self.content.kind, self.content.outline)

    @property
    def read_kind(self) -> Kind:
        """The kind of its content, which was read."""
        assert self.content is not None, "only documents that were read are rendered"
        return self.content.kind

    def raster_document(self, text_page: TextPageFormat) -> RasterDocument:
        """text_page: of the model that the pages are for."""
        assert self.content is not None, "only documents that were read are rendered"
        return RasterDocument(
            index=self.index,
            data=self.content.data,
            sha256=self.content.sha256,
            kind=self.content.kind,
            outline=self._outline,
            text_page=text_page,
        )

    def take_outline(self, outline: DocumentOutline) -> None:
        """The raster pool has opened the document, or knew the outline."""
        if self._outline is None and self._key is not None:
            self._cache.put_outline(self._key, outline)
            self._find_pages(outline)

    def selected_spans(self) -> tuple[range, ...]:
        """Raises: PageOutOfRangeError; where missing pages are skipped, only if none of the selected ones exists."""
        assert self._outline is not None, "pages are selected once their number is known"
        selection, page_count = self.source.pages, self._outline.page_count
        if selection is None:
            return (range(1, page_count + 1),)
        try:
            return selection.spans(page_count)
        except PageOutOfRangeError as error:
            if self._skips_missing_pages and (existing := selection.existing_spans(page_count)):
                return existing
            raise error.at(document_index=self.index) from error

    def missing_page_error(self) -> PageOutOfRangeError | None:
        """About the first selected page that the document does not have; None: it has all of them."""
        assert self._outline is not None, "pages are selected once their number is known"
        selection, page_count = self.source.pages, self._outline.page_count
        if selection is not None:
            try:
                selection.spans(page_count)
            except PageOutOfRangeError as error:
                return error.at(document_index=self.index, page=selection.first_missing(page_count))
        return None

    def leave_out(self, number: int) -> None:
        """The page is none of the selected ones any longer."""
        self._numbers = tuple(other for other in self._numbers if other != number)

    def put_page(self, number: int, page: CachedPage) -> None:
        assert self._key is not None, "documents have a hash once they are read"
        self.pages[number] = page
        self._cache.put_page(self._key, number, page)

    def shown_number(self, number: int) -> int | None:
        return number if self._outline is not None and self._outline.is_paged else None

    @property
    def page_count(self) -> int:
        """Pages that are to be loaded."""
        return len(self._numbers)

    @property
    def ready_count(self) -> int:
        """Pages that are loaded, up to the first one that is not."""
        return next((place for place, number in enumerate(self._numbers) if number not in self.pages), self.page_count)

    def keep_first(self, count: int) -> None:
        """Load only so many of the pages."""
        self._numbers, self._left_out = self._numbers[:count], self._numbers[count:] + self._left_out

    def listed_pages(self) -> list[ListedPage]:
        return [self._listed(number) for number in self._numbers]

    def unloaded_pages(self) -> list[ListedPage]:
        return [self._listed(number) for number in self._left_out]

    def _listed(self, number: int) -> ListedPage:
        assert self._key is not None, "documents have a hash once they are read"
        page = self.pages.get(number)
        return ListedPage(
            document_index=self.index,
            number=self.shown_number(number),
            label=self._label_of(number),
            document_sha256=self._key.sha256,
            kind=self.source.kind if self.content is None else self.content.kind,
            prepared=None if page is None else page.prepared,
            degraded_reasons=() if page is None else page.degraded_reasons,
        )

    def _label_of(self, number: int) -> str:
        return self.source.label if self.shown_number(number) is None else f"{self.source.label}#page={number}"

    def loaded_pages(self) -> list[LoadedPage]:
        assert self._key is not None, "documents have a hash once they are read"
        return [
            LoadedPage(
                document_index=self.index,
                number=self.shown_number(number),
                label=self._label_of(number),
                prepared=self.pages[number].prepared,
                degraded_reasons=self.pages[number].degraded_reasons,
                document_sha256=self._key.sha256,
            )
            for number in self._numbers
        ]

    def _key_of(self, sha256: str, kind: Kind | None) -> ContentKey:
        return ContentKey(self._tenant, sha256, is_text=kind is Kind.TEXT)

    def _identify(self, sha256: str | None, kind: Kind | None, outline: DocumentOutline | None) -> None:
        """Start from the document's hash, where it is known, and find the rest in the cache."""
        self._key, self._outline, self._numbers, self._left_out, self.pages = None, None, (), (), {}
        if sha256 is not None:
            self._key = self._key_of(sha256, kind)
            if found := outline or self._cache.outline(self._key):
                self._find_pages(found)

    def _find_pages(self, outline: DocumentOutline) -> None:
        assert self._key is not None, "pages are in the cache by the document's hash"
        self._outline = outline
        with suppress(PageOutOfRangeError):  # `select_pages` raises it, when the outlines of all documents are known
            spans = self.selected_spans()
            if sum(map(len, spans)) <= self._max_pages:
                self._numbers = tuple(number for span in spans for number in span)
        for number in self._numbers:
            if page := self._cache.page(self._key, number):
                self.pages[number] = page
