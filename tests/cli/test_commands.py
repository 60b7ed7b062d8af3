"""The command line as a user meets it: exit codes, errors, formats, files, pipes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runner import ROOT, Run

CANARIES = ("dgx-canary7", "canaryuser", "10.9.8.7")
PLAN = """# kept comment
Common:
  model: Qwen/Qwen2.5-14B-Instruct
  max-model-len: 16384
VllmWorker:
  ServiceArgs: {workers: 4, resources: {gpu: 4}}
  common-configs: [model, max-model-len]
PrefillWorker:
  ServiceArgs: {workers: 4, resources: {gpu: 4}}
  common-configs: [model, max-model-len]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    path.chmod(0o640)
    return path


class TestExitCodes:
    def test_0_where_nothing_is_wrong(self, diag: Run, healthy_log: Path) -> None:
        done = diag("explain", str(healthy_log))

        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("OK: nothing in what was read (1 file, 60 lines)")

    def test_1_where_a_cause_is_named(self, diag: Run, broken_log: Path) -> None:
        done = diag("explain", str(broken_log))

        assert done.returncode == 1, done.stderr
        assert "shm-too-small" in done.stdout.splitlines()[1] + done.stdout.splitlines()[2]

    @pytest.mark.parametrize(
        "args",
        [
            ("explain",), ("explain", "/does/not/exist"), ("explain", "x", "--format", "xml"), ("nonsense",), ("run", "--only", "nonsense"),
            ("check", "/does/not/exist"), ("diff", "a", "b"), ("explain", "/bin/ls"), ("run", "--timeout", "soon"),
        ],
    )  # fmt: skip
    def test_2_for_wrong_usage_or_unreadable_input(self, diag: Run, args: tuple[str, ...]) -> None:
        done = diag(*args)

        assert done.returncode == 2
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()

    def test_3_where_something_failed_that_no_playbook_knows(self, diag: Run, tmp_path: Path) -> None:
        log = tmp_path / "odd.log"
        log.write_text("work begins\nfrobnicator exited with code 7\n")
        done = diag("explain", str(log))

        assert done.returncode == 3, done.stdout + done.stderr
        assert "frobnicator exited with code 7" in " ".join(done.stdout.split())

    def test_70_for_a_bug_of_ours_without_a_traceback_on_the_screen(
        self, diag: Run, tmp_path: Path, healthy_log: Path
    ) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import sys, types\n"
            "class Broken(types.ModuleType):\n"
            "    def __getattr__(self, name):\n"
            "        raise ZeroDivisionError('password=hunter2-canary')\n"
            "sys.modules['diag.diagnose.pipeline'] = Broken('diag.diagnose.pipeline')\n"
        )
        done = diag(
            "explain", str(healthy_log), env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "TMPDIR": str(tmp_path)}
        )

        assert done.returncode == 70
        assert "a bug of ours: ZeroDivisionError" in done.stderr
        assert "Traceback" not in done.stderr
        named = re.search(r"\S+diag-bug-\S+\.txt", done.stderr)
        assert named
        written = Path(named[0])
        assert "Traceback" in written.read_text()
        assert "hunter2" not in written.read_text()
        assert stat.S_IMODE(written.stat().st_mode) == 0o600

    def test_the_help_and_the_readme_tell_the_codes(self, diag: Run) -> None:
        told = diag("--help").stdout

        assert all(code in told for code in ("0 ", "1 ", "2 ", "3 ", "70 "))


class TestFormats:
    def test_json_is_the_contracts(self, diag: Run, broken_log: Path) -> None:
        data = json.loads(diag("explain", str(broken_log), "--json").stdout)

        assert data["schema"] == "diag.report/1"
        assert data["diagnoses"][0]["id"] == "shm-too-small"
        assert data["redaction"]["applied"] is True

    def test_json_and_another_format_contradict_each_other(self, diag: Run, broken_log: Path) -> None:
        assert diag("explain", str(broken_log), "--json", "--format", "text").returncode == 2

    @pytest.mark.parametrize(
        ("ending", "begin"), [("json", "{"), ("md", "## "), ("html", "<!doctype"), ("txt", "FAIL:")]
    )
    def test_the_ending_of_the_output_file_chooses_the_format(
        self, diag: Run, broken_log: Path, tmp_path: Path, ending: str, begin: str
    ) -> None:
        done = diag("explain", str(broken_log), "-o", f"out.{ending}", "--quiet")

        assert done.stdout == ""
        assert done.stderr == ""
        assert (tmp_path / f"out.{ending}").read_text().startswith(begin)
        assert stat.S_IMODE((tmp_path / f"out.{ending}").stat().st_mode) == 0o600

    def test_an_output_folder_gets_a_file_of_its_own(
        self, diag: Run, broken_log: Path, tmp_path: Path
    ) -> None:
        diag("explain", str(broken_log), "-o", "new/", "--format", "markdown")

        assert (tmp_path / "new" / "report.md").exists()

    def test_an_output_that_cannot_be_written_is_one_sentence(self, diag: Run, broken_log: Path) -> None:
        done = diag("explain", str(broken_log), "-o", "/proc/nowhere/x.json")

        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


