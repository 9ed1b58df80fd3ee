"""Tables and plots of what was measured, written into README.md and benchmarks/README.md from the kept results.

    python -m benchmarks.report      # after every new result; a test checks that it has been done

Each number stands with its machine, commit, date and command. A card that was not at hand is an empty cell.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import plots, results_file
from benchmarks.attacks.attackers import ATTACKS, FEW_FILES

BEGIN = "<!-- benchmarks:begin -->"
END = "<!-- benchmarks:end -->"

SOAK = "soak"
"""Name of the one kept result of a soak."""

MACHINES = ("CPU", "H100", "H200")

_ROOT = Path(__file__).parents[1]
_ARMS_IN_SHORT = ("R0", "A5")
_SLOS_SHOWN = ("300", "1000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One kept result."""

    name: str  # its file's, without the ending
    content: Mapping[str, Any]

    @property
    def results(self) -> Any:
        return self.content["results"]

    @property
    def device(self) -> str:
        """What computed: behind HTTP the service's device, else this process's."""
        if self.name.startswith(("http_load", "overload")):
            return str(self.results["service"]["gpu"])
        return str(self.content["machine"]["device"])

    @property
    def machine(self) -> str | None:
        """Its column; None for a machine that has none."""
        return next((machine for machine in MACHINES if machine.lower() in self.device.lower()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A file that holds a generated part."""

    path: Path
    results_folder: str  # from there
    is_short: bool  # the time of one request at the first and the last arm, and the load; no plots


TARGETS = (
    Target(path=_ROOT / "README.md", results_folder="benchmarks/results", is_short=True),
    Target(path=_ROOT / "benchmarks" / "README.md", results_folder="results", is_short=False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    records = read_records(results_file.FOLDER)
    draw_plots(records, results_file.FOLDER)
    for target in TARGETS:
        target.path.write_text(updated(target.path.read_text(), records, target))


def read_records(folder: Path) -> list[Record]:
    return [Record(name=path.stem, content=json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]


def draw_plots(records: Iterable[Record], folder: Path) -> None:
    for record in records:
        if record.name.startswith("stage_latency"):
            plots.draw_stages(record.results, folder / f"{record.name}.png")
        if record.name.startswith("http_load"):
            plots.draw_load(record.results, folder / f"{record.name}.png")
        if record.name == SOAK:
            plots.draw_soak(record.results, folder / f"{record.name}.png")


def updated(text: str, records: Sequence[Record], target: Target) -> str:
    """`text` with what stands between the marks made anew. Raises: ValueError where a mark is missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{target.path.name} needs the marks {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{generated(records, target)}\n{END}{after}"


def generated(records: Sequence[Record], target: Target) -> str:
    stages = [record for record in records if record.name.startswith("stage_latency") and record.machine]
    loads = [record for record in records if record.name.startswith("http_load")]
    sections = [
        *_stage_section(stages, _ARMS_IN_SHORT if target.is_short else None),
        *_load_section(loads),
    ]
    if not target.is_short:
        sections += [
            *_deadline_section([record for record in records if record.name.startswith("deadline_")]),
            *_overload_section([record for record in records if record.name.startswith("overload")]),
            *_attack_section([record for record in records if record.name == "attacks"]),
            *(f"![{record.name}]({target.results_folder}/{record.name}.png)" for record in [*stages, *loads]),
            *_soak_section([record for record in records if record.name == SOAK]),
            _sources(records, target),
        ]
    return "\n\n".join(sections)


def _stage_section(records: Sequence[Record], arms: Sequence[str] | None) -> list[str]:
    """Wall time of one request, a column for every machine."""
    by_machine = {record.machine: record for record in records}
    descriptions = {name: adds for record in records for name, adds in record.results["arms"].items()}
    ratios = sorted({part["keep_ratio"] for record in records for part in record.results["keep_ratios"]}, reverse=True)
    rows = [
        [f"{ratio:g}", f"{arm}: {descriptions[arm]}", *(_wall(by_machine.get(name), ratio, arm) for name in MACHINES)]
        for ratio in ratios
        for arm in descriptions
        if arms is None or arm in arms
    ]
    return [
        "**One request**, from decoded pages to scores: median wall time, and how many times faster than the published path "
        "(R0). Each arm has what the arms above it have.",
        _table(["keep ratio", "arm", *MACHINES], rows),
        "\n".join(_provenance(record, _stage_facts(record)) for record in records),
    ]


def _wall(record: Record | None, ratio: float, arm: str) -> str:
    """A cell: empty where nothing was measured."""
    parts = record.results["keep_ratios"] if record else []
    for part in parts:
        if part["keep_ratio"] == ratio and arm in part["arms"]:
            milliseconds = part["arms"][arm]["wall_ms"]["median"]
            times = part["reference_over_arm"].get(arm)
            return f"{milliseconds:.0f} ms" + (f" ({times:.2f}×)" if times else "")
    return ""


def _stage_facts(record: Record) -> str:
    results = record.results
    return f"{results['pages']} pages at {results['longest_edge']} px, `{results['shape']}` shape, {results['dtype']}"


def _load_section(records: Sequence[Record]) -> list[str]:
    """What the service takes, a row for every result."""
    header = ["through HTTP", "device", "saturation, requests/s", "p50 / p95 / p99 at 70 % of it, ms"]
    header += [f"highest rate with 95 % within {slo} ms" for slo in _SLOS_SHOWN] + ["pages found in the feature cache"]
    rows = [_load_row(record) for record in records]
    shown = {record.machine for record in records}
    rows += [["", machine, *[""] * (len(header) - 2)] for machine in MACHINES if machine not in shown]
    return [
        "**The service under load**: arrivals by chance, times from when a request was due.",
        _table(header, rows),
        "\n".join(_provenance(record, _load_facts(record)) for record in records),
    ]


def _overload_section(records: Sequence[Record]) -> list[str]:
    """What a flood costs another caller, and what is left of the rate; nothing where neither was measured."""
    if not records:
        return []
    header = ["more than the service can take", "device", "the other's p95, pages: alone -> beside a flood"]
    header += ["answers of the most at 5 times the load", "p99 of a refusal, ms"]
    return [
        "**The service under too much load**: one caller floods it with 100-page requests at ten times what it can answer; "
        "then eight callers send five times what it can answer.",
        _table(header, [_overload_row(record) for record in records]),
        "\n".join(_provenance(record, f"`{record.results['workload']['send']}`") for record in records),
    ]


def _overload_row(record: Record) -> list[str]:
    runs = record.results.get("fairness", {}).get("by_pages", {})
    floods = [
        f"{pages}: {_number(run['alone']['latency_ms']['p95'])} -> {_number(run['beside_flood']['latency_ms']['p95'])} ms "
        f"({run['p95_ratio']:.2f}×)"
        for pages, run in runs.items()
    ]
    overload = record.results.get("overload")
    kept = [f"{overload['goodput_of_peak']:.0%}", _number(overload["refusal_ms"]["p99"])] if overload else ["", ""]
    return [f"`{record.results['workload']['send']}`", record.machine or record.device, "; ".join(floods), *kept]


def _attack_section(records: Sequence[Record]) -> list[str]:
    """What hostile clients cost a good one; nothing where it was not measured."""
    header = ["attack", "device", "answers a second: alone -> attacked", "p99 of /livez, ms: alone -> attacked"]
    rows = [
        [
            _attack_description(name),
            record.machine or record.device,
            f"{attack['answers_per_second_alone']:.1f} -> {attack['answers_per_second']:.1f} ({attack['share']:.0%})",
            f"{attack['livez_p99_ms_alone']:.1f} -> {attack['livez_p99_ms']:.1f}",
        ]
        for record in records
        for name, attack in record.results["attacks"].items()
    ]
    if not rows:
        return []
    return [
        "**The service under attack**: a client that sends small requests one after the other, and a probe of `/livez` 20 "
        "times a second, while other clients misbehave on the same machine.",
        _table(header, rows),
        "\n".join(_provenance(record, "the demo checkpoint") for record in records),
    ]


def _attack_description(name: str) -> str:
    if name == FEW_FILES:
        return "connections without a request (400), where 256 files may be open"
    attack = ATTACKS[name]
    return f"{attack.description} ({attack.connections:,} connections)"


def _load_row(record: Record) -> list[str]:
    results = record.results
    step = next(step for step in results["open_loop"] if step["load"] == 0.7)
    latency = " / ".join(_number(step["latency_ms"][name]) for name in ("p50", "p95", "p99"))
    rates = [_number(results["highest_rate_per_second"][slo]["95%"], places=2) for slo in _SLOS_SHOWN]
    hits = step["cache_hit_rate"]["vision"]
    workload = results["workload"]
    return [
        f"{workload['pages']} pages ({workload['send']}), keep ratio {workload['keep_ratio']:g}{_caches(workload)}",
        record.machine or record.device,
        _number(results["saturation_per_second"], places=2),
        latency,
        *rates,
        "" if hits is None else f"{hits:.0%}",
    ]


def _caches(workload: Mapping[str, Any]) -> str:
    is_off = "--feature-cache-gpu-bytes 0" in " ".join(workload["service_flags"])
    return ", caches off" if is_off else ""


def _deadline_section(records: Sequence[Record]) -> list[str]:
    """The work that requests gave up for their time: rows by the length of the lists, the caches and the time."""
    if not records:
        return []
    header = ["pages", "time, of the undisturbed", "in time", "all of the work", "lower keep ratio", "tournament"]
    header += ["fewer pages or windows", "given order", "refused", "Recall@1", "nDCG@10"]
    rows = [row for record in records for group in record.results["groups"] for row in _deadline_rows(group)]
    return [
        "**Answers in time**: requests that name a share of the time that their lists take undisturbed, one at a time and "
        f"several at once; an answer is in time within {records[0].results['in_time']:g} times it.",
        _table(header, rows),
        "\n".join(_provenance(record, "the demo checkpoint, made-up pages") for record in records),
    ]


def _deadline_rows(group: Mapping[str, Any]) -> Iterable[list[str]]:
    pages = f"{group['pages']}, {'in the caches' if group['cached'] else 'new'} ({group['undisturbed_ms']:.0f} ms)"
    full = group["full"]
    yield [pages, "no limit", *[""] * 7, f"{full['recall_at_1']:.2f}", f"{full['ndcg_at_10']:.2f}"]
    for cell in group["cells"]:
        count, given_up = cell["answers"], cell["given_up"]
        fewer = max(given_up.get("ranked_pages", 0), given_up.get("windows", 0))
        parts = [cell["whole"], *(given_up.get(name, 0) for name in ("keep_ratio", "window_strategy"))]
        parts += [fewer, given_up.get("order", 0), cell["refused"]]
        yield [
            pages,
            f"{cell['share']:g} ×, {cell['at_once']} at once",
            f"{cell['in_time']} of {count}",
            *map(str, parts),
            f"{cell['recall_at_1']:.2f}",
            f"{cell['ndcg_at_10']:.2f}",
        ]


def _soak_section(records: Sequence[Record]) -> list[str]:
    """Memory, resources and scores of a service under load for a long time."""
    sections = []
    for record in records:
        results = record.results
        hostile = sum(results["hostile"].values())
        kept = ", ".join(
            f"{name.replace('_', ' ')} {pair['before']} → {pair['after']}"
            for name, pair in results["resources"].items()
        )
        memory = results["resident_mebibytes"]
        rows = [
            [
                "ordinary requests",
                f"{sum(results['good'].values())}, of which {results['good'].get('200', 0)} answered with 200",
            ],
            ["hostile requests", f"{hostile}, of which {results['server_errors']} were server errors"],
            ["latency p50 / p99, ms", " / ".join(_number(results["latency_ms"][name]) for name in ("p50", "p99"))],
            ["resident memory after the warm-up → at the end, MiB", f"{memory['before']:.0f} → {memory['after']:.0f}"],
            ["held at rest after the warm-up → at the end", kept],
            ["canaries", f"{results['canaries']}, all with the same bits" if results["canaries_alike"] else "differ"],
            ["goals missed", "; ".join(results["failures"]) or "none"],
        ]
        sections += [
            f"**{results['seconds']:g} s under load** (`soak`), {results['arrivals_per_second']:.1f} requests a second, "
            "a tenth of them hostile.",
            _table(["", ""], rows),
            _provenance(record, f"checkpoint demo, seed {results['seed']}"),
            f"![{record.name}](results/{record.name}.png)",
        ]
    return sections


def _number(value: float | None, *, places: int = 0) -> str:
    return "none" if value is None else f"{value:.{places}f}"


def _load_facts(record: Record) -> str:
    workload, service = record.results["workload"], record.results["service"]
    return (
        f"`{workload['send']}`, checkpoint {service['model']}, {service['dtype']}, {workload['corpus_pages']} different "
        f"pages, Zipf exponent {workload['zipf']:g}"
    )


def _provenance(record: Record, facts: str) -> str:
    content = record.content
    return (
        f"- {record.machine or record.device}: {facts}; {_machine(content['machine'])}; `{content['command']}`; "
        f"commit {content['commit']}, {content['date'][:10]}"
    )


def _machine(machine: Mapping[str, Any]) -> str:
    card = "" if machine["device"] == "cpu" else f"{machine['device']}, "
    return f"{card}{machine['cores']} cores ({machine['processor']}), torch {machine['torch']}"


def _sources(records: Sequence[Record], target: Target) -> str:
    """Every kept result."""
    rows = [
        [
            f"[{record.name}]({target.results_folder}/{record.name}.json)",
            f"`{record.content['command']}`",
            record.device,
            record.content["commit"],
            record.content["date"][:10],
        ]
        for record in records
    ]
    return "**All kept results**\n\n" + _table(["result", "command", "device", "commit", "date"], rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
