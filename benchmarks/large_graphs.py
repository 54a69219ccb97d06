"""What graphs of large vocabularies cost, and what a word model as a graph gains.

Run: `python benchmarks/large_graphs.py MODEL DATA [--words 200000]`, DATA with train and dev cuts. First, a synthetic
lexicon with a synthetic 3-gram: processor time and memory of compiling it (and HLG), each in a process of its own, and of
decoding dev recordings under it, beside free decoding. Second, a word 3-gram of the texts of the training set: word error
rate and processor time under its graph, under its HLG, and free. Processor time per second of audio, on one thread.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import origin, write

from zipasr.evaluate import ReferenceUtterance, error_rates, read_cuts
from zipasr.lm.estimate import estimate_ngram
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.recognizer.graph_compilation import GraphSource, compile_graph
from zipasr.recognizer.opening import open_tokenizer
from zipasr.search.graph import add_ctc_topology, load_graph
from zipasr.search.graph.folder import GRAPH_FILE, HLG_FILE
from zipasr.search.graph.openfst import write_graph

_ONSETS = ("", *"bcdfghklmnprstvw", "st", "tr", "br")
_VOWELS = (*"aeiou", "ea", "oo")
_CODAS = ("", *"nrstl", "nd")


def synthetic_sentences(num_words: int, *, seed: int = 0) -> Iterator[list[str]]:
    """Sentences of eight words of one to four syllables: each word once, and as many again by Zipf's law."""
    generator = np.random.default_rng(seed)
    syllables = [onset + vowel + coda for onset in _ONSETS for vowel in _VOWELS for coda in _CODAS]
    words: dict[str, None] = {}
    while len(words) < num_words:
        words["".join(syllables[i] for i in generator.integers(len(syllables), size=generator.integers(1, 5)))] = None
    shares = 1 / np.arange(1, num_words + 1)
    ids = np.concatenate([np.arange(num_words), generator.choice(num_words, num_words, p=shares / shares.sum())])
    generator.shuffle(ids)
    names = list(words)
    for first in range(0, len(ids), 8):
        yield [names[i] for i in ids[first : first + 8]]


def measure_stage(*arguments: str) -> dict[str, Any]:
    """Run a stage in a process of its own, since memory is measured at its highest."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def compile_here(model: str, arpa: str, out: str) -> dict[str, Any]:
    """Compile the graph, and say what it took, the start of the process included."""
    report = compile_graph(model, GraphSource(arpa=arpa), out)
    return {"states": report.num_states, "arcs": report.num_arcs, **cost_of_process(Path(out) / GRAPH_FILE)}


def add_topology_here(model: str, out: str) -> dict[str, Any]:
    """Read the graph, write its HLG, and say what it took, the start of the process included."""
    tokenizer = open_tokenizer(model)
    hlg = add_ctc_topology(load_graph(out, tokenizer).graph, tokenizer.blank_id)
    write_graph(hlg, Path(out) / HLG_FILE)
    return {"states": hlg.num_states, "arcs": hlg.num_arcs, **cost_of_process(Path(out) / HLG_FILE)}


def cost_of_process(file: Path) -> dict[str, Any]:
    """Processor time of this process and its children, the most memory that one of them had, and the size of a file."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "cpu_s": round(sum(usage.ru_utime + usage.ru_stime for usage in used), 1),
        "peak_mib": round(max(usage.ru_maxrss for usage in used) / 1024),
        "file_mib": round(file.stat().st_size / 2**20),
    }


