"""`ziprerank mcp`: gives programs that speak the Model Context Protocol the registered documents of a running service."""

import argparse
import importlib.util
import os
import sys

from service.commands.server_url import is_sendable_key, is_server_url

EXIT_USAGE = 2

_URL = "http://127.0.0.1:8000"
_ANSWER_SECONDS = 120.0

_DESCRIPTION = """\
Serves the Model Context Protocol on standard input and output: tools that list the registered documents of a running service,
rank their pages by a query, and show a page as an image. A program such as an assistant starts this command itself. Needs the
extra: pip install 'ziprerank[mcp]'. Exit code 0: the input ended; 2: wrong usage, or the extra lacks."""


def add_mcp_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `mcp` to the command line."""
    parser = commands.add_parser(
        "mcp",
        help="serve the registered documents of a running service as tools of the Model Context Protocol",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", metavar="URL", help=f"address of the service (default: ZIPRERANK_URL, else {_URL})")
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help="its key; the variables ZIPRERANK_KEY and ZIPRERANK_API_KEY hide it from other users of this machine",
    )


def run_mcp(options: argparse.Namespace) -> int:
    """Serve until standard input ends, and return the process's exit code."""
    url = options.url or os.environ.get("ZIPRERANK_URL") or _URL
    key = options.api_key or os.environ.get("ZIPRERANK_KEY") or os.environ.get("ZIPRERANK_API_KEY")
    if not is_server_url(url):
        return _refuse("--url: give an address such as http://localhost:8000, and a key by --api-key.")
    if key is not None and not is_sendable_key(key):
        return _refuse("--api-key: a key has printable ASCII characters only.")
    if importlib.util.find_spec("mcp") is None:
        return _refuse("the package mcp is not installed. Install the extra: pip install 'ziprerank[mcp]'.")
    from service.commands.mcp_requests import RegisteredPages
    from service.commands.mcp_tools import serve_tools

    serve_tools(RegisteredPages(url=url.rstrip("/"), api_key=key, answer_seconds=_ANSWER_SECONDS))
    return 0


def _refuse(sentence: str) -> int:
    print(f"ziprerank: {sentence}", file=sys.stderr)
    return EXIT_USAGE
