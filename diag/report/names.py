"""Which words of a report are host and user names, and how they are replaced without mangling other words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from diag.system.lazy import lazily

_WORD = r"[A-Za-z0-9](?:[\w.-]{0,250}[A-Za-z0-9])?"

VOCABULARY = frozenset(
    """
    a admin agent all an and any art at be app application args base batch bin build buildd deploy dl hpc jenkins ml nlp ops block bootstrap build
    cache ci client cluster code common compute config container control controller core cpu cuda
    data debug decode default dev device disk docker driver dynamo engine env error etcd eth0 etc
    eval event export fabric false file flash frontend global gloo gpu graph group guest head home
    host hosts http https ib image info init input interface job kernel key kubernetes launch
    launcher lib link linux llm lo load local localhost log login loop main manager mark master max
    may memory min mesh mnt mode model models module mount mpi name nats nccl net network nfs nginx
    nil nixl no node nodes none nonroot null nvidia nvlink off on opt or out output path peer pid
    planner pod port prefill prefix probe proc process processor prod proxy py python pytorch queue
    rank ray rdma ready remote resource role root router run runner runtime scheduler script seed
    self server service services session sglang shard shell sh slurm socket source spark srv ssh
    stage start state stderr stdin stdout step storage store stream sys system task tcp temp test
    time tmp token torch torchrun trainer train transfer triton true trtllm type ubuntu ucx udp
    unknown up usr user user1 users value var version vllm warn warning web will work worker
    workers workspace world you
    """.split()  # noqa: SIM905 - one word a line would fill a screen
)
"""Words that logs use anyway. A host or user of such a name is replaced only where the place says that it is one."""

NEVER = frozenset(
    {
        "localhost",
        "localhost.localdomain",
        "ip6-localhost",
        "none",
        "null",
        "unknown",
        *[
            "is",
            "in",
            "and",
            "of",
            "the",
            "to",
            "for",
            "on",
            "at",
            "an",
            "not",
            "with",
            "which",
            "from",
            "has",
            "str",
            "master_addr",
            "rdzv_endpoint",
            "getsockopt",
        ],
        "int",
        "bool",
        "float",
        "-",
        "",
        "n/a",
        "*",
        "all",
        "auto",
    }
)
"""Never anybody's name."""

PUBLIC_DOMAINS = (
    "github.com", "githubusercontent.com", "huggingface.co", "hf.co", "pytorch.org", "nvidia.com", "nvcr.io", "python.org", "pypi.org",
    "pythonhosted.org", "vllm.ai", "sglang.ai", "ray.io", "kernel.org", "docker.io", "docker.com", "quay.io", "ghcr.io", "gcr.io", "k8s.io",
    "kubernetes.io", "readthedocs.io", "readthedocs.org", "docs.rs", "openai.com", "modelscope.cn", "anaconda.org", "anaconda.com",
    "debian.org", "ubuntu.com", "stackoverflow.com", "wikipedia.org", "apache.org", "googleapis.com", "example.com", "example.org",
    "lightning.ai", "deepspeed.ai", "microsoft.com", "open-mpi.org", "openucx.org", "schedmd.com", "goo.gl", "aka.ms", "json-schema.org",
    "w3.org", "pydantic.dev", "mozilla.org", "google.com", "arxiv.org",
)  # fmt: skip
"""Documentation, registries and model hubs that everybody's logs point at."""

_FILE_ENDINGS = frozenset(
    """
    py pyc so c cc cpp cu cuh h hpp rs go js ts sh log txt json yaml yml toml md html ini cfg conf
    out err gz zst tar bin safetensors pt pth whl lock sock service socket
    """.split()  # noqa: SIM905 - one word a line would fill a screen
)

