"""Libraries' refusals that no playbook quotes are told by their wording, and yield to a cause that is stated."""

from __future__ import annotations

import pytest

from diag.diagnose.knowledge import diagnose_text
from diag.model import Role
from diag.observe.logs.reading import build_reader
from diag.playbooks.base import load_base

TRACEBACK = """Traceback (most recent call last):
  File "{path}", line 88, in prepare
    check(self)
  File "{path}", line 21, in check
    raise error
{message}
"""
LIBRARY = "/usr/lib/python3.12/site-packages/newtrainer/prepare.py"


def first_cause(path: str, message: str) -> str | None:
    """The id of the first diagnosis of a rank that ends in this exception."""
    base = load_base()
    text = TRACEBACK.format(path=path, message=message)
    found = diagnose_text(base, build_reader(base), text)
    return next((one.id for one in found if one.role is not Role.ECHO and not one.guessed), None)


@pytest.mark.parametrize(
    "message",
    [
        "ValueError: Unknown shuffle_mode: fast. Choose between ['none', 'block']",
        "ValueError: Compression 'lz9' is invalid. Allowed values: ('lz4', 'zstd')",
        "ValueError: You cannot pass both `shard_plan` and `shard_size`.",
        "RuntimeError: Ring attention requires packing to be enabled.",
        "newtrainer.errors.MisconfigurationException: the plan asks for more stages than layers",
    ],
)
def test_a_library_that_refuses_a_setting(message: str) -> None:
    assert first_cause(LIBRARY, message) == "invalid-launch-argument"


@pytest.mark.parametrize(
    "message",
    ["ValueError: Block sharding requires PyTorch >= 2.9.0", "RuntimeError: newkernels is not installed."],
)
def test_a_library_that_wants_another_version_or_package(message: str) -> None:
    assert first_cause(LIBRARY, message) == "python-env-broken"


def test_the_users_own_program_gives_no_launch_argument() -> None:
    message = "ValueError: Unknown shuffle_mode: fast. Choose between ['none', 'block']"

    assert first_cause("/srv/app/train.py", message) == "application-error"


def test_a_stated_cause_stands_before_the_wording() -> None:
    message = (
        "ValueError: 'eth7' is not a valid network interface. Valid network interfaces are: ['lo', 'eth0']"
    )

    assert first_cause(LIBRARY, message) == "nccl-wrong-interface"
