"""Telephone prompts recorded by people, from Debian's packages of Asterisk sounds: fetched, read, and split.

`read_prompts` downloads `asterisk-core-sounds-LANG-g722` (16 kHz recordings) and `asterisk-core-sounds-LANG` (their
texts) with apt-get, unpacks them into a cache without installing, and gives `Utterance` with the words that are said.
English is Allison Smith's, CC-BY-SA 3.0; the others as their packages say.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from zipasr.data.spoken import has_digits, spoken_words
from zipasr.data.utterance import Reason, Rejected, Utterance
from zipasr.errors import DataError

SPEAKERS = {"en": "allison-smith", "es": "allison-smith", "fr": "june-wallack", "it": "carlo-flora", "ru": "ivrvoice"}
"""Who speaks each language, by the packages' credits."""

NUM_HELD_OUT = 40
"""Prompts in each of test and dev."""

_ENGLISH_CORRECTIONS = {
    # misspelt in the package's text
    "umute": "unmute",
    "represenatives": "representatives",
    "fourtieth": "fortieth",
    "exclaimation": "exclamation",
    "un-indentified": "unidentified",
    "witheld": "withheld",
    "thru": "through",
    # two spellings of one word
    "touchtone": "touch tone",
    "mail box": "mailbox",
    "rerecord": "re-record",
    # said letter by letter; IAX alone is said as a word, "eeks", and stays one
    "PBX": "P B X",
    "IVR": "I V R",
    "IP": "I P",
    "or IAX connection": "or I A X connection",
    "MGCP": "M G C P",
    "USB": "U S B",
    # said digit by digit
    "H.323": "H 3 2 3",
    "500": "5 0 0",
    "600": "6 0 0",
    "1234": "1 2 3 4",
    "4242": "4 2 4 2",
    "8500": "8 5 0 0",
    # remarks to the reader
    "(simple tone sound plays)": "",
    '(note: does not say "2")': "",
}
"""What the English text says, and what the recordings say instead."""

_MISMATCHED = {
    ("es", "vm-mismatch"): "expected 6.2 s of speech for this text at the speaker's pace, got 3.1 s",
    ("fr", "vm-mismatch"): "expected 5.0 s of speech for this text at the speaker's pace, got 2.8 s",
}
"""Recordings that hold only the beginning of their text: measured without pauses against all prompts of the voice."""

_FIRST_NAME = re.compile(r"[A-Za-z0-9_/-]+\s*:")
_INNER_NAME = re.compile(r"(?<=[\s.])[a-z0-9]+[-/][A-Za-z0-9_/-]*:")
_REMARK = re.compile(r"\([^()]*\)|<[^<>]*>|\[[^\[\]]*\]")
_OPTIONAL_WORDS = re.compile(r"\[[^\[\]]*[^\W\d_][^\[\]]*\]")
_NOT_SPEECH_NAME = re.compile(r"silence/.*|beep|beeperr|(?:a|de)scending-2tone|confbridge-(?:join|leave)|tt-monkeys")


