"""What nginx has to be told, from a configuration: addresses, times, paths; and the text made of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from trapeze.config import Resolved, load
from trapeze.errors import ConfigError
from trapeze.nginx.site import Site, Upstream, plan
from trapeze.nginx.text import MARK, Facts, duration, fragment
from trapeze.nginx.whole import Frame, whole, wrapped

WEB = """
[sockets.web]
bind = "unix:/run/shop/web.sock"
[services.web]
app = "shop:app"
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(text: str) -> Resolved:
    file = Path("trapeze.toml")
    file.write_text(text)
    file.chmod(0o644)
    return load(str(file), environ={})


def site(text: str, *services: str, addresses: dict[str, list[str]] | None = None) -> Site:
    made = plan(loaded(text).config, services, addresses)
    assert isinstance(made, Site), made
    return made


def upstream(text: str, **options: Any) -> Upstream:
    return site(text, **options).upstreams[0]


def refused(text: str, *services: str) -> str:
    made = plan(loaded(text).config, services)
    assert isinstance(made, list), "it can be said"
    return str(made[0])


def text(config: str, version: tuple[int, ...] = (1, 22, 1), **facts: Any) -> str:
    return fragment(site(config), Facts(version=version, **facts), "trapeze.toml")


# -- where to ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bind", "server"),
    [
        ('"unix:/run/web.sock"', "unix:/run/web.sock"),
        ('"127.0.0.1:8000"', "127.0.0.1:8000"),
        ('":8000"', "127.0.0.1:8000"),
        ('"[::]:8000"', "[::1]:8000"),
        ('["127.0.0.1:8000", "unix:/run/web.sock"]', "unix:/run/web.sock"),
    ],
)
def test_address(bind: str, server: str) -> None:
    assert upstream(f'[sockets.web]\nbind = {bind}\n[services.web]\napp = "a:b"').servers == [server]


def test_an_address_that_only_the_instance_knows() -> None:
    config = '[sockets.web]\nbind = "fd://3"\n[services.web]\napp = "a:b"'

    assert "nobody can tell yet" in refused(config)
    assert upstream(config, addresses={"web": ["127.0.0.1:40123"]}).servers == ["127.0.0.1:40123"]


def test_abstract_sockets_are_out_of_reach() -> None:
    assert "abstract" in refused('[sockets.web]\nbind = "unix:@web"\n[services.web]\napp = "a:b"')


def test_peers_come_after_our_own() -> None:
    made = site(f'[nginx]\npeers = ["10.0.0.2:8000"]\n{WEB}')

    assert made.spans
    assert made.upstreams[0].servers == ["unix:/run/shop/web.sock", "10.0.0.2:8000"]


# -- which paths ------------------------------------------------------------------------------------------------------

TWO = """
[sockets.web]
bind = "unix:/run/shop/web.sock"
[sockets.live]
bind = "unix:/run/shop/live.sock"
[services.web]
app = "shop:app"
[services.live]
app = "shop:live"
"""


def paths(made: Site) -> list[tuple[str, str, str]]:
    return [
        (host.names[0], each.path, each.upstream.service if each.upstream else each.directory)
        for host in made.hosts
        for each in host.locations
    ]


def test_an_app_is_at_its_root_path() -> None:
    made = site(TWO + 'root_path = "/live"\n')

    assert paths(made) == [("_", "/", "web"), ("_", "/live/", "live")]


def test_two_at_one_path_have_to_be_told_apart() -> None:
    assert refused(TWO) == (
        "nginx.routes: web and live are both at /, say which path is whose: "
        'routes = { "/" = "web", "/live/" = "live" } in [nginx]'
    )
    assert paths(site(TWO, "live")) == [("_", "/", "live")]


def test_routes() -> None:
    made = site(
        f'[nginx]\nserver_name = "shop.example"\nroutes = {{ "/" = "web", "live.example/ws/" = "live" }}\n{TWO}'
    )

    assert paths(made) == [("shop.example", "/", "web"), ("live.example", "/ws/", "live")]


def test_files_and_streams(here: Path) -> None:
    section = (
        '[nginx]\nstatic = { "/static/" = "public" }\nmedia = { "/media/" = "/srv/media" }\nsse = ["/events", "/"]\n'
    )
    made = site(section + WEB)

    assert paths(made) == [
        ("_", "/static/", f"{here}/public/"),
        ("_", "/media/", "/srv/media/"),
        ("_", "/events", "web"),
        ("_", "/", "web"),
    ]
    assert [each.streams for each in made.hosts[0].locations] == [False, False, True, True]


