"""What a service does with the figures of its workers: those that hang, those that have served enough. No processes."""

from __future__ import annotations

import math
import signal

import pytest
from msgspec.structs import replace

from tests.support.fakehost import FakeBoard, FakeHost
from tests.support.watched import WEB, beat, child, started, worker
from trapeze.config import load
from trapeze.errors import ConfigError
from trapeze.lifecycle import State
from trapeze.prelude import DUMP_SIGNAL
from trapeze.process import TO_DUMP, Process
from trapeze.scoreboard import Reading
from trapeze.spec import ServiceSpec
from trapeze.vigil import Terms, Verdict, judge

EMPTY = FakeBoard.EMPTY


def reading(**fields: float) -> Reading:
    return replace(EMPTY, **fields)


# -- the verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beat", "now", "expected"),
    [
        (100.0, 100.0, Verdict(130.0)),
        (100.0, 129.9, Verdict(130.0)),
        (100.0, 130.0, Verdict(kill="no heartbeat for 30 s")),
        (0.0, 1000.0, Verdict(1030.0)),  # it never said that it beats
        (2000.0, 1000.0, Verdict(1030.0)),  # nonsense is no reason to kill
        (-5.0, 1000.0, Verdict(1030.0)),
        (math.nan, 1000.0, Verdict(1030.0)),
        (math.inf, 1000.0, Verdict(1030.0)),
    ],
)
def test_heartbeat(beat: float, now: float, expected: Verdict) -> None:
    assert judge(Terms(heartbeat=30.0), reading(beat=beat), now) == expected


def test_nothing_is_watched_that_has_no_limits() -> None:
    assert judge(Terms(), reading(beat=1.0, oldest=1.0), 1e6) == Verdict()
    assert judge(Terms(heartbeat=1.0), None, 1e6) == Verdict()


WHY = "a request has taken longer than 10 s"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"oldest": 0.0}, Verdict(110.0)),
        ({"oldest": 95.0, "in_flight": 1}, Verdict(105.0)),
        # In a thread: nothing else is lost with it, once that is certain.
        ({"oldest": 90.0, "in_flight": 1, "beat": 99.0}, Verdict(110.0, shed=WHY, alone=True)),
        ({"oldest": 90.0, "beat": 99.0}, Verdict(110.0, shed=WHY)),
        ({"oldest": 90.0, "in_flight": 2, "beat": 99.0}, Verdict(110.0, shed=WHY)),
        # On a loop that goes round nothing hangs: there may be WebSockets, which nobody counts.
        ({"oldest": 90.0, "in_flight": 1, "beat": 99.0, "loop": True}, Verdict(110.0, shed=WHY)),
        ({"oldest": 85.0, "in_flight": 1, "beat": 89.0, "loop": True}, Verdict(kill=WHY)),
        # The loop stands still too: the others will never be answered.
        ({"oldest": 85.0, "in_flight": 9, "beat": 89.0}, Verdict(kill=WHY)),
        ({"oldest": 200.0, "in_flight": 1}, Verdict(110.0)),
        ({"oldest": math.nan, "in_flight": 1}, Verdict(110.0)),
    ],
)
def test_request_timeout(fields: dict[str, float], expected: Verdict) -> None:
    assert judge(Terms(request=10.0), reading(**fields), 100.0) == expected


def test_the_sooner_of_both() -> None:
    terms = Terms(heartbeat=30.0, request=10.0)
    assert judge(terms, reading(beat=99.0, oldest=98.0), 100.0) == Verdict(108.0)
    assert judge(terms, reading(beat=72.0, oldest=98.0), 100.0) == Verdict(102.0)


def test_who_was_asleep_kills_nobody() -> None:
    """A paused container: the clock went on, nobody ran. The same reading kills when we were awake."""
    terms, late = Terms(heartbeat=30.0, request=10.0), reading(beat=100.0, oldest=100.0, in_flight=1)
    assert judge(terms, late, 1000.0, asleep=True) == Verdict(1010.0)
    assert judge(terms, late, 1000.0).kill


# -- histories --------------------------------------------------------------------------------------------------------


def test_a_silent_worker_is_dumped_and_killed() -> None:
    """Replaced at once; SIGKILL half a second after the question for its stacks, which stand with its end."""
    host = started()
    hung = worker(host, 1)
    silent = child(host, hung)
    for other in (0, 2):
        host.clock += 10.0
        beat(host, worker(host, other))
    assert host.service.wake_at == pytest.approx(130.0)

    host.go(10.0)
    assert silent.signals == [], "it may be the whole machine that has stood still"
    assert host.service.wake_at == pytest.approx(host.clock + 1.0)
    host.go(1.0)

    assert silent.signals == [DUMP_SIGNAL, signal.SIGCONT]
    assert (hung.state, hung.why) == (State.KILLING, "no heartbeat for 30 s")
    assert "1.1 STARTING" in host.states()
    silent.listener.on_line("stderr", "Thread 0x1 (most recent call first):", False)
    silent.listener.on_line("stdout", "not that", False)
    host.go(TO_DUMP)
    assert silent.signals == [DUMP_SIGNAL, signal.SIGCONT, -9]
    silent.exit(-9)
    assert hung.stacks == ["Thread 0x1 (most recent call first):"]
    assert hung.why == "no heartbeat for 30 s, killed by SIGKILL"
    assert list(host.service.ledger.output) == hung.stacks
    assert hung.slot not in host.boards[0].slots or host.boards[0].slots[hung.slot] == EMPTY


