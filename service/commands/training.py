"""The command line of training: `ziprerank train …` and `ziprerank label …`.

Parses the arguments and calls `model.training`, which is imported only when a command runs: it needs torch and the extra
`train`, and `--help` must work without them.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.training.label import LabelJob
    from model.training.spending import Prices

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

COMMANDS = frozenset({"train", "label"})

_PACKAGES_OF_EXTRA = frozenset({"accelerate", "openai", "pyarrow", "tensorboard", "tqdm"})
_TRAIN_DEMO = ("train", "demo")

_TRAIN = """\
Trains a reranker.

  stage1   listwise pretraining on passages that are rendered as images
  stage2   finetuning on real pages with a teacher's rankings and ground truth
  demo     the small checkpoint that is bundled with the package, from scratch

Stage 2 starts from the checkpoint that stage 1 wrote. `ziprerank train stage1 --help` has the details."""

_STAGE = """\
{purpose}

Input:  a run file in TOML: the checkpoint to start from, the training data, and your changes to the published recipe.
        model/training/runs/{template} in the package lists all keys with their meanings and published values.
Output: a folder with a checkpoint that `ziprerank serve --model FOLDER` can load, and TensorBoard logs.

To resume an interrupted run, start it again with the same command."""

_STAGE_EXAMPLES = """\
examples:
  ziprerank train {stage} my-run.toml
  ziprerank train {stage} my-run.toml --set optimiser.batch_size=1 --set model.output=trained/{stage}
  accelerate launch "$(which ziprerank)" train {stage} my-run.toml      # several GPUs, as set up by `accelerate config`"""

_STAGES = {
    "stage1": "Stage 1: learns listwise ranking from text, each passage rendered as an image (RankZephyr data).",
    "stage2": "Stage 2: learns to rank real document pages from a teacher's rankings (MMDocIR data, or your own).",
}

_LABEL = """\
Asks a large model (the teacher) to rank the candidate pages of each question. Stage 2 learns from these rankings.
Works with any endpoint that speaks OpenAI's chat protocol and accepts images.

Input:  QUESTIONS, one JSON object a line, with 2 to 20 candidates in the order of your first retrieval stage:
          {"query_id": 7, "query": "net income 2023", "doc_name": "report", "domain": "finance",
           "candidate_page_ids": [3, 8, 1], "gt_page_ids": [8]}
        PAGES, a folder of images report/3.png, report/8.png, … or parquet files in the layout of MMDocIR.
        The API key, in an environment variable; there is no flag for it, because other users can read flags.
Output: OUTPUT, the same lines, each with the teacher's ranking:
          … "openai_ranking": [1, 0, 2], "ranked_page_ids": [8, 3, 1]}
        OUTPUT with the suffix .failed.jsonl, the questions without a usable answer, each with the reason.

You can stop it at any time. When started again, it asks the questions that are not in the output yet, failed ones too.
Exit code 0: all questions were labelled; 1: some failed; 2: the command could not run, or stopped early."""

_LABEL_EXAMPLES = """\
examples:
  ziprerank label --questions ask.jsonl --pages pages/ --output labels.jsonl \\
      --base-url https://api.openai.com/v1 --model gpt-5-mini --limit 5       # try five questions first, to see the cost
  ziprerank label --questions ask.jsonl --pages *_filter.parquet --output labels.jsonl \\
      --base-url http://localhost:8001/v1 --model my-model --api-key-variable MY_KEY --requests-per-minute 600"""


def add_training_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `train` and `label` to the program's commands."""
    _add_train(commands)
    _add_label(commands)


def run_training_command(options: argparse.Namespace) -> int:
    """Run the command that `add_training_commands` parsed. Returns the exit code of the process."""
    run: Callable[[argparse.Namespace], int] = options.run
    return _report_errors_in_one_line(lambda: run(options))


def demo_arguments(arguments: Sequence[str]) -> list[str] | None:
    """The arguments after `train demo` (--help included), which the demo parses itself; None for any other command."""
    return list(arguments[2:]) if tuple(arguments[:2]) == _TRAIN_DEMO else None


def run_demo_training(arguments: Sequence[str]) -> int:
    """Run `train demo` with its own arguments. Returns the exit code of the process."""
    return _report_errors_in_one_line(lambda: _train_demo(arguments))


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    train = commands.add_parser(
        "train",
        help="train a reranker: stage1, stage2 or demo",
        description=_TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stages = train.add_subparsers(dest="stage", required=True)
    for stage, purpose in _STAGES.items():
        parser = stages.add_parser(
            stage,
            help=purpose.partition(": ")[2],
            description=_STAGE.format(purpose=purpose, template=f"{stage}.toml"),
            epilog=_STAGE_EXAMPLES.format(stage=stage),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=_train_stage)
        parser.add_argument("run_file", type=Path, metavar="RUN.toml", help="the run file")
        parser.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="SECTION.KEY=VALUE",
            help="change one value of the run file for this run; may be given again",
        )
    stages.add_parser("demo", help="train the bundled demo checkpoint from scratch", add_help=False)


