#!/usr/bin/env bash
# Checks the dependency rule of mprpc-runtime and the line budgets of its modules.
#
#   scripts/check-layers.sh              check mprpc-runtime/src
#   scripts/check-layers.sh --self-test  plant one violation of each rule and see that it is found
#   scripts/check-layers.sh --src DIR    check another source directory (its Cargo.toml lies one level up)
#
# A module imports only from rows below its own. The table comes first, so that a new module is one word in it.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v python3 >/dev/null || { echo "check-layers: python3 is needed (scripts/test.sh installs it)" >&2; exit 2; }
exec python3 - "$@" <<'PY'
import os, re, sys, tempfile

# One row per line, lowest first. Inside a row `<` lets the modules on its right import those on its left;
# modules that no `<` parts are siblings and do not know each other.
ROWS = """
0  stages < status < error
1  wire  balance  wakes
2  connection
3  reactor  registry  logger  config
4  descriptor awaited < controller < rpc_channel service < interceptor pending table lanes < worker < stub
5  application
6  provider  channel  inprocess  fault_plan
7  lib
"""

# Parts of one module that must not know each other (both directions).
STRANGERS = [
    ("wire::legacy", "wire::mux"),
    ("connection::client", "connection::server"),
    ("registry::direct", "registry::zookeeper"),
]

# Which package may be named where. A package that is missing here is an error.
PACKAGES = {
    "mio": ["reactor"],
    "socket2": ["reactor", "channel"],
    "rustix": ["reactor", "channel", "provider"],
    "zookeeper": ["registry::zookeeper"],
    "configparser": ["config"],
    "signal_hook": ["provider", "application"],
    "crossbeam_channel": ["row 3 and up"],
    "log": ["row 3 and up"],
    "bytes": ["anywhere"],
    "protobuf": ["anywhere"],
}
# Packages whose types may stand in a public signature.
PUBLIC = {"bytes", "protobuf"}

# Modules without socket, thread, clock, file or log.
PURE = ["wire", "connection", "balance"]
IMPURE = [
    (r"\b(?:Instant|SystemTime)::now\b|\.elapsed\(\)", "reads the clock", "take `now` as an argument"),
    (r"\b(?:Tcp(?:Stream|Listener)|UdpSocket|Unix(?:Stream|Listener|Datagram))\b", "names a socket", "take bytes, give bytes; the reactor carries them"),
    (r"\bthread::|\bstd::thread\b", "names a thread", "leave threads to reactor and worker"),
    (r"\blog::|\b(?:e?println|e?print)!", "writes a log line", "give the event to the caller, which logs it"),
    (r"\bstd::(?:fs|process|env)\b|\bfs::", "touches files or the process", "leave it to config, logger or application"),
]

# Nowhere outside tests.
NEVER = [
    ("unsafe", r"\bunsafe\b", "`unsafe` is forbidden", "copy a few kilobytes instead"),
    ("unwrap", r"\.unwrap(?:_err)?\(\)", "`unwrap` outside tests", "return an error, or `expect` with the invariant"),
    ("unfinished", r"\b(?:todo|unimplemented|dbg)!", "a placeholder macro", "write the code, or leave the item out"),
]

# Lines of code that each module may have (comments, blank lines and tests are not counted). One number for all of it let a
# layer grow at another's cost; like this, whoever needs more says so in the commit that changes the number, and why.
BUDGETS = """
status 140  error 130
wire 850  balance 500  wakes 58
connection 3085
reactor 1407  registry 2040  logger 400  config 501
descriptor 90  awaited 75  controller 220  interceptor 170  rpc_channel 150  service 155  pending 75  table 145  lanes 130  worker 190  stub 145  stages 80
application 180
provider 803  channel 1580  inprocess 140  fault_plan 180
lib 60
"""

TOKENS = re.compile(
    r"""(?P<line>//[^\n]*)|(?P<block>/\*)|(?P<raw>b?r(?P<h>\#*)".*?"(?P=h))|(?P<str>[bc]?"(?:[^"\\]|\\.)*")|(?P<char>b?'(?:[^'\\\n]|\\(?:[^u]|u\{[^}]*\}|x..))')""",
    re.S | re.X,
)


