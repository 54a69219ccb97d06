"""Reference: prompts as written and as spoken. Law: the split. Contract: the packages, and missing packages.

The test that downloads packages is marked `network`; the others use synthetic packages.
"""

import gzip
import hashlib
import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from zipasr.data.audio_paths import read_located
from zipasr.errors import DataError
from zipasr.prepare import prompts
from zipasr.prepare.prompts import fetch_prompts, prompt_words, read_prompts, split_prompts
from zipasr.prepare.utterance import Reason, Rejected, Utterance


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("activated", "Activated.", "ACTIVATED"),
        ("conf-adminmenu-menu8", "3 to mute or umute all non-administrator users",
         "THREE TO MUTE OR UNMUTE ALL NON ADMINISTRATOR USERS"),
        ("confbridge-binaural-off", "3D audio disabled", "THREE D AUDIO DISABLED"),
        ("demo-enterkeywords", "separated by * and then press the pound key.",
         "SEPARATED BY STAR AND THEN PRESS THE POUND KEY"),
        ("dictate/enter_filename", "followed by # or just # to exit", "FOLLOWED BY POUND OR JUST POUND TO EXIT"),
        ("demo-moreinfo", "a full-featured PBX and IVR platform ... visit www.asterisk.org.",
         "A FULL FEATURED P B X AND I V R PLATFORM VISIT W W W DOT ASTERISK DOT ORG"),
        ("demo-instruct", "dial 500 for an Inter-Asterisk Exchange or IAX connection, extension 1234, 28.8 kilobit",
         "DIAL FIVE ZERO ZERO FOR AN INTER ASTERISK EXCHANGE OR I A X CONNECTION EXTENSION ONE TWO THREE FOUR "
         "TWENTY EIGHT POINT EIGHT KILOBIT"),
        ("digits/a-m", "A.M.", "A M"),
        ("digits/h-40", "fourtieth", "FORTIETH"),
        ("digits/oclock", "o'clock", "O'CLOCK"),
        ("letters/dash", "dash [-]", "DASH"),
        ("letters/space", "space [ ]", "SPACE"),
        ("letters/exclaimation-point", "exclaimation-point [!]", "EXCLAMATION POINT"),
        ("queue-periodic-announce", "All of our represenatives are", "ALL OF OUR REPRESENTATIVES ARE"),
        ("spy-h323", "H.323", "H THREE TWO THREE"),
        ("spy-iax", "IAX", "IAX"),
        ("spy-iax2", 'IAX (note: does not say "2")', "IAX"),
        ("spy-usbradio", "USB Radio", "U S B RADIO"),
        ("to-rerecord-it", "To re-record it.", "TO RE RECORD IT"),
        ("vm-torerecord", "press 3 to rerecord your message", "PRESS THREE TO RE RECORD YOUR MESSAGE"),
        ("dir-usingkeypad", "using your touchtone keypad", "USING YOUR TOUCH TONE KEYPAD"),
        ("unidentified-no-callback", "Un-indentified or witheld", "UNIDENTIFIED OR WITHHELD"),
        ("vm-intro", "press the pound key. (simple tone sound plays)", "PRESS THE POUND KEY"),
        ("vm-mailboxfull", "the user's mail box can't accept more", "THE USER'S MAILBOX CAN'T ACCEPT MORE"),
        ("recipient", "the recipient's shipping", "THE RECIPIENT'S SHIPPING"),
    ],
)  # fmt: skip
def test_english_prompts_are_written_as_they_are_said(name: str, written: str, said: str) -> None:
    assert prompt_words(name, written, "en") == said


@pytest.mark.parametrize(
    ("name", "text", "lang", "reason"),
    [
        ("ascending-2tone", "[ascending tones]", "en", Reason.NOT_SPEECH),
        ("confbridge-join", "<beep ascending>", "en", Reason.NOT_SPEECH),
        ("silence/10", "(10 seconds of silence)", "en", Reason.NOT_SPEECH),
        ("tt-monkeys", "[sound of monkeys screaming]", "en", Reason.NOT_SPEECH),
        ("beeperr", "tono de error", "es", Reason.NOT_SPEECH),
        ("spy-dahdi", "", "fr", Reason.NO_TEXT),
        ("demo-instruct", "marque 500", "es", Reason.DIGITS),
        ("vm-msgsaved", "Il [suo] messaggio è stato salvato.", "it", Reason.TEXT_MISMATCH),
        ("vm-mismatch", "Las contrasenas no coinciden.", "es", Reason.TEXT_MISMATCH),
    ],
)
def test_prompts_that_are_dropped(name: str, text: str, lang: str, reason: Reason) -> None:
    assert prompt_words(name, text, lang)[0] is reason


