"""What /proc tells about processes, below a swappable root. Every read may hang or be refused, and says so."""

from __future__ import annotations

import ipaddress
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from diag.system.files import Root

T = TypeVar("T")

TICKS_PER_S = 100
"""USER_HZ: what /proc/PID/stat counts in on every Linux architecture that carries NVIDIA GPUs (proc(5))."""

TCP_STATES = {1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 8: "CLOSE_WAIT", 10: "LISTEN"}
"""Linux include/net/tcp_states.h; the ones that say something about a launch."""


def within(deadline_s: float, look: Callable[[], T]) -> tuple[bool, T | None]:
    """Run `look` in a thread of its own; (False, None) if it has not answered after `deadline_s` seconds.

    For single reads that can block in the kernel: /proc/PID/cmdline of a process stuck in its memory
    lock, a path on a dead NFS server. The thread is left behind; callers live in short-lived children.
    Raises what `look` raised in time.
    """
    box: list[T | BaseException] = []

    def run() -> None:
        try:
            box.append(look())
        except Exception as error:  # noqa: BLE001 - handed to the caller, or too late for anybody
            box.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(deadline_s)
    if not box:
        return False, None
    result = box[0]
    if isinstance(result, BaseException):
        raise result
    return True, result


@dataclass(frozen=True, slots=True)
class Process:
    """One process as /proc shows it."""

    pid: int
    ppid: int
    session: int
    state: str
    """R running, S sleeping, D uninterruptible, T stopped, t traced, Z zombie (proc(5))."""
    name: str
    argv: tuple[str, ...]
    """Empty for kernel threads, zombies and processes that do not answer."""
    threads: int
    start_s: float
    """Epoch seconds."""
    cpu_s: float
    uid: int

    @property
    def title(self) -> str:
        """The command line, or the name in brackets where there is none."""
        return " ".join(self.argv).strip() or f"[{self.name}]"


def list_processes(root: Root) -> list[Process]:
    """Every process below `root`, by pid; those that vanish meanwhile are left out."""
    boot_s = _boot_time(root)
    found = (read_process(root, int(name), boot_s) for name in root.names("/proc") if name.isdigit())
    return sorted((process for process in found if process is not None), key=lambda process: process.pid)


def read_process(root: Root, pid: int, boot_s: float | None = None) -> Process | None:
    """One process; None if it is gone or its files cannot be understood."""
    stat = root.read(f"/proc/{pid}/stat")
    if not stat or ")" not in stat:
        return None
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    if len(fields) < 20:
        return None
    state = fields[0]
    argv: tuple[str, ...] = ()
    if state not in "ZX":
        # A process stuck in its memory lock blocks whoever reads its command line.
        path = f"/proc/{pid}/cmdline"
        raw = within(0.3, lambda: root.read(path))[1] if state == "D" else root.read(path)
        argv = split_command_line(raw or "")
    status = root.read(f"/proc/{pid}/status") or ""
    uid = re.search(r"^Uid:\s+(\d+)", status, re.M)
    boot_s = _boot_time(root) if boot_s is None else boot_s
    return Process(
        pid=pid, ppid=int(fields[1]), session=int(fields[3]), state=state, name=name, argv=argv,
        threads=int(fields[17]), start_s=boot_s + int(fields[19]) / TICKS_PER_S,
        cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_S, uid=int(uid[1]) if uid else -1,
    )  # fmt: skip


def is_gone(root: Root, pid: int) -> bool:
    """True if the process has ended meanwhile: what could not be read then was not refused."""
    state = (root.read(f"/proc/{pid}/stat") or "").rpartition(") ")[2][:1]
    return state in ("", "Z", "X")


def split_command_line(raw: str) -> tuple[str, ...]:
    """Arguments of a /proc/PID/cmdline; a process that renamed itself (setproctitle) gives one padded string."""
    return tuple(raw.rstrip("\0 ").split("\0")) if raw.strip("\0 ") else ()


def _boot_time(root: Root) -> float:
    match = re.search(r"^btime (\d+)", root.read("/proc/stat") or "", re.M)
    return float(match[1]) if match else 0.0


def read_environment(root: Root, pid: int | str, deadline_s: float = 0.5) -> dict[str, str] | None:
    """The variables a process was started with; None without the right to see them (or no answer)."""
    path = f"/proc/{pid}/environ"
    raw = within(deadline_s, lambda: root.read(path))[1]
    if raw is None:
        return None
    pairs = (entry.partition("=") for entry in raw.split("\0") if "=" in entry)
    return {name: value for name, _, value in pairs}


def read_limits(root: Root, pid: int | str) -> dict[str, tuple[int | None, int | None]] | None:
    """Soft and hard limits by the kernel's names (`Max open files`); None inside stands for unlimited."""
    text = root.read(f"/proc/{pid}/limits")
    if text is None:
        return None
    rows = re.findall(r"^(Max [a-z -]+?)\s{2,}(\d+|unlimited)\s+(\d+|unlimited)", text, re.M)
    return {name: (_limit(soft), _limit(hard)) for name, soft, hard in rows}


def _limit(word: str) -> int | None:
    return None if word == "unlimited" else int(word)


def read_descriptors(root: Root, pid: int) -> list[str] | None:
    """What each open descriptor points at (`/dev/nvidia0`, `socket:[123]`); None without the right."""
    try:
        names = [entry.name for entry in root.join(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return None
    links = (root.link(f"/proc/{pid}/fd/{name}") for name in names)
    return [link for link in links if link is not None]


def read_mapped_files(root: Root, pid: int, deadline_s: float = 0.5) -> list[str] | None:
    """The files a process has mapped, each once, in address order; None without the right (or no answer)."""
    path = f"/proc/{pid}/maps"
    raw = within(deadline_s, lambda: root.read(path))[1]
    if raw is None:
        return None
    paths = (line.split(None, 5)[5] for line in raw.splitlines() if line.count(" ") >= 5 and "/" in line)
    return list(dict.fromkeys(path.strip() for path in paths if path.startswith("/")))


@dataclass(frozen=True, slots=True)
class Socket:
    """One TCP socket of a network namespace."""

    state: str
    local: str
    local_port: int
    remote: str
    remote_port: int
    inode: int
    retransmits: int
    """SYN_SENT: how often the first packet was repeated without an answer (after 1, 3, 7, 15 s ...)."""


def read_tcp_sockets(root: Root, pid: int | str = "self") -> list[Socket]:
    """The TCP sockets of the network namespace `pid` lives in (those in TCP_STATES)."""
    lines = [
        line
        for name in ("tcp", "tcp6")
        for line in (root.read(f"/proc/{pid}/net/{name}") or "").splitlines()[1:]
    ]
    return [socket for socket in map(_socket, lines) if socket is not None]


def _socket(line: str) -> Socket | None:
    fields = line.split()
    if len(fields) < 10 or int(fields[3], 16) not in TCP_STATES:
        return None
    (local, local_port), (remote, remote_port) = (_address(field) for field in fields[1:3])
    return Socket(
        TCP_STATES[int(fields[3], 16)],
        local,
        local_port,
        remote,
        remote_port,
        int(fields[9]),
        int(fields[6], 16),
    )


def _address(field: str) -> tuple[str, int]:
    digits, _, port = field.partition(":")
    # The kernel prints each 32-bit word in host order: little-endian on x86-64 and aarch64.
    raw = b"".join(bytes.fromhex(digits[i : i + 8])[::-1] for i in range(0, len(digits), 8))
    address = ipaddress.ip_address(raw)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), int(port, 16)
