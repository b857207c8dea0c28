#!/usr/bin/env python3
"""A caller on the legacy wire, as the C++ framework's programs are: what must a provider do for them?

    python3 legacy_client.py --addr 127.0.0.1:8000 --dialect be --split 1

Exit status 0 only if every expectation held. The wire: a header length (four bytes little endian, four
bytes big endian, or a varint), RpcHeader{1: service, 2: method, 3: args_size}, the arguments. The reply
is the bare message, framed by the end of the connection; in the varint form the connection stays open.
"""

import argparse
import socket
import struct
import time

import common
from common import CALLS, FRIEND, USER, Checks, connect, data, number, send_split, varint

DIALECTS = ["le", "be", "varint"]


def length(n, dialect):
    return {"le": struct.pack("<I", n), "be": struct.pack(">I", n)}.get(dialect) or varint(n)


def header(service, method, args_size):
    return data(1, service) + data(2, method) + number(3, args_size)


def request(service, method, args, dialect, head=None):
    head = header(service, method, len(args)) if head is None else head
    return length(len(head), dialect) + head + args


class Reset(Exception):
    """The provider refused by resetting the connection."""


class Ended(Exception):
    """The provider closed cleanly without a reply: a C++ caller takes that for a success."""


class Client:
    def __init__(self, addr, dialect="le", split=0, timeout=5.0, keep=None):
        self.addr, self.dialect, self.split, self.timeout = addr, dialect, split, timeout
        self.keep = dialect == "varint" if keep is None else keep

    def call(self, service, method, args):
        return self.exchange(request(service, method, args, self.dialect))

    def exchange(self, payload, split=None, before_reading=None):
        """Sends on a connection of its own and returns the reply."""
        with connect(self.addr, self.timeout) as sock:
            return self.on(sock, payload, split, before_reading)

    def on(self, sock, payload, split=None, before_reading=None):
        try:
            send_split(sock, payload, self.split if split is None else split)
        except (ConnectionResetError, BrokenPipeError):
            raise Reset("reset while sending") from None
        if before_reading:
            before_reading(sock)
        return self.read_quiet(sock) if self.keep else self.read_to_end(sock)

    def read_to_end(self, sock):
        reply = b""
        try:
            while chunk := sock.recv(65536):
                reply += chunk
        except ConnectionResetError:
            raise Reset(f"reset after {len(reply)} bytes") from None
        except TimeoutError:
            raise TimeoutError(f"neither end nor reset in {self.timeout} s; got {reply.hex()}") from None
        if not reply:
            raise Ended("closed without a reply")
        return reply

    def read_quiet(self, sock):
        """The reply has no frame at all: it is what comes until the line is quiet, or the idle connection is reset."""
        reply = b""
        try:
            while chunk := sock.recv(65536):
                reply += chunk
                sock.settimeout(0.2)
        except ConnectionResetError:
            if not reply:
                raise Reset("reset") from None
        except TimeoutError:
            if not reply:
                raise TimeoutError(f"no reply in {self.timeout} s") from None
        sock.settimeout(self.timeout)
        if not reply:
            raise Ended("closed without a reply")
        return reply


def refused(client, payload, split=None):
    """The answer to a failed call is a reset: never silence, never a clean empty close."""
    try:
        reply = client.exchange(payload, split)
    except Reset:
        return "reset"
    raise AssertionError(f"expected a reset, got {len(reply)} bytes: {reply[:40].hex()}")


def all_calls(client):
    return "; ".join(f"{m}: {common.check_reply(m, client.call(s, m, a))}" for s, m, a in CALLS)


def one_read(client):
    """The C++ caller reads once, 1024 bytes at most, and parses what came."""
    with connect(client.addr, client.timeout) as sock:
        send_split(sock, request(*CALLS[0], client.dialect), client.split)
        return common.check_reply("Login", sock.recv(1024))


def half_closed(client):
    """A caller's FIN does not cancel its call."""
    reply = client.exchange(request(*CALLS[0], client.dialect), before_reading=lambda s: s.shutdown(socket.SHUT_WR))
    return common.check_reply("Login", reply)


def late_input(client):
    """Input that nobody reads must not turn the end of the reply into a reset."""
    payload = request(*CALLS[0], client.dialect)
    reply = client.exchange(payload + payload, 0)
    assert len(reply) < 64, f"more than one reply: {reply.hex()}"
    return common.check_reply("Login", reply)


def every_cut(client):
    payload = request(*CALLS[0], client.dialect)
    for cut in range(1, len(payload)):
        try:
            with connect(client.addr, client.timeout) as sock:
                send_split(sock, payload, (cut,))
                common.check_reply("Login", sock.recv(1024))
        except Exception as error:
            raise AssertionError(f"cut at {cut}: {type(error).__name__}: {error}") from None
    return f"{len(payload) - 1} cuts"


def kept(client):
    with connect(client.addr, client.timeout) as sock:
        for service, method, args in CALLS + CALLS:
            common.check_reply(method, client.on(sock, request(service, method, args, client.dialect)))
    return "6 calls on one connection"


def large(client):
    """More than one segment and more than one read."""
    return common.check_reply("Login", client.exchange(request(USER, "Login", common.login("n" * 100_000), client.dialect), 0))


