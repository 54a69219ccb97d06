"""Whether sherpa-onnx with HLG.fst finds what our CTC search finds under the same grammar.

Run: `python benchmarks/hlg_sherpa.py MODEL EXPORTED GRAMMAR CUTS [--utterances 40]`, EXPORTED of `zipasr export MODEL`. Our
search pads no utterance here, as sherpa-onnx does not.
"""

import argparse
import tempfile
from pathlib import Path

import sherpa_onnx
import torch
from machine import origin, write

from zipasr.evaluate import read_cuts
from zipasr.model import AsrModel, resolve_model_folder
from zipasr.onnx_runtime import load
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.recognizer.graph_compilation import GraphSource, compile_graph
from zipasr.search.graph import load_graph
from zipasr.search.graph.folder import HLG_FILE, WORDS_FILE, read_symbols


def main() -> None:
    """Decode with both and count equal texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("exported", type=Path)
    parser.add_argument("grammar")
    parser.add_argument("cuts")
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    head = origin()
    torch.set_num_threads(1)
    model, tokenizer = AsrModel.load(resolve_model_folder(args.model))
    num_equal = num_right = 0
    utterances = list(read_cuts(args.cuts))[: args.utterances]
    with tempfile.TemporaryDirectory() as folder:
        report = compile_graph(args.model, GraphSource(grammar=args.grammar), folder, has_hlg=True)
        search = SearchConfig(method="ctc_graph")
        ours = Recognizer(
            model, tokenizer, search=search, graph=load_graph(folder, tokenizer), tail_padding_frames=0, use_true_times=False
        )
        sherpa = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
            model=str(args.exported / str(load(args.exported).scorer.config.files.ctc)),
            tokens=str(args.exported / "tokens.txt"),
            ctc_graph=str(Path(folder) / HLG_FILE),
        )
        symbols = read_symbols(Path(folder) / WORDS_FILE)
        for utterance in utterances:
            stream = sherpa.create_stream()
            stream.accept_waveform(16_000, utterance.samples)
            sherpa.decode_stream(stream)
            words = [symbols[i] for i in stream.result.words]
            found = " ".join(word for word in words if not word.startswith("{")).lower()
            num_equal += found == ours.transcribe(utterance.samples).text.lower()
            num_right += found == utterance.text.lower()
    figures = {"num": len(utterances), "equal": num_equal, "right": num_right, "hlg_arcs": report.hlg_arcs}
    print(figures)
    if args.json:
        write(args.json, head, figures)


if __name__ == "__main__":
    main()