_TLD = "com|org|edu|gov|net|io|ai|dev|cloud|eu|cn|de|fr|uk|jp|kr|ch|nl|in|au|ca"
_ADDRESS_KEYS = (
    "hostname|host_name|nodename|node_name|master_addr|master-addr|main_process_ip|head_node|rdzv_endpoint|rdzv-endpoint|"
    "side_channel_host|fqdn|dist_init_addr|dist-init-addr|remote_host|node_ip|node-ip-address|data-parallel-address"
)
_HOST_PLACES = tuple(
    lazily(pattern)
    for pattern in (
        rf"(?:^|[\s(\['\"])(?P<name>{_WORD}):\d+:\d+ \[-?\d+\] ",  # NCCL: host:pid:tid [gpu]
        rf"\[\d{{10}}\.\d+\] \[(?P<name>{_WORD}):\d+:\d+\]",  # UCX
        rf"\[(?P<name>{_WORD}):\d{{2,8}} +:\d+(?::\d+)?\]",  # UCX's newer heads
        rf"\[(?P<name>{_WORD}):\d{{2,8}}\] (?:\*\*\*|PMIX|ORTE|PRTE|\[\[|mca|Signal)",  # Open MPI: [host:pid]
        rf"\b[A-Z][a-z]{{2}} {{1,2}}\d{{1,2}} \d\d:\d\d:\d\d (?P<name>{_WORD}) [\w./-]{{1,63}}(?:\[\d+\])?:",  # syslog
        rf"\[pod/(?P<name>{_WORD})/",  # kubectl logs --prefix
        rf"\bip=(?P<name>{_WORD})\)",  # Ray
        rf"(?m)(?:^\W*host\s*|\bhost {{2,}}): (?P<name>{_WORD}) *(?:$|\n|\(|,| )",  # torchrun's summary
        rf"(?i)(?:{_ADDRESS_KEYS})['\"]?\s*[=:]\s*['\"]?(?:tcp://)?(?P<name>{_WORD})",
        rf"(?i)--(?:{_ADDRESS_KEYS})[ =](?P<name>{_WORD})",
        r"(?i)\b(?:connect(?:ed|ing)? to|connection to|listening on|resolve|resolving|ping|ssh|from host|on host|to host|hostname|host name)"
        r" (?:\w+@)?[\[(]?['\"]?(?P<name>[A-Za-z][A-Za-z.-]{0,63}\d[\w.-]{0,63})\b(?=[\])'\",:;<.\s]|$)",
        rf"(?:peer|to|from|:) (?P<name>{_WORD})<\d{{4,5}}>",  # NCCL: host<port>
        r"(?<![\w./-])(?P<name>(?=[A-Za-z.-]{0,63}\d)[A-Za-z][A-Za-z0-9.-]{0,63}[A-Za-z0-9]):\d{4,5}\b",  # host01:port
        r"(?<![\w./-])(?P<name>[A-Za-z][A-Za-z0-9]{0,63}(?:[-.][A-Za-z0-9]{1,63})+):29\d{3}\b",  # torch's and NCCL's usual ports
        rf"\[(?P<name>{_WORD})\]:\d{{4,5}}\b(?!-)",  # torch: [host]:port
        rf"\b(?!hf:|modelscope:|oci:|file:)[a-z][a-z0-9+.-]{{0,63}}://(?:[^\s/@]{{0,63}}@)?\[?(?P<name>{_WORD})",  # URLs
        r"(?<![\w.+-])[\w.+-]{1,63}@(?!sha\d|v?\d)(?P<name>[A-Za-z][A-Za-z.-]{0,63}\d[\w.-]{0,63}|[A-Za-z]\w*-[\w.-]{1,63})",  # user@host
        r"\b(?P<name>ip-\d{1,3}(?:-\d{1,3}){3}(?:\.[\w.-]{1,63}[a-z])?)\b",  # AWS
        r"\b(?P<name>i-[0-9a-f]{17})\b",
        r"(?<![\w./-])(?P<name>[A-Za-z][\w.-]{0,63}\d[\w.-]{0,63}) \((?:\d{1,3}\.){3}\d",  # name (address)
        r"(?<![\w./-])(?P<name>(?=[A-Za-z-]{0,63}[\d-])[A-Za-z0-9][A-Za-z0-9-]{0,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.(?:internal|local|lan|corp|intranet|localdomain|svc))\b",
        r"\b(?<![A-Z_]\.)(?![A-Z_]{2,63}\.)(?P<name>[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.(?:cluster\.local|compute\.internal|home\.arpa))\b",  # capitals: our own placeholder
        r"(?<![\w./@-])(?P<name>[A-Za-z0-9][A-Za-z0-9-]{0,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.(?:com|org|edu|gov))(?![\w.(-])",
        rf"(?<![\w./@-])(?P<name>[A-Za-z][A-Za-z-]{{0,63}}\d[A-Za-z0-9-]{{0,63}}(?:\.[A-Za-z0-9-]{{1,63}}){{1,8}}\.(?:{_TLD}))(?![\w.(-])",
    )
)
_NO_HOST = lazily(
    r"(?i)gpu_?\d$|(?:rank|default|cuda|eth|ib|mlx\d?_|bond|ens|eno|enp|docker|veth|br|tcp|lo|port|layer|step|stage|dp|tp|pp|ep|cpu|numa|nvme|sd[a-z]|"
    r"channel|iteration|epoch|attempt|worker_tp|python|py|cu|nccl|sm_|v)[\w-]*\d+\w*$|[\d.:]+$|0x[0-9a-f]+$|v?\d[\d.]*\w*$|sha\d+$"
)
"""Devices, counters and versions that stand where hosts do."""

