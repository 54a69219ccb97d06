"""Contract: weights beside a graph are found without reading the graph's own, and are opened only inside its folder."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import zipasr
from tests.onnx_runtime.small_graphs import model, offline_graph, random, write
from tests.tiny_model import noise
from zipasr.errors import CheckpointError
from zipasr.onnx_runtime import open_session
from zipasr.onnx_runtime.external_data import check_external_data, external_files


def moved_out(graph: onnx.ModelProto, location: str, **changes: str) -> bytes:
    """Name a file for the largest weights of a graph, in place, and return them."""
    tensor = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    content: bytes = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(len(content)), **changes}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return content


def folder_with(tmp_path: Path, location: str, **changes: str) -> tuple[Path, bytes]:
    """A folder with a CTC graph that names a file for its weights, and those."""
    graph = offline_graph(is_ctc=True)
    content = moved_out(graph, location, **changes)
    return write(tmp_path / "model", model=graph), content


@pytest.mark.parametrize("location", ["model.weights", "model.onnx.data", "a/model.onnx_data", "./model.weights"])
def test_weights_beside_a_graph_are_used(location: str, tmp_path: Path) -> None:
    folder, content = folder_with(tmp_path, location)
    (folder / location).parent.mkdir(exist_ok=True)
    (folder / location).write_bytes(content)
    inside = write(tmp_path / "inside", model=offline_graph(is_ctc=True))
    assert zipasr.load(folder).transcribe(noise(1.0)) == zipasr.load(inside).transcribe(noise(1.0))
    assert external_files(folder / "model.onnx") == {location: len(content)}


@pytest.mark.parametrize(
    "location", ["../secret", "a/../../secret", "/etc/passwd", "C:\\secret", "\\\\server\\secret", "..", ""]
)
def test_weights_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    folder, content = folder_with(tmp_path, location)
    (tmp_path / "secret").write_bytes(content)
    (folder / "a").mkdir()
    with pytest.raises(CheckpointError, match="must lie inside"):
        zipasr.load(folder)


@pytest.mark.parametrize("name", ["model.weights", "linked/model.weights"])
def test_links_out_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    folder, content = folder_with(tmp_path, name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.weights").write_bytes(content)
    link, target = (folder / name, elsewhere / name) if "/" not in name else (folder / "linked", elsewhere)
    link.symlink_to(target)
    with pytest.raises(CheckpointError, match="must lie inside"):
        zipasr.load(folder)


def snapshot(tmp_path: Path, repository: str) -> tuple[Path, bytes]:
    """A snapshot as the hub's client keeps it, with links into blobs/, but for the weights."""
    source, content = folder_with(tmp_path, "model.weights")
    root = tmp_path / repository
    folder = root / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (root / "blobs").mkdir()
    for path in source.iterdir():
        (root / "blobs" / f"hash-{path.name}").write_bytes(path.read_bytes())
        (folder / path.name).symlink_to(Path("../../blobs") / f"hash-{path.name}")
    return folder, content


def test_a_snapshot_of_the_hub_may_link_into_its_blobs(tmp_path: Path) -> None:
    folder, content = snapshot(tmp_path, "models--owner--name")
    blobs = folder.parents[1] / "blobs"
    (blobs / "hash").write_bytes(content)
    (folder / "model.weights").symlink_to("../../blobs/hash")
    assert zipasr.load(folder).transcribe(noise(1.0)).text
    (folder / "model.weights").unlink()
    other = tmp_path / "models--other--name" / "blobs"
    other.mkdir(parents=True)
    (other / "hash").write_bytes(content)
    (folder / "model.weights").symlink_to(other / "hash")
    with pytest.raises(CheckpointError, match="must lie inside"):
        zipasr.load(folder)


def test_only_the_hubs_cache_may_do_so(tmp_path: Path) -> None:
    folder, content = snapshot(tmp_path, "name")
    (folder.parents[1] / "blobs" / "hash").write_bytes(content)
    (folder / "model.weights").symlink_to("../../blobs/hash")
    with pytest.raises(CheckpointError, match="must lie inside"):
        zipasr.load(folder)