@pytest.mark.parametrize(
    ("lang", "written", "said"),
    [
        ("es", "Presione 1 o 2.", "PRESIONE UNO O DOS"),
        ("fr", "Pour (emphase)", "POUR"),
        ("it", "c’è [@]", "C'È"),
        ("ru", "Нажмите 1 — «звёздочку»", "НАЖМИТЕ ОДИН ЗВЁЗДОЧКУ"),
    ],
)
def test_other_languages(lang: str, written: str, said: str) -> None:
    assert prompt_words("some-prompt", written, lang) == said


# The split


def prompt(name: str, text: str) -> Utterance:
    return Utterance(id=name, audio=Path(f"{name}.g722"), text=text)


def made_up_prompts(num_prompts: int = 400) -> list[Utterance]:
    words = [f"W{i}" for i in range(60)]
    prompts = []
    for i in range(num_prompts):
        digest = hashlib.md5(str(i).encode()).digest()
        prompts.append(prompt(f"p{i}", " ".join(words[byte % 60] for byte in digest[: 1 + digest[-1] % 8])))
    return prompts


def test_split_keeps_its_promises() -> None:
    utterances = made_up_prompts()
    splits = split_prompts(utterances)
    counts = Counter(splits.values())
    assert (counts["test"], counts["dev"]) == (40, 40)
    trained = {word for u in utterances if splits[u.id] == "train" for word in u.text.split()}
    sentences = Counter(u.text for u in utterances)
    for utterance in utterances:
        if splits[utterance.id] != "train":
            assert len(utterance.text.split()) >= 3
            assert trained.issuperset(utterance.text.split())
            assert sentences[utterance.text] == 1


def test_split_takes_the_hashes_in_order_and_ignores_the_order_of_the_prompts() -> None:
    utterances = made_up_prompts()
    splits = split_prompts(utterances)
    assert split_prompts(reversed(utterances)) == splits

    def digest(name: str) -> str:
        return hashlib.sha256(name.encode()).hexdigest()

    last_test = max(digest(name) for name, split in splits.items() if split == "test")
    first_dev = min(digest(name) for name, split in splits.items() if split == "dev")
    assert last_test < first_dev


def test_split_counts_what_is_left_after_each_choice() -> None:
    # Any one of the three prompts may be held out, but not two: RARE must stay in training.
    utterances = [prompt(f"p{i}", f"RARE WORD{i} COMMON") for i in range(2)]
    utterances += [prompt(f"q{i}", f"WORD{i}") for i in range(2)] + [prompt("q", "COMMON")]
    splits = split_prompts(utterances)
    assert sorted(splits[f"p{i}"] for i in range(2)) == ["test", "train"]


def test_split_passes_over_short_and_repeated_sentences() -> None:
    utterances = [
        prompt("a", "ONE TWO"),
        prompt("b", "ONE TWO THREE"),
        prompt("c", "ONE TWO THREE"),
        prompt("d", "THREE"),
    ]
    assert set(split_prompts(utterances).values()) == {"train"}


# The packages


def make_packages(cache: Path, lang: str = "en") -> Path:
    sounds = cache / lang / "usr" / "share" / "asterisk" / "sounds" / "en_US_f_Allison"
    (sounds / "digits").mkdir(parents=True)
    for name in ("hello", "digits/1F", "mute-in", "mute-out", "extra", "silence-me", "beep"):
        (sounds / f"{name}.g722").write_bytes(b"\0" * 8000)
    doc = cache / lang / "usr" / "share" / "doc"
    doc.mkdir()
    text = (
        "\ufeff; a comment: not a prompt\n\nhello: Hello.\ndigits/1f: one\n"
        "mute-in: mute-in: To mute... mute-out: ...to mute\n"
        "beep: [beep]\nabsent: nobody recorded it\nhello: again\nsilence-me:\n"
    )
    (doc / f"core-sounds-{lang}.txt.gz").write_bytes(gzip.compress(text.encode()))
    return cache


