"""The page of measurements, and what README quotes of it, are what the stored results say."""

import importlib
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"
README = BENCH.parents[1] / "README.md"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("report")


def test_page_is_made_from_the_stored_results(report):
    assert (BENCH / "README.md").read_text(encoding="utf-8") == report.page()


def test_readme_quotes_the_stored_results(report):
    text = README.read_text(encoding="utf-8")
    assert report.QUOTED.findall(text) == [report.quoted()]
    assert not {"×", "±"} & set(report.QUOTED.sub("", text))  # no other ratio and no other difference stands in it
