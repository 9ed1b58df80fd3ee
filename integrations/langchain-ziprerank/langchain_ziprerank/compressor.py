"""`ZipRerankCompressor`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.exceptions import (
    LangChainException,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelInvalidRequestError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
)
from langchain_core.utils import from_env, secret_from_env
from pydantic import ConfigDict, Field, SecretStr
from ziprerank_client import MetadataNames, Ranked, RerankClient, ZipRerankError, to_document

_EXCEPTIONS: dict[int | None, type[LangChainException]] = {
    None: ModelConnectionError,
    401: ModelAuthenticationError,
    403: ModelPermissionDeniedError,
    429: ModelRateLimitError,
    504: ModelTimeoutError,
}


class ZipRerankCompressor(BaseDocumentCompressor):
    """Ranks documents, best first.

    A document whose metadata names a registered document (and a page of it) is ranked as that page, one with an image as that
    image, and any other by its text. The results are copies with `relevance_score` in their metadata, and `ziprerank_error`
    where on_document_error is "skip" and the document could not be ranked.

    Refusals of the service are LangChain's model errors, such as ModelInvalidRequestError, with the service's message.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str = Field(default_factory=from_env("ZIPRERANK_URL", default="http://127.0.0.1:8000"))
    api_key: SecretStr | None = Field(default_factory=secret_from_env("ZIPRERANK_KEY", default=None))
    top_n: int | None = Field(3, ge=1, description="documents in the result; None: all")
    keep_ratio: float | None = Field(None, gt=0, le=1, description="share of each page's visual tokens that is read")
    score: Literal["relative", "softmax", "rank", "logit"] = "relative"
    timeout_ms: int | None = Field(
        None, ge=1, description="within which the service answers, by a lesser ranking if need be"
    )
    on_document_error: Literal["fail", "skip"] = "fail"
    max_wait_seconds: float = Field(120.0, gt=0)
    max_retries: int = Field(2, ge=0, description="after 429 and 503")
    id_field: str = "ziprerank_id"
    page_field: str = "page"
    image_field: str = "image"
    first_page: int = Field(
        1, description="number of a first page in the metadata: 0 for PyPDFLoader, PyMuPDFLoader, …"
    )

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Raises: LangChainException."""
        try:
            ranking = self._client().rank(query, documents, self._to_document, top_n=self.top_n)
        except ZipRerankError as error:
            raise _exception(error) from error
        return list(_in_order(documents, ranking))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """As `compress_documents`, on the event loop. Raises: LangChainException."""
        try:
            ranking = await self._client().arank(query, documents, self._to_document, top_n=self.top_n)
        except ZipRerankError as error:
            raise _exception(error) from error
        return list(_in_order(documents, ranking))

    def _client(self) -> RerankClient:
        return RerankClient(
            base_url=self.base_url,
            api_key=self.api_key.get_secret_value() if self.api_key else None,
            keep_ratio=self.keep_ratio,
            score=self.score,
            timeout_ms=self.timeout_ms,
            on_document_error=self.on_document_error,
            max_wait_seconds=self.max_wait_seconds,
            max_retries=self.max_retries,
        )

    def _to_document(self, document: Document) -> dict[str, str]:
        names = MetadataNames(
            document_id=self.id_field, page=self.page_field, image=self.image_field, first_page=self.first_page
        )
        return to_document(document.page_content, document.metadata, names)


def _in_order(documents: Sequence[Document], ranking: Iterable[Ranked]) -> Iterator[Document]:
    for each in ranking:
        document = documents[each.index]
        facts = {"relevance_score": each.score} | ({"ziprerank_error": each.error} if each.error else {})
        yield document.model_copy(update={"metadata": {**document.metadata, **facts}})


def _exception(error: ZipRerankError) -> LangChainException:
    by_class = ModelAPIError if error.status is not None and error.status >= 500 else ModelInvalidRequestError
    return _EXCEPTIONS.get(error.status, by_class)(str(error))
