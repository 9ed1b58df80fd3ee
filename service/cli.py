"""The command line: `ziprerank serve`, `rank`, `doctor`, `keys`, `demo`, and the commands of training.

Every setting of the service is a flag of `serve`, documented in `settings`. The flags of `rank` are in `commands.rank`, those
of training in `commands.training`.
"""

import argparse
import sys
from collections.abc import Sequence

from pydantic_core import PydanticUndefined

from service.commands import keys, rank, training
from service.settings import PREFIX, Settings, api_keys_file, read_settings

EXIT_USAGE = 2

DOCTOR_SETTINGS = (
    "model",
    "revision",
    "device",
    "dtype",
    "attention",
    "vision_attention",
    "compile",
    "quantise",
    "feature_cache_gpu_bytes",
    "feature_cache_host_bytes",
    "max_batch_tokens",
    "max_batch_patches",
    "max_query_characters",
    "rasterizer_processes",
)
"""Settings that decide how large a machine must be: flags of `doctor`, which reads the others from the environment."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the process's exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for_demo = training.demo_arguments(arguments)
    if for_demo is not None:
        return training.run_demo_training(for_demo)
    options = build_parser().parse_args(arguments)
    if options.command in training.COMMANDS:
        return training.run_training_command(options)
    if options.command == "keys":
        return keys.run_keys(options, default_file=api_keys_file())
    if options.command == "demo":
        from service.commands.demo import run_demo

        return run_demo(once=options.once)
    flags = {name: vars(options).get(name) for name in Settings.model_fields}
    try:
        settings = read_settings({name: value for name, value in flags.items() if value is not None})
    except ValueError as error:
        print(f"ziprerank: {error}", file=sys.stderr)
        return EXIT_USAGE
    match options.command:
        case "rank":
            return rank.run_rank(options, settings)
        case "doctor":
            return _run_doctor(settings, options)
        case _:
            return _serve(settings)


def _run_doctor(settings: Settings, options: argparse.Namespace) -> int:
    from service.commands.doctor import run_doctor, run_plan

    if options.plan:
        return run_plan(settings, is_json=options.json)
    return run_doctor(settings, is_json=options.json, with_forward=options.forward)


def _serve(settings: Settings) -> int:
    from service.logs import configure_logging
    from service.server import serve  # here, so that --help needs no torch
    from service.tracing import current_ids

    configure_logging(settings.log_level, more_fields=current_ids)
    return serve(settings)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command but `train demo`, which parses its own arguments."""
    parser = argparse.ArgumentParser(prog="ziprerank", description="Ranks document pages by relevance to a query.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve",
        help="start the HTTP service",
        description=f"Starts the HTTP service. Each flag is also a variable, --max-pages being {PREFIX}MAX_PAGES; flags win.",
    )
    _add_settings(serve, list(Settings.model_fields))
    _add_settings(rank.add_rank_command(commands), rank.RANK_SETTINGS)
    doctor = commands.add_parser(
        "doctor",
        help="check whether this machine can serve the checkpoint, and recommend changes",
        description="Checks whether this machine can serve the configured checkpoint, and recommends changes. Takes the "
        "settings of `serve`: these flags and every ZIPRERANK_ variable. Exit code 0: no check failed; 1: a check failed; "
        "2: wrong usage.",
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    doctor.add_argument(
        "--plan", action="store_true", help="print whether the checkpoint fits on GPUs of 16 to 141 GB; needs no GPU"
    )
    doctor.add_argument(
        "--no-forward", dest="forward", action="store_false", help="do not load the checkpoint and rank two pages"
    )
    _add_settings(doctor, DOCTOR_SETTINGS)
    keys.add_keys_command(commands)
    demo = commands.add_parser(
        "demo", help="start the service on the bundled checkpoint, rank a bundled PDF, and serve a page to try it on"
    )
    demo.add_argument("--once", action="store_true", help="stop the service after the first answer")
    training.add_training_commands(commands)
    return parser


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """A flag for each setting."""
    for name in names:
        field = Settings.model_fields[name]
        is_computed = (
            field.default is PydanticUndefined
        )  # when settings are built; the description says from which facts
        default = "" if is_computed or field.default is None else f" (default: {field.default})"
        text = f"{field.description}{default}".replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="VALUE", help=text)
