"""The head of a log line: who wrote it, when. One table row per launcher's or library's form.

Heads nest (kubectl around Ray around vLLM around NCCL), so rows are applied again and again until none fits.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

MAX_NESTING = 8
_CLOCK = ("y", "mo", "mo2", "mon", "d", "h", "mi", "s", "f")

_MONTHS = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1
    )
}

_TIME = r"(?P<h>\d{2}):(?P<mi>\d{2}):(?P<s>\d{2})(?:[.,](?P<f>\d{1,9}))?"

_DIGIT, _LOWER, _UPPER = string.digits, string.ascii_lowercase, string.ascii_uppercase
_SPACE = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f "

ROWS = (
    # loguru after the time: | ERROR    | module:function:12 - text
    ("|", r"\| (?P<level>INFO|WARNING|ERROR|DEBUG|CRITICAL|SUCCESS) +\| [\w.:<>-]+ - "),
    # rich and Ray draw boxes around tracebacks
    (_SPACE + "|", r"[\s]*[│┃║|╭╰╮╯─]{1,3} ?(?=\S|  )"),
    # docker json-file
    ("{", r'\{"log":"'),
    # kubectl logs --prefix: [pod/name/container]
    ("[", r"\[pod/(?P<host>[^/\]]+)/(?P<process>[^\]]+)\] "),
    # stern: pod container text, where another head follows
    (
        _DIGIT + _LOWER,
        r"(?P<host>[a-z0-9](?:[a-z0-9-]*[a-z0-9])?-[a-z0-9]{1,10}) (?P<process>[a-z][a-z0-9-]*) (?=\(\w+(?: \w+)? pid=|(?:INFO|ERROR|WARNING|DEBUG)\b|\[?20\d\d-|\[rank\d|Traceback )",
    ),
    # torchrun, newer and older: [rank3]: [default0]:
    ("[", r"\[rank(?P<rank>\d+)\]:? ?"),
    ("[", r"\[default(?P<local>\d+)\]: ?"),
    # mpirun --tag-output: [1,3]<stderr>: with and without host
    ("[", r"\[\d+,(?P<rank>\d+)\](?:<(?:stdout|stderr|stddiag)>)?:? ?"),
    # horovodrun, with and without its clock: Thu Nov  5 02:25:20 2020[2]<stderr>:
    (
        _UPPER + "[",
        rf"(?:[A-Z][a-z]{{2}} (?P<mon>[A-Z][a-z]{{2}}) +(?P<d>\d{{1,2}}) {_TIME} (?P<y>20\d\d))?\[(?P<rank>\d+)\]<std(?:out|err)>: ?",
    ),
    # PRRTE: [prterun-host-1234@1,3]<stderr>:
    ("[", r"\[[\w.-]+@\d+,(?P<rank>\d+)\](?:<std(?:out|err|diag)>)?:? ?"),
    # Lightning: [rank: 3]
    ("[", r"\[rank: (?P<rank>\d+)\] "),
    # NeMo: [NeMo E 2024-05-01 10:00:00 file:12] and with the rank
    ("[", rf"\[NeMo (?P<level>[IWE]) (?P<y>20\d\d)-(?P<mo>\d\d)-(?P<d>\d\d) {_TIME} [^\]]{{1,80}}\] ?"),
    # srun -l
    (_DIGIT + " ", r" {0,3}(?P<rank>\d{1,4}): (?=\S)"),
    # SkyPilot: (worker1, rank=1, pid=20498, ip=10.142.0.41)
    ("(", r"\((?P<process>[\w.-]+), rank=(?P<rank>\d+), pid=(?P<pid>\d+)(?:, ip=(?P<host>[\w.:-]+))?\) ?"),
    # Ray: (ClassName pid=1, ip=10.0.0.1)
    ("(", r"\((?P<process>[\w.:<> -]*?)\s*pid=(?P<pid>\d+)(?:, ip=(?P<host>[\w.:-]+))?\) ?"),
    # vLLM: (Worker_TP0_EP0 pid=1) (VllmWorker rank=3 pid=1) (VllmWorker TP1 pid=1)
    ("(", r"\((?P<process>\w+) rank=(?P<rank>\d+) pid=(?P<pid>\d+)\) ?"),
    ("(", r"\((?P<process>[\w.-]+(?: \w+)?) pid=(?P<pid>\d+)\) ?"),
    # Dynamo serve: [VllmWorker:1]
    ("[", r"\[(?P<process>[A-Z]\w+:\d+)\] "),
    # compose: name-1  | text
    (_LOWER + _UPPER, r"(?P<process>[A-Za-z][\w.-]*?-\d+) {1,20}\| "),
    # ISO, with and without brackets
    (
        "2[",
        rf"\[?(?P<y>20\d\d)-(?P<mo>\d\d)-(?P<d>\d\d)[T ]{_TIME}(?:Z|[+-]\d\d:?\d\d)?(?: TP(?P<rank>\d+)|(?: DP\d+)?(?: TP(?P<rank2>\d+))?(?: EP\d+)?(?: PP\d+)?)\]?:? ?",
    ),
    # container runtimes (CRI): stdout F text
    ("s", r"(?:stdout|stderr) [FP] "),
    # SGLang with the time alone
    ("[", r"\[\d{2}:\d{2}:\d{2}(?: DP\d+)?(?: TP(?P<rank>\d+))?(?: EP\d+)?\] "),
    # vLLM: INFO 04-28 08:14:33 [file.py:12]
    (_UPPER, rf"(?P<level>[A-Z]{{4,8}}) (?P<mo>\d\d)-(?P<d>\d\d) {_TIME} (?:\[?[\w./-]+\.py:\d+\]?)? ?"),
    # glog and torch: [E1120 12:00:00.123 socket.cpp:12] E1120 12:00:00.1 1234 file.cc:12]
    (
        "EFIW[",
        rf"\[?(?P<level>[IWEF])(?P<mo>\d)?(?P<mo2>\d)(?P<d>\d\d) {_TIME}(?: +(?P<pid>\d+))? [\w./-]+:\d+\] ?",
    ),
    # torch without times, and its watchdog's own rank
    ("[", r"\[(?P<level>[IWEF]) [\w./-]+:\d+\] ?"),
    ("[", r"\[(?:PG [^\]]{1,80} )?Rank (?P<rank>\d+)\]:? "),
    # programs' own: [rank 2] [Rank 2/8] (rank=2) <rank 2>, and rank 2: or rank 2 | at the beginning
    ("[(<", r"[\[(<](?:[Rr]ank|RANK)[ :=#_-]?(?P<rank>\d{1,5})(?: ?/ ?\d+| of \d+)?[\])>]:? ?(?:- )?(?=\S)"),
    ("rR", r"(?:[Rr]ank|RANK)[ =]?(?P<rank>\d{1,5})(?:/\d+)?(?:: | \| | - )(?=\S)"),
    # Python logging in the American form
    (_DIGIT + "[", rf"\[?(?P<mo>\d\d)/(?P<d>\d\d)/(?P<y>20\d\d)[- ]{_TIME}\]? ?(?:- )?"),
    # TensorRT-LLM
    ("[", r"\[TRT-LLM\](?: \[RANK (?P<rank>\d+)\])? ?\[(?P<level>[A-Z])\] ?"),
    # syslog and journald
    (
        _UPPER,
        rf"(?P<mon>[A-Z][a-z]{{2}}) +(?P<d>\d{{1,2}}) {_TIME} (?P<host>\d*[A-Za-z.][\w.-]*) (?P<process>[\w./-]+?)(?:\[(?P<pid>\d+)\])?: ?",
    ),
    # UCX: [1744970122.411037] [host:pid:0] file.c:1 UCX ERROR
    ("[", r"\[(?P<epoch>\d{10}\.\d+)\] \[(?P<host>[\w.-]+):(?P<pid>\d+):\d+\] +"),
    # UCX and its signal handler: [host:pid :0] or [host:pid :0:tid]
    ("[", r"\[(?P<host>[\w.-]+):(?P<pid>\d+) +:\d+(?::\d+)?\] +"),
    # Open MPI: [host:pid], not [file.py:12]
    ("[", r"\[(?P<host>[a-z][\w-]*(?:\.[\w-]+)*?):(?P<pid>\d{2,7})\] (?=[A-Z*\d\[a-z])"),
    # dmesg
    ("[", r"\[ *(?P<uptime>\d+\.\d{3,6})\] "),
    # NCCL: host:pid:tid [dev]
    (_DIGIT + _LOWER + _UPPER + "-._", r"(?P<host>[\w.-]+):(?P<pid>\d+):\d+ \[(?P<gpu>-?\d+)\] "),
    # slurmstepd of several nodes: slurmstepd-node2: text
    ("s", r"(?P<process>slurmstepd)-(?P<host>[\w.-]+): (?=\S)"),
    # kubectl get events: 6m1s  Warning  Evicted  pod/trainer-0  text
    (
        _DIGIT,
        r"\d+[smhd][\w()]* +(?:\(\S+ \S+ \S+\) +)?(?:Normal|Warning) +\w+ +(?:pod|node)/(?P<host>[\w.-]+) +",
    ),
    # pdsh itself: pdsh@login: host: ssh exited with exit code 1
    ("p", r"pdsh@[\w.-]+: (?P<host>[\w.-]+): (?=\S)"),
    # pdsh and clush: host: text (only names with a digit, to keep "Error: text" whole)
    (_DIGIT + _LOWER, r"(?P<host>[a-z][a-z-]*[a-z0-9-]*\d[a-z0-9.-]*|\d{1,3}(?:\.\d{1,3}){3}): (?=\S|\t)"),
    # Python logging after the time: - name - ERROR - text
    ("-", r"- [\w.]+ - (?P<level>INFO|WARNING|ERROR|DEBUG|CRITICAL) - "),
    # Ray without a pid: (raylet, ip=10.0.0.1) (autoscaler +12s)
    ("(", r"\((?P<process>raylet|gcs_server|dashboard|autoscaler)(?:, ip=(?P<host>[\w.:-]+)| \+\w+)?\) "),
    # level words
    ("CDEFIW[", r"\[?(?P<level>INFO|WARN|WARNING|ERROR|DEBUG|CRITICAL|FATAL)\]?:? +(?=\S)"),
)
"""(ASCII characters that a line's head of this form can begin with, form); other characters may begin any."""

_BY_FIRST: dict[str, tuple[int, ...]] = {}
_FORMS: dict[int, re.Pattern[str]] = {}


def _rows_for(char: str) -> tuple[int, ...]:
    """Numbers of the rows that fit a first character (none at the end of a line)."""
    rows = _BY_FIRST.get(char)
    if rows is None:
        rows = tuple(
            number
            for number, (starts, _) in enumerate(ROWS)
            if char and (char in starts or not char.isascii())
        )
        _BY_FIRST[char] = rows
    return rows


def _form(number: int) -> re.Pattern[str]:
    """A row's expression, compiled when a line first comes into question: most launches use few of them."""
    form = _FORMS.get(number)
    if form is None:
        form = _FORMS[number] = re.compile(ROWS[number][1])
    return form


_RANK_IN_PROCESS = re.compile(r"(?:_|\b)TP(\d+)|Worker_(\d+)\b|[Rr]ank[_ =]?(\d+)")
_RANK_IN_NAME = re.compile(r"(?:^|[\W_])(?:rank|rk|r|process|proc|task)[-_.]?(\d{1,5})(?=\D|$)")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b\][^\x07]*\x07")
_REPEATED = re.compile(r"\s*\[repeated \d+x across cluster\].*$")


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before a message. `text` is the message with its own indentation."""

    text: str
    host: str | None = None
    rank: int | None = None
    process: str | None = None
    pid: int | None = None
    gpu: int | None = None
    level: str | None = None
    time_s: float | None = None


def clean(text: str) -> str:
    """A line without colour codes and Ray's repetition notice."""
    if "\x1b" in text:
        text = _ANSI.sub("", text)
    if "[repeated " in text:
        text = _REPEATED.sub("", text)
    return text


