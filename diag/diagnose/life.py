"""Which signs of life say that a launch came up, answers, or came to its end."""

from __future__ import annotations

from diag.model import Observation


def answers(mark: Observation) -> bool:
    """True for a server's word that requests are answered: all its processes live."""
    return "POST " in mark.text or "throughput" in mark.text


STARTS = (
    "startup complete",
    "fired up",
    "Uvicorn running",
    "init engine (profile",
    "exit status 0",
    "exit status: 0",
    "Started HTTPService at",
    "Started GRPCInferenceService at",
    ": Connected",
)
"""Words of lines that say that the launch came up, or that a command ended well."""

FINISHED = (
    "metrics *****",
    "raining complete",
    "raining finished",
    "TrainOutput(",
    "completed successfully",
    "errored=None",
    " epochs completed in ",
)
"""Words of lines that say that the whole launch came to its end, or commits its steps again (torchft)."""


def is_start(mark: Observation) -> bool:
    """True for the word that the launch came up, or came to its end."""
    return any(words in mark.text for words in STARTS) or is_end(mark)


def is_end(mark: Observation) -> bool:
    """True for the word that the whole launch came to its end."""
    return any(words in mark.text for words in FINISHED)


def without_late_prints(inside: list[Observation]) -> list[Observation]:
    """A run's observations without what workers printed before the main program ended, and Ray handed on after its traceback.

    Such lines have no time of their own: where nothing but they follow an uncaught exception of the main program, they
    are no later life.
    """
    end = max((one.order for one in inside if _ends_the_main_program(one)), default=None)
    if end is None or not all(_handed_on(one) for one in inside if _lives_after(one, end)):
        return inside
    return [one for one in inside if not _lives_after(one, end)]


def _ends_the_main_program(one: Observation) -> bool:
    return (
        one.kind == "exception"
        and one.origin.process is None
        and not one.fields.get("ignored")
        and str(one.fields.get("functions", "")).startswith("<module>")
    )


def _lives_after(one: Observation, end: int) -> bool:
    return one.kind in ("alive", "phase") and one.order > end


def _handed_on(mark: Observation) -> bool:
    return "pid=" in (mark.origin.process or "") and mark.origin.time_s is None
