"""Writing a report beside the run that it is of."""

from __future__ import annotations

from pathlib import Path

from afm_mlx.artifact import write_text
from afm_mlx.errors import RunError
from afm_mlx.evaluation.report.blocks import Report
from afm_mlx.evaluation.report.folders import read_run
from afm_mlx.evaluation.report.html import to_html
from afm_mlx.evaluation.report.markdown import to_markdown
from afm_mlx.evaluation.report.one import report_of
from afm_mlx.evaluation.report.two import comparison_of
from afm_mlx.recipe import load_named_recipe, nearest

HTML, MARKDOWN = ".html", ".md"


def write_report(run_folder: Path) -> Path:
    """Write a run's report as HTML and as Markdown into its folder; returns the page's path.

    Raises:
        RunError: the folder holds no stages of a run.
    """
    return write(run_folder)[0]


def write(
    folder: Path, other: Path | None = None, *, out: Path | None = None, markdown: bool = False
) -> list[Path]:
    """Write the report of a run, or of two, and return the paths of what was written.

    Args:
        folder: of the run.
        other: of a second one, to compare.
        out: file to write, Markdown where its name ends so. Without it, files beside the run's
            stages: `report.html` and `report.md`, or `compared-with-OTHER`.
        markdown: no HTML.

    Raises:
        RunError: a folder holds no stages of a run.
    """
    run = read_run(folder)
    if other is None:
        report, stem = report_of(run), "report"
    else:
        report = comparison_of(run, read_run(other))
        stem = f"compared-with-{other.resolve().name}"
    if out is not None:
        _write(out, report, markdown=markdown or out.suffix == MARKDOWN)
        return [out]
    found = []
    for ending in (MARKDOWN,) if markdown else (HTML, MARKDOWN):
        file = folder / f"{stem}{ending}"
        _write(file, report, markdown=ending == MARKDOWN)
        found.append(file)
    return found


def find_run(word: str, runs: Path) -> Path:
    """Folder that `word` stands for: a recipe's in `runs`, or a folder of that name.

    Raises:
        RunError: there is none.
        RecipeError: a recipe's file cannot be read.
    """
    if word.endswith(".toml"):
        word = load_named_recipe(word).name
    path = Path(word).expanduser()
    is_name = path.name == word != ".."
    for folder in (runs / word, path) if is_name else (path, runs / word):
        if word and folder.is_dir():
            return folder
    known = sorted(path.name for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
    near = nearest(word, known)
    raise RunError(
        f"no run is called '{word}': there is no folder {runs / word}",
        hint=f"did you mean '{near}'?"
        if near
        else f"there are {', '.join(known)}"
        if known
        else "afm run RECIPE makes one",
    )


def _write(file: Path, report: Report, *, markdown: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, to_markdown(report) if markdown else to_html(report))