def cache_folder() -> Path:
    """Give the folder where prompts are kept: `$ZIPASR_CACHE/prompts`, else `~/.cache/zipasr/prompts`."""
    root = os.environ.get("ZIPASR_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "zipasr") / "prompts"


def _run(command: Sequence[str], folder: Path) -> str | None:
    """Run a command; None if it succeeded, else its last line of complaint."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return None
    complaints = [line for line in (result.stderr + result.stdout).splitlines() if line.startswith(("E:", "dpkg"))]
    return complaints[-1] if complaints else f"{command[0]} ended with status {result.returncode}"


def _download(packages: Sequence[str], folder: Path) -> None:
    """Download Debian packages into `folder`, refreshing apt's lists once if that is needed and allowed.

    Raises:
        DataError: it cannot be done here, and what to do.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DataError(
                f"fetching the prompts needs Debian's {tool}, which is not on this machine: run this on Debian or "
                "Ubuntu, or prepare recordings of your own (a folder of NAME.wav with NAME.txt)"
            )
    command = ["apt-get", "download", *packages]
    complaint = _run(command, folder)
    if complaint and os.geteuid() == 0:
        complaint = _run(["apt-get", "update"], folder) or _run(command, folder)
    if complaint:
        raise DataError(
            f"expected to download {' and '.join(packages)} with apt-get, got: {complaint}. Check the network, run "
            "'apt-get update' as root, and try again"
        )


def fetch_prompts(lang: str, cache: Path | None = None) -> Path:
    """Download and unpack the prompts of a language, unless they are in the cache.

    Returns:
        The folder they are unpacked into.
    Raises:
        DataError: the language has no prompts, or they cannot be fetched here.
    """
    if lang not in SPEAKERS:
        raise DataError(f"expected --lang to be one of {', '.join(SPEAKERS)} for prompts, got {lang!r}")
    cache = cache_folder() if cache is None else cache
    target = cache / lang
    if target.is_dir():
        return target
    packages = [f"asterisk-core-sounds-{lang}-g722", f"asterisk-core-sounds-{lang}"]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as name:
            folder = Path(name)
            _download(packages, folder)
            for archive in sorted(folder.glob("*.deb")):
                complaint = _run(["dpkg-deb", "-x", archive.name, "unpacked"], folder)
                if complaint:
                    raise DataError(f"expected a Debian package in {archive.name}, got: {complaint}; try again")
            if not target.exists():
                (folder / "unpacked").rename(target)
    except OSError as error:
        if not target.is_dir():  # another process may have been faster
            raise DataError(f"expected to write the prompts to {cache}, got: {error}; set ZIPASR_CACHE") from error
    return target


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Give the name and text of each prompt in a package's list, where a line may hold several, or a name twice."""
    for line in gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines():
        first = _FIRST_NAME.match(line)
        if first is None:
            continue
        heads = [first, *_INNER_NAME.finditer(line, first.end())]
        ends = [head.start() for head in heads[1:]] + [len(line)]
        for head, end in zip(heads, ends, strict=True):
            text = line[head.end() : end].strip()
            if text or len(heads) == 1:
                yield head[0].rstrip(": "), text


def _correct(text: str, lang: str) -> str:
    """Replace what the English text gets wrong."""
    for written, said in _ENGLISH_CORRECTIONS.items() if lang == "en" else ():
        start, end = (r"\b" if edge.isalnum() else "" for edge in (written[0], written[-1]))
        flags = re.NOFLAG if written.isupper() else re.IGNORECASE
        text = re.sub(f"{start}{re.escape(written)}{end}", said, text, flags=flags)
    return text


def prompt_words(name: str, text: str, lang: str) -> str | tuple[Reason, str]:
    """Give the words that are said in a prompt, or why it is of no use.

    Args:
        name: of the prompt, such as `digits/0`.
        text: as in the package's list.
    """
    if _NOT_SPEECH_NAME.fullmatch(name) or (text and not _REMARK.sub("", text).strip()):
        return Reason.NOT_SPEECH, f"expected speech, got {text!r}"
    if (lang, name) in _MISMATCHED:
        return Reason.TEXT_MISMATCH, _MISMATCHED[lang, name]
    text = _correct(text, lang)
    if _OPTIONAL_WORDS.search(text):
        return Reason.TEXT_MISMATCH, f"expected the words that are said, got some in brackets that may not be: {text!r}"
    words = spoken_words(_REMARK.sub(" ", text), lang)
    if not words:
        return Reason.NO_TEXT, f"expected words, got {text!r}"
    if has_digits(words):
        return Reason.DIGITS, f"expected words, got digits that may be read in several ways: {text!r}"
    return words


def read_prompts(lang: str, cache: Path | None = None) -> Iterator[Utterance | Rejected]:
    """Fetch the prompts of a language if need be, and read them in the order of their names.

    Raises:
        DataError: they cannot be fetched, or the package holds something else.
    """
    folder = fetch_prompts(lang, cache)
    lists = sorted(folder.rglob(f"core-sounds-{lang}.txt.gz"))
    recordings = {path.relative_to(_voice(path)).with_suffix("").as_posix(): path for path in folder.rglob("*.g722")}
    if not lists or not recordings:
        raise DataError(f"expected *.g722 and core-sounds-{lang}.txt.gz below {folder}, got other files: delete it")
    by_any_case = {name.casefold(): name for name in recordings}
    entries = [
        (name if name in recordings else by_any_case.get(name.casefold(), name), text) for name, text in _texts(lists[0])
    ]
    for name, text in sorted(entries, key=lambda entry: entry[0]):
        path = recordings.get(name)
        if path is None:
            detail = f"expected {name}.g722 in the package, got none"
            yield Rejected(id=name, audio=f"{name}.g722", reason=Reason.NO_AUDIO, detail=detail)
            continue
        words = prompt_words(name, text, lang)
        if isinstance(words, str):
            yield Utterance(id=name, audio=path, text=words, speaker=SPEAKERS[lang], language=lang)
        else:
            yield Rejected(id=name, audio=str(path), reason=words[0], detail=words[1])
    for name in sorted(recordings.keys() - {name for name, _ in entries}):
        is_silence = _NOT_SPEECH_NAME.fullmatch(name)
        reason = Reason.NOT_SPEECH if is_silence else Reason.NO_TEXT
        detail = f"expected a line for {name} in core-sounds-{lang}.txt, got none"
        yield Rejected(id=name, audio=str(recordings[name]), reason=reason, detail=detail)


def _voice(path: Path) -> Path:
    """Give the folder of the voice that a recording lies in, `.../sounds/VOICE`."""
    return next(parent for parent in path.parents if parent.parent.name == "sounds")


def split_prompts(prompts: Iterable[Utterance]) -> dict[str, str]:
    """Choose the test and dev prompts: the same ones on every machine.

    Prompts of three words or more are taken in the order of the SHA-256 of their names, first for test, then for dev.
    One is passed over if any of its words would not be left in the training part, or if its sentence occurs elsewhere;
    a language may run out of others before both are full.

    Returns:
        train, dev or test for the id of every prompt.
    """
    prompts = list(prompts)
    sentences = Counter(prompt.text for prompt in prompts)
    in_training = Counter(word for prompt in prompts for word in set(prompt.text.split()))
    splits = {prompt.id: "train" for prompt in prompts}
    candidates = [prompt for prompt in prompts if len(prompt.text.split()) >= 3 and sentences[prompt.text] == 1]
    candidates.sort(key=lambda prompt: hashlib.sha256(prompt.id.encode()).hexdigest())
    num_chosen = 0
    for prompt in candidates:
        words = set(prompt.text.split())
        if num_chosen == 2 * NUM_HELD_OUT:
            break
        if all(in_training[word] > 1 for word in words):
            in_training.subtract(words)
            splits[prompt.id] = "test" if num_chosen < NUM_HELD_OUT else "dev"
            num_chosen += 1
    return splits
