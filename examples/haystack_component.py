"""Haystack: a pipeline that finds pages by BM25 over their texts and ranks their images.

    pip install cohere-haystack pymupdf
    python examples/haystack_component.py "Which page is about the weather?" service/demo/town-guide.pdf

The ranker is Haystack's own one for Cohere's API. It sends the contents of documents, so the component gives it
references to registered pages, and afterwards takes the documents that stand for them.
"""

import json
import os
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import pymupdf
from haystack import Document, Pipeline, component
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker

ROOT = os.environ.get("ZIPRERANK_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("ZIPRERANK_KEY", "none")


@component
class PageRanker:
    """Ranks documents by the registered pages that their meta names (`page_id`)."""

    def __init__(self, top_k: int) -> None:
        key = Secret.from_token(KEY)
        self.ranker = CohereRanker(model="ziprerank", api_key=key, api_base_url=ROOT, top_k=top_k)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document]) -> dict[str, list[Document]]:
        references = [
            Document(content=f"ziprerank://{document.meta['page_id']}", id=document.id) for document in documents
        ]
        by_id = {document.id: document for document in documents}
        ranked = self.ranker.run(query=query, documents=references)["documents"]
        return {"documents": [replace(by_id[each.id], score=each.score) for each in ranked]}


def register(file: Path) -> list[str]:
    """Register a PDF under its name. Returns the ids of its pages, such as `report#page=1`."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/pdf"}
    request = urllib.request.Request(f"{ROOT}/documents/{file.stem}", file.read_bytes(), headers, method="PUT")
    with urllib.request.urlopen(request) as response:
        return [page["id"] for page in json.load(response)["pages"]]


def main() -> None:
    query, file = sys.argv[1], Path(sys.argv[2])
    page_ids = register(file)
    with pymupdf.open(file) as pdf:
        texts = [page.get_text() for page in pdf]
    store = InMemoryDocumentStore()
    store.write_documents(
        [Document(content=text, meta={"page_id": page_id}) for text, page_id in zip(texts, page_ids, strict=True)]
    )
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(document_store=store, top_k=20))
    pipeline.add_component("ranker", PageRanker(top_k=3))
    pipeline.connect("retriever.documents", "ranker.documents")
    answer = pipeline.run({"retriever": {"query": query}, "ranker": {"query": query}})
    for document in answer["ranker"]["documents"]:
        first_line = document.content.partition("\n")[0]
        print(f"{document.score:.4f}  {document.meta['page_id']}  {first_line}")


if __name__ == "__main__":
    main()
