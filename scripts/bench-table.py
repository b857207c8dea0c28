#!/usr/bin/env python3
"""Turns what scripts/bench.sh measured into Markdown, and into a plot.

    scripts/bench-table.py FILE... [--plot OUT.svg] [--brief]

Prints one table a scenario and pin, of medians, with the ratio of each rate to the floor's and to that of the best foreign
peer, and of the server's processor time to the floor's. --brief prints only the overview: rates relative to the floor. Describes the machine it runs on, so run it where the
benchmark ran.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
from xml.sax.saxutils import escape

ORDER = ["A", "B", "C", "D", "E", "F", "G", "T1", "T8", "T64"]
TITLES = {
    "A": "latency: 1 connection, 1 call at a time", "B": "pipelining: 1 connection, 64 calls at a time",
    "C": "fan-in: 64 connections, 1 call at a time each", "D": "wide: 64 connections, 16 calls at a time each",
    "E": "echo of 1 MiB: 1 connection, 4 calls at a time", "F": "1 call at a time beside 10,000 idle connections",
    "G": "a connection per call", "T1": "blocking calls from 1 thread", "T8": "blocking calls from 8 threads",
    "T64": "blocking calls from 64 threads",
}
PINS = {"none": "placed by the kernel", "same": "both processes on one core", "split": "a core each"}


def is_ours(peer):
    return peer.startswith("mprpc")


def is_floor(peer):
    return peer.startswith("floor")


def floor_of(scenario):
    return "floor-threads" if scenario.startswith("T") else "floor"


class Cell:
    """The medians of one peer in one scenario, or its first error."""

    def __init__(self, lines):
        good = [line for line in lines if "error" not in line]
        self.runs = len(good)
        self.failed = len(lines) - len(good)
        self.error = next((line["error"] for line in lines if "error" in line), None)
        self.values = {}
        for key in good[0] if good else ():
            numbers = [line[key] for line in good if isinstance(line[key], (int, float))]
            if numbers:
                self.values[key] = statistics.median(numbers)

    def __getitem__(self, key):
        return self.values.get(key)


def read(paths):
    """Cells by pin, scenario and peer, in the order of the benchmark."""
    lines = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for text in filter(str.strip, file):
                line = json.loads(text)
                lines.setdefault((line["pin"], line["scenario"]), {}).setdefault(line["peer"], []).append(line)
    order = sorted(lines, key=lambda key: (list(PINS).index(key[0]), ORDER.index(key[1])))
    return {key: {peer: Cell(runs) for peer, runs in lines[key].items()} for key in order}


def number(value, digits=1):
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.{digits}f}"


def ratio(value, base):
    return f"{value / base:.2f}" if value is not None and base else "-"


def rate(cells, peer):
    return cells[peer]["calls_s"] if peer in cells else None


def best_foreign(cells):
    """The fastest peer that is neither ours nor a floor."""
    return max((peer for peer in cells if not is_ours(peer) and not is_floor(peer)), key=lambda peer: rate(cells, peer) or 0,
               default=None)


def table(pin, scenario, cells):
    floor, best = floor_of(scenario), best_foreign(cells)
    heads = ["peer", "calls/s", f"x {floor}", f"x {best}" if best else "x best peer"]
    heads += ["MB/s"] if scenario == "E" else []
    heads += ["p50 µs", "p99", "p99.9", "server µs CPU a call", f"x {floor}", "client", "server peak MiB"]
    heads += ["server KiB a connection"] if scenario == "F" else []
    yield f"### {scenario}, {TITLES[scenario]} ({PINS[pin]})\n"
    yield "| " + " | ".join(heads) + " |"
    yield "|---|" + "--:|" * (len(heads) - 1)
    for peer in sorted(cells, key=lambda peer: -(rate(cells, peer) or 0)):
        cell = cells[peer]
        if not cell.runs:
            yield f"| {peer} | failed: {cell.error} |" + " |" * (len(heads) - 2)
            continue
        name = f"**{peer}**" if is_ours(peer) else peer
        if cell.failed:
            name += f" ({cell.failed} of {cell.failed + cell.runs} runs failed)"
        row = [name, number(cell["calls_s"], 0), ratio(cell["calls_s"], rate(cells, floor)), ratio(cell["calls_s"], rate(cells, best))]
        row += [number(cell["mb_s"], 0)] if scenario == "E" else []
        row += [number(cell[key]) for key in ("p50_us", "p99_us", "p999_us")]
        cpu = cell["srv_cpu_s_per_m"]
        row += [number(cpu, 2), ratio(cpu, cells[floor]["srv_cpu_s_per_m"] if floor in cells else None)]
        row += [number(cell["cli_cpu_s_per_m"], 2), number(cell["srv_rss_kb"] / 1024)]
        row += [number(cell["srv_kib_per_conn"], 2)] if scenario == "F" else []
        yield "| " + " | ".join(row) + " |"
    yield ""


def overview(found):
    """Rates relative to the floor: a row a peer, a column a scenario."""
    peers = list(dict.fromkeys(peer for cells in found.values() for peer in cells))
    many = len({pin for pin, _ in found}) > 1
    heads = [f"{scenario} {pin}" if many else scenario for pin, scenario in found]
    yield "| calls/s, x floor | " + " | ".join(heads) + " |"
    yield "|---|" + "--:|" * len(heads)
    for peer in sorted(peers, key=lambda peer: (not is_ours(peer), not is_floor(peer))):
        row = []
        for (_, scenario), cells in found.items():
            cell = cells.get(peer)
            text = "" if cell is None else ratio(cell["calls_s"], rate(cells, floor_of(scenario)))
            row.append("failed" if cell and not cell.runs else text)
        yield f"| {f'**{peer}**' if is_ours(peer) else peer} | " + " | ".join(row) + " |"
    yield ""
    yield "T is relative to floor-threads, all others to floor. An empty field: the peer has no such scenario."
    yield ""


def first(path, key, default="?"):
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                name, _, value = line.replace("=", ":", 1).partition(":")
                if name.strip() == key:
                    return value.strip().strip('"')
    except OSError:
        pass
    return default


def says(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "?"


def machine():
    memory = int(first("/proc/meminfo", "MemTotal", "0 kB").split()[0]) / (1 << 20)
    guest = ", a virtual machine" if "hypervisor" in first("/proc/cpuinfo", "flags", "").split() else ""
    return (f"Machine: {os.cpu_count()} x {first('/proc/cpuinfo', 'model name', platform.machine())}{guest}, {memory:.0f} GiB, "
            f"{platform.system()} {platform.release()}, {first('/etc/os-release', 'PRETTY_NAME')}, {says('rustc', '--version')}.")


def plot(found):
    """A panel of bars for every scenario and pin."""
    width, bar, columns = 430, 17, 2
    panels, heights = [], []
    for (pin, scenario), cells in found.items():
        peers = sorted((peer for peer in cells if cells[peer].runs), key=lambda peer: -rate(cells, peer))
        if not peers:
            continue
        top, lines = rate(cells, peers[0]), []
        lines.append(f'<text x="0" y="14" class="title">{scenario}  {escape(TITLES[scenario])}</text>')
        lines.append(f'<text x="0" y="29" class="small">calls/s and p50, {escape(PINS[pin])}</text>')
        for row, peer in enumerate(peers):
            y, value = 38 + row * bar, rate(cells, peer)
            kind = "ours" if is_ours(peer) else "floor" if is_floor(peer) else "peer"
            long = max(value / top * 170, 1)
            lines.append(f'<text x="118" y="{y + 11}" class="name">{escape(peer)}</text>')
            lines.append(f'<rect x="124" y="{y}" width="{long:.1f}" height="{bar - 4}" class="{kind}"/>')
            label = f"{number(value, 0)}  {number(cells[peer]['p50_us'])} µs"
            lines.append(f'<text x="{128 + long:.1f}" y="{y + 11}" class="small">{label}</text>')
        panels.append("\n".join(lines))
        heights.append(38 + len(peers) * bar + 16)
    y, body = 16, []
    for at in range(0, len(panels), columns):
        for column, panel in enumerate(panels[at:at + columns]):
            body.append(f'<g transform="translate({16 + column * width},{y})">\n{panel}\n</g>')
        y += max(heights[at:at + columns])
    style = ("text{font:11px sans-serif;fill:#222}.title{font-size:13px;font-weight:bold}.small{fill:#555}.name{text-anchor:end}"
             ".ours{fill:#c0392b}.floor{fill:#7f8c8d}.peer{fill:#5b8db8}")
    size = (16 + columns * width, y)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" viewBox="0 0 {size[0]} {size[1]}">\n'
            f'<style>{style}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(body) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--plot", metavar="OUT.svg")
    parser.add_argument("--brief", action="store_true")
    options = parser.parse_args()
    found = read(options.files)
    runs = max((cell.runs for cells in found.values() for cell in cells.values()), default=0)
    print(machine())
    print(f"Medians of up to {runs} runs.\n")
    print("\n".join(overview(found)))
    if not options.brief:
        for (pin, scenario), cells in found.items():
            print("\n".join(table(pin, scenario, cells)))
    if options.plot:
        with open(options.plot, "w", encoding="utf-8") as file:
            file.write(plot(found))


if __name__ == "__main__":
    main()
