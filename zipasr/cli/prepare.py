"""`zipasr prepare SOURCE --out DIR`: any source of speech to cuts, audio and a list of rejected recordings."""

import argparse
import json

_DESCRIPTION = """\
Turn recordings with texts into training data. DIR receives
train_cuts.jsonl.gz, dev_cuts.jsonl.gz and test_cuts.jsonl.gz, 16 kHz FLAC
where the source is not plain audio, and rejected.jsonl, which says why each
rejected recording was left out. DIR can be moved."""

_SOURCES = """\
a folder      NAME.wav (or any other audio) with NAME.txt or NAME.lab beside
              it, also in subfolders; or with subtitles (NAME.srt, NAME.vtt)
              or a TextGrid, whose times cut a long recording; or with
              .trans.txt files
a manifest    JSON lines, TSV or CSV with audio and text, including those of
              NeMo, WeNet, Common Voice, Hugging Face and LJSpeech, or a
              folder with train.jsonl, dev.jsonl and test.jsonl; a line may
              give start, end or duration, channel and audio_track
Kaldi         a directory with wav.scp and text
Lhotse cuts   .jsonl or .jsonl.gz
prompts       telephone prompts recorded by people, downloaded from Debian
              (--lang en, es, fr, it or ru)
NAME:FOLDER   a published corpus as downloaded: librispeech:, aishell:,
              wenetspeech: or gigaspeech:, with its official splits (--set
              subset=M for a smaller training part); musan:, the noise to
              train with"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "prepare",
        takes="SOURCE --out DIR",
        example="zipasr prepare recordings --out data/mine",
        help="turn recordings and texts into training data",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder, a manifest, cuts, prompts, or NAME:FOLDER; see below")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write; earlier cuts in it are replaced")
    parser.add_argument("--lang", default="en", help="language of entries that state none (default: en)")
    parser.add_argument(
        "--as",
        dest="split",
        choices=("train", "dev", "test", "noise"),
        help="keep the whole source as this part, and leave the other parts in DIR, but not rejected.jsonl; noise: "
        "recordings without texts, which training mixes into the others (default: the parts that the source names, or 10 %% "
        "each for dev and test)",
    )
    parser.add_argument(
        "--text-style",
        choices=("as-written", "words"),
        help="words: upper case, no punctuation, digits spelled out (default: words for prompts, else as-written)",
    )
    parser.add_argument(
        "--align-with",
        metavar="MODEL",
        help="model with a CTC head (a folder, or hf:OWNER/NAME): cut recordings that are too long, by aligning them with "
        "their texts; pieces that do not match are rejected (--set min_align_confidence=0.3)",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="other settings, such as limits.max_duration_s=20 dev_share=0.05 test_share=0.05 seed=1 num_jobs=4 tags=drop",
    )
    parser.add_argument(
        "--allow-damaged",
        action="store_true",
        help="accept damaged and truncated recordings: silence replaces what cannot be decoded, and a warning says where "
        "(default: reject them)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument_group("SOURCE", _SOURCES)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prepare the data and print a summary; return the exit code."""
    from zipasr.config import set_fields
    from zipasr.prepare import PrepareConfig, prepare

    config = PrepareConfig(
        lang=args.lang,
        text_style=args.text_style,
        split=args.split,
        allow_damaged=args.allow_damaged,
        align_with=args.align_with,
    )
    config = set_fields(config, args.set)
    report = prepare(args.source, args.out, config, has_progress=True)
    print(json.dumps({"out": args.out, **report.to_dict()}) if args.json else report.format_table())
    return 0