def test_commands_on_sockets_count_where_there_is_no_app() -> None:
    command = '[sockets.node]\nbind = ":3000"\n[services.node]\ncommand = "node serve.js {fd:node}"\nsocket = "node"\n'

    assert paths(site(command)) == [("_", "/", "node")]
    assert paths(site(command + WEB)) == [("_", "/", "web")]


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "milliseconds", "why"),
    [
        ("keepalive = 6\ndrain_grace = 6", 5000, []),
        ("keepalive = 60\ndrain_grace = 60", 5000, []),
        ("keepalive = 3\ndrain_grace = 6", 2000, ["idle connections are kept 3 s;"]),
        ("keepalive = 6", 500, ["a leaving worker keeps idle connections 1 s;"]),
        ('backend = "uvicorn"\ndrain_grace = 6', 4000, ["idle connections are kept 5 s (uvicorn's default)"]),
        ('backend = "uvicorn"\ndrain_grace = 6\noptions = { timeout_keep_alive = 9 }', 5000, []),
        ('backend = "gunicorn"\ndrain_grace = 6', 1000, ["idle connections are kept 2 s (gunicorn's default)"]),
        ("drain_grace = 6", 1000, ["idle connections are kept 2 s (gunicorn's default, uvicorn's is longer)"]),
        ('backend = "waitress"\ndrain_grace = 6', 5000, []),
    ],
)
def test_nginx_closes_first(lines: str, milliseconds: int, why: list[str]) -> None:
    """An idle connection is dropped by nginx before the app does so, in the middle of the day and while it leaves."""
    made = upstream(WEB + lines)

    assert made.idle_ms == milliseconds
    assert len(made.why_idle) == len(why)
    assert all(said.startswith(wanted.removesuffix(";")) for said, wanted in zip(made.why_idle, why, strict=True))


def test_an_app_that_keeps_nothing_gets_nothing_kept() -> None:
    assert upstream(WEB + "keepalive = 0").keepalive == 0
    assert "keepalive 16" not in text(WEB + "keepalive = 0")


PORT = WEB.replace("unix:/run/shop/web.sock", "127.0.0.1:8000")
SHARED = WEB + "workers = 4\n"


@pytest.mark.parametrize(
    ("config", "kept", "why"),
    [
        (SHARED, 0, "the 4 workers of web share the socket"),
        (WEB, 16, ""),
        (PORT + "workers = 4\n", 16, ""),
        ('[nginx]\npeers = ["10.0.0.2:8000"]\n' + SHARED, 16, ""),
        ("[nginx]\nkeepalive = 32\n" + SHARED, 32, ""),
        ("[nginx]\nkeepalive = 0\n" + PORT, 0, "keepalive = 0 in [nginx]"),
        ("[nginx]\nkeepalive = 32\n" + WEB + "keepalive = 0\n", 0, "web closes after each answer"),
    ],
    ids=["shared", "one worker", "port", "machines", "told", "told none", "the app keeps none"],
)
def test_connections_are_kept_where_nobody_waits_for_it(config: str, kept: int, why: str) -> None:
    """A request on a kept connection waits for one worker; on a new one, for any of those that share the socket."""
    made = upstream(config)

    assert made.keepalive == kept
    assert made.why_none.startswith(why) and bool(made.why_none) == bool(why)


def test_nginx_is_told_to_keep_none_as_its_version_has_it() -> None:
    """From 1.29.7 on it keeps some unless told; before that it refuses to be told."""
    old, new, unknown = (text(SHARED, version) for version in ((1, 29, 6), (1, 29, 7), ()))

    assert "# No idle connections are kept: the 4 workers of web share the socket" in old
    assert "keepalive 0;" not in old and "\n    keepalive 0;\n" in new and "\n    # keepalive 0;  #" in unknown
    assert "keepalive_timeout" not in old + new + unknown
    assert "keepalive 0" not in text(WEB, (1, 29, 7)) and "keepalive 16;" in text(WEB, (1, 29, 7))


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [("", 60), ("request_timeout = 20", 25), ("stop_timeout = 300", 300), ("request_timeout = 100", 105)],
)
def test_nginx_waits_longer_than_the_app(lines: str, seconds: int) -> None:
    assert upstream(WEB + lines).read == seconds


# -- the text ---------------------------------------------------------------------------------------------------------


def test_http2_is_written_as_the_version_has_it() -> None:
    tls = f'[nginx]\ncertificate = "c.pem"\ncertificate_key = "k.pem"\n{WEB}'

    assert "listen 443 ssl http2;" in text(tls) and "http2 on;" not in text(tls)
    assert "listen 443 ssl;" in text(tls, (1, 25, 1)) and "http2 on;" in text(tls, (1, 25, 1))
    assert "listen 443 ssl http2;" in text(tls, ())
    assert "# listen 443 ssl http2;" in text(WEB) and "# http2 on;" in text(WEB, (1, 27, 0))


