"""`ziprerank keys add|list|remove`: writes the file of API keys that `serve --api-keys-file` accepts."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from service.api_keys import ApiKey, KeysFileError, make_key, read_keys, write_keys

EXIT_FAILED = 1

_LIMITS = ("max_concurrent_requests", "max_pages_per_minute", "priority")


def add_keys_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `keys` to the command line."""
    keys = commands.add_parser(
        "keys",
        help="make, list and remove API keys",
        description="Writes the file of API keys that `serve --api-keys-file` accepts. A running service reads it again when "
        "it changes. Exit code 0: done; 1: the file cannot be read or written, or has no such key; 2: wrong usage.",
    )
    actions = keys.add_subparsers(dest="action", required=True)
    add = actions.add_parser("add", help="make a key, print it once, and write its hash into the file")
    add.add_argument(
        "id", help="names the caller in log lines and metrics; a second key of one id replaces the first in time"
    )
    add.add_argument(
        "--max-concurrent-requests", type=int, metavar="N", help="requests at once (default: the service's limit)"
    )
    add.add_argument(
        "--max-pages-per-minute", type=int, metavar="N", help="pages ranked in a minute (default: no limit)"
    )
    add.add_argument(
        "--priority", type=int, metavar="N", help="place of its requests in the queue: 0 (default, soonest) to 999"
    )
    show = actions.add_parser("list", help="print ids, hashes and limits")
    remove = actions.add_parser("remove", help="remove the keys of an id")
    remove.add_argument("id")
    remove.add_argument("--hash", metavar="PREFIX", help="only the key whose SHA-256 begins so, as `list` shows it")
    for action in (add, show, remove):
        action.add_argument("--file", type=Path, help="the file (default: ZIPRERANK_API_KEYS_FILE)")


def run_keys(options: argparse.Namespace, *, default_file: Path | None) -> int:
    """Run the action, and return the process's exit code. default_file: where the options name none."""
    path = options.file or default_file
    if path is None:
        print("ziprerank: name the file by --file or ZIPRERANK_API_KEYS_FILE.", file=sys.stderr)
        return EXIT_FAILED
    actions: dict[str, Callable[[argparse.Namespace, Path], None]] = {"add": _add, "list": _list, "remove": _remove}
    try:
        actions[options.action](options, path)
    except KeysFileError as error:
        print(f"ziprerank: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _add(options: argparse.Namespace, path: Path) -> None:
    key, entry = make_key(options.id, **{name: getattr(options, name) for name in _LIMITS})
    write_keys(path, [*(read_keys(path) if path.exists() else ()), entry])
    print(key)
    print(f"This is the only time that the key of {options.id} is shown; {path} has its hash alone.", file=sys.stderr)


def _list(options: argparse.Namespace, path: Path) -> None:
    keys = read_keys(path)
    width = max((len(key.id) for key in keys), default=0)
    for key in keys:
        created = time.strftime("%Y-%m-%d", time.gmtime(key.created)) if key.created else "-"
        limits = ", ".join(f"{name} {value}" for name in _LIMITS if (value := getattr(key, name)))
        print(f"{key.id:<{width}}  {key.sha256[:12]}  {created}  {limits}".rstrip())


def _remove(options: argparse.Namespace, path: Path) -> None:
    keys = read_keys(path)
    kept = [key for key in keys if not _is_meant(key, options)]
    if len(kept) == len(keys):
        raise KeysFileError(f"{path} has no such key of {options.id}.")
    write_keys(path, kept)
    print(f"removed {len(keys) - len(kept)} of {options.id}", file=sys.stderr)


def _is_meant(key: ApiKey, options: argparse.Namespace) -> bool:
    return key.id == options.id and key.sha256.startswith(options.hash or "")
