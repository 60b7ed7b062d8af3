"""The documentation's list of causes is made from the playbooks."""

from __future__ import annotations

import os
from pathlib import Path

from diag.diagnose.knowledge import causes_table

README = Path(__file__).parents[2] / "playbooks" / "README.md"


def test_the_list_of_causes_is_current() -> None:
    text = README.read_text()
    before, _, rest = text.partition("<!-- causes -->\n")
    listed, _, after = rest.partition("<!-- /causes -->")
    if os.environ.get("UPDATE_CAUSES"):
        README.write_text(f"{before}<!-- causes -->\n{causes_table()}<!-- /causes -->{after}")
        return

    assert causes_table() == listed, "run the tests once with UPDATE_CAUSES=1"
