"""Ways to break the link laboratory, each for real."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from lab_hosts import PORT, Lab, Node, sh

LAST = -1


def nothing(lab: Lab) -> None:
    """Leave all as it is."""


def missing(lab: Lab) -> None:
    lab.nodes[LAST].absent = True


def late(lab: Lab) -> None:
    lab.nodes[LAST].delay_s = 8.0


def master_dropped(lab: Lab) -> None:
    lab.drop(f"ip saddr {lab.nodes[2].address} ip daddr {lab.nodes[0].address} tcp dport {PORT} drop")


def master_refused(lab: Lab) -> None:
    node = lab.nodes[0]
    node.sh("nft", "add", "table", "inet", "lab")
    node.sh(
        "nft",
        "add",
        "chain",
        "inet",
        "lab",
        "input",
        "{",
        "type",
        "filter",
        "hook",
        "input",
        "priority",
        "0",
        ";",
        "}",
    )
    node.sh("nft", "add", "rule", "inet", "lab", "input", "ip", "saddr", lab.nodes[2].address, "tcp", "dport", str(PORT),
            "reject", "with", "tcp", "reset")  # fmt: skip


def link_both(lab: Lab) -> None:
    a, b = lab.nodes[1].address, lab.nodes[2].address
    lab.drop(f"ip saddr {a} ip daddr {b} drop")
    lab.drop(f"ip saddr {b} ip daddr {a} drop")


def link_one_way(lab: Lab) -> None:
    lab.drop(f"ip saddr {lab.nodes[1].address} ip daddr {lab.nodes[2].address} drop")


def connects_one_way(lab: Lab) -> None:
    lab.drop(
        f"ip saddr {lab.nodes[1].address} ip daddr {lab.nodes[2].address} tcp flags & (syn | ack) == syn drop"
    )


def ephemeral(lab: Lab) -> None:
    lab.drop(f"ip protocol tcp tcp dport != {PORT} tcp flags & (syn | ack) == syn drop")


def ephemeral_one(lab: Lab) -> None:
    lab.drop(f"ip daddr {lab.nodes[2].address} tcp dport != {PORT} tcp flags & (syn | ack) == syn drop")


def isolated(lab: Lab) -> None:
    """Only the way to the master's port is open."""
    node, master = lab.nodes[2].address, lab.nodes[0].address
    for ends in (f"ip saddr {node} ip daddr {master} tcp dport {PORT} accept", f"ip saddr {master} ip daddr {node} tcp sport {PORT} accept",
                 f"ip saddr {node} drop", f"ip daddr {node} drop"):  # fmt: skip
        lab.drop(ends)


def groups(lab: Lab) -> None:
    """{0, 1} and {2, 3}: only the master's port is open between them."""
    half = len(lab.nodes) // 2
    master = lab.nodes[0].address
    lab.drop(f"ip daddr {master} tcp dport {PORT} accept")
    lab.drop(f"ip saddr {master} tcp sport {PORT} accept")
    for a in lab.nodes[:half]:
        for b in lab.nodes[half:]:
            lab.drop(f"ip saddr {a.address} ip daddr {b.address} drop")
            lab.drop(f"ip saddr {b.address} ip daddr {a.address} drop")


def loss(percent: int):  # type: ignore[no-untyped-def]
    def inject(lab: Lab) -> None:
        lab.drop(f"ip daddr {lab.nodes[2].address} numgen random mod 100 < {percent} drop")

    return inject


def black_hole(lab: Lab) -> None:
    """Packets above 1400 bytes to and from node 2 vanish without an ICMP message."""
    for side in ("saddr", "daddr"):
        lab.drop(f"ip {side} {lab.nodes[2].address} ip length > 1400 drop")


def other_mtu(lab: Lab) -> None:
    lab.nodes[2].sh("ip", "link", "set", "eth0", "mtu", "1400")