class TestRedaction:
    @pytest.mark.parametrize("fmt", ["text", "json", "markdown", "html"])
    def test_by_default_no_name_leaves(self, diag: Run, broken_log: Path, fmt: str) -> None:
        done = diag("explain", str(broken_log), "--format", fmt)

        assert not [canary for canary in CANARIES if canary in done.stdout]

    def test_raw_is_for_the_owner(self, diag: Run, broken_log: Path) -> None:
        done = diag("explain", str(broken_log), "--raw")

        assert "dgx-canary7" in done.stdout
        assert "not redacted" in done.stdout


class TestStreams:
    def test_a_log_may_come_from_standard_input(self, diag: Run, broken_log: Path) -> None:
        assert diag("explain", "-", stdin=broken_log.read_text()).returncode == 1

    def test_a_pipe_closed_early_is_no_error(self, broken_log: Path) -> None:
        command = f"{sys.executable} -m diag.cli.main explain {broken_log} --json | head -c 1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
        )

        assert done.stderr == ""
        assert done.returncode in (0, 1)

    def test_an_encoding_that_cannot_say_it_all_is_no_crash(self, diag: Run, broken_log: Path) -> None:
        done = diag("explain", str(broken_log), "--raw", env={"PYTHONIOENCODING": "ascii"})

        assert done.returncode == 1, done.stderr

    @pytest.mark.parametrize(
        ("extra", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
    )
    def test_colour_is_for_terminals_that_want_it(
        self, broken_log: Path, extra: dict[str, str], coloured: bool
    ) -> None:
        text = on_terminal(["explain", str(broken_log)], extra)

        assert ("\x1b[1;31m" in text) is coloured
        assert "shm-too-small" in text


class TestRun:
    def test_a_run_writes_three_private_files_and_a_screen(self, diag: Run, tmp_path: Path) -> None:
        done = diag("run", "--only", "host", "--out", "report")

        assert done.returncode in (0, 1, 3), done.stderr
        assert re.match(r"(OK|WARN|FAIL|UNKNOWN): \d+ of \d+ measured", done.stdout)
        for name in ("report.json", "report.md", "report.html"):
            assert stat.S_IMODE((tmp_path / "report" / name).stat().st_mode) == 0o600
        assert len((tmp_path / "report" / "report.md").read_text()) <= 60_000

    def test_a_folder_that_cannot_be_written_costs_the_files_not_the_report(self, diag: Run) -> None:
        done = diag("run", "--only", "host.shm", "--out", "/proc/nowhere")

        assert done.returncode in (0, 1, 3)
        assert "no report files" in done.stderr
        assert "measured" in done.stdout

    def test_without_out_the_folder_is_dated(self, diag: Run, tmp_path: Path) -> None:
        diag("run", "--only", "host.shm")

        assert [path for path in tmp_path.iterdir() if re.fullmatch(r"diag-report-\d{8}-\d{6}", path.name)]


class TestCheck:
    def test_a_plan_that_cannot_work_is_named_before_it_starts(self, diag: Run, plan: Path) -> None:
        done = diag("check", str(plan), "--gpus", "4xT4")

        assert done.returncode == 1, done.stderr
        assert "does not fit" in done.stdout

    def test_fix_prints_a_diff_that_applies_and_changes_nothing(
        self, diag: Run, plan: Path, tmp_path: Path
    ) -> None:
        done = diag("check", plan.name, "--gpus", "4xT4", "--fix")
        (tmp_path / "fix.diff").write_text(done.stdout)
        applied = subprocess.run(
            ["patch", "-p0", "--dry-run", "-i", "fix.diff"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

        assert applied.returncode == 0, applied.stdout
        assert plan.read_text() == PLAN
        assert done.stderr

    def test_write_changes_the_file_and_keeps_mode_and_comments(self, diag: Run, plan: Path) -> None:
        diag("check", str(plan), "--gpus", "4xT4", "--fix", "--write")

        assert plan.read_text() != PLAN
        assert plan.read_text().startswith("# kept comment\n")
        assert stat.S_IMODE(plan.stat().st_mode) == 0o640

    @pytest.mark.parametrize("args", [("--write",), ("--gpus", "4xT4", "--hardware", "r.json")])
    def test_options_that_make_no_sense_are_refused(
        self, diag: Run, plan: Path, args: tuple[str, ...]
    ) -> None:
        assert diag("check", str(plan), *args).returncode == 2


class TestDiff:
    def test_two_looks_at_the_same_thing_do_not_differ(
        self, diag: Run, broken_log: Path, tmp_path: Path
    ) -> None:
        diag("explain", str(broken_log), "-o", "a.json")
        done = diag("diff", "a.json", "a.json")

        assert done.returncode == 0
        assert "Nothing" in done.stdout

    def test_what_differs_is_named(self, diag: Run, broken_log: Path, healthy_log: Path) -> None:
        diag("explain", str(healthy_log), "-o", "good.json", "--raw")
        diag("explain", str(broken_log), "-o", "bad.json", "--raw")
        done = diag("diff", "good.json", "bad.json")

        assert done.returncode == 1
        assert "shm-too-small" in done.stdout
        assert not [canary for canary in CANARIES if canary in done.stdout]

    def test_a_foreign_file_is_the_users_error(self, diag: Run, healthy_log: Path) -> None:
        done = diag("diff", str(healthy_log), str(healthy_log))

        assert done.returncode == 2
        assert "is not JSON" in done.stderr


def test_ctrl_c_ends_without_a_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "diag.cli.main", "explain", "-"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(1.5)
    os.kill(process.pid, 2)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 130
    assert "Traceback" not in err


def test_help_is_quick_and_light() -> None:
    code = (
        "import sys; sys.argv = ['diag', '--help']\n"
        "from diag.cli.main import run\n"
        "import io; sys.stdout = io.StringIO(); run(); sys.stdout = sys.__stdout__\n"
        "print([name for name in ('torch', 'pynvml', 'psutil', 'ruamel', 'hyperscan', 'rich', 'diag.model', 'diag.diagnose') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout.strip() == "[]", done.stderr


def test_explain_loads_neither_torch_nor_nvml(broken_log: Path) -> None:
    code = (
        f"import sys; sys.argv = ['diag', 'explain', {str(broken_log)!r}, '-o', '/dev/null']\n"
        "from diag.cli.main import run\nrun()\n"
        "print([name for name in ('torch', 'pynvml', 'psutil') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout.strip().endswith("[]"), done.stderr


def test_the_version_is_told(diag: Run) -> None:
    import diag as package

    assert diag("--version").stdout == f"diag {package.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_works(diag: Run, shell: str) -> None:
    env = {"_DIAG_COMPLETE": f"complete_{shell}", "COMP_WORDS": "diag ex", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "diag ex",
           "_TYPER_COMPLETE_FISH_ACTION": "get-args"}  # fmt: skip

    assert "explain" in diag(env=env).stdout


def on_terminal(args: list[str], extra: dict[str, str]) -> str:
    """What the command prints on a terminal of 100 columns."""
    pid, terminal = pty.fork()
    if pid == 0:
        env = {
            **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
            "TERM": "xterm",
            "PYTHONPATH": str(ROOT),
            **extra,
        }
        os.execve(sys.executable, [sys.executable, "-m", "diag.cli.main", *args], env)
    chunks = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                chunk = os.read(terminal, 65536)
            except OSError:
                break
            if not chunk:
                break
            chunks.append(chunk)
    os.waitpid(pid, 0)
    os.close(terminal)
    return b"".join(chunks).decode()


class TestPlaybooks:
    def test_the_list_names_every_cause_with_its_layer(self, diag: Run) -> None:
        done = diag("playbook", "list", "--json")

        assert done.returncode == 0, done.stderr
        assert {"shm-too-small"} <= {one["id"] for one in json.loads(done.stdout)}

    @pytest.mark.parametrize("fmt", ["text", "json", "markdown", "html"])
    def test_one_playbook_is_shown(self, diag: Run, fmt: str) -> None:
        done = diag("playbook", "show", "shm-too-small", "--format", fmt)

        assert done.returncode == 0, done.stderr
        assert "shm-size" in done.stdout

    def test_an_unknown_id_is_the_users_error(self, diag: Run) -> None:
        assert diag("playbook", "show", "no-such-cause").returncode == 2

    def test_a_draft_comes_from_one_line_of_a_log(self, diag: Run, broken_log: Path) -> None:
        done = diag("playbook", "new", "frobnicator-stuck", "--from", f"{broken_log}:2")

        assert done.returncode == 0, done.stderr
        assert "frobnicator-stuck" in done.stdout

    def test_a_broken_playbook_is_named_by_lint(self, diag: Run, tmp_path: Path) -> None:
        bad = tmp_path / "more" / "plan"
        bad.mkdir(parents=True)
        (bad / "half-done.yaml").write_text("id: half-done\ntitle: x\n")
        done = diag("playbook", "lint", str(bad / "half-done.yaml"))

        assert done.returncode in (1, 2)
        assert "half-done" in done.stdout + done.stderr


def test_a_run_that_is_interrupted_prints_what_it_has(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "diag.cli.main", "run", "--out", str(tmp_path / "part")], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(1.0)
    os.kill(process.pid, 2)
    out, err = process.communicate(timeout=60)

    assert "Traceback" not in err
    assert process.returncode in (0, 1, 3, 130), err
    if process.returncode != 130:
        assert "measured" in out
        assert (tmp_path / "part" / "report.json").exists()
