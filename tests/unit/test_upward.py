"""The words of STATUS, and what two outputs of one error have in common."""

from __future__ import annotations

from tests.support.fakehost import FakeHost
from trapeze.chronicle import likeness
from trapeze.spec import RestartSpec, ServiceSpec
from trapeze.upward import words


def web(workers: int = 2, **fields: object) -> FakeHost:
    return FakeHost(ServiceSpec(app="shop:app", workers=workers, preload=False, **fields))  # type: ignore[arg-type]


def test_what_runs_is_said_plainly() -> None:
    host = web()
    assert words([host.service]).startswith("web: 0 of 2 ready")

    host.all_ready()

    assert words([host.service]).startswith("web: 2 of 2 ready")


def test_what_wants_attention_comes_first() -> None:
    """With the name of its status."""
    fine, broken = web(), web(1, restart=RestartSpec(intensity=1))
    fine.all_ready()
    broken.service.name = "jobs"
    broken.newest().exit(7)
    broken.go()

    assert words([fine.service, broken.service]).startswith("jobs FAILED: worker 0 exited with status 7")


def test_it_is_one_line_of_bounded_length() -> None:
    host = web(1, restart=RestartSpec(intensity=1))
    host.service.name = "web\nREADY=1\n"

    text = words([host.service] * 100)

    assert len(text) <= 400
    assert "\n" not in text
    assert text.endswith(" ...")


def test_one_error_twice() -> None:
    """Pids, addresses, ports, times and ids differ each time; the file, the line and the words do not."""
    first = [
        '  File "/srv/v1/shop.py", line 57, in connect',
        "10.0.0.1:5432 refused at 12:03:11,5, pid 4711 <0x7f1a>",
    ]
    again = [
        '  File "/srv/v1/shop.py", line 57, in connect',
        "10.0.0.1:5433 refused at 12:03:12,9, pid 4802 <0x7fff>",
    ]
    assert likeness(first) == likeness(again)

    uuid = "order 1b4e28ba-2fa1-11d2-883f-0016d3cca427"
    assert likeness([uuid]) == likeness(["order deadbee5-2fa1-11d2-883f-0016d3cca427"])


def test_two_errors() -> None:
    assert likeness(['  File "shop.py", line 57']) != likeness(['  File "shop.py", line 58'])
    assert likeness(["cannot reach the broker"]) != likeness(["cannot reach the database"])
    assert likeness(["deadbeef"]) != likeness(["feedface"]), "a word is no number"
