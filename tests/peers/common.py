"""What the peers share: protobuf fields, the example's messages, expectations. Standard library only."""

import socket
import sys
import time
import traceback


# --- protobuf, as far as needed -------------------------------------------------------------------

def varint(n):
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def read_varint(data, pos):
    """The value and the offset behind it. IndexError: the data ends inside; ValueError: over 10 bytes."""
    n = shift = 0
    while True:
        byte = data[pos]
        n |= (byte & 0x7F) << shift
        pos, shift = pos + 1, shift + 7
        if byte < 0x80:
            return n & (1 << 64) - 1, pos
        if shift > 63:
            raise ValueError("varint is too long")


def number(tag, n):
    """A varint field; proto3 leaves zeros out."""
    return varint(tag << 3) + varint(n) if n else b""


def present(tag, n):
    """A varint field with presence (`optional`): written even when it is zero."""
    return varint(tag << 3) + varint(n)


def data(tag, value):
    """A bytes, string or message field; proto3 leaves empty ones out."""
    return present_data(tag, value) if value else b""


def present_data(tag, value):
    """The same, written even when it is empty, as key and value of a map are."""
    value = value.encode() if isinstance(value, str) else value
    return varint(tag << 3 | 2) + varint(len(value)) + value


def fields(message):
    """Tag -> list of values (int or bytes). ValueError if this is no protobuf message."""
    out, pos = {}, 0
    try:
        while pos < len(message):
            key, pos = read_varint(message, pos)
            tag, kind = key >> 3, key & 7
            if tag == 0:
                raise ValueError("tag 0")
            if kind == 0:
                value, pos = read_varint(message, pos)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
                value, pos = message[pos:pos + size], pos + size
            elif kind == 2:
                size, pos = read_varint(message, pos)
                value, pos = message[pos:pos + size], pos + size
            else:
                raise ValueError(f"wire type {kind}")
            if pos > len(message):
                raise ValueError("a field is cut")
            out.setdefault(tag, []).append(value)
    except IndexError:
        raise ValueError("a varint is cut") from None
    return out


def last(message, tag, default):
    return message.get(tag, [default])[-1]


# --- the messages of user.proto and friend.proto --------------------------------------------------

USER, FRIEND, PACKAGE = "UserServiceRpc", "FriendServiceRpc", "fixbug"


def login(name="zhang san", pwd="123456"):
    return data(1, name) + data(2, pwd)


def register(user_id=2000, name="li si", pwd="666666"):
    return number(1, user_id) + data(2, name) + data(3, pwd)


def friends_list(user_id=1000):
    return number(1, user_id)


def success(reply):
    """Whether a LoginResponse or RegisterResponse says `errcode 0, sucess true`."""
    message = fields(reply)
    return last(fields(last(message, 1, b"")), 1, 0) == 0 and last(message, 2, 0) == 1


def friends(reply):
    """The names in a GetFriendsListResponse, which must say errcode 0."""
    message = fields(reply)
    if last(fields(last(message, 1, b"")), 1, 0) != 0:
        raise ValueError(f"GetFriendsList failed: {message}")
    return [name.decode() for name in message.get(2, [])]


def check_reply(method, reply):
    if method == "GetFriendsList":
        names = friends(reply)
        assert names, f"no friends in {reply.hex()}"
        return ", ".join(names)
    assert success(reply), f"{method} did not succeed: {reply.hex()}"
    return "success"


CALLS = [(USER, "Login", login()), (USER, "Register", register()), (FRIEND, "GetFriendsList", friends_list())]


def answer(service, method, args):
    """What the example callee replies. KeyError: unknown; ValueError: undecodable."""
    if (service, method) not in [(s, m) for s, m, _ in CALLS]:
        raise KeyError(f"{service}.{method}")
    fields(args)
    ok = b"\x0a\x00"  # an empty ResultCode that is present
    if method == "GetFriendsList":
        return ok + b"".join(data(2, name) for name in ("gao yang", "liu hong", "wang shuo"))
    return ok + number(2, 1)


# --- sockets --------------------------------------------------------------------------------------

def address(text):
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


def connect(addr, timeout):
    sock = socket.create_connection(addr, timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def send_split(sock, payload, split, pause=0.0007):
    """All at once (0), `split` bytes at a time, or cut in two at each offset of a tuple."""
    if not split:
        return sock.sendall(payload)
    cuts = list(split) if isinstance(split, tuple) else list(range(split, len(payload), split))
    for start, end in zip([0] + cuts, cuts + [len(payload)]):
        sock.sendall(payload[start:end])
        if end < len(payload):
            time.sleep(pause)


# --- expectations ---------------------------------------------------------------------------------

class Checks:
    """Runs named cases, prints a line for each, knows the exit status."""

    def __init__(self, only=None, verbose=True):
        self.only, self.verbose, self.run, self.failed = only, verbose, 0, 0

    def case(self, name, function, *args):
        """Runs `function`; an exception is a failed expectation. Returns what it returned."""
        if self.only and self.only not in name:
            return None
        self.run += 1
        start = time.monotonic()
        try:
            note = function(*args)
        except Exception as error:  # every failure is reported, none ends the run
            self.failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAIL {name}: {type(error).__name__}: {error} ({where.name}, line {where.lineno})", flush=True)
            return None
        if self.verbose:
            ms = (time.monotonic() - start) * 1000
            print(f"ok   {name}" + (f": {note}" if note else "") + f"  [{ms:.0f} ms]", flush=True)
        return note

    def finish(self):
        print(f"{self.run - self.failed} of {self.run} expectations held", flush=True)
        sys.exit(1 if self.failed or not self.run else 0)