def decode(
    model: str, utterances: Sequence[ReferenceUtterance], searches: dict[str, dict[str, Any]], *, num_rounds: int
) -> list[dict[str, Any]]:
    """Word error rates, and processor time per second of audio: the median of rounds in which the searches take turns."""
    samples = [utterance.samples for utterance in utterances if utterance.samples is not None]
    audio_s = sum(map(len, samples)) / 16_000
    recognizers = {}
    for name, options in searches.items():
        search = SearchConfig(**options["search"])
        recognizers[name] = Recognizer.load(model, search=search, graph=options.get("graph"))
    texts, times = {}, {name: [] for name in searches}
    for _ in range(num_rounds):
        for name, recognizer in recognizers.items():
            started = time.process_time()
            texts[name] = [transcript.text for transcript in recognizer.transcribe_many(samples)]
            times[name].append((time.process_time() - started) / audio_s)
    references = [utterance.text for utterance in utterances]
    rows = []
    for name, found in texts.items():
        rate = error_rates(zip(references, found, strict=True)).words.rate
        rtf = float(np.median(times[name]))
        rows.append({"search": name, "wer": round(rate, 1), "cpu_per_audio_s": round(rtf, 4)})
        print(f"| {name} | {rate:.1f} | {rtf:.4f} |", flush=True)
    return rows


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--words", type=int, default=200_000)
    parser.add_argument("--utterances", type=int, default=12, help="recordings to decode under the large graph")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.3, 0.6, 1.0])
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    parser.add_argument("--topology", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    if args.compile or args.topology:
        row = compile_here(args.model, args.compile, args.data) if args.compile else add_topology_here(args.model, args.data)
        print(json.dumps(row))
        return
    head = origin()
    torch.set_num_threads(1)
    dev = list(read_cuts(f"{args.data}/dev_cuts.jsonl.gz"))
    texts = [utterance.text.split() for utterance in read_cuts(f"{args.data}/train_cuts.jsonl.gz")]
    with tempfile.TemporaryDirectory() as folder:
        figures = measure_large(args, dev[: args.utterances], Path(folder))
        figures |= measure_texts(args, dev, texts, Path(folder))
    if args.json:
        write(args.json, head, figures)


def measure_large(args: argparse.Namespace, utterances: Sequence[ReferenceUtterance], folder: Path) -> dict[str, Any]:
    """The synthetic lexicon."""
    arpa, graph = folder / "large.arpa", folder / "large"
    ngrams = estimate_ngram(synthetic_sentences(args.words), arpa, order=3)
    compiled = {
        "LG": measure_stage(args.model, str(graph), "--compile", str(arpa)),
        "HLG from LG": measure_stage(args.model, str(graph), "--topology"),
    }
    print(f"{args.words} words, n-grams {ngrams}: {compiled}", flush=True)
    print("| search | WER | processor time per second of audio |\n|---|---:|---:|")
    searches = {
        "free, CTC": {"search": {"method": "ctc_greedy"}},
        "large LG, CTC": {"search": {"method": "ctc_graph"}, "graph": graph},
        "free, transducer": {"search": {"method": "beam"}},
        "large LG, transducer": {"search": {"method": "graph"}, "graph": graph},
    }
    rows = decode(args.model, utterances, searches, num_rounds=args.rounds)
    return {"num_words": args.words, "ngrams": ngrams, "compiling": compiled, "large": rows}


def measure_texts(
    args: argparse.Namespace, dev: Sequence[ReferenceUtterance], texts: list[list[str]], folder: Path
) -> dict[str, Any]:
    """The word model of the training texts."""
    arpa = folder / "texts.arpa"
    known = {word for text in texts for word in text}
    said = [word for utterance in dev for word in utterance.text.split()]
    unknown = sum(word not in known for word in said) / len(said)
    estimate_ngram(texts, arpa, order=3)
    searches: dict[str, dict[str, Any]] = {"free, CTC": {"search": {"method": "ctc_greedy"}}}
    searches["free, transducer"] = {"search": {"method": "beam"}}
    for scale in args.scales:
        graph = folder / f"texts-{scale:g}"
        compile_graph(args.model, GraphSource(arpa=str(arpa), scale=scale), graph, has_hlg=True)
        hlg = folder / f"texts-hlg-{scale:g}"
        compile_graph(args.model, GraphSource(fst=str(graph / "HLG.fst"), words=str(graph / "words.txt")), hlg)
        searches[f"LG, scale {scale:g}, CTC"] = {"search": {"method": "ctc_graph"}, "graph": graph}
        searches[f"HLG, scale {scale:g}, CTC"] = {"search": {"method": "ctc_graph"}, "graph": hlg}
        searches[f"LG, scale {scale:g}, transducer"] = {"search": {"method": "graph"}, "graph": graph}
    print(f"{len(known)} words in the training texts; {100 * unknown:.1f} % of the words of dev are not among them")
    print("| search | WER | processor time per second of audio |\n|---|---:|---:|")
    rows = decode(args.model, dev, searches, num_rounds=1)
    return {"num_known_words": len(known), "unknown_share": round(unknown, 4), "texts": rows}


if __name__ == "__main__":
    main()
