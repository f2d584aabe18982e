"""The report of one run, made of what lies in its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from afm_mlx.evaluation.report import figures
from afm_mlx.evaluation.report.blocks import (
    Answer,
    Block,
    Cell,
    Listing,
    Problem,
    Report,
    Samples,
    Table,
    Text,
    parts_of,
    table,
)
from afm_mlx.evaluation.report.curves import curves_of, speed
from afm_mlx.evaluation.report.data import data_blocks
from afm_mlx.evaluation.report.facts import at, number_at, numbers, table_at, words_at
from afm_mlx.evaluation.report.folders import RunFolder, StageFolder, State, count_parameters
from afm_mlx.evaluation.report.scores import (
    committee_block,
    how_asked,
    is_safety,
    measured_blocks,
    read_scores,
    score_blocks,
)
from afm_mlx.evaluation.report.sizes import adapter_blocks, model_sizes, size_blocks

MOST_PROMPTS = 12
"""Prompts whose answers are shown. Ours."""


def report_of(run: RunFolder) -> Report:
    """What a run did, from its documents to its scores."""
    scores = read_scores(run.scores)
    results = [score for score in scores if not is_safety(score)]
    safety = [score for score in scores if is_safety(score)]
    return Report(
        title=run.name,
        subtitle=subtitle([run]),
        head=(glance(run), *(Problem(text) for text in run.problems)),
        parts=parts_of(
            [
                ("Pipeline", [_pipeline(run), _aside(run)]),
                ("Model", [_model(run)]),
                ("Data", data_blocks(run)),
                (
                    "Scores",
                    [
                        *score_blocks(run, results),
                        *measured_blocks(run),
                        committee_block(run),
                        how_asked(run),
                    ],
                ),
                ("Training", [each for stage in run.stages for each in curves_of(stage)]),
                ("Answers side by side", answers(run)),
                ("Safety", score_blocks(run, safety)),
                ("Adapters", adapter_blocks(run)),
                ("Size and bits", size_blocks(run)),
                ("Time, memory and speed", [costs(run)]),
            ]
        ),
    )


def subtitle(runs: Sequence[RunFolder]) -> str:
    """When the newest stage was finished."""
    times = [run.when for run in runs if run.when is not None]
    return f"Report of {figures.day(max(times))}" if times else "Report of a run in the making"


def glance(run: RunFolder) -> Listing:
    """The most important facts in a few lines."""
    return Listing(tuple((name, value) for name, value in glance_rows(run) if value))


def glance_rows(run: RunFolder) -> list[tuple[str, str]]:
    """Names and values; a value that nothing says is ""."""
    sizes = model_sizes(run)
    newest = sizes[-1] if sizes else None
    bits = [(number_at(stage.metrics, "bits_per_byte"), stage.name) for stage in run.finished]
    measured = [f"{value:.4f} bits per byte after {of}" for value, of in bits if value is not None]
    return [
        ("stages", _count_states(run)),
        ("time", figures.duration(total_seconds(run)) if run.finished else ""),
        ("parameters", figures.count(newest.parameters) if newest else ""),
        (
            "size",
            f"{figures.size(newest.num_bytes)} after {newest.stage}"
            + (f", {newest.bits:.2f} bits per weight" if newest.bits else "")
            if newest
            else "",
        ),
        ("held out", measured[-1] if measured else ""),
        ("machine", _all_of(words_at(stage.manifest, "machine") for stage in run.finished)),
        (
            "versions",
            _all_of(
                ", ".join(
                    f"{name} {version}"
                    for name, version in table_at(stage.manifest, "versions").items()
                )
                for stage in run.finished
            ),
        ),
    ]


def total_seconds(run: RunFolder) -> float:
    """Time of all finished stages."""
    return sum(stage.seconds or 0.0 for stage in run.finished)


def _count_states(run: RunFolder) -> str:
    counts = [
        (sum(stage.state is state for stage in [*run.stages, *run.aside]), state) for state in State
    ]
    return ", ".join(f"{many:,} {state}" for many, state in counts if many)


def _all_of(texts: Iterable[str]) -> str:
    """Different texts, one after the other: stages may have run on several machines."""
    return "; ".join(dict.fromkeys(filter(None, texts)))


def _pipeline(run: RunFolder) -> Block | None:
    rows: list[list[Cell | str]] = []
    for stage in run.stages:
        state = "" if stage.state is State.FINISHED else stage.state.value
        source = f"from {', '.join(stage.parents)}" if stage.parents else ""
        seconds = "" if stage.seconds is None else figures.duration(stage.seconds)
        rows.append([Cell(stage.name, state), Cell(_made(stage), source), seconds])
    return table(["stage", "made", "time"], rows, words=2)


def _aside(run: RunFolder) -> Block | None:
    if not run.aside:
        return None
    named = (
        stage.name + (f" ({figures.duration(stage.seconds)})" if stage.seconds is not None else "")
        for stage in run.aside
    )
    return Text(f"Set aside, because settings changed: {', '.join(named)}.")


def _made(stage: StageFolder) -> str:
    """What a stage made, in a few words."""
    if stage.state is State.MAKING:
        steps = [number_at(log.lines[-1], "step") for log in stage.logs if not log.place]
        return f"trained to step {figures.count(steps[-1])}" if steps else ""
    if stage.state is State.DAMAGED:
        return "its manifest cannot be read"
    metrics = stage.metrics
    rounds = metrics.get("rounds")
    found = [
        _named("a link to", words_at(metrics, "model")),
        _named("the tokenizer of", words_at(metrics, "from")),
        _many(number_at(metrics, "pieces"), "piece"),
        _many(_summed(table_at(metrics, "sources"), "out"), "document", " kept"),
        _many(_summed(metrics, "train_tokens"), "token", " to train on"),
        _many(_summed(metrics, "held_out_tokens"), "token", " held out"),
        _many(_conversations(metrics), "conversation"),
        _many(number_at(metrics, "answers"), "answer"),
        _many(number_at(metrics, "kept"), "answer", " kept"),
        _many(len(rounds) if isinstance(rounds, list) else None, "round"),
        _many(sum(numbers(metrics.get("pairs")).values()), "pair"),
        _many(number_at(metrics, "tokens"), "token", " read"),
        _many(number_at(metrics, "parameters"), "parameter"),
        _named("", figures.decimal(number_at(metrics, "bits_per_weight"), 2), " bits per weight"),
    ]
    return ", ".join(filter(None, found))


def _named(before: str, value: str, after: str = "") -> str:
    return f"{before} {value}{after}".strip() if value else ""


def _many(value: float | None, thing: str, more: str = "") -> str:
    """So many things; nothing where there are none."""
    if not value:
        return ""
    return f"{figures.count(value)} {thing}{'' if round(value) == 1 else 's'}{more}"


def _summed(sources: Mapping[str, object], key: str) -> float:
    """Sum over the sources of the data."""
    values = [number_at(sources, source, key) for source in sources]
    return sum(value for value in values if value is not None)


def _conversations(metrics: Mapping[str, object]) -> float:
    """Those that were read, or made for all names."""
    found = numbers(metrics.get("conversations")).values()
    return number_at(metrics, "conversations") or sum(found)


def _model(run: RunFolder) -> Block | None:
    """Shape of the newest model."""
    configs = [stage.config for stage in run.finished]
    config = next((each for each in reversed(configs) if count_parameters(each)), None)
    if config is None:
        return None

    def size(name: str) -> str:
        return figures.count(number_at(config, name))

    heads = f"{size('num_attention_heads')} for queries, {size('num_key_value_heads')} for keys"
    tied = "shared with the embedding" if config.get("tie_word_embeddings") else "its own"
    rows = [
        ("parameters", figures.count(count_parameters(config))),
        ("layers", size("num_hidden_layers")),
        ("width", size("hidden_size")),
        ("heads", f"{heads} and values"),
        ("width of a head", size("head_dim")),
        ("feed-forward width", size("intermediate_size")),
        ("vocabulary", size("vocab_size")),
        ("context", f"{size('max_position_embeddings')} tokens"),
        ("RoPE base", figures.count(number_at(config, "rope_theta"))),
        ("output layer", tied),
    ]
    return Listing(tuple((name, value) for name, value in rows if value))


def answers(run: RunFolder) -> list[Block | None]:
    """What the stages answered to the same prompts."""
    by_prompt: dict[str, list[Answer]] = {}
    for name, samples in samples_of(run).items():
        for prompt, text in samples.items():
            by_prompt.setdefault(prompt, []).append(Answer(name, text))
    shown = list(by_prompt.items())[:MOST_PROMPTS]
    blocks: list[Block | None] = [Samples(prompt, tuple(said)) for prompt, said in shown]
    if left := len(by_prompt) - len(shown):
        blocks.append(Text(f"{left:,} more prompts are in the run's folder."))
    return blocks


def samples_of(run: RunFolder) -> dict[str, dict[str, str]]:
    """Prompts and answers by stage, those of its evaluation with them."""
    found = []
    for stage in run.stages:
        lines = [line for log in stage.logs if not log.place for line in log.lines]
        newest = [line for line in lines if "samples" in line][-1:] if not stage.manifest else []
        for facts in [stage.metrics, *newest]:
            found.append((stage.name, _texts(facts.get("samples"))))
    for result in run.scores:
        name = words_at(result, "stage") or words_at(result, "model") or "model"
        found.append((name, _texts(at(result, "samples"))))
    by_name: dict[str, dict[str, str]] = {}
    for name, samples in found:
        if samples:
            by_name.setdefault(name, {}).update(samples)
    return by_name


def _texts(samples: object) -> dict[str, str]:
    if not isinstance(samples, dict):
        return {}
    return {str(prompt): text for prompt, text in samples.items() if isinstance(text, str)}


def costs(run: RunFolder) -> Table | None:
    """Time, memory and speed of each finished stage, and of all."""
    rows: list[list[Cell | str]] = []
    longest = max((stage.seconds or 0.0 for stage in run.finished), default=0.0)
    total = total_seconds(run)
    peaks = [number_at(stage.metrics, "peak_gb") for stage in run.finished]
    for stage, peak in zip(run.finished, peaks, strict=True):
        seconds = stage.seconds
        bar = seconds / longest if seconds and longest else None
        rows.append(
            [
                stage.name,
                "" if seconds is None else figures.duration(seconds),
                Cell(figures.share(seconds / total) if seconds and total else "", bar=bar),
                "" if peak is None else f"{peak:.2f} GB",
                stage_speed(stage),
            ]
        )
    if len(rows) > 1:
        most = max((peak for peak in peaks if peak is not None), default=None)
        rows.append(
            ["all", figures.duration(total), "", "" if most is None else f"{most:.2f} GB", ""]
        )
    found = table(["stage", "time", "share of the time", "peak memory", "speed"], rows)
    return found if found and len(found.columns) > 1 else None


def stage_speed(stage: StageFolder) -> str:
    """Median speed of training, with what is counted."""
    own = [log for log in stage.logs if not log.place]
    logs = own or (stage.logs if len(stage.logs) == 1 else ())
    found = speed(logs[0]) if logs else None
    return f"{figures.rate(found[1])} {found[0]}/s" if found else ""
