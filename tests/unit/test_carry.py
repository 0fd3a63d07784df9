"""The document of an upgrade in place: complete, tolerant, and refused in words where it cannot be understood."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from trapeze import carry, saving, upgrade
from trapeze.carry import CannotRead, Document, KeptGeneration, KeptProcess, KeptService, KeptSocket
from trapeze.chronicle import Chronicle
from trapeze.following import Kept
from trapeze.generation import Generation
from trapeze.ledger import Ledger
from trapeze.lifecycle import State
from trapeze.machine import Machine
from trapeze.orders import Order, found_in
from trapeze.planner import Want
from trapeze.process import Process, Timeouts
from trapeze.service import Service
from trapeze.sockets import ListenSocket
from trapeze.spec import Config, ServiceSpec, SocketSpec
from trapeze.status import Status, Transition
from trapeze.supervisor import Supervisor
from trapeze.trial import Trial
from trapeze.vigil import Vigil
from trapeze.zygotes import Zygotes

# -- nothing is forgotten ---------------------------------------------------------------------------------------------

CARRIED: dict[type, set[str]] = {
    Process: {*saving._SAME, "held", "own", "tail", "_deadlines", "_timeouts", "_verdict"},
    Service: {
        *("name", "generations", "want", "good", "past", "processes", "waiting_for", "steps_done", "facts", "begun"),
        *("top", "orders", "ledger", "zygotes", "vigil", "trial"),
    },
    Trial: {"unbroken"},
    Ledger: {"history", "standing", "restarts", "finished", "failure", "output"},
    Zygotes: {"reasons", "imported", "again", "_history"},
    Vigil: {"board", "_terms", "_dumping"},
    Machine: {"clock", "chronicle", "services", "status", "rollbacks", "removed", "started", "_ids"},
    Chronicle: {"log", "_said", "_reported"},
    Supervisor: {"resolved", "sockets", "journal", "machine", "image", "image_since", "terminal", "nofile", "open"},
}
"""By class: attributes that are in the document, in whatever form."""

LEFT: dict[type, dict[str, str]] = {
    Process: {
        "handle": "made anew of the descriptors",
        "outcome": "of one that has been buried",
        "stop_probe": "probes are begun anew",
    },
    Service: {
        "host": "the new one",
        "frozen": "new code may do what the old could not",
        "wake_at": "found at the first reaction",
        "last_out": "looks at the sockets themselves",
    },
    Trial: {"_service": "the new one"},
    Ledger: {},
    Zygotes: {"_said": "an import that still fails may be said once more", "_service": "the new one"},
    Vigil: {"_service": "the new one"},
    Machine: {
        "error": "of an end, or of a bug of the old program",
        "stopping": "then there is no upgrade",
        "finished": "then there is no upgrade",
        "at_shutdown": "said anew by those who wait",
        "processors": "counted anew",
        "_fail_fast": "of the command line",
        "first": "after an upgrade no failure ends everything",
        "give_back": "the new one",
        "_sweep": "the new one",
        "_loop": "the new one",
        "_launcher": "its children are those of the processes",
        "_touched": "all react at first",
        "_scheduled": "the same",
        "_timer": "the same",
    },
    Chronicle: {
        "_clock": "the machine's",
        "_journal": "the supervisor's",
        "when_failed": "said anew",
        "suggests": "what runs has run before",
    },
    Supervisor: {
        "upgrade": "the new one",
        "load": "of the command line",
        "resident": "the new one",
        "_identity": "the new one",
        "_reloading": "free, or there is no upgrade",
        "at_reload": "said anew",
        "_watches": "begun anew",
        "fronting": "where the file is follows from the name, and what it says stands in it",
    },
}
"""Attributes that are not, and why."""


def assigned(kind: type) -> set[str]:
    """What `__init__` assigns to self."""
    source = inspect.getsource(kind.__init__)  # type: ignore[misc]
    found = set()
    for line in source.splitlines():
        head = line.strip().partition(" = ")[0] if " = " in line else ""
        for word in head.replace(":", ",").split(","):
            word = word.strip()
            if word.startswith("self.") and word.removeprefix("self.").isidentifier():
                found.add(word.removeprefix("self."))
    return found


@pytest.mark.parametrize("kind", CARRIED, ids=lambda kind: kind.__name__)
def test_every_attribute_is_carried_or_left_for_a_reason(kind: type) -> None:
    """Whoever adds one decides: put it into the document (`saving`, `resume`), or say in LEFT why not."""
    known = CARRIED[kind] | set(LEFT[kind])

    assert assigned(kind) == known
    assert not CARRIED[kind] & set(LEFT[kind])


def test_sockets_and_generations_are_whole() -> None:
    assert set(Generation.__struct_fields__) == set(KeptGeneration.__struct_fields__)
    fields = {"name", "address", "sock", "fd", "spec", "file", "borrowed", "reserved", "pending", "slot"}
    assert set(ListenSocket.__slots__) == fields
    assert set(saving._SAME) <= set(KeptProcess.__struct_fields__)


# -- there and back ---------------------------------------------------------------------------------------------------


def document(**changes: Any) -> Document:
    spec = msgspec.to_builtins(ServiceSpec(app="shop:app", start_timeout=float("inf"), options={"a": [1, None]}))
    service = KeptService(
        name="web",
        want=Want(2, 3),
        generations=[KeptGeneration(number=3, spec=spec, sockets=[7], directory="/srv", env=[(b"A", b"\xff")])],
        processes=[
            KeptProcess(
                id=4,
                index=1,
                generation=3,
                child=Kept(pid=99, pidfd=11, outputs=[("stdout", 12, b"half \xff")], notify=13, line=14),
                timeouts=Timeouts(1.0, 2.0, 15),
                state=State.STOPPING,
                deadlines={"STOPPING": 5.0},
            )
        ],
        board=15,
        finished={0: 1},
    )
    config = Config(sockets={"web": SocketSpec(bind=":80")}, services={"web": ServiceSpec(app="shop:app")})
    whole = Document(
        config=msgspec.to_builtins(config),
        sockets=[KeptSocket(name="web", address="x", fd=7, spec=msgspec.to_builtins(SocketSpec(bind=":80")))],
        services=[service],
        door=6,
        handed=[3],
        status={"web": (Status.RUNNING, "", 1.0)},
        transitions=[Transition(revision=1, at=2.0, service="web", why="ready")],
        keeper=carry.KeptKeeper(pid=98, pidfd=16, pipe=17, queue=[b"+ 1\n"]),
    )
    return msgspec.structs.replace(whole, **changes)


def test_there_and_back() -> None:
    assert carry.read(carry.write(document())) == document()


def test_all_descriptors_are_named() -> None:
    assert sorted(document().descriptors) == [3, 6, 7, 11, 12, 13, 14, 15, 16, 17]


def test_an_environment_need_not_be_text() -> None:
    kept = carry.read(carry.write(document())).services[0].generations[0]

    made = carry.generation_of(kept, {7: "the socket"})  # type: ignore[dict-item]

    assert made.env == {"A": "\udcff"}
    assert [str(held) for held in made.sockets] == ["the socket"]
    assert made.spec == ServiceSpec(app="shop:app", start_timeout=float("inf"), options={"a": [1, None]})


def test_what_is_no_text_does_not_stop_an_upgrade() -> None:
    """File names may be anything; where they are only told, they are told in other letters."""
    lame = Transition(revision=1, at=2.0, service="web", why="cannot run \udcff")

    read = carry.read(carry.write(document(transitions=[lame])))

    assert read.transitions[0].why == r"cannot run \udcff"
    assert read.services == document().services


# -- another version --------------------------------------------------------------------------------------------------


def tree() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.msgpack.decode(carry.write(document()))
    return found


def reread(changed: Mapping[str, Any]) -> Document:
    return carry.read(msgspec.msgpack.encode(changed))


def places(value: Any) -> list[dict[str, Any]]:
    """Every table in it."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [*([value] if isinstance(value, dict) else []), *(found for each in inner for found in places(each))]


