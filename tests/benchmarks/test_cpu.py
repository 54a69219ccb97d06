"""benchmarks/cpu.py. Run: every kind of work on small input. Contract: ratios are of one round; all cases are listed."""

from types import ModuleType

import pytest
import torch

from tests.conftest import REPOSITORY


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import cpu_cases

    return cpu_cases


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import cpu

    return cpu


@pytest.mark.parametrize("kind", ["encode", "encode_exported", "train_step"])
def test_work_on_utterances_repeats_itself(kind: str, cases: ModuleType) -> None:
    work = getattr(cases, kind)("tiny", 2, 1.0)
    assert cases.digest(work()) == cases.digest(work())


def test_work_on_streams_continues_them(cases: ModuleType) -> None:
    work = cases.encode_chunk("tiny", 2)
    first, second = work(), work()
    assert first[0].shape == second[0].shape == (2, cases._CHUNK_FRAMES_50HZ // 2, first[0].shape[2])
    assert cases.digest(first) != cases.digest(second)


def test_changes_reach_what_they_change(cases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from zipasr.encoder import frontend
    from zipasr.nn import attention

    for module, name in ((attention, "_BLOCK_ROWS"), (frontend, "_SLICE_FRAMES")):
        monkeypatch.setattr(module, name, getattr(module, name))
        assert getattr(module, name) < 1000
    precision = torch.get_float32_matmul_precision()
    try:
        for change in cases.CHANGES.values():
            change()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(precision)
    assert attention._BLOCK_ROWS == frontend._SLICE_FRAMES == 2**31


def test_figures_are_medians_and_ratios_those_of_rounds(cpu: ModuleType) -> None:
    def found(*times_ms: float, digest: str = "a") -> list[dict[str, object]]:
        return [{"processor_ms": time_ms, "wall_ms": 2 * time_ms, "digest": digest} for time_ms in times_ms]

    row = cpu.summarize(found(10.0, 90.0, 20.0, digest="b"), found(20.0, 100.0, 10.0))
    assert row == {
        "processor_ms": 20.0,
        "wall_ms": 40.0,
        "ratio": 0.9,
        "ratio_min": 0.5,
        "ratio_max": 2.0,
        "has_same_bits": False,
    }


def test_all_cases_are_known(cpu: ModuleType, cases: ModuleType) -> None:
    assert cpu.known_cases() == list(cases.CASES)
