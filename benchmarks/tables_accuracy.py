"""Tables of error rates and errors in time, by name; tables.py writes them into the pages."""

import functools
import statistics
from collections.abc import Callable, Mapping

from tabulation import Record, day, grid, measured, or_dash, record, records, spread

WORD_TIMES = {
    "transducer beam, emission frames": "transducer beam, frames that emitted",
    "CTC greedy, first frames": "CTC greedy, first frames",
    "known text, plain alignment": "known text, plain forced alignment",
    "known text, blank less 4 nats": "known text, blank less 4 nats",
    "transducer beam, word_times": "**transducer beam, word times**",
    "known text, word_times": "**known text, word times** (`zipasr align`)",
}
"""Methods of word_times.py by their names on the page."""
_ERRORS = ("mean", "median", "p90", "bias")


def quickstart() -> str:
    """Error rates of the quick start by seed."""
    found = record("quickstart")
    header = ("seed", "epochs", "default search", "WER dev", "WER test", "CER test", "batches", "minutes")
    rows = [
        (
            row["seed"],
            row["epochs"],
            row["default"],
            f"{row['dev']['wer']:.1f} %",
            f"**{row['test']['wer']:.1f} %**",
            f"{row['test']['cer']:.1f} %" if "cer" in row["test"] else "–",
            row.get("batches", "–"),
            or_dash(row.get("train_minutes"), 0),
        )
        for row in found["rows"]
    ]
    return f"{grid(header, rows, 3)}\n\n{measured(found)}"


def quickstart_wer() -> str:
    """Test error rate of the quick start with the recipe's seed."""
    return f"{record('quickstart')['rows'][0]['test']['wer']:.1f} %"


def search_comparison() -> str:
    """What a run prints at its end: all searches on dev."""
    found = record("search_comparison")
    header = ("search on dev", "WER %", "deleted %", "CER %", "seconds")
    rows = []
    for row in found["rows"]:
        search = {key: row[key] for key in ("method", "max_symbols_per_frame") if key in row}
        name = ", ".join(str(value) if key == "method" else f"{key} {value}" for key, value in search.items())
        figures = (f"{row[key]:.1f}" for key in ("wer", "deletions", "cer", "decode_s"))
        rows.append((f"**{name}**" if search == found["chosen"] else name, *figures))
    return f"{grid(header, rows)}\n\n{measured(found)}"


def own_data() -> str:
    """What the default commands give on corpora that nobody tuned for, a row for each run."""
    found = sorted(records("own_data"), key=lambda row: (list(_CORPORA).index(row["corpus"]), row["seed"]))
    alone = ("greedy", "beam", "ctc_beam", "joint", "joint, ctc_scale 1")
    names = (*alone, *(f"{name}, ngram_scale 0.5" for name in alone[1:]))
    short = {"ctc_scale 1": "1", "ngram_scale 0.5": "n-gram", "ctc_beam": "CTC beam"}
    shown = (", ".join(short.get(part, part) for part in name.split(", ")) for name in names)
    header = ("corpus", "seed", "default search", "WER dev", *shown, "words", "batches", "WER test")
    rows = []
    for row in found:
        dev, searches = row["dev"], row["dev"]["searches"]
        others = (f"{searches[name]:.1f} %" if name in searches else "" for name in names)
        rows.append(
            (
                _CORPORA[row["corpus"]],
                row["seed"],
                row["default"].replace("ngram", "n-gram").replace("_", " ").replace("ctc", "CTC"),
                f"**{dev['wer']:.1f} %**",
                *others,
                dev["num_words"],
                f"{row['batches']:,}",
                f"{row['test']['wer']:.1f} %" if "test" in row else "",
            )
        )
    days = " and ".join(dict.fromkeys(day(row["date"]) for row in found))
    machines = " and ".join(dict.fromkeys(row["machine"] for row in found))
    return f"{grid(header, rows, 3)}\n\nMeasured on {days} with `python benchmarks/own_data.py`; {machines}."


_CORPORA = {
    "barista": "coffee orders, 33 min, 38 voices",
    "alphanumeric": "digits and spelled names, 11 min, 45 voices",
    "wakewords": "six wake words, 61 min",
    "commands": "single words, 30 min, 159 voices",
    "commands+commands_rest": "single words, 50 min, 159 voices",
    "digits": "single digits, 16 min, 4 voices",
    "malayalam": "read Malayalam, 90 min, 33 voices",
    "ljspeech": "a reader of books, 33 min",
    "prompts": "telephone prompts, 17 min, 1 voice",
}
"""Corpora of own_data.py by their descriptions, in the order of the table."""


