"""Whether another machine on the wire claims one of our IPv4 addresses: one ARP probe each (RFC 5227, as DHCP clients do).

A probe with sender address 0.0.0.0 changes nobody's neighbour table. Needs CAP_NET_RAW; without it nothing is said.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

ETH_P_ARP = 0x0806
WAIT_S = 0.4
"""An answer comes within milliseconds on a LAN; RFC 5227 waits longer only for hosts that are still starting."""
_ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")


def find_conflict(interfaces: Sequence[dict[str, Any]]) -> dict[str, str] | None:
    """{address, other: the other machine's MAC} of the first address that somebody else answers for."""
    for one in interfaces:
        if one["kind"] not in ("ethernet", "bond") or not one["running"]:
            continue
        for address in one["addresses"]:
            if address["family"] == "ipv4":
                other = _probe(str(one["name"]), str(address["address"]))
                if other is not None:
                    return {"address": str(address["address"]), "other": other}
    return None


def _probe(interface: str, address: str) -> str | None:
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as sock:
            sock.bind((interface, ETH_P_ARP))
            own = sock.getsockname()[4]
            wanted = socket.inet_aton(address)
            if len(own) != 6:  # no Ethernet
                return None
            sock.send(
                _ARP.pack(b"\xff" * 6, own, ETH_P_ARP, 1, 0x0800, 6, 4, 1, own, b"\0" * 4, b"\0" * 6, wanted)
            )
            end = time.monotonic() + WAIT_S
            while (left := end - time.monotonic()) > 0:
                if not select.select([sock], [], [], left)[0]:
                    return None
                frame = sock.recv(2048)
                if len(frame) < _ARP.size:
                    continue
                _, _, kind, *_, operation, sender, sender_ip, _, _ = _ARP.unpack_from(frame)
                if kind == ETH_P_ARP and operation == 2 and sender_ip == wanted and sender != own:
                    return ":".join(f"{byte:02x}" for byte in sender)
    except OSError:
        return None
    return None
