"""What a node tells the others of itself: names, addresses, and the interface that NCCL and Gloo would choose here."""

from __future__ import annotations

import ipaddress
import socket
import uuid
from collections.abc import Mapping
from typing import Any

from diag.observe.links.conflicts import find_conflict
from diag.observe.links.launchers import Layout
from diag.system import Root
from diag.system.interfaces import nccl_candidates, read_interface
from diag.system.processes import within

RESOLVE_S = 3.0

Card = dict[str, Any]


def describe(layout: Layout, env: Mapping[str, str], version: str) -> Card:
    """This node's card: plain JSON values."""
    root = Root()
    interfaces = _interfaces(root)
    name = socket.gethostname()
    resolved, error = resolve(name)
    return {
        "hostname": name, "instance": uuid.uuid4().hex, "version": version, "node_rank": layout.node_rank,
        "nnodes": layout.nnodes, "world_size": layout.world_size, "launcher": layout.launcher,
        "master": f"{layout.master_host}:{layout.port}",
        "machine": f"{(root.read('/proc/sys/kernel/random/boot_id') or '').strip()}/{root.link('/proc/self/ns/net')}",
        "interfaces": [
            {key: one[key] for key in ("name", "kind", "mtu_bytes", "speed_mbps", "running", "addresses")}
            for one in interfaces if one["addresses"]
        ],
        "address_conflict": find_conflict(interfaces),
        "own_name": {"resolved": resolved, "error": error}, "chosen": _chosen(interfaces, env, resolved),
        "variables": {name: env[name] for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_FAMILY") if name in env},
    }  # fmt: skip


def resolve(name: str) -> tuple[list[str], str | None]:
    """(addresses, error) of a name as getaddrinfo sees it, bounded in time."""

    def ask() -> list[str] | str:
        try:
            rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(row[4][0]) for row in rows))
        except (OSError, UnicodeError) as error:
            return str(error)

    answered, result = within(RESOLVE_S, ask)
    if not answered or result is None:
        return [], f"no answer within {RESOLVE_S:.0f} s"
    return ([], result) if isinstance(result, str) else (result, None)


def is_loopback(address: str) -> bool:
    """True for 127.0.0.0/8 and ::1."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def interface_of(card: Card, address: str | None) -> dict[str, Any] | None:
    """The interface that carries an address."""
    return next(
        (one for one in card["interfaces"] if any(a["address"] == address for a in one["addresses"])), None
    )


def _interfaces(root: Root) -> list[dict[str, Any]]:
    import psutil  # getifaddrs(3): sysfs has no IPv4 addresses

    kinds = {"AF_INET": "ipv4", "AF_INET6": "ipv6"}
    addresses = {
        name: [
            {"family": kinds[one.family.name], "address": one.address.partition("%")[0]}
            for one in rows if one.family.name in kinds and not one.address.startswith("fe80:")
        ]
        for name, rows in psutil.net_if_addrs().items()
    }  # fmt: skip
    rows = [read_interface(root, name, addresses.get(name, [])) for name in root.names("/sys/class/net")]
    if not rows:  # no /sys (a namespace without its own mount): the kernel still tells names and addresses
        rows = [
            {"name": name, "index": number, "kind": "loopback" if name == "lo" else "ethernet", "mtu_bytes": None,
             "speed_mbps": None, "running": True, "addresses": found}
            for number, (name, found) in enumerate(addresses.items())
        ]  # fmt: skip
    return sorted((one for one in rows if one["index"] is not None), key=lambda one: one["index"])


def _chosen(
    interfaces: list[dict[str, Any]], env: Mapping[str, str], own_name: list[str]
) -> dict[str, dict[str, Any]]:
    """Library -> {interface, address, by}: what peers are told to connect to."""
    chosen: dict[str, dict[str, Any]] = {}
    setting, family = env.get("NCCL_SOCKET_IFNAME", ""), env.get("NCCL_SOCKET_FAMILY", "")
    names = nccl_candidates(interfaces, setting, family)
    if names:
        wanted = {"AF_INET": "ipv4", "AF_INET6": "ipv6"}.get(family)
        by = f"NCCL_SOCKET_IFNAME={setting}" if setting else "NCCL's own choice"
        chosen["nccl"] = {"interface": names[0], "address": _address(interfaces, names[0], wanted), "by": by}
    elif setting:
        chosen["nccl"] = {"interface": None, "address": None, "by": f"NCCL_SOCKET_IFNAME={setting}"}
    gloo = env.get("GLOO_SOCKET_IFNAME", "").split(",")[0]
    if gloo:
        chosen["gloo"] = {
            "interface": gloo,
            "address": _address(interfaces, gloo),
            "by": f"GLOO_SOCKET_IFNAME={gloo}",
        }
    elif own_name:
        chosen["gloo"] = {"interface": None, "address": own_name[0], "by": "the own host name"}
    return chosen


def _address(interfaces: list[dict[str, Any]], name: str, family: str | None = None) -> str | None:
    found = [
        one["address"] for each in interfaces if each["name"] == name
        for one in each["addresses"] if family in (None, one["family"])
    ]  # fmt: skip
    return next((one for one in found if ":" not in one), found[0] if found else None)
