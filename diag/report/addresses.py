"""Stand-ins for addresses that keep the network's structure: two addresses share as many leading bits after as before.

The mapping is the prefix-preserving scheme of Xu et al. (Crypto-PAn, 2002) with a keyed BLAKE2 as its random function.
"""

from __future__ import annotations

import ipaddress
import re

from diag.system.lazy import lazily

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
IPV4 = lazily(rf"(?<!\d)(?<!\d\.)(?<!so\.){_OCTET}(?:\.{_OCTET}){{3}}(?!\.?\d)")
IPV6 = lazily(
    rf"(?<![\w:.])(?:[0-9a-fA-F]{{0,4}}:){{2,7}}(?:{_OCTET}(?:\.{_OCTET}){{3}}|[0-9a-fA-F]{{0,4}})(?![\w:]|\.\d)"
)
_ANY = lazily(f"{IPV6.pattern}|{IPV4.pattern}")
_BEFORE_VERSION = lazily(
    r"(?i)(?:[=<>~!]=|\bversions?[\s:='\"]*|\bver[\s.:=]+|\b(?:cudnn|cublas\w*|curand|cusolver|cusparse|cusparselt|cufft|cufile|nvjitlink|cupti|"
    r"nvrtc|cutlass|tensorrt|nccl|driver|cuda|ofed|mlnx_ofed|firmware|fw|release|build)[\w-]*[\s:=v_-]{0,3}|[a-z]-v?|\bv)$"
)

_KEPT_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "255.0.0.0/8",
        "::1/128",
        "::/128",
        "ff00::/8",
    )
)
_KEPT = {
    ipaddress.ip_address(text)
    for text in (
        "172.17.0.1",
        "8.8.8.8",
        "8.8.4.4",
        "1.1.1.1",
        "2001:4860:4860::8888",
        "2001:4860:4860::8844",
        "2606:4700:4700::1111",
    )
}
"""docker0's usual address and the public name servers that programs connect to for learning their own address."""

_FIXED_BITS = tuple(
    (ipaddress.ip_network(text), bits)
    for text, bits in (
        ("10.0.0.0/8", 8), ("172.16.0.0/12", 12), ("192.168.0.0/16", 16), ("100.64.0.0/10", 10),
        ("fc00::/7", 8), ("fe80::/10", 64), ("2000::/3", 3),
    )
)  # fmt: skip
"""Private ranges stay private ranges: their first bits are nobody's secret."""


class AddressBook:
    """Gives every address its stand-in."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.originals: dict[str, str] = {}

    def replace(self, text: str) -> tuple[str, int]:
        """Return the text with stand-ins and how many addresses were replaced."""
        count = 0

        def swap(found: re.Match[str]) -> str:
            nonlocal count
            new = self._swap(found[0], text[max(0, found.start() - 24) : found.start()])
            count += new != found[0]
            return new

        return (_ANY.sub(swap, text) if "." in text or ":" in text else text), count

    def _swap(self, word: str, before: str) -> str:
        try:
            address = ipaddress.ip_address(word)
        except ValueError:
            return word
        if address.version == 6 and not re.search(r"\d", word) and len(word.replace(":", " ").split()) < 3:
            return word  # `a::b` is C++
        if address.version == 4 and not _is_private(address) and _BEFORE_VERSION.search(before):
            return word
        if address.version == 4 and re.search(r"[=<>~!]=['\"]?$", before):
            return word  # `nvidia-curand-cu12==10.3.5.147` is no address
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            inner = address.ipv4_mapped
            return word if _kept(inner) else self._note(word, f"::ffff:{self._map(inner)}")
        if _kept(address) or (address.is_link_local and not _tells_hardware(word)):
            return word
        return self._note(word, str(self._map(address)))

    def _note(self, word: str, stand_in: str) -> str:
        self.originals[word] = stand_in
        return stand_in

    def _map(
        self, address: ipaddress.IPv4Address | ipaddress.IPv6Address
    ) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        fixed = next((bits for network, bits in _FIXED_BITS if address in network), 0)
        total = address.max_prefixlen
        last = 2 if address.version == 4 and int(address) & 0xFF == 0 else 0
        mapped = self._scramble(int(address), total, fixed)
        if last:
            mapped &= ~0xFF  # `10.0.3.0/24` names a network: keep it looking like one
        new = type(address)(mapped)
        for _ in range(64):  # a public address must not land in a range that means something
            if fixed or not (_kept(new) or _is_private(new)):
                break
            new = type(address)(self._scramble(int(new), total, fixed))
        return new

    def _scramble(self, value: int, total: int, fixed: int) -> int:
        import hashlib  # (brings OpenSSL with it)

        result = 0
        for position in range(total):
            bit = value >> (total - 1 - position) & 1
            if position >= fixed:
                prefix = value >> (total - position)
                seed = b"%d:%d:%d" % (total, position, prefix)
                bit ^= hashlib.blake2b(seed, key=self._key, digest_size=1).digest()[0] & 1
            result = result << 1 | bit
        return result


def _kept(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address in _KEPT or any(
        address in network for network in _KEPT_NETWORKS if network.version == address.version
    )


def _is_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(
        address in network
        for network, _ in _FIXED_BITS
        if network.version == address.version and network.prefixlen > 3
    )


def _tells_hardware(word: str) -> bool:
    """Return whether a link-local address carries a MAC or a port's GUID (EUI-64, or a fabric GID written in full)."""
    return "ff:fe" in word.lower() or word.count(":") == 7
