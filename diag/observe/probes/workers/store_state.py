"""Who has come to a job's TCPStore, read from the store itself: nothing is added, set, waited for or deleted.

Stand-alone: run by the patient's interpreter, whose torch speaks the store's own version of the protocol.
    store_state.py '{"address", "port", "world", "round_s"}'
A client that does not wait for workers is not counted as one. gloo's ranks leave a key each while a group is made
(`default_pg/0//cpu//0/RANK`), the first rank after all others have come. The answer, as JSON on DIAG_ANSWER_FD: {"python", "ranks":
[{"came": [rank] | null, "keys": number | null, "torch", "error": text | null}]}; came is null where no rank has left such a key.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from typing import Any

from diag_ranks import guard, send  # type: ignore[import-not-found]  # beside this script

KEY = re.compile(r"(?:^|/)default_pg/\d+//cpu//\d+/(\d+)$")


def look(job: dict[str, Any]) -> dict[str, Any]:
    """Connect and list."""
    import torch
    from torch.distributed import TCPStore

    timeout = datetime.timedelta(seconds=job["round_s"])
    store = TCPStore(job["address"], job["port"], is_master=False, timeout=timeout, wait_for_workers=False)
    if hasattr(store, "list_keys"):
        keys = list(store.list_keys())
    else:  # an older torch: asked for what is expected; check does not wait
        wanted = (f"default_pg/0//cpu//0/{rank}" for rank in range(job["world"]))
        keys = [key for key in wanted if store.check([key])]
    came = sorted({int(found[1]) for key in keys if (found := KEY.search(key)) is not None})
    return {"came": came or None, "keys": store.num_keys(), "torch": torch.__version__, "error": None}


def main() -> None:
    """Answer whatever happens."""
    job = json.loads(sys.argv[1])
    guard(job["deadline_s"] + 1)
    try:
        answer = look(job)
    except Exception as error:
        answer = {
            "came": None,
            "keys": None,
            "torch": None,
            "error": f"{type(error).__name__}: {str(error)[:200]}",
        }
    send({"python": sys.executable, "ranks": [answer]})


if __name__ == "__main__":
    main()
