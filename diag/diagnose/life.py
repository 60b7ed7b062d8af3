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
