"""The nginx of this machine: whom its workers are, and what of its configuration leads to us."""

from __future__ import annotations

import contextlib
import os
import resource

import psutil

from trapeze.access import Person, person
from trapeze.checks_nginx import is_generated
from trapeze.doctor import nginxconf
from trapeze.doctor.facts import NginxFacts
from trapeze.errors import TrapezeError
from trapeze.nginx import tool
from trapeze.nginx.uptake import workers_of
from trapeze.runtime import own_directory
from trapeze.spec import Config

__all__ = ["look"]


def look(config: Config, program: str | None, main: str | None) -> NginxFacts | None:
    """Return what is known of nginx; None if there is none.

    Args:
        config: if one of its services is an nginx of ours, that one is looked at.
        program: nginx, where it is not on the PATH.
        main: its configuration.
    """
    found = tool.find(program)
    if found is None:
        return None
    if main is None and any(is_generated(spec) for spec in config.services.values()):
        generated = os.path.join(own_directory().path, f"{config.name}.nginx", "nginx.conf")
        main = generated if os.path.exists(generated) else None
    running = _users(workers_of("/run/nginx.pid")) or _known(tool.worker_user())
    try:
        verdict = tool.run(found, *(["-c", os.path.abspath(main)] if main else []), "-T")
    except TrapezeError as error:
        return NginxFacts(users=running, unread=error.message)
    if not verdict.good:
        last = verdict.said.strip().splitlines()
        return NginxFacts(users=running, unread=last[-1] if last else "it says nothing")
    read = nginxconf.read(verdict.printed)
    workers = workers_of(read.pid or "/run/nginx.pid")
    return NginxFacts(
        users=_users(workers) or _configured(read.user),
        pools=read.pools,
        passed=read.passed,
        connections=read.connections,
        nofile=_nofile(workers) or read.nofile or resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def _users(workers: list[psutil.Process]) -> list[Person]:
    names: list[str] = []
    for worker in workers:
        with contextlib.suppress(psutil.Error):
            names.append(worker.username())
    return [who for name in dict.fromkeys(names) if (who := person(name)) is not None]


def _configured(user: str | None) -> list[Person]:
    """Whom the workers would be: nginx as an ordinary user has no choice."""
    if os.geteuid() != 0 and user is None:
        import pwd

        with contextlib.suppress(KeyError):
            return _known(pwd.getpwuid(os.geteuid()).pw_name)
    return _known(user or tool.worker_user())


def _known(name: str | None) -> list[Person]:
    who = person(name) if name is not None else None
    return [who] if who is not None else []


def _nofile(workers: list[psutil.Process]) -> int | None:
    for worker in workers:
        with contextlib.suppress(psutil.Error):
            return int(worker.rlimit(psutil.RLIMIT_NOFILE)[0])
    return None
