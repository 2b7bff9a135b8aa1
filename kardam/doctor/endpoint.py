"""A server, asked from afar in the order in which things fail: name, TCP, key, version.

No token is needed, nobody's session is touched, and the first failure is the last line.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from urllib.parse import urlsplit

import zmq

from kardam import __version__
from kardam.client import check_endpoint
from kardam.doctor.finding import Finding, fail, ok, warn
from kardam.errors import Denied as Refused
from kardam.errors import Unreachable
from kardam.keys import Keys
from kardam.kits import address
from kardam.line import Line
from kardam.messages import Denied, Hello, Role, Welcome
from kardam.protocol import PROTOCOL, ProtocolError, decode_down, encode

# Seconds that each step may take.
PATIENCE = 3.0

# The first words of ZeroMQ's own handshake (ZMTP 3.0): signature, version, mechanism, padding.
SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
GREETING = SIGNATURE + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)

# Up to the version, which is enough to hear the other's greeting: who hears of another mechanism
# than his own hangs up, and what he has said is lost.
OPENING = GREETING[: len(SIGNATURE) + 1]


def look(where: str) -> Iterator[Finding]:
    """Each step's finding, up to the first that fails, of an endpoint, or by a kit. Raises
    UsageError for what is neither.
    """
    endpoint, keys = address(where)
    parts = urlsplit(check_endpoint(endpoint))
    host, port = str(parts.hostname), int(parts.port or 0)
    steps = [partial(_name, host), partial(_tcp, host, port), partial(_key, host, port, keys)]
    if keys is not None:
        steps.append(partial(_let_in, endpoint, keys))
    for step in [*steps, partial(_version, endpoint, keys)]:
        yield (found := step())
        if found.state != "ok":
            return  # behind a door that asks for a key, nothing is to be seen without one


def _name(host: str) -> Finding:
    try:
        found = socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        cure = "spell the host as the server's --bind does, or give its number"
        return fail("name", f"no such host {host!r} ({error.strerror})", cure, Unreachable.code)
    return ok("name", f"{host} is {', '.join(sorted({str(at[4][0]) for at in found}))}")


def _tcp(host: str, port: int) -> Finding:
    begun = time.perf_counter()
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        told = f"nobody listens at port {port} of {host}"
        cure = "start kardam serve there, and compare the port with the line that it prints"
    except TimeoutError:
        told = f"no answer within {PATIENCE:g} s from port {port} of {host}"
        cure = "let a firewall between you and the server pass this port"
    except OSError as error:
        told, cure = f"{host}:{port}: {error.strerror}", "look at the network of this machine"
    else:
        return ok("tcp", f"port {port} answers in {1e3 * (time.perf_counter() - begun):.1f} ms")
    return fail("tcp", told, cure, Unreachable.code)


def _key(host: str, port: int, keys: Keys | None) -> Finding:
    """Which mechanism the other side's ZeroMQ asks for, by its own greeting."""
    theirs = b""
    try:
        with socket.create_connection((host, port), timeout=PATIENCE) as line:
            line.sendall(OPENING)
            while len(theirs) < len(GREETING) and (more := line.recv(len(GREETING))):
                theirs += more
    except OSError:
        pass  # what came before it is all that there is to tell
    if len(theirs) < len(GREETING) or (theirs[0], theirs[9]) != (SIGNATURE[0], SIGNATURE[9]):
        said = f"it says {theirs[:24]!r}" if theirs else "it says nothing"
        cure = "ask whoever runs that machine what listens there; kardam serve prints its endpoint"
        return fail("key", f"no ZeroMQ listens there: {said}", cure, Unreachable.code)
    mechanism = theirs[12:32].rstrip(b"\0").decode("ascii", "replace")
    if mechanism == "CURVE" and keys is not None:
        return ok("key", "it lets in only whose key is enrolled, under CURVE")
    if mechanism == "CURVE":
        cure = "give a kit (kardam keys kit) in place of the endpoint, and it goes on from here"
        return warn("key", "it lets in only whose key is enrolled, under CURVE", cure)
    if mechanism != "NULL":
        told = f"the server asks for {mechanism}, which kardam {__version__} does not speak"
        cure = "install here what the server has"
        return fail("key", told, cure, Refused.code)
    return ok("key", "none is asked for: the line is plain TCP")


def _let_in(endpoint: str, keys: Keys) -> Finding:
    """Whether a handshake with these keys succeeds."""
    until = time.monotonic() + PATIENCE
    with zmq.Context() as context, closing(Line(context, endpoint, keys)) as line:
        while time.monotonic() < until:
            if (failure := line.failure()) is not None:
                cure = "its operator enrolls it again, or makes another kit"
                return fail("kit", str(failure), cure, failure.code)
            if line.succeeded:
                return ok("kit", "its key is enrolled")
            line.wait(0.1)
    cure = "wait, if the server is busy; else it is another program"
    return fail("kit", f"no handshake within {PATIENCE:g} s", cure, Unreachable.code)


def _version(endpoint: str, keys: Keys | None) -> Finding:
    """Say hello, without a token, or in a role that hardly a kit has, so that the answer is no; a
    no in our words is what we want.
    """
    role: Role = "operator" if keys is None else "evaluator"
    hello = Hello(PROTOCOL, __version__, role, "", "doctor", byzantine=False, holds=())
    with zmq.Context() as context, closing(Line(context, endpoint, keys)) as line:
        line.say(encode(hello))
        try:
            answer = None
            if line.socket.poll(int(1000 * PATIENCE)):
                answer, _ = decode_down(line.socket.recv_multipart())
        except ProtocolError as error:
            cure = "compare kardam --version here and there"
            return fail("version", f"it answers what is no message: {error}", cure, Refused.code)
    if not isinstance(answer, Denied | Welcome):
        cure = "wait, if the server is busy; else it is another program"
        told = f"no answer to hello within {PATIENCE:g} s" if answer is None else f"got {answer}"
        return fail("version", told, cure, Unreachable.code)
    if isinstance(answer, Denied) and "protocol" in answer.reason:
        cure = f"install one version at both ends; this is kardam {__version__}"
        return fail("version", answer.reason, cure, Refused.code)
    return ok("version", f"a kardam server, which speaks protocol {PROTOCOL} as this one does")
