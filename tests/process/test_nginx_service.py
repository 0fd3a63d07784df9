"""nginx as a side service with {generated:nginx}: after web, before it at the stop, never bounced by a deploy."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
from pathlib import Path

import httpx
import pytest

from tests.support.nginx import certify, program
from tests.support.server import ROOT, Trapeze, run
from tests.support.site import APPS, Site
from tests.support.wait import until

_numbers = itertools.count(1)

NGINX = "nginx -e stderr -g 'daemon off;' -c {generated:nginx}"


def address() -> str:
    """An address of the loopback that nobody else uses: nginx has to be told a port before it runs."""
    pid = os.getpid()
    return f"127.{(pid >> 8) % 250 + 2}.{pid % 250 + 2}.{next(_numbers) % 250 + 2}:8080"


def config(where: str, site: Site, *, section: str = "", bind: str = "web.sock", more: str = "") -> str:
    """A web app and its nginx; as root, nginx's workers are root too: the test's directory is private."""
    user = 'user = "root"' if os.getuid() == 0 else ""
    return f"""
        [nginx]
        listen = "{where}"
        {user}
        {section}
        [sockets.web]
        bind = "unix:{bind}"
        [services.nginx]
        command = "{NGINX}"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        workers = 2
        {more}
        """


@pytest.fixture(autouse=True)
def _installed() -> None:
    program("nginx")


def ask(where: str, path: str = "/") -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=20) as client:
        return client.get(f"http://{where}{path}")


def get(where: str, path: str = "/") -> str:
    """One request, once nginx is there."""

    def answer() -> str:
        try:
            return ask(where, path).text
        except httpx.TransportError:
            return ""

    return until(answer, what=f"an answer of nginx at {where}")


def order(text: str, *pieces: str) -> list[int]:
    return [text.index(piece) for piece in pieces]


def test_it_stands_in_front_of_the_app_for_its_whole_life(site: Site) -> None:
    where = address()
    server = site.up(config(where, site)).ready()
    conf = server.runtime_dir / "trapeze.nginx" / "nginx.conf"

    assert get(where) == "hello"
    assert ask(where, "/facts").status_code == 200
    [pid] = server.pids("nginx")
    assert server.ctl("reload", "-q").code == 0
    assert server.service("web")["generation"] == 2
    assert server.pids("nginx") == [pid], "a deploy leaves nginx alone"
    assert "SIGHUP" not in server.output and "reads its new configuration" not in server.output
    assert ask(where, "/generation").text == "2"
    assert conf.stat().st_mode & 0o022 == 0

    before = len(server.output)
    assert server.stop() == 0
    said = server.output[before:]
    first, second, third = order(said, "nginx[0] pid", "web[0] pid", "web[1] pid")
    assert first < min(second, third), "nginx leaves before those whose requests it passes on"
    assert "exited with status 0" in said[first:].splitlines()[0], "by QUIT, and by itself"
    assert not conf.parent.exists()


def test_a_new_section_is_read_without_a_new_nginx(site: Site) -> None:
    old, new = address(), address()
    server = site.up(config(old, site)).ready()
    assert get(old) == "hello"
    [pid] = server.pids("nginx")

    site.write("trapeze.toml", config(new, site))
    assert server.ctl("reload", "-q").code == 0

    assert get(new) == "hello"
    until(lambda: _refused(old), what="the old address to be given up")
    assert server.pids("nginx") == [pid]
    assert server.service("nginx")["generation"] == 1
    assert server.stop() == 0


def _refused(where: str) -> bool:
    try:
        ask(where)
    except httpx.ConnectError:
        return True
    return False


def test_what_nginx_refuses_changes_nothing(site: Site) -> None:
    """It is asked before anything else happens, and says which line it means."""
    where = address()
    server = site.up(config(where, site)).ready()
    assert get(where) == "hello"

    site.write("broken.conf", "proxy_cache_valid nonsense;\n")
    site.write("trapeze.toml", config(where, site, section='include = "broken.conf"'))
    refused = server.ctl("reload", "-q")

    assert refused.code == 2
    assert "nginx refuses the configuration" in refused.err
    assert "1 | proxy_cache_valid nonsense;" in refused.err
    assert server.service("web")["generation"] == 1
    assert ask(where).text == "hello"
    assert server.stop() == 0


def test_a_socket_that_moves_is_found_again(site: Site) -> None:
    """nginx is told when the workers on the new one are ready."""
    where = address()
    server = site.up(config(where, site)).ready()
    assert get(where) == "hello"

    site.write("trapeze.toml", config(where, site, bind="other.sock"))
    assert server.ctl("reload", "-q").code == 0

    server.wait_output("nginx: reads its new configuration")
    conf = server.runtime_dir / "trapeze.nginx" / "nginx.conf"
    assert "other.sock" in conf.read_text()
    until(lambda: ask(where, "/generation").text == "2", what="an answer through the new socket")
    assert server.stop() == 0


def test_a_reload_of_nginx_itself_is_no_new_nginx(site: Site) -> None:
    """As after the renewal of a certificate: it reads all of it again, and no connection is refused."""
    where = address()
    server = site.up(config(where, site)).ready()
    assert get(where) == "hello"
    [pid] = server.pids("nginx")

    done = server.ctl("reload", "-q", "nginx")

    assert done.code == 0, done.err
    server.wait_output("nginx: reads its new configuration")
    assert server.pids("nginx") == [pid]
    assert server.service("web")["generation"] == 1
    assert server.stop() == 0


def test_it_can_be_added_by_a_reload(site: Site) -> None:
    where = address()
    whole = config(where, site)
    without = whole[: whole.index("[services.nginx]")] + whole[whole.index("[services.web]") :]
    server = site.up(without).ready()

    site.write("trapeze.toml", whole)
    assert server.ctl("reload", "-q").code == 0
    assert get(where) == "hello"

    site.write("trapeze.toml", without)
    assert server.ctl("reload", "-q").code == 0
    until(lambda: _refused(where), what="nginx to leave")
    assert server.stop() == 0
    assert list(server.runtime_dir.glob("*.nginx")) == []


def test_tls_and_http2(site: Site) -> None:
    """On a port of its own: nothing else is listened on, so that an ordinary user's nginx starts."""
    where = address()
    key, certificate = site.directory / "key.pem", site.directory / "cert.pem"
    certify(key, certificate)
    section = f'certificate = "{certificate}"\ncertificate_key = "{key}"'
    server = site.up(config(where, site, section=section).replace("web:wsgi", "front:wsgi")).ready()

    def answer() -> httpx.Response | None:
        with httpx.Client(trust_env=False, timeout=20, verify=False, http2=True) as client:
            try:
                return client.get(f"https://{where}/")
            except httpx.TransportError:
                return None

    told = until(answer, what="an answer of nginx")
    assert told is not None
    assert (told.status_code, told.http_version) == (200, "HTTP/2")
    assert told.json()["scheme"] == "https", "as nginx has told the app"
    conf = (server.runtime_dir / "trapeze.nginx" / "nginx.conf").read_text()
    assert re.findall(r"^ *listen (\S+)", conf, re.MULTILINE) == [where]
    assert server.stop() == 0


