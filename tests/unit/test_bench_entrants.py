"""Who takes part in a bench: all that can, the reference first; and what is said of those that cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from trapeze_backends import cheroot_server, granian_wsgi, waitress_server, wsgi_threads
from trapeze_bench import prefork
from trapeze_bench.entrants import Backend, Unusable, choose, shown
from trapeze_bench.natives import NATIVES, Native
from trapeze_bench.served import Served

WSGI = Served("shop:app", "wsgi", 2)
ASGI = Served("shop:app", "asgi", 2)
BACKENDS = [
    Backend("gunicorn", "27.0", ("wsgi", "asgi")),
    Backend("uvicorn", "0.54", ("asgi",), threads=False),
    Backend("waitress", "3.0", ("wsgi",)),
    Backend("gevent", "26.9", ("wsgi",), threads=False),
    Backend("granian", "2.8", ("wsgi", "asgi")),
    Backend("tornado", "6.6", ("wsgi", "tornado")),
    Backend("chaussette", "1.3/waitress", ("wsgi",)),
    Backend("werkzeug", "3.1", ("wsgi",)),
    Backend("daphne", "", ("asgi",), installed=False, notes=["daphne is not installed", "pip install daphne"]),
    Backend("theirs", "1.0", ("wsgi",)),
]


@pytest.fixture(autouse=True)
def everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Native, "is_installed", property(lambda self: True))


def names(served: Served, *only: str, native: bool = False) -> list[str]:
    return [each.name for each in choose(served, BACKENDS, only or None, native=native)]


def test_all_that_can_take_part() -> None:
    assert names(WSGI) == [
        "gunicorn, plain",
        "trapeze+gunicorn-sync",
        "trapeze+gunicorn-gthread",
        "trapeze+gunicorn-gevent",
        "trapeze+waitress",
        "trapeze+gevent",
        "trapeze+granian",
        "trapeze+tornado",
        "trapeze+chaussette",
        "trapeze+theirs",
    ], "and none of those for development"


def test_of_asgi() -> None:
    assert names(ASGI) == ["gunicorn -k asgi", "trapeze+gunicorn-asgi", "trapeze+uvicorn", "trapeze+granian"]


def test_the_next_best_reference_where_gunicorn_has_no_asgi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Native, "is_installed", property(lambda self: self.module != "gunicorn.workers.gasgi"))
    first = choose(ASGI, BACKENDS)[0]
    assert first.name == "gunicorn -k uvicorn.workers.UvicornWorker"
    assert "uvicorn.workers.UvicornWorker" in first.argv(ASGI, 8000)

    monkeypatch.setattr(Native, "is_installed", property(lambda self: "gunicorn" not in self.name))
    assert choose(ASGI, BACKENDS)[0].name == "uvicorn --workers"


def test_each_server_by_itself_stands_behind_its_like() -> None:
    found = choose(WSGI, BACKENDS, ["granian", "gunicorn-sync", "chaussette"], native=True)

    assert [each.name for each in found] == [
        "gunicorn, plain",
        "trapeze+granian",
        "granian",
        "trapeze+gunicorn-sync",  # the same by itself is the reference: it need not be measured twice
        "trapeze+chaussette",  # there is no such thing by itself
    ]
    assert [each.role for each in found] == ["reference", "trapeze", "native", "trapeze", "trapeze"]
    assert [each.twin for each in found] == ["", "granian", "", "gunicorn, plain", ""]
    assert found[1].result(WSGI).native == "granian"


def test_those_that_are_named() -> None:
    assert names(WSGI, "werkzeug", "gunicorn-sync") == ["gunicorn, plain", "trapeze+werkzeug", "trapeze+gunicorn-sync"]
    assert len(names(WSGI, "gunicorn")) == 1 + 3
    assert names(WSGI, "gunicorn-sync", "gunicorn-sync") == ["gunicorn, plain", "trapeze+gunicorn-sync"]


@pytest.mark.parametrize(
    ("served", "name", "words"),
    [
        (WSGI, "guvicorn", "there is no backend 'guvicorn'"),
        (WSGI, "uvicorn", "uvicorn serves asgi apps, and this one is wsgi"),
        (WSGI, "gunicorn-asgi", "gunicorn-asgi does not serve wsgi apps"),
        (ASGI, "daphne", "daphne is not installed; pip install daphne"),
    ],
)
def test_those_that_cannot(served: Served, name: str, words: str) -> None:
    with pytest.raises(Unusable) as error:
        names(served, name)

    assert words in error.value.message and error.value.exit_code == 2


def test_a_class_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Native, "is_installed", property(lambda self: self.name != "gunicorn-gevent"))

    assert "trapeze+gunicorn-gevent" not in names(WSGI, "gunicorn")
    with pytest.raises(Unusable) as error:
        names(WSGI, "gunicorn-gevent")
    assert (error.value.message, error.value.hint) == ("gunicorn-gevent is not installed", "pip install gevent")


def test_nobody() -> None:
    with pytest.raises(Unusable, match="no backend that serves aiohttp"):
        choose(replace(WSGI, interface="aiohttp"), BACKENDS)


def test_threads_are_for_those_that_have_some() -> None:
    found = {
        each.name: each.argv(replace(WSGI, threads=8), 8000) for each in choose(replace(WSGI, threads=8), BACKENDS)
    }
    having = {name for name, words in found.items() if "--threads" in words}

    assert "trapeze+waitress" in having and "trapeze+gunicorn-gthread" in having
    assert not having & {"gunicorn, plain", "trapeze+gunicorn-sync", "trapeze+gunicorn-gevent", "trapeze+gevent"}


def test_a_factory_is_one_for_all() -> None:
    served = replace(WSGI, factory=True)
    ours, theirs = choose(served, BACKENDS, ["gunicorn-sync"])[::-1]

    assert "--factory" in ours.argv(served, 8000)
    assert theirs.argv(served, 8000)[-1] == "shop:app()"


def test_command_lines_are_shown_without_paths() -> None:
    assert shown(["/srv/venv/bin/gunicorn", "-w", "2", "-H", "/srv/venv"]) == ["gunicorn", "-w", "2", "-H", "venv"]


def test_pools_of_threads_have_the_same_size_with_and_without_trapeze() -> None:
    """Or the difference between the two would be that of the threads, and not what trapeze costs."""
    words = NATIVES["granian"].words(WSGI, 8000)

    assert words[words.index("--blocking-threads") + 1] == str(granian_wsgi.THREADS)
    assert prefork.POOLS == {
        "waitress": waitress_server.THREADS,
        "cheroot": cheroot_server.THREADS,
        "tornado": wsgi_threads.THREADS,
    }
