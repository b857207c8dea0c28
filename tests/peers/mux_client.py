#!/usr/bin/env python3
"""A caller on the mux wire, written from its description alone: does a provider keep to it?

    python3 mux_client.py --addr 127.0.0.1:8000 --split 1

Exit status 0 only if every expectation held. A frame is 20 bytes, little endian, then meta, then body:

     0  "MRPC"    4  kind    5  flags    6  meta_len u16    8  body_len u32    12  call_id u64
"""

import argparse
import collections
import socket
import struct
import time

import common
from common import CALLS, FRIEND, PACKAGE, USER, Checks, connect, data, number, present, present_data, send_split

MAGIC, HEADER = b"MRPC", struct.Struct("<4sBBHIQ")
HELLO, REQUEST, RESPONSE, CANCEL, PING, PONG, GOAWAY, DATA = range(8)
KINDS = ["Hello", "Request", "Response", "Cancel", "Ping", "Pong", "GoAway", "Data"]
END = 1
NO_CALL = (1 << 64) - 1
OK, CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 0, 1, 3, 4, 8, 12
DEFAULT_MAX_BODY = 4 << 20

Frame = collections.namedtuple("Frame", "kind flags meta body call")
Reply = collections.namedtuple("Reply", "code message retryable body attachment")


def frame(kind, call=0, meta=b"", body=b"", flags=0, magic=MAGIC, body_len=None):
    size = len(body) if body_len is None else body_len
    return HEADER.pack(magic, kind, flags, len(meta), size, call) + meta + body


def hello(version=1, instance=0x5059, max_header=0, max_body=0, ping_ms=0, max_calls=0):
    numbers = enumerate((version, instance, max_header, max_body, ping_ms, max_calls), 1)
    return frame(HELLO, meta=b"".join(number(tag, n) for tag, n in numbers))


def request_meta(service, method, timeout_us=5_000_000, compression=0, attachment=0, metadata=(), extra=b""):
    meta = data(1, service) + data(2, method)
    meta += b"" if timeout_us is None else present(3, timeout_us)
    meta += b"".join(data(4, present_data(1, key) + present_data(2, value)) for key, value in metadata)
    return meta + number(5, compression) + number(6, attachment) + extra


def request(call, service, method, args=b"", flags=END, **options):
    meta = request_meta(f"{PACKAGE}.{service}", method, **options)
    return frame(REQUEST, call, meta, args, flags)


def login(call, **options):
    return request(call, USER, "Login", common.login(), **options)


def reply(answer):
    meta = common.fields(answer.meta)
    attachment = common.last(meta, 7, 0)
    assert attachment <= len(answer.body), f"attachment of {attachment} in a body of {len(answer.body)}"
    message = common.last(meta, 2, b"").decode()
    cut = len(answer.body) - attachment
    return Reply(common.last(meta, 1, 0), message, bool(common.last(meta, 4, 0)), answer.body[:cut], answer.body[cut:])


