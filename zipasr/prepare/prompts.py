"""Telephone prompts spoken by people, from Debian's packages of Asterisk prompts: download, read, and split.

`read_prompts` downloads `asterisk-core-sounds-LANG-g722` (16 kHz recordings) and `asterisk-core-sounds-LANG` (their
texts) with apt-get, unpacks them into a cache without installing them, and yields an `Utterance` with the spoken words for
each. The English voice is Allison Smith, CC-BY-SA 3.0; for the licenses of the others see their packages.
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

from zipasr.errors import DataError
from zipasr.prepare.spoken import has_digits, spoken_words
from zipasr.prepare.utterance import Reason, Rejected, Utterance

SPEAKERS = {"en": "allison-smith", "es": "allison-smith", "fr": "june-wallack", "it": "carlo-flora", "ru": "ivrvoice"}
"""The speaker of each language, from the credits of the packages."""

NUM_HELD_OUT = 40
"""Number of prompts in each of test and dev."""

_ENGLISH_CORRECTIONS = {
    # misspelled in the package
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
    # spelled out; IAX alone is spoken as a word, "eeks", and stays
    "PBX": "P B X",
    "IVR": "I V R",
    "IP": "I P",
    "or IAX connection": "or I A X connection",
    "MGCP": "M G C P",
    "USB": "U S B",
    # spoken digit by digit
    "H.323": "H 3 2 3",
    "500": "5 0 0",
    "600": "6 0 0",
    "1234": "1 2 3 4",
    "4242": "4 2 4 2",
    "8500": "8 5 0 0",
    # comments that are not spoken
    "(simple tone sound plays)": "",
    '(note: does not say "2")': "",
}
"""Errors in the English texts, and what the recordings say instead."""

_MISMATCHED = {
    ("es", "vm-mismatch"): "expected 6.2 s of speech for this text at the speaker's pace, got 3.1 s",
    ("fr", "vm-mismatch"): "expected 5.0 s of speech for this text at the speaker's pace, got 2.8 s",
}
"""Recordings of only the first part of their text: measured without pauses against all prompts of the voice."""

_FIRST_NAME = re.compile(r"[A-Za-z0-9_/-]+\s*:")
_INNER_NAME = re.compile(r"(?<=[\s.])[a-z0-9]+[-/][A-Za-z0-9_/-]*:")
_REMARK = re.compile(r"\([^()]*\)|<[^<>]*>|\[[^\[\]]*\]")
_OPTIONAL_WORDS = re.compile(r"\[[^\[\]]*[^\W\d_][^\[\]]*\]")
_NOT_SPEECH_NAME = re.compile(r"silence/.*|beep|beeperr|(?:a|de)scending-2tone|confbridge-(?:join|leave)|tt-monkeys")


def cache_folder() -> Path:
    """The cache folder of prompts: `$ZIPASR_CACHE/prompts`, else `~/.cache/zipasr/prompts`."""
    root = os.environ.get("ZIPASR_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "zipasr") / "prompts"


def _run(command: Sequence[str], folder: Path) -> str | None:
    """Run a command; return None if it succeeded, otherwise its last error message."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return None
    messages = [line for line in (result.stderr + result.stdout).splitlines() if line.startswith(("E:", "dpkg"))]
    return messages[-1] if messages else f"{command[0]} ended with status {result.returncode}"


