"""Options and variables that the program does not have, with what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from functools import cache

from diag.diagnose.plans.case import Case, judged
from diag.diagnose.plans.option_words import written_wrong
from diag.diagnose.plans.settings import as_int, text_of
from diag.model import Finding, Status
from diag.model.launch import Service, Setting
from diag.observe.plans.programs import kind_of, options_of, variables_of, versions_of

CLOSE = 0.84
"""difflib's ratio from which a name counts as a misspelling of another: one or two letters in twenty."""
TABLES = {
    "vllm": ("vllm",),
    "ray.serve.llm": ("vllm",),
    "sglang": ("sglang",),
    "dynamo.vllm": ("vllm", "dynamo.vllm"),
    "dynamo.sglang": ("sglang", "dynamo.sglang"),
    "dynamo.trtllm": ("dynamo.trtllm",),
    "dynamo.frontend": ("dynamo.frontend",),
    "dynamo.router": ("dynamo.router",),
    "dynamo.mocker": ("dynamo.mocker",),
    "trtllm-serve": ("trtllm-serve",),
    "trtllm": ("trtllm",),
    "trtllm-serve disaggregated": ("trtllm-serve disaggregated",),
    "trtllm-bench": ("trtllm-bench",),
}
DYNAMO_2025 = (
    # options that the workers of `dynamo serve` add to vLLM's: dynamo examples/llm/utils/vllm.py
    "router",
    "remote-prefill",
    "conditional-disagg",
    "max-local-prefill-length",
    "max-prefill-queue-size",
    "enable-prefix-caching",
    "engine-args",
    "min-workers",
    "router-num-threads",
    "served-model-name",
    "endpoint",
    "port",
    "enable-disagg",
    "prefill-engine-args",
    "min-prefill-workers",
    "block-size",
)
SIZES = (
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "data-parallel-size",
    "max-model-len",
    "max-num-seqs",
    "max-num-batched-tokens",
    "block-size",
    "port",
    "nnodes",
    "node-rank",
    "nproc-per-node",
    "context-length",
    "max-running-requests",
)


def judge_unknown(case: Case) -> Iterator[Finding]:
    """Options that no known version of the program has; a close name makes it certain."""
    for service in case.services:
        tables = TABLES.get(_program(service))
        if not tables:
            continue
        for written in getattr(service, "unknown_options", ()):
            if written.startswith((" ", "\t")):
                yield judged(
                    "invalid-launch-argument",
                    service,
                    Status.FAIL,
                    f"{service.name}: a backslash stands before {written.strip()} in a folded YAML text (>): the line end is gone, so the option begins with a blank and the program refuses it",
                    setting=_setting_written(service, written.strip()),
                    option=written.strip(),
                    do="Write the block with | instead of >, or take the backslashes out",
                )
                break
            if (
                found := written_wrong(service, written, tables, _setting_written(service, written))
            ) is not None:
                yield found
                continue
            plain = written.lstrip("-").replace("_", "-")
            meant = _closest(plain, tables)
            setting = _setting_written(service, written)
            versions = versions_of(tables[0])
            if meant is not None:
                yield judged(
                    "invalid-launch-argument",
                    service,
                    Status.FAIL,
                    f"{service.name}: {_program(service)} has no option {written}; did you mean --{meant}?",
                    setting=setting,
                    option=written,
                    meant=meant,
                    do=f"Write --{meant}",
                    rename=(written, meant),
                )
            else:
                yield judged(
                    "invalid-launch-argument",
                    service,
                    Status.OK,
                    f"{service.name}: option {written} is in no {tables[0]} from {versions[0]} to {versions[-1]} that diag knows",
                    setting=setting,
                    certain=False,
                    note=True,
                    option=written,
                )


def judge_dynamo_keys(case: Case) -> Iterator[Finding]:
    """Keys of a worker in the YAML of 2025, which become its command line."""
    if case.plan.kind != "dynamo-2025":
        return
    for service in case.engines:
        for name, setting in service.options.items():
            if name in DYNAMO_2025 or "." in name or kind_of(("vllm",), name)[0] is not None:
                continue
            close = difflib.get_close_matches(name, [*DYNAMO_2025, *options_of(("vllm",))], 1, CLOSE)
            if close:
                yield judged(
                    "invalid-launch-argument",
                    service,
                    Status.FAIL,
                    f"{service.name} has no option {name}; did you mean {close[0]}?",
                    setting=setting,
                    option=name,
                    meant=close[0],
                    do=f"Write {close[0]}",
                    rename=(setting.key.rsplit(".", 1)[-1], close[0]),
                )


def _program(service: Service) -> str:
    return str(getattr(service, "program", ""))


def _setting_written(service: Service, written: str) -> Setting | None:
    return next((setting for setting in service.options.values() if setting.key == written), None)


@cache
def _closest(name: str, tables: tuple[str, ...]) -> str | None:
    names = {option.replace("_", "-"): option for option in options_of(tables)}
    limit = CLOSE if len(name) > 9 else 0.8  # one letter in a short name weighs more
    found = difflib.get_close_matches(name, names, 1, limit)
    return names[found[0]] if found and not _another_abbreviation(name, found[0]) else None


def _another_abbreviation(written: str, known: str) -> bool:
    """True where only a short word differs, from its first letter on: `dsa` is a newer name, not a slip for `nsa`."""
    one, other = written.split("-"), known.split("-")
    differing = [(a, b) for a, b in zip(one, other, strict=False) if a != b]
    if len(one) != len(other) or len(differing) != 1:
        return False
    a, b = differing[0]
    return len(a) == len(b) <= 4 and a[0] != b[0] and sorted(a) != sorted(b)