def test_missing_and_short_weights_are_named(tmp_path: Path) -> None:
    folder, content = folder_with(tmp_path, "model.weights")
    with pytest.raises(CheckpointError, match=r"weights in model\.weights, but there is no such file"):
        zipasr.load(folder)
    weights = folder / "model.weights"
    weights.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=f"must have {len(content)} bytes or more"):
        zipasr.load(folder)
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        zipasr.load(folder)


@pytest.mark.parametrize("changes", [{"offset": "-1"}, {"length": "many"}, {"offset": "9" * 30}])
def test_places_that_are_no_numbers_are_refused(changes: dict[str, str], tmp_path: Path) -> None:
    folder, content = folder_with(tmp_path, "model.weights", **changes)
    (folder / "model.weights").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged: the (offset|length)"):
        zipasr.load(folder)


def constants_in(where: str) -> onnx.ModelProto:
    """A graph with weights in another file, in one of the places that a message may have them."""
    tensor = numpy_helper.from_array(random(4, 4), "weight")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret"
    plain = numpy_helper.from_array(np.array(True), "condition")
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])
    inner = helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "inner", [], [value])
    nodes = {
        "attribute": helper.make_node("Constant", [], ["y"], value=tensor),
        "branch": helper.make_node("If", ["condition"], ["y"], then_branch=inner, else_branch=inner),
        "initializer": helper.make_node("Identity", ["weight"], ["y"]),
    }
    made = model([nodes[where]], [], [("y", TensorProto.FLOAT, (4, 4))], {}, {})
    made.graph.initializer.append(plain)
    if where == "initializer":
        made.graph.initializer.append(tensor)
    return made


@pytest.mark.parametrize("where", ["attribute", "branch", "initializer"])
def test_weights_are_found_wherever_they_are(where: str, tmp_path: Path) -> None:
    onnx.save(constants_in(where), tmp_path / "graph.onnx")
    assert external_files(tmp_path / "graph.onnx") == {"../secret": 0}
    with pytest.raises(CheckpointError, match="must lie inside"):
        check_external_data(tmp_path / "graph.onnx", tmp_path)


def test_real_graphs_are_read_to_their_end(tmp_path: Path) -> None:
    folder = write(tmp_path, model=offline_graph(is_ctc=True, step=16))
    assert external_files(folder / "model.onnx") == {}
    whole = (folder / "model.onnx").read_bytes()
    for content, reason in (
        (whole[:-1], "ends too early"),
        (whole[: len(whole) // 2], "ends too early"),
        (b"", "is empty"),
        (b"\x0b" * 200, "no message of ONNX"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ):
        (folder / "model.onnx").write_bytes(content)
        with pytest.raises(CheckpointError, match=reason):
            zipasr.load(folder)


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_refused_and_never_crashes(seed: int, tmp_path: Path) -> None:
    folder = write(tmp_path, model=offline_graph(is_ctc=True))
    path, generator = folder / "model.onnx", np.random.default_rng(seed)
    whole = path.read_bytes()
    for _ in range(40):
        content = bytearray(whole)
        for place in generator.integers(0, len(content), 3):
            content[place] = generator.integers(0, 256)
        path.write_bytes(bytes(content))
        try:
            files = external_files(path)
        except CheckpointError:
            continue
        assert all(isinstance(location, str) and size >= 0 for location, size in files.items())


def test_nesting_is_bounded(tmp_path: Path) -> None:
    content = b""
    for number in (*[6, 5, 1] * 400, 7):  # graph in attribute in node in graph ...
        content = bytes([number << 3 | 2]) + _varint(len(content)) + content
    (tmp_path / "deep.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match="must be a complete ONNX graph"):
        external_files(tmp_path / "deep.onnx")


def _varint(value: int) -> bytes:
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def test_a_large_graph_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to look for weights elsewhere, nor to open it: onnxruntime gets the path."""
    folder = write(tmp_path, model=offline_graph(is_ctc=True))
    opened, read = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path}") if path.suffix == ".onnx" else read(path))
    monkeypatch.setattr(
        "zipasr.onnx_runtime.graph.open_session",
        lambda source, **rest: opened.append(source) or open_session(source, **rest),
    )
    zipasr.load(folder)
    assert [os.fspath(source) for source in opened] == [str(folder / "model.onnx")]