def test_one_look_for_all() -> None:
    """With four workers that beat every second, a service is looked at about once in its heartbeat_timeout."""
    host = started(replace(WEB, workers=4))
    looks = 0
    while host.clock < 1000.0:
        assert host.service.wake_at is not None
        host.clock = host.service.wake_at
        for process in host.service.workers():
            beat(host, process, beat=host.clock - process.index * 0.3)
        host.service.react()
        looks += 1
    assert looks / 900 < 0.1 / 2
    assert len(host.states()) == 4
    assert all(state.endswith("READY") for state in host.states())


def test_third_party_server_that_never_beats_lives() -> None:
    host = FakeHost(WEB)
    host.all_ready()
    for _ in range(10):
        host.go(30.0)
    assert all(state.endswith("READY") for state in host.states())


def test_a_supervisor_that_slept_kills_nobody() -> None:
    """The look was due long ago: whoever stopped us stopped them. If they then stay silent they hang all the same."""
    host = started()
    host.go(500.0)
    assert all(state.endswith("READY") for state in host.states())
    assert host.service.wake_at == pytest.approx(host.clock + 30.0)
    host.go(30.0)
    host.go(1.0)
    assert sum(state.endswith("KILLING") for state in host.states()) == 3


def test_a_standstill_of_the_machine_kills_nobody() -> None:
    """It ends just after the look was due: all are silent, and all beat as soon as they run again."""
    host = started()
    host.clock += 30.5
    host.go()
    for process in host.service.workers():
        beat(host, process)
    host.go(1.0)
    assert all(state.endswith("READY") for state in host.states())
    host.go(29.0)
    assert all(state.endswith("READY") for state in host.states()), "and none is in doubt any more"
    host.go(1.0)
    assert sum(state.endswith("KILLING") for state in host.states()) == 3


def test_a_short_timeout_is_doubted_for_a_quarter() -> None:
    assert Terms(heartbeat=2.0).doubt == 0.5
    assert Terms(heartbeat=30.0, request=1.0).doubt == 0.25
    assert Terms(request=60.0).doubt == 1.0


def test_a_worker_in_a_terminal_may_stand_in_a_debugger() -> None:
    host = FakeHost(replace(WEB, workers=1))
    host.service.adopt(replace(host.make(replace(WEB, workers=1), 2), terminal=True))
    host.go()
    host.all_ready()
    host.leave_all()
    beat(host, worker(host, 0))
    for _ in range(100):
        host.go(1.0)  # in small steps: after a large one the service takes itself for asleep, and kills nobody
    assert host.states() == ["0.2 READY"]


SLOW = replace(WEB, request_timeout=10.0)


def hang(host: FakeHost, **fields: float) -> Process:
    """A request that hangs in worker 0; all others are well. Until the verdict has been spoken."""
    hung = worker(host, 0)
    begun = host.clock
    host.clock += 10.0
    for process in host.service.workers():
        beat(host, process)
    beat(host, hung, oldest=begun, **fields)
    host.go()
    assert hung.recycle == "", "it may be the whole machine that has stood still"
    host.go(1.0)
    return hung


def test_a_hanging_request_alone() -> None:
    """Replaced first; it leaves, what it had accepted is served or closed; then it is killed, with its stacks."""
    host = started(SLOW)
    hung = hang(host, in_flight=1)
    job = host.newest().launch.job
    assert job is not None
    assert job["board"] == {"fd": 99, "slot": 3, "full": True}
    assert (hung.state, hung.recycle) == (State.READY, WHY)
    assert child(host, hung).signals == [DUMP_SIGNAL, signal.SIGCONT]
    child(host, hung).listener.on_line("stderr", "File app.py", False)
    assert "0.1 STARTING" in host.states()

    host.all_ready()
    assert child(host, hung).signals[2:] == [signal.SIGTERM]
    host.go(SLOW.drain_grace)
    assert hung.state is State.STOPPING, "it has not heard yet"
    child(host, hung).listener.on_message(b"STOPPING=1")
    host.go()
    host.go(SLOW.drain_grace)
    assert hung.state is State.STOPPING
    host.go(TO_DUMP)

    assert (hung.state, hung.why) == (State.KILLING, WHY)
    assert child(host, hung).signals[3:] == [-9]
    child(host, hung).exit(-9)
    assert hung.why == f"{WHY}, killed by SIGKILL"
    assert hung.stacks == ["File app.py"]