def _download(packages: Sequence[str], folder: Path) -> None:
    """Download Debian packages into `folder`; refresh apt's lists once if needed and allowed.

    Raises:
        DataError: the download failed; the message names the cure.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DataError(
                f"downloading the prompts needs Debian's {tool}, which is not on this machine: run this on Debian or "
                "Ubuntu, or prepare your own recordings (a folder of NAME.wav with NAME.txt)"
            )
    command = ["apt-get", "download", *packages]
    failure = _run(command, folder)
    if failure and os.geteuid() == 0:
        failure = _run(["apt-get", "update"], folder) or _run(command, folder)
    if failure:
        raise DataError(
            f"apt-get cannot download {' and '.join(packages)}: {failure}. Check the network, run 'apt-get update' as "
            "root, and try again"
        )


def fetch_prompts(lang: str, cache: Path | None = None) -> Path:
    """The folder with the prompts of a language; downloads and unpacks them if they are not in the cache.

    Raises:
        DataError: the language has no prompts, or they cannot be downloaded.
    """
    if lang not in SPEAKERS:
        raise DataError(f"--lang must be one of {', '.join(SPEAKERS)} for prompts, but is {lang!r}")
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
                failure = _run(["dpkg-deb", "-x", archive.name, "unpacked"], folder)
                if failure:
                    raise DataError(f"{archive.name} must be a Debian package, but: {failure}; try again")
            if not target.exists():
                (folder / "unpacked").rename(target)
    except OSError as error:
        if not target.is_dir():  # otherwise another process was faster
            raise DataError(f"the prompts cannot be written to {cache}: {error}; set ZIPASR_CACHE") from error
    return target


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each prompt in a package's list; a line may hold several, and a name may occur twice."""
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
    """Correct the errors of an English text."""
    for written, spoken in _ENGLISH_CORRECTIONS.items() if lang == "en" else ():
        start, end = (r"\b" if edge.isalnum() else "" for edge in (written[0], written[-1]))
        flags = re.NOFLAG if written.isupper() else re.IGNORECASE
        text = re.sub(f"{start}{re.escape(written)}{end}", spoken, text, flags=flags)
    return text


def prompt_words(name: str, text: str, lang: str) -> str | tuple[Reason, str]:
    """The words that are spoken in a prompt, or the reason for rejecting it.

    Args:
        name: name of the prompt, such as `digits/0`.
        text: its text in the package's list.
        lang: language code of the package.
    """
    if _NOT_SPEECH_NAME.fullmatch(name) or (text and not _REMARK.sub("", text).strip()):
        return Reason.NOT_SPEECH, f"expected speech, got {text!r}"
    if (lang, name) in _MISMATCHED:
        return Reason.TEXT_MISMATCH, _MISMATCHED[lang, name]
    text = _correct(text, lang)
    if _OPTIONAL_WORDS.search(text):
        return Reason.TEXT_MISMATCH, f"expected the spoken words, got words in brackets that may not be spoken: {text!r}"
    words = spoken_words(_REMARK.sub(" ", text), lang)
    if not words:
        return Reason.NO_TEXT, f"expected words, got {text!r}"
    if has_digits(words):
        return Reason.DIGITS, f"expected words, got digits that may be read in several ways: {text!r}"
    return words


def read_prompts(lang: str, cache: Path | None = None) -> Iterator[Utterance | Rejected]:
    """Yield the prompts of a language, sorted by name; download them if they are not in the cache.

    Raises:
        DataError: they cannot be downloaded, or the package has other contents.
    """
    folder = fetch_prompts(lang, cache)
    lists = sorted(folder.rglob(f"core-sounds-{lang}.txt.gz"))
    recordings = {path.relative_to(_voice(path)).with_suffix("").as_posix(): path for path in folder.rglob("*.g722")}
    if not lists or not recordings:
        raise DataError(f"{folder} must contain *.g722 and core-sounds-{lang}.txt.gz, but has other files; delete it")
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
    """The folder of the voice of a recording, `.../sounds/VOICE`."""
    return next(parent for parent in path.parents if parent.parent.name == "sounds")


def split_prompts(prompts: Iterable[Utterance]) -> dict[str, str]:
    """Choose the test and dev prompts, the same ones on every machine.

    Prompts of three words or more are taken in the order of the SHA-256 of their names, first for test, then for dev.
    A prompt is skipped if any of its words would no longer occur in the training part, or if its sentence occurs again; a
    language may have too few prompts to fill both.

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
