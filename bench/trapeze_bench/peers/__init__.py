"""trapeze and its peers, as whole: what starts each with an app, asks it to reload, and knows its workers."""

from __future__ import annotations

from trapeze_bench.peers.base import Actor, Peer, Said
from trapeze_bench.peers.managers import CIRCUS, SUPERVISORD
from trapeze_bench.peers.ours import OURS, ours
from trapeze_bench.peers.servers import NATIVE, native

__all__ = ["CIRCUS", "NATIVE", "OURS", "PEERS", "SUPERVISORD", "Actor", "Peer", "Said", "native", "ours"]

PEERS: tuple[Peer, ...] = (*OURS, *NATIVE, CIRCUS, SUPERVISORD)
"""In the order in which they are shown: trapeze, the servers run by themselves, the process managers."""
