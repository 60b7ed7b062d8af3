"""Which interface NCCL, Gloo and UCX would really take, and whether a peer on another node could reach it.

NCCL (src/misc/socket.cc, findInterfaces): NCCL_SOCKET_IFNAME is a list of prefixes, `=` makes it exact, `^` excludes; only
interfaces that run and carry an address count; unset it takes ib*, else whatever is not docker*, lo*, virbr*, else docker*,
else lo. The bootstrap uses the first match, IPv4 addresses in kernel order before IPv6. Gloo (torch): GLOO_SOCKET_IFNAME
holds exact names, else the address of the own host name. UCX: UCX_NET_DEVICES holds devices (`mlx5_0:1`, `eth0`) or `all`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import listed
from diag.system import Root
from diag.system.interfaces import LOCAL_ONLY, nccl_candidates, read_interface
from diag.system.jobs import find_job, spans_nodes
from diag.system.processes import read_environment

ID = "net.interfaces"
VARIABLES = (
    "NCCL_SOCKET_IFNAME", "NCCL_SOCKET_FAMILY", "NCCL_IB_HCA", "NCCL_IB_DISABLE", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME",
    "UCX_NET_DEVICES", "NCCL_COMM_ID",
)  # fmt: skip


def collect(setup: Setup) -> Facts:
    """Interfaces with state, MTU and addresses; the variables that choose among them, of the shell and of ranks."""
    root = setup.root
    settings = [{"who": "this shell", **_settings(setup.env)}]
    foreign = []
    namespace = root.link("/proc/self/ns/net")
    for member in find_job(root):
        if not member.computes:
            continue
        if root.link(f"/proc/{member.process.pid}/ns/net") not in (namespace, None):
            foreign.append(member.label)  # its variables name interfaces that we cannot see
            continue
        environment = read_environment(root, member.process.pid)
        if environment is not None:
            settings.append({"who": member.label, **_settings(environment)})
    addresses = _addresses() if root.path == "/" else {}
    interfaces = [
        read_interface(root, name, addresses.get(name, [])) for name in root.names("/sys/class/net")
    ]
    interfaces = [one for one in interfaces if one["index"] is not None]
    return {
        "interfaces": sorted(interfaces, key=lambda one: one["index"]), "settings": settings[:64],
        "default_routes": _default_routes(root), "rdma": root.names("/sys/class/infiniband"),
        "other_namespace": foreign,
    }  # fmt: skip


def _settings(env: Mapping[str, str]) -> dict[str, Any]:
    return {
        "variables": {name: env[name] for name in VARIABLES if name in env},
        "many_nodes": spans_nodes(env),
    }


def _addresses() -> dict[str, list[dict[str, str]]]:
    import psutil  # getifaddrs(3): sysfs has no IPv4 addresses

    kinds = {"AF_INET": "ipv4", "AF_INET6": "ipv6"}
    return {
        name: [
            {"family": kinds[a.family.name], "address": a.address.split("%")[0]}
            for a in rows
            if a.family.name in kinds
        ]
        for name, rows in psutil.net_if_addrs().items()
    }


def _default_routes(root: Root) -> list[str]:
    rows = [line.split() for line in (root.read("/proc/self/net/route") or "").splitlines()[1:]]
    return list(dict.fromkeys(row[0] for row in rows if len(row) > 7 and row[1] == "00000000" == row[7]))


def judge(facts: Facts) -> list[Finding]:
    """NCCL's choice, then Gloo's and UCX's where a variable names interfaces; equal settings are judged once."""
    interfaces = facts["interfaces"]
    if not any(one["addresses"] for one in interfaces):
        return [finding(ID, Status.UNKNOWN, "no interface's address can be read", reason=Reason.UNPARSABLE)]
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in facts["settings"]:
        groups.setdefault(repr(sorted(one["variables"].items())), []).append(one)
    found: list[Finding] = []
    for same in groups.values():
        who = listed((one["who"] for one in same), 2)
        many = any(one["many_nodes"] for one in same)
        variables = same[0]["variables"]
        found += [_judge_nccl(interfaces, who, variables, many), *_judge_names(facts, who, variables, many)]
    if facts["other_namespace"]:
        text = (
            f"{listed(facts['other_namespace'])} live in another network namespace: "
            "what is said here is not about them"
        )
        reason, remedy = (
            Reason.NOT_APPLICABLE,
            "run diag inside their container, or with nsenter --net --target PID",
        )
        found.append(finding(ID, Status.UNKNOWN, text, subject="namespace", reason=reason, remedy=remedy))
    return found


