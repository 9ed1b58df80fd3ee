"""The table of `ziprerank doctor --plan`: the sizes of cards that have enough memory for the checkpoint, by arithmetic.

The table is Markdown that reads well in a terminal too, so deploy/README.md holds a copy of the output.
"""

import json
from collections.abc import Sequence

from model import AbsentCardPlan, CheckpointSizes, local_sizes, plan_absent_cards
from service.app import reranker_config
from service.settings import Settings

GIGABYTE = 10**9
CARD_GIGABYTES = (16, 24, 32, 40, 48, 80, 141)

_HEADINGS = ("card", "decoder", "weights", "batch", "page features", "A4 pages", "fits", "`auto` takes it on")


def plan_text(settings: Settings) -> str:
    """The source of the sizes, the table, and a legend. Raises: ConfigurationError."""
    sizes, rows = _plan(settings)
    source = f"The sizes are those of {sizes.checkpoint}, which is on this machine."
    if sizes.is_published:
        source = (
            f"{settings.model} is not on this machine, so the sizes are those of the published checkpoint "
            f"{sizes.checkpoint}."
        )
    taken = _gigabytes(rows[0].plan.taken_bytes)
    legend = (
        f"A GB is 10^9 bytes. Each plan also leaves {taken} to the CUDA context and a reserve. Cards with fp8 have compute\n"
        "capability 8.9 or higher (Ada, Hopper and newer). Cards below 8.0 (such as the T4) have no bfloat16 and run in\n"
        "float16, with the same figures. All of this is arithmetic over the checkpoint's sizes, not measured on a card."
    )
    return f"{source}\n\n{plan_table(rows)}\n\n{legend}"


def plan_json(settings: Settings) -> str:
    """One object: `checkpoint`, `is_published`, and `rows`. Raises: ConfigurationError."""
    sizes, rows = _plan(settings)
    content = {
        "checkpoint": sizes.checkpoint,
        "is_published": sizes.is_published,
        "rows": [
            {
                "card_bytes": row.card_bytes,
                "decoder": row.plan.scheme,
                "quantise": row.plan.quantise,
                "weight_bytes": row.plan.weight_bytes,
                "batch_bytes": row.plan.batch_bytes,
                "batch_tokens": row.plan.batch.tokens,
                "batch_patches": row.plan.batch.patches,
                "page_feature_bytes": row.plan.cache_bytes,
                "taken_or_reserved_bytes": row.plan.taken_bytes,
                "needed_bytes": row.plan.needed_bytes,
                "a4_pages": row.a4_pages,
                "fits": row.plan.fits,
                "is_auto_with_fp8": row.is_auto_with_fp8,
                "is_auto_without_fp8": row.is_auto_without_fp8,
            }
            for row in rows
        ],
    }
    return json.dumps(content, indent=2)


def _plan(settings: Settings) -> tuple[CheckpointSizes, list[AbsentCardPlan]]:
    sizes = local_sizes(settings.model, revision=settings.revision)
    cards = [gigabytes * GIGABYTE for gigabytes in CARD_GIGABYTES]
    return sizes, plan_absent_cards(reranker_config(settings), sizes.model_config, cards)


def plan_table(rows: Sequence[AbsentCardPlan]) -> str:
    """A Markdown table with aligned columns and one row for each card and quantisation scheme."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (cells[0], rule, *cells[1:])
    )


def _cells(row: AbsentCardPlan) -> tuple[str, ...]:
    plan = row.plan
    auto = {
        (True, True): "any such card",
        (True, False): "cards with fp8",
        (False, True): "cards without fp8",
        (False, False): "",
    }[row.is_auto_with_fp8, row.is_auto_without_fp8]
    fits = "yes" if plan.fits else f"no, needs {_gigabytes(plan.needed_bytes)}"
    return (
        f"{row.card_bytes // GIGABYTE} GB",
        plan.scheme,
        _gigabytes(plan.weight_bytes),
        _gigabytes(plan.batch_bytes),
        _gigabytes(plan.cache_bytes) if plan.fits else "none",
        f"{row.a4_pages:,}",
        fits,
        auto,
    )


def _gigabytes(byte_count: int) -> str:
    return f"{byte_count / GIGABYTE:.1f} GB"
