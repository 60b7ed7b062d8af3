"""What is no log of a launch is refused in one sentence; what may be one never is."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.pipeline import explain
from diag.system import UserError

ROOT = Path(__file__).parents[2]

README = """# Demo

A small tool that helps people to sort their photos by day and by place.

## Usage

Run `sort` and wait. If it exits with code 1, press Ctrl-C (KeyboardInterrupt) and try again.
"""
SCRIPT = """import os


def main():
    raise RuntimeError("exited with code 3")


try:
    main()
except KeyboardInterrupt:
    os._exit(1)
"""
ACCESS = """10.0.0.5 - - [01/Nov/2026:06:25:24 +0000] "GET /index.html HTTP/1.1" 200 612 "-" "Mozilla/5.0"
10.0.0.6 - bob [01/Nov/2026:06:25:25 +0000] "POST /api/login HTTP/1.1" 500 12 "-" "curl/8.0"
"""
CHAT = """[10:02] anna: did the deploy work yesterday?
[10:03] ben: no, it failed to start and I stopped it with SIGTERM
[10:04] anna: ok, lunch?
[10:05] ben: exit code 1 on everything today, yes please
"""
DESKTOP = """Nov 28 09:12:01 laptop systemd[1]: Started GNOME Display Manager.
Nov 28 09:12:04 laptop gnome-shell[2211]: JS ERROR: TypeError: this._indicator is null
Nov 28 09:12:07 laptop systemd[1]: fwupd.service: Main process exited, code=exited, status=1/FAILURE
Nov 28 09:12:09 laptop gnome-terminal-server[3100]: segfault handler: (core dumped)
Nov 28 09:12:11 laptop dbus-daemon[1001]: [session uid=1000 pid=2101] Failed to activate service 'org.bluez': timed out
"""
PAGE = "<!DOCTYPE html>\n<html><head><title>News</title></head>\n<body><p>It exited with code 1 &amp; more.</p></body></html>\n"
JAVA = """2026-11-28 09:12:07.120  INFO 4711 --- [main] com.example.shop.Application : Starting Application
2026-11-28 09:12:09.001 ERROR 4711 --- [main] com.example.shop.Application : Application run failed, exit code 1
java.lang.IllegalStateException: no data source
\tat com.example.shop.Application.main(Application.java:12)
"""
LETTER = """Dear all,
please note that the meeting on Friday was moved to the large room upstairs.
If nobody comes, the caretaker exits with code 1 and turns the lights off again.
Kind regards and thanks to everyone who helped with the party last week.
"""

STRANGERS = {
    "README.md": (README, "a document"),
    "notes.txt": (README, "a document"),
    "letter.txt": (LETTER, "a document"),
    "tool.py": (SCRIPT, "source code"),
    "pasted.txt": (SCRIPT, "source code"),
    "orders.csv": ("id,name,amount\n1,anna,12.50\n2,ben,99.00\n3,carla,7.25\n", "a table of data"),
    "package.json": ('{"name": "demo", "scripts": {"test": "exit code 1"}}\n', "JSON data"),
    "rows.jsonl": ('{"id": 1, "killed": "Killed process 7"}\n{"id": 2, "killed": "no"}\n', "JSON data"),
    "news.html": (PAGE, "a web page"),
    "access.log": (ACCESS, "a web server's access log"),
    "chat.txt": (CHAT, "a conversation"),
    "desktop.txt": (DESKTOP, "a system's journal"),
    "shop.log": (JAVA, "the log of another program"),
    "run.sh.txt": ("#!/bin/bash\nset -e\nmake install || exit 1\n", "a script"),
}

LAUNCHES = {
    "an unknown program with a code": "work begins\nfrobnicator exited with code 7\n",
    "prose by mpirun": (
        "The launcher has detected that a process on one of the nodes ended before it had called finalize.\n"
        "This may have happened because of a fault of the process or because somebody has stopped it.\n"
        "You may find more in the output of the process, which exited with code 9 on node gpu-3.\n"
    ),
    "an unknown exception": 'Traceback (most recent call last):\n  File "/srv/train.py", line 3, in <module>\nOddError: q\n',
    "an issue with an unknown failure": (
        "# It fails\n\nI start the training and after a while it stops on our nodes:\n\n```\n"
        'Traceback (most recent call last):\n  File "/srv/x.py", line 3, in <module>\nOddError: q\n```\n'
    ),
    "a journal with a launch": (
        "Nov 28 09:12:01 gpu-1 systemd[1]: Started Model server.\n"
        "Nov 28 09:12:07 gpu-1 serve-model[812]: worker exited with code 7\n"
        "Nov 28 09:12:08 gpu-1 systemd[1]: serve-model.service: Failed with result 'exit-code'.\n"
    ),
    "a node's journal with an Xid": (
        "Nov 28 09:12:01 gpu-1 systemd[1]: Started Session 4.\n"
        "Nov 28 09:12:02 gpu-1 kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid=812, GPU has fallen off the bus.\n"
        "Nov 28 09:12:03 gpu-1 systemd[1]: Started Session 5.\n"
    ),
    "a shell's trace": "+ cd /srv\n+ python train.py\n+ exit code 1 at the end: exited with code 1\n",
}

QUIET = {
    "epochs": "epoch 1 loss 0.51\nepoch 2 loss 0.40\nepoch 3 loss 0.33\n",
    "a few words": "loading\nready\n",
    "a table with its columns in a training log": "step,loss,lr\n1,0.51,0.1\n2,0.40,0.1\n3,0.33,0.1\n[rank0]: saved checkpoint\n",
    "JSON of a training loop": '{"epoch": 1, "loss": 0.51, "model": "m"}\n{"epoch": 2, "loss": 0.40, "model": "m"}\n',
}


@pytest.mark.parametrize("name", sorted(STRANGERS))
def test_something_else_is_refused_and_named(tmp_path: Path, name: str) -> None:
    text, kind = STRANGERS[name]
    path = tmp_path / name
    path.write_text(text)

    with pytest.raises(UserError) as caught:
        explain([str(path)])

    assert f"{path}: is {kind}, not the log of a launch" == str(caught.value)


@pytest.mark.parametrize("name", sorted(LAUNCHES))
def test_a_failure_of_a_launch_is_never_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "out.txt"
    path.write_text(LAUNCHES[name])

    assert explain([str(path)]).exit_code in (1, 3)


@pytest.mark.parametrize("name", sorted(QUIET))
def test_a_quiet_launch_stays_healthy(tmp_path: Path, name: str) -> None:
    path = tmp_path / "out.txt"
    path.write_text(QUIET[name])

    assert 0 == explain([str(path)]).exit_code


def test_what_lies_beside_logs_spoils_nothing(tmp_path: Path) -> None:
    for name, (text, _) in STRANGERS.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "zz.log").write_text("work begins\nfrobnicator exited with code 7\n")

    report = explain([str(tmp_path)])

    assert 3 == report.exit_code
    assert report.unexplained is not None
    assert all("frobnicator" in one for one in report.unexplained.first_failures)
    assert [str(tmp_path / "zz.log")] == [one.path for one in report.inputs]
    assert {str(tmp_path / name) for name in STRANGERS} == {gap.what for gap in report.gaps}


def test_the_documents_of_this_project_are_no_logs() -> None:
    for path in (ROOT / "README.md", ROOT / "diag" / "DESIGN.md", ROOT / "diag" / "__init__.py"):
        with pytest.raises(UserError):
            explain([str(path)])