class Connection:
    """One connection to a provider. Reading checks what holds for every frame of a server."""

    def __init__(self, addr, timeout=5.0, first=None, split=0, **limits):
        self.sock, self.timeout, self.split = connect(addr, timeout), timeout, split
        self.buffer, self.hello, self.goaways, self.next = b"", None, [], 1
        self.answered = {}  # call id -> code
        self.send((hello(**limits) if first is None else first))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, payload, split=None):
        send_split(self.sock, payload, self.split if split is None else split)

    def read(self):
        """The next frame; None at a clean end."""
        while (found := self.take()) is None:
            chunk = self.sock.recv(65536)
            if not chunk:
                assert not self.buffer, f"the connection ends inside a frame: {self.buffer[:40].hex()}"
                return None
            self.buffer += chunk
        self.check(found)
        return found

    def take(self):
        if len(self.buffer) < HEADER.size:
            return None
        magic, kind, flags, meta_len, body_len, call = HEADER.unpack_from(self.buffer)
        assert magic == MAGIC, f"wrong magic {magic!r}"
        end = HEADER.size + meta_len + body_len
        if len(self.buffer) < end:
            return None
        meta, body = self.buffer[HEADER.size:HEADER.size + meta_len], self.buffer[HEADER.size + meta_len:end]
        self.buffer = self.buffer[end:]
        return Frame(kind, flags, meta, body, call)

    def check(self, got):
        assert self.hello or got.kind == HELLO, f"{KINDS[got.kind]} before Hello"
        assert got.kind < len(KINDS) and got.kind not in (REQUEST, DATA), f"a server sends kind {got.kind}"
        assert got.flags == (END if got.kind == RESPONSE else 0), f"{KINDS[got.kind]} with flags {got.flags}"
        assert not got.meta or got.kind in (HELLO, RESPONSE), f"{KINDS[got.kind]} with meta {got.meta.hex()}"
        assert not got.call or got.kind not in (HELLO, PING, PONG), f"{KINDS[got.kind]} with call_id {got.call}"
        if got.kind == HELLO:
            assert self.hello is None, "a second Hello"
            meta = common.fields(got.meta)
            self.hello = [common.last(meta, tag, 0) for tag in range(1, 7)]
        elif got.kind == PING:
            self.send(frame(PONG, body=got.body))
        elif got.kind == GOAWAY:
            self.goaways.append((got.call, got.body.decode()))
        elif got.kind == RESPONSE:
            assert got.call not in self.answered, f"call {got.call} is answered twice"
            self.answered[got.call] = reply(got).code

    def until(self, kind):
        """Reads up to a frame of this kind."""
        while got := self.read():
            if got.kind == kind:
                return got
        raise AssertionError(f"the connection ended before {KINDS[kind]}; GoAway: {self.goaways}")

    def replies(self, count):
        """The next `count` replies, by call id, and the order they came in."""
        found = {}
        for _ in range(count):
            answer = self.until(RESPONSE)
            found[answer.call] = reply(answer)
        return found, list(found)

    def call(self, payload):
        """Sends one request and returns its reply, whatever else is under way."""
        call = HEADER.unpack_from(payload)[5]
        self.send(payload)
        while True:
            answer = self.until(RESPONSE)
            if answer.call == call:
                return reply(answer)

    def lives(self):
        """The connection still carries calls."""
        self.next += 1_000
        assert common.success(expect(self.call(login(self.next)), OK).body)

    def ends(self, last_call=None, calls=()):
        """GoAway with a reason, then FIN. Replies of `calls` may come before."""
        while got := self.read():
            assert got.kind in (HELLO, GOAWAY, PING) or got.call in calls, f"{KINDS[got.kind]} of call {got.call} before the end"
        assert self.goaways, "the connection ended without GoAway"
        call, reason = self.goaways[-1]
        assert reason, "GoAway without a reason"
        assert last_call is None or call == last_call, f"GoAway names call {call}, not {last_call}"
        return f"GoAway {call}, {reason!r}"


def expect(answer, code):
    assert answer.code == code, f"code {answer.code} ({answer.message!r}), expected {code}"
    assert code == OK or answer.message, f"code {code} without a message"
    return answer


