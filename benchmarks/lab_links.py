"""The link laboratory: hosts as network namespaces on a bridge, each running the real `diag run`, broken on purpose.

    python benchmarks/lab_links.py                    every fault, a table at the end
    python benchmarks/lab_links.py --fault node-missing --nodes 5 --keep-logs DIR
    python benchmarks/lab_links.py --apart             the same faults through the nodes' separate reports, a second table
    python benchmarks/lab_links.py --curve             how long healthy jobs of 1, 2, 4 and 8 nodes take
    python benchmarks/lab_links.py --list

Needs root, iproute2, nftables and tc. Every name carries this run's number and is removed at the end, also on Ctrl-C.
The namespaces use addresses of their own (10.77.0.0/24, fd77::/64) that nobody else can see.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PORT = 29577
PROBES = ("host.limits", "net", "software.versions")
LIMIT_S = 60.0


def needs() -> str | None:
    """Why the laboratory cannot run here; None if it can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in ("ip", "nft", "tc", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    probe = f"dlprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return None if made.returncode == 0 else f"cannot make network namespaces: {made.stderr.strip()}"


def sh(*words: str, check: bool = True) -> str:
    """Run one command of the set-up."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Node:
    """One simulated host."""

    number: int
    space: str
    address: str
    hostname: str
    veth: str
    """Its cable's end at the bridge."""
    env: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    extra_hosts: list[tuple[str, str]] = field(default_factory=list)
    """(address, name) lines before the others."""
    rank: int = 0
    nnodes: int = 0
    master: str = ""
    delay_s: float = 0.0
    absent: bool = False
    freeze_after_s: float | None = None
    die_after_s: float | None = None
    """Killed so long after the nodes met, as the kernel's OOM killer would."""
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    ended: float = 0.0

    def sh(self, *words: str) -> str:
        """Run a command inside."""
        return sh("ip", "netns", "exec", self.space, *words)


@dataclass
class Lab:
    """Hosts on one bridge."""

    tag: str
    nodes: list[Node]
    bridge: str
    folder: Path
    helpers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    spaces: list[str] = field(default_factory=list)
    """Namespaces beside the nodes' own."""

    def drop(self, rule: str, hook: str = "forward") -> None:
        """An nft rule in a table of its own, for this bridge alone: other laboratories use the same addresses."""
        table = f"dl{self.tag}"
        sh("nft", "add", "table", "bridge", table)
        sh(
            "nft",
            "add",
            "chain",
            "bridge",
            table,
            hook,
            "{",
            "type",
            "filter",
            "hook",
            hook,
            "priority",
            "0",
            ";",
            "}",
        )
        sh("nft", "add", "rule", "bridge", table, hook, "meta", "ibrname", self.bridge, *rule.split())

    def helper(self, node: Node, *words: str) -> None:
        """A program beside diag on a node."""
        self.helpers.append(subprocess.Popen(
            ["ip", "netns", "exec", node.space, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        ))  # fmt: skip


@contextmanager
def laboratory(count: int, *, ipv6: bool = False) -> Iterator[Lab]:
    """Make the hosts, and remove every trace of them."""
    tag = f"{os.getpid() % 100000:05d}"
    folder = Path(tempfile.mkdtemp(prefix=f"diag-lab-{tag}-"))
    bridge = f"dl{tag}b"
    nodes = []
    for number in range(count):
        address = f"fd77::{number + 1:x}" if ipv6 else f"10.77.0.{number + 1}"
        nodes.append(
            Node(
                number,
                f"dl{tag}n{number}",
                address,
                f"gpu{number}",
                f"dl{tag}v{number}",
                rank=number,
                nnodes=count,
            )
        )
    lab = Lab(tag, nodes, bridge, folder)
    try:
        sh("ip", "link", "add", bridge, "type", "bridge")
        sh("ip", "link", "set", bridge, "up")
        for node in nodes:
            _build(lab, node, ipv6=ipv6)
        for node in nodes:
            node.master = f"[{nodes[0].address}]:{PORT}" if ipv6 else f"{nodes[0].address}:{PORT}"
            node.hosts = {other.hostname: other.address for other in nodes}
        yield lab
    finally:
        _remove(lab)


def _build(lab: Lab, node: Node, *, ipv6: bool) -> None:
    sh("ip", "netns", "add", node.space)
    sh("ip", "link", "add", node.veth, "type", "veth", "peer", "name", "eth0", "netns", node.space)
    sh("ip", "link", "set", node.veth, "master", lab.bridge, "up")
    node.sh("ip", "link", "set", "lo", "up")
    node.sh("ip", "link", "set", "eth0", "up")
    if ipv6:
        node.sh("ip", "address", "add", f"{node.address}/64", "dev", "eth0", "nodad")
    else:
        node.sh("ip", "address", "add", f"{node.address}/24", "dev", "eth0")


def _remove(lab: Lab) -> None:
    """Kill what lives in our namespaces, then the namespaces, cables, bridge and rules."""
    for node in lab.nodes:
        for pid in sh("ip", "netns", "pids", node.space, check=False).split():
            with suppress(ProcessLookupError, ValueError):
                os.kill(int(pid), signal.SIGKILL)
        if node.process is not None:
            node.process.wait(timeout=5)
    for one in lab.helpers:
        one.wait(timeout=5)
    for node in lab.nodes:
        sh("ip", "netns", "del", node.space, check=False)
        sh("ip", "link", "del", node.veth, check=False)
    for space in lab.spaces:
        sh("ip", "netns", "del", space, check=False)
    sh("ip", "link", "del", lab.bridge, check=False)
    sh("nft", "delete", "table", "bridge", f"dl{lab.tag}", check=False)
    shutil.rmtree(lab.folder, ignore_errors=True)


def start(lab: Lab, node: Node, options: Sequence[str]) -> None:
    """Start the real `diag run` on a node, with its own host name and hosts file."""
    hosts = lab.folder / f"hosts{node.number}"
    hosts.write_text(
        "127.0.0.1 localhost\n"
        + "".join(f"{address} {name}\n" for address, name in node.extra_hosts)
        + "".join(f"{address} {name}\n" for name, address in node.hosts.items())
    )
    (lab.folder / "resolv.conf").write_text("")
    only = [word for probe in PROBES for word in ("--only", probe)]
    diag = [
        sys.executable, "-m", "diag.cli.main", "run", "--nnodes", str(node.nnodes), "--node-rank", str(node.rank),
        "--master", node.master, "--out", str(lab.folder / f"out{node.number}"), "--raw", *only, *node.options, *options,
    ]  # fmt: skip
    # A mount namespace for /etc/hosts, a UTS namespace for the name; `exec`, so that diag itself is what we watch.
    script = (
        f"mount --bind {hosts} /etc/hosts && mount --bind {lab.folder / 'resolv.conf'} /etc/resolv.conf && "
        f'hostname {node.hostname} && exec "$@"'
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), **node.env}
    with (lab.folder / f"log{node.number}").open("wb") as log:
        node.process = subprocess.Popen(
            ["ip", "netns", "exec", node.space, "unshare", "--mount", "--uts", "sh", "-c", script, "sh", *diag],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True, cwd=lab.folder,
        )  # fmt: skip
    node.started = time.monotonic()


def run_all(lab: Lab, options: Sequence[str] = ()) -> float:
    """Run every node to its end (or the limit); seconds from the first start to the last end of a node that can end."""
    begin = time.monotonic()
    waiting = sorted((node for node in lab.nodes if not node.absent), key=lambda node: node.delay_s)
    running: list[Node] = []
    frozen: set[int] = set()
    met_s: float | None = None
    while (waiting or running) and time.monotonic() - begin < LIMIT_S + 20:
        now = time.monotonic() - begin
        met_s = now if met_s is None and _measuring(lab) else met_s
        while waiting and waiting[0].delay_s <= now:
            node = waiting.pop(0)
            start(lab, node, options)
            running.append(node)
        for node in list(running):
            assert node.process is not None
            if node.process.poll() is not None:
                node.ended = time.monotonic()
                running.remove(node)
            elif node.number not in frozen and _strikes(node, now, met_s):
                for pid in sh("ip", "netns", "pids", node.space).split():
                    os.kill(int(pid), signal.SIGSTOP if node.freeze_after_s is not None else signal.SIGKILL)
                frozen.add(node.number)
        if running and all(node.number in frozen for node in running) and not waiting:
            break
        time.sleep(0.02)
    ended = [node.ended for node in lab.nodes if node.ended]
    return (max(ended) if ended else time.monotonic()) - begin


def _strikes(node: Node, now: float, met_s: float | None) -> bool:
    """Whether a node's time has come to freeze or die."""
    after = node.freeze_after_s if node.freeze_after_s is not None else node.die_after_s
    return after is not None and met_s is not None and now > met_s + after


def _measuring(lab: Lab) -> bool:
    """True once the master has said that the nodes met."""
    log = lab.folder / "log0"
    return log.exists() and "nodes met" in log.read_text(errors="replace")


def report_of(lab: Lab, node: Node) -> dict[str, Any] | None:
    """The report a node left: the job's for the master."""
    for name in ("report.json", f"report-node{node.rank}.json"):
        path = lab.folder / f"out{node.number}" / name
        if path.exists():
            loaded: dict[str, Any] = json.loads(path.read_text())
            return loaded
    return None


@dataclass(frozen=True)
class Fault:
    """One way to break the lab, and what must be said about it."""

    name: str
    what: str
    inject: Callable[[Lab], None]
    cause: str | None
    """The id that must be named; None: nothing may be."""
    culprit: tuple[str, ...] = ()
    """Host names that must be the culprit (one host, or the two ends of a link); empty: not asked."""
    teller: int = 0
    """The node whose report is judged."""
    probe: str = "link."
    nodes: int | None = None
    ipv6: bool = False
    verdict: str = "fail"
    also: tuple[str, ...] = ()
    """Causes that must be named besides: two faults at once."""
    alone: str | None = None
    """The cause that reports show even if node 0 never ran; None: only that the master is missing may be said."""
    needs: Callable[[], str | None] = lambda: None
    """Why this fault cannot be tried here."""


@dataclass(frozen=True)
class Told:
    """What came of one fault."""

    right: bool
    said: str
    took_s: float = 0.0


def judge(fault: Fault, report: dict[str, Any] | None) -> Told:
    """The cause by diagnosis or, where no playbook has that id yet, by the finding."""
    if report is None:
        return Told(False, "no report")
    told = [
        one
        for one in report["findings"]
        if one["status"] in ("fail", "warn") and one["probe"].startswith(fault.probe)
    ]
    failing = sorted(
        (one for one in told if one["status"] == "fail"), key=lambda one: not one["data"].get("certain", True)
    )
    causes = [str(one["data"].get("cause")) for one in failing]
    roots = [one["id"] for one in report["diagnoses"] if one["role"] == "root"]
    said = "; ".join(one["summary"] for one in failing or told)[:300] or "nothing"
    if fault.cause is None:
        fine = report["verdict"] in ("ok", "warn") if fault.verdict == "warn" else not told
        named = not fault.culprit or any(fault.culprit[0] in one["summary"] for one in told)
        return Told(fine and named, said)
    mine = [one["data"] for one in failing if one["data"].get("cause") == fault.cause]
    culprits = {str(data["host"]) for data in mine if data.get("host")}
    culprits = culprits or {str(end) for data in mine for end in data.get("link", ())}
    right = report["verdict"] == "fail" and fault.cause in (roots or causes[:1])
    named = [one["id"] for one in report["diagnoses"] if one["role"] != "echo"]
    right = right and all(one in named for one in fault.also)
    right = right and (not fault.culprit or culprits == set(fault.culprit))
    return Told(right, said)


def judge_apart(fault: Fault, report: dict[str, Any] | None, cause: str | None) -> Told:
    """By the diagnoses of the joined reports: `cause` leads, or is among the roots; where None, no other cause may be named."""
    if report is None:
        return Told(False, "no report")
    roots = [one for one in report["diagnoses"] if one["role"] != "echo" and one["strength"] != "possible"]
    said = "; ".join(f"{one['id']} ({_whom(one['culprit'])})" for one in roots) or "nothing"
    if cause is None:
        return Told(not roots, said)
    mine = [one["culprit"] for one in roots if one["id"] == cause]
    whom = {
        str(end)
        for culprit in mine
        for end in ([culprit["host"]] if culprit["host"] else culprit["link"] or ())
    }
    right = (
        bool(mine)
        and (not fault.culprit or whom <= set(fault.culprit))
        and all(one in [root["id"] for root in roots] for one in fault.also)
    )
    return Told(right, said)


def _whom(culprit: dict[str, Any]) -> str:
    return str(culprit["host"] or " - ".join(map(str, culprit["link"] or ())) or "nobody named")


def explain(lab: Lab, numbers: Sequence[int]) -> dict[str, Any] | None:
    """`diag explain` over the nodes' own reports, never the job's."""
    paths = [lab.folder / f"out{number}" / f"report-node{lab.nodes[number].rank}.json" for number in numbers]
    there = [str(path) for path in paths if path.exists()]
    if not there:
        return None
    done = subprocess.run(
        [sys.executable, "-m", "diag.cli.main", "explain", "--json", "--raw", "--quiet", *there],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=lab.folder,
    )  # fmt: skip
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def run_fault(fault: Fault, count: int, keep: Path | None = None, options: Sequence[str] = ()) -> Told:
    """Build, break, run, judge, remove."""
    with laboratory(fault.nodes or count, ipv6=fault.ipv6) as lab:
        return _run(lab, fault, keep, options)


def _run(lab: Lab, fault: Fault, keep: Path | None, options: Sequence[str]) -> Told:
    fault.inject(lab)
    took = run_all(lab, options)
    told = judge(fault, report_of(lab, lab.nodes[fault.teller]))
    right, said = told.right, told.said
    without = [node.hostname for node in lab.nodes if not node.absent and report_of(lab, node) is None]
    if without:
        right, said = False, f"no report on {', '.join(without)}; {said}"
    left = [pid for node in lab.nodes for pid in sh("ip", "netns", "pids", node.space).split() if _alive(pid)]
    helpers = {str(one.pid) for one in lab.helpers}
    stopped = any(node.freeze_after_s is not None for node in lab.nodes)
    if set(left) - helpers and not stopped:
        right, said = False, f"{len(left)} processes left behind; {said}"
    if took > LIMIT_S:
        right, said = False, f"took {took:.0f} s; {said}"
    if keep is not None:
        shutil.copytree(lab.folder, keep / fault.name, dirs_exist_ok=True)
    return Told(right, said, took)


def _alive(pid: str) -> bool:
    """A process that was killed and not collected yet is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] not in ("Z", "X")
    return False


def run_apart(fault: Fault, count: int, keep: Path | None) -> list[Told]:
    """The fault through separate reports: all nodes' own ones; those without the master's; and where node 0 never ran."""
    with laboratory(fault.nodes or count, ipv6=fault.ipv6) as lab:
        _run(lab, fault, keep, ())
        everybody = [node.number for node in lab.nodes if not node.absent]
        cause = fault.cause
        result = [
            judge_apart(fault, explain(lab, everybody), cause),
            judge_apart(fault, explain(lab, [n for n in everybody if n]), cause),
        ]
    with laboratory(fault.nodes or count, ipv6=fault.ipv6) as lab:
        fault.inject(lab)
        lab.nodes[0].absent = True
        run_all(lab, ("--wait", "6"))
        report = explain(lab, [node.number for node in lab.nodes if not node.absent])
        result.append(_masterless(fault, report))
    return result


def _masterless(fault: Fault, report: dict[str, Any] | None) -> Told:
    """That nobody reaches the master must be said; of the fault, what the evidence shows; and nothing else."""
    told = judge_apart(fault, report, fault.alone)
    if fault.alone is not None or report is None:
        return told
    roots = {
        one["id"] for one in report["diagnoses"] if one["role"] == "root" and one["strength"] != "possible"
    }
    return Told(
        bool(roots) and roots <= {"network-unreachable", "rendezvous-timeout", "port-in-use"}, told.said
    )


def curve(counts: Sequence[int]) -> None:
    """Seconds of healthy jobs of several sizes, each the better of two."""
    print("| nodes | seconds |\n| --- | --- |")
    for count in counts:
        times = []
        for _ in range(2):
            with laboratory(count) as lab:
                times.append(run_all(lab))
        print(f"| {count} | {min(times):.1f} |", flush=True)


def main() -> int:
    """Run faults and print the table."""
    sys.path.insert(0, str(Path(__file__).parent))
    from lab_faults import FAULTS  # beside this script

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fault", action="append", help="only this one; may be given again")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--list", action="store_true")
    parser.add_argument(
        "--apart", action="store_true", help="judge what the nodes' separate reports tell together"
    )
    parser.add_argument("--curve", action="store_true", help="time healthy jobs of 1, 2, 4 and 8 nodes")
    parser.add_argument("--keep-logs", type=Path, help="copy what each node wrote to this folder")
    asked = parser.parse_args()
    if asked.list:
        for fault in FAULTS:
            print(f"{fault.name:24} {fault.what}")
        return 0
    why_not = needs()
    if why_not:
        print(f"the laboratory {why_not}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if asked.curve:
        curve((1, 2, 4, 8))
        return 0
    chosen = [fault for fault in FAULTS if not asked.fault or fault.name in asked.fault]
    if not chosen:
        print("no such fault; --list", file=sys.stderr)
        return 2
    return (
        table_apart(chosen, asked.nodes, asked.keep_logs)
        if asked.apart
        else table(chosen, asked.nodes, asked.keep_logs)
    )


def table(chosen: Sequence[Fault], nodes: int, keep: Path | None) -> int:
    """Fault, said, right or wrong, seconds."""
    wrong = skipped = 0
    print("| fault | said | right | seconds |\n| --- | --- | --- | --- |")
    for fault in chosen:
        why_not = fault.needs()
        if why_not:
            skipped += 1
            print(f"| {fault.name} | not tried: {why_not} | | |", flush=True)
            continue
        told = run_fault(fault, nodes, keep)
        wrong += not told.right
        print(
            f"| {fault.name} | {_cell(told.said)} | {'right' if told.right else 'WRONG'} | {told.took_s:.1f} |",
            flush=True,
        )
    print(
        f"\n{len(chosen) - wrong - skipped} of {len(chosen) - skipped} right, {skipped} not tried",
        file=sys.stderr,
    )
    return 1 if wrong else 0


def table_apart(chosen: Sequence[Fault], nodes: int, keep: Path | None) -> int:
    """Fault, and what three sets of separate reports say."""
    wrong = 0
    print(
        "| fault | the nodes' own reports | without the master's | node 0 never ran |\n| --- | --- | --- | --- |"
    )
    for fault in chosen:
        if fault.needs():
            continue
        every = run_apart(fault, nodes, keep)
        wrong += sum(not one.right for one in every)
        cells = (f"{_cell(one.said)[:110]}: {'right' if one.right else 'WRONG'}" for one in every)
        print(f"| {fault.name} | {' | '.join(cells)} |", flush=True)
    print(f"\n{wrong} answers wrong", file=sys.stderr)
    return 1 if wrong else 0


def _cell(text: str) -> str:
    return text.replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())
