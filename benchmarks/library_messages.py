"""What do the failure messages of a library's own source get? Each is rendered as a log line and diagnosed alone.

    python benchmarks/library_messages.py nccl=~/src/nccl:v2.18.5-1,v2.27.5-1 ucx=~/src/ucx torch=site-packages/torch
        [--only worker-died,none] [--grep WORDS] > table.tsv

The sources are not part of this project: git checkouts (bare ones too, `:` gives tags) or folders of Python files.
A row: library, place, kind of message, the answers (first `none` or the diagnoses that are no echo), the message.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diag.diagnose.knowledge import diagnose_text
from diag.model import Role
from diag.observe.logs.reading import build_reader
from diag.playbooks.base import load_base

LITERAL = r'"(?:[^"\\\n]|\\.)*"'
MACROS: dict[str, str] = {
    "nccl": r"\b(WARN|ERROR)\s*\(",
    "ofi": r"\b(NCCL_OFI_WARN)\s*\(",
    "ucx": r"\b(ucs_error|ucs_fatal|ucs_warn|ucp_\w*error|uct_\w*(?:error|log)|UCS_\w+_ERROR|ucs_log)\s*\(",
    "nixl": r"\b(NIXL_ERROR|NIXL_WARN|NIXL_PERROR|NIXL_LOG|throw std::\w+|throw \w+)\b",
    "gloo": r"\b(GLOO_THROW\w*|GLOO_ENFORCE\w*|GLOO_ERROR|GLOO_WARN|MAKE_\w*EXCEPTION|throw\s+[\w:]*Exception|GLOO_SOCKET_ENFORCE\w*|signalException)\b",
    "slurm": r"\b(error|fatal|slurm_error|slurm_perror|print_error|slurm_fatal|log_fatal|info_error|sinfo_error)\s*\(",
    "nvidia": r"\b(NV_PRINTF|nv_printf|NV_PRINTF_COND|nvErrorLog_va|nvErrorLog|NVRM_LOG|LOG_ERR|ROBUST_CHANNEL_\w+)\b",
    "go": r"(?:\b(?:fmt\.Errorf|errors\.New|logger\.(?:Error|Warning)f?|logrus\.(?:Error|Warn)f?|logging\.\w+)\s*\()",
    "nvshmem": r"\b(NVSHMEMI?_(?:ERROR|WARN)\w*|NVSHMEMX_ERROR\w*|NZ_ERROR_JMP|NULL_ERROR_JMP|NE_ERROR_JMP|EQ_ERROR_JMP|NVSHMEMI_\w+ERROR\w*|fprintf|NVSHMEM_ERROR_\w+)\b",
    "mooncake": r"\b(LOG\((?:ERROR|WARNING|FATAL)\)|PLOG\((?:ERROR|WARNING)\))",
    "c10": r"\b(TORCH_CHECK\w*|C10_THROW_ERROR|LOG|C10D_(?:ERROR|WARNING)|TORCH_WARN\w*|throw)\b",
}
SUFFIXES = (".c", ".cc", ".cpp", ".cxx", ".cu", ".h", ".hpp", ".inl", ".go")


@dataclass(frozen=True)
class Message:
    """One sentence of a library's source, with place and kind."""

    place: str
    kind: str
    text: str
    function: str = ""


def plain(text: str) -> str:
    """A format string with everyday values in its holes."""
    text = re.sub(r"%[-+ #0]*[\d.*]*(?:hh|h|ll|l|z|j)?[diu]", "3", text)
    text = re.sub(r"%[-+ #0]*[\d.*]*(?:hh|h|ll|l|z|j)?[xXp]", "0x1f", text)
    text = re.sub(r"%[-+ #0]*[\d.*]*(?:l|L)?[feg]", "1.5", text)
    text = re.sub(r"%[-+ #0]*[\d.*]*l?[sqvwc]", "abc", text)
    text = re.sub(r"\" ?(?:PRI[a-zA-Z]+\d*|\w*FMT\w*|NvU64_\w+) ?\"", "3", text)
    return text.replace("%%", "%").replace("\\n", " ").replace("\\t", " ").replace('\\"', '"').strip()


