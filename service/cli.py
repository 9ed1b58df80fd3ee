"""The command line: `ziprerank serve` and `ziprerank demo`. Every setting is a flag; what it means is said in `settings`."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from service.settings import PREFIX, Settings, unknown_variables

EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the process's exit code."""
    parser = _build_parser()
    options = vars(parser.parse_args(arguments))
    command = options.pop("command")
    if command == "demo":
        from service.demo_run import run_demo

        return run_demo()
    try:
        settings = read_settings({name: value for name, value in options.items() if value is not None})
    except ValueError as error:
        print(f"ziprerank: {error}", file=sys.stderr)
        return EXIT_USAGE
    return _serve(settings)


def read_settings(flags: dict[str, Any]) -> Settings:
    """Settings from flags over the environment. Raises ValueError naming every setting at fault."""
    complaints = unknown_variables(os.environ)
    if complaints:
        raise ValueError("; ".join(complaints))
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ValueError("; ".join(_complaint(fault) for fault in error.errors(include_url=False))) from error


def _complaint(fault: Any) -> str:
    name = ".".join(str(step) for step in fault["loc"])
    return f"{PREFIX}{name.upper()}: {fault['msg']}" if name else str(fault["msg"])


def _serve(settings: Settings) -> int:
    from service.logs import configure_logging
    from service.server import serve  # here, so that --help needs no torch

    configure_logging(settings.log_level)
    return serve(settings)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ziprerank", description="Ranks document pages by relevance to a query.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve",
        help="start the HTTP service",
        description=f"Starts the HTTP service. Each flag is also a variable, --max-pages being {PREFIX}MAX_PAGES; flags win.",
    )
    for name, field in Settings.model_fields.items():
        serve.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="VALUE", help=_help(field))
    commands.add_parser("demo", help="start the service on the bundled checkpoint, rank a bundled PDF, and stop")
    return parser


def _help(field: FieldInfo) -> str:
    default = "by the number of cores" if field.default is PydanticUndefined else field.default
    shown = f" (default: {default})" if default is not None else ""
    return f"{field.description}{shown}".replace("%", "%%")