def slow(lab: Lab) -> None:
    tbf = ("root", "tbf", "rate", "10mbit", "burst", "16kb", "latency", "50ms")
    lab.nodes[2].sh("tc", "qdisc", "add", "dev", "eth0", *tbf)
    sh("tc", "qdisc", "add", "dev", lab.nodes[2].veth, *tbf)


def docker0(lab: Lab) -> None:
    for node in lab.nodes:
        node.sh("ip", "link", "add", "docker0", "type", "bridge")
        node.sh("ip", "address", "add", "172.17.0.1/16", "dev", "docker0")
        node.sh("ip", "link", "set", "docker0", "up")
        node.env = {"NCCL_SOCKET_IFNAME": "docker0", "GLOO_SOCKET_IFNAME": "docker0"}


def own_name_loopback(lab: Lab) -> None:
    lab.nodes[2].hosts = {**lab.nodes[2].hosts, lab.nodes[2].hostname: "127.0.1.1"}


def master_unresolved(lab: Lab) -> None:
    for node in lab.nodes:
        node.master = f"gpu0:{PORT}"
    lab.nodes[2].hosts = {name: address for name, address in lab.nodes[2].hosts.items() if name != "gpu0"}


def same_address(lab: Lab) -> None:
    node = lab.nodes[2]
    node.sh("ip", "address", "flush", "dev", "eth0")
    node.sh("ip", "address", "add", f"{lab.nodes[1].address}/24", "dev", "eth0")
    node.hosts = {**node.hosts, node.hostname: lab.nodes[1].address}


def same_name(lab: Lab) -> None:
    lab.nodes[2].hostname = "gpu1"


def wrong_master(lab: Lab) -> None:
    lab.nodes[2].master = f"{lab.nodes[1].address}:{PORT}"


def wrong_master_nobody(lab: Lab) -> None:
    lab.nodes[2].master = f"10.77.0.200:{PORT}"


def wrong_world(lab: Lab) -> None:
    lab.nodes[2].nnodes += 1


def rank_twice(lab: Lab) -> None:
    lab.nodes[2].rank = 1
    lab.nodes[2].after = 1  # who comes second is the one too many


def port_taken(lab: Lab) -> None:
    lab.helper(lab.nodes[0], sys.executable, "-m", "http.server", str(PORT), "--directory", str(lab.folder))


def freezes(lab: Lab) -> None:
    lab.nodes[2].freeze_after_s = 0.5


def clock_off(lab: Lab) -> None:
    """A library that adds ten minutes to what the C library says of the time."""
    source, library = lab.folder / "clock.c", lab.folder / "clock.so"
    source.write_text(
        "#define _GNU_SOURCE\n#include <time.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n"
        "int clock_gettime(clockid_t id, struct timespec *t) {\n"
        "  int r = syscall(SYS_clock_gettime, id, t);\n  if (r == 0 && id == CLOCK_REALTIME) t->tv_sec += 600;\n  return r;\n}\n"
    )
    sh("cc", "-shared", "-fPIC", "-o", str(library), str(source))
    lab.nodes[2].env = {"LD_PRELOAD": str(library)}


