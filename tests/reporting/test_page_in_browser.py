"""The run report in a browser: it fits a laptop and a phone, asks nobody for anything and shows all its parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from headless import chromium
from small_pipeline import SmallRun


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_fits_the_screen_and_is_whole(small_run: SmallRun, tmp_path: Path, width: int) -> None:
    with chromium(tmp_path) as browser:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get((small_run.artifact("report") / "report.html").as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
        text = browser.find_element("tag name", "body").text
        for part in ("What went in", "Tokenizer", "Network", "Training", "Results", "Time and energy", "Lineage"):
            assert part in text
        charts = browser.find_elements("css selector", "svg")
        assert len([chart for chart in charts if chart.size["width"] > 100]) >= 4
