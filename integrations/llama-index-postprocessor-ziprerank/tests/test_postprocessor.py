"""The postprocessor against a live service."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import ImageNode, NodeWithScore, TextNode
from llama_index.postprocessor.ziprerank import ZipRerank
from ziprerank_client import ZipRerankError


def pages_of(service: Any, *numbers: int) -> list[NodeWithScore]:
    return [
        NodeWithScore(
            node=TextNode(text="no text", metadata={"ziprerank_id": service.document, "page": number}), score=0.5
        )
        for number in numbers
    ]


def ranker(service: Any, **options: Any) -> ZipRerank:
    return ZipRerank(**{"base_url": service.url, "api_key": service.key, **options})


def test_registered_pages_are_ranked_as_pages(service: Any) -> None:
    given = pages_of(service, 1, 4, service.right_page, 9)
    ranked = ranker(service, top_n=2).postprocess_nodes(given, query_str=service.query)
    assert len(ranked) == 2
    assert ranked[0].node is given[2].node
    assert (ranked[0].score, given[2].score) == (1.0, 0.5)


@pytest.mark.parametrize("form", ["base64", "path", "metadata"])
def test_an_image_is_ranked_beside_texts_on_the_event_loop(service: Any, tmp_path: Path, form: str) -> None:
    file = tmp_path / "page.jpg"
    file.write_bytes(service.image)
    encoded = base64.b64encode(service.image).decode()
    image = {
        "base64": ImageNode(image=encoded),
        "path": ImageNode(image_path=str(file)),
        "metadata": TextNode(metadata={"image": f"data:image/jpeg;base64,{encoded}"}),
    }[form]
    given = [NodeWithScore(node=node) for node in (*(TextNode(text=text) for text in service.texts[:2]), image)]
    ranked = asyncio.run(ranker(service).apostprocess_nodes(given, query_str=service.query))
    assert len(ranked) == 3
    assert ranked[0].node is image


def test_url_and_key_are_those_of_the_environment_and_the_key_is_not_written(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZIPRERANK_URL", service.url)
    monkeypatch.setenv("ZIPRERANK_KEY", service.key)
    postprocessor = ZipRerank()
    [best, *_] = postprocessor.postprocess_nodes(pages_of(service, 1, service.right_page), query_str=service.query)
    assert best.node.metadata["page"] == service.right_page
    assert service.key not in f"{postprocessor!r} {json.dumps(postprocessor.to_dict())}"


def test_skipped_nodes_come_last(service: Any) -> None:
    given = [NodeWithScore(node=TextNode(text="x", metadata={"image": "no/file"})), *pages_of(service, 1)]
    ranked = ranker(service, on_document_error="skip").postprocess_nodes(given, query_str=service.query)
    assert [each.node for each in ranked] == [given[1].node, given[0].node]


def test_refusals_have_the_message_of_the_service(service: Any) -> None:
    with pytest.raises(ZipRerankError, match="page 999"):
        ranker(service).postprocess_nodes(pages_of(service, 999), query_str=service.query)
    with pytest.raises(RuntimeError, match="The API key is missing or wrong"):
        asyncio.run(
            ranker(service, api_key="another").apostprocess_nodes(pages_of(service, 1), query_str=service.query)
        )
    with pytest.raises(ValueError, match="There is no query"):
        ranker(service).postprocess_nodes(pages_of(service, 1))
