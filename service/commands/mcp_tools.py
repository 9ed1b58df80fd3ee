"""The tools of `ziprerank mcp`, on standard input and output. It alone knows the package mcp."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from typing_extensions import TypedDict

from service.commands.mcp_requests import PagesError, RegisteredPages

_INSTRUCTIONS = (
    "Finds the pages of documents that answer a question. List the documents, rank their pages by the question, then look at "
    "the best pages as images. Scores compare within one ranking only; the best page has 1.0."
)
_MOST_LISTED = 200


class RankedPage(TypedDict):
    document: str
    page: int | None  # from 1; None: the document is a single image
    score: float


class ListedDocument(TypedDict):
    document: str
    pages: int
    state: Literal["processing", "ready", "failed"]


class DocumentList(TypedDict):
    documents: list[ListedDocument]
    next: str | None  # for the documents that follow; None: there are none


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTools:
    """The functions whose names, parameters and docstrings the protocol shows to a language model."""

    pages: RegisteredPages

    def rank_pages(self, query: str, documents: list[str], top_n: int = 5) -> list[RankedPage]:
        """Rank pages of registered documents by how well they answer a query, best first.

        query: a question or keywords. documents: ids of registered documents (all pages of them) or single pages, written
        ID#page=3. top_n: how many of the best pages to return.
        """
        results = self._asked(lambda: self.pages.rank(query, documents, top_n))
        return [
            RankedPage(
                document=str(result["id"]).partition("#page=")[0], page=result["page"], score=result["relevance_score"]
            )
            for result in results
        ]

    def list_documents(self, after: str = "") -> DocumentList:
        """List the registered documents with their page counts.

        after: the `next` of the list before, for the documents that follow it.
        """
        listing = self._asked(lambda: self.pages.list(after=after, limit=_MOST_LISTED))
        documents = [
            ListedDocument(document=each["id"], pages=each["page_count"], state=each["state"])
            for each in listing["data"]
        ]
        return DocumentList(documents=documents, next=listing["next"])

    def page_image(self, document: str, page: int = 1, width: Literal[160, 320, 800, 1600] = 800) -> Image:
        """Show a page of a registered document as an image.

        document: its id. page: the number, from 1. width: pixels; 800 is enough to read most pages, 1600 small print.
        """
        return Image(data=self._asked(lambda: self.pages.image(document, page, width)), format="jpeg")

    @staticmethod
    def _asked(ask: Callable[[], Any]) -> Any:
        """Raises: ToolError, whose text the language model sees."""
        try:
            return ask()
        except PagesError as error:
            raise ToolError(str(error)) from error


def serve_tools(pages: RegisteredPages) -> None:
    """Returns when standard input ends."""
    server = MCPServer("ziprerank", instructions=_INSTRUCTIONS, log_level="WARNING")
    tools = PageTools(pages=pages)
    for tool in (tools.rank_pages, tools.list_documents, tools.page_image):
        server.add_tool(tool, annotations=ToolAnnotations(read_only_hint=True))
    server.run("stdio")
