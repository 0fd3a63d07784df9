"""What `trapeze nginx` prints, read by a real nginx: every kind of request goes through it, and nothing is repeated."""

from __future__ import annotations

import hashlib
import json
import signal

import pytest
from websockets.sync.client import connect

from tests.support.fronted import Front, Make, ask, events, leave, orders
from tests.support.nginx import certify
from tests.support.server import run
from tests.support.site import Site
from tests.support.wait import until


@pytest.fixture(params=["gunicorn", "uvicorn"])
def backend(request: pytest.FixtureRequest) -> str:
    """The server behind."""
    return str(request.param)


KEPT = "keepalive = 8"
"""In [nginx]. Without it no connection is kept here: two workers share a Unix socket."""


@pytest.fixture(params=[""])
def kept(request: pytest.FixtureRequest) -> str:
    """What [nginx] says of connections to the app; by default nothing."""
    return str(request.param)


either = pytest.mark.parametrize("kept", ["", KEPT], ids=["none-kept", "kept"], indirect=True)


@pytest.fixture
def front(site: Site, nginx: Make, backend: str, kept: str) -> Front:
    options = 'options = { worker_class = "gthread" }' if backend == "gunicorn" else ""
    return Front(site, nginx, backend, options, section=kept)


@either
def test_connections_to_the_app_are_kept_or_closed(front: Front, kept: str) -> None:
    """It is nginx that closes them: the app is not asked to."""
    assert front.listener.get("/nothing-kept-yet").status_code < 500
    until(lambda: front.connections() == (2 if kept else 1), what="one that is kept" if kept else "all closed")
    with front.listener.client() as client:
        for _ in range(20):
            assert client.get("/").json()["connection"] == ""
    until(lambda: front.connections() == (2 if kept else 1), what="one that is kept" if kept else "all closed")


def test_requests_of_every_kind(front: Front) -> None:
    with front.listener.client() as client:
        assert client.head("/").status_code == 200
        big = b"0123456789abcdef" * (50 * 2**16)
        answer = client.post("/echo", content=big).json()
        assert answer == {"size": 50 * 2**20, "sum": hashlib.sha256(big).hexdigest()}
        pieces = [b"piece %d\n" % number for number in range(2000)]
        whole = b"".join(pieces)
        assert client.post("/echo", content=iter(pieces)).json()["sum"] == hashlib.sha256(whole).hexdigest()
        assert client.post("/echo", content=b"x" * (65 * 2**20)).status_code == 413
        answer = client.post("/echo", content=b"later", headers={"Expect": "100-continue"})
        assert answer.json()["size"] == 5
    assert front.posts("/echo") == 3


