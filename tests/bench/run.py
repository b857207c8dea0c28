"""Runs the benchmark; scripts/bench.sh explains the options and has built the programs.

    python3 run.py PROGRAMS-FOLDER --packages [options]    prints the packages that the options need
    python3 run.py PROGRAMS-FOLDER [options]               runs
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SCENARIOS = ["A", "B", "C", "D", "E", "F", "G", "T1", "T8", "T64"]
PINS = ["none", "same", "split"]
# What a line holds, in this order. The load side prints more, which goes to the terminal.
KEYS = ["peer", "scenario", "pin", "calls_s", "mb_s", "p50_us", "p99_us", "p999_us", "srv_cpu_s_per_m", "cli_cpu_s_per_m",
        "srv_rss_kb", "srv_kib_per_conn"]
FULL = {"repetitions": 3, "warmup": 1.0, "secs": 3.0}
QUICK = {"repetitions": 1, "warmup": 0.5, "secs": 2.0}
# Beside the window: starting two processes and, in F, opening the idle connections.
BESIDE_S, OPEN_S = 0.5, 4.0
PATIENCE_S = 120


class Peer:
    """A line of peers.conf."""

    def __init__(self, line):
        self.name, self.package, self.program, self.letters, *options = line.split()
        self.options = [option for option in options if option != "-"]

    def takes(self, scenario):
        return scenario[0] in self.letters


def peers():
    with open(os.path.join(HERE, "peers.conf"), encoding="utf-8") as file:
        return [Peer(line) for line in file if line.strip() and not line.startswith("#")]


def arguments(known):
    parser = argparse.ArgumentParser(prog="scripts/bench.sh", allow_abbrev=False)
    parser.add_argument("programs", help=argparse.SUPPRESS)
    parser.add_argument("--packages", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="one repetition of 2 s instead of three of 3 s")
    parser.add_argument("--pin", action="append", choices=PINS, help="same: both processes on one core; split: a core each")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this one (repeatable)")
    parser.add_argument("--peer", action="append", choices=[peer.name for peer in known], help="only this one (repeatable)")
    parser.add_argument("--json", metavar="FILE", help="write one line of JSON a run")
    parser.add_argument("--syscalls", action="store_true", help="count system calls a call (perf, root)")
    options = parser.parse_args()
    options.pin = list(dict.fromkeys(options.pin or ["none"]))
    options.scenario = [name for name in SCENARIOS if name in (options.scenario or SCENARIOS)]
    return options


def cores(pin):
    """Where the server and the client run, each a set of cores, or None for anywhere."""
    if pin == "none":
        return None, None
    usable = sorted(os.sched_getaffinity(0))
    if pin == "split" and len(usable) < 2:
        sys.exit("bench: --pin split needs two cores")
    return {usable[0]}, {usable[0] if pin == "same" else usable[1]}


def start(command, folder, core, output):
    environment = dict(os.environ, TTRPC_TCP_NODELAY_ENABLED="true")  # ttrpc's own switch; the others set it in code
    pin = (lambda: os.sched_setaffinity(0, core)) if core else None
    return subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                            stderr=subprocess.STDOUT, preexec_fn=pin)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tail(path):
    """The last line of a file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def wait_ready(server, path):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with open(path, encoding="utf-8", errors="replace") as file:
            if "READY" in file.read():
                return None
        if server.poll() is not None:
            return f"the server ended: {tail(path)}"
        time.sleep(0.01)
    return "the server does not get ready"


def measure(options, folder, peer, scenario, pin, plan):
    """One run: a server and a client, from start to end. Gives what the client measured, or an error."""
    program = os.path.join(options.programs, peer.program)
    at = f"127.0.0.1:{free_port()}"
    served, loaded = os.path.join(folder, "server.out"), os.path.join(folder, "client.out")
    server_core, client_core = cores(pin)
    children = []
    try:
        with open(served, "wb") as output:
            server = start([program, "serve", at, *peer.options], folder, server_core, output)
        children.append(server)
        if error := wait_ready(server, served):
            return {"error": error}
        words = [f"scenario={scenario}", f"pid={server.pid}", f"warmup={plan['warmup']}", f"secs={plan['secs']}"]
        with open(loaded, "wb") as output:
            client = start([program, "load", at, *words, *peer.options], folder, client_core, output)
        children.append(client)
        counted = count_syscalls(server, client, plan) if options.syscalls and scenario != "F" else None
        client.wait(plan["warmup"] + plan["secs"] + PATIENCE_S)
        try:
            result = json.loads(tail(loaded))
        except ValueError:
            return {"error": f"the client ended with status {client.returncode}: {tail(loaded)}"}
        if counted and "calls_s" in result:
            result["syscalls"] = [rate / result["calls_s"] for rate in counted]
        elif options.syscalls and scenario != "F":
            print("perf counts no system calls here: it needs root and the tracepoint raw_syscalls:sys_enter", file=sys.stderr)
        return result
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {PATIENCE_S} s"}
    finally:
        for child in children:
            child.kill()
            child.wait()


