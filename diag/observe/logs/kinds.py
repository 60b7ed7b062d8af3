"""What a text is where it plainly is no output of a launch: told by its own form, never by what is missing."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable

from diag.observe.logs.forms.interface import FRESH
from diag.observe.logs.forms.markup import is_page
from diag.system.lazy import lazily

DOCUMENT, CODE, PAGE, DATA, TABLE = "a document", "source code", "a web page", "JSON data", "a table of data"
SCRIPT = "a script"
ACCESS, CHAT, JOURNAL, OTHER = (
    "a web server's access log",
    "a conversation",
    "a system's journal",
    "the log of another program",
)

_CODE_NAMES = lazily(
    r"\.(?:pyi?|ipynb|cu|cuh|cc|cpp|hpp|[ch]|rs|go|[jt]sx?|java|kt|scala|swift|rb|lua|pl|sql|css|cmake|proto|toml)$"
)
_DOCUMENT_NAMES = (".md", ".markdown", ".rst", ".adoc", ".tex")
_README = lazily(
    r"(?:readme|changelog|changes|contributing|license|licence|authors|code_of_conduct)(?:\.(?:md|txt|rst|adoc|markdown|html))?$",
    re.I,
)

SEEN = 8192
"""Bytes of a file that are looked at; a text of that length may be cut."""

LOG_LINE = lazily(
    FRESH.pattern
    + rb"|[\s>]*(?:[\w.]+(?:Error|Exception): |\S+ NCCL (?:INFO|WARN)|\d{1,4}: \[?[\w-]+|\[[\w-]+:\d+\] )"
)
"""A line that programs print and people do not write."""

FIELD = lazily(
    rb"(?i)torch|cuda|nvidia|\bgpu|nccl|\brank|\bmpi|slurm|srun|\bray\b|kube|\bpod\b|docker|\bcontainers?\b|vllm|sglang|triton|tensor"
    rb"|\bmodels?\b|\btrain(?:ing|er)?\b|epoch|\binfer|\bllm|etcd|\bnats|nvrm|mlx5|infiniband|rdma|deepspeed|python|\boom\b|out of memory|firewall|iptables|\bnft "
)
"""Words of a launch, its scheduler, its network and its drivers."""

_CODE_LINE = lazily(
    rb"\s*(?:#include [<\"]|#define \w|#if(?:n?def)? |(?:pub(?:\(crate\))? )?(?:fn|struct|enum|impl|mod|trait) \w|use \w[\w:]+|func \w"
    rb"|package \w+\s*;?$|import [\w{*\"'].*|from [\w.]+ import |def \w+\(|class \w+|(?:export )?(?:const|let|var|function|interface) \w"
    rb"|(?:public|private|protected|static|template|namespace|using|typedef) |@\w+[\w.]*(?:\(.*)?$|//|/\*|\*/?|\}|return\b.*;?$"
    rb"|(?:if|for|while|switch|else|elif|try|except)\b.*[:{]$|.*[;{]\s*$|SELECT |CREATE TABLE )"
)
_ACCESS_LINE = lazily(
    rb'\S+ \S+ \S+ \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [^\]]*\] "[A-Z]+ \S+ HTTP/[\d.]+" \d{3} '
)
_CHAT_LINE = lazily(
    rb"(?:\[?(?:\d{1,4}[./-]\d{1,2}[./-]\d{2,4},? )?\d{1,2}:\d{2}(?::\d{2})?(?: ?[AP]M)?\]? ?(?:- )?)(?:<[\w .@-]{1,30}> |[A-Za-z][\w .@-]{0,30}: )\S"
    rb"|<[\w .@-]{2,30}> \S"
)
_SYSLOG_LINE = lazily(
    rb"(?:[A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d|20\d\d-\d\d-\d\dT\S+) \S+ ([\w./@()-]+?)(?:\[\d+\])?: "
)
_OTHER_LINES = (
    rb"20\d\d/\d\d/\d\d \d\d:\d\d:\d\d \[(?:error|warn|notice|crit|info|alert|emerg)\] \d+#\d+: ",  # nginx
    rb"\[[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d(?:\.\d+)? \d{4}\] \[\w*:?\w+\] ",  # Apache
    rb"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \w{3,4} \[\d+\](?: \S+)? (?:LOG|ERROR|FATAL|DETAIL|HINT|STATEMENT|WARNING): ",  # PostgreSQL
    rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z \d+ \[(?:Note|System|Warning|ERROR)\] ",  # MySQL
    rb"npm (?:ERR!|error|WARN|warn|info|notice)",
    rb"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d (?:status|install|configure|startup|upgrade|trigproc|remove) ",  # dpkg
    rb"\[ *\d+\.\d{3}\] (?:\((?:II|EE|WW|==|--|\*\*|!!)\)|X\.Org|xorg|\t)",  # Xorg
    rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d+\S* +(?:INFO|WARN|ERROR|DEBUG) +(?:\d+ --- |\[[\w-]+\] [\w.$]+\.)",  # Java
    rb"\s+at [\w.$]+\([\w$]+\.java:\d+\)|(?:Caused by: )?(?:java|javax|org)\.[\w.$]+(?:Exception|Error)\b",
    rb"commit [0-9a-f]{40}|Author: .+ <\S+@\S+>|Date:   [A-Z]",  # git
    rb"(?:Get|Hit|Ign|Err):\d+ https?://",  # apt
)
_OTHER = lazily(rb"(?:" + rb"|".join(_OTHER_LINES) + rb")")


def is_readme(name: str) -> bool:
    """True for the names that a project's own documents have; what they show as printed is an example."""
    return _README.match(name.rsplit("/", 1)[-1].rsplit("!", 1)[-1]) is not None


