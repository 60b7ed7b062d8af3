"""Versions decide: which torch, which NCCL it really loaded, which engine; and they have to fit together.

Read without importing torch: package metadata and torch/version.py through the patient's own interpreter, and the libraries
that running ranks have mapped (/proc/PID/maps), because an environment variable or a system libnccl may override torch's.
"""

from __future__ import annotations

import json
import mmap
import re
from pathlib import PurePosixPath
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import listed
from diag.system import Root, run_command
from diag.system.jobs import find_job, find_patient_python
from diag.system.processes import is_gone, read_mapped_files

ID = "software.versions"
ASK_S = 5.0
PACKAGES = (
    "torch", "triton", "vllm", "sglang", "sgl-kernel", "ray", "transformers", "flash-attn", "flashinfer-python", "nixl", "nixl-cu12",
    "nixl-cu13", "tensorrt-llm", "ai-dynamo", "ai-dynamo-runtime", "deepspeed", "accelerate", "megatron-core", "lightning", "mpi4py",
    "nvidia-nccl-cu11", "nvidia-nccl-cu12", "nvidia-nccl-cu13", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cuda-runtime-cu12",
    "nvidia-cuda-runtime", "nvidia-nvshmem-cu12", "xformers", "lmcache", "mooncake-transfer-engine", "huggingface-hub", "numpy",
)  # fmt: skip
SCRIPT = """
import json, os, sys
from importlib import metadata, util
names, out = sys.argv[1:], {}
found = {}
for name in names:
    try:
        found[name] = metadata.version(name)
    except Exception:
        pass
doubled = {}
for dist in metadata.distributions():
    name = (dist.metadata["Name"] or "").lower()
    if name in found:
        doubled.setdefault(name, []).append(dist.version)
text = None
spec = util.find_spec("torch")
if spec and spec.origin:
    try:
        with open(os.path.join(os.path.dirname(spec.origin), "version.py")) as file:
            text = file.read()
    except OSError:
        pass
try:
    wants = [r for r in metadata.requires("torch") or () if "nccl" in r]
except Exception:
    wants = []
print(json.dumps({"python": sys.version.split()[0], "executable": sys.executable, "packages": found,
    "doubled": {n: v for n, v in doubled.items() if len(v) > 1}, "torch_version_py": text, "torch_wants": wants}))
"""
LIBRARIES = re.compile(r"lib(nccl|cuda|torch_cuda|cudart|nccl-net[\w-]*|nixl|ucp|nvshmem_host)\.so[\d.]*$")
KNOWN_BAD = (
    # package, first bad, first good, what happens, where it is written down, cause it can lead to
    ("nccl", "2.28.3", "2.28.9", "excluded by nvidia-resiliency-ext (it asks for < 2.28.3 or >= 2.28.9)", "nvidia-resiliency-ext docs"),
    ("nccl", "0", "2.10.3", "can hang in lazily made connections", "NVIDIA/nccl#581"),
    ("torch", "2.7.0", "2.7.1", "reported to deadlock in NCCL", "modal multinode-training-guide PR 28"),
    ("vllm", "0.5.2", "0.5.4", "its message queue (zmq) hangs on start", "vLLM troubleshooting guide"),
)  # fmt: skip


def collect(setup: Setup) -> Facts:
    """Ask the patient's interpreter, then look at what running ranks have mapped."""
    python, how = find_patient_python(setup.root, setup.env, setup.python)
    facts: Facts = {
        "python": python,
        "how": how,
        "answer": None,
        "problem": None,
        "processes": _mapped(setup.root),
    }
    if python is None:
        return facts
    # From the root folder, so that nothing in the user's folder is imported instead of the standard library.
    outcome = run_command(
        [python, "-c", SCRIPT, *PACKAGES], timeout_s=ASK_S, env=dict(setup.env) or None, cwd="/"
    )
    if outcome.timed_out:
        return facts | {"problem": "timeout", "said": f"no answer within {ASK_S:.0f} s"}
    try:
        answer = json.loads(outcome.text.splitlines()[-1])
    except (ValueError, IndexError):
        lines = outcome.err.decode("utf-8", "replace").strip().splitlines()
        problem = "missing" if outcome.missing else "permission" if outcome.denied else "crashed"
        return facts | {"problem": problem, "said": (lines or ["no output"])[-1][:300]}
    text = answer.pop("torch_version_py") or ""
    built = dict(re.findall(r"^(__version__|cuda|hip)\b[^=\n]*= *['\"]([^'\"]*)['\"]", text, re.M))
    return facts | {"answer": {**answer, "torch": built}}


def _mapped(root: Root) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    versions: dict[str, str | None] = {}
    for member in find_job(root):
        if not member.computes or len(found) >= 64:
            continue
        paths = read_mapped_files(root, member.process.pid)
        if paths is None and is_gone(root, member.process.pid):
            continue
        libraries = [path for path in paths or [] if LIBRARIES.search(path.removesuffix(" (deleted)"))]
        nccl = [path for path in libraries if PurePosixPath(path).name.startswith("libnccl.so")]
        for path in nccl:
            if path not in versions and len(versions) < 4:  # each is some 300 MB to search
                versions[path] = nccl_version(root, f"/proc/{member.process.pid}/root{path}")
        found.append({
            "who": member.label, "readable": paths is not None, "libraries": libraries,
            "nccl": [{"path": path, "version": versions.get(path)} for path in nccl],
        })  # fmt: skip
    return found


