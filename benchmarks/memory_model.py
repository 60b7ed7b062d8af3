"""The memory model against what engines printed: predicted, printed, error, for every start-up in a truth file.

Usage: python benchmarks/memory_model.py TRUTH.yaml [--markdown]
The truth file lists start-ups (engine, version, model, sizes, printed weights, KV cache, outcome); it is not part of
the repository. Only what a plan and the model's configuration tell is used for the prediction, and the GPU's total.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diag.diagnose.plans.hardware import GIB
from diag.diagnose.plans.memory import MemoryEstimate, estimate
from diag.diagnose.plans.models import facts_of_model
from diag.model.launch import Hardware, Service, Setting

OPTIONS = {
    "gpu_memory_utilization": "gpu-memory-utilization",
    "mem_fraction_static": "mem-fraction-static",
    "max_model_len": "max-model-len",
    "max_num_seqs": "max-num-seqs",
    "max_num_batched_tokens": "max-num-batched-tokens",
    "dtype": "dtype",
    "quantization": "quantization",
    "kv_cache_dtype": "kv-cache-dtype",
    "enforce_eager": "enforce-eager",
    "engine_version": "engine.version",
    "speculative_config": "speculative-config",
    "enable_prefix_caching": "enable-prefix-caching",
    "language_model_only": "language-model-only",
}


@dataclass(frozen=True)
class Row:
    """One start-up: what was printed beside what the model says."""

    id: str
    label: str
    outcome: str
    estimate: MemoryEstimate
    weights_gib: float | None
    cache_gib: float | None
    tokens: int | None

    def error(self, which: str) -> float | None:
        """Relative error of weights, cache or tokens; None where either is unknown."""
        printed, predicted = {
            "weights": (self.weights_gib, self.estimate.weights_bytes_per_gpu),
            "cache": (self.cache_gib, self.estimate.kv_cache_bytes_per_gpu),
            "tokens": (self.tokens, self.estimate.kv_cache_tokens),
        }[which]
        if printed is None or predicted is None or (which != "weights" and self.estimate.total_bytes is None):
            return None
        return (predicted if which == "tokens" else predicted / GIB) / printed - 1

    @property
    def failed_for_memory(self) -> bool:
        """The engine gave up for want of memory."""
        return self.outcome.startswith("failed")


def service_of(case: dict[str, Any]) -> Service:
    """The plan that a row describes."""
    options = {name: Setting(case[key]) for key, name in OPTIONS.items() if case.get(key) is not None}
    return Service(
        case["id"],
        framework=case["engine"],
        model=case["model"],
        tensor_parallel_size=case.get("tp"),
        pipeline_parallel_size=case.get("pp"),
        data_parallel_size=case.get("dp"),
        options=options,
    )


def rows(path: str) -> Iterator[Row]:
    """Predict every start-up of a truth file."""
    from ruamel.yaml import YAML

    for case in YAML(typ="safe").load(Path(path).read_text("utf-8")):
        total = case.get("gpu_total_gib")
        hardware = Hardware(case.get("gpu_model"), None, None, int(total * GIB) if total else None)
        if hardware.gpu_name is None and total is None:
            hardware = Hardware()
        free = case.get("free_at_start_gib")
        found = estimate(
            service_of(case),
            hardware,
            facts_of_model(case["model"]),
            free_bytes=int(free * GIB) if free else None,
        )
        label = f"{case['model'].split('/')[-1]} TP{case.get('tp', 1)} {case['engine']} {case.get('engine_version', '?')}"
        yield Row(
            case["id"],
            label,
            str(case.get("outcome")),
            found,
            case.get("weights_gib_per_gpu"),
            case.get("kv_gib_per_gpu"),
            case.get("kv_tokens"),
        )


def within(found: list[Row], which: str, limit: float) -> tuple[int, int]:
    """(rows within the limit, rows that can be compared)."""
    errors = [error for row in found if (error := row.error(which)) is not None]
    return sum(abs(error) <= limit for error in errors), len(errors)


def as_markdown(found: list[Row]) -> str:
    """The same as a Markdown table, predicted against printed."""
    lines = [
        "| start-up | weights GiB | error | KV cache GiB | error | KV tokens | error | verdict | outcome |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found:
        cells = [row.label]
        for which, printed, predicted in (
            ("weights", row.weights_gib, (row.estimate.weights_bytes_per_gpu or 0) / GIB),
            ("cache", row.cache_gib, (row.estimate.kv_cache_bytes_per_gpu or 0) / GIB),
            ("tokens", row.tokens, row.estimate.kv_cache_tokens or 0),
        ):
            error = row.error(which)
            if error is None:
                cells += ["-", "-"]
            else:
                shown = f"{predicted:,}" if which == "tokens" else f"{predicted:.2f}"
                cells += [f"{shown} ({printed:,})", f"{error:+.1%}"]
        cells += [
            "fits" if row.estimate.fits else row.estimate.stage or "not known",
            row.outcome.split(";")[0],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(path: str, *, markdown: bool = False) -> None:
    """Print the table and the three aims."""
    found = list(rows(path))
    if markdown:
        print(as_markdown(found))
        return
    print(f"{'row':6}{'start-up':64}{'weights GiB':>22}{'KV GiB':>22}{'KV tokens':>30}  verdict")
    for row in found:
        cells = []
        for which, printed, predicted, width in (
            ("weights", row.weights_gib, row.estimate.weights_bytes_per_gpu, 22),
            ("cache", row.cache_gib, row.estimate.kv_cache_bytes_per_gpu, 22),
            ("tokens", row.tokens, row.estimate.kv_cache_tokens, 30),
        ):
            error = row.error(which)
            if which == "tokens":
                cells.append(
                    (f"{predicted}/{printed} {error:+.1%}" if error is not None else "-").rjust(width)
                )
            else:
                cells.append(
                    (
                        f"{(predicted or 0) / GIB:.2f}/{printed} {error:+.1%}" if error is not None else "-"
                    ).rjust(width)
                )
        print(
            f"{row.id:6}{row.label[:63]:64}{''.join(cells)}  {'fits' if row.estimate.fits else row.estimate.stage} | {row.outcome[:40]}"
        )
    for which, limit in (("weights", 0.03), ("tokens", 0.10)):
        good, all_rows = within(found, which, limit)
        print(f"{which}: {good} of {all_rows} within {limit:.0%}")
    failed = [row for row in found if row.failed_for_memory]
    print(
        f"failed for memory: {len(failed)}, of them called fitting: {sum(row.estimate.fits is True for row in failed)}"
    )
    started = [row for row in found if not row.failed_for_memory and row.estimate.fits is not None]
    print(
        f"started: {len(started)}, of them called not fitting: {sum(row.estimate.fits is False for row in started)}"
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python benchmarks/memory_model.py TRUTH.yaml [--markdown]")
    main(sys.argv[1], markdown="--markdown" in sys.argv[2:])