def test_who_is_not_alone_any_more_is_not_killed() -> None:
    """Between the verdict and the kill it has accepted requests: their worker is left all of its stop_timeout."""
    host = started(SLOW)
    hung = hang(host, in_flight=1)
    host.all_ready()
    child(host, hung).listener.on_message(b"STOPPING=1")
    host.go()
    beat(host, hung, in_flight=2)
    for _ in range(20):
        assert host.service.wake_at is not None
        host.clock = host.service.wake_at
        host.go()
    assert hung.state is State.STOPPING
    beat(host, hung, in_flight=1)
    host.go(TO_DUMP)
    assert (hung.state, hung.why) == (State.KILLING, WHY)


def test_stop_timeout_bounds_all() -> None:
    host = started(SLOW)
    hung = hang(host, in_flight=3)
    host.all_ready()
    child(host, hung).listener.on_message(b"STOPPING=1")
    beat(host, hung, in_flight=1)
    host.go(29.9)
    assert hung.state is State.STOPPING
    host.go(0.1)
    assert (hung.state, hung.why) == (State.KILLING, "still there 30 s after the stop signal")


@pytest.mark.parametrize("comes_round", [True, False])
def test_a_loop_that_stands_still(comes_round: bool) -> None:
    """Told to leave together with the verdict; whoever beats again gets the time that others have for that."""
    host = started(SLOW)
    hung, begun = worker(host, 0), host.clock
    host.clock += 10.0
    for process in host.service.workers()[1:]:
        beat(host, process)
    beat(host, hung, beat=begun, oldest=begun, in_flight=9)
    host.go()
    host.go(1.0)
    assert (hung.state, hung.why) == (State.KILLING, WHY)
    assert child(host, hung).signals == [signal.SIGTERM, DUMP_SIGNAL, signal.SIGCONT]

    if comes_round:
        beat(host, hung, beat=host.clock + 0.2)
    host.go(TO_DUMP)
    assert child(host, hung).signals[3:] == ([] if comes_round else [-9])
    host.go(30.0)
    assert child(host, hung).signals[3] == -9


def test_a_hanging_request_in_company() -> None:
    """Dumped, and replaced like one that is recycled: the others in it are answered, its own stop_timeout bounds it."""
    host = started(SLOW)
    hung = hang(host, in_flight=3)
    assert (hung.state, hung.recycle) == (State.READY, WHY)
    assert child(host, hung).signals == [DUMP_SIGNAL, signal.SIGCONT]
    assert "0.1 STARTING" in host.states()
    child(host, hung).listener.on_line("stderr", "File app.py", False)
    host.go(TO_DUMP)
    assert host.log[-1] == "0.1 READY>READY"
    assert hung.why == f"to be replaced: {WHY}"

    host.all_ready()

    assert (hung.state, hung.why) == (State.STOPPING, f"recycled: {WHY}")
    assert child(host, hung).signals[2:] == [signal.SIGTERM]


def test_the_board_lives_as_long_as_the_service_runs() -> None:
    """Over generations; closed when a stopped service has lost its last worker; made anew when it starts again."""
    host = started()
    host.service.adopt(host.make(WEB, 2))
    for _ in range(10):
        host.all_ready()
        host.leave_all()
    assert len(host.boards) == 1
    assert len(host.boards[0].slots) == 3
    host.service.disable()
    host.go()
    host.leave_all()
    assert host.boards[0].closed
    host.service.enable()
    host.go()
    assert len(host.boards) == 2


def test_a_spawn_that_fails_gives_its_slot_back() -> None:
    host = started()
    host.fail_spawns = [OSError(11, "Resource temporarily unavailable")]
    child(host, worker(host, 0)).exit(-9)
    host.go()
    assert len(host.boards[0].slots) == len(host.states())


def test_commands_have_no_slot() -> None:
    host = FakeHost(ServiceSpec(command="redis-server"))
    host.go()
    assert host.boards == []


def test_a_heartbeat_shorter_than_the_beat_is_refused() -> None:
    """gunicorn's idle workers beat once a second: with a shorter timeout they would be shot for being idle."""

    def problems(seconds: float) -> list[str]:
        web = {"app": "shop:app", "heartbeat_timeout": seconds}
        try:
            load(None, overlay={"sockets": {"web": {"bind": ":80"}}, "services": {"web": web}}, environ={})
        except ConfigError as error:
            return [str(problem) for problem in error.problems]
        return []

    (said,) = problems(1.5)
    assert "heartbeat_timeout: expected 0 or at least 2, got 1.5" in said
    assert problems(2.0) == problems(0.0) == []
