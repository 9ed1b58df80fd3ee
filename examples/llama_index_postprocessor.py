"""LlamaIndex: a node postprocessor that ranks page images and hands on the nodes with their texts.

    pip install llama-index-postprocessor-cohere-rerank pymupdf
    python examples/llama_index_postprocessor.py "Which page is about the weather?" service/demo/town-guide.pdf

The postprocessor is LlamaIndex's own one for Cohere's API. It sends the texts of nodes, so this example gives it nodes
with references to registered pages, and afterwards takes the nodes that stand for them.
"""

import json
import os
import sys
import urllib.request
from pathlib import Path

import pymupdf
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank

ROOT = os.environ.get("ZIPRERANK_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("ZIPRERANK_KEY", "none")


class PagePostprocessor(BaseNodePostprocessor):
    """Ranks nodes by the registered pages that their metadata names (`page_id`)."""

    ranker: CohereRerank

    @classmethod
    def class_name(cls) -> str:
        return "PagePostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        references = [
            NodeWithScore(node=TextNode(text=f"ziprerank://{node.metadata['page_id']}", id_=str(place)))
            for place, node in enumerate(nodes)
        ]
        ranked = self.ranker.postprocess_nodes(references, query_bundle)
        return [NodeWithScore(node=nodes[int(each.node_id)].node, score=each.score) for each in ranked]


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
    nodes = [
        NodeWithScore(node=TextNode(text=text, metadata={"page_id": page_id}))
        for text, page_id in zip(texts, page_ids, strict=True)
    ]
    postprocessor = PagePostprocessor(ranker=CohereRerank(model="ziprerank", api_key=KEY, base_url=ROOT, top_n=3))
    for node in postprocessor.postprocess_nodes(nodes, query_str=query):
        first_line = node.text.partition("\n")[0]
        print(f"{node.score:.4f}  {node.metadata['page_id']}  {first_line}")


if __name__ == "__main__":
    main()
