"""A node whose own name means 127.0.1.1 tells its peers to connect to themselves.

Gloo and torch's store advertise what the own host name resolves to; Debian's installer writes 127.0.1.1 into /etc/hosts and
Kubernetes pods with hostNetwork get only a loopback line. A name server that does not answer costs seconds per look-up and
shows as a slow start; a master address that does not resolve never becomes a rendezvous.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import time
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import listed
from diag.system import Root
from diag.system.jobs import find_job, spans_nodes
from diag.system.processes import read_environment, within

ID = "net.hostname"
RESOLVE_S = 2.0
DNS_S = 1.0
"""A name server on the same site answers in milliseconds; resolv.conf(5) waits 5 s by default, and asks twice."""
MASTER = ("MASTER_ADDR", "VLLM_HOST_IP", "HOST_IP", "SGLANG_HOST_IP", "VLLM_NIXL_SIDE_CHANNEL_HOST")


def collect(setup: Setup) -> Facts:
    """Resolve our own name and the launch's addresses; ask each name server for the root, which any server answers."""
    environments = [("this shell", dict(setup.env))]
    for member in find_job(setup.root):
        if member.computes and _same_place(setup.root, member.process.pid):
            environments.append((member.label, read_environment(setup.root, member.process.pid) or {}))
    name = socket.gethostname()
    named: dict[str, dict[str, Any]] = {}
    for who, env in environments:
        for variable in MASTER:
            value = env.get(variable, "")
            if value and len(named) < 8 and f"{variable}={value}" not in named:
                named[f"{variable}={value}"] = {
                    "variable": variable, "value": value, "who": who, "many_nodes": spans_nodes(env), **_resolve(value),
                }  # fmt: skip
    hosts = (setup.root.read("/etc/hosts") or "").splitlines()
    servers = re.findall(r"^nameserver\s+(\S+)", setup.root.read("/etc/resolv.conf") or "", re.M)
    return {
        "hostname": name, "own": _resolve(name), "addresses": _own_addresses(), "named": list(named.values()),
        "hosts_lines": [line for line in hosts if name in line.partition("#")[0].split()[1:]],
        "dns": [_ask(server) for server in servers[:3]],
    }  # fmt: skip


def _same_place(root: Root, pid: int) -> bool:
    """False for a rank in a container: it has another name, other addresses and its own /etc/hosts."""
    return all(
        root.link(f"/proc/{pid}/ns/{kind}") in (None, root.link(f"/proc/self/ns/{kind}"))
        for kind in ("net", "uts", "mnt")
    )


def _resolve(name: str) -> dict[str, Any]:
    """Addresses of a name as getaddrinfo sees them, with the time it took."""
    begin = time.monotonic()

    def ask() -> list[str] | str:
        try:
            return sorted(
                {
                    str(row[4][0])
                    for row in socket.getaddrinfo(name.strip("[]"), None, type=socket.SOCK_STREAM)
                }
            )
        except (OSError, UnicodeError) as error:
            return str(error)

    answered, result = within(RESOLVE_S, ask)
    failed = isinstance(result, str)
    return {
        "answered": answered, "resolved": [] if failed or result is None else result,
        "error": result if failed else None, "took_s": round(time.monotonic() - begin, 3),
    }  # fmt: skip


def _own_addresses() -> list[str]:
    import psutil

    families = ("AF_INET", "AF_INET6")
    rows = (row for rows in psutil.net_if_addrs().values() for row in rows)
    return [row.address.split("%")[0] for row in rows if row.family.name in families]


def _ask(server: str) -> dict[str, Any]:
    """Send one query for the root's name servers (RFC 1035); any reply, refusals too, shows a living server."""
    query = os.urandom(2) + b"\x01\x00\x00\x01\0\0\0\0\0\0" + b"\0" + b"\0\x02\0\x01"
    begin = time.monotonic()
    try:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as channel:
            channel.settimeout(DNS_S)
            channel.connect((server, 53))
            channel.send(query)
            channel.recv(512)
    except OSError as error:
        return {"server": server, "answered": False, "error": str(error)}
    return {"server": server, "answered": True, "took_s": round(time.monotonic() - begin, 3)}