def kind_of(name: str, head: bytes) -> str | None:
    """What the text is, or None where it may be a launch's."""
    head = head.removeprefix(b"\xef\xbb\xbf")
    lines = [line for line in head.split(b"\n") if line.strip()]
    if len(head) > SEEN - 1 and len(lines) > 1:
        lines.pop()  # cut
    if _share(lines[:20], _LEVEL.match) > 0.5:
        return None  # levels and ranks before the text: somebody's log, told in a moment
    stem = name.rsplit("/", 1)[-1].rsplit("!", 1)[-1].lower()
    for kind, holds in _KINDS:
        if holds(stem, head, lines):
            return kind
    return None


_LEVEL = lazily(rb".{0,60}(?:\b(?:INFO|WARN|WARNING|ERROR|DEBUG)\b|\[rank\d|pid=\d|NCCL )")


def _share(lines: list[bytes], holds: Callable[[bytes], object]) -> float:
    return sum(bool(holds(line)) for line in lines) / max(1, len(lines))


def _is_data(_name: str, head: bytes, lines: list[bytes]) -> bool:
    """JSON that is no object of Kubernetes, whose states and messages are a launch's."""
    if not re.match(rb"\s*[\[{]", head) or (b'"kind"' in head and b'"apiVersion"' in head):
        return False
    if len(head) < SEEN:
        try:
            return isinstance(json.loads(head), dict | list)
        except (ValueError, RecursionError):
            pass
    begun = _share(lines, re.compile(rb'\s*\{\s*"[^"]{1,80}"\s*:').match) > 0.95  # one object a line
    return begun or _share(lines, _JSON_LINE.fullmatch) > 0.95


_STRING = rb'"(?:[^"\\]|\\.)*"'
_VALUE = rb"(?:" + _STRING + rb"|-?\d[\d.eE+-]*|true|false|null|\{\}|\[\]|[\[{])"
_JSON_LINE = lazily(
    rb"\s*(?:(?:"
    + _STRING
    + rb"\s*:\s*)?"
    + _VALUE
    + rb"\s*,?|[\]}\s]+,?|(?:-?\d[\d.eE+-]*,\s*)+-?\d[\d.eE+-]*,?)\s*"
)


def _is_script(_name: str, head: bytes, _lines: list[bytes]) -> bool:
    return re.match(rb"#!.{0,40}\b(?:ba|z|da|k|c)?sh\b", head) is not None


def _is_code(name: str, head: bytes, lines: list[bytes]) -> bool:
    if re.match(rb"#!.{0,40}\b(?:python[\d.]*|perl|node|ruby)\b", head):
        return True
    named = _CODE_NAMES.search(name) is not None
    if named:
        return _share(lines, LOG_LINE.match) < 0.1
    if _share(lines, LOG_LINE.match) or _share(lines, _TYPED.match):
        return False
    declared = sum(bool(_DECLARES.match(line)) for line in lines)
    return len(lines) >= 5 and ((declared >= 2 and _share(lines, _CODE_LINE.match) > 0.6) or _parses(head))


_TYPED = lazily(rb"\++ |(?:\S+@\S+|\([\w.-]+\)).{0,60}[$#] |[$#] \S")
"""What a shell's trace or prompt shows: commands that were run."""
_DECLARES = lazily(
    rb"\s*(?:#include [<\"]|(?:pub )?(?:fn|struct|enum|impl|trait) \w|use \w+::|func \w+\(|package \w+\s*;?$|import [\w{*\"']"
    rb"|from [\w.]+ import |def \w+\(|class \w+.*[:{]$|(?:export )?(?:const|let|function) \w|(?:public|private|template|namespace) )"
)