def of_c(path: str, text: str, macro: str) -> Iterator[Message]:
    """Messages of C, C++ and Go: the string literals between a macro and the end of its statement."""
    text = re.sub(r"//[^\n]*?$", "", text, flags=re.M)
    for found in re.finditer(macro, text):
        rest = text[found.end() : found.end() + 900]
        statement = re.split(r"\)\s*;|;\s*\n|\n\s*\n", rest, maxsplit=1)[0]
        parts = re.findall(LITERAL, statement)
        words = plain("".join(_joined(statement)) if parts else "")
        if len(words) >= 6 and re.search(r"[a-z]{3}", words):
            line = text.count("\n", 0, found.start()) + 1
            yield Message(f"{path}:{line}", found.group(0).strip("( "), words)


def _joined(statement: str) -> Iterator[str]:
    """Adjacent literals belong together; what stands between streamed ones is a value."""
    end = None
    for part in re.finditer(LITERAL, statement):
        if end is not None:
            between = statement[end : part.start()]
            if "<<" in between.strip("< \n") or re.search(r"\w", between.replace("<<", "")):
                if "<<" in between or "+" in between:
                    yield "abc"
                elif "," in between:
                    yield " "
        yield part.group(0)[1:-1]
        end = part.end()


class _Python(ast.NodeVisitor):
    """Raised and logged sentences of a Python file, with the function around them."""

    LEVELS = ("error", "warning", "critical", "exception", "fatal", "warn", "warning_once", "warning_advice")

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[Message] = []
        self.functions: list[str] = ["<module>"]

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.functions.append(node.name)
        self.generic_visit(node)
        self.functions.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Raise(self, node: ast.Raise) -> None:
        if isinstance(node.exc, ast.Call) and node.exc.args:
            name = ast.unparse(node.exc.func)
            self._add(node, f"raise {name}", node.exc.args[0])
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        if node.msg is not None:
            self._add(node, "raise AssertionError", node.msg)

    def visit_Call(self, node: ast.Call) -> None:
        level = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if level in self.LEVELS and node.args:
            self._add(node, f"log {level}", node.args[0])
        self.generic_visit(node)

    def _add(self, node: ast.AST, kind: str, value: ast.expr) -> None:
        words = plain(_words(value))
        if len(re.findall(r"[a-z]{3,}", words)) >= 2:
            self.found.append(
                Message(f"{self.path}:{getattr(node, 'lineno', 0)}", kind, words, self.functions[-1])
            )


