"""A hook of mkdocs: links from docs/ to other files of the repository, which the site does not have.

On the repository's host `[sizing](../deploy/README.md#sizing)` is a link. In the site it becomes a link into the repository
where mkdocs.yml has a `repo_url`, and else the text with the file's path behind it.
"""

import re
from typing import Any

_OUTWARD = re.compile(r"\[(?P<text>[^\]]+)\]\(\.\./(?P<path>[^)#]+)(?P<anchor>#[^)]*)?\)")


def on_page_markdown(markdown: str, /, *, config: Any, **_: Any) -> str:
    """The page that mkdocs renders."""
    return with_outward_links(markdown, repository=config.repo_url)


def with_outward_links(markdown: str, *, repository: str | None) -> str:
    """The page with its links out of docs/ replaced. `repository` is the address of its main page, None where unknown."""

    def replaced(link: re.Match[str]) -> str:
        text, path, anchor = link["text"], link["path"], link["anchor"] or ""
        if repository:
            return f"[{text}]({repository.rstrip('/')}/blob/main/{path}{anchor})"
        return f"`{path}`" if text == path else f"{text} (`{path}`)"

    return _OUTWARD.sub(replaced, markdown)