def other_versions(lab: Lab) -> None:
    """An interpreter of the launch with another torch on node 2."""
    for node in lab.nodes:
        version = "2.6.0" if node.number == 2 else "2.13.0"
        home = lab.folder / f"venv{node.number}"
        site = (
            home
            / "lib"
            / f"python3.{sys.version_info.minor}"
            / "site-packages"
            / f"torch-{version}.dist-info"
        )
        site.mkdir(parents=True)
        (site / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        (home / "bin").mkdir()
        base = Path(sys.executable).resolve()
        (home / "bin" / "python").symlink_to(base)
        (home / "pyvenv.cfg").write_text(f"home = {base.parent}\nversion = 3.{sys.version_info.minor}\n")
        node.options = ("--python", str(home / "bin" / "python"))


def side_channel(lab: Lab) -> None:
    """NIXL's metadata port (vLLM's default) is blocked towards node 2; everything else is open."""
    for node in lab.nodes:
        node.env = {"VLLM_NIXL_SIDE_CHANNEL_PORT": "5600"}
    lab.drop(f"ip daddr {lab.nodes[2].address} tcp dport 5600 drop")


def side_channel_local(lab: Lab) -> None:
    """A launch's own listener, bound to loopback as vLLM's default host does."""
    for node in lab.nodes:
        node.env = {"VLLM_NIXL_SIDE_CHANNEL_PORT": "5600"}
    code = "import socket, time; s = socket.create_server(('127.0.0.1', 5600)); time.sleep(90)"
    lab.helper(lab.nodes[2], sys.executable, "-c", code)


def nixl_python() -> str | None:
    """An interpreter with nixl: DIAG_LAB_PYTHON, else our own."""
    named = os.environ.get("DIAG_LAB_PYTHON")
    if named:
        return named
    there = any(importlib.util.find_spec(name) for name in ("nixl", "nixl_cu12", "nixl_cu13"))
    return sys.executable if there else None


def no_nixl() -> str | None:
    return None if nixl_python() else "no interpreter with nixl (DIAG_LAB_PYTHON=/path/to/python)"


def no_torch() -> str | None:
    return None if importlib.util.find_spec("torch") else "no torch beside diag"


def _with_nixl(lab: Lab) -> None:
    # One machine plays all hosts: without UCX_TLS the agents would find shared memory.
    for node in lab.nodes:
        node.options = ("--only", "link.nixl", "--python", str(nixl_python()))
        node.env = {"UCX_TLS": "tcp,self"}


def nixl_healthy(lab: Lab) -> None:
    _with_nixl(lab)


def nixl_device(lab: Lab) -> None:
    """UCX on node 2 is bound to a bridge that nobody reaches."""
    _with_nixl(lab)
    node = lab.nodes[2]
    _bridge(node, "docker0", "172.17.0.1/16")
    node.env = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "docker0"}


def nixl_ports(lab: Lab) -> None:
    """All of diag's own connections pass; data of NIXL's connections from node 1 to node 2 does not: a deep filter."""
    _with_nixl(lab)
    low, high = (lab.nodes[2].sh("cat", "/proc/sys/net/ipv4/ip_local_port_range")).split()
    lab.nodes[2].env |= {"UCX_TCP_PORT_RANGE": "20000-20100"}
    lab.drop(f"ip daddr {lab.nodes[2].address} tcp dport 20000-20100 drop")
    lab.drop(f"ip saddr {lab.nodes[2].address} tcp sport 20000-20100 drop")
    assert not int(low) <= 20000 <= int(high)


def _bridge(node: Node, name: str, address: str) -> None:
    node.sh("ip", "link", "add", name, "type", "bridge")
    node.sh("ip", "address", "add", address, "dev", name)
    node.sh("ip", "link", "set", name, "up")


def _with_gloo(lab: Lab) -> None:
    for node in lab.nodes:
        node.options = ("--only", "link.all-reduce", "--python", sys.executable)


def gloo_healthy(lab: Lab) -> None:
    _with_gloo(lab)


def gloo_interface(lab: Lab) -> None:
    """A link on every node that leads nowhere, and Gloo told to use it: an address of its own on each, so no loopback trap."""
    _with_gloo(lab)
    for node in lab.nodes:
        _bridge(node, "br-data", f"10.99.{node.number}.1/24")
        node.env = {"GLOO_SOCKET_IFNAME": "br-data"}


def port_range(lab: Lab) -> None:
    """A firewall in front of node 2 passes only the upper part of the ephemeral ports."""
    low, high = map(int, lab.nodes[2].sh("cat", "/proc/sys/net/ipv4/ip_local_port_range").split())
    lab.drop(
        f"ip daddr {lab.nodes[2].address} tcp dport {low}-{(low + high) // 2} tcp flags & (syn | ack) == syn drop"
    )


def dies(lab: Lab) -> None:
    lab.nodes[2].die_after_s = 0.6


