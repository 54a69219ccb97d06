"""Contract: graphs have the names, axes and metadata that sherpa-onnx requires, agree with PyTorch, and are written
atomically."""

import dataclasses
from pathlib import Path

import onnx
import pytest
import torch

from tests.export.models import causal_model, random_model
from tests.export.signatures import FLOAT, INT64, metadata, signature
from tests.tiny_model import tiny_asr_model, tiny_tokenizer
from zipasr.baselines import ConformerConfig
from zipasr.errors import ConfigError, ExportError
from zipasr.export import ExportReport, export_model
from zipasr.export import onnx as export_onnx
from zipasr.export.offline import offline_graphs
from zipasr.export.scan import names_read
from zipasr.export.trace import check, compare
from zipasr.features import FbankConfig
from zipasr.model import AsrConfig, AsrModel
from zipasr.onnx_runtime import is_exported


def test_files(report: ExportReport) -> None:
    names = {path.name for path in report.folder.iterdir()}
    graphs = {"encoder.onnx", "decoder.onnx", "joiner.onnx", "model.onnx", "ctc_head.onnx"}
    assert names == graphs | {"tokens.txt", "bpe.vocab", "tokenizer.model", "README.md", "export.json", "checksums.json"}
    assert is_exported(report.folder)
    assert report.num_bytes == sum((report.folder / name).stat().st_size for name in graphs)
    lines = (report.folder / "tokens.txt").read_text().splitlines()
    assert lines[:3] == ["<blk> 0", "<sos/eos> 1", "<unk> 2"]
    assert len(lines) == tiny_tokenizer().vocab_size


def test_readme_names_files_that_are_there(report: ExportReport) -> None:
    text = (report.folder / "README.md").read_text()
    for name in vars(report.config.files).values():
        assert name in text
    assert "--encoder=encoder.onnx" in text
    assert "--zipformer-ctc-model=model.onnx" in text


def test_encoder(report: ExportReport) -> None:
    model = onnx.load(report.folder / "encoder.onnx")
    assert signature(model.graph.input) == [("x", FLOAT, ["N", "T", 80]), ("x_lens", INT64, ["N"])]
    assert signature(model.graph.output) == [
        ("encoder_out", FLOAT, ["N", "T_out", 128]),
        ("encoder_out_lens", INT64, ["N"]),
    ]
    assert metadata(model) == {
        "model_type": "zipformer2",
        "version": "1",
        "model_author": "k2-fsa",
        "comment": "non-streaming zipformer2",
    }


def test_decoder_and_joiner(report: ExportReport) -> None:
    vocab_size = tiny_tokenizer().vocab_size
    decoder, joiner = (onnx.load(report.folder / f"{name}.onnx") for name in ("decoder", "joiner"))
    assert signature(decoder.graph.input) == [("y", INT64, ["N", 2])]
    assert signature(decoder.graph.output) == [("decoder_out", FLOAT, ["N", 128])]
    assert metadata(decoder) == {"vocab_size": str(vocab_size), "context_size": "2"}
    assert signature(joiner.graph.input) == [("encoder_out", FLOAT, ["N", 128]), ("decoder_out", FLOAT, ["N", 128])]
    assert signature(joiner.graph.output) == [("logit", FLOAT, ["N", vocab_size])]
    assert metadata(joiner) == {"joiner_dim": "128"}


def test_ctc(report: ExportReport) -> None:
    model = onnx.load(report.folder / "model.onnx")
    assert signature(model.graph.output) == [
        ("log_probs", FLOAT, ["N", "T_out", tiny_tokenizer().vocab_size]),  # sherpa-onnx gets V from this axis
        ("log_probs_len", INT64, ["N"]),
    ]
    assert metadata(model)["model_type"] == "zipformer2_ctc"
    used = {name for node in model.graph.node for name in names_read(node)}
    assert {tensor.name for tensor in model.graph.initializer} <= used  # without the projection of the joiner