def parse_head(line: str) -> Head:
    """Split a cleaned line into head and message. Never fails: a line without a head is all message."""
    fields: dict[str, str] = {}
    position = 0
    for _ in range(MAX_NESTING):
        for number in _rows_for(line[position : position + 1]):
            match = (_FORMS.get(number) or _form(number)).match(line, position)
            if match and match.end() > position:
                position = match.end()
                found = match.groupdict()
                timed = "h" in fields and found.get("h") is not None
                for (
                    key,
                    value,
                ) in found.items():  # the innermost head knows best; the outermost clock is on all lines
                    if value is not None and not (timed and key in _CLOCK):
                        fields[key] = value
                break
        else:
            break
    rank = fields.get("rank") or fields.get("rank2")
    process = fields.get("process")
    if rank is None and process:
        told = _RANK_IN_PROCESS.search(process)
        if told:
            rank = next(group for group in told.groups() if group is not None)
    return Head(
        text=line[position:],
        host=fields.get("host"),
        rank=int(rank) if rank else (int(fields["local"]) if "local" in fields else None),
        process=(process or "").strip() or None,
        pid=int(fields["pid"]) if "pid" in fields else None,
        gpu=int(fields["gpu"]) if "gpu" in fields else None,
        level=fields.get("level"),
        time_s=_seconds(fields),
    )


