"""The command line: `ziprerank serve`, `ziprerank demo`, and the commands of training.

Every setting of the service is a flag; what it means is said in `settings`. Training's flags are in `training_commands`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from service import training_commands
from service.settings import PREFIX, Settings, unknown_variables

EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the process's exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for_demo = training_commands.demo_arguments(arguments)
    if for_demo is not None:
        return training_commands.run_demo_training(for_demo)
    options = _build_parser().parse_args(arguments)
    if options.command in training_commands.COMMANDS:
        return training_commands.run_training_command(options)
    return _run_demo() if options.command == "demo" else _run_service(vars(options))


def _run_demo() -> int:
    from service.demo_run import run_demo

    return run_demo()


def _run_service(options: dict[str, Any]) -> int:
    try:
        settings = read_settings(
            {name: value for name, value in options.items() if name != "command" and value is not None}
        )
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
    from service.tracing import current_ids

    configure_logging(settings.log_level, more_fields=current_ids)
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
    training_commands.add_training_commands(commands)
    return parser


def _help(field: FieldInfo) -> str:
    is_made = field.default is PydanticUndefined  # at the start: the description tells from what
    default = None if is_made else field.default
    shown = f" (default: {default})" if default is not None else ""
    return f"{field.description}{shown}".replace("%", "%%")