class Cases:
    """Each method is one expectation; its first line of documentation is the name."""

    def __init__(self, addr, split=0, timeout=5.0):
        self.addr, self.split, self.timeout = addr, split, timeout

    def open(self, **options):
        options.setdefault("split", self.split)
        return Connection(self.addr, self.timeout, **options)

    def hello(self):
        """the server answers Hello with Hello"""
        with self.open() as c:
            c.until(HELLO)
            version, instance, max_header, max_body, ping_ms, max_calls = c.hello
            assert version == 1, f"version {version}"
            assert instance, "no instance id"
            return f"instance {instance:x}, max_header {max_header}, max_body {max_body}, ping {ping_ms} ms, max_calls {max_calls}"

    def pipelined(self):
        """requests right behind Hello are answered"""
        first = hello() + b"".join(request(i, s, m, a) for i, (s, m, a) in enumerate(CALLS, 1))
        with self.open(first=first) as c:
            found, order = c.replies(len(CALLS))
            return f"order {order}; " + "; ".join(
                f"{m}: {common.check_reply(m, expect(found[i], OK).body)}" for i, (_, m, _) in enumerate(CALLS, 1))

    def every_cut(self):
        """Hello and a request, cut in two at every offset"""
        first = hello() + login(1)
        for cut in range(1, len(first)):
            with self.open(first=first, split=(cut,)) as c:
                found, _ = c.replies(1)
                assert common.success(expect(found[1], OK).body), f"cut at {cut}"
        return f"{len(first) - 1} cuts"

    def many(self):
        """500 requests in one write are each answered once"""
        with self.open(first=hello() + b"".join(login(i) for i in range(1, 501)), split=0) as c:
            found, order = c.replies(500)
            assert sorted(found) == list(range(1, 501))
            assert all(common.success(expect(r, OK).body) for r in found.values())
            c.lives()
            return f"{sum(a > b for a, b in zip(order, order[1:]))} out of order"

    def ids_with_gaps(self):
        """ids may leave gaps"""
        with self.open() as c:
            for call in (5, 6, 1 << 32, (1 << 63) + 1):
                expect(c.call(login(call)), OK)

    def large(self):
        """a message of 1 MB"""
        with self.open(split=0) as c:
            assert common.success(expect(c.call(request(1, USER, "Login", common.login("n" * 1_000_000))), OK).body)

    def unknown_service(self):
        """an unknown service is UNIMPLEMENTED and the connection lives"""
        with self.open() as c:
            answer = expect(c.call(request(1, "NoSuchServiceRpc", "Login")), UNIMPLEMENTED)
            c.lives()
            return answer.message

    def unknown_method(self):
        """an unknown method is UNIMPLEMENTED and the connection lives"""
        with self.open() as c:
            answer = expect(c.call(request(1, USER, "NoSuchMethod")), UNIMPLEMENTED)
            c.lives()
            return answer.message

    def bad_arguments(self):
        """undecodable arguments are INVALID_ARGUMENT and the connection lives"""
        with self.open() as c:
            answer = expect(c.call(request(1, USER, "Login", b"\x0a\xff\xff\xff\x7f\x01")), INVALID_ARGUMENT)
            c.lives()
            return answer.message

    def bad_meta(self):
        """undecodable meta is INVALID_ARGUMENT and the connection lives"""
        with self.open() as c:
            for call, meta in ((1, b"\x0a\xff\xff\xff\x7f\x01"), (2, data(1, b"\xff\xfe") + data(2, "Login"))):
                answer = expect(c.call(frame(REQUEST, call, meta, common.login(), END)), INVALID_ARGUMENT)
            c.lives()
            return answer.message

    def bad_attachment(self):
        """an attachment larger than the body is INVALID_ARGUMENT and the connection lives"""
        with self.open() as c:
            answer = expect(c.call(login(1, attachment=10_000)), INVALID_ARGUMENT)
            c.lives()
            return answer.message

    def attachment(self):
        """an attachment is not part of the arguments"""
        with self.open() as c:
            args = common.login()
            assert common.success(expect(c.call(request(1, USER, "Login", args + b"\xff" * 7, attachment=7)), OK).body)

    def metadata(self):
        """metadata, unknown meta fields and undefined flags are no obstacle"""
        with self.open() as c:
            extra = data(77, "later") + number(99, 1)
            payload = login(1, flags=END | 0xF0, extra=extra, metadata=[("trace", b"\x00\x01"), ("user", b"x")])
            assert common.success(expect(c.call(payload), OK).body)

    def compression(self):
        """unknown compression is UNIMPLEMENTED and the connection lives"""
        with self.open() as c:
            answer = expect(c.call(login(1, compression=4_000_000)), UNIMPLEMENTED)
            c.lives()
            return answer.message

    def timeouts(self):
        """timeout_us: zero is DEADLINE_EXCEEDED and final, absent and huge ones run"""
        with self.open() as c:
            late = expect(c.call(login(1, timeout_us=0)), DEADLINE_EXCEEDED)
            assert not late.retryable, "an expired call is not retryable"
            for call, timeout in enumerate((None, (1 << 64) - 1, 1 << 63, 2_000_000), 2):
                expect(c.call(login(call, timeout_us=timeout)), OK)
            return late.message

    def empty_arguments(self):
        """empty arguments"""
        with self.open() as c:
            common.check_reply("GetFriendsList", expect(c.call(request(1, FRIEND, "GetFriendsList")), OK).body)

    def oversized(self):
        """a body over max_body is RESOURCE_EXHAUSTED, names the setting, and the connection lives"""
        with self.open(split=0) as c:
            c.until(HELLO)
            limit = c.hello[3] or DEFAULT_MAX_BODY
            for call, size in ((1, limit + 1), (2, 4 * limit)):
                answer = expect(c.call(request(call, USER, "Login", b"\0" * size)), RESOURCE_EXHAUSTED)
                assert "max_body" in answer.message, f"the setting is not named: {answer.message!r}"
            c.lives()
            return answer.message

    def far_oversized(self):
        """a body over 4 x max_body ends the connection, by its header alone"""
        with self.open(split=0) as c:
            c.until(HELLO)
            size = 4 * (c.hello[3] or DEFAULT_MAX_BODY) + 1
            expect(c.call(login(1)), OK)
            c.send(frame(REQUEST, 2, request_meta("fixbug.UserServiceRpc", "Login"), b"", END, body_len=size))
            return c.ends(last_call=1)

    def large_meta(self):
        """meta over max_header is RESOURCE_EXHAUSTED, where the limit is below 65,535"""
        with self.open(split=0) as c:
            c.until(HELLO)
            limit = c.hello[2] or 65_535
            if limit == 65_535:
                expect(c.call(login(1, metadata=[("k", b"v" * 65_000)])), OK)
                return "65,000 bytes are taken"
            answer = expect(c.call(login(1, metadata=[("k", b"v" * limit)])), RESOURCE_EXHAUSTED)
            assert "max_header" in answer.message, f"the setting is not named: {answer.message!r}"
            c.lives()
            return answer.message

    def small_caller(self):
        """a reply over the caller's own max_body becomes RESOURCE_EXHAUSTED"""
        with self.open(max_body=1) as c:
            answer = expect(c.call(login(1)), RESOURCE_EXHAUSTED)
            expect(c.call(login(2)), RESOURCE_EXHAUSTED)
            return answer.message

    def cancel(self):
        """Cancel brings at most one reply; of unknown and finished calls it is ignored"""
        with self.open() as c:
            c.send(login(1) + frame(CANCEL, 1) + frame(CANCEL, 1) + frame(CANCEL, 77))
            answer = c.call(login(2))
            assert common.success(expect(answer, OK).body)
            c.send(frame(CANCEL, 2))
            c.lives()
            code = c.answered.get(1)
            assert code in (None, OK, CANCELLED), f"code {code}"
            return "not answered" if code is None else f"answered with code {code}"

    def ping(self):
        """Pong echoes the Ping's body"""
        for body in (b"", b"8 bytes.", bytes(range(256))):
            with self.open() as c:
                c.send(frame(PING, body=body))
                assert c.until(PONG).body == body

    def fast_pings(self):
        """fast pings are answered late, or end with GoAway"""
        with self.open() as c:
            for i in range(20):
                c.send(frame(PING, body=bytes([i])))
            count = 0
            c.sock.settimeout(min(1.0, self.timeout))
            try:
                while got := c.read():
                    count += got.kind == PONG
            except TimeoutError:
                return f"{count} of 20 answered within a second"
            assert c.goaways and "ping" in c.goaways[-1][1], f"ended without a word about pings: {c.goaways}"
            return f"GoAway {c.goaways[-1]}"

    def unknown_kinds(self):
        """unknown kinds are skipped"""
        with self.open() as c:
            c.send(frame(8, 5) + frame(200, 9, b"meta?", b"body?" * 100, flags=255) + frame(255))
            c.lives()

    def no_end(self):
        """a Request without END is UNIMPLEMENTED and the connection lives"""
        with self.open() as c:
            answer = expect(c.call(login(1, flags=0)), UNIMPLEMENTED)
            c.lives()
            return answer.message

    def data_frames(self):
        """Data is UNIMPLEMENTED in version 1 and the connection lives"""
        with self.open() as c:
            answer = expect(c.call(frame(DATA, 1, b"", b"chunk")), UNIMPLEMENTED)
            c.lives()
            return answer.message

    def versions(self):
        """a higher version is spoken to as 1"""
        with self.open(version=9) as c:
            expect(c.call(login(1)), OK)
            assert c.hello[0] == 1, f"version {c.hello[0]}"

    def refused(self, first, last_call=0):
        with self.open(first=first) as c:
            return c.ends(last_call)

    def version_zero(self):
        """version 0 ends the connection"""
        return self.refused(hello(version=0))

    def undecodable_hello(self):
        """an undecodable Hello ends the connection"""
        return self.refused(frame(HELLO, meta=b"\x0a\xff\xff"))

    def request_first(self):
        """a first frame that is no Hello ends the connection"""
        return self.refused(login(1))

    def second_hello(self):
        """a second Hello ends the connection"""
        return self.refused(hello() + hello())

    def ended_by(self, payload, last_call=1):
        with self.open() as c:
            expect(c.call(login(1)), OK)
            c.send(payload)
            return c.ends(last_call)

    def wrong_magic(self):
        """a frame with a wrong magic ends the connection"""
        return self.ended_by(frame(PING, magic=b"MRPX"))

    def id_zero(self):
        """a Request with id 0 ends the connection"""
        return self.ended_by(login(0))

    def id_again(self):
        """a Request whose id was used ends the connection"""
        return self.ended_by(login(1))

    def id_falls(self):
        """a Request whose id is below an earlier one ends the connection"""
        with self.open() as c:
            expect(c.call(login(10)), OK)
            c.send(login(9))
            return c.ends(10)

    def response_to_server(self):
        """a Response to a server ends the connection"""
        return self.ended_by(frame(RESPONSE, 1, flags=END))

    def orderly_end(self):
        """after the caller's GoAway and FIN, what runs is answered and the connection ends"""
        with self.open() as c:
            c.send(b"".join(login(i) for i in range(1, 11)) + frame(GOAWAY, 0, body=b"done"))
            c.sock.shutdown(socket.SHUT_WR)
            found, _ = c.replies(10)
            assert all(common.success(expect(r, OK).body) for r in found.values())
            while c.read():
                pass

    def sudden_end(self):
        """FIN without GoAway ends the connection, also inside a frame"""
        for payload in (b"", login(1)[:30], login(1)[:-1]):
            with self.open() as c:
                c.until(HELLO)
                c.send(payload, 0)
                c.sock.shutdown(socket.SHUT_WR)
                while got := c.read():
                    assert got.kind != RESPONSE, "half a request is answered"

    def cut_magic(self):
        """a caller that ends inside the first 20 bytes costs nothing"""
        for size in (1, 3, 4, 19):
            with connect(self.addr, self.timeout) as sock:
                sock.sendall(hello()[:size])
                sock.shutdown(socket.SHUT_WR)
                try:
                    while sock.recv(4096):
                        pass
                except ConnectionResetError:
                    pass

    def neighbours(self):
        """a connection that ends badly does not disturb another one"""
        with self.open() as good:
            expect(good.call(login(1)), OK)
            with self.open(first=b"MRPC" + b"\xff" * 60) as bad:
                try:
                    while bad.read():
                        pass
                except ConnectionResetError:
                    pass
            good.lives()

    def goodbye(self):
        """a caller that says GoAway and nothing else is let go"""
        with self.open() as c:
            expect(c.call(login(1)), OK)
            c.send(frame(GOAWAY, 0, body=b"done"))
            c.sock.shutdown(socket.SHUT_WR)
            while c.read():
                pass


def stalled(addr, timeout, limit):
    """A frame that stays incomplete ends the connection by its time limit."""
    start = time.monotonic()
    with Connection(addr, limit + timeout) as c:
        expect(c.call(login(1)), OK)
        c.send(login(2)[:40])
        said = c.ends(last_call=1)
    return f"after {time.monotonic() - start:.1f} s of {limit} s; {said}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--addr", required=True, type=common.address, help="ip:port of the provider")
    parser.add_argument("--split", type=int, default=0, help="bytes per segment; 0: all in one piece")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for anything")
    parser.add_argument("--request-timeout", type=float, help="also wait for the provider's limit on incomplete frames")
    parser.add_argument("--only", help="only cases whose name contains this")
    args = parser.parse_args()
    checks, cases = Checks(args.only), Cases(args.addr, args.split, args.timeout)
    for name, method in vars(Cases).items():
        if not name.startswith("_") and method.__doc__:
            checks.case("mux: " + method.__doc__, getattr(cases, name))
    if args.request_timeout:
        checks.case("mux: a frame that stays incomplete ends the connection", stalled, args.addr, args.timeout, args.request_timeout)
    checks.finish()


if __name__ == "__main__":
    main()