_USER_PLACES = tuple(
    lazily(pattern)
    for pattern in (
        r"/(?:home\d*|homes|Users|users|export/home)/(?P<name>[\w.@+-]{1,63})",
        r"\b(?:USER|LOGNAME|USERNAME|SUDO_USER|SLURM_JOB_USER)['\"]?\s*[=:]\s*['\"]?(?P<name>[A-Za-z_][\w.-]{0,63})",
        r"\buser(?:name)?(?:=|['\"]: ?)['\"]?(?P<name>[A-Za-z_][\w.-]{0,63})",
        r"(?<![\w.+/-])(?P<name>[A-Za-z_][\w.+-]{1,63})@(?!sha\d|v\d|\d+(?![\w.-])|\d+\.\d+\.\d+(?![\d.]))(?=[\w-]{0,63}[\d.-])[A-Za-z0-9][\w.-]{0,63}[A-Za-z0-9](?!\])",
        r"(?:^|\s)--user(?:name)?[= ](?P<name>[A-Za-z_][\w.-]{0,63})",
        r"(?:^|\s)(?P<name>[a-z_][a-z0-9_-]{0,63}) +\d+ +\d+\.\d +\d+\.\d +\d+ +\d+ ",  # ps aux
    )
)
_SHARED_FOLDERS = frozenset(
    """
    shared public common data models cache projects scratch tmp
    """.split()  # noqa: SIM905 - one word a line would fill a screen
)


def host_names(text: str) -> list[str]:
    """Return the words of a text whose place says that they are hosts."""
    return [name for name in _found(_HOST_PLACES, text) if _can_be_host(name)]


def user_names(text: str) -> list[str]:
    """Return the words of a text whose place says that they are users."""
    return [name for name in _found(_USER_PLACES, text) if _can_be_user(name)]


def can_be_host(value: str) -> bool:
    """Return whether a value of a field for hosts is one (and not a number, an address or a sentence)."""
    return bool(re.fullmatch(_WORD, value)) and _can_be_host(value)


def can_be_user(value: str) -> bool:
    """Return whether a value of a field for users is one."""
    return bool(re.fullmatch(r"[A-Za-z_][\w.@+-]*", value)) and _can_be_user(value)


def is_stand_in(name: str) -> bool:
    """Return whether a name is one that we gave: an earlier report is redacted again without changing it."""
    return bool(re.fullmatch(r"(?:host|user|email|serial)-(?:\d+|[0-9a-f]{6})", name))


def replace_at_places(text: str, hosts: NameBook, users: NameBook) -> str:
    """Return the text with the names replaced whose place says what they are, ordinary words included."""
    for places, book, fits in ((_HOST_PLACES, hosts, _can_be_host), (_USER_PLACES, users, _can_be_user)):
        for pattern in places:
            text = pattern.sub(lambda found, book=book, fits=fits: _swap(found, book, fits), text)  # type: ignore[misc]
    return text


def _swap(found: re.Match[str], book: NameBook, fits: Callable[[str], bool]) -> str:
    name = found["name"].rstrip(".")
    if not fits(name) or _inside_address(found):
        return found[0]
    begin = found.start("name") - found.start()
    return found[0][:begin] + book.add(name) + found[0][begin + len(name) :]


def _found(places: Iterable[re.Pattern[str]], text: str) -> list[str]:
    return [
        found["name"].rstrip(".")
        for pattern in places
        for found in pattern.finditer(text)
        if not _inside_address(found)
    ]