def french() -> str:
    """Error rates before and after finetuning on French."""
    found = records("finetune_french")
    models = list(dict.fromkeys(line["model"] for line in found))
    rates = {(line["model"], line["test"]): line["wer"] for line in found}
    names = {model: "before" if model == "before" else f"after, {model}" for model in models}
    rows = [(names[model], *(f"{rates[model, test]:.1f}" for test in ("French", "English"))) for model in models]
    return f"{grid(('test WER (%)', 'French', 'English'), rows)}\n\n{measured(*found)}"


def language_models() -> str:
    """Perplexity and error rates by language model."""
    found = record("language_models")
    header = ("language model", "perplexity", "scale", "WER % dev, `beam`", "test", "scale", "dev, `ctc_beam`", "test")
    rows: list[list[object]] = []
    for row in found["rows"]:
        perplexity = f"{row['perplexity']:.2f} per {row['unit']}" if "perplexity" in row else "–"
        cells: list[object] = [row["name"], perplexity]
        for method in ("beam", "ctc_beam"):
            rates = row.get(method)
            if rates is None:
                cells += ["–"] * 3
            else:
                scales = ", ".join(f"{value:g}" for value in rates["scales"].values()) or "–"
                cells += [scales, f"{rates['dev_wer']:.1f}", f"{rates['test_wer']:.1f}"]
        rows.append(cells)
    return f"{grid(header, rows)}\n\n{measured(found)}"


def hotwords() -> str:
    """What hotwords gain and cost."""
    found = record("hotwords")
    header = ("search", "boost", f"of {found['num_occurrences']} recognized", "WER", "WER with absent names")
    rows = []
    for row in found["rows"]:
        boost = "none" if row["boost"] is None else f"{row['boost']:g}"
        rows.append((f"`{row['search']}`", boost, row["recognized"], f"{row['wer']:.1f}", f"{row['wer_absent']:.1f}"))
    return f"{grid(header, rows)}\n\n{found['num_hotwords']} hotwords. {measured(found)}"


_GRAMMAR_METHODS = {
    "grammar, transducer": "grammar",
    "grammar, transducer, rejection per token": "grammar with rejection",
    "grammar, CTC": "grammar, CTC head",
    "grammar, CTC, rejection per token": "grammar with rejection, CTC head",
    "free, transducer, whole orders": "free decoding, whole orders only",
    "free, CTC, whole orders": "free decoding, whole orders only, CTC head",
    "free, transducer, phrases": "free decoding, phrases of slots",
    "bigram, whole orders": "word bigram, whole orders only",
    "bigram, phrases": "word bigram, phrases of slots",
    "hotwords, 0.5, whole orders": "hotwords (0.5), whole orders only",
    "hotwords, 0.5, phrases": "hotwords (0.5), phrases of slots",
}
"""The rows of `grammar`, as the record and the table call them."""


def grammar() -> str:
    """Orders that are right, and answers to other speech, with and without noise."""
    found = record("grammar")
    by_method: dict[str, list[Record]] = {}
    for row in found["rows"]:
        by_method.setdefault(row["method"], []).append(row)
    conditions = [row["condition"] for row in by_method["grammar, transducer"]]
    kinds = ("right", "LJSpeech", "commands")
    header = ("method", *(f"{kind}, {name}" for kind in kinds for name in conditions), "noise alone")
    rows = []
    for method, name in _GRAMMAR_METHODS.items():
        own = by_method[method]
        cells = [row[kind.lower()] for kind in kinds for row in own] + [own[0]["noise"]]
        rows.append((name, *(f"{cell:.1f}" for cell in cells)))
    num = found["utterances"]
    counts = f"{num['barista']} orders, {num['ljspeech']} sentences of LJSpeech, {num['commands']} commands, "
    counts += f"{num['noise']} noises without speech."
    return f"{grid(header, rows)}\n\n{counts} {measured(found)}"


def confidence() -> str:
    """Quality of confidences before and after calibration."""
    found = records("confidence")
    header = ("search", "words", "correct", "cross-entropy", "calibrated", "mean error", "calibrated")
    rows = []
    for line in found:
        search = line["command"].partition("--search ")[2].split()[0]
        output = line["output"]["confidence"]
        both = [output["raw"], output["calibrated"]]
        figures = [f"{quality[key]:.3f}" for key in ("normalized_cross_entropy", "calibration_error") for quality in both]
        rows.append((f"`{search}`", output["num_words"], output["num_right"], *figures))
    return f"{grid(header, rows)}\n\n{measured(*found)}"


def int8() -> str:
    """Size, speed and error rate of 8-bit graphs."""
    found = records("export_int8")[0]
    header = ("head", "MB", "8 bits", "real-time factor", "8 bits", "WER", "8 bits")
    rows = []
    for name, head in found["output"]["quantization"]["heads"].items():
        sizes = [f"{size / 1e6:.1f}" for size in head["num_bytes"]] if "num_bytes" in head else ["–", "–"]
        factors = [f"{factor:.3f}" for factor in head.get("real_time_factor", ())] or ["–", "–"]
        rates = [f"{rate:.2f} %" for rate in head["word_error_rate"]]
        rows.append((name, *sizes, *factors, *rates))
    return f"{grid(header, rows)}\n\n{measured(found)}"


