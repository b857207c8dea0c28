#!/usr/bin/env python3
"""A small ZooKeeper client, written from the protocol: sessions, nodes, pings. Standard library only.

    python3 jute.py --zk 127.0.0.1:2181 ls /UserServiceRpc
    python3 jute.py --zk 127.0.0.1:2181 get /UserServiceRpc/Login
    python3 jute.py --zk 127.0.0.1:2181 tree /
    python3 jute.py --zk 127.0.0.1:2181 create /a/b DATA        (persistent, parents too)
    python3 jute.py --zk 127.0.0.1:2181 delete /a               (with everything below it)

Packets are big endian: a length, then the fields. Strings and buffers carry their length, -1 for none.
"""

import argparse
import itertools
import struct
import sys
import threading
import time

import common

CREATE, DELETE, EXISTS, GET, SET, PING, CHILDREN, CLOSE = 1, 2, 3, 4, 5, 11, 8, -11
PING_XID = -2
NO_NODE, NODE_EXISTS, NOT_EMPTY, EXPIRED = -101, -110, -111, -112
NAMES = {NO_NODE: "no node", NODE_EXISTS: "node exists", NOT_EMPTY: "not empty", EXPIRED: "session expired"}
EPHEMERAL, SEQUENTIAL = 1, 2


class ZkError(Exception):
    def __init__(self, code, path=""):
        super().__init__(f"{NAMES.get(code, code)} {path}".strip())
        self.code = code


def buffer(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value


WORLD = struct.pack(">ii", 1, 31) + buffer("world") + buffer("anyone")  # one entry: everyone may do everything


class Session:
    """One session on one server; a thread pings it. Not reconnecting: whoever needs that makes a new one."""

    def __init__(self, addr, timeout_ms=30_000, wait=10.0):
        self.sock = common.connect(addr, wait)
        self.lock, self.xids, self.closed = threading.Lock(), itertools.count(1), threading.Event()
        self.send(struct.pack(">iqiq", 0, 0, timeout_ms, 0) + buffer(b"\0" * 16) + b"\0")
        _, granted, self.id = struct.unpack(">iiq", self.receive()[:16])
        if granted <= 0:
            raise ZkError(EXPIRED)
        self.timeout = granted / 1000
        threading.Thread(target=self.ping, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, packet):
        self.sock.sendall(struct.pack(">i", len(packet)) + packet)

    def receive(self):
        (size,) = struct.unpack(">i", self.exactly(4))
        return self.exactly(size)

    def exactly(self, n):
        out = b""
        while len(out) < n:
            chunk = self.sock.recv(n - len(out))
            if not chunk:
                raise ConnectionError("ZooKeeper ended the connection")
            out += chunk
        return out

    def ask(self, op, fields=b"", path="", xid=None):
        """One request and its reply; pings and others take turns, so the next reply is ours."""
        with self.lock:
            self.send(struct.pack(">ii", next(self.xids) if xid is None else xid, op) + fields)
            reply = self.receive()
        code = struct.unpack(">iqi", reply[:16])[2]
        if code:
            raise ZkError(code, path)
        return reply[16:]

    def ping(self):
        while not self.closed.wait(self.timeout / 3):
            try:
                self.ask(PING, xid=PING_XID)
            except (OSError, ZkError) as error:
                if not self.closed.is_set():
                    print(f"jute: ping failed: {error}", file=sys.stderr, flush=True)
                return

    def create(self, path, value=b"", flags=0):
        self.ask(CREATE, buffer(path) + buffer(value) + WORLD + struct.pack(">i", flags), path)

    def make(self, path, value=b""):
        """Creates a persistent node and its parents where they are missing."""
        parts = path.strip("/").split("/")
        for i in range(1, len(parts) + 1):
            try:
                self.create("/" + "/".join(parts[:i]), value if i == len(parts) else b"")
            except ZkError as error:
                if error.code != NODE_EXISTS:
                    raise

    def exists(self, path):
        try:
            self.ask(EXISTS, buffer(path) + b"\0", path)
            return True
        except ZkError as error:
            if error.code == NO_NODE:
                return False
            raise

    def get(self, path):
        """The data, and the session that owns the node (0: persistent)."""
        reply = self.ask(GET, buffer(path) + b"\0", path)
        (size,) = struct.unpack(">i", reply[:4])
        value, stat = reply[4:4 + max(size, 0)], reply[4 + max(size, 0):]
        return value, struct.unpack(">q", stat[44:52])[0]

    def set(self, path, value, version=-1):
        self.ask(SET, buffer(path) + buffer(value) + struct.pack(">i", version), path)

    def children(self, path):
        reply, pos, names = self.ask(CHILDREN, buffer(path) + b"\0", path), 4, []
        for _ in range(struct.unpack(">i", reply[:4])[0]):
            (size,) = struct.unpack(">i", reply[pos:pos + 4])
            names.append(reply[pos + 4:pos + 4 + size].decode())
            pos += 4 + size
        return sorted(names)

    def delete(self, path, version=-1):
        self.ask(DELETE, buffer(path) + struct.pack(">i", version), path)

    def delete_all(self, path):
        for name in self.children(path):
            self.delete_all(f"{path}/{name}")
        self.delete(path)

    def walk(self, path="/"):
        value, owner = self.get(path)
        yield path, value, owner
        for name in self.children(path):
            yield from self.walk(f"{path.rstrip('/')}/{name}")

    def close(self):
        """Ends the session: its ephemeral nodes go now."""
        if not self.closed.is_set():
            self.closed.set()
            try:
                self.ask(CLOSE)
            except (OSError, ZkError):
                pass
            self.sock.close()

    def drop(self):
        """Ends the connection only, as a killed process does: the session lives until it expires."""
        self.closed.set()
        self.sock.close()


def text(value):
    return value.decode(errors="backslashreplace").replace("\0", "\\0").replace("\n", "\\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zk", required=True, type=common.address, help="ip:port")
    parser.add_argument("command", choices=["ls", "get", "tree", "create", "delete", "wait"])
    parser.add_argument("path")
    parser.add_argument("value", nargs="?", default="")
    args = parser.parse_args()
    try:
        with Session(args.zk) as zk:
            if args.command == "ls":
                print("\n".join(zk.children(args.path)))
            elif args.command == "get":
                print(text(zk.get(args.path)[0]))
            elif args.command == "tree":
                for path, value, owner in zk.walk(args.path):
                    print(f"{path}{' (ephemeral)' if owner else ''}{' = ' + text(value) if value else ''}")
            elif args.command == "create":
                zk.make(args.path, args.value.encode())
            elif args.command == "delete":
                zk.delete_all(args.path)
            elif args.command == "wait":  # until the node is there, 10 s at most
                end = time.monotonic() + 10
                while not zk.exists(args.path):
                    if time.monotonic() > end:
                        sys.exit(f"jute: {args.path} did not appear in 10 s")
                    time.sleep(0.05)
    except (OSError, ZkError) as error:
        sys.exit(f"jute: {error}")


if __name__ == "__main__":
    main()