_CARRIERS = re.compile(
    r"(?:20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d) |[A-Za-z][\w.-]*-\d+ {1,20}\| |\[pod/[^\]]+\] )+",
    re.MULTILINE,
)


def without_heads(text: str) -> str:
    """Lines as the program printed them, without what kubectl, docker and compose put before every one of them."""
    return "\n".join(
        line[found.end() :] if (found := _CARRIERS.match(line)) else line for line in text.split("\n")
    )


def rank_of_file(name: str) -> int | None:
    """The rank a file's name tells (`rank3.log`, `job-r12.out`), or None."""
    match = _RANK_IN_NAME.search(name.rsplit("/", 1)[-1].rsplit("\\", 1)[-1])
    return int(match.group(1)) if match else None


def _seconds(fields: dict[str, str]) -> float | None:
    """Seconds that compare within one log: the year is left out, since half of the forms lack it."""
    if "epoch" in fields:
        import time

        moment = time.gmtime(float(fields["epoch"]))
        return (
            (moment.tm_mon * 31 + moment.tm_mday) * 86400.0
            + moment.tm_hour * 3600
            + moment.tm_min * 60
            + float(fields["epoch"]) % 60
        )
    if "h" not in fields:
        return float(fields["uptime"]) if "uptime" in fields else None
    month = _MONTHS.get(fields.get("mon", "").lower(), 0) or int(
        (fields.get("mo") or "") + (fields.get("mo2") or "") or 0
    )
    day = int(fields.get("d") or 0)
    return (
        (month * 31 + day) * 86400.0
        + int(fields["h"]) * 3600
        + int(fields["mi"]) * 60
        + int(fields["s"])
        + float("0." + (fields.get("f") or "0"))
    )
