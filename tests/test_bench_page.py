"""The page of measurements is what the stored results say."""

import importlib.util
from pathlib import Path

BENCH = Path(__file__).parent / "bench"


def test_page_is_made_from_the_stored_results():
    spec = importlib.util.spec_from_file_location("bench_report", BENCH / "report.py")
    assert spec is not None and spec.loader is not None
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    assert (BENCH / "README.md").read_text(encoding="utf-8") == report.page()
