"""What has ended in a service and how that counts: failures, finished tasks, the last reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trapeze import restart
from trapeze.lifecycle import Outcome, State
from trapeze.process import Process
from trapeze.spec import RestartSpec
from trapeze.status import says

__all__ = ["Ledger"]

_FAILURES = frozenset({Outcome.START_FAILED, Outcome.CRASHED})


class Ledger:
    """The books of one service. `restart` decides; here is what it decides upon."""

    def __init__(self) -> None:
        self.history = restart.FRESH
        """The failures of the wanted generation that still count."""
        self.standing = restart.FRESH
        """Those of the last good one, while another is wanted and it has to stand in."""
        self.restarts = 0
        """Processes that ended without having been asked to, since the supervisor began."""
        self.finished: dict[int, int] = {}
        """Tasks that ran to their end in this generation: index -> exit status."""
        self.failure = ""
        """Why the last unasked end happened; empty when the service has been whole since."""
        self.output: Sequence[str] = ()
        """The traceback or the last lines that belong to `failure`."""

    def begin_anew(self) -> None:
        """Somebody wants it tried now: failures and finished tasks no longer count."""
        self.history = self.standing = restart.FRESH
        self.finished = {}
        self.output = ()

    def give_way(self) -> None:
        """The last good generation is wanted again; what it has failed at meanwhile counts."""
        self.history, self.standing = self.standing, restart.FRESH

    def enter(
        self,
        process: Process,
        status: int,
        now: float,
        policy: RestartSpec,
        jitter: float,
        *,
        who: str,
        current: bool,
        stands_in: bool = False,
        final: bool,
        siblings: Iterable[Process] = (),
    ) -> None:
        """Write down the end of `process`.

        Args:
            process: reaped and judged.
            status: its exit status.
            now: monotonic seconds.
            policy: of the generation it belonged to.
            jitter: a random draw from [0, 1).
            who: the process by its name; "" for one that speaks for the app, not for itself.
            current: it was of the wanted generation; others do not make that one look bad.
            stands_in: it was of the generation that fills the gaps meanwhile: it is replaced whatever its end was.
            final: there is no sense in trying it again soon.
            siblings: the others of its generation, if that one has been good once: new code has still to prove itself.
        """
        judged = process.outcome
        if judged is Outcome.DONE and policy.policy != "always" and not stands_in:
            if current:
                self.finished[process.index] = status
            return
        if judged is Outcome.STOPPED:
            return
        self.restarts += policy.policy != "never" and process.role == "worker"
        healthy = restart.forgiven(process.uptime(now), policy)
        if judged in _FAILURES or not healthy:
            self.failure = says(who, process.why) if who else process.why
            self.output = _last_words(process)
        if not current and not stands_in:
            return
        after = restart.FRESH if healthy else self._failed(process, now, policy, jitter, stands_in, final, siblings)
        if stands_in:
            self.standing = after
        elif policy.policy == "never" and process.role == "worker":
            self.finished[process.index] = status
        else:
            self.history = after

    def _failed(
        self,
        process: Process,
        now: float,
        policy: RestartSpec,
        jitter: float,
        stands_in: bool,
        final: bool,
        siblings: Iterable[Process],
    ) -> restart.History:
        """Also an exit 0: a server that leaves at once, again and again, is a loop like any other."""
        return restart.failed(
            self.standing if stands_in else self.history,
            # Its successor was spawned then, not when it was reaped: that one is a try of its own.
            now if process.overran is None else process.overran,
            policy,
            jitter,
            born=process.born,
            proven=any(restart.forgiven(now - at, policy) for at in _ready_since(siblings)),
            stillborn=process.ready_at is None,
            final=final,
        )

    def forgive(self, workers: Iterable[Process], now: float, policy: RestartSpec) -> None:
        """A process that came up after the last failure and stayed ready long enough makes up for all of them."""
        if self.history is restart.FRESH:
            return
        last = self.history.failures[-1]
        if any(ready >= last and restart.forgiven(now - ready, policy) for ready in _ready_since(workers)):
            self.history = restart.FRESH

    def forgiveness_due(self, workers: Iterable[Process], now: float, policy: RestartSpec) -> float | None:
        """When `forgive` will next have something to do, monotonic seconds."""
        if self.history is restart.FRESH:
            return None
        return min((at + policy.healthy for at in _ready_since(workers) if at + policy.healthy > now), default=None)

    def whole(self) -> None:
        """Everything that is wanted is so: the last failure is history, unless it was one too many."""
        if not self.history.exhausted:
            self.failure = ""


def _ready_since(workers: Iterable[Process]) -> list[float]:
    return [p.ready_at for p in workers if p.ready_at is not None and p.state is State.READY]


def _last_words(process: Process) -> Sequence[str]:
    if process.error is not None and process.error[1]:
        return process.error[1].rstrip("\n").split("\n")
    return process.stacks or list(process.tail)
