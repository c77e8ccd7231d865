"""One sentence in a long text: is it found when the text is one vector?

Each document is filler with one needle at a random depth, of exactly as many tokens as stated, and
no two documents of a length have the same needle. A query asks for one needle among all documents
of a length; recall@1 is the share of queries whose document comes first. The same by depth: needles
in the first, second and last third of their document.

    python benchmarks/needle.py --json build/needle.json
    python benchmarks/needle.py --texts book.txt --lengths 1024,4096 --documents 20
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from adaptive_search import Encoder
from adaptive_search.encoder.granularity import granularity_name, parse_granularity
from adaptive_search.encoder.tokenizer import Ids

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
BATCH_TOKENS = 1 << 16
FRAME = 2  # [CLS] and [SEP]
SHORTEST = 64  # tokens of a document, which then has room for a needle and as much filler
LONGEST_SENTENCE = 128  # tokens of filler that are kept together

FIRST_NAMES = """Ada Boris Clara David Elena Felix Grace Henry Irene Jonas Karin Louis Maria Nora
Oscar Paula Quentin Rosa Simon Teresa Ulrich Vera Walter Yvonne""".split()
LAST_NAMES = """Adler Baxter Costa Duval Ellis Fischer Garcia Hansen Ivanov Jensen Keller Lopez
Mason Novak Olsen Parker Reyes Schmidt Turner Vega Weber Young Ziegler Brooks""".split()
CITIES = """Amsterdam Athens Bangkok Barcelona Beijing Belgrade Berlin Bogota Boston Brussels
Budapest Cairo Chicago Copenhagen Dallas Delhi Denver Dublin Edinburgh Florence Geneva Glasgow
Hamburg Havana Helsinki Istanbul Jakarta Jerusalem Kyoto Lagos Lima Lisbon London Madrid Manila
Melbourne Miami Milan Montreal Moscow Munich Nairobi Naples Oslo Paris Philadelphia Prague Rome
Santiago Seattle Seoul Shanghai Singapore Stockholm Sydney Tehran Tokyo Toronto Tunis Venice Vienna
Warsaw Wellington Zurich""".split()
DISHES = """fried eel,plum cake,lentil soup,baked trout,almond bread,goat cheese,pickled beets,
roast duck,rice pudding,onion pie,smoked ham,fig jam,honey biscuits,mussel stew""".replace("\n", "")

FILLER = (
    "Every few years,In the early morning,After the long winter,As the report explains,At first,"
    "Before the meeting,According to the older accounts,During the second week,For a while,"
    "Once the work was done".split(","),
    "the committee,a group of farmers,the new engine,the small museum,the river,the students,"
    "a local newspaper,the old railway,the research team,the orchestra,the garden".split(","),
    "changed,described,supported,replaced,followed,measured,repaired,ignored,studied,crossed".split(
        ","
    ),
    "the northern road,several plans,an unusual design,the water supply,the general opinion,"
    "most of the buildings,the first results,a series of tests,the same valley,its own rules".split(
        ","
    ),
    "without much notice,in a different way,with some success,for practical reasons,"
    "over the following months,as far as anyone could tell,despite the cost,near the coast,"
    "under the old agreement,more slowly than before".split(","),
)


@dataclass(frozen=True)
class Needle:
    """A sentence to hide, and what asks for it."""

    sentence: str
    question: str


def passkeys(rng: np.random.Generator, count: int) -> list[Needle]:
    """Numbers that belong to people, many of whom share a first or a last name."""
    people = [f"{first} {last}" for first, last in product(FIRST_NAMES, LAST_NAMES)]
    return [
        Needle(
            f"The pass key of {people[n]} is {rng.integers(10_000, 100_000)}.",
            f"What is the pass key of {people[n]}?",
        )
        for n in rng.choice(len(people), count, replace=False)
    ]


def facts(rng: np.random.Generator, count: int) -> list[Needle]:
    """What to eat in a city."""
    dishes = DISHES.split(",")
    return [
        Needle(
            f"The best thing to eat in {CITIES[n]} is {rng.choice(dishes)}.",
            f"What should I eat in {CITIES[n]}?",
        )
        for n in rng.choice(len(CITIES), count, replace=False)
    ]


KINDS: dict[str, Callable[[np.random.Generator, int], list[Needle]]] = {
    "passkey": passkeys,
    "fact": facts,
}
MOST = min(len(CITIES), len(FIRST_NAMES) * len(LAST_NAMES))


def synthetic_sentences() -> list[str]:
    """Every sentence of the filler's grammar, which says nothing of people, cities or dishes."""
    return [f"{when}, {' '.join(rest)}." for when, *rest in product(*FILLER)]


