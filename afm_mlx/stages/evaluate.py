"""Evaluation: the tasks of [eval], asked of the model that each stage has left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from afm_mlx.artifact import CARD, Inputs, write_text
from afm_mlx.evaluation.registry import open_task
from afm_mlx.evaluation.run import RESULT, Result, read_answers, run_task
from afm_mlx.evaluation.subject import ModelSubject
from afm_mlx.inference.engine import Engine
from afm_mlx.progress import Progress
from afm_mlx.recipe import Recipe
from afm_mlx.settings.evaluation import HELD_OUT, EvalTask
from afm_mlx.settings.recipe import ADAPTER
from afm_mlx.settings.synthetic import Generated
from afm_mlx.synthetic.catalogue import KINDS
from afm_mlx.synthetic.write import write_records
from afm_mlx.text.conversations import Conversation, read_conversations
from afm_mlx.text.tokenizer import Tokenizer
from afm_mlx.training.texts import held_out_texts

SCORES = "scores.json"
"""All results, in a list."""

SHOWN = 3
"""Answers of each task that the report shows. Ours."""


def run(recipe: Recipe, inputs: Inputs, out: Path, progress: Progress) -> dict[str, Any]:
    """Leave `scores.json` and, in STAGE/TASK, every answer, in `out`.

    Raises:
        DataError: as the tasks' items.
        RecipeError: a task or a setting is unknown.
    """
    assert recipe.eval is not None
    places = {
        name: _place(recipe, name, settings, inputs, out)
        for name, settings in recipe.eval.tasks.items()
    }
    results: list[dict[str, Any]] = []
    for stage in recipe.evaluated_stages():
        wanted = [name for name, each in recipe.eval.tasks.items() if each.asks(stage)]
        subject = None
        for name in wanted:
            folder = out / stage / name
            if not (folder / RESULT).is_file():
                subject = subject or _subject(recipe, stage, inputs)
                asked = recipe.eval.tasks[name]
                task = open_task(asked.task, places[name], asked.settings, engine=subject.engine)
                result = run_task(task, subject, folder, progress, limit=asked.limit)
                progress.say(f"  {stage}, {name}: {_told(result)}")
            found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            shown = read_answers(folder, SHOWN)
            results.append({**found, "name": name, "stage": stage, "samples": shown})
    write_text(out / SCORES, json.dumps(results, indent=2) + "\n")
    words = ("stage", "name", "task", "model", "items", "scores")
    return {"results": [{word: each[word] for word in words} for each in results]}


def _told(result: Result) -> str:
    """The first score of a result, in a line."""
    first = next((f"{name} {score}" for name, score in result.scores.items()), "no score")
    return f"{first}, {result.items:,} items"


def _place(recipe: Recipe, name: str, settings: EvalTask, inputs: Inputs, out: Path) -> Any:
    """Where the items of a task are, or the texts that they are made of."""
    data: Any = settings.path
    if settings.make:
        data = out / f"{name}.jsonl"
        if not data.exists():
            _write_made(settings.make, data, trained=inputs.get("synthetic"))
    elif settings.path == HELD_OUT:
        tokenizer = Tokenizer.open(inputs["tokenizer"] / "tokenizer")
        data = held_out_texts(inputs["data"], recipe.data, tokenizer)
    return data


def _write_made(made: Generated, file: Path, *, trained: Path | None) -> None:
    """Make conversations, and leave out those whose prompts stand in files of a folder."""
    known = {
        _prompt_of(conversation)
        for other in sorted(trained.glob("*.jsonl") if trained else ())
        for conversation in read_conversations(other)
    }
    part = file.with_suffix(".part")
    part.unlink(missing_ok=True)
    _, maker = KINDS[made.kind]
    settings = made.section()
    write_records(
        maker(settings), settings, part, count=made.count, seed=made.seed, split=made.split.value
    )
    with part.open(encoding="utf-8") as lines:
        pairs = zip(lines, read_conversations(part), strict=True)
        fresh = [line for line, each in pairs if _prompt_of(each) not in known]
    write_text(file, "".join(fresh))
    part.unlink()
    part.with_name(part.name + CARD).unlink()  # of all that were made, not of these


def _prompt_of(conversation: Conversation) -> str:
    """What a conversation asks, as a text to compare."""
    return json.dumps(conversation.messages[:-1], sort_keys=True)


def _subject(recipe: Recipe, stage: str, inputs: Inputs) -> ModelSubject:
    """Who answers for a stage: its model, or its adapter on the model that it is for."""
    assert recipe.eval is not None
    if not stage.startswith(ADAPTER):
        engine = Engine.open(inputs[stage] / "model")
    else:
        base = recipe.start_of(stage)
        assert base is not None
        engine = Engine.open(inputs[base] / "model")
        engine.use_adapter(engine.adapters.add(inputs[stage] / "adapter"))
    return ModelSubject(engine, stage, together=recipe.eval.together)
