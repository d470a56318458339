"""Results of reconstructions, so that the same clip with the same settings is not done twice."""

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from ex4d.protocol.documents import FileRef
from ex4d.protocol.messages import JobRequest, ReconstructJob

from .blobs import BlobStore

#: Results of all users that are remembered; their bytes lie in the blob store and count to its
#: quotas.
MAX_KNOWN = 256


class KnownResults:
    """What reconstructions of this run of the server ended with, by user, request and weights.

    A request names its files by their SHA-256, and the estimator with all its settings. The program
    is that of the run: a server that starts anew remembers nothing.

    Args:
        blobs: Where the results are, unless they were removed for their age or for room.
        weights_state: `Executor.weights_state`.
    """

    def __init__(self, blobs: BlobStore, weights_state: Callable[[JobRequest], str]) -> None:
        self._blobs = blobs
        self._weights_state = weights_state
        #: By user, those used longest ago first; no user is left with none.
        self._known: dict[str, OrderedDict[bytes, tuple[FileRef, ...]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def key_of(self, request: JobRequest) -> bytes | None:
        """All that a result depends on, as it is now; None where none is remembered.

        Taken before the work and again after it: if they differ, nobody knows which weights were
        used.
        """
        if not isinstance(request, ReconstructJob):
            return None
        return msgspec.json.encode((request, self._weights_state(request)))

    def add(self, user: str, key: bytes, files: tuple[FileRef, ...]) -> None:
        """Remember the results of a reconstruction; whoever has most loses the oldest."""
        own = self._known.setdefault(user, OrderedDict())
        own[key] = files
        own.move_to_end(key)
        while len(self) > MAX_KNOWN:
            heaviest = max(self._known, key=lambda name: len(self._known[name]))
            self._forget(heaviest, next(iter(self._known[heaviest])))

    def find(self, user: str, key: bytes) -> tuple[FileRef, ...] | None:
        """The results of the same key, if all of them are still there; else None."""
        own = self._known.get(user, OrderedDict())
        files = own.get(key)
        if files is None:
            return None
        if any(self._blobs.size_of((user, file.sha256)) != file.size_bytes for file in files):
            self._forget(user, key)
            return None
        for file in files:
            # That notes the use: they are as young as the job that is given them.
            self._blobs.path_of((user, file.sha256))
        own.move_to_end(key)
        return files

    def _forget(self, user: str, key: bytes) -> None:
        del self._known[user][key]
        if not self._known[user]:
            del self._known[user]
