"""`ziprerank doctor`: checks whether this machine can serve the configured checkpoint, and prints remedies if it cannot."""

import contextlib
import sys

from model import ConfigurationError
from service.commands.doctor_checks import examine
from service.commands.doctor_plan import plan_json, plan_text
from service.commands.doctor_report import Check, as_json, as_text, is_ready, verdict
from service.settings import Settings

EXIT_NOT_READY = 1
EXIT_USAGE = 2


def run_doctor(settings: Settings, *, is_json: bool, with_forward: bool) -> int:
    """Run all checks and print each as it ends. Returns the exit code: 0 when no check failed, else 1."""
    screen = sys.stdout
    checks: list[Check] = []
    with contextlib.redirect_stdout(sys.stderr):  # output of libraries is not part of the report
        for check in examine(settings, with_forward=with_forward):
            checks.append(check)
            if not is_json:
                print(as_text(check), file=screen, flush=True)
    print(as_json(checks) if is_json else f"\n{verdict(checks)}")
    return 0 if is_ready(checks) else EXIT_NOT_READY


def run_plan(settings: Settings, *, is_json: bool) -> int:
    """Print memory plans for common sizes of cards. Returns the exit code: 0, or 2 for settings that are impossible."""
    try:
        text = plan_json(settings) if is_json else plan_text(settings)
    except ConfigurationError as error:
        print(f"ziprerank: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(text)
    return 0
