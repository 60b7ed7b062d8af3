"""The reader of pickles executes nothing, believes nothing, and keeps what a cut file held."""

from __future__ import annotations

import contextlib
import os
import pickle
import pickletools
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diag.observe.flight.plainpickle import PickleRefused, load_plain

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner)
        | st.tuples(inner, inner, inner, inner)
    ),
    max_leaves=40,
)


@given(PLAIN, st.sampled_from([2, 3, 4, 5]))
@settings(max_examples=200, deadline=None)
def test_plain_values_come_back(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)
    if any(op.name in ("GLOBAL", "REDUCE", "STACK_GLOBAL") for op, _, _ in pickletools.genops(data)):
        with pytest.raises(PickleRefused):  # protocol 2 writes bytes through a function of codecs
            load_plain(data)
    else:
        assert load_plain(data) == (value, False)


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    data = pickle.dumps({"version": "2.10", "entries": [Evil(marker)]}, protocol=protocol)

    with pytest.raises(PickleRefused, match="load or call code"):
        load_plain(data)

    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists(), "the sample is not hostile at all"


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02cos\nsystem\n.", b"\x80\x02(ios\nsystem\n.", b"\x80\x02}(oR.", b"\x80\x02\x82\x01.", b"\x80\x02Pid\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.", b"\x80\x02}}b.", b"\x80\x05\x97.",
    ],
)  # fmt: skip
def test_every_way_to_code_is_refused(data: bytes) -> None:
    with pytest.raises(PickleRefused):
        load_plain(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",  # a memo place of two thousand million: C's unpickler makes room for all below
        b"\x80\x02" + b"(" * 100_000,
        b"\x80\x02X\xff\xff\xff\xffabc",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc",
        b"\x80\x02h\x05.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02ee.",
        b"\x80\x02I" + b"9" * 100_000 + b"\n.",
    ],
)
def test_what_is_built_to_hurt_costs_nothing(data: bytes) -> None:
    tracemalloc.start()
    with contextlib.suppress(PickleRefused):
        load_plain(data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 30_000_000


def test_a_cut_file_keeps_whole_entries() -> None:
    value = {"version": "2.10", "entries": [{"record_id": number, "name": "x" * 10} for number in range(50)]}
    data = pickle.dumps(value, protocol=2)

    seen = []
    for cut in range(3, len(data)):
        got, was_cut = load_plain(data[:cut])
        assert was_cut
        entries = got.get("entries", []) if isinstance(got, dict) else []
        seen.append(sum(1 for entry in entries if isinstance(entry, dict) and entry.get("name") == "x" * 10))

    assert seen == sorted(seen)
    assert max(seen) >= 49
