"""NVML through nvidia-ml-py, for the probes' children only: every answer is a value or a named error, never a guess."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from diag.system.processes import within

T = TypeVar("T")

ErrorFacts = dict[str, Any]
"""{code: NVML's number or null, kind: one of KINDS, `binding-missing`, `timeout` or `other`, message}."""

KINDS = {
    2: "invalid-argument",
    3: "not-supported",
    4: "no-permission",
    6: "not-found",
    9: "driver-not-loaded",
    12: "library-not-found",
    13: "function-not-found",
    15: "gpu-lost",
    16: "reset-required",
    17: "operating-system",
    18: "library-mismatch",
    999: "unknown",
}
"""Numbers of nvmlReturn_t. Source: nvml.h, the same in nvidia-ml-py 12.535 and 13."""

ABSENT = ("driver-not-loaded", "library-not-found", "binding-missing")
"""Kinds that say: no NVIDIA driver to talk to (or no binding), as on a machine without GPUs."""


def error_facts(error: Exception) -> ErrorFacts:
    """An exception of the binding as plain facts."""
    code = getattr(error, "value", None)
    return {
        "code": code,
        "kind": KINDS.get(code, "other") if code is not None else "other",
        "message": str(error),
    }


@dataclass(slots=True)
class Nvml:
    """An open NVML, or why there is none."""

    module: Any
    error: ErrorFacts | None
    init_s: float

    def ask(self, function: str, *args: Any) -> tuple[Any, ErrorFacts | None]:
        """Call `function` of the binding: (value, None) or (None, error). Old bindings lack some functions."""
        call: Callable[..., Any] | None = getattr(self.module, function, None)
        if call is None:
            return None, {
                "code": 13,
                "kind": "function-not-found",
                "message": f"this nvidia-ml-py has no {function}",
            }
        try:
            return call(*args), None
        except self.module.NVMLError as error:
            return None, error_facts(error)

    def value(self, function: str, *args: Any) -> Any:
        """The value, or None whatever the error."""
        return self.ask(function, *args)[0]

    def count(self) -> int:
        """GPUs that NVML counts; 0 without NVML."""
        return (self.value("nvmlDeviceGetCount") or 0) if self.error is None else 0


@contextmanager
def open_nvml() -> Iterator[Nvml]:
    """Initialise NVML and shut it down again. Never raises for what NVML does; it may hang (the runner kills)."""
    begin = time.monotonic()
    try:
        import pynvml
    except ImportError as error:
        yield Nvml(None, {"code": None, "kind": "binding-missing", "message": str(error)}, 0.0)
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield Nvml(pynvml, error_facts(error), time.monotonic() - begin)
        return
    try:
        yield Nvml(pynvml, None, time.monotonic() - begin)
    finally:
        pynvml.nvmlShutdown()


GONE = ("gpu-lost", "reset-required")
"""Kinds that say: this GPU does nothing more before a reset or reboot."""


PATIENCE_S = 6.0
"""For probes that have more to tell than NVML does: longer than a slow start, shorter than their own deadlines."""


def ask_nvml(look: Callable[[Nvml], T], otherwise: T) -> tuple[T, ErrorFacts | None]:
    """(what `look` finds, None); (`otherwise`, error) where NVML does not start or has not answered in PATIENCE_S.

    A call that hangs is left behind in its thread: the callers live in short-lived children.
    """

    def run() -> tuple[T, ErrorFacts | None]:
        with open_nvml() as nvml:
            return (look(nvml), None) if nvml.error is None else (otherwise, nvml.error)

    answered, answer = within(PATIENCE_S, run)
    if not answered or answer is None:
        message = f"NVML has not answered within {PATIENCE_S:.0f} s"
        return otherwise, {"code": None, "kind": "timeout", "message": message}
    return answer


def explain_error(error: ErrorFacts) -> str:
    """One sentence about why NVML did not start."""
    return {
        "driver-not-loaded": "the NVIDIA kernel module is not loaded",
        "library-not-found": "there is no libnvidia-ml.so.1",
        "binding-missing": "the Python package nvidia-ml-py is not installed beside diag",
        "library-mismatch": "the NVML library and the kernel module are of different driver versions",
        "gpu-lost": "the GPU has fallen off the bus",
        "no-permission": "this user may not open the NVIDIA device files",
        "timeout": f"NVML has not answered within {PATIENCE_S:.0f} s: it hangs, or starts very slowly",
        "unknown": "NVML gives only its unknown error (999), as when a container has lost its device permissions",
    }.get(error["kind"], f"NVML says: {error['message']}")


def not_supported(error: ErrorFacts | None) -> bool:
    """True where the GPU, driver or binding has no such figure, as opposed to failing to give it."""
    return error is not None and error["kind"] in ("not-supported", "function-not-found", "invalid-argument")
