"""Break the pure modules by hand, one break at a time: each must make the unit tests fail.

    make mutants                    all
    make mutants ARGS="restart"     those whose file or name has this word

A property test counts only with the mutants that it kills. Each mutant is one replacement of text in one file, with a
name that says what would go wrong in a running service. They run in copies; the working tree is not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant", "main"]

ROOT = Path(__file__).resolve().parents[1]
TESTS = [
    "tests/unit/test_planner.py",
    "tests/unit/test_planner_trial.py",
    "tests/unit/test_lifecycle.py",
    "tests/unit/test_restart.py",
]
TESTS += ["tests/unit/test_vigil.py", "tests/unit/test_recycling.py", "tests/unit/test_trial.py"]
COPIED = ["trapeze", "tests", "pyproject.toml"]
SECONDS = 300
"""One run of the tests may take so long; a mutant that makes them run for ever is killed too."""


class Mutant(NamedTuple):
    """One break."""

    module: str
    name: str
    old: str
    new: str


MUTANTS = [
    # -- planner
    Mutant("planner", "a reload makes no room for the new ones", "want.count + rules.surge", "want.count"),
    Mutant("planner", "a reload starts one too many", "want.count + rules.surge", "want.count + rules.surge + 1"),
    Mutant(
        "planner", "the floor is one too low", "want.count - rules.unavailable", "want.count - rules.unavailable - 1"
    ),
    Mutant("planner", "max_unavailable is ignored", "max(0, want.count - rules.unavailable)", "max(0, want.count)"),
    Mutant(
        "planner",
        "starting processes count as serving",
        "ready = sum(seen.state is State.READY",
        "ready = sum(seen.state in LIVE",
    ),
    Mutant(
        "planner",
        "the newest of the old leaves first",
        "key=lambda seen: (seen.since, seen.id)",
        "key=lambda seen: (-seen.since, seen.id)",
    ),
    Mutant("planner", "old ones are not replaced during an import", "gate.blocked or not _serves(live, want)", "False"),
    Mutant("planner", "a delay of the new code is one of the old", "(gate.blocked or not _serves(", "(not _serves("),
    Mutant(
        "planner",
        "code that does not serve yet is trusted",
        "(gate.blocked or not _serves(live, want))",
        "gate.blocked",
    ),
    Mutant(
        "planner",
        "who only starts counts as new code that serves",
        "(serves and seen.generation ==",
        "(seen.generation ==",
    ),
    Mutant("planner", "those that stand in are stopped at once", "and seen not in kept]", "]"),
    Mutant(
        "planner",
        "one more stands in than has to",
        "[: max(0, floor - len(steady))]",
        "[: max(0, floor - len(steady)) + 1]",
    ),
    Mutant(
        "planner",
        "nobody stands in for a worker that is recycled",
        "if seen.retire or seen.recycle:\n        return False",
        "if False:\n        return False",
    ),
    Mutant("planner", "room is made before it can be taken", "replace(rules, unavailable=0)", "rules"),
    Mutant(
        "planner",
        "a broken file has scaled the old ones down",
        "want.count if serves else stand_in.count",
        "want.count",
    ),
    Mutant("planner", "the first new one takes the place of one that is missing", "max(0, room - gap)", "max(0, room)"),
    Mutant(
        "planner", "old ones that fail are made again without a delay", "if stand_in.retry_at is not None:", "if False:"
    ),
    Mutant("planner", "who stands in goes above the ceiling", "min(short, max(0, room - len(spawns)))", "short"),
    Mutant(
        "planner",
        "the healthy one leaves instead of the recycled one",
        "(not outdated(seen, first), seen.generation",
        "(seen.generation",
    ),
    Mutant("planner", "one of another slot leaves", ", seen.index not in covered)", ", 0)"),
    Mutant(
        "planner", "the proof of new code leaves first", "seen.generation == want.generation, seen.index", "seen.index"
    ),
    Mutant("planner", "unready old ones stay", "(*leaving, *serving[:spare])", "serving[:spare]"),
    Mutant("planner", "processes marked for retirement stay", " or seen.retire or", " or"),
    Mutant("planner", "scaling down stops nobody", " or seen.index >= want.count", ""),
    Mutant("planner", "scaling down keeps one too many", "seen.index >= want.count", "seen.index > want.count"),
    Mutant("planner", "the old generation is never outdated", "seen.generation != want.generation or", ""),
    Mutant("planner", "nothing waits for `after`", "return not self.open or self.steps_left", "return self.steps_left"),
    Mutant("planner", "the backoff is ignored", "room = min(room, gate.limit)", "room = room"),
    Mutant("planner", "nobody wakes up after the backoff", "(gate.retry_at, due) if at", "(due,) if at"),
    Mutant("planner", "workers start beside their migrations", "or self.steps_left or", "or"),
    Mutant("planner", "migrations run twice at once", "gate.steps_left and not gate.step_running", "gate.steps_left"),
    Mutant(
        "planner",
        "two Redis at once: those that leave are forgotten",
        "if seen.state is not State.EXITED] if rules.exclusive",
        "if seen.state in LIVE] if rules.exclusive",
    ),
    Mutant("planner", "tasks run again and again", " and index not in gate.finished", ""),
    Mutant(
        "planner",
        "a disabled service goes on",
        "if not want.enabled or want.count == 0:\n        why",
        "if want.count == 0:\n        why",
    ),
    Mutant(
        "planner",
        "settled while an old one accepts",
        "if any(unwanted(seen, want) for seen in live) or any(seen.accepting for seen in view):",
        "if any(seen.accepting for seen in view):",
    ),
    Mutant(
        "planner",
        "settled before the old one has heard",
        "or any(seen.accepting for seen in view):",
        "or False:",
    ),
    Mutant(
        "planner",
        "the first workers are not paced",
        "return max(0, processors - starting)",
        "return max(0, 99 - starting)",
    ),
    Mutant("planner", "pacing never ends", "if begun is not None and now >= begun + HEAD_START:", "if False:"),
    Mutant(
        "planner",
        "settled before all are ready",
        "if seen.state is State.READY}\n    return all",
        "if seen.state in LIVE}\n    return all",
    ),
    # -- lifecycle
    Mutant(
        "lifecycle",
        "a start deadline kills without asking",
        "(_S.STARTING, _E.DEADLINE): Step(_S.STOPPING, Effect.TERMINATE)",
        "(_S.STARTING, _E.DEADLINE): Step(_S.KILLING, Effect.KILL)",
    ),
    Mutant(
        "lifecycle",
        "the stop deadline does nothing",
        "(_S.STOPPING, _E.DEADLINE): Step(_S.KILLING, Effect.KILL)",
        "(_S.STOPPING, _E.DEADLINE): Step(_S.STOPPING, Effect.NONE)",
    ),
    Mutant(
        "lifecycle",
        "a late READY revives one that was asked to leave",
        "(_S.STOPPING, _E.READY): Step(_S.STOPPING, Effect.NONE)",
        "(_S.STOPPING, _E.READY): Step(_S.READY, Effect.ACCEPTED)",
    ),
    Mutant(
        "lifecycle",
        "a second stop signal restarts the clock",
        "(_S.STOPPING, _E.STOP): Step(_S.STOPPING, Effect.NONE)",
        "(_S.STOPPING, _E.STOP): Step(_S.STOPPING, Effect.TERMINATE)",
    ),
    Mutant(
        "lifecycle",
        "a beat makes it ready again",
        "(_S.READY, _E.READY): Step(_S.READY, Effect.BEAT)",
        "(_S.READY, _E.READY): Step(_S.READY, Effect.ACCEPTED)",
    ),
    Mutant(
        "lifecycle",
        "one that leaves by itself is signalled",
        "(_S.READY, _E.LEAVING): Step(_S.STOPPING, Effect.AWAIT_EXIT)",
        "(_S.READY, _E.LEAVING): Step(_S.STOPPING, Effect.TERMINATE)",
    ),
    Mutant(
        "lifecycle",
        "a stop that crosses with the exit is an error",
        "(_S.EXITED, _E.STOP): Step(_S.EXITED, Effect.NONE)",
        "(_S.EXITED, _E.STOP): ILLEGAL",
    ),
    Mutant(
        "lifecycle",
        "SIGKILL is sent once only",
        "(_S.KILLING, _E.DEADLINE): Step(_S.KILLING, Effect.KILL)",
        "(_S.KILLING, _E.DEADLINE): Step(_S.KILLING, Effect.NONE)",
    ),
    Mutant("lifecycle", "a stop that was asked for is a crash", "if asked:", "if asked and status == 0:"),
    Mutant("lifecycle", "a start failure is a crash", "if not was_ready:", "if not was_ready and status == 0:"),
    Mutant(
        "lifecycle",
        "killed for its heartbeat, exit 0: a good end",
        "if status == 0 and state is not State.KILLING:",
        "if status == 0:",
    ),
    Mutant(
        "lifecycle",
        "one that hangs is killed without a word",
        "(_S.READY, _E.DEADLINE): Step(_S.KILLING, Effect.DUMP)",
        "(_S.READY, _E.DEADLINE): Step(_S.KILLING, Effect.KILL)",
    ),
    Mutant(
        "lifecycle",
        "one that hangs at its start is stopped without a word",
        "(_S.STARTING, _E.HUNG): Step(_S.KILLING, Effect.DUMP)",
        "(_S.STARTING, _E.HUNG): Step(_S.STOPPING, Effect.TERMINATE)",
    ),
    # -- vigil
    Mutant("vigil", "a server that never beats is killed", "if asleep or not beat else beat", "if asleep else beat"),
    Mutant(
        "vigil", "a paused container loses all its workers", "if asleep or not beat else beat", "if not beat else beat"
    ),
    Mutant("vigil", "we never know that we slept", "asleep = now - min(planned) > _ASLEEP", "asleep = False"),
    Mutant("vigil", "a beat from the future is believed", "if 0 <= reading.beat <= now else now", "if True else now"),
    Mutant("vigil", "a hang is found too late", "now >= last + terms.heartbeat", "now > last + terms.heartbeat"),
    Mutant(
        "vigil",
        "all requests of a worker are shot with one",
        "if beat and now - beat >= max(terms.request, SLOWEST_BEAT):",
        "if True:",
    ),
    Mutant("vigil", "one that hangs alone is only drained", "alone=_is_alone(reading)", "alone=False"),
    Mutant(
        "vigil",
        "a stuck loop is drained",
        "if beat and now - beat >= max(terms.request, SLOWEST_BEAT):",
        "if False:",
    ),
    Mutant(
        "vigil",
        "the next look is not exact",
        "times.append(begun + terms.request)",
        "times.append(now + terms.request)",
    ),
    Mutant("vigil", "all are recycled at once", "if any(process.live and process.recycle for", "if any(False for"),
    Mutant("vigil", "old generations are recycled", " and not self._is_leaving(process)", ""),
    Mutant("vigil", "age wakes nobody", "times.append(process.ready_at + terms.age)", "pass"),
    Mutant("vigil", "slots are lost", "            self.board.free(process.slot)", "            pass"),
    Mutant("vigil", "boards are lost", "            self.board.close()", "            pass"),
    Mutant("vigil", "no jitter of ages", "spec.max_age * (1 - spec.recycle_jitter * draw())", "spec.max_age * 1"),
    Mutant("vigil", "a debugger is killed", "if generation.terminal:", "if False:"),
    Mutant("planner", "recycling never happens", "return bool(seen.recycle) or unwanted", "return unwanted"),
    # -- restart
    Mutant(
        "restart",
        "one failure too many before FAILED",
        "len(recent) >= policy.intensity",
        "len(recent) > policy.intensity",
    ),
    Mutant("restart", "old failures count for ever", "if now - at < policy.period", "if True"),
    Mutant("restart", "FAILED heals by waiting", "not proven and (history.exhausted or ", "not proven and ("),
    Mutant("restart", "a pre_start step is tried again", "exhausted = final or (", "exhausted = ("),
    Mutant("restart", "five kills among the living are the end", "(not proven and (", "(("),
    Mutant("restart", "all that fall together count", "born < history.failures[-1]", "False"),
    Mutant("restart", "who was spawned with the failure does not count", "born < history", "born <= history"),
    Mutant("restart", "a final failure is one of many", "if not final and born is not None", "if born is not None"),
    Mutant("restart", "the first failure waits", "if streak <= 1:", "if streak <= 0:"),
    Mutant(
        "restart",
        "delays have no cap",
        "min(policy.cap, policy.backoff * 2.0 ** min(streak - 2, 60))",
        "policy.backoff * 2.0 ** min(streak - 2, 60)",
    ),
    Mutant("restart", "delays do not grow", "2.0 ** min(streak - 2, 60)", "2.0"),
    Mutant("restart", "delays overflow after a night", "min(streak - 2, 60)", "(streak - 2)"),
    Mutant("restart", "no jitter", "return jitter * min", "return min"),
    Mutant(
        "restart",
        "a FAILED service tries at once",
        "wait = policy.cap if exhausted else",
        "wait = 0.0 if exhausted else",
    ),
    Mutant("restart", "health is never believed", "uptime >= policy.healthy", "uptime > policy.healthy"),
    Mutant(
        "restart",
        "the delay is over before it is",
        "if now < history.not_before:",
        "if now < history.not_before - 0.1:",
    ),
    Mutant("restart", "a FAILED service starts all at once", "return 1 if history.exhausted else None", "return None"),
]


def run_tests(directory: Path) -> bool:
    """Run the unit tests of the pure modules in a copy; True if they pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS]
    env = {**os.environ, "PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1", "CI": "true"}
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(f"pytest itself failed with {done.returncode}")
    return done.returncode == 0


