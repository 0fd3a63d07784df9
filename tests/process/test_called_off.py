"""Orders that are overtaken by others, and orders to several services: the exit code tells what became of each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.shop import APP
from tests.support.site import Site
from tests.support.wait import until


@pytest.mark.parametrize(("verb", "words"), [("rollback", "generation 1 is wanted again"), ("stop", "was stopped")])
def test_a_reload_that_is_called_off_has_failed(verb: str, words: str, site: Site) -> None:
    """A deploy script must not take it for done."""
    gate, listener = site.gate(), site.tcp()
    site.write("shop.py", APP.replace("{body}", "'one'"))
    text = f'[sockets.web]\nbind = "{listener.bind}"\n[services.web]\napp = "shop:app"\nworkers = 2\n'
    server = site.up(text, listeners=[listener], keep_listeners=True).ready()
    site.write("shop.py", f"open({str(gate)!r}).readline()\n" + APP.replace("{body}", "'two'"))

    with ThreadPoolExecutor() as pool:
        reload = pool.submit(server.ctl, "reload", "web")
        until(lambda: server.service()["generation"] == 2, what="the reload to begin")
        assert server.service()["ready"] == 2, "the old ones serve"
        assert server.ctl(verb, "web").code == 0
        done = reload.result(20)

    assert done.code == 1, done
    assert "called off" in done.err and words in done.err
    assert server.service()["pinned_why"] == ""
    gate.stay_open()
    assert server.stop() == 0


def test_a_reload_of_all_waits_for_all(site: Site) -> None:
    """One fails at once, the other is not ready yet: the command says in the end what became of both."""
    gate, one, two = site.gate(), site.tcp(), site.tcp()
    site.write("good.py", APP.replace("{body}", "'one'"))
    site.write("bad.py", APP.replace("{body}", "'one'"))
    server = site.up(
        f"""
        [sockets.good]
        bind = "{one.bind}"
        [sockets.bad]
        bind = "{two.bind}"
        [services.good]
        app = "good:app"
        [services.bad]
        app = "bad:app"
        """,
        listeners=[one, two],
    ).ready()
    site.write("good.py", f"open({str(gate)!r}).readline()\n" + APP.replace("{body}", "'two'"))
    site.write("bad.py", "1 / 0")
    server.expect_error(".*")

    with ThreadPoolExecutor() as pool:
        reload = pool.submit(server.ctl, "reload", "-q")
        until(
            lambda: server.service("bad")["generation"] == 1 and "ZeroDivisionError" in server.output, what="a failure"
        )
        assert not reload.done()
        gate.stay_open()
        done = reload.result(20)

    assert done.code == 1
    assert "good: generation 2, 1 of 1 ready" in done.err
    assert "bad: generation 2 failed, generation 1 serves on" in done.err
    assert one.get("/").text == "two"
    assert two.get("/").text == "one"
    assert server.stop() == 0
