"""Two runs beside each other."""

import json
import re
import shutil

from afm_mlx.evaluation.report.folders import read_run
from afm_mlx.evaluation.report.html import to_html
from afm_mlx.evaluation.report.markdown import to_markdown
from afm_mlx.evaluation.report.two import comparison_of

from .conftest import Made, result, score


def compared(first, second):
    return comparison_of(read_run(first), read_run(second))


def test_settings_that_differ_are_listed_and_no_others(whole, another):
    text = to_markdown(compared(whole.folder, another.folder))
    part = text.split("## What differs")[1].split("##")[0]
    assert part.strip().splitlines() == [
        "| setting | small | better |",
        "| --- | --- | --- |",
        "| core.lr | 0.01 | 0.02 |",
        "| synthetic.a_long_name.of_a_setting.that_goes_on_and_on | 0.01 | 0.02 |",
    ]


def test_scores_have_a_difference_and_its_interval(whole, another):
    text = to_markdown(compared(whole.folder, another.folder))
    assert (
        "| mmlu (accuracy) | sft | 29.0% (24.0 to 34.0%) | 41.5% (36.5 to 46.5%) "
        "| +12.5 points (+5.4 to +19.6 points) |" in text
    )
    assert "| texts, bits per byte | core | 2.7654 | 2.6404 | -0.1250 |" in text


def test_curves_of_the_same_stage_share_their_axes(whole, another):
    report = compared(whole.folder, another.folder)
    training = next(part for part in report.parts if part.title == "Training")
    curves = {block.title: block for block in training.blocks}["core"]
    assert [line.name for line in curves.lines] == [
        "small, training",
        "small, held out",
        "better, training",
        "better, held out",
    ]
    assert [line.run for line in curves.lines] == [0, 0, 1, 1]


def test_stages_that_only_one_has_are_named(whole, another):
    shutil.rmtree(another.folder / "rl")
    shutil.rmtree(another.folder / "quantize")
    shutil.rmtree(whole.folder / "eval")
    text = to_markdown(compared(whole.folder, another.folder))
    assert "Only small has rl, quantize. Only better has eval." in text
    assert "quantize.target_bits_per_weight" not in text


def test_scores_that_only_one_has_are_named(whole, another):
    file = another.folder / "eval" / "scores.json"
    file.write_text(json.dumps([result("new", "sft", accuracy=score(0.5))]))
    text = to_markdown(compared(whole.folder, another.folder))
    assert (
        "Only small has scores of mmlu (core), mmlu (sft), gsm8k (sft), perplexity (core)." in text
    )
    assert "Only better has scores of new (sft)." in text
    assert "| mmlu" not in text


def test_a_run_beside_itself_differs_in_nothing(whole, tmp_path):
    copy = tmp_path / "copy" / "small"
    shutil.copytree(whole.folder, copy)
    report = compared(whole.folder, copy)
    assert report.title == "small (1) and small (2)"
    text = to_markdown(report)
    assert "## What differs" not in text
    differences = re.findall(r"(?m)([^|]*) \|$", text.split("### Held out")[1].split("##")[0])
    assert set(map(str.strip, differences[2:])) == {"0.0000", "0.0 points"}


def test_answers_of_the_same_stage_stand_side_by_side(whole, another):
    text = to_markdown(compared(whole.folder, another.folder))
    part = text.split("## Answers side by side")[1].split("\n## ")[0]
    assert part.count("### Prompt") == 2  # one that [sft] kept, and one of its evaluation
    assert part.count("small, sft:") == part.count("better, sft:") == 2


def test_problems_of_both_are_named(whole, another):
    (another.folder / "sft" / "manifest.json").write_text("")
    page = to_html(compared(whole.folder, another.folder))
    assert "better: sft/manifest.json is damaged" in page


def test_runs_with_nothing_in_common_can_be_compared(whole, tmp_path):
    other = Made(tmp_path / "runs" / "other")
    other.stage("tokenizer", pieces=7)
    text = to_markdown(compared(whole.folder, other.folder))
    assert "Only small has data, core, sft" in text
