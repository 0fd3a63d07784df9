"""Mode check: say, in the app's own interpreter, what would go wrong, without starting anything."""

from __future__ import annotations

import sys

from trapeze_backends import registry
from trapeze_backends.contract import Problem, StartError
from trapeze_backends.features import describe, field_problems
from trapeze_backends.jsontext import dumps
from trapeze_backends.loading import find_module, load, use_app_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trapeze_backends.contract import Backend, Job

__all__ = ["check"]


def check(job: Job) -> int:
    """Print what was found as one JSON object on stdout; returns the exit status, always 0."""
    use_app_dir(job.app_dir)
    problems: list[Problem] = []
    backend = _backend(job, problems)
    speaks = _app(job, backend, problems) if job.app else {}
    answer = {
        **(describe(backend) if backend else {}),
        **speaks,
        "backend": backend.name if backend else job.backend,
        "version": backend.version() if backend else "",
        "python": sys.version.split()[0],
        "problems": [problem.as_dict() for problem in problems],
    }
    print(dumps(answer), flush=True)
    return 0


def _backend(job: Job, problems: list[Problem]) -> Backend | None:
    name = job.backend
    if name == "auto":
        if job.interface == "auto":
            _auto(job, problems)
            return None
        name = registry.auto(job.interface)
    try:
        backend = registry.get(name)
    except StartError as error:
        problems.append(Problem("backend", error.message, error.hint))
        return None
    if job.interface != "auto" and job.interface not in backend.interfaces:
        from trapeze_backends.serve import spelt

        problems.append(
            Problem(
                "interface",
                f"{name} does not serve {spelt(job.interface)} apps",
                f'backend = "{registry.auto(job.interface)}" does',
            )
        )
    problems += [*backend.check(job), *field_problems(backend, job)]
    return backend


def _auto(job: Job, problems: list[Problem]) -> None:
    """Which it will be is only known when the app has been imported: one of them must be there."""
    if job.options:
        problems.append(
            Problem(
                "options",
                'options are those of one server, and backend = "auto" does not say which',
                'name it: backend = "gunicorn"',
            )
        )
    if not any(registry.get(name).version() for name in registry.AUTO.values()):
        problems.append(
            Problem("backend", f"neither gunicorn nor uvicorn is installed in {sys.prefix}", "pip install gunicorn")
        )


def _once_more(job: Job, interface: str, problems: list[Problem]) -> list[Problem]:
    """What is wrong with the fields for an app of this interface, which is known only now."""
    known = [problem.as_dict() for problem in problems]
    found: list[Problem] = []
    job.interface = interface
    _backend(job, found)
    job.interface = "auto"
    return [problem for problem in found if problem.as_dict() not in known]


def _app(job: Job, backend: Backend | None, problems: list[Problem]) -> dict[str, str]:
    """What the app speaks, and whether it has to be made first; nothing if it is not imported."""
    if not job.import_app:
        reason = find_module(job.app)
        if reason:
            problems.append(Problem("app", reason, f"looked in {job.app_dir or 'sys.path'}"))
        return {}
    from trapeze_backends.detect import detect
    from trapeze_backends.serve import choose_interface, spelt

    try:
        if backend is not None and not problems:
            backend.prepare(job)
        app = load(job)
        made = detect(app) == "factory"
        _, interface = choose_interface(app, job)
    except StartError as error:
        problems.append(Problem("app", error.message, error.traceback or error.hint))
        return {}
    if backend is not None and interface not in backend.interfaces:
        problems.append(Problem("backend", f"{backend.name} does not serve {spelt(interface)} apps", ""))
    elif job.interface == "auto":
        problems += _once_more(job, interface, problems)
    return {"interface": interface, "is_factory": "yes" if made else ""}
