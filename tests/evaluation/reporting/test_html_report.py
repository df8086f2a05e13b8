"""`report.html`: its responses, how they are packed, and the page in a browser if Chromium is installed."""

import gzip
import json
import re
import shutil
import subprocess
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.graded import write_graded

from redi.evaluation.reporting.html_report import MAX_CHARS, select
from redi.evaluation.reporting.report import report
from redi.evaluation.reporting.scores import Scores

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "<b>bold</b> </script><script>document.title = 'taken over'</script> <!-- ${x} \ud800 \u2028 -->"


def write_page(folder, response=HOSTILE, **options) -> str:
    inputs = [write_graded(folder / name, response=response) for name in ("sft", "a<b>&c")]
    report(inputs, folder / "table", [], **options)
    return (folder / "table" / "report.html").read_text(encoding="utf-8")


def unpack(page: str, name: str):
    packed = re.search(rf'id="{name}">([A-Za-z0-9+/=]*)</script>', page)[1]
    return json.loads(gzip.decompress(b64decode(packed)))


def test_every_response_is_packed_and_none_is_markup(tmp_path):
    page = write_page(tmp_path)
    data = unpack(page, "index")
    assert data["models"] == ["sft", "a<b>&c"]
    assert len(data["rows"]) == 40 and unpack(page, "block0") == [HOSTILE.replace("\ud800", "?")] * 40
    assert data["problems"] == {f"math500 p{i}": ["What is it?", "1"] for i in range(5)}
    assert "taken over" not in page and "a<b>" not in page
    assert "40 of 40 responses" in page
    assert not re.search(r"(?:src|href)\s*=|https?://|@import|url\(", page)  # nothing is fetched

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            names.append(tag)

    names: list[str] = []
    Parser().feed(page)
    assert names.count("table") == 1 and names.count("svg") == 2 and "b" not in names


def test_the_page_says_what_it_leaves_out(tmp_path):
    page = write_page(tmp_path, response="x" * (MAX_CHARS + 5000) + "end", max_responses=20)
    assert "20 of 40 responses" in page and f"each cut to {MAX_CHARS:,} characters" in page
    text = unpack(page, "block0")[0]
    assert "[... 5,003 characters left out ...]" in text and text.endswith("end") and len(text) < MAX_CHARS + 100


def test_disagreements_and_then_the_first_samples_are_chosen():
    correct = np.zeros((3, 4), dtype=int)
    second = correct.copy()
    second[2, 3] = 1
    empty = np.zeros_like(correct)
    scores = Scores(("a", "b", "c"), correct, second, empty, None, empty, empty)
    chosen = select("m", scores, 4)
    assert chosen[0] == ("m", "c", 3)
    assert sorted(chosen[1:]) == [("m", "a", 0), ("m", "b", 0), ("m", "c", 0)]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1400, 500])  # the narrowest window that headless Chromium lays out
def test_in_a_browser(tmp_path, width):
    """Chromium runs the page's script. A script added to a copy uses the filters and records what it sees."""
    page = write_page(tmp_path)
    probe = """
    <script>
    (async () => {
      const wait = () => new Promise(done => setTimeout(done, 150)), seen = {};
      while (!document.body.dataset.ready) await wait();
      for (const verdict of ["all", "correct", "wrong", "truncated", "unanswered", "undecided", "differing"]) {
        get("verdict").value = verdict; filter(); await wait();
        seen[verdict] = shown.length;
      }
      get("verdict").value = "all"; get("model").value = "1"; get("search").value = "P3"; filter(); await wait();
      seen.found = shown.length;
      seen.response = get("response").textContent;
      seen.head = document.querySelector("#detail .head").textContent;
      seen.title = document.title;
      seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
      const out = document.createElement("output");
      out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
      document.body.append(out);
    })();
    </script></body>"""
    copy = tmp_path / "probe.html"
    copy.write_text(page.replace("</body>", probe), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", "--virtual-time-budget=20000", "--dump-dom", copy.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    seen = json.loads(b64decode(re.search(r"<output>([^<]*)</output>", result.stdout)[1]))
    assert seen["all"] == 40
    # of 20 per model: 11 correct, 9 wrong, 1 truncated, 2 without an answer, 1 timeout, 1 verdict that differs
    assert [seen[name] for name in ("correct", "wrong", "truncated", "unanswered", "undecided", "differing")] == [
        22,
        18,
        2,
        4,
        2,
        2,
    ]
    assert seen["found"] == 4 and "sample 0" in seen["head"] and seen["head"].startswith("a<b>&c")
    assert "</script><script>document.title = 'taken over'</script>" in seen["response"]
    assert seen["title"] == "Evaluation: sft, a<b>&c"
    assert seen["overflow"] <= 0