def _judge_nccl(interfaces: list[dict[str, Any]], who: str, variables: dict[str, str], many: bool) -> Finding:
    setting = variables.get("NCCL_SOCKET_IFNAME", "")
    names = nccl_candidates(interfaces, setting, variables.get("NCCL_SOCKET_FAMILY", ""))
    by_name = {one["name"]: one for one in interfaces}
    real = [
        one["name"]
        for one in interfaces
        if one["running"] and one["addresses"] and one["kind"] not in LOCAL_ONLY
    ]
    data: dict[str, Any] = {"library": "nccl", "setting": setting, "chosen": names, "available": real}
    name = f"NCCL_SOCKET_IFNAME={setting}"
    said = f"with {name}" if setting else "without NCCL_SOCKET_IFNAME"
    bad = {**data, "cause": "nccl-wrong-interface", "suggested": real[0] if real else None}
    use = f"; running with an address: {listed(real)}" if real else ""
    if not names:
        text = (
            f"{said} matches no running interface with an address on this node: NCCL cannot start here{use}"
        )
        return finding(ID, Status.FAIL, text, subject=who, **bad)
    first = by_name[names[0]]
    where = f"{names[0]} ({first['kind']}, {_first_address(first)}, MTU {first['mtu_bytes']})"
    if first["kind"] in LOCAL_ONLY:
        text = f"{said} NCCL takes {where}, which no other node can reach"
        if not real:
            text += "; this node has no other running interface"
        wrong = many or (first["kind"] != "loopback" and bool(setting))
        status = (
            Status.FAIL
            if many
            else Status.WARN
            if wrong or setting
            else Status.OK
            if not real
            else Status.WARN
        )
        return finding(ID, status, text + use, subject=who, **(data if status is Status.OK else bad))
    odd = [name for name in names if by_name[name]["kind"] in LOCAL_ONLY]
    if odd:
        text = f"{said} NCCL takes {where} first, and also opens {listed(odd)}, which peers cannot reach"
        return finding(ID, Status.WARN, text, subject=who, **bad)
    mtus = {by_name[name]["mtu_bytes"] for name in names}
    if len(mtus) > 1:
        text = f"{said} NCCL takes {listed(names)} with different MTUs ({listed(str(mtu) for mtu in sorted(mtus))})"
        return finding(ID, Status.WARN, text, subject=who, **data, cause="mtu-mismatch")
    if len(names) > 1 and setting and not setting.startswith(("^", "=")) and "," not in setting:
        text = f"{name} is a prefix and matches {listed(names)}; `={setting}` takes the one alone"
        return finding(ID, Status.WARN, text, subject=who, **data)
    more = f", then {listed(names[1:])}" if names[1:] else ""
    return finding(ID, Status.OK, f"{said} NCCL's sockets take {where}{more}", subject=who, **data)


def _judge_names(facts: Facts, who: str, variables: dict[str, str], many: bool) -> list[Finding]:
    """Variables that hold exact names: a name that is not there ends Gloo, TensorPipe or UCX."""
    by_name = {one["name"]: one for one in facts["interfaces"]}
    found = []
    for variable, cause in (
        ("GLOO_SOCKET_IFNAME", "nccl-wrong-interface"), ("TP_SOCKET_IFNAME", "nccl-wrong-interface"), ("UCX_NET_DEVICES", "ucx-wrong-interface"),
    ):  # fmt: skip
        names = [
            name.partition(":")[0]
            for name in variables.get(variable, "").split(",")
            if name and name != "all"
        ]
        known = {*by_name, *facts["rdma"]} if variable == "UCX_NET_DEVICES" else set(by_name)
        data: dict[str, Any] = {
            "setting": variables.get(variable),
            "cause": cause,
            "available": sorted(known),
        }
        missing = [name for name in names if name not in known and not name.startswith("^")]
        local = [name for name in names if name in by_name and by_name[name]["kind"] in LOCAL_ONLY]
        down = [name for name in names if name in by_name and not by_name[name]["running"]]
        if missing and (len(missing) == len(names) or variable != "UCX_NET_DEVICES"):
            text = f"{variable}={variables[variable]}: {listed(missing)} does not exist on this node (there are {listed(known, 6)})"
            found.append(finding(ID, Status.FAIL, text, subject=who, **data))
        elif down:
            text = f"{variable}={variables[variable]}: {listed(down)} is not up"
            found.append(finding(ID, Status.FAIL, text, subject=who, **data))
        elif local:
            text = f"{variable}={variables[variable]}: no other node can reach {listed(local)}"
            found.append(finding(ID, Status.FAIL if many else Status.WARN, text, subject=who, **data))
    return found


def _first_address(interface: dict[str, Any]) -> str:
    return interface["addresses"][0]["address"] if interface["addresses"] else "no address"


PROBE = Probe(ID, "Network interfaces and who would choose which", collect, judge, section="network")