def bare(text):
    """The text with comments and literals blanked out; every newline stays where it was."""
    out, pos = [], 0
    while m := TOKENS.search(text, pos):
        out.append(text[pos:m.start()])
        end = m.end()
        if m["raw"] and m.start() and (text[m.start() - 1].isalnum() or text[m.start() - 1] == "_"):
            out.append(text[m.start()]); pos = m.start() + 1; continue
        if m["block"]:  # block comments nest in Rust
            depth, end = 1, m.end()
            while depth and end < len(text):
                n = re.compile(r"/\*|\*/").search(text, end)
                if not n: end = len(text); break
                depth += 1 if n[0] == "/*" else -1
                end = n.end()
        out.append("".join(c if c == "\n" else " " for c in text[m.start():end]))
        pos = end
    return "".join(out) + text[pos:]


def closing(code, start, pair="{}"):
    """Offset just behind the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(code)):
        if code[i] == pair[0]: depth += 1
        elif code[i] == pair[1]:
            depth -= 1
            if not depth: return i + 1
    return len(code)


def flatten(tree, prefix=""):
    """`a::{b, c::d as e}` -> [("a::b", "b"), ("a::c::d", "e")]: full path and the name it gets here."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        path, _, alias = (prefix + tree).partition(" as ")
        path = path.replace(" ", "")
        if path.endswith("::self"): path = path[:-6]
        return [(path.removeprefix("::"), alias.strip() or path.split("::")[-1])] if path else []
    head, inner, part, depth, out = tree[:brace].replace(" ", ""), tree[brace + 1:tree.rfind("}")], "", 0, []
    for c in inner + ",":
        if c == "," and not depth:
            if part.strip(): out += flatten(part, prefix + head)
            part = ""
            continue
        depth += {"{": 1, "}": -1}.get(c, 0)
        part += c
    return out


class File:
    def __init__(self, src, path):
        self.path, rel = path, os.path.relpath(path, src)[:-3].split(os.sep)
        if rel[-1] == "mod": rel.pop()
        self.module = [] if rel == ["lib"] else rel
        self.text = open(path, encoding="utf-8").read()
        self.code = bare(self.text)
        self.test_lines, self.test_mods = 0, []
        for m in re.finditer(r"#\[cfg\((?:test|all\(test\b[^\]]*)\)\]", self.code):
            self.cut_test(m)
        self.inline = [(m.end() - 1, closing(self.code, m.end() - 1), m[1]) for m in re.finditer(r"\bmod\s+(\w+)\s*\{", self.code)]
        self.children = set(re.findall(r"\bmod\s+(\w+)\s*[;{]", self.code))
        self.uses = []  # (offset, is it `pub use`, full path, local name)
        for m in re.finditer(r"(\bpub\s+)?\buse\s+([^;]+);", self.code):
            self.uses += [(m.start(2), bool(m[1]), path, name) for path, name in flatten(m[2])]

    def cut_test(self, m):
        """Blanks a `#[cfg(test)]` item. `mod name;` names another file that holds tests only."""
        if not self.code[m.start():m.end()].strip(): return  # inside an item that is gone already
        stop = re.compile(r"[{;]").search(self.code, m.end())
        if not stop: return
        end = closing(self.code, stop.start()) if stop[0] == "{" else stop.end()
        if stop[0] == ";" and (n := re.search(r"\bmod\s+(\w+)\s*;", self.code[m.end():end])):
            self.test_mods.append(n[1])
        self.test_lines += self.code.count("\n", m.start(), end) + 1
        self.code = self.code[:m.start()] + re.sub(r"[^\n]", " ", self.code[m.start():end]) + self.code[end:]

    def line(self, offset): return self.code.count("\n", 0, offset) + 1

    def at(self, offset):
        """The module that the code at `offset` belongs to."""
        return self.module + [name for start, end, name in self.inline if start < offset < end]

    def resolve(self, path, offset):
        """A path as written -> its parts from the crate root, or None for a path that leaves the crate."""
        parts, here = path.split("::"), list(self.at(offset))
        if parts[0] == "crate": return parts[1:]
        if parts[0] == "self": return here + parts[1:]
        if parts[0] == "super":
            while parts and parts[0] == "super": parts, here = parts[1:], here[:-1]
            return here + parts
        return here + parts if parts[0] in self.children else None