@pytest.mark.parametrize(
    ("listens", "plain"),
    [
        ('["443", "[::]:443"]', ["80", "[::]:80"]),
        ('["192.0.2.1:443", "127.0.0.1:8443"]', ["192.0.2.1:80"]),
        ('":443"', ["80"]),
        ('"8443"', []),
    ],
)
def test_it_redirects_only_to_port_443(listens: str, plain: list[str]) -> None:
    """As an ordinary user nginx could not even start with `listen 80`, and on other ports clients would go astray."""
    made = text(f'[nginx]\nlisten = {listens}\ncertificate = "c.pem"\ncertificate_key = "k.pem"\n{WEB}')

    assert re.findall(r"listen (\S*\b80);", made) == plain
    assert ("return 301" in made) is bool(plain)


def test_tls_redirects_from_port_80() -> None:
    made = text(f'[nginx]\ncertificate = "c.pem"\ncertificate_key = "k.pem"\n{WEB}', ipv6=False)

    assert re.search(r"listen 80;\n.*server_name _;\n.*return 301 https://\$host\$request_uri;", made)
    assert "[::]" not in made


def test_nothing_is_retried_that_may_not_be() -> None:
    assert "    proxy_next_upstream error;" in text(WEB)
    several = text(f'[nginx]\npeers = ["10.0.0.2:8000"]\n{WEB}')
    assert "proxy_next_upstream error timeout;" in several and "proxy_next_upstream_tries 2;" in several
    assert not re.search(r"^\s*proxy_next_upstream.*non_idempotent", text(WEB) + several, re.MULTILINE)


def test_headers_stand_in_the_server_block_only() -> None:
    """A location that sets one inherits none of the others."""
    made = text(f'[nginx]\nsse = ["/events"]\n{WEB}')

    assert all(len(line) - len(line.lstrip()) == 4 for line in made.splitlines() if "proxy_set_header" in line)


def test_lines_can_be_read() -> None:
    config = WEB + "stop_timeout = 90\n"
    everything = text('[nginx]\nsse = ["/e"]\npeers = ["10.0.0.2:80"]\nstatic = { "/s/" = "s s" }\n' + config)

    assert max(map(len, everything.splitlines())) <= 120
    assert everything.startswith(MARK)
    assert 'alias "' in everything, "a name with a blank is quoted"


def test_body_size() -> None:
    assert "client_max_body_size 10m;" in text(WEB)
    assert "client_max_body_size 1536k;" in text(f'[nginx]\nmax_body = "1.5M"\n{WEB}')
    assert "client_max_body_size 0;" in text(f"[nginx]\nmax_body = 0\n{WEB}")


def test_durations() -> None:
    assert [duration(ms) for ms in (500, 1000, 2500, 60000)] == ["500ms", "1s", "2500ms", "60s"]


def test_whole_file() -> None:
    frame = Frame(directory="/run/x", user="www-data", types=None, log=True)
    made = whole(site(WEB), Facts(version=(1, 22, 1)), frame, "trapeze.toml")

    assert "daemon" not in made, "it is on the command line, and nginx refuses it twice"
    assert "pid /run/x/nginx.pid;" in made and "user www-data;" in made and "text/css css;" in made
    assert made.count("{") == made.count("}")
    assert "user " not in wrapped("/x", Frame(directory="/run/x"))


# -- what is refused when the file is read ----------------------------------------------------------------------------


def problems(section: str, more: str = WEB) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(f"[nginx]\n{section}\n{more}")
    return [str(problem).removeprefix("trapeze.toml: ") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("static = { '/static' = 's' }", 'nginx.static./static: text "/static" has to be a directory\'s path'),
        ("static = { '/' = 's' }", "has to be a directory's path"),
        ("static = { '/s/' = 'a' }\nmedia = { '/s/' = 'b' }", "is in static too"),
        ("static = { '/s/' = 'a;b' }", "cannot be written in nginx's language"),
        ("media = { '/s {/' = 'a' }", "expected a path"),
        ("server_name = 'a b'", "is not a host name"),
        ("server_name = ['a', 'b;c']", "is not a host name"),
        ("listen = '0'", "port 0"),
        ("listen = ['80', '80']", "names an address twice"),
        ("listen = 'localhost'", "lacks a port"),
        ("sse = ['events']", "expected a path"),
        ("max_body = 'much'", "expected a number of bytes"),
        ("certificate = 'c.pem'", "nginx.certificate_key: missing"),
        ("certificate_key = 'c.pem'", "nginx.certificate: missing"),
        ("routes = { '/' = 'wbe' }", 'there is no service "wbe", did you mean "web"?'),
        ("routes = { 'x' = 'web' }", "expected a path"),
        ("peers = ['10.0.0.2']", "lacks a port"),
        ("peers = [':80']", "names no other machine"),
        ("peers = { wbe = ['10.0.0.2:80'] }", 'there is no service "wbe"'),
        ("peers = { web = [80] }", "nginx.peers.web: item 1: expected text, got the whole number 80"),
        ("sever_name = 'x'", 'unknown key, did you mean "server_name"?'),
        ("keepalive = -1", "must be at least 0, got -1"),
    ],
)
def test_refused(section: str, said: str) -> None:
    assert any(said in problem for problem in problems(section)), problems(section)