def _inside_address(found: re.Match[str]) -> bool:
    """Return whether the word is a group of an IPv6 address: `[fe80::1]` looks like a host and a port."""
    begin, end = found.span("name")
    before, after = found.string[max(0, begin - 2) : begin], found.string[end : end + 6]
    return bool(re.search(r"[0-9a-fA-F:]:$", before) or re.match(r":[0-9a-fA-F]{0,4}:", after)) and bool(
        re.fullmatch(r"[0-9a-fA-F]{1,4}", found["name"])
    )


def _can_be_user(name: str) -> bool:
    low = name.lower()
    return (
        low not in NEVER
        and low not in _SHARED_FOLDERS
        and low not in ("root", "git")
        and not is_stand_in(name)
    )


def _can_be_host(name: str) -> bool:
    low = name.lower().rstrip(".")
    if low in NEVER or is_stand_in(name) or len(name) < 2 or not re.search(r"[a-z]", low):
        return False
    if any(low == domain or low.endswith(f".{domain}") for domain in PUBLIC_DOMAINS):
        return False
    if _NO_HOST.match(low) or (re.fullmatch(r"[A-Z_]+", name) and ("_" in name or low in VOCABULARY)):
        return False  # `http://HEAD:2379` is advice with a placeholder
    return low.rsplit(".", 1)[-1] not in _FILE_ENDINGS


def free_standing(name: str) -> bool:
    """Return whether a name may be replaced wherever it stands: it is no word that logs use anyway."""
    low = name.lower()
    if low in VOCABULARY or len(name) < 2 or not re.search("[a-z]", low):
        return False
    return not _ROLE.fullmatch(low)


_ROLE = lazily(r"(?:worker|prefill|decode|server|process|user|test)[_-]?\d?|(?:head|master|node)[_-]?")
"""Roles that serve as names: they tell nothing about whose machines these are, and everything about which one it is."""


class NameBook:
    """Gives every name of one kind its stand-in; a host's short and long names share one."""

    def __init__(self, kind: str, incident: str | None) -> None:
        self._kind = kind
        self._incident = incident
        self._stand_ins: dict[str, str] = {}
        self.free: set[str] = set()
        self._domains: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, name: str) -> str:
        """Return the stand-in for a name, a new one where it has none yet."""
        if (
            is_stand_in(name)
            or name.lower() in NEVER
            or (self._kind == "host" and name[-1:].isdigit() and _ROLE.fullmatch(name.lower()))
        ):
            return name
        key = self._key(name)
        if key not in self._stand_ins:
            self._stand_ins[key] = self._make(key)
        if free_standing(name) and (self._kind == "host" or len(name) > 2):
            self.free.add(name)
            self._pattern = None
        short, _, domain = name.partition(".")
        if self._kind == "host" and domain:
            self._domains.add(domain)
            if free_standing(short):
                self.free.add(short)
        return self._stand_ins[key]

    @property
    def count(self) -> int:
        """How many different names were met."""
        return len(self._stand_ins)

    def replace_free(self, text: str) -> str:
        """Return the text with every free-standing name replaced, a host together with its known domain."""
        if not self.free:
            return text
        if self._pattern is None:
            domains = "|".join(map(re.escape, _longest_first(self._domains)))
            tail = rf"(?:\.(?:{domains})(?![A-Za-z0-9]))?" if domains else ""
            short = [name for name in self.free if self._kind == "user" and len(name) < 5]
            names = "|".join(map(re.escape, _longest_first(self.free.difference(short))))
            parts = [rf"(?<![A-Za-z0-9])(?:{names}){tail}(?![A-Za-z0-9])"] if names else []
            if short:  # `kai` between slashes is a user, in `kai-max` it is anybody's syllable
                parts.append(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, _longest_first(short)))})(?![\w-])")
            self._pattern = re.compile("|".join(parts), re.IGNORECASE)
        return self._pattern.sub(lambda found: self.add(found[0]), text)

    def _key(self, name: str) -> str:
        low = name.lower().rstrip(".")
        if self._kind != "host":
            return name
        first = low.split(".")[0]
        return low if first.isdigit() or first in VOCABULARY else first

    def _make(self, key: str) -> str:
        if self._incident is None:
            return f"{self._kind}-{len(self._stand_ins) + 1}"
        import hashlib  # (brings OpenSSL with it)

        secret = hashlib.sha256(self._incident.encode()).digest()
        return f"{self._kind}-{hashlib.blake2b(key.encode(), key=secret, digest_size=3).hexdigest()}"


def _longest_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (-len(name), name))
