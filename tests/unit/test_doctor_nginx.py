"""What `trapeze doctor` reads in nginx's configuration, as `nginx -T` prints it."""

from __future__ import annotations

import pytest

from trapeze.doctor.nginxconf import files, parse, read, seconds

PRINTED = """\
# configuration file /etc/nginx/nginx.conf:
user www-data;   # a comment; with { signs
worker_processes auto;
pid /run/nginx.pid;
worker_rlimit_nofile 4096;
events {
    worker_connections 768;
}
http {
    log_format main '$remote_addr "{$request}"; ';
    proxy_set_header X-Other "a";
    include /etc/nginx/conf.d/*.conf;
    include mime.types;
}

# configuration file /etc/nginx/conf.d/shop.conf:
upstream shop {
    server unix:/run/shop/web.sock max_fails=0;
    server localhost:8001;
    keepalive 16;
    keepalive_timeout 1m30s;
}
upstream bare { server 127.0.0.1:8002; }
server {
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    location / {
        proxy_pass http://shop;
    }
    location /own/ {
        proxy_set_header Host $host;
        proxy_pass http://bare/;
    }
    location ~ ^/re{2}/ { proxy_pass http://127.0.0.1:9000; }
    location /unix/ { proxy_pass http://unix:/run/other.sock:/path; }
}
# configuration file /etc/nginx/mime.types:
types { text/html html; }
"""


def test_read() -> None:
    found = read(PRINTED)

    assert (found.user, found.pid, found.connections, found.nofile) == ("www-data", "/run/nginx.pid", 768, 4096)
    shop, bare = found.pools["shop"], found.pools["bare"]
    assert (shop.servers, shop.keepalive, shop.idle) == (["unix:/run/shop/web.sock", "127.0.0.1:8001"], 16, 90.0)
    assert (bare.servers, bare.keepalive, bare.idle) == (["127.0.0.1:8002"], 0, 60.0)
    assert shop.where == "/etc/nginx/conf.d/shop.conf:1"
    assert found.pools["unix:/run/other.sock"].servers == ["unix:/run/other.sock"]


def test_headers_are_inherited_as_a_whole_or_not_at_all() -> None:
    by_target = {each.target: each for each in read(PRINTED).passed}

    assert (by_target["shop"].version, by_target["shop"].connection) == ("1.1", "")
    assert (by_target["bare"].version, by_target["bare"].connection) == ("1.1", None), "its own headers replace all"
    assert by_target["shop"].where == "/etc/nginx/conf.d/shop.conf:13"


def test_files() -> None:
    assert list(files(PRINTED)) == [
        "/etc/nginx/nginx.conf",
        "/etc/nginx/conf.d/shop.conf",
        "/etc/nginx/mime.types",
    ]
    assert files("") == {} and read("").pools == {}


def test_what_is_broken_is_left_out() -> None:
    assert parse("a b; } c;") == [(["a", "b"], 1, ()), (["c"], 1, ())]
    assert parse("a 'unfinished") == []


@pytest.mark.parametrize(
    ("text", "value"), [("5s", 5), ("500ms", 0.5), ("60", 60), ("1h30m", 5400), ("1M", 2592000), ("off", 0)]
)
def test_times(text: str, value: float) -> None:
    assert seconds(text) == value
