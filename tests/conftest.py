"""What every test has: the audit, short directories, the helpers that run real programs."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.audit import Audit, audit, pytest_configure
from tests.support.nginx import Nginx
from tests.support.redis import Redis
from tests.support.server import Listener, Trapeze, listen_tcp, listen_unix

__all__ = ["audit", "pytest_configure"]  # the fixture and the hook: pytest finds them here

# One profile: no deadline (the machines that run tests are busy), and in CI the same examples every time.
settings.register_profile(
    "trapeze",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("trapeze")

# A shell without job control has what it starts with `&` ignore them, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGQUIT, signal.SIGHUP):  # the latter is nohup's
    signal.signal(_number, signal.SIG_DFL)


@pytest.fixture
def run_dir(audit: Audit) -> Path:
    """A directory with a short path (a Unix socket's has at most 107 bytes); no socket file may be left in it."""
    directory = Path(tempfile.mkdtemp(prefix="tz-", dir="/tmp"))
    audit.watch(directory)
    audit.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))  # after the audit has looked
    return directory


@pytest.fixture
def tcp() -> Iterator[Callable[..., Listener]]:
    """Make listening TCP sockets on ports that the kernel chooses: `tcp()`, `tcp("::1")`."""
    made: list[Listener] = []

    def make(host: str = "127.0.0.1") -> Listener:
        made.append(listen_tcp(host))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


@pytest.fixture
def unix(run_dir: Path) -> Iterator[Callable[..., Listener]]:
    """Make listening Unix sockets: `unix("web.sock")`; their files are removed after the test."""
    made: list[Listener] = []

    def make(name: str = "web.sock") -> Listener:
        made.append(listen_unix(run_dir / name))
        return made[-1]

    yield make
    for listener in made:
        listener.close(unlink=True)


@pytest.fixture
def trapeze(run_dir: Path, audit: Audit) -> Iterator[Callable[..., Trapeze]]:
    """Run the real command: `trapeze("serve", "examples.hello:wsgi", listeners=[tcp()]).ready()`.

    What still runs at the end of the test is stopped by TERM, and killed (a failure) if it does not go.
    """
    made: list[Trapeze] = []

    def make(*args: str, **options: object) -> Trapeze:
        directory = run_dir if not made else run_dir / str(len(made))
        server = Trapeze(*args, directory=directory, **options)  # type: ignore[arg-type]
        made.append(server)
        audit.add_output(server.unannounced_errors)
        return server.start()

    yield make
    failures = [text for server in reversed(made) for text in server.close()]
    assert not failures, "\n".join(failures)


@pytest.fixture
def nginx(run_dir: Path) -> Iterator[Callable[..., Nginx]]:
    """Real nginx in front of a Unix socket or an address: `nginx("unix:/path")`, or `nginx(site=...)`."""
    made: list[Nginx] = []

    def make(upstream: str = "", **options: object) -> Nginx:
        made.append(Nginx(upstream, directory=run_dir / f"nginx{len(made)}", **options))  # type: ignore[arg-type]
        return made[-1].start()

    yield make
    for server in made:
        server.close()


@pytest.fixture
def redis(run_dir: Path) -> Iterator[Redis]:
    """A real Redis on a Unix socket, started and ready."""
    server = Redis(run_dir / "redis.sock").start()
    yield server
    server.close()
