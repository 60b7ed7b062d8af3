"""Options that are right in themselves and wrong as they stand: a dash, a hyphen too few, a value too many, another engine's."""

from __future__ import annotations

import re

from diag.diagnose.plans.case import judged
from diag.model import Finding, Status
from diag.model.launch import Service, Setting
from diag.observe.plans.programs import kind_of, options_of

SAME = (
    # one thing under the engines' names: vLLM, SGLang, trtllm-serve, Dynamo's TensorRT-LLM worker
    (
        "gpu-memory-utilization",
        "mem-fraction-static",
        "kv_cache_free_gpu_memory_fraction",
        "free-gpu-memory-fraction",
    ),
    ("max-model-len", "context-length", "max_seq_len", "max-seq-len"),
    ("max-num-seqs", "max-running-requests", "max_batch_size", "max-batch-size"),
    ("tensor-parallel-size", "tp-size", "tp_size", "tensor-parallel-size"),
    ("pipeline-parallel-size", "pp-size", "pp_size", "pipeline-parallel-size"),
    ("model", "model-path", "model", "model-path"),
    ("enable-log-requests", "log-requests"),
    ("tokenizer", "tokenizer-path"),
)
ENGINES = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "trtllm-serve": "trtllm-serve",
    "dynamo.trtllm": "Dynamo's TensorRT-LLM worker",
}


def written_wrong(
    service: Service, written: str, tables: tuple[str, ...], setting: Setting | None
) -> Finding | None:
    """What is wrong with an option that the reader could not take as it stands; None if it is simply unknown."""
    flag, _, value = written.partition(" ")
    name = re.sub(r"\A[-‐-―−]+", "", flag)
    if ord(flag[0]) > 127:
        sentence = f"{flag} begins with a typographic dash (U+{ord(flag[0]):04X}), not with two hyphens"
        return _renamed(service, written, sentence, setting, name)
    if "=" in flag:
        right, _, word = flag.partition("=")
        right = right if word.lower() == "true" else f"--no-{right.lstrip('-')}"
        return _renamed(
            service,
            written,
            f"{flag.partition('=')[0]} is a switch and takes no value",
            setting,
            right.lstrip("-"),
        )
    if value:
        return judged(
            "invalid-launch-argument",
            service,
            Status.FAIL,
            f"{service.name}: {flag} is a switch and takes no value; {value!r} behind it is refused",
            setting=setting,
            option=flag,
            do=f"Write {flag} alone" + ("" if value.lower() == "true" else f", or --no-{name}"),
            remove=written,
        )
    if re.match(r"-[A-Za-z]", flag) and kind_of(tables, name)[0] is not None:
        return _renamed(service, written, f"{flag} has one hyphen; long options have two", setting, name)
    if not flag.startswith("-"):
        return _key_of_another_engine(service, written, tables, setting)
    if "docker" in getattr(service, "notes", {}) and name in DOCKER:
        return judged(
            "invalid-launch-argument",
            service,
            Status.FAIL,
            f"{service.name}: {flag} is an option of docker run, but stands behind the image and so goes to {service.framework}",
            setting=setting,
            option=written,
            do=f"Write {flag} before the image",
            remove=written,
        )
    return _of_another_engine(service, written, name.replace("_", "-"), tables, setting)


DOCKER = (
    "gpus",
    "ipc",
    "shm-size",
    "network",
    "net",
    "volume",
    "publish",
    "runtime",
    "ulimit",
    "privileged",
    "rm",
    "mount",
)


def _key_of_another_engine(
    service: Service, written: str, tables: tuple[str, ...], setting: Setting | None
) -> Finding | None:
    """A key of an engine's file that is another engine's name for one of its own."""
    own = {name.replace("_", "-"): name for name in options_of(tables)}
    plain = written.replace("_", "-")
    group = next((names for names in SAME if plain in {name.replace("_", "-") for name in names}), ())
    meant = next((own[each] for name in group if (each := name.replace("_", "-")) in own), None)
    if meant is None:
        return None
    return judged(
        "invalid-launch-argument",
        service,
        Status.FAIL,
        f"{service.name}: {tables[0]} calls {written} {meant}",
        setting=setting,
        option=written,
        do=f"Write {meant}",
        rename=(written, meant),
    )


def _renamed(service: Service, written: str, sentence: str, setting: Setting | None, name: str) -> Finding:
    return judged(
        "invalid-launch-argument",
        service,
        Status.FAIL,
        f"{service.name}: {sentence}",
        setting=setting,
        option=written,
        do=f"Write --{name}",
        rename=(written, f"--{name}"),
    )


def _of_another_engine(
    service: Service, written: str, plain: str, tables: tuple[str, ...], setting: Setting | None
) -> Finding | None:
    own = {name.replace("_", "-"): name for name in options_of(tables)}
    owner = next(
        (
            shown
            for table, shown in ENGINES.items()
            if table not in tables and plain in {name.replace("_", "-") for name in options_of((table,))}
        ),
        None,
    )
    if owner is None:
        return None
    group = next((names for names in SAME if plain in {name.replace("_", "-") for name in names}), ())
    meant = next((own[each] for name in group if (each := name.replace("_", "-")) in own), None)
    rename = (written, f"--{meant}") if meant else None
    return judged(
        "invalid-launch-argument",
        service,
        Status.FAIL,
        f"{service.name}: {written} is an option of {owner}; {ENGINES.get(tables[0], tables[0])}"
        + (f" calls it --{meant}" if meant else " has none of that name"),
        setting=setting,
        option=written,
        do=f"Write --{meant}" if meant else "Take it out",
        rename=rename,
        remove=None if meant else written,
    )
