"""Looks at the launch's processes and sends what it sees up a private pipe, one JSON line a process.

Started by file name, with this file's own copy of diag, like the probes' child: `python child.py`, setup as JSON on
standard input.
"""

import sys

if __name__ == "__main__":
    sys.path[0] = __file__.rsplit("/", 4)[0]
    import diag  # noqa: F401

    sys.path.append(sys.path.pop(0))

import json
import os
from typing import Any

from diag.observe.stacks.collect import collect
from diag.system.files import Root


def main() -> None:
    """Look, answer, leave."""
    answer_fd = int(os.environ.pop("DIAG_ANSWER_FD"))
    os.set_inheritable(answer_fd, False)  # py-spy must not keep the pipe open
    os.nice(5)  # the patient goes first

    def tell(one: dict[str, Any]) -> None:
        view = memoryview(json.dumps(one).encode() + b"\n")
        while view:
            view = view[os.write(answer_fd, view) :]

    setup = json.loads(sys.stdin.read())
    try:
        collect(Root(setup["root"]), setup["pids"], setup["span_s"], tell, setup["limit_s"])
    except BaseException as error:  # noqa: BLE001 - whatever ends the look is told
        tell({"error": f"{type(error).__name__}: {error}"[:500]})
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