def judge_versions(case: Case) -> Iterator[Finding]:
    """Options that the image's version of the program no longer has, or does not have yet."""
    for service in case.services:
        tables = TABLES.get(_program(service))
        version = text_of(service, "engine.version")
        if not tables or not version or service.framework != tables[0]:
            continue
        known = versions_of(tables[0])
        for name, setting in service.options.items():
            flag = setting.key.lstrip("-").replace("_", "-")
            entry = options_of(tables[:1]).get(flag) if setting.key.startswith("--") else None
            if entry is None:
                continue
            gone = next((each for each in known if _key(each) > _key(entry[3])), None)
            before = max((each for each in known if _key(each) < _key(entry[2])), key=_key, default=None)
            if gone is not None and _key(version) >= _key(gone):
                yield _wrong_version(
                    service,
                    setting,
                    f"{tables[0]} {version} no longer has --{flag} (last seen in {entry[3]}, gone in {gone})",
                    name,
                )
            elif before is not None and _key(version) <= _key(before):
                yield _wrong_version(
                    service,
                    setting,
                    f"{tables[0]} {version} does not have --{flag} yet (first seen in {entry[2]})",
                    name,
                )


def _wrong_version(service: Service, setting: Setting, sentence: str, name: str) -> Finding:
    return judged(
        "invalid-launch-argument",
        service,
        Status.FAIL,
        f"{service.name}: {sentence}",
        setting=setting,
        option=name,
        remove=setting.key,
        do="Take it out, or use a version that has it",
    )


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+", maxsplit=1)[0])[:3])


def judge_numbers(case: Case) -> Iterator[Finding]:
    """Sizes that are no numbers, or none that can be."""
    for service in case.services:
        for name in SIZES:
            setting = service.options.get(name)
            if setting is None or setting.value is None or isinstance(setting.value, (list, dict)):
                continue
            text = str(setting.value).strip()
            if (
                re.search(r"[${}<>*]|^auto$|^gpu$|^cpu$|:", text)
                or (name == "nnodes" and re.search(r"\d", text))
                or text == "-1"
            ):
                continue
            number = as_int(text)
            low = 0 if name in ("node-rank", "max-num-seqs", "port") else 1
            if (
                number is None
                or isinstance(setting.value, bool)
                or number < low
                or (name == "port" and number > 65535)
            ):
                yield judged(
                    "invalid-launch-argument",
                    service,
                    Status.FAIL,
                    f"{service.name}: {name} {text!r} is no {'port' if name == 'port' else 'whole number from ' + str(low)}",
                    setting=setting,
                    do=f"Give {name} a number",
                    remove=setting.key if setting.value is True else None,
                    settings={"port": _usual_port(service)}
                    if name == "port" and setting.value is not True
                    else None,
                )
        share = service.options.get("gpu-memory-utilization") or service.options.get("mem-fraction-static")
        if share is not None and (found := _share_problem(share)):
            yield judged(
                "invalid-launch-argument",
                service,
                Status.FAIL,
                f"{service.name}: {found}",
                setting=share,
                do="Use a share between 0.5 and 0.95",
                settings={_share_name(service): _share_meant(share.value)},
            )


def _usual_port(service: Service) -> int:
    """The one port that the container names, else the engine's default."""
    named = [
        each.partition("=")[2]
        for each in str(dict(getattr(service, "notes", {})).get("ports") or "").split(",")
    ]
    numbers = [as_int(each) for each in named if as_int(each)]
    return (numbers[0] if len(numbers) == 1 else None) or (30000 if service.framework == "sglang" else 8000)


def _share_name(service: Service) -> str:
    return "gpu-memory-utilization" if "gpu-memory-utilization" in service.options else "mem-fraction-static"


def _share_meant(value: object) -> float:
    """90 and 9 were 0.9."""
    try:
        number = float(str(value))
    except ValueError:
        return 0.9
    shifted = next((number / scale for scale in (10, 100) if 0.3 <= number / scale < 1), 0.9)
    return round(shifted, 3)


def _share_problem(setting: Setting) -> str | None:
    text = str(setting.value)
    if "$" in text:
        return None
    try:
        value = float(text)
    except ValueError:
        return f"{setting.key} {text!r} is no number"
    return None if 0 < value <= 1 else f"{setting.key} {text} is no share between 0 and 1"


def judge_variables(case: Case) -> Iterator[Finding]:
    """Environment names of the engine that do not exist but are close to one that does."""
    for service in case.services:
        table = service.framework if service.framework in ("vllm", "sglang") else None
        if table is None:
            continue
        prefixes = ("VLLM_",) if table == "vllm" else ("SGLANG_", "SGL_")
        known = variables_of(table)
        for name, setting in service.env.items():
            older = re.sub(r"\ASGL_", "SGLANG_", name)  # SGLang rewrites the older beginning itself
            if name.startswith(prefixes) and name not in known and older not in known:
                close = _close_variable(name, known)
                if close:
                    yield judged(
                        "invalid-launch-argument",
                        service,
                        Status.WARN,
                        f"{service.name}: {table} reads no variable {name}; did you mean {close}?",
                        setting=setting,
                        certain=False,
                        do=f"Write {close}",
                        rename_variable=(name, close),
                    )


def _close_variable(name: str, known: Iterable[str]) -> str | None:
    found = difflib.get_close_matches(name, known, 1, 0.93)
    return found[0] if found else None


JUDGES = (judge_unknown, judge_dynamo_keys, judge_versions, judge_numbers, judge_variables)
