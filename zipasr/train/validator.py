"""What rank 0 of a run does at each validation: average the model, measure it on dev, write it and its default search."""

from pathlib import Path

import torch

from zipasr.checkpoint import CHECKSUMS, CheckpointFolder, write_folder
from zipasr.errors import CheckpointError
from zipasr.lm.ngram import NgramModel, TokenNgram
from zipasr.lm.ngram_file import ngram_to_bytes
from zipasr.model import MODEL_SUBFOLDER, WEIGHTS_FILE, AsrModel
from zipasr.nn.lora import merged_copy, merged_state_dict
from zipasr.search.comparison import explain_differences
from zipasr.search.default_search import SEARCH_FILES, read_default_search, search_files
from zipasr.train.metrics import RunLog
from zipasr.train.setup import RunSetup
from zipasr.train.state import TrainState, best_folders, keep_best, validation_wer
from zipasr.train.validation import Validation, is_chosen_by_training, text_ngram, validate

_LEARNED_WER = 50.0
"""Percent. While every search is above this, the model has learned too little for their differences to mean anything."""


class Validator:
    """Validates the models of one run and writes them into its folder."""

    def __init__(self, setup: RunSetup, state: TrainState, log: RunLog) -> None:
        """Prepare a copy of the model; `state` is the run's, which changes."""
        self.setup, self.state, self.log = setup, state, log
        self.last: Validation | None = None
        self._written: Validation | None = None
        # Creating a new model would advance the random state that a resumed run has just restored.
        self._model = merged_copy(state.model).eval()
        self._texts = {cut.id: cut.supervisions[0].text for cut in setup.data.dev}
        self._has_warned = False
        self._first_step = state.position.num_steps
        self._ngram, self._ngram_file = None, None
        if (graph := text_ngram(setup.config, setup.data.epoch_texts(), setup.tokenizer)) is not None:
            self._ngram, self._ngram_file = TokenNgram(NgramModel(graph), setup.tokenizer), ngram_to_bytes(graph)

    def validate(self, *, is_last: bool = False) -> None:
        """Average the model, evaluate it on dev and write it to `model/`, and among the best to `best/`.

        The last time, `choose` writes it to `model/`.
        """
        setup, model, out = self.setup, self._model, self.setup.out
        b = self.state.position.num_steps
        model.load_state_dict(merged_state_dict(self.state.model) | setup.span.averaged_weights(self.state))
        found = self._evaluated()
        metrics = found.metrics
        if not is_last:
            self._write_model(found)
        keep_best(out, model, setup.tokenizer, metrics, b, setup.config.keep_best, beside=self._search_files(found))
        searches = {str(result.search): round(result.wer, 4) for result in found.searches}
        self.log.line("dev", b, {**metrics, "search": str(found.best.search), "searches": searches})
        self.log.message(
            f"batch {b}, epoch {self.state.position.epoch}: dev "
            + ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
            + f", best search {found.best.search}"
        )
        findings = self.findings()
        if findings and not self._has_warned and found.best.wer < _LEARNED_WER:
            self._has_warned = True
            self.log.message("\n".join(f"note: {finding}" for finding in findings))

    def choose(self) -> dict[str, float]:
        """At the end, write the model of the run (`TrainConfig.selection`); returns its metrics."""
        found = self._chosen()
        if found is not self._written:
            self._write_model(found)
        return found.metrics

    def _chosen(self) -> Validation:
        """Load the model with the lowest error rate, if configured so, and measure it; else the last validation."""
        assert self.last is not None
        if self.setup.config.selection == "last":
            return self.last
        last_wer, folders = self.last.metrics["wer"], best_folders(self.setup.out)
        rates = {number: validation_wer(folder) for number, folder in folders.items()}
        better = [number for number in rates if rates[number] < last_wer]
        for number in sorted(better, key=lambda number: (rates[number], -number)):
            try:
                self._model.load_state_dict(AsrModel.load(folders[number])[0].state_dict())
            except CheckpointError as error:
                self.log.message(f"{folders[number]} is damaged, so it cannot become the model of the run: {error}")
                continue
            self.log.message(
                f"the model of batch {number} has a lower error rate on dev than that of batch "
                f"{self.state.position.num_steps}, {rates[number]:.2f} % and {last_wer:.2f} %; it becomes the model of the "
                "run"
            )
            return self._evaluated()
        return self.last

    def findings(self) -> tuple[str, ...]:
        """Findings from the differences between the searches of the last validation."""
        head = self.setup.config.model.transducer
        lattice = head.lattice if head is not None else None
        return tuple(explain_differences(self.last.searches, lattice=lattice)) if self.last is not None else ()

    def _evaluated(self) -> Validation:
        """The copy of the model, measured on dev."""
        setup = self.setup
        self.last = validate(
            self._model,
            setup.dev_batches,
            self._texts,
            setup.tokenizer,
            setup.device,
            setup.config.search,
            self._ngram,
        )
        return self.last

    def _search_files(self, found: Validation) -> dict[str, bytes]:
        """The default search of a model, and the n-gram that it may use."""
        return search_files(found.best.search, found.searches, chosen_on=found.what, ngram=self._ngram_file)

    def _write_model(self, found: Validation) -> None:
        """Write the model to `model/` together with its default search, so that no kill leaves one without the other."""
        folder = self.setup.out / MODEL_SUBFOLDER
        documents, tensors, blobs = self._model.to_files(self.setup.tokenizer)
        saved = self._saved_by_users(folder)
        if saved:
            self.log.message(
                f"{folder} holds the same model already; what was saved there stays: {', '.join(sorted(saved))}"
            )
        beside = self._search_files(found) | saved
        write_folder(folder, documents=documents, tensors=tensors, blobs=blobs, replaceable=beside)
        self._written = found

    def _saved_by_users(self, folder: Path) -> dict[str, bytes]:
        """What others than training saved beside a model, if the command of a finished run is repeated; else nothing.

        They are calibrations, and a default search that training did not choose, with its n-gram.
        """
        if self.state.position.num_steps != self._first_step:
            return {}
        try:
            files, own = CheckpointFolder(folder), self._model.state_dict()
            known = files.tensors(WEIGHTS_FILE)
            if known.keys() != own.keys() or not all(torch.equal(known[name], own[name].cpu()) for name in own):
                return {}
            search = read_default_search(folder)
        except CheckpointError:
            return {}
        checked = {CHECKSUMS, *files.names()}
        if search is not None and is_chosen_by_training(search):
            checked |= {*SEARCH_FILES}
        others = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        return {path.name: path.read_bytes() for path in others if path.name not in checked}
