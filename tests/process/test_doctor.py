"""Each finding of `trapeze doctor`, provoked for real on this machine, and gone when its cause is.

What cannot be had here is left out: a systemd unit, a container with another limit (the judgement itself is tried in
`unit/test_doctor.py`). Sockets and directories that nginx's user may not use: `test_nginx_command.py`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.nginx import program
from tests.support.server import Result, run
from tests.support.site import APPS, Site
from tests.support.wait import until
from trapeze.doctor.judge import CHECKS, DISKS
from trapeze.doctor.surroundings import file_system, somaxconn

SOUND = {
    "backlog": 64,
    "stop_timeout": 5,
    "nofile": 4096,
    "beats": "/dev/shm",
    "keepalive": 6,
    "idle": "5s",
    "version": "1.1",
    "connections": 128,
    "mode": "0700",
    "packages": "uvicorn-0.51.0 h11-0.16.0 uvloop-0.22.1 httptools-0.7.1",
}
"""Settings of which none is wrong."""


@pytest.fixture(autouse=True)
def _installed() -> None:
    program("nginx")


@pytest.fixture
def interpreter(site: Site) -> Path:
    """A virtual environment without a package in it."""
    import venv

    venv.create(site.directory / "venv", with_pip=False, symlinks=True)
    return site.directory / "venv"


def look(site: Site, **wrong: Any) -> Result:
    """Write everything down as it is sound, but for what is said to be wrong, and have the doctor look."""
    chosen = {**SOUND, **wrong}
    packages = next((site.directory / "venv").glob("lib/python3*/site-packages"))
    for old in packages.glob("*.dist-info/METADATA"):
        old.unlink()
    for name, _, version in (each.rpartition("-") for each in chosen["packages"].split()):
        directory = packages / f"{name}-{version}.dist-info"
        directory.mkdir(exist_ok=True)
        (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    site.write(
        "trapeze.toml",
        f"""
        [sockets.web]
        bind = "unix:web.sock"
        mode = "0666"
        backlog = {chosen["backlog"]}
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        backend = "gunicorn"
        keepalive = {chosen["keepalive"]}
        drain_grace = 6
        stop_timeout = {chosen["stop_timeout"]}
        rlimits = {{ nofile = {chosen["nofile"]} }}
        options = {{ worker_tmp_dir = "{chosen["beats"]}", worker_connections = 1000 }}
        [services.other]
        app = "other:app"
        backend = "uvicorn"
        venv = "venv"
        socket = "web"
        stop_timeout = 5
        keepalive = 6
        drain_grace = 6
        """,
    )
    site.directory.chmod(0o711)
    front = site.write(
        "main.conf",
        f"""
        {"user root;" if os.getuid() == 0 else ""}
        pid {site.directory}/pid;
        worker_rlimit_nofile 1024;
        events {{ worker_connections {chosen["connections"]}; }}
        http {{
            access_log off;
            upstream shop {{
                server unix:{site.directory}/web.sock;
                keepalive 8;
                keepalive_timeout {chosen["idle"]};
            }}
            server {{
                listen 127.0.0.1:8096;
                location / {{
                    proxy_pass http://shop;
                    proxy_http_version {chosen["version"]};
                    proxy_set_header Connection "";
                }}
            }}
        }}
        """,
    )
    place = site.directory / "place"
    place.mkdir(exist_ok=True)
    place.chmod(int(chosen["mode"], 8))
    env = {**os.environ, "TRAPEZE_RUNTIME_DIR": str(place)}
    return run("doctor", "-c", str(site.file), "--main", str(front), "--json", env=env)


def found(result: Result) -> dict[str, dict[str, str]]:
    """The findings by their names."""
    told = result.json
    assert told["ok"] is (not told["findings"]) and result.code == (1 if told["findings"] else 0)
    assert all(each["what"] and each["evidence"] and each["fix"] for each in told["findings"])
    return {each["check"]: each for each in told["findings"]}


@pytest.mark.usefixtures("interpreter")
def test_all_at_once_and_none(site: Site) -> None:
    """A sound machine first: what is found after it is found for its cause."""
    assert found(look(site)) == {}

    wrong = look(
        site, backlog=65_535, nofile=1000, keepalive=3, connections=4096, version="1.0", mode="0755",
        packages="uvicorn-0.51.0 h11-0.14.0 uvloop-0.22.1",
    )  # fmt: skip
    findings = found(wrong)

    limit = somaxconn()
    assert limit is not None
    expected = {"idle-connections", "no-keepalive", "descriptors", "accelerators", "known-hole", "runtime-directory"}
    assert set(findings) == expected | ({"somaxconn"} if limit < 65_535 else set())
    for check, piece in {
        "idle-connections": "keepalive_timeout of shop is 5 s",
        "no-keepalive": "proxy_http_version is 1.0",
        "accelerators": "httptools not",
        "known-hole": "CVE-2025-43859",
        "runtime-directory": "mode 0755",
    }.items():
        assert piece in findings[check]["evidence"]
    both = [each["what"] for each in wrong.json["findings"] if each["check"] == "descriptors"]
    assert len(both) == 2 and both[0].startswith("nginx runs out") and both[1].startswith("a worker of web runs out")


@pytest.mark.usefixtures("interpreter")
def test_heartbeat_files_on_a_disk(site: Site) -> None:
    disk = next((path for path in ("/tmp", "/var/tmp", str(APPS)) if file_system(path) in DISKS), None)
    if disk is None:
        pytest.skip("there is no disk to write to here")

    findings = found(look(site, beats=disk))

    assert set(findings) == {"heartbeat-files"}
    assert findings["heartbeat-files"]["evidence"] == f"{disk} is on {file_system(disk)}"


def test_who_stops_it_waits_too_short(site: Site) -> None:
    """Kubernetes' own 30 seconds; a systemd unit that this runs in is shorter too than what is asked for here."""
    config = f"""
        [sockets.web]
        bind = "unix:web.sock"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        stop_timeout = {{seconds}}
        """
    env = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    server = site.up(config.format(seconds=5), env=env).ready()
    quiet = server.ctl("doctor", "-c", str(site.file), "--main", "/nonexistent", "--json")
    site.write("trapeze.toml", config.format(seconds=80_000))

    wrong = server.ctl("doctor", "-c", str(site.file), "--main", "/nonexistent", "--json")

    assert "stop-timeout" not in found(quiet)
    findings = found(wrong)
    if "stop-timeout" not in findings:
        pytest.skip("a systemd unit that waits for ever stops this")
    assert "stop_timeout of web is 80000 s" in findings["stop-timeout"]["evidence"]
    assert "80005" in findings["stop-timeout"]["fix"]
    assert server.stop() == 0


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with 512 MiB of memory; skips the test where we may not make one."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, own = line.split(":", 2)
        if controllers == "" and Path("/sys/fs/cgroup/cgroup.controllers").exists():
            place, file = Path(f"/sys/fs/cgroup{own}"), "memory.max"
        elif "memory" in controllers.split(","):
            place, file = Path(f"/sys/fs/cgroup/memory{own}"), "memory.limit_in_bytes"
        else:
            continue
        made = place / f"trapeze-{os.getpid()}"
        try:
            made.mkdir()
        except OSError:
            continue
        try:
            (made / file).write_text(str(512 * 2**20))
            yield made
            return
        except OSError:
            continue
        finally:
            until(functools.partial(removed, made), what="an empty control group")
    pytest.skip("no control group can be made here")


def removed(directory: Path) -> bool:
    """Is it gone? It cannot go while there is a process in it."""
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


def test_more_workers_than_there_is_memory_for(site: Site, group: Path) -> None:
    """What one worker needs is measured on those that run; how many there are to be is what the file says now."""
    config = f"""
        [sockets.web]
        bind = "unix:web.sock"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        workers = {{count}}
        """
    prefix = ["/bin/sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"]
    server = site.up(config.format(count=1), prefix=prefix).ready()
    words = ("doctor", "-c", str(site.file), "--main", "/nonexistent", "--json")
    assert "memory" not in found(server.ctl(*words))
    site.write("trapeze.toml", config.format(count=10_000))

    findings = found(server.ctl(*words))

    assert "(10000 + 1) x " in findings["memory"]["evidence"]
    assert (
        f"the limit of {str(group).partition('cgroup')[2].removeprefix('/memory')} is 512 MiB"
        in (findings["memory"]["evidence"])
    )
    assert server.stop() == 0


def test_every_check_is_provoked_somewhere() -> None:
    """Who adds one has to provoke it, here or in test_nginx_command.py."""
    assert len(CHECKS) == 12
