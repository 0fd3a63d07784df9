"""gevent's servers let their siblings accept first while they have too many connections (`fairshare`)."""

from __future__ import annotations

import gevent

from trapeze_backends.fairshare import PAUSE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from trapeze_backends.fairshare import Share

__all__ = ["sharing"]


def sharing(base: type[Any], share: Share) -> type[Any]:
    """Return a subclass of one of gevent's server classes. All servers of a worker are to be of one such class."""
    connections: set[int] = set()

    class Sharing(base):
        """Counts what it accepts."""

        _others_first: Any = None
        """The timer of the pause."""

        def start_accepting(self) -> None:
            if self._others_first is None:  # it is also called when a connection has ended
                share.note(len(connections))
                super().start_accepting()

        def do_handle(self, *args: Any) -> None:
            connections.add(id(args[0]))
            super().do_handle(*args)
            if share.accepted(len(connections)) and self._others_first is None:
                share.pause(len(connections))
                self.stop_accepting()
                self._others_first = gevent.spawn_later(PAUSE, self._our_turn)

        def do_close(self, sock: Any, *args: Any) -> None:
            connections.discard(id(sock))
            if self.started:
                share.note(len(connections))
            super().do_close(sock, *args)

        def close(self) -> None:
            super().close()
            share.leave()

        def _our_turn(self) -> None:
            self._others_first = None
            if self.started:
                share.resume()
                self.start_accepting()

    Sharing.__name__ = base.__name__
    return Sharing