def sentences_of(path: Path) -> list[str]:
    """The sentences of a text file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path}: {error}") from None
    found = [part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if part.strip()]
    if not found:
        raise SystemExit(f"{path}: holds no sentences")
    return found


def document(
    rng: np.random.Generator, filler: Sequence[Ids], needle: Ids, tokens: int, depth: float
) -> Ids:
    """Ids of filler with a needle at a depth, tokens in all.

    Args:
        rng: draws the filler.
        filler: ids of sentences to draw from.
        needle: ids of the needle.
        tokens: length of the document.
        depth: from 0, the needle comes first, to 1, it comes last; it never splits a sentence.
    """
    room = tokens - len(needle)
    before: list[Ids] = []
    after: list[Ids] = []
    while sum(map(len, before)) + sum(map(len, after)) < room:
        sentence = filler[int(rng.integers(len(filler)))]
        placed = before if sum(map(len, before)) + len(sentence) <= depth * room else after
        placed.append(sentence)
    return np.concatenate([*before, needle, *after])[:tokens]


def measure(
    encoder: Encoder, filler: Sequence[Ids], kind: str, tokens: int, asked: argparse.Namespace
) -> dict[str, object]:
    """Recall@1 of all queries, and of those with the needle in each third."""
    rng = np.random.default_rng((asked.seed, tokens, list(KINDS).index(kind)))
    needles = KINDS[kind](rng, asked.documents)
    depths = (rng.permutation(asked.documents) + 0.5) / asked.documents
    tokenizer = encoder.tokenizer
    documents = (
        tokenizer.frame(
            document(rng, filler, tokenizer.tokenize(n.sentence)[0], tokens - FRAME, depth),
            context=tokens,
        )
        for n, depth in zip(needles, depths, strict=True)
    )
    how = {"granularity": asked.granularity}
    vectors = np.concatenate(
        [encoder.encode_ids(batch, **how) for batch in batches(documents, BATCH_TOKENS)]
    )
    queries = encoder.encode([n.question for n in needles], asked.dim, **how)
    scores = queries @ encoder.truncate(vectors, queries.shape[1]).T
    found = scores.argmax(axis=1) == np.arange(len(needles))
    third = np.minimum((depths * 3).astype(int), 2)
    thirds = [float(found[third == part].mean()) for part in range(3)]
    return {
        "kind": kind,
        "tokens": tokens,
        "recall@1": float(found.mean()),
        **dict(zip(("first third", "second third", "last third"), thirds, strict=True)),
    }


def batches(documents: Iterator[Ids], tokens: int) -> Iterator[list[Ids]]:
    """Documents in batches of about so many tokens."""
    batch: list[Ids] = []
    for ids in documents:
        batch.append(ids)
        if sum(map(len, batch)) >= tokens:
            yield batch
            batch = []
    if batch:
        yield batch


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="the shipped ones by default")
    parser.add_argument("--lengths", type=_numbers, default=list(LENGTHS), help="tokens, by comma")
    parser.add_argument("--documents", type=int, default=60, help=f"of each length, 3 to {MOST}")
    parser.add_argument("--texts", type=Path, help="text file to take the filler from")
    parser.add_argument("--dim", type=int, help="the highest by default")
    parser.add_argument("--granularity", type=parse_granularity, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if not 3 <= asked.documents <= MOST:
        parser.error(f"--documents must be from 3 to {MOST}")
    if min(asked.lengths) < SHORTEST:
        parser.error(f"--lengths must be at least {SHORTEST}")
    return asked


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure, print, write."""
    asked = parse()
    encoder = Encoder.load(asked.weights, device=asked.device, threads=asked.threads)
    if max(asked.lengths) > encoder.config.context:
        sys.exit(f"--lengths: these weights read at most {encoder.config.context:,} tokens")
    sentences = sentences_of(asked.texts) if asked.texts else synthetic_sentences()
    drawn = np.random.default_rng(asked.seed).permutation(len(sentences))[:5000]
    tokenized = (encoder.tokenizer.tokenize(sentences[n])[0] for n in drawn)
    filler = [ids[:LONGEST_SENTENCE] for ids in tokenized if len(ids)]
    columns = ("kind", "tokens", "recall@1", "first third", "second third", "last third")
    print(f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}")
    rows = []
    for kind in KINDS:
        for tokens in asked.lengths:
            row = measure(encoder, filler, kind, tokens, asked)
            rows.append(row)
            values = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
            print(f"| {' | '.join(values)} |", flush=True)
    if asked.json:
        record = {
            "fingerprint": encoder.fingerprint,
            "documents": asked.documents,
            "dim": asked.dim or encoder.dims[-1],
            "granularity": granularity_name(asked.granularity),
            "rows": rows,
        }
        asked.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
