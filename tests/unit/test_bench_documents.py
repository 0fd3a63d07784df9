"""The JSON of a report is stable: what was written once is read for good.

`TRAPEZE_GOLDEN=write pytest tests/unit/test_bench_documents.py` writes the example anew; then read the difference: a
field that has another name, or is gone, breaks those who read it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest
from trapeze_bench.documents import NotAReport, dumps, field_docs, loads, schema, structs
from trapeze_bench.results import (
    FORMAT,
    Closed,
    Event,
    Fixed,
    Generator,
    Machine,
    Report,
    Result,
    Scenario,
    Standing,
    Study,
    Timeline,
)

from tests.support.benchdoc import sample

GOLDEN = Path(__file__).parent / "golden" / "bench.json"


def small() -> Report:
    """One of everything."""
    times = {"p50": [1.5], "p90": [2.5], "p99": [4.5], "p99.9": [8.0], "max": [9.25]}
    closed = Closed(16, [1000.5], times, {"timeout": 1}, 5002)
    fixed = Fixed(500.0, times, {"reset": 2}, 2500, True)
    words = ["trapeze", "serve", "app:wsgi", "--backend", "granian"]
    one = Result("trapeze+granian", "trapeze", "granian", "2.8.9", words, [closed], fixed, [0.5], native="granian")
    one.cpu_workers, one.cpu_supervisor, one.balance = [0.25], [0.0005], [1.125]
    one.pss_workers, one.pss_supervisor = [96.5], [24.0]
    other = Result("granian", "native", "granian", failed="no answer in 30 s")
    study = Study("app:wsgi", "wsgi", 4, 3, 5.0, [16], ["GET /x"], "nginx", True, False, [one, other])
    line = Timeline([0.5, 1.0], [1.5, 2.5], [(0.75, "reset")], [Event(0.6, "reload")])
    rows = [Standing("trapeze", {"lost": 1, "longest": 2.5, "by": None}, "1 lost", False, "a note", timeline=line)]
    rows.append(Standing("circus", missing="pip install circus"))
    scenario = Scenario("reload", "Who loses requests?", {"lost": "", "longest": "ms", "by": ""}, rows, True)
    machine = Machine("A processor", 2, 4096, "6.1.0", "3.11.7", {"wrk": "4.1.0"}, "0123abc+", 0.25, True)
    generator = Generator("wrk", "4.1.0", 50000.0, "nginx 1.22.1, return 200")
    return Report(machine, "2026-01-02T03:04Z", FORMAT, generator, study, [scenario])


def test_the_example_is_what_is_written() -> None:
    text = msgspec.json.format(dumps(small()), indent=2) + b"\n"
    if os.environ.get("TRAPEZE_GOLDEN") == "write":
        GOLDEN.write_bytes(text)

    assert text.decode() == GOLDEN.read_text()


def test_the_example_is_read() -> None:
    assert loads(GOLDEN.read_bytes()) == small()


def test_a_whole_run_goes_there_and_back() -> None:
    report = sample()

    assert loads(dumps(report)) == report
    assert dumps(report).count(b"\n") == 1


def test_what_a_newer_version_adds_is_passed_over() -> None:
    document = json.loads(dumps(small()))
    document["weather"] = "fine"
    document["study"]["results"][0]["joules"] = [1.0]
    document["scenarios"][0]["standings"][0]["timeline"]["colours"] = {}

    assert loads(json.dumps(document)) == small()


def test_what_an_older_version_lacked_has_a_default() -> None:
    document = json.loads(dumps(small()))
    for key in ("native", "fixed", "balance"):
        del document["study"]["results"][0][key]

    assert loads(json.dumps(document)).study.results[0].balance == []  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            json.dumps({"format": FORMAT + 1, "machine": 3}),
            f"a report of format {FORMAT + 1}: this version reads up to {FORMAT}",
        ),
        ("[]", "not a report of the bench: Expected `object`, got `array`"),
        ("{", "not a report of the bench: Input data was truncated"),
        ("{}", "not a report of the bench: Object missing required field `machine`"),
    ],
)
def test_what_is_no_report(text: str, why: str) -> None:
    with pytest.raises(NotAReport) as caught:
        loads(text)

    assert str(caught.value) == why


def test_the_schema_holds_for_what_is_written() -> None:
    validator = jsonschema.Draft202012Validator(schema())

    validator.validate(json.loads(dumps(small())))
    validator.validate(json.loads(dumps(sample(1))))
    broken = json.loads(dumps(small()))
    broken["study"]["workers"] = "four"
    assert not validator.is_valid(broken)


def test_every_field_with_a_unit_says_it() -> None:
    """A number without a word is a riddle."""
    bare = [
        f"{struct.__name__}.{field.name}"
        for struct in structs()
        for field in msgspec.structs.fields(struct)
        if re.search("int|float", str(field.type)) and field.name not in field_docs(struct)
    ]

    assert bare == []
    assert schema()["$defs"]["Machine"]["properties"]["memory"]["description"] == "MiB."