def count_syscalls(server, client, plan):
    """System calls a second of both processes, in the middle of the window."""
    time.sleep(plan["warmup"] + 0.3)
    seconds = max(plan["secs"] - 1.0, 0.5)
    counters = [
        subprocess.Popen(["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", str(child.pid), "--", "sleep", str(seconds)],
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for child in (server, client)
    ]
    counted = []
    for counter in counters:
        fields = next((line.split(",") for line in counter.communicate(timeout=seconds + 30)[1].splitlines() if "sys_enter" in line), [""])
        if not fields[0].isdigit():
            return None  # perf may not, or the process has ended
        counted.append(int(fields[0]) / seconds)
    return counted


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def describe(result):
    if "error" in result:
        return f"ERROR {result['error']}"
    rate = f"{result['mb_s']:>9,.0f} MB/s  " if result["mb_s"] else f"{result['calls_s']:>9,.0f} /s    "
    text = f"{rate} p50 {result['p50_us']:,.1f} us  p99 {result['p99_us']:,.1f} us  server {result['srv_cpu_s_per_m']:.2f} us/call"
    if result["srv_kib_per_conn"] is not None:
        text += f"  {result['srv_kib_per_conn']:.2f} KiB/connection (client {result['cli_kib_per_conn']:.2f})"
    if "syscalls" in result:
        text += "  system calls a call: server {:.3f} client {:.3f}".format(*result["syscalls"])
    if result["other_cpu_pct"] >= 10:
        text += f"  (others used {result['other_cpu_pct']:.0f} % of a core)"
    return text


def run(options, plan, chosen):
    """Runs all cells, one repetition of every peer after the other. Gives the medians and the number of errors."""
    cells = [
        (pin, scenario, peer)
        for pin in options.pin for scenario in options.scenario for _ in range(plan["repetitions"])
        for peer in chosen if peer.takes(scenario)
    ]
    cost = {name: plan["warmup"] + plan["secs"] + BESIDE_S + (OPEN_S if name == "F" else 0) for name in SCENARIOS}
    began, left = time.monotonic(), sum(cost[scenario] for _, scenario, _ in cells)
    found, errors = {}, 0
    output = open(options.json, "w", encoding="utf-8") if options.json else None
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for number, (pin, scenario, peer) in enumerate(cells, 1):
            result = measure(options, folder, peer, scenario, pin, plan)
            left -= cost[scenario]
            spent = time.monotonic() - began
            print(f"[{number:3}/{len(cells)} {clock(spent)} gone, {clock(left)} left] {scenario:3} {pin:5} {peer.name:18} {describe(result)}",
                  flush=True)
            line = dict.fromkeys(KEYS)
            line.update({key: result[key] for key in KEYS if key in result}, peer=peer.name, scenario=scenario, pin=pin)
            if "error" in result:
                errors += 1
                line["error"] = result["error"]
            else:
                found.setdefault((pin, scenario), {}).setdefault(peer.name, []).append(result)
            if output:
                output.write(json.dumps(line) + "\n")
                output.flush()
    return found, errors


def summary(found):
    for (pin, scenario), results in found.items():
        floor = "floor-threads" if scenario[0] == "T" else "floor"
        rates = {name: statistics.median(one["calls_s"] for one in runs) for name, runs in results.items()}
        print(f"\n{scenario}, pin {pin}: medians")
        for name, rate in sorted(rates.items(), key=lambda item: -item[1]):
            p50 = statistics.median(one["p50_us"] for one in results[name])
            ratio = f"  {rate / rates[floor]:5.2f} x {floor}" if floor in rates else ""
            print(f"  {name:18} {rate:>11,.0f} calls/s  p50 {p50:>9,.1f} us{ratio}")


def main():
    known = peers()
    options = arguments(known)
    chosen = [peer for peer in known if not options.peer or peer.name in options.peer]
    if options.packages:
        print("\n".join(sorted({peer.package for peer in chosen})))
        return 0
    for pin in options.pin:
        cores(pin)
    lacking = [f"{peer.name} in {scenario}" for peer in chosen for scenario in options.scenario if not peer.takes(scenario)]
    if lacking and (options.peer or len(options.scenario) < len(SCENARIOS)):
        print(f"not measured (see tests/bench/peers.conf): {', '.join(lacking)}")
    found, errors = run(options, QUICK if options.quick else FULL, chosen)
    summary(found)
    if errors:
        print(f"\n{errors} runs failed", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
