"""From a folder of PDFs to the page images that a vision language model should answer a question from.

    pip install httpx pymupdf qdrant-client
    python examples/mrag_pipeline.py "Which page is about the weather?" service/demo/*.pdf

1. Every page goes into Qdrant (its local mode: a folder, no server) by the words of its text layer, as a sparse vector.
2. Every PDF is registered with ZipRerank once, so that requests name pages instead of sending them.
3. Qdrant finds 20 pages by BM25; ZipRerank looks at their images and puts them in order.
4. The best 3 pages are fetched as images, and `messages.json` has the chat messages for an OpenAI-compatible endpoint.

Only pages with a text layer are found by words. For scans, put an embedding of each page's image into Qdrant instead.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pymupdf
from qdrant_client import QdrantClient, models

COLLECTION, WORDS = "pages", "words"
CANDIDATES = 20  # one window: the model sees all of them together
BEST = 3
IMAGE_WIDTH = 1600  # 160, 320, 800 or 1600 pixels

# BM25's usual constants. A fixed average length lets pages be added later without touching the others.
K1, B, AVERAGE_WORDS = 1.2, 0.75, 256


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def word_id(word: str) -> int:
    """The dimension of a word: the same in every process."""
    return zlib.crc32(word.encode())


def page_vector(text: str) -> models.SparseVector:
    """BM25's weight of each word in the page. Qdrant multiplies by the rarity of the word (Modifier.IDF)."""
    words = words_of(text)
    length = 1 - B + B * len(words) / AVERAGE_WORDS
    counts = Counter(map(word_id, words))
    weights = [count * (K1 + 1) / (count + K1 * length) for count in counts.values()]
    return models.SparseVector(indices=list(counts), values=weights)


def query_vector(query: str) -> models.SparseVector:
    ids = sorted(set(map(word_id, words_of(query))))
    return models.SparseVector(indices=ids, values=[1.0] * len(ids))


def open_index(folder: Path) -> QdrantClient:
    index = QdrantClient(path=str(folder))  # QdrantClient(url=…) for a server: nothing else changes
    if not index.collection_exists(COLLECTION):
        rarity = models.SparseVectorParams(modifier=models.Modifier.IDF)
        index.create_collection(COLLECTION, sparse_vectors_config={WORDS: rarity})
    return index


def document_id(file: Path) -> str:
    """A name that changes with the bytes: 1 to 128 of the characters A-Z a-z 0-9 . _ -"""
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", file.stem)[:100]
    return f"{stem}-{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"


def add(file: Path, index: QdrantClient, service: httpx.Client) -> None:
    """Register a PDF, and put its pages into the index."""
    name = document_id(file)
    headers = {"Content-Type": "application/pdf"}
    service.put(f"/documents/{name}", content=file.read_bytes(), headers=headers).raise_for_status()
    with pymupdf.open(file) as document:
        points = [
            models.PointStruct(
                id=int(
                    hashlib.sha256(f"{name}#{number}".encode()).hexdigest()[:15], 16
                ),  # the same page, the same point
                vector={WORDS: page_vector(page.get_text())},
                payload={"document": name, "page": number, "file": str(file)},
            )
            for number, page in enumerate(document, start=1)
        ]
    index.upsert(COLLECTION, points)


def find(query: str, index: QdrantClient) -> list[dict[str, Any]]:
    """The payloads of the pages that share words with the query, best first."""
    found = index.query_points(COLLECTION, query=query_vector(query), using=WORDS, limit=CANDIDATES)
    return [point.payload for point in found.points if point.payload]


def rerank(query: str, pages: list[dict[str, Any]], service: httpx.Client) -> list[dict[str, Any]]:
    """The best pages, best first."""
    references = [f"ziprerank://{page['document']}#page={page['page']}" for page in pages]
    body = {"query": query, "documents": references, "top_n": BEST}
    answer = service.post("/v1/rerank", json=body).raise_for_status().json()
    return [{**pages[result["index"]], "score": result["relevance_score"]} for result in answer["results"]]


def save_image(page: dict[str, Any], place: int, folder: Path, service: httpx.Client) -> Path:
    path = f"/documents/{page['document']}/pages/{page['page']}/image"
    image = service.get(path, params={"width": IMAGE_WIDTH}).raise_for_status().content
    file = folder / f"{place}-{page['document']}-page-{page['page']}.jpg"
    file.write_bytes(image)
    return file


def chat_messages(query: str, images: list[Path]) -> list[dict[str, Any]]:
    """For `POST /v1/chat/completions` of an OpenAI-compatible endpoint with a vision language model."""
    question = f"Answer from these pages alone, and name the page that you used. Question: {query}"
    urls = [f"data:image/jpeg;base64,{base64.b64encode(image.read_bytes()).decode()}" for image in images]
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query")
    parser.add_argument("pdf", type=Path, nargs="+")
    parser.add_argument("--index", type=Path, default=Path("page-index"), help="Qdrant's folder")
    parser.add_argument("--found", type=Path, default=Path("found"), help="for the images and messages.json")
    given = parser.parse_args()
    root = os.environ.get("ZIPRERANK_URL", "http://127.0.0.1:8000")
    key = os.environ.get("ZIPRERANK_KEY", "none")
    index = open_index(given.index)
    with httpx.Client(base_url=root, headers={"Authorization": f"Bearer {key}"}, timeout=120) as service:
        for file in given.pdf:
            add(file, index, service)
        candidates = find(given.query, index)
        if not candidates:
            raise SystemExit(f"No page has a word of the query {given.query!r}. Ask with words of the documents.")
        best = rerank(given.query, candidates, service)
        given.found.mkdir(parents=True, exist_ok=True)
        images = [save_image(page, place, given.found, service) for place, page in enumerate(best, start=1)]
    index.close()
    for page, image in zip(best, images, strict=True):
        print(f"{page['score']:.4f}  {page['file']}, page {page['page']}  {image}")
    messages = chat_messages(given.query, images)
    (given.found / "messages.json").write_text(json.dumps(messages))
    for part in messages[0]["content"]:
        text = json.dumps(part)
        print(text if len(text) < 200 else f"{text[:100]}… ({len(text)} characters)")


if __name__ == "__main__":
    main()
