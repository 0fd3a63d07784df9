"""The section [nginx]: what the nginx in front is to look like. For the rules, and what is not imported, see `spec`."""

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["NginxSpec"]


class NginxSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The nginx in front: for `trapeze nginx`, and for a command with {generated:nginx} in it."""

    server_name: Annotated[
        str | list[str], Meta(description='Name(s) the site answers to; "_": whatever name is asked for.')
    ] = "_"
    listen: Annotated[
        str | list[str],
        Meta(description='Where nginx listens: "80", "127.0.0.1:8080", "[::]:80"; default: 80, or 443 with TLS.'),
    ] = []
    routes: Annotated[
        dict[str, str],
        Meta(
            description='Path to service: {"/" = "web", "/ws/" = "live"}; a name may stand before the path '
            '("api.example.org/"). Default: each app at its root_path.'
        ),
    ] = {}
    static: Annotated[
        dict[str, str], Meta(description='Path to directory that nginx serves itself: {"/static/" = "static"}.')
    ] = {}
    media: Annotated[
        dict[str, str], Meta(description="The same for files of users: not cached, never taken for what they are not.")
    ] = {}
    sse: Annotated[
        list[str],
        Meta(description='Paths of event streams and other answers without an end: ["/events"]. Not buffered.'),
    ] = []
    max_body: Annotated[
        int | str, Meta(description='Largest request body: bytes or "10M"; 0: no limit. More is answered with 413.')
    ] = "10M"
    peers: Annotated[
        list[str] | dict[str, list[str]],
        Meta(description='The same app on other machines: ["10.0.0.2:8000"]; a table by service where there are more.'),
    ] = []
    keepalive: Annotated[
        Annotated[int, Meta(ge=0, le=10_000)] | None,
        Meta(
            description="Idle connections to the app that each nginx worker keeps; 0: none. Default: none to a Unix "
            "socket that several workers share, 16 to all others."
        ),
    ] = None
    certificate: Annotated[
        str | None,
        Meta(
            description="TLS: file with the certificate and its chain (PEM). Port 80 beside a port 443 then redirects."
        ),
    ] = None
    certificate_key: Annotated[str | None, Meta(description="TLS: file with the private key (PEM).")] = None
    include: Annotated[
        str | list[str], Meta(description="File(s) with more directives, included in each server block.")
    ] = []
    user: Annotated[
        str | None,
        Meta(description="{generated:nginx} as root: user of nginx's workers; default: www-data, nginx or nobody."),
    ] = None
    access_log: Annotated[bool, Meta(description="{generated:nginx}: log each request to stdout.")] = False

    @property
    def names(self) -> list[str]:
        """The names as a list, however they were written."""
        return [self.server_name] if isinstance(self.server_name, str) else list(self.server_name)

    @property
    def listens(self) -> list[str]:
        """The addresses as a list, however they were written."""
        return [self.listen] if isinstance(self.listen, str) else list(self.listen)

    @property
    def includes(self) -> list[str]:
        """The files as a list, however they were written."""
        return [self.include] if isinstance(self.include, str) else list(self.include)

    def peers_of(self, service: str) -> list[str]:
        """The other machines of a service."""
        return list(self.peers) if isinstance(self.peers, list) else list(self.peers.get(service, ()))
