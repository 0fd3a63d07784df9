"""From a spec to a command line."""

from __future__ import annotations

from pathlib import Path

from tests.support.fakehost import FakeHost
from trapeze.generation import Generation, interpreter
from trapeze.spec import ServiceSpec


def test_shell_gives_way_to_a_simple_command() -> None:
    """dash forks even for one command and passes no signals on; with more than one, the author decides."""

    def words(command: str) -> list[str]:
        host = FakeHost(ServiceSpec(command=command, shell=True))
        return list(host.newest().launch.argv)

    assert words("python3 $APP/x.py --n 1") == ["/bin/sh", "-c", "exec python3 $APP/x.py --n 1"]
    assert words("a --port=80 --id={index}") == ["/bin/sh", "-c", "exec a --port=80 --id=0"]
    assert words("a; b") == ["/bin/sh", "-c", "a; b"]
    assert words("exec a") == ["/bin/sh", "-c", "exec a"]
    assert words("cd /srv") == ["/bin/sh", "-c", "cd /srv"]
    assert words("A=1 b") == ["/bin/sh", "-c", "A=1 b"]


def test_interpreter_of_a_generation_stays_what_it_was(tmp_path: Path) -> None:
    """`current` is another release later on; that `python` is a link itself is what makes a virtual environment."""
    (tmp_path / "releases/1/bin").mkdir(parents=True)
    (tmp_path / "releases/1/bin/python").symlink_to("/usr/bin/python3")
    (tmp_path / "current").symlink_to("releases/1")
    made = Generation.make(
        1, "web", ServiceSpec(app="shop:app", python=f"{tmp_path}/current/bin/python"), {}, str(tmp_path)
    )
    assert interpreter(made.spec) == f"{tmp_path}/releases/1/bin/python"
    bare = Generation.make(1, "web", ServiceSpec(app="shop:app", python="python9"), {}, str(tmp_path))
    assert interpreter(bare.spec) == "python9"
