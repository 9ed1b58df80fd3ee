"""`ZipRerankRanker`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import Secret, deserialize_secrets_inplace
from ziprerank_client import MetadataNames, Ranked, RerankClient, to_document


@component
class ZipRerankRanker:
    """Ranks documents, best first.

    A document whose meta names a registered document (and a page of it) is ranked as that page; one with an image in its meta
    or its blob as that image; and any other by its content. The results are copies with the model's score, and with
    `ziprerank_error` in their meta where on_document_error is "skip" and the document could not be ranked.

    Refusals of the service are ziprerank_client.ZipRerankError, a RuntimeError, with the service's message.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: Secret | None = Secret.from_env_var("ZIPRERANK_KEY", strict=False),  # noqa: B008  it reads no variable yet
        top_k: int | None = 10,
        keep_ratio: float | None = None,
        score: Literal["relative", "softmax", "rank", "logit"] = "relative",
        timeout_ms: int | None = None,
        on_document_error: Literal["fail", "skip"] = "fail",
        max_wait_seconds: float = 120.0,
        max_retries: int = 2,
        id_field: str = "ziprerank_id",
        page_field: str = "page",
        image_field: str = "image",
        first_page: int = 1,
    ) -> None:
        """
        :param base_url: of the service; None: the variable ZIPRERANK_URL.
        :param api_key: of the service.
        :param top_k: documents in the result; None: all.
        :param keep_ratio: share of each page's visual tokens that the model reads; None: as the service is configured.
        :param score: relative: the best document has 1.0.
        :param timeout_ms: within which the service answers, by a lesser ranking if need be.
        :param on_document_error: skip: documents that cannot be ranked come last.
        :param max_wait_seconds: for a connection, and for each part of the answer.
        :param max_retries: after 429 and 503.
        :param id_field: in meta, the id of a registered document.
        :param page_field: in meta, the number of a page.
        :param image_field: in meta, an image as bytes, data URI, URL or path.
        :param first_page: number of a first page in meta: 0 for converters that count from 0.
        """
        self._parameters = {
            "base_url": base_url,
            "top_k": top_k,
            "keep_ratio": keep_ratio,
            "score": score,
            "timeout_ms": timeout_ms,
            "on_document_error": on_document_error,
            "max_wait_seconds": max_wait_seconds,
            "max_retries": max_retries,
            "id_field": id_field,
            "page_field": page_field,
            "image_field": image_field,
            "first_page": first_page,
        }
        self._api_key = api_key
        self._top_k = top_k
        self._names = MetadataNames(document_id=id_field, page=page_field, image=image_field, first_page=first_page)
        self._client = RerankClient(
            base_url=base_url or os.environ.get("ZIPRERANK_URL", "http://127.0.0.1:8000"),
            api_key=api_key.resolve_value() if api_key else None,
            keep_ratio=keep_ratio,
            score=score,
            timeout_ms=timeout_ms,
            on_document_error=on_document_error,
            max_wait_seconds=max_wait_seconds,
            max_retries=max_retries,
        )

    def to_dict(self) -> dict[str, Any]:
        """Names the key's variable and never holds the key."""
        key = self._api_key.to_dict() if self._api_key else None
        return dict(default_to_dict(self, api_key=key, **self._parameters))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ZipRerankRanker":
        deserialize_secrets_inplace(data["init_parameters"], keys=["api_key"])
        ranker: ZipRerankRanker = default_from_dict(cls, data)
        return ranker

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Raises: ZipRerankError."""
        ranking = self._client.rank(query, documents, self._to_document, top_n=top_k or self._top_k)
        return {"documents": _in_order(documents, ranking)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Raises: ZipRerankError."""
        ranking = await self._client.arank(query, documents, self._to_document, top_n=top_k or self._top_k)
        return {"documents": _in_order(documents, ranking)}

    def _to_document(self, document: Document) -> dict[str, str]:
        blob = document.blob
        has_image = blob is not None and (blob.mime_type or "").startswith("image/")
        meta = {self._names.image: blob.data, **document.meta} if blob is not None and has_image else document.meta
        return to_document(document.content or "", meta, self._names)


def _in_order(documents: Sequence[Document], ranking: Sequence[Ranked]) -> list[Document]:
    return [
        replace(
            documents[each.index],
            score=each.score,
            meta={**documents[each.index].meta, **({"ziprerank_error": each.error} if each.error else {})},
        )
        for each in ranking
    ]