def test_reading_the_packages(tmp_path: Path) -> None:
    entries = list(read_prompts("en", make_packages(tmp_path)))
    good = [(entry.id, entry.text) for entry in entries if isinstance(entry, Utterance)]
    bad = {entry.id: entry.reason for entry in entries if isinstance(entry, Rejected)}
    assert good == [
        ("digits/1F", "ONE"),
        ("hello", "HELLO"),
        ("hello", "AGAIN"),
        ("mute-in", "TO MUTE"),
        ("mute-out", "TO MUTE"),
    ]
    assert bad == {
        "absent": Reason.NO_AUDIO,
        "beep": Reason.NOT_SPEECH,
        "silence-me": Reason.NO_TEXT,
        "extra": Reason.NO_TEXT,
    }
    first = next(entry for entry in entries if entry.id == "digits/1F")
    assert (first.speaker, first.language) == ("allison-smith", "en")
    assert first.audio.is_file()


def test_a_cache_without_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    with pytest.raises(DataError, match="but has other files; delete it"):
        list(read_prompts("en", tmp_path))


def test_unknown_language(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--lang must be one of en, es, fr, it, ru for prompts, but is 'de'"):
        fetch_prompts("de", tmp_path)


def test_without_apt_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="needs Debian's apt-get, which is not on this machine: run this on Debian"):
        fetch_prompts("en", tmp_path / "cache")


def make_tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_without_network_the_error_names_apts_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tool(tmp_path / "bin", "apt-get", "echo 'E: Unable to fetch some archives' >&2; exit 100")
    make_tool(tmp_path / "bin", "dpkg-deb", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(DataError, match=r": E: Unable to fetch some archives\. Check the network"):
        fetch_prompts("en", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_lists_are_refreshed_once_if_we_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command[:2])
        failed = len(calls) == 1
        return subprocess.CompletedProcess(command, 100 if failed else 0, "", "E: not found" if failed else "")

    monkeypatch.setattr(prompts.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(prompts.subprocess, "run", run)
    monkeypatch.setattr(prompts.os, "geteuid", lambda: 0)
    (tmp_path / "unpacked").mkdir()
    prompts._download(["some-package"], tmp_path)
    assert calls == [["apt-get", "download"], ["apt-get", "update"], ["apt-get", "download"]]
    monkeypatch.setattr(prompts.os, "geteuid", lambda: 1000)
    calls.clear()
    with pytest.raises(DataError, match="E: not found"):
        prompts._download(["some-package"], tmp_path)
    assert calls == [["apt-get", "download"]]


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIPASR_CACHE", str(tmp_path))
    assert prompts.cache_folder() == tmp_path / "prompts"
    monkeypatch.delenv("ZIPASR_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prompts.cache_folder() == tmp_path / ".cache" / "zipasr" / "prompts"


@pytest.mark.network
def test_the_english_prompts(prompts_dir: Path) -> None:
    parts = {name: list(read_located(prompts_dir / f"{name}_cuts.jsonl.gz")) for name in ("train", "dev", "test")}
    texts = {name: [cut.supervisions[0].text for cut in part] for name, part in parts.items()}
    words = {name: [word for text in part for word in text.split()] for name, part in texts.items()}
    assert (len(parts["test"]), len(parts["dev"])) == (40, 40)
    assert len(parts["train"]) > 450
    assert set(words["test"]) <= set(words["train"])
    assert set(words["dev"]) <= set(words["train"])
    all_texts = Counter(text for part in texts.values() for text in part)
    assert all(all_texts[text] == 1 and len(text.split()) >= 3 for text in texts["test"] + texts["dev"])
    assert 21 < sum(cut.duration for part in parts.values() for cut in part) / 60 < 23
    assert set("".join(all_texts)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")
    rejected = (prompts_dir / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = Counter(json.loads(line)["reason"] for line in rejected)
    assert reasons == {"not speech": 17, "too long": 3, "no audio": 1}
    assert parts["test"][0].load_audio().shape == (1, parts["test"][0].num_samples)
