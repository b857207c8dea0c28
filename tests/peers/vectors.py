#!/usr/bin/env python3
"""Do the clients here write and read the bytes of proto/vectors.txt? Exit status 0 only if they do."""

import pathlib

import common
import legacy_client as legacy
import mux_client as mux
from common import FRIEND, USER, Checks, login

FILE = pathlib.Path(__file__).parents[2] / "proto" / "vectors.txt"


def vectors():
    lines = (line.partition("#")[0].strip() for line in FILE.read_text(encoding="utf-8").splitlines())
    return {name.strip(): bytes.fromhex(value) for name, _, value in (line.partition(":") for line in lines if line)}


HELLO = mux.hello(1, 0x0123456789ABCDEF, 65_535, 4 << 20, 1000, 1024)
LOGIN = mux.request(1, USER, "Login", login())
LONG = "A" * 120 + "ServiceRpc"

WRITTEN = {
    "hello_minimal": mux.hello(instance=0),
    "hello": HELLO,
    "request_login": LOGIN,
    "opening_login": HELLO + LOGIN,
    "request_no_timeout": mux.request(2, USER, "Login", timeout_us=None),
    "request_full": mux.request(1 << 40, USER, "Login", login() + b"\1\2\3", timeout_us=0, compression=1, attachment=3,
                                metadata=[("trace", b"\0\xff"), ("zone", b"")]),
    "cancel": mux.frame(mux.CANCEL, 1),
    "ping": mux.frame(mux.PING, body=bytes(range(1, 9))),
    "pong": mux.frame(mux.PONG, body=bytes(range(1, 9))),
    "goaway_caller": mux.frame(mux.GOAWAY, 0, body=b"done"),
    "legacy_le_login": legacy.request(USER, "Login", login(), "le"),
    "legacy_be_login": legacy.request(USER, "Login", login(), "be"),
    "legacy_varint_login": legacy.request(USER, "Login", login(), "varint"),
    "legacy_le_friends": legacy.request(FRIEND, "GetFriendsList", common.friends_list(1000), "le"),
    "legacy_le_no_args": legacy.request(USER, "Login", b"", "le"),
    "legacy_varint_long_name": legacy.request(LONG, "M", b"", "varint"),
}

OK_BODY = b"\x0a\0\x10\1"
READ = {
    "response_ok": (1, mux.Reply(0, "", False, OK_BODY, b"")),
    "response_empty": (2, mux.Reply(0, "", False, b"", b"")),
    "response_stages": (3, mux.Reply(0, "", False, b"\x0a\0", b"")),
    "response_error": (4, mux.Reply(12, "no method fixbug.UserServiceRpc/Logn", False, b"", b"")),
    "response_full": (5, mux.Reply(8, "too many calls", True, b"", b"\xaa\xbb")),
}


def written(want, got):
    assert got == want, f"{got.hex()} is not {want.hex()}"


def read(data, call, want):
    """As a connection would take it, fed byte by byte."""
    connection = object.__new__(mux.Connection)
    connection.buffer = b""
    for i, byte in enumerate(data, 1):
        connection.buffer += bytes([byte])
        frame = connection.take()
        assert (frame is not None) == (i == len(data)), f"a frame after {i} of {len(data)} bytes"
    assert (frame.kind, frame.flags, frame.call) == (mux.RESPONSE, mux.END, call), frame
    assert mux.reply(frame) == want, mux.reply(frame)


def main():
    checks, known = Checks(), vectors()
    for name, got in WRITTEN.items():
        checks.case(f"writes {name}", lambda: written(known[name], got))
    for name, (call, want) in READ.items():
        checks.case(f"reads {name}", lambda: read(known[name], call, want))
    checks.case("reads legacy_reply_login", lambda: common.check_reply("Login", known["legacy_reply_login"]))
    checks.finish()


if __name__ == "__main__":
    main()