def _word_times(*words: str) -> Record:
    """The line of the command with these flags; without any, the one without."""
    lines = records("word_times")
    flags = [line for line in lines if all(word in line["command"] for word in words)]
    return flags[0] if words else next(line for line in lines if " --" not in line["command"])


def _errors(sides: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Cells of one method."""
    return [
        (f"{side[key]:+.1f}" if key == "bias" else f"{side[key]:.1f}") if key in side else "–"
        for side in (sides["starts"], sides["ends"])
        for key in _ERRORS
    ]


def word_times() -> str:
    """Errors of word times by method."""
    found = _word_times()
    header = (
        "times from",
        *(f"{side}{name}" for side in ("starts: ", "ends: ") for name in ("mean", "median", "90 %", "signed")),
    )
    rows = [(name, *_errors(found["errors_ms"][key])) for key, name in WORD_TIMES.items() if key in found["errors_ms"]]
    return f"{grid(header, rows)}\n\n{measured(found)}"


def word_times_single() -> str:
    """The same for single words, side by side."""
    header = ("gaps", "times from", "starts: mean", "median", "90 %", "signed", "ends: mean", "median", "90 %", "signed")
    methods = ("transducer beam, emission frames", "known text, plain alignment", "known text, word_times")
    found = {"0.1 to 0.6 s": _word_times("--gap-s 0.1 0.6"), "0 to 0.03 s": _word_times("--gap-s 0 0.03")}
    rows = [(gaps, WORD_TIMES[key], *_errors(line["errors_ms"][key])) for gaps, line in found.items() for key in methods]
    return f"{grid(header, rows, 2)}\n\n{measured(*found.values())}"


def word_times_noise() -> str:
    """The same in white noise."""
    header = (
        "noise below the mean power",
        "plain alignment, starts: mean",
        "word times, starts: mean",
        "signed",
        "ends: mean",
        "signed",
    )
    found = {db: _word_times(f"--snr-db {db}") for db in (40, 30, 20)}
    rows = []
    for db, line in found.items():
        plain, ours = line["errors_ms"]["known text, plain alignment"], line["errors_ms"]["known text, word_times"]
        cells = [f"{plain['starts']['mean']:.1f}"]
        for side in ("starts", "ends"):
            cells += [f"{ours[side]['mean']:.1f}", f"{ours[side]['bias']:+.1f}"]
        rows.append((f"{db} dB", *cells))
    return f"{grid(header, rows)}\n\n{measured(*found.values())}"


def long_texts() -> str:
    """Word errors of pieces that alignment cuts, by their confidence."""
    found = records("long_texts")
    ranges = [f"{row['from']:g} to {row['to']:g}" for row in found[0]["ranges"]]
    rows = []
    for line in found:
        rows.append((f"{line['model']}: pieces", *(row["pieces"] for row in line["ranges"])))
        rows.append(("word errors of their texts (%)", *(or_dash(row["text_wer"]) for row in line["ranges"])))
    return f"{grid(('confidence of a piece', *ranges), rows)}\n\n{measured(*found)}"


def comparison(name: str) -> str:
    """The miniature comparison of a record: mean, lowest and highest of the seeds."""
    found = record(name)
    header = ("system", "parameters (M)", "pruned loss (nats/s)", "CTC loss (nats/s)", "WER, beam 4 (%)")
    rows = []
    for system in dict.fromkeys(row["system"] for row in found["rows"]):
        own = [row for row in found["rows"] if row["system"] == system]
        cells = []
        for key, digits in (("pruned_loss", 2), ("ctc_loss", 2), ("wer", 1)):
            values = [row[key] for row in own]
            cells.append(spread((statistics.mean(values), min(values), max(values)), digits))
        rows.append((system, f"{own[0]['params'] / 1e6:.2f}", *cells))
    return f"{grid(header, rows)}\n\n{measured(found)}"


def coverage() -> str:
    """Share of lines that the tests run."""
    return f"{record('coverage')['percent']:.0f} %"


TABLES: dict[str, Callable[[], str]] = {
    "comparison": functools.partial(comparison, "comparison"),
    "comparison-optimizers": functools.partial(comparison, "comparison_optimizers"),
    "confidence": confidence,
    "finetune-french": french,
    "own-data": own_data,
    "grammar": grammar,
    "hotwords": hotwords,
    "int8": int8,
    "language-models": language_models,
    "long-texts": long_texts,
    "quickstart": quickstart,
    "search-comparison": search_comparison,
    "word-times": word_times,
    "word-times-noise": word_times_noise,
    "word-times-single": word_times_single,
}
FIGURES: dict[str, Callable[[], str]] = {"coverage": coverage, "quickstart-wer": quickstart_wer}