def _words(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            _words(part) if isinstance(part, ast.Constant) else _value(ast.unparse(part))
            for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _words(node.left) + _words(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return _words(node.left)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return re.sub(r"\{[^}]*\}", "abc", _words(node.func.value))
    return ""


def _value(expression: str) -> str:
    name = expression.lower()
    for hint, value in (
        ("port", "29500"),
        ("rank", "3"),
        ("host", "node7"),
        ("addr", "10.0.0.7"),
        ("path", "/d/x"),
    ):
        if hint in name:
            return value
    return "8" if re.search(r"size|num|count|world|len|degree|device", name) else "abc"


def of_python(path: str, text: str) -> list[Message]:
    """Messages of one Python file; none of one that this Python cannot parse."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    visitor = _Python(path)
    visitor.visit(tree)
    return visitor.found


def of_help(path: str, text: str) -> Iterator[Message]:
    """Open MPI's and PRRTE's help files: sections under [names]."""
    for part in re.split(r"^\[", text, flags=re.M)[1:]:
        name, _, body = part.partition("]")
        body = "\n".join(line for line in body.splitlines() if not line.startswith("#"))
        yield Message(f"{path}[{name}]", "help", plain(body))


def of_binary(path: Path) -> Iterator[Message]:
    """Sentences in a shared library."""
    out = subprocess.run(
        ["strings", "-n", "12", str(path)], capture_output=True, text=True, check=True
    ).stdout
    for number, line in enumerate(dict.fromkeys(out.splitlines())):
        if len(re.findall(r"\b[a-z]{2,}\b", line)) >= 3 and not re.search(
            r"[;{}<>]{2}|::\w+::|^_Z|\) ->", line
        ):
            yield Message(f"{path.name}#{number}", "binary", plain(line))


def files_of(source: str) -> Iterator[tuple[str, str]]:
    """(path, text) of a git checkout at tags, or of a folder."""
    where, _, tags = source.partition(":")
    top = Path(where).expanduser()
    if not tags and top.is_file():
        yield top.name, top.read_text(errors="replace")
        return
    if not tags and not (top / "HEAD").exists() and not (top / ".git").exists():
        for path in sorted(top.rglob("*")):
            if path.suffix in (*SUFFIXES, ".py", ".txt") and path.is_file():
                yield str(path.relative_to(top)), path.read_text(errors="replace")
        return
    for tag in (tags or "HEAD").split(","):
        names = _git(top, "ls-tree", "-r", "--name-only", tag).splitlines()
        for name in names:
            if name.endswith((*SUFFIXES, ".py", ".txt")) and not re.search(
                r"(^|/)(?:tests?|gtest|examples?|docs)/", name
            ):
                yield f"{tag}:{name}", _git(top, "show", f"{tag}:{name}")


def _git(top: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(top), *arguments], capture_output=True, check=True)
    return done.stdout.decode(errors="replace")


def messages_of(library: str, source: str) -> Iterator[Message]:
    """Each distinct sentence of a library once, where it was met first."""
    seen: set[str] = set()
    if source.endswith(".so") or ".so." in source:
        yield from of_binary(Path(source).expanduser())
        return
    for path, text in files_of(source):
        found: Iterable[Message] = ()
        if path.endswith(".py"):
            found = of_python(path, text)
        elif path.endswith(".txt"):
            found = of_help(path, text) if "help-" in path else ()
        elif path.endswith(SUFFIXES):
            found = of_c(
                path, text, MACROS["go"] if path.endswith(".go") else MACROS.get(library, MACROS["c10"])
            )
        for one in found:
            key = re.sub(r"\W+", "", one.text)
            if key not in seen:
                seen.add(key)
                yield one


def rendered(library: str, one: Message) -> str:
    """The message as its program prints it."""
    file = one.place.split(":")[-2] if one.place.count(":") > 1 else one.place.split(":")[0]
    short, line = file.rsplit("/", 1)[-1], one.place.rsplit(":", 1)[-1]
    if one.kind.startswith("raise"):
        name = one.kind.split(" ", 1)[1]
        head = f'Traceback (most recent call last):\n  File "/v/lib/python3.11/site-packages/{library}/{file}", line {line}, in '
        return f"{head}{one.function}\n    raise {name}(\n{name}: {one.text}\n"
    if one.kind.startswith("log"):
        level = "WARNING" if "warn" in one.kind else "ERROR"
        return f"2026-06-02 10:01:02,123 {level} {short.removesuffix('.py')}: {one.text}\n"
    heads = {
        "nccl": f"n1:312:845 [0] {'/'.join(file.split('/')[-2:])}:{line} NCCL WARN ",
        "ofi": f"n1:312:845 [0] {one.function or 'f'}:{line} NCCL WARN NET/OFI ",
        "ucx": f"[1754894527.298402] [n1:281  :0] {short:>20}:{line:<4} UCX  {'WARN ' if 'warn' in one.kind else 'ERROR'} ",
        "nixl": f"E0602 10:01:02.123456    4410 {short}:{line}] ",
        "slurm": "slurmstepd: error: " if "slurmstepd" in file else "srun: error: ",
        "nvidia": "[  812.301234] NVRM: ",
        "go": "Error: ",
        "c10": f"[rank3]:[E602 10:01:02.123456789 {short}:{line}] ",
    }
    return heads.get(library, "" if one.kind == "help" else "RuntimeError: ") + one.text + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", metavar="LIBRARY=PATH[:TAG,TAG]")
    parser.add_argument("--only", default="", help="rows with one of these answers")
    parser.add_argument("--grep", default="", help="messages or places that match")
    options = parser.parse_args()
    base = load_base()
    reader = build_reader(base)
    only = set(filter(None, options.only.split(",")))
    for argument in options.sources:
        library, _, source = argument.partition("=")
        for one in messages_of(library, source):
            if options.grep and not re.search(options.grep, f"{one.place} {one.text}"):
                continue
            found = diagnose_text(base, reader, rendered(library, one))
            ids = [
                f"{a.id}{'?' if a.strength.value == 'possible' else ''}"
                for a in found
                if a.role is not Role.ECHO
            ]
            if not only or only & {name.rstrip("?") for name in ids or ["none"]}:
                print(
                    library,
                    one.place,
                    one.kind,
                    ",".join(ids) or "none",
                    one.text.replace("\n", " ")[:400],
                    sep="\t",
                )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