def _add_label(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    label = commands.add_parser(
        "label",
        help="let a large model rank pages, as training data for stage2",
        description=_LABEL,
        epilog=_LABEL_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    label.set_defaults(run=_label)

    files = label.add_argument_group("files")
    files.add_argument("--questions", type=Path, required=True, metavar="IN.jsonl", help="questions with candidates")
    files.add_argument(
        "--pages", type=Path, required=True, nargs="+", metavar="PATH", help="a folder of images, or parquet files"
    )
    files.add_argument(
        "--output", type=Path, required=True, metavar="OUT.jsonl", help="labelled questions; lines are appended"
    )
    files.add_argument(
        "--skip-limit",
        type=int,
        default=0,
        metavar="N",
        help="unusable questions to skip with a warning; if there are more, the run stops before asking any (default: 0)",
    )

    endpoint = label.add_argument_group("endpoint")
    endpoint.add_argument("--base-url", required=True, metavar="URL", help="such as https://api.openai.com/v1")
    endpoint.add_argument("--model", required=True, metavar="NAME", help="the model's name at the endpoint")
    endpoint.add_argument(
        "--api-key-variable",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable that holds the key (default: OPENAI_API_KEY)",
    )
    endpoint.add_argument(
        "--asks",
        type=int,
        default=3,
        metavar="N",
        help="attempts to get a readable answer to a question (default: 3)",
    )
    endpoint.add_argument(
        "--timeout-seconds", type=float, default=600, metavar="S", help="time limit for one answer (default: 600)"
    )
    endpoint.add_argument(
        "--longest-edge",
        type=int,
        default=2048,
        metavar="PIXELS",
        help="larger pages are shrunk to this (default: 2048)",
    )

    limits = label.add_argument_group("limits and cost")
    limits.add_argument("--concurrency", type=int, default=8, metavar="N", help="questions at once (default: 8)")
    limits.add_argument(
        "--requests-per-minute",
        type=float,
        default=60,
        metavar="N",
        help="requests sent, retries included (default: 60)",
    )
    limits.add_argument(
        "--tokens-per-minute", type=float, metavar="N", help="tokens sent and received (default: no limit)"
    )
    limits.add_argument("--limit", type=int, metavar="N", help="ask at most this many questions in this run")
    limits.add_argument("--price-in", type=float, metavar="MONEY", help="price of a million tokens sent")
    limits.add_argument("--price-out", type=float, metavar="MONEY", help="price of a million tokens received")


def _report_errors_in_one_line(run: Callable[[], int]) -> int:
    """Call `run`. Errors that the user can correct are printed as one line and become an exit code; others stay tracebacks."""
    try:
        from model import RerankerError
        from model.training.errors import TrainingError

        try:
            return run()
        except (TrainingError, RerankerError) as error:
            return _print_error(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES_OF_EXTRA:
            raise
        return _print_error(f"the package {package} is missing. Install it: pip install 'ziprerank[train]'")
    except KeyboardInterrupt:
        _print_error("stopped. Run the same command again to resume.")
        return EXIT_INTERRUPTED


def _print_error(message: str) -> int:
    print(f"ziprerank: {message}", file=sys.stderr)
    return EXIT_USAGE


def _train_stage(options: argparse.Namespace) -> int:
    from model.training.loop import run_stage

    _configure_log("info")
    run_stage(options.stage, options.run_file, options.overrides)
    return 0


def _train_demo(arguments: Sequence[str]) -> int:
    from model.training.demo.run import main

    return main(arguments)


def _label(options: argparse.Namespace) -> int:
    from model.training.label import run_label

    job = _read_job(options)
    _configure_log("warning")
    summary = run_label(job)
    print(summary)
    return EXIT_FAILED if summary.failed else 0


def _read_job(options: argparse.Namespace) -> "LabelJob":
    from model.training.label import LabelJob
    from model.training.teacher import TeacherConfig

    return LabelJob(
        questions=options.questions,
        pages=tuple(options.pages),
        output=options.output,
        teacher=TeacherConfig(
            base_url=options.base_url,
            model=options.model,
            api_key=_read_key(options.api_key_variable),
            asks=options.asks,
            timeout_seconds=options.timeout_seconds,
            longest_edge=options.longest_edge,
        ),
        concurrency=options.concurrency,
        requests_per_minute=options.requests_per_minute,
        tokens_per_minute=options.tokens_per_minute,
        prices=_read_prices(options),
        limit=options.limit,
        skip_limit=options.skip_limit,
    )


def _read_key(variable: str) -> str:
    from model.training.errors import TeacherError

    key = os.environ.get(variable, "").strip()
    if not key:
        raise TeacherError(
            f"{variable} is not set. Set it to the API key of the endpoint, or to any word if the endpoint needs no key."
        )
    return key


def _read_prices(options: argparse.Namespace) -> "Prices | None":
    from model.training.errors import TrainingError
    from model.training.spending import Prices

    given = [price is not None for price in (options.price_in, options.price_out)]
    if any(given) and not all(given):
        raise TrainingError("One of --price-in and --price-out is missing. Give both or neither.")
    return Prices(prompt=options.price_in, completion=options.price_out) if all(given) else None


def _configure_log(level: str) -> None:
    from service.logs import configure_logging

    configure_logging(level)
