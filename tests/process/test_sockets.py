"""Listening sockets: what the kernel says of them, what is refused and with which words, what is handed on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.listening import Bind, bind_fixture, live_socket, refused, talks
from trapeze import holders
from trapeze.sockets import open_sockets, systemd_sockets
from trapeze.spec import SocketSpec

__all__ = ["bind_fixture"]


# -- TCP


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0", ":0"])
def test_tcp_socket_has_all_that_servers_rely_on(bind: Bind, address: str) -> None:
    (listener,) = bind(address, backlog=77)
    sock = listener.sock

    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not os.get_blocking(listener.fd)
    assert not os.get_inheritable(listener.fd)
    assert sock.proto == socket.IPPROTO_TCP
    assert listener.backlog == 77
    assert listener.address.endswith(f":{sock.getsockname()[1]}")
    assert listener.address != address
    assert talks(listener)


def test_backlog_is_the_one_that_was_asked_for(bind: Bind) -> None:
    (listener,) = bind("127.0.0.1:0", backlog=77)

    # tcp_info of a listening socket: tcpi_sacked is the backlog, tcpi_unacked the queue
    info = listener.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    assert int.from_bytes(info[28:32], sys.byteorder) == 77


@pytest.mark.parametrize("dual", [False, True])
def test_ipv6_takes_ipv4_only_when_said(bind: Bind, dual: bool) -> None:
    (listener,) = bind("[::]:0", dual_stack=dual)
    port = listener.sock.getsockname()[1]

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        assert client.connect_ex(("127.0.0.1", port)) == (0 if dual else errno.ECONNREFUSED)


def test_both_families_on_one_port(bind: Bind) -> None:
    (four,) = bind("0.0.0.0:0")
    (six,) = bind(f"[::]:{four.sock.getsockname()[1]}")

    assert talks(six)


def test_port_in_use_names_the_holder(bind: Bind) -> None:
    (listener,) = bind("127.0.0.1:0")

    error = refused(listener.address)

    name = Path("/proc/self/comm").read_text().strip()
    assert str(error) == (
        f"cannot listen on {listener.address}: address already in use (EADDRINUSE), held by {name} pid {os.getpid()}"
    )
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("held", "wanted"),
    [("0.0.0.0:0", "127.0.0.1:{}"), ("127.0.0.1:0", ":{}"), ("[::1]:0", "[::]:{}"), ("[::]:0", "[::1]:{}")],
)
def test_holder_is_found_behind_a_wildcard(bind: Bind, held: str, wanted: str) -> None:
    (listener,) = bind(held)

    error = refused(wanted.format(listener.sock.getsockname()[1]))

    assert str(error).endswith(f"pid {os.getpid()}")


def test_holder_of_a_dual_stack_socket_is_found_for_ipv4(bind: Bind) -> None:
    (listener,) = bind("[::]:0", dual_stack=True)

    error = refused(f"127.0.0.1:{listener.sock.getsockname()[1]}")

    assert str(error).endswith(f"pid {os.getpid()}")


def test_unknown_holder_is_left_unsaid() -> None:
    assert holders.describe(0) == ""
    assert holders.describe(2**31 - 1) == "pid 2147483647"
    assert holders.holder_of_abstract("nobody holds this") == ""


def test_address_of_another_machine() -> None:
    error = refused("192.0.2.1:0")

    assert str(error) == "cannot listen on 192.0.2.1:0: cannot assign requested address (EADDRNOTAVAIL)"
    assert "192.0.2.1" in error.hint


def test_name_that_does_not_resolve() -> None:
    error = refused("does-not-exist.invalid:80")

    assert "cannot listen on does-not-exist.invalid:80: does-not-exist.invalid cannot be resolved" in str(error)
    assert "numeric" in error.hint


def test_what_was_opened_is_closed_when_a_later_address_fails(bind: Bind, run_dir: Path) -> None:
    (listener,) = bind("127.0.0.1:0")
    path = run_dir / "a.sock"

    refused(f"unix:{path}", listener.address)  # the audit looks at the descriptors

    assert not path.exists()


def test_bad_section_opens_nothing(run_dir: Path) -> None:
    error = refused(f"unix:{run_dir}/a.sock", "unix:@b", mode="0600")

    assert str(error).startswith("socket web: unix:@b: abstract sockets have no mode")
    assert not list(run_dir.iterdir())


def test_nonblocking_is_asserted_again(bind: Bind) -> None:
    (listener,) = bind("127.0.0.1:0")
    assert not listener.assert_nonblocking()

    with socket.socket(fileno=os.dup(listener.fd)) as other:
        other.setblocking(True)  # a server that shares the file description

    assert os.get_blocking(listener.fd)
    assert listener.assert_nonblocking()
    assert not os.get_blocking(listener.fd)


# -- adopted


def test_inherited_descriptor_is_duplicated(bind: Bind) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as given:
        given.set_inheritable(True)
        (listener,) = bind(f"fd://{given.fileno()}", backlog=50)
        assert not given.get_inheritable()
        port = given.getsockname()[1]

    assert listener.address == f"127.0.0.1:{port}"
    assert not os.get_blocking(listener.fd)
    assert listener.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert talks(listener)


def test_file_of_an_inherited_unix_socket_is_never_removed(bind: Bind, run_dir: Path) -> None:
    path = run_dir / "a.sock"
    with live_socket(path) as given:
        (listener,) = bind(f"fd://{given.fileno()}")
        assert listener.address == f"unix:{path}"
        listener.close()

        assert path.exists()


def test_inherited_abstract_socket_shows_its_name(bind: Bind) -> None:
    name = f"trapeze-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as given:
        given.bind(f"\0{name}")
        given.listen()
        (listener,) = bind(f"fd://{given.fileno()}")

    assert listener.address == f"unix:@{name}"


def test_descriptors_that_cannot_be_adopted() -> None:
    with contextlib.ExitStack() as stack:
        bound = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        bound.bind(("127.0.0.1", 0))
        datagram = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        netlink = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
        file = stack.enter_context(open(os.devnull))

        found = [str(refused(f"fd://{each.fileno()}")) for each in (bound, datagram, netlink, file)]

    reasons = ["is not listening", "not a stream socket", "not TCP or Unix", "not a socket"]
    assert all(reason in text for reason, text in zip(reasons, found, strict=True)), found


def test_descriptor_that_is_not_open() -> None:
    error = refused("fd://1000000")

    assert str(error) == "cannot listen on fd://1000000: bad file descriptor (EBADF)"
    assert "descriptor 1000000 open" in error.hint


def test_systemd_names() -> None:
    environ = {"LISTEN_PID": "42", "LISTEN_FDS": "4", "LISTEN_FDNAMES": "web:admin:web"}

    assert systemd_sockets(environ, 42) == {"web": [3, 5], "admin": [4], "unknown": [6]}
    assert systemd_sockets(environ, 43) == {}, "they were passed to another process"
    assert systemd_sockets({"LISTEN_PID": "42", "LISTEN_FDS": "1"}, 42) == {"unknown": [3]}
    assert systemd_sockets({"LISTEN_PID": "42", "LISTEN_FDS": "-1"}, 42) == {}
    assert systemd_sockets({"LISTEN_PID": "42"}, 42) == {}
    assert systemd_sockets({}, 42) == {}


def test_systemd_name_with_two_sockets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        passed = {"web": [one.fileno(), two.fileno()]}
        opened = open_sockets("web", SocketSpec(bind="systemd:web"), systemd=passed)

    assert [talks(each) for each in opened] == [True, True]
    for each in opened:
        each.close()


def test_systemd_name_that_was_not_passed() -> None:
    error = refused("systemd:web", systemd={"admin": [3], "api": [4]})

    assert "no socket of that name was passed (passed: admin, api)" in str(error)
    assert "FileDescriptorName" in error.hint


SYSTEMD = """
import os, sys
from trapeze.sockets import open_sockets, systemd_sockets
from trapeze.spec import SocketSpec
os.environ["LISTEN_PID"] = str(os.getpid())
(listener,) = open_sockets("web", SocketSpec(bind="systemd:web"), systemd=systemd_sockets(os.environ, os.getpid()))
os.close(3)
print(listener.address, flush=True)
listener.sock.setblocking(True)
listener.sock.accept()[0].send(b"hello")
"""


def test_socket_passed_over_exec() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        address = given.getsockname()
        source, low = given.fileno(), os.dup(3) if is_open(3) else -1
        os.dup2(source, 3)
        try:
            child = subprocess.Popen(
                [sys.executable, "-c", SYSTEMD],
                cwd=Path(__file__).resolve().parents[2],
                env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"},
                stdout=subprocess.PIPE,
                pass_fds=[3],
            )
        finally:
            os.close(3)
            if low >= 0:
                os.dup2(low, 3, inheritable=False)
                os.close(low)
    with child, socket.create_connection(address, timeout=10) as client:
        assert client.recv(5) == b"hello"
        assert child.stdout is not None
        assert child.stdout.read().decode().strip() == f"127.0.0.1:{address[1]}"
    assert child.returncode == 0


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