def _parses(head: bytes) -> bool:
    """True for Python with something in it that only programs have."""
    text = head.decode("utf-8", "replace")
    for _ in range(60):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            if len(head) < SEEN:
                return False
            text = text[
                : max(text.rfind("\n" + start) for start in ("def ", "class ", "@", "import ", "from ")) + 1
            ]
            if not text:
                return False
            text = text.rstrip("\n")
            continue
        return any(
            isinstance(
                one, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef
            )
            for one in tree.body
        )
    return False


def _is_page(_name: str, head: bytes, _lines: list[bytes]) -> bool:
    return is_page(head) or head.lstrip()[:5] == b"<?xml"


def _is_access(_name: str, _head: bytes, lines: list[bytes]) -> bool:
    return len(lines) >= 2 and _share(lines, _ACCESS_LINE.match) >= 0.9


def _is_chat(_name: str, _head: bytes, lines: list[bytes]) -> bool:
    return len(lines) >= 3 and _share(lines, _CHAT_LINE.match) >= 0.6 and _share(lines, _LEVEL.search) == 0.0


_LEVEL = lazily(
    rb"(?<![\w/])(?:INFO|ERROR|DEBUG|FATAL|CRITICAL|WARNING|NCCL WARN)(?!\w)|Traceback \(most|\w+Error: "
)


def _is_journal(_name: str, _head: bytes, lines: list[bytes]) -> bool:
    return len(lines) >= 3 and _share(lines, _SYSLOG_LINE.match) >= 0.9


def _is_other(_name: str, _head: bytes, lines: list[bytes]) -> bool:
    return len(lines) >= 2 and _share(lines, _OTHER.match) >= 0.5


def _is_table(_name: str, _head: bytes, lines: list[bytes]) -> bool:
    if len(lines) < 3:
        return False
    for mark in (b",", b"\t", b";"):
        counts = [line.count(mark) for line in lines]
        if counts[0] >= 1 and counts.count(counts[0]) > 0.95 * len(counts):
            cells = [cell.strip(b' "\r') for cell in lines[0].split(mark)]
            return all(re.fullmatch(rb"[\w .()/%#@:\[\]-]{0,60}", cell) for cell in cells) and (
                _share(lines, LOG_LINE.match) == 0.0
            )
    return False


def _is_document(name: str, head: bytes, lines: list[bytes]) -> bool:
    printed = _share(lines, _PRINTED.match)
    if is_readme(name) and printed < 0.1:
        return True
    if printed or b"Traceback (most recent" in head:
        return False
    flush = [line for line in lines if line[:1] not in b" \t"]
    prose, marked = _share(flush, is_prose), _share(flush, _MARKED.match)
    if name.endswith(_DOCUMENT_NAMES) or (prose >= 0.15 and _is_markdown(lines)):
        return prose + marked >= 0.3
    return (
        len(lines) >= 2 and prose >= 0.6 and _share(lines, LOG_LINE.match) == 0.0 and not FIELD.search(head)
    )


_PRINTED = lazily(FRESH.pattern + rb"|\S+ NCCL (?:INFO|WARN)")


def _is_markdown(lines: list[bytes]) -> bool:
    titles = sum(bool(re.match(rb"#{1,4} [A-Z]", line)) for line in lines)
    return titles >= 2 and any(
        re.search(rb"\]\(|`\w", line) or line.startswith((b"```", b"- ", b"* ")) for line in lines
    )


_MARKED = lazily(
    rb"(?:#{1,6} \S|[-*] (?:\[.?\] )?[A-Z*`\[]|\d{1,2}\. [A-Z]|\||>|```|!?\[.{1,200}\]\(|[=~^*-]{4,}\s*$|\* |- |:\w+:|<!--|\.\. \w+::|={4,}$|-{4,}$)"
)
_WORD = lazily(rb"[A-Za-z][A-Za-z'-]*[,.;:!?)]*|`[^`]+`[,.]?|\([A-Za-z'-]+")


def is_prose(line: bytes) -> bool:
    """Words and little else: what people write."""
    words = line.split()
    if len(words) < 5:
        return False
    plain = sum(bool(_WORD.fullmatch(word)) for word in words)
    small = sum(word[:1].islower() for word in words)
    return plain >= 0.85 * len(words) and small >= 0.5 * len(words) and line[:1] not in b" \t["


_KINDS: tuple[tuple[str, Callable[[str, bytes, list[bytes]], bool]], ...] = (
    (PAGE, _is_page),
    (DATA, _is_data),
    (SCRIPT, _is_script),
    (CODE, _is_code),
    (ACCESS, _is_access),
    (CHAT, _is_chat),
    (OTHER, _is_other),
    (JOURNAL, _is_journal),
    (TABLE, _is_table),
    (DOCUMENT, _is_document),
)
