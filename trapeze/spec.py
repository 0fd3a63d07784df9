"""What can be configured: one typed struct per section, one field per option, each with its documentation.

The TOML file, the command line, the environment, the JSON Schema and the reference pages are all read off these
structs; an option is written nowhere else. Checks that need more than one field live in `config.py`, checks that need
the machine (users, programs) in `preflight.py`.
"""

# Without `from __future__ import annotations`: msgspec would compile and evaluate each as a text, 8 ms of every start.
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from trapeze.spec_nginx import NginxSpec

__all__ = ["Config", "ControlSpec", "HealthSpec", "RestartSpec", "ServiceSpec", "SocketSpec"]

Seconds = Annotated[float, Meta(ge=0)]
Octal = Annotated[str, Meta(pattern="^0?[0-7]{3}$")]
Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
StatusCode = Annotated[int, Meta(ge=100, le=599)]
Path = Annotated[str, Meta(pattern="^/")]
Niceness = Annotated[int, Meta(ge=-20, le=19)]


class SocketSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A listening socket, or several under one name. Bound by the supervisor, accepted on by the workers."""

    bind: Annotated[
        str | list[str],
        Meta(
            description='Address: "127.0.0.1:8000", ":8000", "[::]:80", "unix:/run/app.sock", "unix:@abstract", '
            '"fd://3", "systemd:NAME"; a list for several.'
        ),
    ]
    mode: Annotated[
        Octal | None,
        Meta(description='Permissions of a Unix socket, an octal string: "0660".'),
    ] = None
    owner: Annotated[str | None, Meta(description="User that owns the Unix socket: a name or a number.")] = None
    group: Annotated[str | None, Meta(description="Group of the Unix socket: a name or a number.")] = None
    backlog: Annotated[
        int, Meta(ge=1, le=65535, description="Length of the listen queue; the kernel's somaxconn caps it.")
    ] = 2048
    listen: Annotated[
        Literal["auto", "shared", "per-worker", "reuseport"],
        Meta(
            description='"shared": all workers accept on one socket, and who is free takes the next connection. '
            '"per-worker": each slot has an address of its own (web.0.sock, web.1.sock; port, port + 1), for a proxy '
            'that chooses. "reuseport": each worker has a socket of its own on the one address, among which the kernel '
            'deals connections out; TCP only. "auto" is shared.'
        ),
    ] = "auto"
    slots: Annotated[
        Positive | None,
        Meta(description='Addresses of `listen = "per-worker"`; default: as many as the service has workers.'),
    ] = None
    dual_stack: Annotated[bool, Meta(description="An IPv6 address also takes IPv4 connections (IPV6_V6ONLY off).")] = (
        False
    )

    @property
    def reuses_port(self) -> bool:
        """Does each worker get a socket of its own on the one address?"""
        return self.listen == "reuseport"

    @property
    def addresses(self) -> list[str]:
        """The addresses as a list, however they were written."""
        return [self.bind] if isinstance(self.bind, str) else list(self.bind)


class RestartSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens when a process exits without having been asked to."""

    policy: Annotated[
        Literal["always", "on-failure", "never"],
        Meta(description='"always"; "on-failure": exit 0 is a good end; "never": a task that runs once.'),
    ] = "always"
    intensity: Annotated[int, Meta(ge=1, description="So many failures within `period` and the service is FAILED.")] = 5
    period: Annotated[Seconds, Meta(description="Seconds over which failures are counted.")] = 60.0
    healthy: Annotated[
        Seconds, Meta(description="A process that was ready this many seconds is replaced at once and forgiven.")
    ] = 5.0
    backoff: Annotated[Seconds, Meta(description="First delay between restarts in seconds; doubles each time.")] = 0.25
    cap: Annotated[
        Seconds, Meta(description="Longest delay in seconds, and the time between tries of a FAILED service.")
    ] = 30.0


class HealthSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request that a new worker asks its own app, before it accepts any from outside."""

    path: Annotated[Path, Meta(description='Path and query: "/healthz".')]
    host: Annotated[str, Meta(description="Value of the Host header.")] = "localhost"
    headers: Annotated[dict[str, str], Meta(description="More headers.")] = {}
    status: Annotated[
        StatusCode | None, Meta(description="The status that is right; default: any from 200 to 399.")
    ] = None
    timeout: Annotated[Seconds, Meta(description="Seconds the answer may take.")] = 10.0


class ServiceSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A web app (`app`) or any program (`command`), run as one or more processes."""

    # what runs
    app: Annotated[
        str | None,
        Meta(description='Web app as "module:object", "module:factory()"; object may be dotted; default "app".'),
    ] = None
    command: Annotated[
        str | list[str] | None,
        Meta(
            description="Program and arguments, no shell; {fd:SOCKET}, {index}, {env:NAME}, {generated:nginx} are "
            "replaced."
        ),
    ] = None
    shell: Annotated[bool, Meta(description="Run `command` (a string) by /bin/sh -c.")] = False
    enabled: Annotated[bool, Meta(description="Start it with the supervisor; false: only when `start` asks.")] = True

    # the web side
    interface: Annotated[
        Literal["auto", "wsgi", "asgi", "aiohttp", "tornado"],
        Meta(description="What the app speaks, or whose app it is; auto looks at the object."),
    ] = "auto"
    factory: Annotated[bool, Meta(description="`app` names a function that is called to make the app.")] = False
    backend: Annotated[
        str, Meta(description="Server that runs the app; auto: gunicorn for WSGI, uvicorn for ASGI, aiohttp, tornado.")
    ] = "auto"
    socket: Annotated[
        str | list[str] | None,
        Meta(description="Name(s) in [sockets] to accept on; an app without it takes the socket of its own name."),
    ] = None
    app_dir: Annotated[str | None, Meta(description="Directory put first on sys.path; default: `cwd`.")] = None
    venv: Annotated[
        str | None, Meta(description="Virtual environment whose Python runs the app; trapeze need not be in it.")
    ] = None
    python: Annotated[
        str | None,
        Meta(description="Interpreter that runs the app, where it is not that of a `venv`: a program's path."),
    ] = None
    threads: Annotated[
        Positive | None, Meta(description="Threads per worker, where the server has a pool; default: the backend's.")
    ] = None
    keepalive: Annotated[
        Seconds | None, Meta(description="Seconds an idle kept-alive connection stays open; default: the backend's.")
    ] = None
    access_log: Annotated[bool, Meta(description="Log each request to stdout.")] = False
    trusted_proxies: Annotated[
        list[str] | None,
        Meta(
            description='Whose X-Forwarded-For, -Proto and -Host are believed: addresses, networks ("10.0.0.0/8"), '
            '"unix" (who connects by a Unix socket), "*"; default: this machine (127.0.0.1, ::1, unix).'
        ),
    ] = None
    root_path: Annotated[str, Meta(description="Path prefix the app is mounted under (SCRIPT_NAME, root_path).")] = ""
    options: Annotated[
        dict[str, Any], Meta(description="Handed to the server as they are, under the server's own names.")
    ] = {}
    health: Annotated[
        str | HealthSpec | None,
        Meta(
            description="Asked of the app inside each new worker before it accepts: a path, or a table: path, host, "
            "headers, status, timeout."
        ),
    ] = None

    # one import per generation
    preload: Annotated[
        bool | Literal["auto"],
        Meta(
            description="Import the app once per generation and fork the workers: they share memory, start in "
            "milliseconds and never see half-copied code. auto: where the app can be forked safely."
        ),
    ] = "auto"
    warm: Annotated[
        str | None,
        Meta(description='"module:function", called once after the import and before the first fork (preload).'),
    ] = None
    after_fork: Annotated[
        str | None,
        Meta(description='"module:function", called in each worker before it accepts: the place to reconnect.'),
    ] = None
    spare: Annotated[
        bool, Meta(description="Not preloaded: keep one worker that is imported and waits to replace the first crash.")
    ] = True
    keep_generations: Annotated[
        int, Meta(ge=0, le=20, description="Earlier generations kept ready for `rollback` (preloaded services).")
    ] = 1

    # recycling and hung workers
    max_requests: Annotated[int, Meta(ge=0, description="Replace a worker after so many requests; 0: never.")] = 0
    max_requests_jitter: Annotated[
        Natural | None, Meta(description="Up to so many requests are added to max_requests; default: a tenth of it.")
    ] = None
    max_age: Annotated[Seconds, Meta(description="Replace a worker after so many seconds; 0: never.")] = 0.0
    max_rss: Annotated[
        int | str | None,
        Meta(description='Replace a worker that uses more memory: bytes or "512M"; shared pages count in part (PSS).'),
    ] = None
    recycle_jitter: Annotated[
        float, Meta(ge=0, le=1, description="Part of max_age and max_rss by which they differ among workers at most.")
    ] = 0.1
    heartbeat_timeout: Annotated[
        Seconds, Meta(description="Replace a worker whose main loop stood still for so many seconds; 0: never.")
    ] = 30.0
    request_timeout: Annotated[
        Seconds, Meta(description="Replace a worker in which a request takes longer than so many seconds; 0: never.")
    ] = 0.0

    watch: Annotated[
        bool, Meta(description="Development: roll to new code when a source file changes (`serve --reload`).")
    ] = False

    # how many, in which order
    workers: Annotated[int, Meta(ge=0, le=10_000, description="Number of processes.")] = 1
    after: Annotated[list[str], Meta(description="Start when these services are ready; stop before them.")] = []
    reload: Annotated[
        str | None,
        Meta(
            description="What a reload of everything does to a command whose section did not change: nothing, "
            '"restart", or "signal:HUP". Web services always roll.'
        ),
    ] = None
    max_surge: Annotated[
        int, Meta(ge=0, description="So many processes more than `workers` while rolling (web services).")
    ] = 1
    max_unavailable: Annotated[
        int, Meta(ge=0, description="So many ready processes fewer than `workers` while rolling (web services).")
    ] = 0

    # starting, stopping, failing
    ready: Annotated[
        str | None,
        Meta(
            description='When a process counts as ready: "notify" (READY=1), "tcp://HOST:PORT", "http://...", '
            '"exec:COMMAND", "after:2s"; default: a web app says so itself, a command when it runs.'
        ),
    ] = None
    start_timeout: Annotated[Seconds, Meta(description="Seconds to become ready; 0: no limit.")] = 120.0
    pre_start: Annotated[
        str | list[str],
        Meta(description="Commands run before each generation's first process, one after the other; must exit 0."),
    ] = []
    pre_start_timeout: Annotated[Seconds, Meta(description="Seconds for each pre_start command; 0: no limit.")] = 600.0
    stop_signal: Annotated[str, Meta(description="Signal that asks the process to leave: TERM, INT, QUIT, HUP...")] = (
        "TERM"
    )
    stop_timeout: Annotated[Seconds, Meta(description="Seconds between the stop signal and SIGKILL.")] = 30.0
    drain_grace: Annotated[
        Seconds,
        Meta(description="Seconds a leaving worker keeps idle kept-alive connections, WebSockets and streams open."),
    ] = 1.0
    exit_on_failure: Annotated[
        bool, Meta(description="When the service is FAILED, the supervisor stops everything and exits 1 (containers).")
    ] = False
    kill_group: Annotated[
        bool, Meta(description="SIGKILL goes to the whole process group; what a dead process left there is killed too.")
    ] = True
    restart: Annotated[
        RestartSpec | Literal["always", "on-failure", "never"],
        Meta(description="A policy word, or a table with policy, intensity, period, healthy, backoff, cap."),
    ] = "always"

    # the process
    cwd: Annotated[str | None, Meta(description="Working directory; default: the file's directory.")] = None
    env: Annotated[dict[str, str | int | float | bool], Meta(description="Added to the environment.")] = {}
    env_file: Annotated[
        str | list[str], Meta(description="File(s) of NAME=value lines, read before `env`, at each generation.")
    ] = []
    user: Annotated[str | None, Meta(description="Run as this user: a name or a number.")] = None
    group: Annotated[str | None, Meta(description="Primary group; default: the user's.")] = None
    umask: Annotated[Octal | None, Meta(description='Octal string: "022".')] = None
    rlimits: Annotated[
        dict[str, int | str],
        Meta(description='Resource limits: nofile = 65536, core = "unlimited", nofile = "1024:65536" (soft:hard).'),
    ] = {}
    nice: Annotated[Niceness | None, Meta(description="Scheduling niceness.")] = None
    stdin: Annotated[
        str, Meta(description='"null", "inherit" (the terminal), or "socket:NAME" for inetd-style programs.')
    ] = "null"

    @property
    def is_web(self) -> bool:
        """Does it accept on sockets of ours? Such services are replaced make-before-break."""
        return self.app is not None or bool(self.sockets)

    @property
    def sockets(self) -> list[str]:
        """Names of the sockets, however they were written (defaults are filled in by `config`)."""
        if self.socket is None:
            return []
        return [self.socket] if isinstance(self.socket, str) else list(self.socket)

    @property
    def restarts(self) -> RestartSpec:
        """The restart policy as a struct, however it was written."""
        return RestartSpec(policy=self.restart) if isinstance(self.restart, str) else self.restart

    @property
    def health_request(self) -> HealthSpec | None:
        """The health request as a struct, however it was written."""
        return HealthSpec(path=self.health) if isinstance(self.health, str) else self.health

    @property
    def is_task(self) -> bool:
        """Runs once: exit 0 means done."""
        return self.restarts.policy == "never"


class ControlSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The control socket: who may open it."""

    mode: Annotated[Octal, Meta(description='Permissions, an octal string: "0600".')] = "0600"
    group: Annotated[str | None, Meta(description="Group of the socket, so that a deploy user may use it.")] = None


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
            description="Name of this instance; several on one machine need different ones.",
        ),
    ] = "trapeze"
    control: Annotated[ControlSpec, Meta(description="The control socket.")] = ControlSpec()
    nginx: Annotated[NginxSpec, Meta(description="The nginx in front.")] = NginxSpec()
    sockets: Annotated[dict[str, SocketSpec], Meta(description="Listening sockets by name.")] = {}
    services: Annotated[dict[str, ServiceSpec], Meta(description="Web apps and side services by name.")] = {}
