#!/usr/bin/env python3
"""A provider that behaves as the C++ framework's do: registers /UserServiceRpc/Login and serves Login.

    python3 legacy_callee.py --zk 127.0.0.1:2181 --calls 3

It prints `listening on 127.0.0.1:PORT`, what it registered (without --zk: what to create), and a line per
call. Like a C++ provider it reads once: what one read brings is the request. One call a connection, the
reply, then FIN. Exit status 0 if it served `--calls` calls (without: on SIGTERM) and no caller broke the rules:
a request in pieces or a half-close before the reply would be lost on a C++ provider, so here it counts.
`--mode` makes it misbehave as its relatives do.
"""

import argparse
import errno
import select
import signal
import socket
import sys
import threading
import time

import common
import jute
from common import USER, fields, last, number
from ref_server import close, listen, reset

MODES = {
    "normal": "the reply, then FIN",
    "keep": "the reply, and the connection stays open (the reply has no frame at all)",
    "pieces": "the reply one byte at a time, then FIN",
    "cut": "half of the reply, then a reset",
    "empty": "FIN without a reply",
    "reset": "a reset without a reply",
    "silent": "nothing, for ever",
}


def register(session, addr, path):
    """As C++ does it: create only what is not there, never set, give up on anything else."""
    parent = path.rsplit("/", 1)[0]
    for node, value, flags in ((parent, b"", 0), (path, b"%s:%d" % (addr[0].encode(), addr[1]), jute.EPHEMERAL)):
        if session.exists(node):
            print(f"{node} exists, left as it is", flush=True)
        else:
            session.create(node, value, flags)
            print(f"znode create success... path:{node}", flush=True)


class Callee:
    def __init__(self, options):
        self.options, self.served, self.violations, self.lock = options, 0, [], threading.Lock()
        self.done = threading.Event()

    def violation(self, what):
        with self.lock:
            self.violations.append(what)
        print(f"VIOLATION {what}", flush=True)

    def serve(self, sock):
        with sock:
            sock.settimeout(10)
            try:
                request = sock.recv(65536)
                if not request:
                    return  # dialled and left, as a health check does
                reply = self.answer(request)
                if reply is not None:
                    self.reply(sock, reply)
                else:
                    self.hold(sock)  # neither a reply nor an end: the caller needs a time limit of its own
            except OSError as error:
                if error.errno not in (errno.ECONNRESET, errno.EPIPE):
                    self.violation(f"socket: {error}")

    def answer(self, request):
        """The reply, or None if a C++ provider would fall silent or die here."""
        try:
            size, pos = self.header_size(request)
            if pos + size > len(request):
                raise ValueError(f"{len(request)} bytes do not hold the header")
            header = fields(request[pos:pos + size])
            args = request[pos + size:]
            if len(args) != last(header, 3, 0):
                raise ValueError(f"{len(args)} bytes of arguments came, {last(header, 3, 0)} were announced")
            service, method = last(header, 1, b"").decode(), last(header, 2, b"").decode()
            message = fields(args)
        except (ValueError, IndexError) as error:
            self.violation(f"request {request[:60].hex()}: {error}")
            return None
        if (service, method) != (self.options.service, "Login"):
            print(f"{service}.{method} is not served here", flush=True)
            return None
        print(f"doing local service: Login, name:{last(message, 1, b'').decode()}", flush=True)
        return number(2, 1) if self.options.bare else b"\x0a\x00" + number(2, 1)

    def header_size(self, request):
        if self.options.dialect == "varint":
            return common.read_varint(request, 0)
        order = {"le": "little", "be": "big"}[self.options.dialect]
        return int.from_bytes(request[:4], order), 4

    def reply(self, sock, reply):
        mode = self.options.mode
        time.sleep(self.options.delay)
        if select.select([sock], [], [], 0)[0] and not sock.recv(1, socket.MSG_PEEK):
            self.violation("the caller half-closed before the reply: a C++ provider drops it then")
            return
        if mode == "normal" or mode == "keep":
            sock.sendall(reply)
        elif mode == "pieces":
            common.send_split(sock, reply, 1, 0.02)
        elif mode == "cut":
            sock.sendall(reply[:len(reply) // 2])
        with self.lock:
            self.served += 1
            if self.options.calls and self.served >= self.options.calls:
                self.done.set()
        if mode in ("normal", "pieces", "empty"):
            close(sock)
        elif mode in ("cut", "reset"):
            reset(sock)
        else:
            self.hold(sock)

    def hold(self, sock):
        """Until the caller ends it; more than an end is a second call, which has no place here."""
        sock.settimeout(60)
        try:
            if sock.recv(65536):
                self.violation("a second request on one connection")
        except OSError:
            pass

    def accept(self, listener):
        while not self.done.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="; ".join(f"{k}: {v}" for k, v in MODES.items()))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--zk", type=common.address, help="ip:port of ZooKeeper; without it nothing is registered")
    parser.add_argument("--session", type=int, default=30_000, help="session time-out in ms")
    parser.add_argument("--chroot", default="", help="a path that stands before all others; it must exist")
    parser.add_argument("--service", default=USER, help="the short name that is registered and served")
    parser.add_argument("--dialect", choices=["le", "be", "varint"], default="le")
    parser.add_argument("--mode", choices=list(MODES), default="normal")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds that a call takes")
    parser.add_argument("--bare", action="store_true", help="leave the empty ResultCode out of the reply")
    parser.add_argument("--calls", type=int, default=0, help="end after this many; 0: at SIGTERM")
    parser.add_argument("--limit", type=float, default=120, help="seconds after which it gives up")
    options = parser.parse_args()
    callee, session = Callee(options), None
    signal.signal(signal.SIGTERM, lambda *_: callee.done.set())
    listener = listen("127.0.0.1", options.port)
    addr = listener.getsockname()
    path = f"{options.chroot}/{options.service}/Login"
    if options.zk:
        session = jute.Session(options.zk, options.session)
        register(session, addr, path)
    else:
        parent = path.rsplit("/", 1)[0]
        print(f"to register: create {parent} (persistent, no data), then {path} (ephemeral) with data {addr[0]}:{addr[1]}", flush=True)
    threading.Thread(target=callee.accept, args=(listener,), daemon=True).start()
    print("listening on %s:%d" % addr, flush=True)
    ended = callee.done.wait(options.limit)
    time.sleep(0.1)  # the last reply leaves
    if session:
        session.close()
    enough = ended and callee.served >= options.calls
    print(f"{callee.served} calls served, {len(callee.violations)} violations", flush=True)
    sys.exit(0 if enough and not callee.violations else 1)


if __name__ == "__main__":
    main()