def survives(mutant: Mutant | None) -> bool:
    """Do the tests pass with this break in place? (None: with none.)"""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        directory = Path(name)
        for item in COPIED:
            source = ROOT / item
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, directory / item)
        if mutant is not None:
            path = directory / "trapeze" / f"{mutant.module}.py"
            text = path.read_text()
            if text.count(mutant.old) != 1:
                raise RuntimeError(f"{mutant.module}: {mutant.name}: its text is there {text.count(mutant.old)} times")
            path.write_text(text.replace(mutant.old, mutant.new))
        return run_tests(directory)


def main(words: list[str]) -> int:
    """Run the mutants whose module or name has one of the words (all without words); 1 if any survives."""
    chosen = [
        mutant for mutant in MUTANTS if not words or any(word in f"{mutant.module} {mutant.name}" for word in words)
    ]
    if not survives(None):
        print("the tests fail without any mutant: nothing can be said", file=sys.stderr)
        return 1
    alive = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for mutant, lives in zip(chosen, pool.map(survives, chosen), strict=True):
            print(f"{'SURVIVES' if lives else 'killed  '}  {mutant.module}: {mutant.name}", flush=True)
            if lives:
                alive.append(mutant)
    print(f"{len(chosen) - len(alive)} of {len(chosen)} mutants killed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
