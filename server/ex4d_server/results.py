"""Results of reconstructions, so that the same clip with the same settings is not done twice."""

from collections import OrderedDict

import msgspec

from ex4d.protocol.documents import FileRef
from ex4d.protocol.messages import JobRequest, ReconstructJob

from .blobs import BlobStore

#: Results that are remembered; their bytes lie in the blob store and count to its quotas.
MAX_KNOWN = 256


class KnownResults:
    """What reconstructions of this run of the server ended with, by user and whole request.

    A request names its files by their SHA-256, and the estimator with all its settings. The program
    and the weights are those of the run: a server that starts anew remembers nothing.

    Args:
        blobs: Where the results are, unless they were removed for their age or for room.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._known: OrderedDict[tuple[str, bytes], tuple[FileRef, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, user: str, request: JobRequest, files: tuple[FileRef, ...]) -> None:
        """Remember the results of a reconstruction; the oldest give way."""
        if not isinstance(request, ReconstructJob):
            return
        key = _key(user, request)
        self._known[key] = files
        self._known.move_to_end(key)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def find(self, user: str, request: JobRequest) -> tuple[FileRef, ...] | None:
        """The results of the same request, if all of them are still there; else None."""
        if not isinstance(request, ReconstructJob):
            return None
        key = _key(user, request)
        files = self._known.get(key)
        if files is None:
            return None
        if any(self._blobs.size_of((user, file.sha256)) != file.size_bytes for file in files):
            del self._known[key]
            return None
        for file in files:
            # That notes the use: they are as young as the job that is given them.
            self._blobs.path_of((user, file.sha256))
        self._known.move_to_end(key)
        return files


def _key(user: str, request: ReconstructJob) -> tuple[str, bytes]:
    return user, msgspec.json.encode(request)
