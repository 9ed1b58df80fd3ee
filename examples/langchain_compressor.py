"""LangChain: a document compressor that ranks page images and hands on the documents with their texts.

    pip install langchain-cohere pymupdf
    python examples/langchain_compressor.py "Which page is about the weather?" service/demo/town-guide.pdf

The compressor is LangChain's own one for Cohere's API. It sends the contents of documents, so this example gives it
references to registered pages, and afterwards takes the documents that stand for them.
"""

import json
import os
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pymupdf
from langchain_cohere import CohereRerank
from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document

ROOT = os.environ.get("ZIPRERANK_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("ZIPRERANK_KEY", "none")


class PageCompressor(CohereRerank):
    """Ranks documents by the registered pages that their metadata names (`page_id`)."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        references = [f"ziprerank://{document.metadata['page_id']}" for document in documents]
        return [
            documents[result["index"]].model_copy(
                update={
                    "metadata": {**documents[result["index"]].metadata, "relevance_score": result["relevance_score"]}
                }
            )
            for result in self.rerank(references, query)
        ]


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
    # Here every page is a candidate. Of many documents, a retriever finds 20 first.
    documents = [
        Document(page_content=text, metadata={"page_id": page_id})
        for text, page_id in zip(texts, page_ids, strict=True)
    ]
    compressor = PageCompressor(model="ziprerank", cohere_api_key=KEY, base_url=ROOT, top_n=3)
    for document in compressor.compress_documents(documents, query):
        first_line = document.page_content.partition("\n")[0]
        print(f"{document.metadata['relevance_score']:.4f}  {document.metadata['page_id']}  {first_line}")


if __name__ == "__main__":
    main()
