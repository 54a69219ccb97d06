"""Tables of the model that ships and of keyword spotting, by name; tables.py writes them into the pages."""

from collections.abc import Callable, Mapping

from tabulation import grid, measured, record

from zipasr.evaluate.keywords import alarms_bound

_NAMES = {
    "commands": "Speech Commands, 35 words",
    "commands_rest": "Speech Commands, more of the same",
    "alphanumeric": "digits and spelled names",
    "barista": "coffee orders",
    "wakewords": "wake words",
    "ljspeech": "a reader of books",
}


def commands_rates() -> str:
    """Error rates of the model that ships by corpus, clean and in noise."""
    found = record("commands")
    conditions = [key for key in found["rows"][0] if key == "clean" or key.endswith(" dB")]
    header = ("dev part of", "recordings", "words", *(f"WER {condition}" for condition in conditions), "whole, clean")
    rows = [
        (
            _NAMES[row["corpus"]],
            row["recordings"],
            row["words"],
            *(f"{row[condition]['wer']:.1f} %" for condition in (*conditions, "whole")),
        )
        for row in found["rows"]
    ]
    return f"{grid(header, rows)}\n\n{measured(found)}"


def commands_empty() -> str:
    """What the model that ships writes where nobody speaks."""
    found = record("commands")
    header = ("without speech", "minutes", "recordings", "with words", "words a minute")
    rows = [
        (
            name,
            f"{row['minutes']:.1f}",
            row["recordings"],
            row["recordings_with_words"],
            f"{row['words_per_minute']:.1f}",
        )
        for name, row in found["empty"].items()
    ]
    return grid(header, rows)


def new_words() -> str:
    """What finetuning on ten recordings of each of some words brings and costs."""
    found = record("new_words")
    header = ("model", "missed", "false alarms", "missed, tuned", "false alarms, tuned", "WER new words", "WER other words")
    rows = [
        (
            row["model"],
            *(
                cell
                for kind in ("default", "chosen")
                for cell in (f"{row[kind]['missed']} of {row[kind]['said']}", row[kind]["alarms"])
            ),
            f"{row['new_wer']:.1f} %",
            f"{row['old_wer']:.1f} %",
        )
        for row in found["rows"]
    ]
    return f"{grid(header, rows)}\n\n{measured(found)}"


def keywords() -> str:
    """Misses of wake words at stated false alarms, beside sherpa-onnx."""
    found = record("keywords")
    header = ("condition", "spotter", "thresholds", "missed", "false alarms", "hours", "below, an hour")
    rows = []
    for row in found["rows"]:
        # sherpa-onnx reports no scores, so no thresholds can be chosen for it; it ran at another one.
        other = "chosen on this set" if row["spotter"] == "zipasr" else f"{row['chosen'][0]['threshold']:g}"
        for kind, name in (("own", "0.25, the default"), ("chosen", other)):
            results = [result for result in row[kind] if result["keyword"] != "ALEXA"]
            said, missed, alarms, hours = (
                sum(result[key] for result in results) for key in ("num_said", "num_missed", "num_alarms", "negative_h")
            )
            rows.append(
                (
                    row["condition"],
                    row["spotter"],
                    name,
                    f"{missed} of {said} ({100 * missed / said:.1f} %)",
                    alarms,
                    f"{hours:.2f}",
                    f"{alarms_bound(alarms) / hours:.1f}",
                )
            )
    return f"{grid(header, rows, 3)}\n\n{measured(found)}"


def keywords_alexa() -> str:
    """The same for ALEXA alone, whose recordings come from another campaign."""
    found = record("keywords")
    header = ("condition", "spotter", "missed", "false alarms")
    rows = []
    for row in found["rows"]:
        for result in row["own"]:
            if result["keyword"] == "ALEXA":
                rows.append(
                    (
                        row["condition"],
                        row["spotter"],
                        f"{result['num_missed']} of {result['num_said']}",
                        f"{result['num_alarms']} in {result['negative_h']:.2f} h",
                    )
                )
    return grid(header, rows, 2)


TABLES: Mapping[str, Callable[[], str]] = {
    "commands-rates": commands_rates,
    "commands-empty": commands_empty,
    "new-words": new_words,
    "keywords": keywords,
    "keywords-alexa": keywords_alexa,
}
"""All tables of this file."""
