"""What the README says was measured is what was measured."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks import results_file
from benchmarks.report import BEGIN, END, TARGETS, Record, Target, generated, read_records, updated

MACHINE = {"device": "cpu", "processor": "a processor", "cores": 2, "python": "3.11", "torch": "2.13"}


def stage_record(device: str, *, milliseconds: float) -> Record:
    arm = {"wall_ms": {"median": milliseconds}}
    results = {
        "shape": "small", "dtype": "float32", "pages": 6, "longest_edge": 480, "arms": {"R0": "as published", "A5": "ours"},
        "keep_ratios": [{"keep_ratio": 0.5, "arms": {"R0": arm, "A5": arm}, "reference_over_arm": {"A5": 1.5}}],
    }  # fmt: skip
    content = {"command": "python -m x", "commit": "abc", "date": "2026-11-23T00:00:00", "results": results}
    return Record(name=f"stage_latency_{device}", content={**content, "machine": {**MACHINE, "device": device}})


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.path.parent.name))
def test_generating_again_changes_nothing(target: Target) -> None:
    text = target.path.read_text()
    assert updated(text, read_records(results_file.FOLDER), target) == text, "run: python -m benchmarks.report"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.path.parent.name))
def test_every_plot_that_is_shown_is_there(target: Target) -> None:
    for record in read_records(results_file.FOLDER):
        if f"{record.name}.png" in target.path.read_text():
            assert (results_file.FOLDER / f"{record.name}.png").is_file()


def test_a_card_that_was_not_at_hand_is_an_empty_cell() -> None:
    text = generated([stage_record("cpu", milliseconds=120.0)], TARGETS[0])
    assert "| 0.5 | A5: ours | 120 ms (1.50×) |  |  |" in text


def test_a_card_has_its_own_column_and_says_where_its_numbers_come_from() -> None:
    records = [stage_record("cpu", milliseconds=120.0), stage_record("NVIDIA H200", milliseconds=30.0)]
    text = generated(records, TARGETS[0])
    assert "| 0.5 | R0: as published | 120 ms |  | 30 ms |" in text
    assert "- H200: 6 pages at 480 px" in text
    assert "commit abc, 2026-11-23" in text


def test_only_what_stands_between_the_marks_changes() -> None:
    records: list[Any] = [stage_record("cpu", milliseconds=1.0)]
    text = updated(f"before\n{BEGIN}\nold\n{END}\nafter\n", records, TARGETS[0])
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text


def test_a_file_without_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs the marks"):
        updated("nothing", [], replace(TARGETS[0]))


def test_answers_in_time_are_told_by_what_was_given_up() -> None:
    cell = {
        "at_once": 4, "share": 0.5, "timeout_ms": 400, "answers": 12, "in_time": 11, "latest": 1.2, "refused": 1,
        "whole": 2, "given_up": {"keep_ratio": 5, "ranked_pages": 3, "order": 4}, "recall_at_1": 0.75, "ndcg_at_10": 0.8,
    }  # fmt: skip
    group = {
        "pages": 60, "cached": True, "undisturbed_ms": 800.0, "cells": [cell],
        "full": {"answers": 12, "recall_at_1": 1.0, "ndcg_at_10": 0.9},
    }  # fmt: skip
    content = {"command": "python -m x", "commit": "abc", "date": "2026-11-23T00:00:00", "machine": MACHINE}
    results = {"in_time": 1.1, "share_in_time": 0.99, "groups": [group]}
    records = [Record(name="deadline_cpu", content={**content, "results": results})]
    short, full = (generated(records, target) for target in TARGETS)
    assert "| 60, in the caches (800 ms) | no limit |  |  |  |  |  |  |  | 1.00 | 0.90 |" in full
    assert "| 0.5 ×, 4 at once | 11 of 12 | 2 | 5 | 0 | 3 | 4 | 1 | 0.75 | 0.80 |" in full
    assert "Answers in time" not in short


def test_a_soak_says_what_was_kept_and_which_goals_were_missed() -> None:
    record = next(record for record in read_records(results_file.FOLDER) if record.name == "soak")
    text = generated([record], TARGETS[1])
    assert "| goals missed | none |" in text
    missed = replace(
        record, content={**record.content, "results": {**record.results, "failures": {"growth over 64 MiB": 1}}}
    )
    assert "| goals missed | growth over 64 MiB |" in generated([missed], TARGETS[1])
    assert "soak" not in generated([record], TARGETS[0])
