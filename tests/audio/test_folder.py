"""Law: the files below a folder are each listed once, sorted, whatever links there are; hidden ones are none. Reference: a
recording with every ending that counts in a folder."""

from pathlib import Path

import numpy as np
import pytest

from tests.audio.tones import DURATION_S, LEVEL, encode_by_av
from zipasr.audio import AUDIO_SUFFIXES, SAMPLE_RATE_HZ, files_below, load_audio


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files_below(folder)]


def test_hidden_files_and_folders_are_left_out_only_below_the_folder(tmp_path: Path) -> None:
    here = tmp_path / ".cache" / "recordings"
    put(here / "b" / "c.wav", here / "a.wav", here / "._a.wav", here / ".Trash" / "x.wav", here / "b" / ".d.wav")
    assert listed(here) == ["a.wav", "b/c.wav"]
    assert files_below(str(here)) == files_below(here)


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    put(here / "b.wav", elsewhere / "deep" / "c.wav", tmp_path / "third" / "d.wav")
    (here / "part").symlink_to(elsewhere)
    (here / "e.wav").symlink_to(here / "b.wav")
    (here / "gone.wav").symlink_to(tmp_path / "nothing")
    (elsewhere / "deep" / "further").symlink_to(tmp_path / "third")
    assert listed(here) == ["b.wav", "e.wav", "part/deep/c.wav", "part/deep/further/d.wav"]


def test_a_folder_is_listed_once_and_cycles_end(tmp_path: Path) -> None:
    here = tmp_path / "here"
    put(here / "z" / "a.wav", tmp_path / "other" / "b.wav", tmp_path / "beside.wav")
    (here / "again").symlink_to(here / "z")
    (here / "z" / "up").symlink_to(here)
    (here / "z" / "out").symlink_to(tmp_path)
    (here / "one").symlink_to(tmp_path / "other")
    (here / "two").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "self").symlink_to(tmp_path / "other")
    assert listed(here) == ["one/b.wav", "z/a.wav"]


@pytest.mark.parametrize(
    ("suffix", "container", "codec"),
    [
        *((".mov", "mov", "aac"), (".m4b", "ipod", "aac"), (".m4v", "mp4", "aac"), (".3gp", "3gp", "aac")),
        *((".avi", "avi", "mp2"), (".mpg", "mpeg", "mp2"), (".mp2", "mp2", "mp2"), (".m2ts", "mpegts", "aac")),
        *((".flv", "flv", "aac"), (".wmv", "asf", "mp2"), (".caf", "caf", "pcm_s16be"), (".w64", "w64", "pcm_s16le")),
        *((".wv", "wv", "wavpack"), (".tta", "tta", "tta"), (".voc", "voc", "pcm_s16le"), (".ac3", "ac3", "ac3")),
        *(
            (".wave", "wav", "pcm_s16le"),
            (".snd", "au", "pcm_s16be"),
            (".aifc", "aiff", "pcm_s16be"),
            (".ogv", "ogg", "flac"),
        ),
    ],
)
def test_recordings_of_every_kind_count_in_folders(suffix: str, container: str, codec: str, tmp_path: Path) -> None:
    assert suffix in AUDIO_SUFFIXES
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode_by_av(codec, container, 44100))
    samples = load_audio(path)
    assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(DURATION_S, abs=0.15)  # AAC pads by up to two packets
    assert np.abs(samples[8000:12000]).max() == pytest.approx(LEVEL, rel=0.1)


def test_programs_are_no_recordings() -> None:
    assert not AUDIO_SUFFIXES & {".ts", ".mts", ".py", ".json", ".txt"}
