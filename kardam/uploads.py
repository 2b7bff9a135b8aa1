"""Gradients on their way up: who asked to send one, who may, and what of it has come.

Never in here: a peer, a message to one, or what a gradient is worth.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np

from kardam.messages import ITEM, Part, Push, Vector, WorkerId
from kardam.protocol import CHUNK_BYTES, Bytes

# Seconds. A granted upload has this long for each of its chunks: a slow line, not a dead one, and
# not a liar who holds the grants that others wait for.
PATIENCE = 30.0

# Reserved for uploads in flight: so many models' worth, or so many chunks' where models are small.
BUDGET_MODELS = 4
BUDGET_CHUNKS = 16


class Upload:
    """A gradient that is asked for, and from its grant on under way, chunk after chunk."""

    def __init__(self, worker: WorkerId, push: Push, size: int, chunk: int) -> None:
        self.worker = worker
        self.push = push
        # Up to this second it may take; infinite until it is granted.
        self.deadline = np.inf
        self._size = size
        self._chunk = chunk
        self._buffer: Vector | None = None
        self._received = 0

    @property
    def granted(self) -> bool:
        return self._buffer is not None

    @property
    def left(self) -> int:
        """How many chunks have not come."""
        return -(-(self._size * ITEM - self._received) // self._chunk)

    def excuse(self, seconds: float, now: float) -> None:
        """So long it was not looked at, and nothing can be said of its lateness."""
        self.deadline = min(self.deadline + seconds, now + PATIENCE)

    def grant(self, now: float) -> None:
        """Its bytes may come from now on."""
        self._buffer = np.empty(self._size, np.float32)
        self.deadline = now + PATIENCE

    def take(self, part: Part, body: Bytes, now: float) -> bool:
        """Whether this is the next chunk, in its full length. Requires that it is granted."""
        assert self._buffer is not None
        expected = min(self._chunk, self._buffer.nbytes - self._received)
        if part.index * self._chunk != self._received or len(body) != expected:
            return False
        self._buffer.data.cast("B")[self._received : self._received + expected] = body
        self._received += expected
        self.deadline = now + PATIENCE
        return True

    @property
    def complete(self) -> Vector | None:
        """The gradient, once all of it is there."""
        whole = self._buffer is not None and self._received == self._buffer.nbytes
        return self._buffer if whole else None


class Uploads:
    """One gradient of `size` numbers a worker at most, in chunks of so many bytes, and no more
    bytes in all than the budget. It has room for two beside f workers who hold what they were
    granted as long as they can.

    Bytes are *reserved* for a worker that may send them at any moment without another word: one
    whose upload is granted, or one that has a credit. What is reserved is free again when the
    gradient is there, or its worker is gone.
    """

    def __init__(self, size: int, f: int, chunk: int = CHUNK_BYTES) -> None:
        self._size = size
        self._nbytes = size * ITEM
        self._chunk = chunk
        self.budget = max(max(BUDGET_MODELS, f + 2) * self._nbytes, BUDGET_CHUNKS * chunk)
        self._reserved: set[WorkerId] = set()
        self._uploads: dict[WorkerId, Upload] = {}
        self._asking: deque[Upload] = deque()
        # Of an upload that was given up: its ticket, and how many of its chunks may be on the way.
        self._behind: dict[WorkerId, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        """Whether any is asked for or under way."""
        return bool(self._uploads)

    def __contains__(self, worker: WorkerId) -> bool:
        return worker in self._uploads

    @property
    def reserved(self) -> int:
        """Bytes that workers may have on the way."""
        return len(self._reserved) * self._nbytes

    def credit(self, worker: WorkerId) -> bool:
        """Let this worker send its next gradient unasked, in half of the budget: one who has a
        credit and is slow leaves the other half to those who ask.
        """
        return self._reserve(worker, self.budget // 2)

    def spend(self, worker: WorkerId) -> bool:
        """Whether this worker had bytes reserved; they are free now."""
        had = worker in self._reserved
        self._reserved.discard(worker)
        return had

    def ask(self, worker: WorkerId, push: Push, now: float) -> None:
        """This worker wants to send that. Requires that it sends nothing else."""
        upload = self._uploads[worker] = Upload(worker, push, self._size, self._chunk)
        if worker in self._reserved:
            upload.grant(now)
        else:
            self._asking.append(upload)

    def grant(self, now: float) -> Iterator[Upload]:
        """Those that may come now, the first to ask first, while the budget lasts."""
        while self._asking and self._reserve(self._asking[0].worker, self.budget):
            upload = self._asking.popleft()
            upload.grant(now)
            yield upload

    def under_way(self, worker: WorkerId, ticket: int) -> Upload | None:
        """The granted upload of this worker for this ticket."""
        upload = self._uploads.get(worker)
        return upload if upload and upload.granted and upload.push.ticket == ticket else None

    def late(self, now: float) -> list[Upload]:
        """Those that have waited too long for their next chunk."""
        return [upload for upload in self._uploads.values() if now > upload.deadline]

    def excuse(self, seconds: float, now: float) -> None:
        """Nobody looked at any of them for so long."""
        for upload in self._uploads.values():
            if upload.granted:
                upload.excuse(seconds, now)

    def give_up(self, upload: Upload) -> None:
        """It is too late; what of it is on its way comes for nothing, and is nobody's fault."""
        self.end(upload.worker)
        self._behind[upload.worker] = upload.push.ticket, upload.left

    def behind(self, worker: WorkerId, ticket: int) -> bool:
        """Whether a chunk under this ticket is of an upload that was given up. Each counts once."""
        given_up, left = self._behind.get(worker, (ticket, 0))
        if ticket != given_up or left == 0:
            return False
        self._behind[worker] = given_up, left - 1
        return True

    def end(self, worker: WorkerId) -> None:
        """Nothing of this worker's is on its way any more: it is there, or given up."""
        upload = self._uploads.pop(worker, None)
        if upload is not None and upload in self._asking:
            self._asking.remove(upload)
        self._reserved.discard(worker)

    def _reserve(self, worker: WorkerId, most: int) -> bool:
        if worker not in self._reserved and self.reserved + self._nbytes <= most:
            self._reserved.add(worker)
        return worker in self._reserved
