"""Forms in which people hand a log in, made from a log: none of them may change the answer.

    python benchmarks/log_forms.py FOLDER... [--only NAME] [--step N]

Lists every case (a folder with case.yaml) whose first answer or exit code differs in another form.
"""

from __future__ import annotations

import argparse
import collections
import csv
import gzip
import html
import io
import json
import random
import re
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

from diag.diagnose.engine import diagnose
from diag.diagnose.pipeline import conclude, evidence_of
from diag.observe.logs.reading import LogReader, build_reader
from diag.playbooks.base import Base, load_base

Form = Callable[[bytes], bytes]

NOISE = (
    "FutureWarning: `clean_up_tokenization_spaces` was not set.",
    "WARNING 04-28 08:14:33 [fused_moe.py:882] Using default MoE config. Performance might be sub-optimal!",
    "提示：正在加载数据集，请稍候",
    "[W428 08:14:21.1 socket.cpp:204] [c10d] The hostname of the client socket cannot be retrieved. err=-3",
    "Setting OMP_NUM_THREADS environment variable for each process to be 1 in default",
)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def by_line(change: Callable[[str], str]) -> Form:
    """A form that changes every line alike."""
    return lambda data: ("\n".join(map(change, _lines(_text(data)))) + "\n").encode()


def noisy(seed: int) -> Form:
    """Lines of a healthy launch in between, but not inside a traceback."""

    def change(data: bytes) -> bytes:
        chooser = random.Random(seed)
        lines: list[str] = []
        for line in _lines(_text(data)):
            apart = not line.startswith((" ", "\t")) and "  File " not in line and "rror" not in line
            if chooser.random() < 0.2 and apart:
                lines.append(chooser.choice(NOISE))
            lines.append(line)
        return ("\n".join(lines) + "\n").encode()

    return change


def later(data: bytes) -> bytes:
    """Another day of the same month: what stands in dates must not matter."""

    def day(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) % 27 + 1:02d}{found[3]}"

    text = re.sub(r"\b(20\d\d-\d\d-)(\d\d)([T ]\d\d:)", day, _text(data))
    return re.sub(r"\b([A-Z]{4,8} \d\d-)(\d\d)( \d\d:)", day, text).encode()


def wrapped(columns: int) -> Form:
    """Copied from a terminal: lines end where the window ended."""

    def change(line: str) -> str:
        shown = line.expandtabs().rstrip("\r").split("\r")
        return "\n".join(piece for one in shown for piece in _cells(one, columns))

    return by_line(change)


def _cells(line: str, columns: int) -> list[str]:
    pieces, used = [""], 0
    for one in line:
        wide = 2 if unicodedata.east_asian_width(one) in "WF" else 1
        if used + wide > columns:
            pieces.append("")
            used = 0
        pieces[-1] += one
        used += wide
    return pieces


def folded(columns: int) -> Form:
    """Wrapped between words, as fold -s and mail programs do."""

    def change(line: str) -> str:
        parts = []
        while len(line) > columns:
            at = line.rfind(" ", 0, columns) + 1
            at = at if line[:at].strip() else columns
            parts.append(line[:at])
            line = line[at:]
        return "\n".join([*parts, line])

    return by_line(change)


def docker_json(line: str) -> str:
    """The json-file driver of docker."""
    return json.dumps({"log": line + "\n", "stream": "stderr", "time": "2026-01-02T03:04:05.000000001Z"})


def loki_json(line: str) -> str:
    """Lines as logcli and Grafana export them."""
    return json.dumps({"labels": {"pod": "serve-0"}, "message": line, "timestamp": "2026-01-02T03:04:05Z"})


def fluent_json(line: str) -> str:
    """fluentd's records, with what Kubernetes knows about the container."""
    place = {"pod_name": "serve-0", "container_name": "main", "namespace_name": "ml"}
    return json.dumps(
        {"kubernetes": place, "log": line, "time": "2026-01-02T03:04:05.1Z"}, ensure_ascii=False
    )


def cloud_logging(data: bytes) -> bytes:
    """`gcloud logging read --format=json`: an indented list of entries."""
    entries = [
        {
            "insertId": f"x{number}",
            "labels": {"k8s-pod/app": "serve"},
            "resource": {
                "labels": {"pod_name": "serve-0", "container_name": "main"},
                "type": "k8s_container",
            },
            "severity": "ERROR",
            "textPayload": line,
            "timestamp": "2026-01-02T03:04:05.1Z",
        }
        for number, line in enumerate(_lines(_text(data)))
    ]
    return json.dumps(entries, indent=2).encode()


def cloudwatch_json(data: bytes) -> bytes:
    """`aws logs get-log-events`."""
    events = [
        {"timestamp": 1767323045000 + number, "message": line, "ingestionTime": 1767323046000}
        for number, line in enumerate(_lines(_text(data)))
    ]
    return json.dumps({"events": events, "nextForwardToken": "f/1"}, indent=4).encode()


def cloudwatch_csv(data: bytes) -> bytes:
    """The console's download."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["timestamp", "message"])
    for number, line in enumerate(_lines(_text(data))):
        rows.writerow([1767323045000 + number, line])
    return out.getvalue().encode()


def insights_csv(data: bytes) -> bytes:
    """Another column order, and everything quoted."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    rows.writerow(["@timestamp", "@logStream", "@message"])
    for line in _lines(_text(data)):
        rows.writerow(["2026-01-02 03:04:05.000", "serve-0", line])
    return out.getvalue().encode()