class Check:
    def __init__(self, src):
        self.src, self.found = src, []
        self.step, self.row, self.rows_of = {}, {}, {}
        for text in filter(None, map(str.strip, ROWS.splitlines())):
            number, rest = text.split(None, 1)
            for i, names in enumerate(rest.split("<")):
                for name in names.split(): self.step[name], self.row[name] = i, int(number)
        words = BUDGETS.split()
        self.allowed = {module: int(number) for module, number in zip(words[::2], words[1::2])}
        for module in self.row.keys() ^ self.allowed.keys():
            self.report(src, 0, "table", f"module `{module}` stands in only one of ROWS and BUDGETS", "write it into both")
        files = [File(src, os.path.join(d, f)) for d, _, fs in os.walk(src) for f in fs if f.endswith(".rs")]
        tests = {"::".join(f.module + [m]) for f in files for m in f.test_mods}
        is_test = lambda f: any("::".join(f.module[:i]) in tests for i in range(1, len(f.module) + 1)) or "tests" in f.module
        self.files = sorted((f for f in files if not is_test(f)), key=lambda f: f.path)
        self.crates = self.dependencies()
        self.root = {}  # what lib.rs re-exports, and macros: name at the crate root -> module
        for f in self.files:
            if not f.module:
                for offset, _, path, name in f.uses:
                    parts = f.resolve(path, offset)
                    if parts: self.root[name] = parts
            for m in re.finditer(r"\bmacro_rules!\s*(\w+)", f.code): self.root.setdefault(m[1], f.module + [m[1]])

    def dependencies(self):
        manifest = os.path.join(self.src, "..", "Cargo.toml")
        if not os.path.exists(manifest): return set(PACKAGES)
        section, names = "", set()
        for text in open(manifest, encoding="utf-8"):
            if m := re.match(r"\[(.+)\]", text.strip()): section = m[1]
            elif (m := re.match(r"([\w-]+)(?:\.\w+)?\s*=", text)) and section.endswith("dependencies") and not section.startswith(("dev", "build")):
                names.add(m[1].replace("-", "_"))
        for name in sorted(names - set(PACKAGES)):
            self.report(manifest, 1, "package", f"the table does not say who may name `{name}`", "add it to PACKAGES in scripts/check-layers.sh")
        return names | set(PACKAGES)

    def report(self, path, line, rule, what, todo):
        self.found.append((os.path.relpath(path), line, rule, what, todo))

    def run(self):
        for f in self.files:
            top = f.module[0] if f.module else "lib"
            if top not in self.row:
                self.report(f.path, 1, "table", f"module `{top}` has no row", "add it to ROWS in scripts/check-layers.sh, in the row it belongs to")
                continue
            self.imports(f, top)
            self.packages(f, top)
            self.patterns(f, top)
        self.budgets()
        return sorted(set(self.found))

    def paths(self, f):
        """Every path that the file names: imports in full, and paths written out in code."""
        yield from ((offset, path) for offset, _, path, _ in f.uses)
        code = re.sub(r"\buse\s+[^;]+;", lambda m: re.sub(r"[^\n]", " ", m[0]), f.code)
        for m in re.finditer(r"(?<![\w:.$])(?:::)?((?:\w+::)+\w+)", code): yield m.start(1), m[1]
        for m in re.finditer(r"\$(crate::(?:\w+::)*\w+)", code): yield m.start(1), m[1]

    def imports(self, f, top):
        for offset, path in self.paths(f):
            parts = f.resolve(path, offset)
            if not parts: continue
            if parts[0] not in self.row and parts[0] in self.root: parts = self.root[parts[0]]
            other, line = parts[0], f.line(offset)
            if other not in self.row:
                if path.startswith("crate::") or (path.startswith("super::") and len(f.module) == 1):
                    self.report(f.path, line, "table", f"`{path}`: no row has `{other}`", "add the module to ROWS in scripts/check-layers.sh, or import the item from its module")
                continue
            if other != top: self.edge(f, line, top, other)
            for pair in STRANGERS:
                for a, b in (pair, pair[::-1]):
                    if "::".join(f.module).startswith(a) and "::".join(parts).startswith(b):
                        self.report(f.path, line, "strangers", f"`{a}` names `{b}`", "move what both need into their parent")

    def edge(self, f, line, top, other):
        mine, its = self.row[top], self.row[other]
        if its > mine:
            self.report(f.path, line, "layer", f"`{top}` (row {mine}) names `{other}` (row {its}), which is above it",
                        "let the lower module define a small trait and the upper one implement it, or move the item down")
        elif its == mine and self.step[other] >= self.step[top]:
            self.report(f.path, line, "sibling", f"`{top}` names its sibling `{other}` (both row {mine})",
                        "move what both need a row down; if the order is meant, say so with `<` in ROWS")

    def packages(self, f, top):
        local = {name: path.split("::")[0] for _, _, path, name in f.uses if path.split("::")[0] in self.crates - PUBLIC}
        for offset, path in self.paths(f):
            head = path.split("::")[0]
            if head not in self.crates or head in f.children: continue
            rule = PACKAGES.get(head, [])
            here = "::".join(f.module)
            if rule == ["anywhere"] or (rule == ["row 3 and up"] and self.row[top] >= 3) or any(here == r or here.startswith(r + "::") for r in rule): continue
            self.report(f.path, f.line(offset), "package", f"`{top}` names the package `{head}`", f"only {', '.join(rule) or 'a module that PACKAGES lists'} may")
        for m in re.finditer(r"\bpub\s+(?:(?:const|async|extern)\s+)*(fn|type|use|trait|static|const|\w+\s*:(?!:))", f.code):
            stop = re.compile(r"[{;]" if not m[1].endswith(":") else r"[,}\n]").search(f.code, m.end())
            signature = f.code[m.end():stop.start() if stop else len(f.code)]
            if m[1] == "const": signature = signature.partition("=")[0]
            heads = {h for h in re.findall(r"(?<![\w:.])(\w+)::", signature) if h in self.crates - PUBLIC and h not in f.children}
            heads |= {local[n] for n in re.findall(r"(?<![\w:.])(\w+)\b", signature) if n in local}
            for head in heads:
                self.report(f.path, f.line(m.start()), "signature", f"a type of the package `{head}` stands in a public signature", "wrap it, or make the item pub(crate)")

    def patterns(self, f, top):
        for rule, pattern, what, todo in NEVER:
            for m in re.finditer(pattern, f.code): self.report(f.path, f.line(m.start()), rule, what, todo)
        if top in PURE:
            for pattern, what, todo in IMPURE:
                for m in re.finditer(pattern, f.code): self.report(f.path, f.line(m.start()), "pure", f"`{top}` {what}", todo)
                for offset, _, path, _ in f.uses:
                    if re.search(pattern, path + "::"): self.report(f.path, f.line(offset), "pure", f"`{top}` {what}", todo)

    def budgets(self):
        for module, allowed in self.allowed.items():
            lines = self.lines(module)
            if lines > allowed:
                self.report(self.src, 0, "budget", f"`{module}` has {lines:,} lines of code, {allowed:,} are allowed", "what does not fit must displace something")

    def lines(self, module=None):
        """Lines of code, of one module or of all: comments, blank lines and tests are blank in `code`, and not counted."""
        files = [f for f in self.files if module in (None, f.module[0] if f.module else "lib")]
        return sum(1 for f in files for line in f.code.splitlines() if line.strip())

    def all_lines(self):
        """The same with comments and blank lines: said beside the budget, so that nobody mistakes one for the other."""
        return sum(f.text.count("\n") - f.test_lines for f in self.files)


