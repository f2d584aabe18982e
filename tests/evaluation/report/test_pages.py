"""The page and its Markdown: the same figures, those of the folders, and every text is text."""

import json
import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser

import pytest

from afm_mlx.corpus.clean import clean_sources
from afm_mlx.evaluation.report.folders import read_run
from afm_mlx.evaluation.report.html import to_html
from afm_mlx.evaluation.report.markdown import to_markdown
from afm_mlx.evaluation.report.one import report_of
from afm_mlx.evaluation.report.two import comparison_of
from afm_mlx.settings.clean import Clean
from afm_mlx.settings.sections import Source

from .conftest import result, score, trained

FIGURE = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")  # not the 8 of gsm8k
NEVER_CLOSED = {"meta"}


class Page(HTMLParser):
    """Texts of a page and its elements; what is not well formed is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.elements, self.headings = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in NEVER_CLOSED:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and not {"style", "title", "svg"} & set(self.open):
            self.texts.append(data)
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data)


def pages(folder, other=None):
    run = read_run(folder)
    report = report_of(run) if other is None else comparison_of(run, read_run(other))
    return to_html(report), to_markdown(report)


def figures_of(text):
    return Counter(FIGURE.findall(text))


def figures_of_markdown(markdown):
    """Figures of the text that a reader sees: outside of code, escapes are undone."""
    return figures_of(re.sub(r"\\(.)", r"\1", unescape(markdown)))


def test_every_figure_of_the_page_is_in_the_markdown_as_often(whole):
    page, markdown = pages(whole.folder)
    seen, written = figures_of(" ".join(Page(page).texts)), figures_of_markdown(markdown)
    assert seen - written == Counter()
    # Beyond them Markdown has the bits of matrices, which the page has in a picture.
    assert set(written - seen) == {"24", "44", "8"}
    assert seen.total() > 200


def test_every_figure_of_a_comparison_is_in_the_markdown_as_often(whole, another):
    page, markdown = pages(whole.folder, another.folder)
    assert figures_of(" ".join(Page(page).texts)) == figures_of_markdown(markdown)


def test_figures_are_those_of_the_manifests(whole):
    _, markdown = pages(whole.folder)
    for line in (
        "| core | 327,680 tokens read (from tokenizer, data) | 1 min 23 s |",
        "| docs | text | MIT, a\\|b &lt;i&gt; | 42 | 42 | 305.02 kB | 91,357 | 1,234 |",
        "| docs | empty | 7 |",
        "| core | 5.7312 | 2.7654 |  |  |  |",
        "| sft |  |  |  | 0.2871 (before 8.0954) |  |",
        "| rl |  |  |  |  | 62.5% (before 55.0%) |",
        "| mmlu (accuracy) | 25.0% (20.0 to 30.0%) | 29.0% (24.0 to 34.0%) |",
        "| perplexity (perplexity) | 190.2 (182.2 to 198.2) |  |",
        "| safety (over refusal) | 6.2% (1.2 to 11.2%) |",
        "| algebra (accuracy) | 31.0% (26.0 to 36.0%) |",
        "| gsm8k | sft | shots 8, prompt hash ab12, temperature 0, chat yes "
        "| 3 longer than the context | 100 |",
        "| asked for, at most | 3.700 |",
        "| planned, without tables | 3.687 |",
        "| on disk, all | 4.753 |",
        "| recovery-16 | 16 | 6,144 | 0.0789 | 0.0312 | 60.5% |",
        "| tools | recovery-16 | 16 | 200 bytes | 100 | 3.2105 | 0.9876 |",
        "| core | 1 min 23 s | 53.6% | 0.25 GB | 2,011 tokens/s |",
        "| all | 2 min 36 s |  | 0.25 GB |  |",
        "| 400 | 5.8000 | 6.0000 |",
    ):
        assert line in markdown, line


def test_the_model_is_counted_and_described(whole):
    _, markdown = pages(whole.folder)
    parameters = 32 * 8 + 2 * (2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16 + 2 * 8 + 2 * 4) + 8
    assert f"- parameters: {parameters:,}\n" in markdown
    assert f"| core | {parameters:,} | 4.00 kB | {8 * 4_000 / parameters:.2f} |" in markdown


def test_no_text_becomes_markup(whole):
    page, markdown = pages(whole.folder)
    found = Page(page)
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "img", "link", "iframe", "object", "form"}
    assert not any(key.startswith("on") for _, attributes in found.elements for key in attributes)
    text = "".join(found.texts)
    assert '<script>alert("1")</script><img src=x onerror=alert(2)> & `code` |cell|' in text
    assert "law <b>" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", page + markdown)
    page.encode()
    markdown.encode()


def test_names_of_any_kind_stay_in_their_cell(made):
    evil = 'x"><script>|`*_ \n\n# head'
    made.stage(evil.replace("\n", " ").replace("/", " "), **{"pieces": 3})
    made.stage("eval")
    made.write("eval/scores.json", [result(evil, evil, **{evil: score(0.5)})])
    page, markdown = pages(made.folder)
    assert "script" not in {tag for tag, _ in Page(page).elements}
    assert "<script>" not in markdown
    assert not re.search(r"(?m)^# head", markdown)


def test_code_in_answers_cannot_end_its_fence(made):
    made.stage("core", samples={"x": "````\n# out\n````"})
    _, markdown = pages(made.folder)
    assert "`````text\n````\n# out\n````\n`````" in markdown


def test_the_page_loads_and_runs_nothing(whole):
    page, _ = pages(whole.folder)
    for tag, attributes in Page(page).elements:
        assert not {"src", "srcset", "action", "data", "xlink:href"} & set(attributes), tag
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page


def test_every_link_leads_to_a_part(whole):
    found = Page(pages(whole.folder)[0])
    links = [attributes["href"][1:] for tag, attributes in found.elements if tag == "a"]
    parts = [attributes["id"] for tag, attributes in found.elements if "id" in attributes]
    assert links == parts
    assert len(links) == 10


def test_missing_parts_have_no_heading(made):
    made.stage("tokenizer", pieces=32)
    page, markdown = pages(made.folder)
    assert re.findall("(?m)^## (.*)", markdown) == ["Pipeline", "Time, memory and speed"]
    assert Page(page).headings == ["Pipeline", "Time, memory and speed"]


def test_a_run_in_the_making_has_a_page(made):
    made.making("core", [*trained(40, 5.0), {"step": 60, "nll": 4.5, "samples": {"a": "b"}}])
    page, markdown = pages(made.folder)
    assert "Report of a run in the making" in page
    assert "| core (in the making) | trained to step 60 |" in markdown
    assert "| 60 | 4.5000 |" in markdown
    assert "```text\nb\n```" in markdown


def test_a_stage_that_is_made_again_is_there_twice(made):
    made.stage("core", tokens=1_000)
    made.making("core", trained(40, 5.0))
    _, markdown = pages(made.folder)
    assert "| core | 1,000 tokens read | 1 s |" in markdown
    assert "| core (in the making) | trained to step 40 |  |" in markdown


def test_results_that_were_set_aside_are_named(made):
    made.stage("core")
    made.stage("set-aside/core-1", seconds=65.0)
    made.stage("set-aside/sft-1", seconds=5.0)
    _, markdown = pages(made.folder)
    assert "changed: core-1 (1 min 5 s), sft-1 (5 s)." in markdown


def test_the_same_folders_give_the_same_bytes(whole):
    assert pages(whole.folder) == pages(whole.folder)


def test_the_date_is_that_of_the_newest_manifest(whole):
    page, markdown = pages(whole.folder)
    assert "Report of 21 September 2026, 14:13 UTC" in page
    assert "Report of 21 September 2026, 14:13 UTC" in markdown


def test_a_long_curve_is_thinned_and_says_so(made):
    log = [{"step": step, "nll": 5.0 - step / 10_000} for step in range(1, 1_001)]
    made.stage("core", log=log)
    page, markdown = pages(made.folder)
    assert "Each point is the mean of up to 4 logged steps." in page
    points = re.search(r'points="([^"]*)"', page)[1].split()
    assert len(points) == 250
    assert "| 1,000 | 4.9000 |" in markdown
    assert len(re.findall(r"(?m)^\| [\d,]+ \| \d\.\d{4} \|$", markdown)) <= 10


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [-3.5],
        [5.0, 5.0],
        [5.0, 5.000000000000001],
        [1e-9, 2e-9],
        [0.0, 5e-324],
        [1e-310],
        [1e12, 3e12],
        [-1.7e308, 1.7e308],
    ],
)
def test_curves_of_any_height_stay_in_their_picture(made, values):
    made.stage("core", log=[{"step": n, "nll": y} for n, y in enumerate(values)])
    page, _ = pages(made.folder)
    for point in re.search(r'points="([^"]*)"', page)[1].split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= 360
        assert 0 <= y <= 210
    assert max(map(len, re.findall(r"\d+", page))) < 20


def test_the_committee_has_a_table(made):
    members = {"sft": {"worth": 0.25, "finished": 1.0, "reward": -1.5, "to_start": 0.0}}
    held_out = {"members": members, "picked_by_reward": 0.375}
    made.stage("itec", rounds=[{"round": 1, "held_out": held_out}, "damaged"])
    _, markdown = pages(made.folder)
    assert "| sft | 1 | 25.0% | 100.0% | -1.500 | 0.000 |" in markdown
    assert "| picked among all by the reward model | 1 | 37.5% |  |  |  |" in markdown


def test_of_each_task_asked_twice_both_are_shown(made):
    made.stage("eval")
    asked = [result("needle", "sft", found=score(value)) for value in (0.5, 0.75)]
    made.write("eval/scores.json", asked)
    _, markdown = pages(made.folder)
    assert "| needle (found) | 50.0% (45.0 to 55.0%) |" in markdown
    assert "| needle (2) (found) | 75.0% (70.0 to 80.0%) |" in markdown


def test_what_filters_left_out_is_on_the_page(made, tmp_path):
    texts = [f"{i} " + " ".join(f"word{i}x{j}" for j in range(60)) + "." for i in range(8)]
    texts += [texts[0], "short", "<b>short</b>"]
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, ""]))
    off = ["duplicate-ngrams", "top-ngram", "stop-words", "duplicate-lines", "punctuation"]
    rules = {"off": off, "least_words": 10}
    settings = Clean.model_validate({"workers": 1, "heuristics": rules, "dedup": {}})
    sources = {"texts": Source(kind="jsonl", path=str(source), license="CC-BY-4.0")}
    metrics = clean_sources(sources, settings, made.folder / "clean")
    made.write("clean/manifest.json", {"metrics": metrics})
    page, markdown = pages(made.folder)
    assert "| clean | 8 documents kept |" in markdown
    assert "8 documents, 4.26 kB of text; of 11 documents read." in markdown
    assert "| texts | jsonl | CC-BY-4.0 | 11 | 8 | 4.26 kB |" in markdown
    assert "| heuristics.too-short | 2 | 18.2% |" in markdown
    assert "| dedup.exact | 1 | 9.1% |" in markdown
    assert "| texts | empty | 1 |" in markdown
    assert "## Time" not in markdown
    assert figures_of(" ".join(Page(page).texts)) == figures_of_markdown(markdown)