def test_machines_beside_this_one(site: Site) -> None:
    """Both are asked; when one goes away, nobody notices."""
    for name in ("web.py", "facts.py"):
        shutil.copy(APPS / name, site.directory / name)
    there = site.serve("web:wsgi", listeners=[site.tcp()]).ready()
    where = address()
    here = site.up(config(where, site, section=f'peers = ["{there.listeners[0].address}"]')).ready()
    get(where)
    [far], near = there.pids(), set(here.pids())
    asked: set[int] = set()

    def both() -> bool:
        asked.add(ask(where, "/facts").json()["pid"])
        return far in asked and bool(near & asked)

    until(both, what="an answer of each")
    assert there.stop() == 0

    answers = [ask(where, "/facts") for _ in range(20)]
    assert [answer.status_code for answer in answers] == [200] * 20
    assert {answer.json()["pid"] for answer in answers} <= near
    assert here.stop() == 0


def test_a_crash_of_nginx_is_mended(site: Site) -> None:
    where = address()
    server = site.up(config(where, site)).ready()
    assert get(where) == "hello"
    [pid] = server.pids("nginx")
    os.kill(pid, signal.SIGKILL)

    until(lambda: [each for each in server.pids("nginx") if each != pid], what="another nginx")
    assert get(where) == "hello"
    assert server.stop() == 0


def test_the_example(trapeze: object, run_dir: Path) -> None:
    """`examples/front`, as it stands, but for its address and its user."""
    where = address()
    text = (ROOT / "examples" / "front" / "trapeze.toml").read_text()
    assert 'listen = "127.0.0.1:8080"' in text
    text = text.replace('listen = "127.0.0.1:8080"', f'listen = "{where}"')
    if os.getuid() == 0:
        text = text.replace("[nginx]\n", '[nginx]\nuser = "root"\n')
    directory = run_dir / "front"
    directory.mkdir()
    for file in ("page.py", "static/style.css"):
        (directory / file).parent.mkdir(exist_ok=True)
        (directory / file).write_text((ROOT / "examples" / "front" / file).read_text())
    (directory / "trapeze.toml").write_text(text)
    assert callable(trapeze)
    server: Trapeze = trapeze("up", "-c", str(directory / "trapeze.toml"), name="front").ready()

    assert "127.0.0.1" in get(where) or where.split(":")[0] in get(where)
    assert ask(where, "/static/style.css").headers["content-type"] == "text/css"
    assert run("check", "-c", str(directory / "trapeze.toml")).code == 0
    assert server.stop() == 0