def test_peers_of_several_services_need_names() -> None:
    assert 'write a table: peers = { web = ["10.0.0.2:80"] }' in problems("peers = ['10.0.0.2:80']", TWO)[0]


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("nginx -c {generated:nginx}", "", "nginx would go into the background, add -g 'daemon off;'"),
        ("nginx -g 'daemon off;' -c {generated:apache}", "", "nothing of that name is generated"),
        ("nginx -g 'daemon off;' -c {generated:nginx}", "workers = 2", "one nginx is enough"),
        ("nginx -g 'daemon off;' -c {generated:nginx}", "shell = true", "not with a shell's"),
    ],
)
def test_commands_refused(command: str, more: str, said: str) -> None:
    service = f'[services.front]\ncommand = "{command}"\n{more}\n'

    assert any(said in problem for problem in problems("", WEB + service))


def test_nginx_alone_has_nothing_to_do() -> None:
    service = "[services.front]\ncommand = \"nginx -g 'daemon off;' -c {generated:nginx}\"\n"

    assert "there is no web service to pass requests to" in problems("", service)[0]


def test_an_nginx_of_ours_has_to_know_whose_path_is_whose() -> None:
    service = "[services.front]\ncommand = \"nginx -g 'daemon off;' -c {generated:nginx}\"\n"

    assert "web and live are both at /" in problems("", TWO + service)[0]


def test_an_nginx_of_ours_comes_after_and_leaves_by_quit() -> None:
    service = "[services.front]\ncommand = \"nginx -g 'daemon off;' -c {generated:nginx}\"\n"
    front = loaded(WEB + service).config.services["front"]
    told = loaded(WEB + service + 'stop_signal = "TERM"\nafter = []\n').config.services["front"]

    assert (front.after, front.stop_signal) == (["web"], "QUIT")
    assert (told.after, told.stop_signal) == ([], "TERM"), "what is written counts"


def test_problem_is_shown_with_its_hint() -> None:
    made = plan(loaded(TWO).config)

    assert isinstance(made, list)
    assert made[0].path == "nginx.routes" and made[0].hint.startswith("say which path is whose")


def test_environment_sets_the_section() -> None:
    Path("trapeze.toml").write_text(WEB)
    found = load(
        "trapeze.toml", environ={"TRAPEZE_NGINX__SERVER_NAME": "shop.example", "TRAPEZE_NGINX__KEEPALIVE": "4"}
    )

    assert (found.config.nginx.names, found.config.nginx.keepalive) == (["shop.example"], 4)


@pytest.mark.parametrize(
    ("bind", "trusted", "lacks"),
    [
        ("unix:/run/shop/web.sock", [], "unix"),
        ("unix:/run/shop/web.sock", ["10.0.0.0/8"], "unix"),
        ("unix:/run/shop/web.sock", ["unix"], ""),
        ("127.0.0.1:8000", ["unix"], "127.0.0.1"),
        ("127.0.0.1:8000", ["127.0.0.0/8", "::1"], ""),
        ("[::1]:8000", ["127.0.0.1"], "::1"),
        ("[::1]:8000", ["*"], ""),
    ],
)
def test_an_app_that_does_not_believe_nginx(bind: str, trusted: list[str], lacks: str) -> None:
    text = WEB.replace("unix:/run/shop/web.sock", bind) + f"trusted_proxies = {trusted}\n"
    assert upstream(text).doubts == lacks
    said = [line.strip() for line in fragment(site(text), Facts(), "trapeze.toml").splitlines()]
    words = f'# web does not believe them yet: its trusted_proxies lacks "{lacks}".'
    assert (words in said) == bool(lacks)


def test_by_default_it_does() -> None:
    assert upstream(WEB).doubts == ""
