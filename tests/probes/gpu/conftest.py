"""Machines that are not there: the real runner, the real nvidia-ml-py, a stand-in NVML below it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diag.model import Finding, Status
from diag.observe.probes.interface import Setup
from diag.observe.probes.runner import run_probes
from diag.system import Root

STANDIN = Path(__file__).parents[2] / "standin" / "build.py"


@dataclass(frozen=True)
class Look:
    """What one probe said about a machine."""

    findings: tuple[Finding, ...]
    facts: dict[str, Any]
    duration_s: float

    def about(self, subject: str) -> list[Finding]:
        return [one for one in self.findings if one.subject == subject]

    def one(self, subject: str = "") -> Finding:
        (found,) = self.about(subject)
        return found

    def statuses(self) -> set[Status]:
        return {one.status for one in self.findings}

    def causes(self) -> list[str]:
        return [one.data["cause"] for one in self.findings if "cause" in one.data]


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libnvidia-ml.so.1 and the libcuda of driver 570.124.06."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) to build the stand-in NVML with")
    spec = importlib.util.spec_from_file_location("standin_build", STANDIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder: Path = module.build(tmp_path_factory.mktemp("standin"), "570.124.06")
    return folder


@pytest.fixture
def look(standin: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Look]:
    """Run one probe through the runner against the machine `described` (settings of tests/standin/nvml.c)."""

    def run(
        probe: str,
        described: str | None,
        *,
        root: str = "/",
        env: dict[str, str] | None = None,
        since_s: float | None = None,
        timeout_s: float = 20.0,
    ) -> Look:
        if described is None:
            monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
        else:
            monkeypatch.setenv("LD_LIBRARY_PATH", str(standin))
            monkeypatch.setenv("STANDIN_NVML", described)
        setup = Setup(root=Root(root), env=env or {}, launch_since_s=since_s)
        ran = run_probes(setup, only=[probe], timeout_s=timeout_s)
        facts = next((by_id[probe] for by_id in ran.facts.values() if probe in by_id), {})
        return Look(tuple(one for one in ran.findings if one.probe == probe), facts, ran.duration_s)

    return run


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., str]:
    """A file system below a folder: {path: text}, `links` {path: target}."""

    def plant(files: dict[str, str], links: dict[str, str] | None = None) -> str:
        for name, text in files.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name, target in (links or {}).items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
        return str(tmp_path)

    return plant
