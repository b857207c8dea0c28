#!/usr/bin/env python3
"""A small provider of both wires, in Python: the example's services as the clients here expect them.

    python3 ref_server.py --port 0 [--shuffle]

It prints `listening on 127.0.0.1:PORT`. With it the clients are known to work before they judge another
provider, and callers can be tried against replies that come late and out of order (`--shuffle`).
One thread a connection; it is meant to be read, not to be fast. `--fault` breaks one rule on purpose: the
clients must notice.
"""

import argparse
import random
import socket
import struct
import threading
import time

import common
from common import PACKAGE, data, fields, last, number
from mux_client import (CANCEL, DATA, DEADLINE_EXCEEDED, END, GOAWAY, HEADER, HELLO, INVALID_ARGUMENT, MAGIC,
                        PING, PONG, REQUEST, RESOURCE_EXHAUSTED, RESPONSE, UNIMPLEMENTED, frame, hello)


FAULTS = {
    "clean-close": "a refused legacy call ends with FIN instead of a reset",
    "pieces": "a legacy reply leaves in two segments",
    "twice": "a mux call is answered twice",
    "ids": "a call id may be used again",
    "silent-end": "a mux connection ends without GoAway",
    "goaway-id": "GoAway names call 0, whatever ran",
    "pong": "Pong does not echo",
    "end-flag": "a Response has no END",
    "expired": "an expired call runs",
    "limit": "a body over the limit ends the connection",
}


class Bad(Exception):
    """The peer broke the rules: the connection ends, with this reason."""


class Gone(Exception):
    """The peer ended the connection."""


class Reader:
    def __init__(self, sock, limit):
        self.sock, self.buffer, self.limit = sock, b"", limit

    def need(self, n):
        """Waits until `n` bytes are buffered; TimeoutError after the limit from the first of them."""
        while len(self.buffer) < n:
            self.sock.settimeout(self.limit if self.buffer else None)
            chunk = self.sock.recv(65536)
            if not chunk:
                raise Gone
            self.buffer += chunk
        return self.buffer

    def take(self, n):
        self.need(n)
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def skip(self, n):
        while n:
            n -= len(self.take(min(n, max(1, len(self.buffer)))))


def sniff(reader):
    b = reader.need(1)
    if b[:1] == MAGIC[:1] or b[:1] in (b"G", b"P", b"H"):
        b = reader.need(4)
        if b[:4] == MAGIC:
            return "mux"
        if b[:4] in (b"GET ", b"POST", b"HEAD"):
            return "http"
    b = reader.need(2)
    if 0 < b[0] < 0x80 and b[1] == 0x0A:
        return "varint" if reader.need(3)[2] + 2 <= b[0] else None
    b = reader.need(3)
    if b[0] >= 0x80 and b[1] < 0x80 and b[2] == 0x0A:
        return "varint"
    b = reader.need(5)
    if b[4] in (0x0A, 0x12):
        if b[2] == b[3] == 0 and (b[0] or b[1]):
            return "le"
        if b[0] == b[1] == 0 and (b[2] or b[3]):
            return "be"
    return None


def serve(sock, options):
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = Reader(sock, options.request_timeout)
        wire = sniff(reader)
        if wire == "mux":
            Mux(sock, reader, options).run()
        elif wire == "http":
            sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            close(sock)
        elif wire is None:
            reset(sock)
        else:
            legacy(sock, reader, wire, options)
    except (Gone, OSError, TimeoutError):
        reset(sock)


def reset(sock):
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    sock.close()


def close(sock):
    """FIN, then discard what still comes: closing with unread input would destroy what was sent."""
    sock.shutdown(socket.SHUT_WR)
    end = time.monotonic() + 1
    try:
        while (left := end - time.monotonic()) > 0:
            sock.settimeout(left)
            if not sock.recv(65536):
                break
    except OSError:
        pass
    sock.close()


def legacy(sock, reader, dialect, options):
    while True:
        if dialect == "varint":
            try:
                reader.need(1)
            except Gone:
                return close(sock)
            n = 1
            while reader.need(n)[n - 1] >= 0x80:
                n += 1
            size, _ = common.read_varint(reader.take(n), 0)
        else:
            (size,) = struct.unpack("<I" if dialect == "le" else ">I", reader.take(4))
        try:
            if size > 65_535:
                raise ValueError("header too long")
            header = fields(reader.take(size))
            args_size = last(header, 3, 0)
            if args_size > options.max_body:
                raise ValueError("arguments too long")
            reply = common.answer(last(header, 1, b"").decode(), last(header, 2, b"").decode(), reader.take(args_size))
        except (ValueError, KeyError, TypeError):
            return close(sock) if options.fault == "clean-close" else reset(sock)
        common.send_split(sock, reply, 2 if options.fault == "pieces" else 0, 0.02)
        if dialect != "varint":
            return close(sock)


