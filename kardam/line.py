"""A socket to a server, under CURVE where there are keys; and what went wrong in its handshake, in
words.

Never in here: what is said on it.
"""

import contextlib
from collections.abc import Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

from kardam.errors import Denied, KardamError, Unreachable
from kardam.keys import Keys
from kardam.protocol import DOCUMENT_BYTES_MAX, HEADER_BYTES_MAX, Bytes

# TCP's own, and ZeroMQ's, sign of life: for lines that die in silence. Generous, since the
# protocol beats too, and since a beat waits behind a chunk on a slow line.
KEEPALIVE = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.HEARTBEAT_IVL: 10_000,
    zmq.HEARTBEAT_TIMEOUT: 30_000,
    zmq.HEARTBEAT_TTL: 60_000,
}

# A server that has another key than we think says nothing: it hangs up. One that has keys where we
# have none, or none where we do, may hang up before it has said so. So often is a second or two; of
# a server that too many strangers ask, it is more than a minute (see gate).
HANGS_UP = 10

SUCCEEDED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
REFUSED = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
MISMATCH = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
HUNG_UP = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)

# Flags as plain numbers: pyzmq's own, which are enumerations, cost a microsecond each to combine.
READABLE, NOW, MORE = int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message is there, in two thirds of the time of a poll that does not wait."""
    return bool(int(socket.get(zmq.EVENTS)) & READABLE)


def send(socket: zmq.Socket[bytes], frames: Sequence[Bytes]) -> None:
    """One message, the last frame without a copy if it is long. Frame by frame: send_multipart
    takes 16 microseconds for two, and this 8. Raises zmq.Again where there is no room.
    """
    for frame in frames[:-1]:
        socket.send(frame, MORE)
    socket.send(frames[-1], NOW, copy=False)


def receive(socket: zmq.Socket[bytes]) -> list[memoryview]:
    """The frames of the message that is there; in half of the time of recv_multipart."""
    frames, more = list[memoryview](), True
    while more:
        frame = socket.recv(NOW, copy=False)
        frames.append(frame.buffer)
        more = frame.more
    return frames


class Line:
    """A DEALER socket that connects to an endpoint. `patient` is who was welcome there once, and
    knows that a server which is started again may hang up for a while.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        keys: Keys | None = None,
        patient: bool = False,
    ) -> None:
        self._patient = patient
        self._endpoint = endpoint
        self._keys = keys
        self._hung_up = 0
        # Whether a handshake has succeeded, by the last look at `failure`.
        self.succeeded = False
        self.socket = context.socket(zmq.DEALER)
        # CURVE adds a few bytes to each frame.
        self.socket.set(zmq.MAXMSGSIZE, DOCUMENT_BYTES_MAX + HEADER_BYTES_MAX)
        for option, value in KEEPALIVE.items():
            self.socket.set(option, value)
        if keys is not None:
            self.socket.set(zmq.CURVE_SERVERKEY, bytes.fromhex(keys.server))
            self.socket.set(zmq.CURVE_PUBLICKEY, bytes.fromhex(keys.public))
            self.socket.set(zmq.CURVE_SECRETKEY, bytes.fromhex(keys.secret))
        self._monitor = self.socket.get_monitor_socket(SUCCEEDED | REFUSED | MISMATCH | HUNG_UP)
        self.socket.connect(endpoint)

    def say(self, message: Sequence[Bytes]) -> None:
        """The first words. They wait for the handshake; where that has failed already nothing takes
        them, and `failure` says why.
        """
        with contextlib.suppress(zmq.Again):
            send(self.socket, message)

    def failure(self) -> KardamError | None:
        """Why no handshake will ever succeed, where that is known by now."""
        while self._monitor.poll(0, READABLE):
            event = int(recv_monitor_message(self._monitor, NOW)["event"])
            self.succeeded |= event == SUCCEEDED
            self._hung_up += event == HUNG_UP
            if event == REFUSED and self._keys is not None:
                return Denied(
                    f"{self._endpoint} does not know this key: ask its operator for"
                    f" `kardam keys enroll ... {self._keys.public}`"
                )
            if event == MISMATCH and self._keys is None:
                return Denied(
                    f"{self._endpoint} takes nobody without a key: give a kit, or --server-key, as"
                    " it printed it"
                )
            if event == MISMATCH:
                return Denied(f"{self._endpoint} speaks without keys: leave them away")
        if self.succeeded or self._patient or self._hung_up < HANGS_UP:
            return None
        if self._keys is None:
            why = "takes nobody without a key: give a kit, or --server-key"
        else:
            why = f"has another key than {self._keys.server}: compare it with the line it printed"
        return Unreachable(f"{self._endpoint} hangs up: it is no kardam server, or {why}")

    def wait(self, seconds: float) -> None:
        """Until there is news for `failure`, or so long."""
        self._monitor.poll(int(1000 * seconds), READABLE)

    def close(self, linger: int = 0) -> None:
        """Let go; last words have so many milliseconds."""
        self.socket.disable_monitor()
        self._monitor.close(linger=0)
        self.socket.close(linger=linger)