def nccl_version(root: Root, path: str) -> str | None:
    """The version a libnccl carries in its text (`NCCL version 2.27.5+cuda12.9`), None if it cannot be read."""
    try:
        with root.join(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            match = re.search(rb"NCCL version (\d+\.\d+\.\d+)(?:\+cuda[\d.]+)?", text)
            return match[1].decode() if match else None
    except (OSError, ValueError):
        return None


def judge(facts: Facts) -> list[Finding]:
    """What the interpreter has, whether it fits, what ranks really loaded, what is known to be bad."""
    found = [*_judge_interpreter(facts), *_judge_mapped(facts["processes"])]
    versions = dict((facts["answer"] or {}).get("packages", {}))
    for name in ("nvidia-nccl-cu12", "nvidia-nccl-cu13", "nvidia-nccl-cu11"):
        if name in versions:
            versions.setdefault("nccl", versions[name])
    loaded = {one["version"] for process in facts["processes"] for one in process["nccl"] if one["version"]}
    for package, first, good, effect, source in KNOWN_BAD:
        for version in sorted(loaded) if package == "nccl" and loaded else [versions.get(package, "")]:
            if version and _key(first) <= _key(version) < _key(good):
                text = f"{package} {version}: {effect} ({source})"
                found.append(finding(ID, Status.WARN, text, subject=package, version=version, fixed_in=good))
    return found


def _key(version: str) -> tuple[int, ...]:
    """Numbers of a version in order; local and pre-release parts are not compared."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", version)[0])[:4])


def _judge_interpreter(facts: Facts) -> list[Finding]:
    python, answer = facts["python"], facts["answer"]
    if python is None:
        text = f"no interpreter to ask: {facts['how']}"
        return [finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE, remedy="--python PATH")]
    if answer is None:
        reasons = {"timeout": Reason.TIMEOUT, "missing": Reason.TOOL_MISSING, "permission": Reason.PERMISSION}
        text = f"{python} ({facts['how']}) does not tell its packages: {facts['said']}"
        return [
            finding(
                ID,
                Status.UNKNOWN,
                text,
                reason=reasons.get(facts["problem"], Reason.CRASHED),
                remedy="--python PATH",
            )
        ]
    packages, torch = answer["packages"], answer["torch"]
    where = f"{answer['executable']} ({facts['how']}, Python {answer['python']})"
    found = []
    for name, versions in answer["doubled"].items():
        text = f"{name} is installed more than once in {where}: {listed(versions)}; which one is imported is chance"
        found.append(
            finding(ID, Status.WARN, text, subject=name, cause="python-env-broken", versions=versions)
        )
    for wish in answer["torch_wants"]:
        match = re.match(r"(nvidia-nccl-cu\d+) *\(?==([\d.]+)", wish)
        have = packages.get(match[1]) if match else None
        if match and have and have != match[2]:
            text = f"torch {packages.get('torch')} was built for {match[1]} {match[2]}, installed is {have}"
            found.append(
                finding(
                    ID,
                    Status.WARN,
                    text,
                    subject="nccl",
                    cause="nccl-version-mismatch",
                    wanted=match[2],
                    version=have,
                )
            )
    if (
        torch.get("__version__")
        and "torch" in packages
        and torch["__version__"].split("+")[0] != packages["torch"].split("+")[0]
    ):
        text = f"torch says {torch['__version__']}, its package metadata {packages['torch']}: a half-done installation"
        found.append(finding(ID, Status.WARN, text, subject="torch", cause="python-env-broken"))
    shown = [
        f"{name} {version}" for name, version in packages.items() if name in PACKAGES[:20] or "nccl" in name
    ]
    build = (
        f", torch built for CUDA {torch['cuda']}"
        if torch.get("cuda")
        else ", torch without CUDA"
        if torch
        else ""
    )
    text = f"{where}: {listed(shown, 12) or 'none of the packages of a launch'}{build if packages else ''}"
    found.append(finding(ID, Status.OK, text, packages=packages, torch_cuda=torch.get("cuda")))
    return found


def _judge_mapped(processes: list[dict[str, Any]]) -> list[Finding]:
    found = []
    by_version: dict[str, list[str]] = {}
    for process in processes:
        paths = [one["path"] for one in process["nccl"]]
        for one in process["nccl"]:
            by_version.setdefault(one["version"] or one["path"], []).append(process["who"])
        if len(paths) > 1:
            text = f"{process['who']} has {len(paths)} different libnccl loaded: {listed(paths)}"
            found.append(
                finding(
                    ID,
                    Status.WARN,
                    text,
                    subject=process["who"],
                    cause="nccl-version-mismatch",
                    libraries=process["nccl"],
                )
            )
        gone = [path for path in process["libraries"] if path.endswith(" (deleted)")]
        if gone:
            text = f"{process['who']} runs with libraries that were replaced on disk since: {listed(gone)}"
            found.append(finding(ID, Status.WARN, text, subject=process["who"], cause="python-env-broken"))
    if len(by_version) > 1 and not found:
        text = "; ".join(f"{version} in {listed(who, 2)}" for version, who in sorted(by_version.items()))
        found.append(
            finding(
                ID,
                Status.WARN,
                f"ranks loaded different NCCL: {text}",
                subject="nccl",
                cause="nccl-version-mismatch",
            )
        )
    hidden = [process["who"] for process in processes if not process["readable"]]
    if hidden:
        text = f"which libraries {listed(hidden)} loaded may not be read by this user"
        remedy = "run diag as root or as the owner of those processes"
        found.append(
            finding(ID, Status.UNKNOWN, text, subject="libraries", reason=Reason.PERMISSION, remedy=remedy)
        )
    return found


PROBE = Probe(ID, "Software versions", collect, judge, timeout_s=8.0, section="software")
