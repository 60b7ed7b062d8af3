"""The model's files must be there, whole, and the same on every node: one node with another revision or a shard missing stops all.

Looked at: models that running processes of a launch name (--model, --model-path, `vllm serve X`), and those of a plan that was
given. A path is listed; a hub name is looked up in the cache (HF_HUB_CACHE, HF_HOME/hub, ~/.cache/huggingface/hub): revision
in refs/main, files below snapshots/. Names and sizes only; the one file read is the index of the shards.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import count, listed, size
from diag.system import Root
from diag.system.jobs import find_job
from diag.system.processes import read_environment

ID = "software.model-files"
OPTIONS = (
    "--model",
    "--model-path",
    "--model_path",
    "--model_name_or_path",
    "--pretrained_model_name_or_path",
    "--tokenizer",
)
MOST_MODELS, MOST_FILES = 8, 400
INDEX = "model.safetensors.index.json"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def collect(setup: Setup) -> Facts:
    """For each model named: where it lies, its revision, its files with sizes, shards that its index wants."""
    wanted: dict[str, tuple[str, Mapping[str, str], str]] = {}
    for member in find_job(setup.root):
        if member.computes:
            environment = read_environment(setup.root, member.process.pid) or {}
            for name in models_of(member.process.argv):
                wanted.setdefault(name, (member.label, environment, f"/proc/{member.process.pid}/root"))
    for name in setup.models:
        wanted.setdefault(name, ("the plan", setup.env, ""))
    models = [_look(setup.root, name, *rest) for name, rest in list(wanted.items())[:MOST_MODELS]]
    return {"models": models}


def models_of(argv: tuple[str, ...]) -> Iterator[str]:
    """Models that a command line names."""
    for place, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if option in OPTIONS:
            told = value if equals else next(iter(argv[place + 1 : place + 2]), "")
            if told and not told.startswith("-"):
                yield told
        if word == "serve" and place and PurePosixPath(argv[place - 1]).name == "vllm":
            told = next(iter(argv[place + 1 : place + 2]), "")
            if told and not told.startswith("-"):
                yield told


def _look(root: Root, name: str, who: str, env: Mapping[str, str], below: str) -> dict[str, Any]:
    below = below if below and root.exists(f"{below}/etc") else ""
    entry: dict[str, Any] = {
        "model": name,
        "who": who,
        "kind": "path",
        "folder": None,
        "revision": None,
        "files": {},
        "missing": [],
        "unfinished": [],
    }
    if name.startswith(("/", ".", "~")):
        folder = (
            name if name.startswith("/") else None
        )  # a relative path is relative to a folder we may not know
        entry["folder"] = folder
        if folder and root.exists(f"{below}{folder}"):
            _list(root, f"{below}{folder}", entry)
        return entry
    if not _HUB_NAME.fullmatch(name):
        return {**entry, "kind": "other"}
    entry["kind"] = "hub"
    for hub in _hubs(env):
        folder = f"{below}{hub}/models--{name.replace('/', '--')}"
        if not root.exists(folder):
            continue
        entry["folder"] = f"{hub}/models--{name.replace('/', '--')}"
        revision = (root.read(f"{folder}/refs/main") or "").strip() or next(
            iter(root.names(f"{folder}/snapshots")), ""
        )
        entry["revision"] = revision or None
        entry["unfinished"] = [one for one in root.names(f"{folder}/blobs") if one.endswith(".incomplete")][
            :16
        ]
        if revision:
            _list(root, f"{folder}/snapshots/{revision}", entry)
        break
    return entry


def _hubs(env: Mapping[str, str]) -> list[str]:
    """Where the hub's cache may lie, as huggingface_hub looks for it (constants.py)."""
    told = [
        env.get("HF_HUB_CACHE"),
        env.get("HUGGINGFACE_HUB_CACHE"),
        f"{env['HF_HOME']}/hub" if env.get("HF_HOME") else None,
    ]
    cache = env.get("XDG_CACHE_HOME") or (f"{env['HOME']}/.cache" if env.get("HOME") else None)
    return [one for one in (*told, f"{cache}/huggingface/hub" if cache else None) if one]


def _list(root: Root, folder: str, entry: dict[str, Any]) -> None:
    for name in root.names(folder)[:MOST_FILES]:
        place = root.join(f"{folder}/{name}")
        try:
            if place.is_file():
                entry["files"][name] = place.stat().st_size
            elif place.is_symlink() and not place.exists():
                entry["missing"].append(name)  # a link of the cache whose blob is gone
        except OSError:
            entry["missing"].append(name)
    index = root.read(f"{folder}/{INDEX}")
    if index:
        try:
            shards = set(json.loads(index)["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            shards = set()
        entry["missing"] += sorted(
            str(one) for one in shards if one not in entry["files"] and one not in entry["missing"]
        )
    entry["missing"] = entry["missing"][:64]


def fingerprint(files: Mapping[str, int]) -> str:
    """Names and sizes in a word: `12 files, 15.2 GiB, a1b2c3`."""
    text = json.dumps(sorted(files.items())).encode()
    return f"{count(len(files), 'file')}, {size(sum(files.values()))}, {hashlib.sha256(text).hexdigest()[:6]}"


def judge(facts: Facts) -> list[Finding]:
    """What is missing or cut; else what there is."""
    if not facts["models"]:
        text = "no running process and no plan names a model"
        return [finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE, remedy="--plan FILE")]
    return [found for one in facts["models"] for found in _judge_one(one)]


def _judge_one(one: dict[str, Any]) -> list[Finding]:
    name, who = one["model"], one["who"]
    if one["kind"] == "other" or (one["kind"] == "path" and one["folder"] is None):
        text = f"where {name} (named by {who}) lies cannot be told from here"
        return [finding(ID, Status.SKIP, text, subject=name, reason=Reason.NOT_APPLICABLE)]
    if one["missing"]:
        text = f"{name} is not whole: {listed(one['missing'], 4)} {'is' if len(one['missing']) == 1 else 'are'} missing or unreadable in {one['folder']}"
        return [finding(ID, Status.FAIL, text, subject=name, cause="weights-corrupt", missing=one["missing"])]
    if one["files"]:
        empty = [
            file
            for file, length in one["files"].items()
            if not length and file.endswith((".safetensors", ".bin", ".json"))
        ]
        if empty:
            text = f"{name}: {listed(empty, 4)} {'is' if len(empty) == 1 else 'are'} empty"
            return [finding(ID, Status.FAIL, text, subject=name, cause="weights-corrupt", missing=empty)]
        revision = f", revision {one['revision'][:12]}" if one["revision"] else ""
        unfinished = (
            f"; {count(len(one['unfinished']), 'download')} begun and not finished"
            if one["unfinished"]
            else ""
        )
        return [
            finding(ID, Status.OK, f"{name}: {fingerprint(one['files'])}{revision}{unfinished}", subject=name)
        ]
    if one["unfinished"]:
        text = f"{name} is being downloaded, or its download was cut: {count(len(one['unfinished']), 'unfinished file')} in {one['folder']}"
        return [finding(ID, Status.WARN, text, subject=name, cause="download-stall")]
    if one["kind"] == "hub":
        text = f"{name} is not in the cache of this node: every node downloads it first"
        return [finding(ID, Status.WARN, text, subject=name, cause="download-stall")]
    text = f"{name} (named by {who}) is not there or empty on this node"
    return [finding(ID, Status.FAIL, text, subject=name, cause="model-path-missing")]


PROBE = Probe(ID, "The model's files", collect, judge, timeout_s=6.0, section="software")
