"""The page in a real browser: nothing is cut off, overlaps, or sticks out."""

import pytest

from afm_mlx.evaluation.report.write import write

from .conftest import Made, fill, result, score, trained

WRONG = """() => {
  const wrong = [], wide = document.documentElement.clientWidth;
  const name = each => `${each.tagName} "${each.textContent.slice(0, 40)}"`;
  if (document.documentElement.scrollWidth > wide) wrong.push('the page is too wide');
  for (const each of document.querySelectorAll('body *')) {
    const box = each.getBoundingClientRect(), style = getComputedStyle(each);
    if (!box.width || each.matches('.scroll')) continue;
    const outer = each.parentElement.closest('.scroll');
    const scrolls = outer && getComputedStyle(outer).overflowX !== 'visible';
    if (!scrolls && (box.left < -0.5 || box.right > wide + 0.5)) wrong.push('out: ' + name(each));
    const cut = style.display !== 'inline' && each.scrollWidth > each.clientWidth + 1;
    if (cut && !each.closest('svg')) wrong.push('cut: ' + name(each));
  }
  for (const svg of document.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')];
    const boxes = texts.map(each => [each, each.getBoundingClientRect()]);
    for (const [each, box] of boxes) {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1)
        wrong.push('cut in a picture: ' + name(each));
      for (const [other, at] of boxes)
        if (each !== other && box.left < at.right - 1 && at.left < box.right - 1 &&
            box.top < at.bottom - 4 && at.top < box.bottom - 4)
          wrong.push(`overlap: ${name(each)} and ${name(other)}`);
    }
  }
  return wrong;
}"""


def crowd(made):
    """A run with more and longer names than any should have."""
    long = "a-name-as-long-as-nobody-would-call-a-stage-" * 2
    names = [f"stage-{number}" for number in range(12)] + [long]
    for number, name in enumerate(names):
        made.stage(
            name,
            *names[:number],
            log=trained(4_000, 5.0 + number, every=5),
            held_out_nats=5.0,
            start_held_out_nats=8.0,
            held_out_right=0.5,
            answers_nats=12.5,
            samples={"word " * 40: "x" * 700, "y" * 300: "short"},
        )
    matrices = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    bits = {f"model.layers.{n}.{each}": 2 + 2 * (n % 2) for n in range(56) for each in matrices}
    made.stage("quantize-wide", bits=bits, bits_per_weight=3.0)
    tasks = ("a_task_with_a_long_name", "gsm8k")
    made.write(
        "eval/scores.json",
        [
            result(task, name, accuracy=score(0.5), perplexity=score(12_345.6, 100.0))
            for task in tasks
            for name in names
        ],
    )
    (made.folder / "eval" / "fingerprint").write_text("")
    return made


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages of a usual run, of a crowded one, and of two runs."""
    folder = tmp_path_factory.mktemp("runs")
    usual, better = fill(Made(folder / "usual")), fill(Made(folder / "better"), lr=0.02, gain=0.1)
    crowded = crowd(Made(folder / "crowded"))
    return {
        "usual": write(usual.folder)[0],
        "crowded": write(crowded.folder)[0],
        "compared": write(usual.folder, better.folder)[0],
    }


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1_280])
@pytest.mark.parametrize("media", ["screen", "print"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["usual", "crowded", "compared"])
def test_nothing_is_cut_off_or_sticks_out(browser, pages, name, theme, media, width):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text))
    page.on("request", lambda request: problems.append(request.url))
    page.emulate_media(media=media, color_scheme=theme)
    page.goto(pages[name].as_uri())
    assert problems == [pages[name].as_uri()]  # it asks for nothing but itself
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate(WRONG) == []
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.body).color")
    dark = theme == "dark" and media == "screen"
    assert (ink == "rgb(236, 236, 238)") == dark
    assert (back == "rgb(22, 22, 23)") == dark
    page.close()