def reordered(client):
    args = common.login()
    head = data(2, "Login") + data(1, USER) + number(3, len(args)) + number(9, 7)
    return common.check_reply("Login", client.exchange(request(USER, "Login", args, client.dialect, head)))


def calls(checks, client, title):
    case = lambda name, function, *args: checks.case(f"{title}: {name}", function, client, *args)
    case("login, register, friends list", all_calls)
    case("one read of 1024 bytes is the whole reply", one_read)
    case("the caller's FIN does not cancel the call", half_closed)
    case("empty arguments", lambda c: common.check_reply("GetFriendsList", c.call(FRIEND, "GetFriendsList", b"")))
    case("arguments of 100,000 bytes", large)
    if client.keep:
        case("the connection is kept for the next call", kept)
    else:
        case("a second request behind the first does not harm its reply", late_input)
    if client.dialect != "varint":
        case("header fields in another order, and one unknown", reordered)


def refusals(checks, client, title):
    dialect, args = client.dialect, common.login()
    case = lambda name, payload: checks.case(f"{title}: {name}", refused, client, payload)
    case("an unknown service is refused", request("NoSuchServiceRpc", "Login", args, dialect))
    case("an unknown method is refused", request(USER, "NoSuchMethod", args, dialect))
    case("undecodable arguments are refused", request(USER, "Login", b"\x0a\xff\xff\xff\x7f\x01", dialect))
    case("arguments over every limit are refused", request(USER, "Login", args, dialect, header(USER, "Login", 1 << 30)))
    case("a header that is no message is refused", length(25, dialect) + b"\x0a\x0e" + b"UserServiceRpc" + b"\xff" * 9 + args)
    checks.case(f"{title}: calls still work", all_calls, client)


GARBAGE = {
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"\x5a" * 200,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "PROXY": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
    "PROXY v2": bytes.fromhex("0d0a0d0a000d0a515549540a2111000c") + b"\x01" * 12,
    "Krpc": bytes.fromhex("00000034000000190a0e") + b"UserServiceRpc",
    "zeros": b"\0" * 64,
    "ones": b"\xff" * 64,
    "text": b"hello, is this mprpc?\n",
    "a little endian length and no header": bytes.fromhex("1900000041414141"),
}


def http(client):
    with connect(client.addr, client.timeout) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        reply = client.read_to_end(sock)
    assert reply.startswith(b"HTTP/1."), reply[:60]
    return reply.split(b"\r\n")[0].decode()


def cut_off(client, payload, at):
    """A caller that dies inside its request costs nothing."""
    with connect(client.addr, client.timeout) as sock:
        sock.sendall(payload[:at])
        sock.shutdown(socket.SHUT_WR)
        try:
            assert sock.recv(100) == b"", "a reply to half a request"
        except ConnectionResetError:
            pass


def garbage(checks, client, title):
    plain = Client(client.addr, "le", 0, client.timeout)
    for name, payload in GARBAGE.items():
        checks.case(f"{title}: {name} is refused", refused, plain, payload, client.split)
    checks.case(f"{title}: HTTP is answered", http, plain)
    payload = request(*CALLS[0], "le")
    for at in (1, 4, 5, 20, len(payload) - 1):
        checks.case(f"{title}: the caller ends after {at} bytes", cut_off, plain, payload, at)
    checks.case(f"{title}: calls still work", all_calls, plain)


def slow(checks, client, title, limit):
    """A request that never becomes whole ends by its time limit."""
    def run():
        start = time.monotonic()
        patient = Client(client.addr, client.dialect, 0, limit + 5, keep=False)
        refused(patient, request(*CALLS[0], client.dialect)[:20])
        return f"after {time.monotonic() - start:.1f} s of {limit} s"
    checks.case(f"{title}: a request that stays incomplete is refused", run)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--addr", required=True, type=common.address, help="ip:port of the provider")
    parser.add_argument("--dialect", choices=DIALECTS + ["all"], default="le")
    parser.add_argument("--split", type=int, default=0, help="bytes per segment; 0: the request in one piece")
    parser.add_argument("--cuts", action="store_true", help="also cut a request in two at every offset")
    parser.add_argument("--keep", action="store_true", help="the provider keeps connections (legacy_close = keep)")
    parser.add_argument("--request-timeout", type=float, help="also wait for the provider's limit on incomplete requests")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for anything")
    parser.add_argument("--only", help="only cases whose name contains this")
    parser.add_argument("--calls-only", action="store_true", help="no refusals, no garbage")
    args = parser.parse_args()
    checks = Checks(args.only)
    for dialect in DIALECTS if args.dialect == "all" else [args.dialect]:
        client = Client(args.addr, dialect, args.split, args.timeout, args.keep or None)
        title = dialect + (f", {args.split} at a time" if args.split else "")
        calls(checks, client, title)
        if args.cuts:
            checks.case(f"{title}: cut in two at every offset", every_cut, client)
        if not args.calls_only:
            refusals(checks, client, title)
        if args.request_timeout:
            slow(checks, client, title, args.request_timeout)
    if not args.calls_only:
        garbage(checks, client, "garbage")
    checks.finish()


if __name__ == "__main__":
    main()
