"""Who does what: each address is the concern of one living worker, without a leader.

Rendezvous hashing (Thaler and Ravishankar, 1998): of all workers that run a role, the one with the highest
hash of itself and the address does it. When a worker comes or goes only its share moves. Two workers that
disagree for a moment do the same step twice, which every script allows.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b


class Share:
    """This process's view of who lives."""

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self._living: dict[str, tuple[str, ...]] = {}

    def update(self, living: Iterable[tuple[str, Iterable[str]]]) -> None:
        """Take (worker id, its roles) of every worker that lives."""
        by_role: dict[str, list[str]] = {}
        for worker, roles in living:
            for role in roles:
                by_role.setdefault(role, []).append(worker)
        self._living = {role: tuple(workers) for role, workers in by_role.items()}

    def mine(self, role: str, address: str) -> bool:
        """Whether this process does ``role`` for ``address``. Whoever knows of nobody does it himself."""
        workers = self._living.get(role, ())
        if len(workers) < 2:
            return not workers or workers[0] == self.worker_id
        return max(workers, key=lambda worker: (_weight(worker, address), worker)) == self.worker_id


def _weight(worker: str, address: str) -> bytes:
    return blake2b(f"{worker} {address}".encode(), digest_size=8).digest()