def test_graphs_hold_no_names_of_this_machine(report: ExportReport) -> None:
    for path in report.folder.glob("*.onnx"):
        content = path.read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in content
        assert b"site-packages" not in content


@pytest.mark.parametrize("heads", [{"has_ctc": False}, {"has_transducer": False}], ids=["transducer", "ctc"])
def test_one_head(heads: dict[str, bool], tmp_path: Path) -> None:
    model = random_model(**heads)
    if model.transducer is not None:
        model = AsrModel(
            dataclasses.replace(model.config, transducer=dataclasses.replace(model.config.transducer, context_size=1))
        )  # type: ignore[arg-type]
    report = export_model(model.save(tmp_path / "model", tiny_tokenizer()), tmp_path / "out")
    graphs = {path.stem for path in report.folder.glob("*.onnx")}
    assert graphs == ({"model"} if model.transducer is None else {"encoder", "decoder", "joiner"})
    assert max(report.differences.values()) < 1e-5


def test_a_causal_model_without_chunks() -> None:
    _, differences = export_onnx.make_graphs(offline_graphs(causal_model()))
    assert max(differences.values()) < 1e-5


def weight_bytes(folder: Path) -> int:
    """Size of all weights of the graphs in a folder."""
    graphs = [onnx.load(path).graph for path in folder.glob("*.onnx")]
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for graph in graphs for tensor in graph.initializer)


def test_half_precision(model_dir: Path, report: ExportReport, tmp_path: Path) -> None:
    half = export_model(model_dir, tmp_path / "half", precision="float16")
    assert half.config.files.encoder == "encoder.fp16.onnx"
    assert weight_bytes(half.folder) < 0.6 * weight_bytes(report.folder)
    assert half.num_bytes < 0.65 * report.num_bytes  # the graph itself takes a tenth of a model this small
    model = onnx.load(half.folder / "encoder.fp16.onnx")
    assert [entry[1] for entry in signature(model.graph.input)] == [FLOAT, INT64]
    assert [entry[1] for entry in signature(model.graph.output)] == [FLOAT, INT64]
    assert 1e-5 < half.differences["encoder"] < 0.01


def test_a_graph_that_differs_is_refused_and_nothing_written(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="must agree with PyTorch within 1e-12"):
        export_model(model_dir, tmp_path / "out", tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_weight_is_found(report: ExportReport) -> None:
    graph = offline_graphs(random_model())["joiner"]
    model = onnx.load(report.folder / "joiner.onnx")
    assert compare(model, graph) < 1e-5
    weight = model.graph.initializer[0]
    changed = onnx.numpy_helper.to_array(weight).copy()
    changed.flat[0] += 1.0
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    with pytest.raises(ExportError, match="joiner"):
        check(model, graph, tolerance=1e-4)


def test_outputs_that_are_not_finite_are_refused(report: ExportReport) -> None:
    graph = offline_graphs(random_model())["joiner"]
    graph = dataclasses.replace(graph, expected=lambda frames, contexts: [torch.full((len(frames), 48), float("nan"))])
    assert compare(onnx.load(report.folder / "joiner.onnx"), graph) == float("inf")


def test_earlier_export_is_replaced_but_nothing_else(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        export_model(model_dir, tmp_path)
    with pytest.raises(ConfigError, match="holds something else"):
        export_model(model_dir, model_dir)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_other_encoders_and_features_are_refused() -> None:
    conformer = ConformerConfig(channels=32, num_layers=1, num_heads=2, feedforward=32)
    with pytest.raises(ConfigError, match="Zipformer, but this encoder is a Conformer"):
        offline_graphs(AsrModel(AsrConfig(encoder=conformer)))
    config = dataclasses.replace(tiny_asr_model().config, features=FbankConfig(high_freq_hz=7000.0))
    with pytest.raises(ConfigError, match="published filterbank"):
        offline_graphs(AsrModel(config))
