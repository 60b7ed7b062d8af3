"""The laboratory's hosts: network namespaces on a bridge, each with its own host name and hosts file, running the real `diag run`.

Every name carries this run's number and is removed at the end, also on Ctrl-C. The namespaces use addresses of their own
(10.77.0.0/24, fd77::/64) that nobody else can see; rules name this run's cables, so that several laboratories live side by side.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
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
    after: int | None = None
    """Started a second after that node began to look for the others, however long its own start took."""
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
        sh("nft", "add", "rule", "bridge", table, hook, "iifname", f"dl{self.tag}v*", *rule.split())

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
        for node in [one for one in waiting if one.after is not None and _meeting(lab, one.after)]:
            node.delay_s, node.after = now + 1.0, None
        while ready := [one for one in waiting if one.delay_s <= now and one.after is None]:
            node = ready[0]
            waiting.remove(node)
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


def _meeting(lab: Lab, number: int) -> bool:
    """True once a node has said that it looks for the others."""
    log = lab.folder / f"log{number}"
    return log.exists() and "meeting the others" in log.read_text(errors="replace")


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