def test_a_client_that_lies_is_not_believed(front: Front) -> None:
    """What it sends under the names that the app goes by is replaced or taken out."""
    lies = {
        "X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "666", "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6", "Proxy": "http://evil.example",
        "X-Forwarded-Ssl": "on", "X-Forwarded-Protocol": "ssl", "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-Scheme": "https", "X-Request-Start": "t=1", "Upgrade": "h2c",
        "Connection": "Upgrade, HTTP2-Settings", "X_Forwarded_For": "6.6.6.6",
    }  # fmt: skip

    facts = front.listener.request("GET", "/", headers={**lies, "Host": "shop.example:8080"}).json()

    assert (facts["client"], facts["scheme"], facts["host"]) == ("127.0.0.1", "http", "shop.example:8080")
    start = facts["told"].pop("x-request-start")
    assert facts["told"] == {
        "x-forwarded-for": ["127.0.0.1"],
        "x-forwarded-proto": ["http"],
        "x-forwarded-host": ["shop.example:8080"],
        "x-forwarded-port": [front.listener.address.split(":")[1]],
        "x-real-ip": ["127.0.0.1"],
    }
    assert len(start) == 1 and float(start[0].removeprefix("t=")) > 1e9
    absolute = ask(front, b"GET http://shop.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert json.loads(absolute.rpartition(b"\r\n\r\n")[2])["host"] == "shop.example", "the host nginx has chosen by"


def test_events_are_passed_on_at_once(front: Front) -> None:
    events(front)


def test_a_client_that_goes_away(front: Front) -> None:
    leave(front)


def deadly_orders(front: Front) -> list[int]:
    """Workers are killed in the middle of orders: how often each order was taken."""
    with front.listener.client() as client:
        for number in range(3):
            assert client.post(f"/{number}").status_code == 200  # so that there are kept connections to be tried
            assert client.post(f"/{number}/die").status_code == 502
            until(lambda: len(front.trapeze.pids()) == 2, what="a new worker")
    return [front.posts(f"/{number}/die") for number in range(3)]


@either
def test_nothing_that_counts_is_repeated_when_a_worker_dies(front: Front) -> None:
    assert deadly_orders(front) == [1, 1, 1]


def test_it_would_be_repeated_if_nginx_were_told_to(site: Site, nginx: Make) -> None:
    """The control of the test above."""

    def careless(text: str) -> str:
        assert "proxy_next_upstream error;" in text
        return text.replace("proxy_next_upstream error;", "proxy_next_upstream error non_idempotent;").replace(
            "keepalive_timeout 500ms;", "keepalive_timeout 30s;"
        )

    assert max(deadly_orders(Front(site, nginx, "uvicorn", change=careless, section=KEPT))) > 1


def test_websocket(site: Site, nginx: Make) -> None:
    """It and plain requests by the same location."""
    front = Front(site, nginx, "uvicorn")
    with connect(f"ws://{front.listener.address}/ws", open_timeout=20) as talk:
        for word in ("one", "two"):
            talk.send(word)
            assert talk.recv(20) == word
        assert front.listener.get("/").status_code == 200


def test_reload_of_both_under_load(front: Front, backend: str) -> None:
    """trapeze rolls and nginx takes up new workers at the same time: no 502, and each order was taken once."""
    with orders(front) as answered:
        until(lambda: len(answered) > 30, what="orders")
        for number in (2, 3):
            front.nginx.signal(signal.SIGHUP)
            assert front.trapeze.ctl("reload", "-q").code == 0
            assert front.trapeze.service()["generation"] == number
        seen = len(answered)
        until(lambda: len(answered) > seen + 30, what="orders after it")

    bad = [each for each in answered if each[1] not in (0, 200)]
    assert bad == []
    taken = [line.split()[0] for line in front.counted.read_text().splitlines()]
    assert len(taken) == len(set(taken)), "an order was taken twice"
    assert {path for path, status in answered if status == 200} <= set(taken)
    assert {path for path, status in answered if status == 0} & set(taken) == set(), "what was taken is answered"


def test_a_service_with_shorter_times_gets_a_shorter_pause(site: Site) -> None:
    """The numbers of the file are those of the text; a whole check of the text by nginx, for TLS too."""
    key, certificate = site.directory / "key.pem", site.directory / "cert.pem"
    certify(key, certificate)
    site.write(
        "trapeze.toml",
        f"""
        [nginx]
        server_name = "shop.example"
        certificate = "{certificate}"
        certificate_key = "{key}"
        listen = ["8443", "[::1]:8443"]
        peers = ["127.0.0.2:8000"]
        static = {{ "/static/" = "static files" }}
        [sockets.web]
        bind = "127.0.0.1:8000"
        [services.web]
        app = "front:wsgi"
        keepalive = 3
        drain_grace = 10
        request_timeout = 20
        """,
    )
    printed = run("nginx", "-c", str(site.file), "--test")

    assert printed.code == 0, printed.err
    for line in ("keepalive_timeout 2s;", "proxy_read_timeout 25s;", "server 127.0.0.2:8000 max_fails=3",
                 f'alias "{site.directory}/static files/";'):  # fmt: skip
        assert line in printed.out