def test_what_is_not_known_is_passed_over() -> None:
    """In every struct of the document, and in every section of the configuration."""
    changed = tree()
    service, config = changed["services"][0], changed["config"]
    structs = [changed, service, service["processes"][0], service["processes"][0]["child"], changed["sockets"][0]]
    sections = [config, config["services"]["web"], config["sockets"]["web"], config["control"]]
    for each in (*structs, *sections, service["generations"][0]["spec"], changed["sockets"][0]["spec"]):
        each["of_tomorrow"] = {"deep": [1]}

    read = reread(changed)

    assert read.services[0].processes == document().services[0].processes
    assert read.resolved.config == document().resolved.config
    assert carry.generation_of(read.services[0].generations[0], {7: None}).spec.app == "shop:app"  # type: ignore[dict-item]


def test_what_is_missing_has_a_default() -> None:
    """A document of a version that knew next to nothing."""
    read = reread(
        {
            "version": 1,
            "config": {},
            "services": [{"name": "x", "want": tree()["services"][0]["want"], "generations": []}],
        }
    )

    assert read.services[0].processes == []
    assert list(read.descriptors) == [-1]
    assert read.resolved.config == Config()


@pytest.mark.parametrize(
    ("want", "orders"),
    [
        (Want(2, 3), {}),
        (Want(4, 3), {3: Order(workers=4)}),
        (Want(2, 3, enabled=False), {3: Order(enabled=False)}),
        (Want(0, 3, enabled=False), {3: Order(workers=0, enabled=False)}),
    ],
)
def test_orders_that_were_not_written_down(want: Want, orders: dict[int, Order]) -> None:
    """The versions before kept only their result."""
    generation = Generation(number=3, spec=ServiceSpec(app="shop", workers=2), sockets=(), directory="/")

    assert found_in(want, generation) == orders


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2, "by": "7.0"}, "the state of trapeze 7.0 is of version 2, this one reads up to 1"),
        ({"version": "x"}, "the state cannot be read: Expected `int`, got `str`"),
        ({"services": [{"name": "x"}]}, "missing required field"),
        ({"config": {"services": {"web": {"workers": "many"}}}}, "Expected `int`"),
    ],
)
def test_what_cannot_be_understood_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CannotRead, match=words):
        reread({**tree(), **changes})


