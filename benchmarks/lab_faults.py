"""The faults of the link laboratory: each breaks the running thing for real and says what must be told."""

from __future__ import annotations

import sys
from pathlib import Path

from lab_links import PORT, Fault, Lab

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
    from lab_links import sh

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
    lab.nodes[2].delay_s = 1.0


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
    from lab_links import sh

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


FAULTS = (
    Fault("healthy", "everything works", nothing, None),
    Fault("healthy-ipv6", "an IPv6-only pair", nothing, None, nodes=2, ipv6=True),
    Fault("node-missing", "the last node is never started", missing, "rendezvous-timeout"),
    Fault("node-late", "the last node comes 8 s late", late, None),
    Fault("master-port-dropped", "node 2's packets to the master's port vanish", master_dropped, "network-unreachable", ("gpu2",), teller=2),
    Fault("master-port-refused", "the master's firewall rejects node 2", master_refused, "network-unreachable", ("gpu2",), teller=2),
    Fault("link-dead", "nothing passes between nodes 1 and 2", link_both, "network-unreachable", ("gpu1", "gpu2")),
    Fault("link-one-way", "packets from node 1 to node 2 vanish", link_one_way, "network-unreachable", ("gpu1", "gpu2")),
    Fault("connects-one-way", "node 1 cannot open connections to node 2", connects_one_way, "network-unreachable", ("gpu1", "gpu2")),
    Fault("ephemeral-ports", "only the rendezvous port is open", ephemeral, "network-unreachable"),
    Fault("ephemeral-ports-one", "only the rendezvous port of node 2 is open", ephemeral_one, "network-unreachable", ("gpu2",)),
    Fault("node-isolated", "node 2 reaches the master's port only", isolated, "network-unreachable", ("gpu2",)),
    Fault("two-groups", "two halves cannot reach each other", groups, "network-unreachable"),
    Fault("loss-5", "node 2 loses 5 % of what it is sent", loss(5), "slow-link", ("gpu2",)),
    Fault("loss-30", "node 2 loses 30 % of what it is sent", loss(30), "slow-link", ("gpu2",)),
    Fault("mtu-black-hole", "packets above 1400 bytes to and from node 2 vanish", black_hole, "mtu-mismatch", ("gpu2",)),
    Fault("mtu-other", "node 2's interface has MTU 1400", other_mtu, "mtu-mismatch", ("gpu2",)),
    Fault("slow-nic", "node 2's NIC carries 10 Mbit/s", slow, "slow-link", ("gpu2",)),
    Fault("docker0", "docker0, the same on all nodes, is chosen", docker0, "nccl-wrong-interface"),
    Fault("own-name-loopback", "node 2's own name is 127.0.1.1", own_name_loopback, "host-ip-wrong", ("gpu2",)),
    Fault("master-unresolved", "the master's name does not resolve on node 2", master_unresolved, "dns-failure", ("gpu2",), teller=2),
    Fault("same-address", "node 2 has node 1's address", same_address, "host-ip-wrong", teller=2),
    Fault("same-name", "node 2 is also called gpu1", same_name, "hostname-collision", ("gpu1",)),
    Fault("wrong-master", "node 2 takes node 1 for the master", wrong_master, "rendezvous-timeout", ("gpu2",)),
    Fault("wrong-master-nobody", "node 2's master address belongs to nobody", wrong_master_nobody, "rendezvous-timeout", ("gpu2",), teller=2),
    Fault("wrong-world-size", "node 2 believes in one node more", wrong_world, "launcher-layout", ("gpu2",)),
    Fault("rank-twice", "nodes 1 and 2 are both node 1", rank_twice, "launcher-layout", ("gpu2",)),
    Fault("port-taken", "another program listens on the master's port", port_taken, "port-in-use", ("gpu0",)),
    Fault("node-freezes", "node 2 is stopped in the middle", freezes, "rendezvous-timeout", ("gpu2",)),
    Fault("clock-off", "node 2's clock is ten minutes ahead", clock_off, None, ("gpu2",), verdict="warn"),
    Fault("other-versions", "node 2 has another torch", other_versions, "version-skew", ("gpu2",)),
)  # fmt: skip