def check(src):
    c = Check(src)
    found, lines = c.run(), c.lines()
    for path, line, rule, what, todo in found: print(f"{path}:{line}: {rule}: {what}\n    -> {todo}")
    print(f"check-layers: {len(c.files)} files, {lines:,} lines of code without tests ({c.all_lines():,} with comments and blank lines), "
          f"{sum(c.allowed.values()):,} are allowed, {len(found)} violations")
    return found


PLANTS = [  # (file, text, the rule that must find it; None: nothing may be found)
    ("wire/a.rs", "use crate::channel::MprpcChannel;", "layer"),
    ("wire/a.rs", "use std::{fmt, io};\nuse crate::{\n    status::Code,\n    connection::{Post, call::Call},\n};", "layer"),
    ("wire/a.rs", "fn f() { super::super::channel::open() }", "layer"),
    ("wire/a.rs", "use crate::MprpcChannel;", "layer"),
    ("reactor/a.rs", "use crate::registry::Endpoint;", "sibling"),
    ("status.rs", "use crate::error::Error;", "sibling"),
    ("error.rs", "use crate::status::Status;", None),
    ("worker.rs", "use crate::{controller::Controller, service::Service};", None),
    ("wire/legacy.rs", "use super::mux::Frame;", "strangers"),
    ("novelty.rs", "", "table"),
    ("worker.rs", "use crate::nowhere::Thing;", "table"),
    ("worker.rs", "use mio::Poll;", "package"),
    ("provider.rs", "fn f() { let s = socket2::Socket::from(x); }", "package"),
    ("reactor/a.rs", "use mio::{Poll, Token};", None),
    ("registry/mod.rs", "pub mod zookeeper;\npub use zookeeper::Session;", None),
    ("registry/direct.rs", "use zookeeper::ZooKeeper;", "package"),
    ("reactor/a.rs", "use mio::Token;\npub fn token(&self) -> Token { self.0 }", "signature"),
    ("reactor/a.rs", "pub struct Slot {\n    pub token: mio::Token,\n}", "signature"),
    ("reactor/a.rs", "use mio::Token;\npub fn id(&self) -> u64 { Token(0).0 as u64 }", None),
    ("connection/a.rs", "use std::time::Instant;\nfn f() { Instant::now(); }", "pure"),
    ("connection/a.rs", "use std::{net::TcpStream, time::Instant};", "pure"),
    ("connection/a.rs", "use std::{sync::Arc, thread};", "pure"),
    ("wire/a.rs", 'fn f() { log::warn!("x"); }', "pure"),
    ("wire/a.rs", "use std::{net::SocketAddr, time::Instant};", None),
    ("channel/a.rs", "fn f() { x.unwrap() }", "unwrap"),
    ("channel/a.rs", "fn f() { todo!() }", "unfinished"),
    ("channel/a.rs", "fn f() { unsafe { g() } }", "unsafe"),
    ("channel/a.rs", '/// x.unwrap()\n// unsafe todo!()\n/* /* mio::Poll */ */\nfn f() -> &\'static str { "x.unwrap() \\" mio::Poll" }', None),
    ("channel/a.rs", 'fn f<\'a>(c: char) -> bool { c == \'"\' || c == \'\\\'\' }\nfn g() { r#"unsafe " "#; }', None),
    ("channel/a.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { x.unwrap() }\n}", None),
    ("channel/a.rs", "#[cfg(test)]\nmod tests {\n}\nfn f() { x.unwrap() }", "unwrap"),
    ("channel/a.rs", "fn f() {}\n" * 2000, "budget"),
    ("channel/a.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n" + "    fn f() {}\n" * 2000 + "}", None),
]