def master_dies(lab: Lab) -> None:
    lab.nodes[0].die_after_s = 0.6


def master_freezes(lab: Lab) -> None:
    lab.nodes[0].freeze_after_s = 0.6


def all_loopback(lab: Lab) -> None:
    """hostNetwork pods whose hosts file gives every own name as 127.0.0.1."""
    for node in lab.nodes:
        node.hosts = {**node.hosts, node.hostname: "127.0.0.1"}


def other_dns(lab: Lab) -> None:
    """The master's name leads node 2 to node 1."""
    for node in lab.nodes:
        node.master = f"gpu0:{PORT}"
    lab.nodes[2].hosts = {**lab.nodes[2].hosts, "gpu0": lab.nodes[1].address}


def proxies(lab: Lab) -> None:
    """Proxy variables that lead nowhere: connections between nodes must not care."""
    for node in lab.nodes:
        node.env = dict.fromkeys(
            ("http_proxy", "https_proxy", "HTTP_PROXY", "all_proxy"), "http://10.77.0.250:3128"
        )


def tiny_mtu(lab: Lab) -> None:
    lab.nodes[2].sh("ip", "link", "set", "eth0", "mtu", "600")


def second_address(lab: Lab) -> None:
    """Node 2 has a second interface that leads nowhere, and NCCL is told to take it."""
    node = lab.nodes[2]
    _bridge(node, "stor0", "10.88.0.3/24")
    node.env = {"NCCL_SOCKET_IFNAME": "stor0"}


def second_master_address(lab: Lab) -> None:
    """The master's name has two addresses; the first leads nowhere (tcp: dropped), the second works."""
    for node in lab.nodes:
        node.master = f"gpu0:{PORT}"
        node.extra_hosts = [("10.77.0.199", "gpu0")]


def translated(lab: Lab) -> None:
    """Node 2 is a container on a bridge of its own, its address translated on the way out: no host network."""
    node = lab.nodes[2]
    host = f"dl{lab.tag}h"
    lab.spaces.append(host)
    sh("ip", "netns", "add", host)
    sh("ip", "link", "set", node.veth, "nomaster")
    node.sh("ip", "link", "del", "eth0")
    sh("ip", "link", "add", node.veth, "type", "veth", "peer", "name", "eth0", "netns", host)
    sh("ip", "link", "set", node.veth, "master", lab.bridge, "up")
    inside = ("ip", "netns", "exec", host)
    sh(*inside, "ip", "link", "add", "c0", "type", "veth", "peer", "name", "eth0", "netns", node.space)
    for name, address in (("eth0", f"{node.address}/24"), ("c0", "172.18.0.1/24")):
        sh(*inside, "ip", "address", "add", address, "dev", name)
        sh(*inside, "ip", "link", "set", name, "up")
    sh(*inside, "ip", "link", "set", "lo", "up")
    sh(*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    node.sh("ip", "address", "add", "172.18.0.2/24", "dev", "eth0")
    node.sh("ip", "link", "set", "eth0", "up")
    node.sh("ip", "route", "add", "default", "via", "172.18.0.1")
    node.hosts = {**node.hosts, node.hostname: "172.18.0.2"}
    sh(
        *inside,
        "nft",
        "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100 ; }; add rule ip nat post oif eth0 masquerade",
    )


def dead_and_other_version(lab: Lab) -> None:
    other_versions(lab)
    a, b = lab.nodes[1].address, lab.nodes[3].address
    lab.drop(f"ip saddr {a} ip daddr {b} drop")
    lab.drop(f"ip saddr {b} ip daddr {a} drop")


def slow_and_black_hole(lab: Lab) -> None:
    slow(lab)
    for side in ("saddr", "daddr"):
        lab.drop(f"ip {side} {lab.nodes[3].address} ip length > 1400 drop")


def many_missing(lab: Lab) -> None:
    for node in lab.nodes:
        node.nnodes = 256
