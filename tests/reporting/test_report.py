"""The report tells what the artifacts hold, is one closed file whatever the text in it, and says what is missing."""

import itertools
import json
import shutil
from html.parser import HTMLParser

import pytest

from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.reporting.page import percent, size
from lmcraft.reporting.report import STAGE, ReportConfig

STEPS = ("collect", "curate", "tokenizer", "pretrain", "sft", "evaluate")


class Page(HTMLParser):
    """Tags and attributes as a browser's parser sees them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.ids, self.text = [], [], [], ""
        self.open, self.unbalanced = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "br", "img", "link"):
            self.open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        self.text += data + " "


def report(artifacts, out, steps=STEPS, **settings):
    out.mkdir(exist_ok=True)
    STAGE.run(ReportConfig(**settings), {"of": [artifacts[step] for step in steps]}, out, Runtime())
    html = (out / "report.html").read_text(encoding="utf-8")
    return html, Page(html), json.loads((out / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(artifacts, tmp_path_factory):
    return report(artifacts, tmp_path_factory.mktemp("report"), watts_per_core=10.0)


def test_text_from_data_never_becomes_markup(whole):
    html, page, _ = whole
    assert "script" not in page.tags and "img" not in page.tags
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert html.count("&lt;script&gt;") > 10


def test_nothing_is_loaded_from_elsewhere(whole):
    html, page, _ = whole
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    links = [value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "action")]
    assert links and all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} <= set(page.ids)
    assert "url(" not in html and "@import" not in html
    assert "default-src 'none'" in html


def test_sections_say_what_the_artifacts_hold(whole):
    _, page, _ = whole
    text = " ".join(page.text.split())
    for expected in (
        "40 documents kept",
        "of 50 that came in",
        "came in 52",
        "curate: too short",
        "10 documents, 1 kB",
        "measured 3, limit 20",
        "repaired in 3 documents",
        "bytes a token",
        "Qwen3 dense",
        "Better than its hardest baseline, 95% intervals apart, on 1 of 3",
        "No better than its hardest baseline, on 1 of 3",
        "But not in every language : held-out text (fr)",
        "skipped: longer than the context 1",
        "1 of 1 got their known score",
        "cut off; right answer",
        "6 min 0 s",
        "about 2 Wh",
        "0.2 core-hours",
        "a processor, 2 cores, 8 GB of memory",
    ):
        assert expected.replace(" :", ":") in text.replace(" :", ":"), expected
    assert page.tags.count("svg") == 9  # four curves of each training, and the lineage


def test_numbers_are_the_same_again_and_hold_no_times(artifacts, whole, tmp_path):
    _, _, first = whole
    copies = {step: shutil.copytree(path, tmp_path / step) for step, path in artifacts.items()}
    for path in copies.values():
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        for each in (manifest, *manifest["ancestors"].values()):
            each["provenance"] = each["provenance"] | {"seconds": 1e6, "started": "2030", "device": "another"}
        (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    _, page, second = report(copies, tmp_path / "out")
    assert first == second
    assert second["models"][0]["curves"]["loss"] == {"points": 40, "first": 4.95, "last": 3.0}
    assert sum(second["models"][0]["parts"].values()) == second["models"][0]["parameters"]
    assert "Energy: not measured" in " ".join(page.text.split())


@pytest.mark.parametrize("steps", [*itertools.combinations(STEPS, 1), ("pretrain", "sft"), ("evaluate", "curate"), ()])
def test_any_artifacts_make_a_report(artifacts, tmp_path, steps):
    _, page, numbers = report(artifacts, tmp_path, steps)
    assert not page.unbalanced and not page.open
    assert "evaluate" in steps or "Quality: not measured" in page.text
    assert len(numbers["models"]) == len(set(steps) & {"pretrain", "sft"})


def test_directories_without_manifests_make_a_report_that_says_so(artifacts, tmp_path):
    bare = {step: shutil.copytree(path, tmp_path / step) for step, path in artifacts.items()}
    for path in bare.values():
        (path / "manifest.json").unlink()
    _, page, _ = report(bare, tmp_path / "out")
    assert page.text.count("Not recorded: the directories have no manifests.") == 2
    assert "Times: not measured." in page.text


def test_what_is_no_artifact_is_named(artifacts, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for place, message in ((empty, "neither a manifest"), (tmp_path / "gone", "no directory")):
        with pytest.raises(UserError, match=message):
            STAGE.run(ReportConfig(), {"of": [place]}, tmp_path, Runtime())
    broken = shutil.copytree(artifacts["evaluate"], tmp_path / "broken")
    (broken / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json is damaged"):
        STAGE.run(ReportConfig(), {"of": [broken]}, tmp_path, Runtime())


def test_shares_and_sizes_for_people():
    assert [percent(p) for p in (0, 0.0001, 0.0312, 0.5, 0.9986, 0.99999, 1)] == [
        "0%",
        "<0.1%",
        "3.1%",
        "50%",
        "99.9%",
        ">99.9%",
        "100%",
    ]
    assert [size(n) for n in (None, 0, 999, 1_230_000)] == ["not measured", "0 bytes", "999 bytes", "1.23 MB"]


def test_what_the_monitors_saw_is_shown_by_layer_and_source(artifacts, tmp_path):
    copy = shutil.copytree(artifacts["pretrain"], tmp_path / "pretrain")
    rows = [{"units": {"grad_norm": "2-norm"}, "batch": {"tokens": 5}}]
    for step in (20, 40):
        for layer in (0, 1, "embeddings"):
            row = {"step": step, "layer": layer, "grad_norm": 1.5 + step / 40, "update_to_weight": float("nan")}
            rows.append(row | ({"attention_logit": 7.25, "dead_units": None} if layer != "embeddings" else {}))
        for source in ("mine", "<script>"):
            row = {"step": step, "source": source, "heldout_bits_per_byte": 80 / step, "documents": 1234, "bytes": 5000}
            rows.append(row)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (copy / "monitors.jsonl").write_text(text, encoding="utf-8")
    _, page, numbers = report({"pretrain": copy}, tmp_path / "out", ["pretrain"])
    said = " ".join(page.text.split())
    assert "Held-out loss by source, bits a byte" in said
    assert "mine 4.000 2.000 1,234 documents, 5 kB" in said
    assert "Norm of the gradient: 2.5 at most" in said and "Largest attention logit: 7.25 at most" in said
    assert "Update over weights" not in said and "Share of dead units" not in said, "nothing finite was measured"
    assert not page.unbalanced and "script" not in page.tags
    monitors = numbers["models"][0]["monitors"]
    assert [row["layer"] for row in monitors["layers"]] == [0, 1] and monitors["step"] == 40


def with_energy(artifacts, folder):
    """The pretrain artifact with what a measured run says of its energy."""
    copy = shutil.copytree(artifacts["pretrain"], folder / "pretrain")
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["summary"]["energy"] = {
        **{"kwh": 0.25, "measured": True, "how": "processors measured by RAPL", "gco2e": 12.5},
        **{"grid_gco2e_per_kwh": 50.0, "grid_source": "runtime.grid_intensity of this run"},
    }
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def test_measured_energy_goes_before_the_estimate_and_the_page_says_which_it_is(artifacts, tmp_path):
    copy = with_energy(artifacts, tmp_path)
    _, page, numbers = report({**artifacts, "pretrain": copy}, tmp_path / "out", ["pretrain"], watts_per_core=10.0)
    said = " ".join(page.text.split())
    assert "Energy of pretrain : 250 Wh , 12.5 g of CO2e at 50 g a kWh" in said
    assert "Measured: processors measured by RAPL." in said
    assert "Energy of the other steps: about 1 Wh , 0.473 g of CO2e at 473 g a kWh (world average of 2024" in said
    assert "0.1 core-hours" in said, "three other steps of 60 s on two cores"
    assert "energy" not in json.dumps(numbers), "numbers that differ from run to run stay out of report.json"
