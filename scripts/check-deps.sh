#!/usr/bin/env bash
# Checks the dependencies against deny.toml: licences, banned and doubled packages, sources. In a second.
#
#   scripts/check-deps.sh                check; says what is wrong and exits with 1
#   scripts/check-deps.sh --self-test    checks that every rule finds what it is for
#
# The rules are cargo deny's, of which this is the part that needs no network and no installation.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 - "$@" <<'PY'
import json, re, subprocess, sys, tomllib

def main(args):
    with open("deny.toml", "rb") as file: rules = tomllib.load(file)
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--all-features"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode: sys.exit(f"check-deps: {run.stderr}")
    packages = json.loads(run.stdout)["packages"]
    if args == ["--self-test"]: return self_test(rules, packages)
    if args: sys.exit("usage: scripts/check-deps.sh [--self-test]")
    found = check(rules, packages)
    for line in found: print(line)
    print(f"check-deps: {len(packages)} packages, {len(found)} violations of deny.toml")
    return 1 if found else 0

def check(rules, packages):
    found, names = [], {}
    allowed, bans = set(rules["licenses"]["allow"]), rules["bans"]
    skipped = {skip["crate"] for skip in bans["skip"]}
    for p in packages:
        name, version, source = p["name"], p["version"], p["source"]
        names.setdefault(name, set()).add(version)
        if source is None:  # ours: published or not, it has to say its licence
            if not p["license"] and p["publish"] != []: found.append(f"{name}: licence: none is stated")
            continue
        if source.removeprefix("registry+") not in rules["sources"]["allow-registry"]: found.append(f"{name} {version}: source: {source}")
        if not p["license"]: found.append(f"{name} {version}: licence: none is stated")
        elif not permits(p["license"], allowed): found.append(f"{name} {version}: licence: {p['license']} is not allowed")
        for ban in bans["deny"]:
            crate, _, wanted = ban["crate"].partition(":")
            if crate == name and within(version, wanted): found.append(f"{name} {version}: banned: {ban['reason']}")
    for name, versions in sorted(names.items()):
        rest = [v for v in versions if f"{name}@{v}" not in skipped]
        if len(versions) > 1 and len(rest) > 1: found.append(f"{name}: doubled: {', '.join(sorted(rest))}")
    unused = [s for s in skipped if s.split("@")[1] not in names.get(s.split("@")[0], set())]
    return found + [f"{s}: skip: it is not there any more" for s in sorted(unused)]

def permits(expression, allowed):
    """An SPDX expression; the old `A/B` means `A OR B`. WITH binds to the licence before it, AND more than OR."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    def either():
        value = both()
        while tokens and tokens[0] == "OR": tokens.pop(0); value = both() or value
        return value
    def both():
        value = one()
        while tokens and tokens[0] == "AND": tokens.pop(0); value = one() and value
        return value
    def one():
        if tokens[0] == "(":
            tokens.pop(0); value = either(); tokens.pop(0)
            return value
        name = tokens.pop(0)
        if tokens and tokens[0] == "WITH": tokens.pop(0); name += " WITH " + tokens.pop(0)
        return name in allowed
    return either()

def within(version, wanted):
    """Whether a version satisfies all comparisons of `>=1.0.0, <1.11.1`; an empty text takes every one."""
    number = lambda text: [int(n) for n in re.split(r"[-+]", text)[0].split(".")]
    compare = {"<": lambda a, b: a < b, ">=": lambda a, b: a >= b, "=": lambda a, b: a == b}
    parts = re.findall(r"(<|>=|=)\s*([\d.]+)", wanted)
    return all(compare[sign](number(version), number(limit)) for sign, limit in parts)

def self_test(rules, packages):
    index = "registry+https://github.com/rust-lang/crates.io-index"
    def with_one(**changes): return check(rules, packages + [{"name": "planted", "version": "1.0.0", "source": index, "license": "MIT", "publish": None} | changes])
    plants = {
        "licence: GPL-3.0": {"license": "GPL-3.0"},
        "licence: MIT AND GPL-3.0": {"license": "MIT AND GPL-3.0"},
        "licence: none": {"license": None},
        "licence: none is stated": {"license": None, "source": None},
        "source: git": {"source": "git+https://example.org/x"},
        "banned": {"name": "protobuf", "version": "3.7.1"},
        "doubled": {"name": "log", "version": "0.3.9"},
    }
    missed = [rule for rule, changes in plants.items() if not any(rule in line for line in with_one(**changes))]
    missed += [e for e in ("MIT OR GPL-3.0", "MIT/GPL-3.0", "(MIT OR X) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception") if not permits(e, set(rules["licenses"]["allow"]))]
    print(f"check-deps: self-test, {len(plants) + 4} cases, {len(missed)} wrong {missed or ''}")
    return 1 if missed else 0

sys.exit(main(sys.argv[1:]))
PY