def self_test():
    bad = 0
    for name, text, rule in PLANTS:
        with tempfile.TemporaryDirectory() as tmp:
            for path, body in (("lib.rs", "pub mod channel;\npub use channel::MprpcChannel;\n"), (name, text + "\n")):
                path = os.path.join(tmp, "src", path)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                open(path, "w", encoding="utf-8").write(body)
            stdout, sys.stdout = sys.stdout, open(os.devnull, "w")
            try: rules = {f[2] for f in check(os.path.join(tmp, "src"))}
            finally: sys.stdout.close(); sys.stdout = stdout
        if (rule not in rules) if rule else rules:
            bad += 1
            print(f"self-test: {name}: {text[:80]!r}: expected {rule}, found {sorted(rules) or 'nothing'}")
    print(f"check-layers: self-test, {len(PLANTS)} cases, {bad} wrong")
    return bad


args = sys.argv[1:]
if args == ["--self-test"]: sys.exit(1 if self_test() else 0)
if args and not (len(args) == 2 and args[0] == "--src"): sys.exit("usage: scripts/check-layers.sh [--self-test | --src DIR]")
src = args[1] if args else "mprpc-runtime/src"
if not os.path.isdir(src): sys.exit(f"check-layers: no directory {src}")
sys.exit(1 if check(src) else 0)
PY
