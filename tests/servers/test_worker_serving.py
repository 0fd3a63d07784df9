"""Every server on every kind of listener: it serves, with a right environ, and leaves the shared socket as it was."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.workerkit import BACKENDS, Case, Connection, WorkerProcess, lacks

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

every_server = pytest.mark.parametrize("case", BACKENDS, ids=str)
every_socket = pytest.mark.parametrize("kinds", ["tcp", "unix", "tcp+tcp6+unix+unix"])


def listeners_of(kinds: str, tcp: Make, unix: Make) -> list[Listener]:
    made = []
    for number, kind in enumerate(kinds.split("+")):
        made.append(unix(f"s{number}.sock") if kind == "unix" else tcp("::1" if kind == "tcp6" else "127.0.0.1"))
    return made


def start(worker: Spawn, case: Case, listeners: list[Listener], **fields: Any) -> WorkerProcess:
    """Start the app on a server."""
    options = {**case.options, **fields.pop("options", {})}
    return worker(listeners, app=f"workerapp:{case.interface}", backend=case.backend, options=options, **fields)


@every_server
@every_socket
def test_serves_on_each_address(case: Case, kinds: str, worker: Spawn, connect: Connect, tcp: Make, unix: Make) -> None:
    listeners = listeners_of(kinds, tcp, unix)
    process = start(worker, case, listeners)
    said = process.ready()
    assert (said["backend"], said["interface"]) == (case.backend, case.interface)
    assert said["version"][0].isdigit()
    for listener in listeners:
        for _ in range(3):
            client = connect(listener)
            assert client.get(Connection="close")[::2] == (200, b"hello")
            client.close()
        client = connect(listener)
        client.send("/echo", "POST", b"x" * 300_000, Connection="close")
        assert client.answer()[2] == b"x" * 300_000
        client.close()
    process.stop()
    assert process.wait() == 0
    for listener in listeners:
        assert os.get_blocking(listener.fd) is False, "O_NONBLOCK is shared with all workers"
        assert listener.path is None or listener.path.is_socket(), "the file of the socket is the supervisor's"
        if listener.path is None:
            info = listener.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            assert struct.unpack_from("I", info, 8 + 4 * 5)[0] == 77, "the backlog is the one of the job"


@every_server
@pytest.mark.parametrize("kinds", ["tcp6", "tcp+unix"])
def test_environ_is_right(case: Case, kinds: str, worker: Spawn, connect: Connect, tcp: Make, unix: Make) -> None:
    listeners = listeners_of(kinds, tcp, unix)
    process = start(worker, case, listeners, workers=2)
    process.ready()
    for listener in listeners:
        client = connect(listener)
        facts = json.loads(client.get("/environ?a=b%20c", X_Thing="one", Connection="close")[2])
        address = client.sock.getsockname()
        client.close()
        assert facts["pid"] == process.process.pid or case.split
        if case.interface != "wsgi":
            check_scope(facts, listener, address)
        else:
            check_environ(case, facts, listener, address)


def check_environ(case: Case, facts: dict[str, Any], listener: Listener, client: Any) -> None:
    """What PEP 3333 and CGI want."""
    assert facts["REQUEST_METHOD"] == "GET"
    assert (facts["SCRIPT_NAME"], facts["PATH_INFO"], facts["QUERY_STRING"]) == ("", "/environ", "a=b%20c")
    assert (facts["HTTP_HOST"], facts["HTTP_X_THING"]) == ("example.com", "one")
    assert facts["wsgi.url_scheme"] == "http"
    if listener.path:
        assert facts["REMOTE_ADDR"] == ""
        assert (facts["SERVER_NAME"], facts["SERVER_PORT"]) in (("localhost", "80"), ("example.com", "80"))
    else:
        host, port = listener.sock.getsockname()[:2]
        assert (facts["SERVER_NAME"], facts["SERVER_PORT"]) == (host, str(port))
        if lacks(case, "client_address") and ":" in host:
            assert facts["REMOTE_ADDR"] == ""  # it must not invent an address
        else:
            assert facts["REMOTE_ADDR"] == client[0]
    assert facts["wsgi.multiprocess"] is True


def check_scope(facts: dict[str, Any], listener: Listener, client: Any) -> None:
    """What ASGI wants."""
    assert (facts["type"], facts["path"], facts["root_path"]) == ("http", "/environ", "")
    assert ["x-thing", "one"] in facts["headers"]
    if listener.path is None:
        assert tuple(facts["server"][:2]) == listener.sock.getsockname()[:2]
        assert tuple(facts["client"][:2]) == client[:2]


FORWARDED = {"X_Forwarded_Proto": "https", "X_Forwarded_For": "203.0.113.9", "X_Forwarded_Host": "shop.example"}


def told(facts: dict[str, Any]) -> tuple[str, str, str]:
    """Scheme, client and host as the app sees them."""
    if "wsgi.url_scheme" in facts:
        return facts["wsgi.url_scheme"], facts["REMOTE_ADDR"], facts["HTTP_HOST"]
    hosts = [value for name, value in facts["headers"] if name == "host"]
    return facts["scheme"], (facts.get("client") or [""])[0], ",".join(hosts)


@every_server
def test_proxies_on_this_machine_are_believed(
    case: Case, worker: Spawn, connect: Connect, unix: Make, tcp: Make
) -> None:
    both = [unix(), tcp()]
    start(worker, case, both).ready()
    for listener in both:
        facts = json.loads(connect(listener).get("/environ", Connection="close", **FORWARDED)[2])
        assert told(facts) == ("https", "203.0.113.9", "shop.example")
        if case.interface == "asgi" and listener.path:
            assert facts["server"][0] == str(listener.path), "not the private name that it was bound with"


@every_server
def test_nobody_else_is_believed(case: Case, worker: Spawn, connect: Connect, unix: Make, tcp: Make) -> None:
    """A client that spoofs the headers is seen as what it is; the headers stay, for whom they may concern."""
    both = [unix(), tcp(), tcp("::1")]
    start(worker, case, both, trusted_proxies=["192.0.2.1"]).ready()
    for listener in both:
        client = connect(listener)
        facts = json.loads(client.get("/environ", Connection="close", **FORWARDED)[2])
        own = "" if listener.path else client.sock.getsockname()[0]
        if lacks(case, "client_address") and ":" in own:
            own = ""
        assert told(facts) == ("http", own, "example.com")


@every_server
def test_trusted_networks_and_unix_peers(case: Case, worker: Spawn, connect: Connect, unix: Make, tcp: Make) -> None:
    both = [unix(), tcp()]
    start(worker, case, both, trusted_proxies=["127.0.0.0/8"]).ready()
    seen = [told(json.loads(connect(each).get("/environ", Connection="close", **FORWARDED)[2])) for each in both]
    assert seen == [("http", "", "example.com"), ("https", "203.0.113.9", "shop.example")]


@pytest.mark.parametrize("case", [case for case in BACKENDS if case.backend in ("gunicorn", "uvicorn")], ids=str)
def test_the_servers_own_setting_of_trust_counts(
    case: Case, worker: Spawn, connect: Connect, unix: Make, tcp: Make
) -> None:
    both = [unix(), tcp()]
    start(worker, case, both, options={"forwarded_allow_ips": "192.0.2.1"}).ready()
    schemes = [told(json.loads(connect(each).get("/environ", X_Forwarded_Proto="https")[2]))[0] for each in both]
    assert schemes == ["https", "http"]


@every_server
@pytest.mark.parametrize("path", ["/shop/environ", "/environ"], ids=["passed-on", "stripped"])
def test_root_path_has_one_meaning(case: Case, path: str, worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    start(worker, case, [listener], root_path="/shop").ready()
    facts = json.loads(connect(listener).get(path)[2])
    if case.interface != "wsgi":
        assert (facts["root_path"], facts["path"]) == ("/shop", "/shop/environ")
    else:
        assert (facts["SCRIPT_NAME"], facts["PATH_INFO"]) == ("/shop", "/environ")


ACCESS = re.compile(
    r"(\S+) - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    r'"GET /echo\?q=1%22 HTTP/1\.1" 200 (\d+) "(.*)" "(.*)" \d+\.\d{4}'
)


@every_server
@pytest.mark.parametrize("wanted", [True, False], ids=["on", "off"])
def test_access_log(case: Case, wanted: bool, worker: Spawn, connect: Connect, tcp: Make) -> None:
    """In one format, whoever serves."""
    listener = tcp()
    process = start(worker, case, [listener], access_log=wanted)
    process.ready()
    client = connect(listener)
    asked = {"Connection": "close", "Referer": 'http://a"b', "User_Agent": "me"}
    assert client.get("/echo?q=1%22", **asked)[0] == 200
    client.close()
    process.stop()
    assert process.wait() == 0
    lines = [line for line in process.output.splitlines() if "/echo" in line]
    assert len(lines) == (1 if wanted else 0), process.output
    if wanted:
        found = ACCESS.fullmatch(lines[0])
        assert found is not None, lines[0]
        assert found.groups() == ("127.0.0.1", "0", 'http://a\\"b', "me")


@every_server
def test_children_of_the_app_do_not_inherit_the_listener(case: Case, worker: Spawn, tcp: Make, run_dir: Any) -> None:
    (run_dir / "heir.py").write_text(
        "import os\nassert not any(n.startswith('LISTEN_') for n in os.environ)\n"
        "def inherited():\n"
        "    return [fd for fd in map(int, os.listdir('/proc/self/fd')) if fd > 2 and fd != int(os.environ['GATE'])"
        " and os.path.exists(f'/proc/self/fd/{fd}') and os.get_inheritable(fd)]\n"
        "assert inherited() == [], inherited()\n"
        f"from workerapp import {case.interface}\n"
    )
    process = worker([tcp()], app=f"heir:{case.interface}", backend=case.backend, options=case.options)
    process.ready()
    inheritable = inheritable_descriptors(process.process.pid)
    assert inheritable == {process.gate_fd}, process.output


def inheritable_descriptors(pid: int) -> set[int]:
    """Descriptors above 2 that a program started by the process would get."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fdinfo"):
        with open(f"/proc/{pid}/fdinfo/{name}") as file:
            flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
        if int(name) > 2 and not flags & os.O_CLOEXEC:
            found.add(int(name))
    return found
