"""Expressions that are compiled when they are first used behave like compiled ones."""

from __future__ import annotations

import re

import pytest

from diag.system.lazy import lazily


def test_text_and_bytes() -> None:
    word = lazily(r"(\w+)=(\d+)", re.IGNORECASE)
    assert [found[1] for found in word.finditer("a=1, B=22")] == ["a", "B"]
    assert word.sub("x", "a=1") == "x"
    assert word.pattern == r"(\w+)=(\d+)"
    assert word.groups == 2
    assert lazily(rb"\d").findall(b"1a2") == [b"1", b"2"]


def test_an_error_comes_with_the_first_use() -> None:
    broken = lazily("(")
    with pytest.raises(re.error):
        broken.search("")
