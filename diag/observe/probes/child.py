"""Run one probe's look and send its facts up a private pipe.

Started by file name, `python .../child.py <probe id> <package>`: started with -m, a `types.py` or `json.py` in the
user's working directory would be imported instead of the real one. Setup comes as JSON on standard input.
"""

import sys

if __name__ == "__main__":
    # Our own folder must not shadow the standard library. `diag` is taken from where this file lies, so that parent
    # and child are one version; that folder then leaves the front again, for the same reason.
    sys.path[0] = __file__.rsplit("/", 4)[0]
    import diag  # noqa: F401

    sys.path.append(sys.path.pop(0))

import json
import os
import traceback
from typing import Any

from diag.observe.probes.interface import Setup
from diag.observe.probes.registry import PACKAGE, load_probe
from diag.system.files import Root


def main(arguments: list[str]) -> None:
    """Look, answer, and leave without running anybody's exit handlers: NCCL's and CUDA's may hang."""
    probe_id, package = (*arguments, PACKAGE)[:2]
    answer_fd = int(os.environ.pop("DIAG_ANSWER_FD"))
    os.set_inheritable(answer_fd, False)  # commands that a probe starts must not keep the pipe open
    text = json.dumps(_answer(probe_id, package)).encode()
    try:
        view = memoryview(text)
        while view:
            view = view[os.write(answer_fd, view) :]
    finally:
        os._exit(0)


def _answer(probe_id: str, package: str) -> dict[str, Any]:
    try:
        facts = load_probe(probe_id, package).collect(read_setup(sys.stdin.read()))
        return {"facts": json.loads(json.dumps(facts))}
    except BaseException as error:  # noqa: BLE001 - also SystemExit: whatever ends the look is the answer
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""  # noqa: PTH119
        kind = "permission" if isinstance(error, PermissionError) else "crashed"
        return {"error": f"{type(error).__name__}: {error}", "where": where, "kind": kind}


def read_setup(text: str) -> Setup:
    """The Setup that `runner.write_setup` wrote."""
    raw = json.loads(text)
    return Setup(**{**raw, "root": Root(raw["root"])})


if __name__ == "__main__":
    main(sys.argv[1:])
