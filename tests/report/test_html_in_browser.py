"""The page in a real browser: nothing runs, nothing is fetched, nothing is wider than a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from report_examples import ALL, explained, redacted

from diag.report import render

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")

EVIL = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'"> & "quotes" </pre></details>'


def nasty() -> str:
    one = explained()
    first = replace(one.diagnoses[0], summary=EVIL, title=EVIL, explanation=EVIL, confirm=(EVIL,))
    return render(replace(one, diagnoses=(first,), notes=(EVIL,), facts={"launch": {EVIL: EVIL}}), "html")


def test_no_tag_of_a_log_survives() -> None:
    page = nasty()

    assert "<script" not in page
    assert "<img" not in page


def test_the_page_asks_for_nothing_from_outside() -> None:
    for name in ALL:
        page = render(ALL[name](), "html")

        assert not re.search(r"<(?:script|link|img|iframe|object)\b|\b(?:src|href)=|url\(|@import", page)


def dom(page: str, folder: Path, width: int = 420) -> str:
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", f"--window-size={width},900", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


@needs_browser
def test_a_browser_shows_the_log_as_text(tmp_path: Path) -> None:
    seen = dom(nasty(), tmp_path)

    assert "<title>owned" not in seen
    assert "&lt;script&gt;" in seen


@needs_browser
@pytest.mark.parametrize("name", ALL)
def test_nothing_is_wider_than_a_phone(name: str, tmp_path: Path) -> None:
    # The page's own policy forbids scripts; for measuring it is taken out and a ruler put in.
    page = re.sub(r"<meta http-equiv=[^>]*>", "", render(redacted(ALL[name]()), "html"))
    ruler = "<script>document.title = document.documentElement.scrollWidth + ' of ' + document.documentElement.clientWidth</script></body>"
    seen = re.search(r"<title>(\d+) of (\d+)</title>", dom(page.replace("</body>", ruler), tmp_path))

    assert seen
    assert int(seen[1]) <= int(seen[2])
