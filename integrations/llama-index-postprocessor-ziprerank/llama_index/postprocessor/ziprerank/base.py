"""`ZipRerank`."""

import os
from collections.abc import Sequence
from typing import Literal

from llama_index.core.bridge.pydantic import Field, SecretStr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, QueryBundle
from ziprerank_client import MetadataNames, Ranked, RerankClient, to_document


def _key_of_environment() -> SecretStr | None:
    key = os.environ.get("ZIPRERANK_KEY")
    return SecretStr(key) if key else None


class ZipRerank(BaseNodePostprocessor):
    """Ranks nodes, best first.

    A node whose metadata names a registered document (and a page of it) is ranked as that page; an ImageNode, or one with an
    image in its metadata, as that image; and any other by its text. The results hold the same nodes with the model's scores.

    Refusals of the service are ziprerank_client.ZipRerankError, a RuntimeError, with the service's message.
    """

    base_url: str = Field(default_factory=lambda: os.environ.get("ZIPRERANK_URL", "http://127.0.0.1:8000"))
    api_key: SecretStr | None = Field(default_factory=_key_of_environment, exclude=True, repr=False)
    top_n: int | None = Field(3, ge=1, description="nodes in the result; None: all")
    keep_ratio: float | None = Field(None, gt=0, le=1, description="share of each page's visual tokens that is read")
    score: Literal["relative", "softmax", "rank", "logit"] = "relative"
    timeout_ms: int | None = Field(
        None, ge=1, description="within which the service answers, by a lesser ranking if need be"
    )
    on_document_error: Literal["fail", "skip"] = Field(
        "fail", description="skip: nodes that cannot be ranked come last"
    )
    max_wait_seconds: float = Field(120.0, gt=0)
    max_retries: int = Field(2, ge=0, description="after 429 and 503")
    id_field: str = "ziprerank_id"
    page_field: str = "page"
    image_field: str = "image"
    first_page: int = Field(1, description="number of a first page in the metadata: 0 for readers that count from 0")
    metadata_mode: MetadataMode = Field(MetadataMode.NONE, description="metadata that is ranked with a node's text")

    @classmethod
    def class_name(cls) -> str:
        return "ZipRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """Raises: ZipRerankError, ValueError without a query."""
        ranking = self._client().rank(_query(query_bundle), nodes, self._to_document, top_n=self.top_n)
        return _in_order(nodes, ranking)

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """Raises: ZipRerankError, ValueError without a query."""
        ranking = await self._client().arank(_query(query_bundle), nodes, self._to_document, top_n=self.top_n)
        return _in_order(nodes, ranking)

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

    def _to_document(self, scored: NodeWithScore) -> dict[str, str]:
        node = scored.node
        names = MetadataNames(
            document_id=self.id_field, page=self.page_field, image=self.image_field, first_page=self.first_page
        )
        own = _own_image(node) if isinstance(node, ImageNode) else None
        metadata = node.metadata if own is None else {self.image_field: own, **node.metadata}
        return to_document(node.get_content(metadata_mode=self.metadata_mode), metadata, names)


def _own_image(node: ImageNode) -> str | None:
    """As a data URI, a path or a URL. LlamaIndex keeps base64 without its type; the service finds that in the bytes."""
    return f"data:image/png;base64,{node.image}" if node.image else node.image_path or node.image_url


def _query(bundle: QueryBundle | None) -> str:
    if bundle is None:
        raise ValueError("There is no query; give query_str or query_bundle.")
    return bundle.query_str


def _in_order(nodes: Sequence[NodeWithScore], ranking: Sequence[Ranked]) -> list[NodeWithScore]:
    return [NodeWithScore(node=nodes[each.index].node, score=each.score) for each in ranking]