def judge(facts: Facts) -> list[Finding]:
    """Own name, name servers, the launch's addresses, and the address families there."""
    found = [_judge_own(facts), *_judge_named(facts)]
    silent = [one["server"] for one in facts["dns"] if not one["answered"]]
    if silent:
        every = len(silent) == len(facts["dns"])
        text = f"name server {listed(silent)} does not answer within {DNS_S:.0f} s" + (
            ": names outside /etc/hosts do not resolve" if every else ": each look-up may wait for it first"
        )
        found.append(finding(ID, Status.WARN, text, subject="DNS", cause="dns-failure", servers=facts["dns"]))
    elif facts["dns"]:
        text = f"name server {listed(one['server'] for one in facts['dns'])} answers"
        found.append(finding(ID, Status.OK, text, subject="DNS"))
    else:
        text = "no name server is configured: only names in /etc/hosts resolve"
        found.append(finding(ID, Status.SKIP, text, subject="DNS", reason=Reason.NOT_APPLICABLE))
    usable = [address for address in facts["addresses"] if not _local(address)]
    if usable and all(":" in address for address in usable):
        text = "only IPv6 addresses on this node: addresses need brackets, and some engines only try IPv4"
        found.append(finding(ID, Status.WARN, text, subject="IPv6", addresses=usable))
    return found


def _judge_own(facts: Facts) -> Finding:
    name, own = facts["hostname"], facts["own"]
    usable = [address for address in facts["addresses"] if not _local(address)]
    advice = f"give it the node's address in /etc/hosts ({usable[0]} {name})" if usable else "fix /etc/hosts"
    data = {"hostname": name, "resolved": own["resolved"], "addresses": usable, "remedy": advice}
    if not own["answered"]:
        text = f"resolving the own name {name} took more than {RESOLVE_S:.0f} s: every rank waits for that at its start"
        return finding(ID, Status.WARN, text, subject=name, cause="dns-failure", **data)
    if not own["resolved"]:
        text = f"the own name {name} does not resolve ({own['error']}): Gloo then falls back to loopback; {advice}"
        return finding(ID, Status.WARN, text, subject=name, cause="dns-failure", **data)
    if all(_local(address) for address in own["resolved"]):
        text = (
            f"the own name {name} resolves to {listed(own['resolved'])} only: Gloo and stores on other nodes are told "
            f"to connect to themselves; {advice} or set GLOO_SOCKET_IFNAME"
        )
        return finding(ID, Status.WARN, text, subject=name, cause="host-ip-wrong", **data)
    foreign = [
        address for address in own["resolved"] if not _local(address) and address not in facts["addresses"]
    ]
    if foreign:
        text = f"the own name {name} resolves to {listed(foreign)}, which is no address of this node: peers connect elsewhere"
        return finding(ID, Status.WARN, text, subject=name, cause="host-ip-wrong", **data)
    return finding(
        ID, Status.OK, f"the own name {name} resolves to {listed(own['resolved'])}", subject=name, **data
    )


def _judge_named(facts: Facts) -> list[Finding]:
    found = []
    for one in facts["named"]:
        subject, data = (
            f"{one['variable']} of {one['who']}",
            {"value": one["value"], "resolved": one["resolved"]},
        )
        if not one["resolved"]:
            why = one["error"] or f"no answer within {RESOLVE_S:.0f} s"
            text = f"{one['variable']}={one['value']} does not resolve ({why}): this node cannot join"
            found.append(finding(ID, Status.FAIL, text, subject=subject, cause="dns-failure", **data))
        elif one["many_nodes"] and all(_local(address) for address in one["resolved"]):
            text = f"{one['variable']}={one['value']} is loopback in a job of several nodes: the others cannot reach it"
            found.append(finding(ID, Status.FAIL, text, subject=subject, cause="host-ip-wrong", **data))
        elif one["variable"] != "MASTER_ADDR" and not any(
            _ours(address, facts) for address in one["resolved"]
        ):
            text = (
                f"{one['variable']}={one['value']} is no address of this node; it has to differ on every node"
            )
            found.append(finding(ID, Status.FAIL, text, subject=subject, cause="host-ip-wrong", **data))
    return found


def _ours(address: str, facts: Facts) -> bool:
    return address in facts["addresses"] or _local(address) or address in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


def _local(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    except ValueError:
        return False
    return parsed.is_loopback or parsed.is_link_local


PROBE = Probe(ID, "Host name, DNS, advertised addresses", collect, judge, timeout_s=8.0, section="network")