def test_rubbish_is_refused() -> None:
    with pytest.raises(CannotRead):
        carry.read(b"")


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "arguments", "same", "other"),
    [
        (["python", "-m", "trapeze", "up"], ["up"], ["-m", "trapeze", "up"], ["-m", "trapeze", "up"]),
        (
            ["python", "-X", "dev", "{bin}/trapeze", "serve", "a:b"],
            ["serve", "a:b"],
            ["-X", "dev", "{bin}/trapeze", "serve", "a:b"],
            ["-X", "dev", "-P", "-m", "trapeze", "serve", "a:b"],
        ),
        (["python", "/opt/app.pyz", "up"], ["up"], ["/opt/app.pyz", "up"], ["/opt/app.pyz", "up"]),
        (["python", "-c", "run()", "up"], ["up"], ["-c", "run()", "up"], ["-c", "run()", "up"]),
    ],
    ids=["module", "console script", "another script", "text"],
)
def test_the_same_command_again(
    words: list[str], arguments: list[str], same: list[str], other: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = sys.executable.rpartition("/")[0]

    def filled(texts: list[str]) -> list[str]:
        return [text.replace("{bin}", here) for text in texts]

    monkeypatch.setattr(sys, "orig_argv", filled(words))
    monkeypatch.setattr(sys, "argv", ["trapeze", *arguments])

    assert upgrade.command(None) == (sys.executable, [sys.executable, *filled(same)])
    assert upgrade.command("/new/bin/python") == ("/new/bin/python", ["/new/bin/python", *filled(other)])
