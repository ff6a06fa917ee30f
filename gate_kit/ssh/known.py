"""What is kept in memory of attempts on hosts: only what saves a question. Truth is on disk."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Iterator, Sequence

from gate_kit.ssh import evidence
from gate_kit.ssh.evidence import Lasting
from gate_kit.ssh.layout import AttemptKey
from skyport.gate.v1 import job_pb2, types_pb2

_MOST = 10_000
"""Attempts of which it is kept what never changes."""
_MOST_SEEN = 1_000
_MOMENT_S = 1.0


class Known:
    """What is known of attempts without asking."""

    def __init__(self) -> None:
        self.live: dict[AttemptKey, types_pb2.JobRef] = {}
        """Attempts that were asked to start and are not known to have ended."""
        self.preparing: dict[AttemptKey, str] = {}
        """Those for which an image is fetched before their runners are sent, with how far it is."""
        self._lasting: collections.OrderedDict[AttemptKey, Lasting] = collections.OrderedDict()
        self._seen: collections.OrderedDict[AttemptKey, tuple[float, job_pb2.JobStatus]]
        self._seen = collections.OrderedDict()
        self._ended: collections.OrderedDict[AttemptKey, None] = collections.OrderedDict()
        self._sent: dict[tuple[AttemptKey, str], float] = {}
        self._by_path: dict[str, set[AttemptKey]] = {}
        """Of what `lasting` tells: runners know their paths, and not whose they are."""

    def lasting(self, key: AttemptKey) -> Lasting | None:
        """What never changes of an attempt that was asked to start; None if it is not known."""
        return self._lasting.get(key)

    def keep(self, key: AttemptKey, lasting: Lasting) -> None:
        """Remember what `lasting` tells."""
        self._lasting[key] = lasting
        self._lasting.move_to_end(key)
        self._by_path.setdefault(key.path, set()).add(key)
        if len(self._lasting) > _MOST:
            self._forget_lasting(next(iter(self._lasting)))

    @contextlib.contextmanager
    def beginning(self, key: AttemptKey, ref: types_pb2.JobRef, lasting: Lasting) -> Iterator[None]:
        """Note an attempt that is being started; as before where that fails."""
        live, before = self.live.get(key), self._lasting.get(key)
        self.live[key] = ref
        self.keep(key, lasting)
        try:
            yield
        except BaseException:
            self.forget(key)
            if live is not None:
                self.live[key] = live
            if before is not None:
                self.keep(key, before)
            raise

    def ended(self, key: AttemptKey) -> None:
        """Note that the attempt has ended, which never changes."""
        self.live.pop(key, None)
        self._ended[key] = None
        if len(self._ended) > _MOST:
            self._ended.popitem(last=False)

    def has_ended(self, key: AttemptKey) -> bool:
        """Whether the attempt is known to have ended."""
        return key in self._ended

    def saw(self, key: AttemptKey, status: job_pb2.JobStatus) -> None:
        """Note how an attempt that goes on was just seen."""
        self._seen[key] = (time.monotonic(), status)
        self._seen.move_to_end(key)
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)

    def just_seen(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """How an attempt that goes on was seen a moment ago; None if nobody has looked.

        Whoever listens already is told what changes from now on.
        """
        key = AttemptKey.of(ref)
        found = self._seen.get(key)
        if found is None or self.has_ended(key):
            return None
        at, status = found
        is_same = all(root in status.roots for root in ref.roots)
        return status if is_same and time.monotonic() - at < _MOMENT_S else None

    def last(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """How an attempt was last seen that went on then, however long ago."""
        found = self._seen.get(AttemptKey.of(ref))
        return found[1] if found else None

    def nodes(self, ref: types_pb2.JobRef) -> Sequence[str]:
        """The nodes on which the script runs; all of the job's while that is not known."""
        known = self._lasting.get(AttemptKey.of(ref))
        return evidence.nodes_of(known.spec) if known and known.spec else list(ref.nodes)

    def sent(self, key: AttemptKey, node: str) -> None:
        """Note that a runner is on its way to a node."""
        self._sent[key, node] = time.monotonic()

    def sent_for_s(self, key: AttemptKey, node: str) -> float | None:
        """For how many seconds a runner has been on its way; None if none is."""
        at = self._sent.get((key, node))
        return None if at is None else time.monotonic() - at

    def arrived(self, key: AttemptKey, node: str) -> None:
        """Note that no runner is on its way to a node any more."""
        self._sent.pop((key, node), None)

    def forget(self, key: AttemptKey) -> None:
        """Nothing is known of the attempt any more: it was removed."""
        self.live.pop(key, None)
        self._forget_lasting(key)
        self._ended.pop(key, None)
        self._seen.pop(key, None)
        for pair in [pair for pair in self._sent if pair[0] == key]:
            del self._sent[pair]

    def at(self, path: str) -> frozenset[AttemptKey]:
        """The attempts with this path that were asked to start, each of another owner."""
        return frozenset(self._by_path.get(path, ()))

    def _forget_lasting(self, key: AttemptKey) -> None:
        if self._lasting.pop(key, None) is not None:
            keys = self._by_path[key.path]
            keys.discard(key)
            if not keys:
                del self._by_path[key.path]
