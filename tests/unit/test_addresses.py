"""Text -> address, and text -> readiness condition: what is taken, what is refused and with which words."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trapeze.addresses import SUN_PATH_MAX, Abstract, Inherited, Systemd, Tcp, Unix, parse, problems
from trapeze.readiness import After, Connect, Execute, Http, Notify, parse_duration, parse_ready
from trapeze.spec import SocketSpec


def result(function: Callable[[str], object], text: str) -> object:
    """What comes of it: the value, or the words of the ValueError. Any other error is one of the test."""
    try:
        return function(text)
    except UnicodeError:
        raise
    except ValueError as error:
        return str(error)


# -- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", Tcp("127.0.0.1", 8000, False)),
        (":8000", Tcp("0.0.0.0", 8000, False)),
        ("localhost:0", Tcp("localhost", 0, False)),
        ("app-1.example.org:65535", Tcp("app-1.example.org", 65535, False)),
        ("[::]:80", Tcp("::", 80, True)),
        ("[fe80::1%eth0]:80", Tcp("fe80::1%eth0", 80, True)),
        ("[::ffff:127.0.0.1]:80", Tcp("::ffff:127.0.0.1", 80, True)),
        ("unix:/run/app.sock", Unix("/run/app.sock")),
        ("unix:///run/app.sock", Unix("/run/app.sock")),
        ("unix:run/app.sock", Unix("run/app.sock")),
        ("unix:/run/a:b@c", Unix("/run/a:b@c")),
        ("unix:@app", Abstract("app")),
        ("unix:@/looks/like/a/path", Abstract("/looks/like/a/path")),
        ("fd://3", Inherited(3)),
        ("fd://0", Inherited(0)),
        ("systemd:web", Systemd("web")),
    ],
)
def test_parse(text: str, address: object) -> None:
    assert parse(text) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("8000", "write 127.0.0.1:8000, or :8000"),
        ("localhost", "lacks a port"),
        ("/run/app.sock", "unix:/run/app.sock"),
        ("localhost:", '"" in "localhost:" is not a port'),
        ("localhost:http", "not a port number"),
        ("localhost:-1", "not a port number"),
        ("localhost:+1", "not a port number"),
        ("localhost:8_0", "not a port number"),
        ("localhost:٨٠", "not a port number"),
        ("localhost:65536", "limit is 65535"),
        ("localhost:" + "9" * 5000, "not a port number"),
        ("::1:8000", "in brackets"),
        ("[::1]", "lacks a port"),
        ("[::1]8000", "lacks a port"),
        ("[127.0.0.1]:80", "not an IPv6"),
        ("[::g]:80", "not an IPv6"),
        ("[fe80::1%]:80", "lacks the interface"),
        ("256.0.0.1:80", "not an IPv4"),
        ("127.1:80", "not an IPv4"),
        ("*:80", '":PORT"'),
        ("-x:80", "not a host name"),
        ("a b:80", "not a host name"),
        ("tcp://127.0.0.1:80", 'kind of address "tcp"'),
        ("http://127.0.0.1:80", 'kind of address "http"'),
        ("unix:", "names no file"),
        ("unix:/run/", "names no file"),
        ("unix:/run/..", "names no file"),
        ("unix:@", "needs a name"),
        ("unix://run/app.sock", "ambiguous"),
        ("unix:/" + "a" * 107, "108 bytes, the limit is 107"),
        ("unix:/" + "é" * 54, "109 bytes, the limit is 107"),
        ("unix:@" + "a" * 108, "108 bytes"),
        ("unix:/a\0b", "no address can have"),
        ("127.0.0.1:80\n", "no address can have"),
        ("fd:3", "fd://N"),
        ("fd://", "fd://N"),
        ("fd://-1", "fd://N"),
        ("fd://x", "fd://N"),
        ("fd://²", "fd://N"),
        ("fd://9999999999", "no descriptor has such a number"),
        ("systemd:", "names no socket"),
        ("systemd:a:b", "names no socket"),
    ],
)
def test_parse_refuses_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)

    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


ports = st.integers(0, 65535)
names = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z][a-z0-9-]{0,10}){0,3}", fullmatch=True).filter(
    lambda name: name not in ("unix", "fd", "systemd")
)
segments = st.text(st.sampled_from(string.ascii_letters + string.digits + "._-:@ é"), min_size=1, max_size=20)
paths = st.lists(segments, min_size=1, max_size=4).map("/".join).filter(lambda path: path[-1] != ".")
addresses = st.one_of(
    st.builds(Tcp, st.one_of(names, st.ip_addresses(v=4).map(str)), ports, st.just(False)),
    st.builds(Tcp, st.ip_addresses(v=6).map(str), ports, st.just(True)),
    st.builds(lambda path: Unix(f"/{path}"), paths),
    st.builds(Abstract, segments),
    st.builds(Inherited, st.integers(0, 2**31 - 1)),
    st.builds(Systemd, segments.filter(lambda name: ":" not in name)),
)


@given(addresses)
def test_an_address_reads_as_it_is_written(address: object) -> None:
    if isinstance(address, Unix) and len(address.path.encode()) > SUN_PATH_MAX:
        with pytest.raises(ValueError, match="too long"):
            parse(str(address))
    else:
        assert parse(str(address)) == address


@given(st.one_of(st.text(), st.text(string.printable), addresses.map(str)), st.text(":/[]@%0", max_size=3))
@example("unix:@", "")
@example("[", "")
@example("[]:", "1")
def test_any_text_is_an_address_or_has_a_reason(text: str, more: str) -> None:
    for each in (text, text + more, more + text):
        address = result(parse, each)
        assert address
        assert isinstance(address, str) or parse(str(address)) == address, "what was read can be read again"


@pytest.mark.parametrize(
    ("spec", "reasons"),
    [
        (SocketSpec(bind=":80"), []),
        (SocketSpec(bind=[]), ["no address"]),
        (SocketSpec(bind=[":x", ":y"], mode="0600"), ['"x"', '"y"']),
        (SocketSpec(bind=[":80", "0.0.0.0:80"]), ["listed twice"]),
        (SocketSpec(bind=[":0", ":0"]), []),
        (SocketSpec(bind=["unix:/a", ":80"], mode="0600", group="www"), []),
        (SocketSpec(bind=":80", mode="0600", owner="www"), ["mode and owner can only be set on a Unix socket"]),
        (SocketSpec(bind=["unix:/a", "unix:@b"], group="www"), ["unix:@b: abstract sockets have no group"]),
        (SocketSpec(bind=["fd://3", "systemd:web"], mode="0600"), ["fd://3: mode", "systemd:web: mode"]),
        (SocketSpec(bind=["[::]:80", "unix:/a"], dual_stack=True), []),
        (SocketSpec(bind=":80", dual_stack=True), ["0.0.0.0:80: dual_stack needs an IPv6 address, as [::]:80"]),
        (SocketSpec(bind=["[::]:80", "localhost:81"], dual_stack=True), ["localhost:81: dual_stack"]),
        (SocketSpec(bind="unix:/a", dual_stack=True), ["dual_stack needs an IPv6"]),
        (SocketSpec(bind=[":80", "[::1]:80"], listen="reuseport"), []),
        (
            SocketSpec(bind=["unix:/a", "unix:@b", "fd://3", "systemd:web", ":80"], listen="reuseport"),
            [
                'unix:/a: listen = "reuseport" goes with TCP addresses: a Unix socket has one queue',
                'unix:@b: listen = "reuseport"',
                'fd://3: listen = "reuseport" goes with TCP addresses: it was bound by somebody else',
                'systemd:web: listen = "reuseport"',
            ],
        ),
    ],
)
def test_problems(spec: SocketSpec, reasons: list[str]) -> None:
    found = problems(spec)

    assert len(found) == len(reasons), found
    assert all(reason in text for reason, text in zip(reasons, found, strict=True)), found


# -- readiness


@pytest.mark.parametrize(
    ("text", "ready"),
    [
        ("notify", Notify()),
        ("tcp://127.0.0.1:6390", Connect(Tcp("127.0.0.1", 6390, False))),
        ("tcp://[::1]:1", Connect(Tcp("::1", 1, True))),
        ("unix:/run/redis.sock", Connect(Unix("/run/redis.sock"))),
        ("unix:@redis", Connect(Abstract("redis"))),
        ("http://localhost:8000", Http(Tcp("localhost", 8000, False), "/")),
        ("http://localhost", Http(Tcp("localhost", 80, False), "/")),
        ("http://[::1]/x", Http(Tcp("::1", 80, True), "/x")),
        ("http://[::1]:81/x/y?z=1", Http(Tcp("::1", 81, True), "/x/y?z=1")),
        ("http://localhost?a=/b", Http(Tcp("localhost", 80, False), "/?a=/b")),
        ("exec:redis-cli -p 1 ping", Execute("redis-cli -p 1 ping")),
        ("after:2s", After(2.0)),
        ("after:500ms", After(0.5)),
        ("after:1.5m", After(90.0)),
        ("after:0s", After(0.0)),
    ],
)
def test_parse_ready(text: str, ready: object) -> None:
    assert parse_ready(text) == ready


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "none of notify"),
        ("yes", "none of notify"),
        ("udp://x:1", "none of notify"),
        ("https://localhost/", "https"),
        ("tcp:localhost:1", "lacks the slashes"),
        ("tcp://localhost", "lacks a port"),
        ("tcp://:1", "lacks a host"),
        ("tcp://localhost:0", "port 0"),
        ("tcp://::1:1", "in brackets"),
        ("unix:", "names no file"),
        ("http:localhost/", "lacks the slashes"),
        ("http:///x", "lacks a host"),
        ("http://::1/", "in brackets"),
        ("http://localhost:x/", "not a port"),
        ("http://me:secret@localhost/", "user and password"),
        ("http://localhost/a b", "write them as %XX"),
        ("http://localhost/é", "write them as %XX"),
        ("http://localhost/a\r\nX: y", "write them as %XX"),
        ("http://localhost/#x", "never sent"),
        ("exec:", "lacks a command"),
        ('exec:sh -c "', "cannot be split into words"),
        ("after:2", "as 2s"),
        ("after:", "no duration"),
        ("after:-1s", "no duration"),
        ("after:1e3s", "no duration"),
        ("after:infs", "no duration"),
    ],
)
def test_parse_ready_refuses_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_ready(text)

    assert reason in str(caught.value)


def test_the_host_header_is_as_the_url_says() -> None:
    authorities = [
        ready.authority
        for text in ("http://a", "http://a:81", "http://[::1]", "http://[::1]:81")
        if isinstance(ready := parse_ready(text), Http)
    ]

    assert authorities == ["a", "a:81", "[::1]", "[::1]:81"]


@given(
    st.one_of(st.text(), st.builds("{}{}".format, st.sampled_from(["http://", "tcp://", "exec:", "after:"]), st.text()))
)
def test_any_text_is_a_condition_or_has_a_reason(text: str) -> None:
    assert result(parse_ready, text) != ""


@given(st.integers(0, 10**9 - 1), st.sampled_from([("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)]))
def test_durations(number: int, unit: tuple[str, float]) -> None:
    assert parse_duration(f"{number}{unit[0]}") == number * unit[1]