def records_json(data: bytes) -> bytes:
    """One record for all that was written within a second: several lines in one message."""
    lines = _lines(_text(data))
    groups = ["\n".join(lines[at : at + 7]) for at in range(0, len(lines), 7)]
    return "".join(json.dumps({"level": "info", "msg": group}) + "\n" for group in groups).encode()


def issue(data: bytes) -> bytes:
    """The text of an issue, with the log between fences."""
    about = "### What happened?\n\nThe launch fails on our cluster, please help.\n\n<details>\n<summary>Log</summary>\n\n"
    return f"{about}```text\n".encode() + data.rstrip(b"\n") + b"\n```\n\n</details>\n"


def issue_in_list(data: bytes) -> bytes:
    """The same in a list, indented."""
    return b"1. start it\n2. it prints\n\n   ```\n" + by_line(lambda line: "   " + line)(data) + b"   ```\n"


def page(data: bytes) -> bytes:
    """A console saved by the browser."""
    text = html.escape(_text(data))
    return f"<!DOCTYPE html>\n<html><head><title>Console</title></head><body>\n<pre>{text}</pre>\n</body></html>\n".encode()


LAUNCHERS = {
    "compose": "vllm-1  | ",
    "kubectl-times": "2026-01-02T03:04:05.000000001Z ",
    "kubectl-prefix": "[pod/serve-0-abcde/main] ",
    "cri": "2026-01-02T03:04:05.000000001+00:00 stderr F ",
    "srun": "0: ",
    "mpirun": "[1,0]<stderr>:",
    "torchrun": "[rank0]: ",
    "elastic-tee": "[default0]:",
    "ray": "(train_loop pid=3121, ip=10.0.0.7) ",
    "journald": "Jan 02 03:04:05 node-3 launch[812]: ",
    "horovod": "[0]<stderr>:",
    "skypilot": "(worker1, rank=0, pid=2049, ip=10.142.0.41) ",
}

FORMS: dict[str, Form] = {
    "crlf": lambda data: data.replace(b"\n", b"\r\n"),
    "ansi": by_line(lambda line: f"\x1b[33m{line}\x1b[0m"),
    "chinese-around": lambda data: (
        "今天启动失败了，日志如下：\n".encode() + data + "\n请问怎么解决？\n".encode()
    ),
    "noise": noisy(7),
    "later": later,
    "wrap-80": wrapped(80),
    "wrap-120": wrapped(120),
    "fold-100": folded(100),
    "quoted": by_line(lambda line: "> " + line),
    "quoted-twice": by_line(lambda line: "> > " + line),
    "indented": by_line(lambda line: "    " + line),
    "tab-indented": by_line(lambda line: "\t" + line),
    "html-escaped": lambda data: html.escape(_text(data)).encode(),
    "html-page": page,
    "cp1252": lambda data: _text(data).encode("cp1252", "replace"),
    "gbk": lambda data: _text(data).encode("gbk", "replace"),
    "utf-16": lambda data: _text(data).encode("utf-16"),
    "utf-16-be": lambda data: b"\xfe\xff" + _text(data).encode("utf-16-be"),
    "utf-16-bare": lambda data: _text(data).encode("utf-16-le"),
    "utf-8-bom": lambda data: b"\xef\xbb\xbf" + data,
    "issue": issue,
    "issue-in-list": issue_in_list,
    "docker-json": by_line(docker_json),
    "loki-json": by_line(loki_json),
    "fluent-json": by_line(fluent_json),
    "records-json": records_json,
    "cloud-logging": cloud_logging,
    "cloudwatch-json": cloudwatch_json,
    "cloudwatch-csv": cloudwatch_csv,
    "insights-csv": insights_csv,
    "gz": gzip.compress,
    **{name: by_line(lambda line, prefix=prefix: prefix + line) for name, prefix in LAUNCHERS.items()},  # type: ignore[misc]
}
"""Name -> bytes of the other form. None of them may change the answer."""


def cut(share: float) -> Form:
    """Without its tail; the answer may become weaker or go, but not another."""
    return lambda data: data[: int(len(data) * (1 - share))]


def logs_of(case: Path) -> list[Path]:
    """The files of a case."""
    return sorted(path for path in case.iterdir() if path.name != "case.yaml" and path.is_file())


def answer(base: Base, reader: LogReader, paths: list[Path]) -> tuple[str | None, int]:
    """The first answer's id and the exit code."""
    evidence = evidence_of([str(path) for path in paths], reader)
    found = diagnose(base, evidence)
    return (found[0].id if found else None), conclude("explain", base, evidence).exit_code


def rewritten(case: Path, folder: Path, form: Form) -> list[Path]:
    """The case's files in another form."""
    paths = []
    for path in logs_of(case):
        target = folder / path.name
        target.write_bytes(form(path.read_bytes()))
        paths.append(target)
    return paths


def main() -> int:
    """List what changes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--step", type=int, default=1)
    options = parser.parse_args()
    base = load_base()
    reader = build_reader(base)
    cases = sorted(path.parent for top in options.folders for path in top.rglob("case.yaml"))[:: options.step]
    changed: collections.Counter[str] = collections.Counter()
    for case in cases:
        expected = answer(base, reader, logs_of(case))
        for name, form in FORMS.items():
            if options.only and name not in options.only:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    got: object = answer(base, reader, rewritten(case, Path(folder), form))
                except Exception as error:  # noqa: BLE001  every form of failure is to be listed
                    got = f"{type(error).__name__}: {error}"
            if got != expected:
                changed[name] += 1
                print(f"{name:16} {case.parent.name}/{case.name}: {expected} -> {got}", flush=True)
    print(f"{len(cases)} cases;", dict(changed.most_common()))
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