class Mux:
    def __init__(self, sock, reader, options):
        self.sock, self.reader, self.options = sock, reader, options
        self.last, self.greeted, self.waiting, self.pings = 0, False, [], 0
        self.caller_max_body, self.fault = 0, options.fault

    def run(self):
        self.sock.sendall(hello(instance=random.getrandbits(63) | 1, max_header=65_535, max_body=self.options.max_body,
                                ping_ms=10, max_calls=1024))
        try:
            while True:
                try:
                    self.frame()
                except TimeoutError:
                    raise Bad("a frame stayed incomplete") from None
        except Gone:
            self.flush()
        except Bad as bad:
            self.flush()
            if self.fault != "silent-end":
                self.sock.sendall(frame(GOAWAY, 0 if self.fault == "goaway-id" else self.last, body=str(bad).encode()))
        close(self.sock)

    def frame(self):
        if self.waiting and len(self.reader.buffer) < HEADER.size:
            self.flush()
        magic, kind, flags, meta_len, body_len, call = HEADER.unpack(self.reader.take(HEADER.size))
        if magic != MAGIC:
            raise Bad("wrong magic")
        if not self.greeted and kind != HELLO:
            raise Bad("the first frame is not Hello")
        if body_len > 4 * self.options.max_body:
            raise Bad(f"a body of {body_len} bytes")
        meta = self.reader.take(meta_len)
        if kind in (REQUEST, DATA):
            if call <= self.last and self.fault != "ids":
                raise Bad(f"call id {call} after {self.last}")
            self.last = call
        if body_len > self.options.max_body:
            if self.fault == "limit":
                raise Bad("too large")
            self.reader.skip(body_len)
            if kind == REQUEST:
                self.status(call, RESOURCE_EXHAUSTED, f"{body_len} bytes, max_body is {self.options.max_body}")
            return
        body = self.reader.take(body_len)
        if kind == HELLO:
            self.hello(meta)
        elif kind == REQUEST:
            self.request(call, flags, meta, body)
        elif kind == PING:
            self.sock.sendall(frame(PONG, body=b"" if self.fault == "pong" else body))
        elif kind == RESPONSE:
            raise Bad("a Response to a server")
        elif kind == DATA:
            self.status(call, UNIMPLEMENTED, "streams are not part of version 1")
        elif kind == CANCEL:
            self.waiting = [(c, f) for c, f in self.waiting if c != call]
        # GoAway: FIN follows. Pong and unknown kinds: nothing to do.

    def hello(self, meta):
        if self.greeted:
            raise Bad("a second Hello")
        try:
            message = fields(meta)
        except ValueError:
            raise Bad("Hello cannot be decoded") from None
        if not last(message, 1, 0):
            raise Bad("version 0")
        self.greeted, self.caller_max_body = True, last(message, 4, 0)

    def request(self, call, flags, meta, body):
        try:
            message = fields(meta)
            cut = len(body) - last(message, 6, 0)
            if cut < 0:
                raise ValueError("attachment_size is larger than the body")
            service, method = last(message, 1, b"").decode(), last(message, 2, b"").decode()
        except ValueError as error:
            return self.status(call, INVALID_ARGUMENT, str(error))
        if not flags & END:
            return self.status(call, UNIMPLEMENTED, "a request without END")
        if last(message, 5, 0):
            return self.status(call, UNIMPLEMENTED, "unknown compression")
        if message.get(3) == [0] and self.fault != "expired":
            return self.status(call, DEADLINE_EXCEEDED, "expired on arrival")
        package, _, short = service.rpartition(".")
        try:
            reply = common.answer(short if package == PACKAGE else service, method, body[:cut])
        except KeyError:
            return self.status(call, UNIMPLEMENTED, f"no {service}.{method} here")
        except ValueError as error:
            return self.status(call, INVALID_ARGUMENT, str(error))
        if self.caller_max_body and len(reply) > self.caller_max_body:
            return self.status(call, RESOURCE_EXHAUSTED, "the reply is over the caller's max_body")
        self.respond(call, b"", reply)

    def status(self, call, code, message):
        self.respond(call, number(1, code) + data(2, message), b"")

    def respond(self, call, meta, body):
        answer = frame(RESPONSE, call, meta, body, 0 if self.fault == "end-flag" else END)
        self.waiting += [(call, answer)] * (2 if self.fault == "twice" else 1)

    def flush(self):
        if self.options.shuffle:
            random.shuffle(self.waiting)
        self.sock.sendall(b"".join(f for _, f in self.waiting))
        self.waiting = []


def listen(host, port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(128)
    return listener


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--max-body", type=int, default=4 << 20)
    parser.add_argument("--request-timeout", type=float, default=10.0)
    parser.add_argument("--shuffle", action="store_true", help="answer what is waiting in random order")
    parser.add_argument("--fault", choices=list(FAULTS), help="; ".join(f"{k}: {v}" for k, v in FAULTS.items()))
    options = parser.parse_args()
    listener = listen("127.0.0.1", options.port)
    print("listening on %s:%d" % listener.getsockname(), flush=True)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock, options), daemon=True).start()


if __name__ == "__main__":
    main()
