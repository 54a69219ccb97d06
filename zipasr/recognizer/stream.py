"""`Stream`: samples of audio that is still coming in -> a transcript of the speech so far.

The final result of a stream is that of the same search on the whole recording, encoded under the same chunk mask with the
same padding (tests/recognizer/test_stream.py).
"""

import dataclasses
from typing import Any

from zipasr.audio.samples import SAMPLE_RATE_HZ
from zipasr.encoder.rates import FRAME_S_25HZ
from zipasr.recognizer.chunks import ChunkSizes
from zipasr.recognizer.endpoint import EndpointConfig, is_endpoint
from zipasr.recognizer.engine import Engine
from zipasr.recognizer.growing import GrowingTranscript
from zipasr.recognizer.incoming import IncomingAudio
from zipasr.search.graph import LoadedGraph
from zipasr.search.graph.rejection import judged
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.resumable import UtteranceSearch
from zipasr.search.search_config import UTTERANCE_METHODS
from zipasr.search.strategy import SearchConfig, make_prior
from zipasr.transcript import Transcript


class Stream(IncomingAudio):
    """A stream of audio, of one microphone for example; create it with `Recognizer.stream`.

    ```python
    stream = recognizer.stream()
    for samples in microphone:
        stream.accept_waveform(samples)
        stream.decode()
        print(stream.text)
        if stream.is_endpoint():
            keep(stream.result())
            stream.reset()
    keep(stream.finish())
    ```
    A server calls `Recognizer.decode_streams` instead of `decode`, for all its streams at once. Tokens have the times when
    they were emitted, up to a few tenths of a second after they were said.
    """

    def __init__(
        self,
        engine: Engine,
        search: SearchConfig,
        sizes: ChunkSizes,
        *,
        hotwords: HotwordGraph | None,
        graph: LoadedGraph | None,
        endpoint: EndpointConfig,
    ) -> None:
        """See `Recognizer.stream`; `search` is one that `resolve_search` has checked for streams."""
        super().__init__(engine, sizes)
        self.search_config, self.endpoint = search, endpoint
        self.search = engine.stream_search(search)
        self._of_utterances: UtteranceSearch[Any, Any] | None = self.search if search.method in UTTERANCE_METHODS else None
        self._graph = graph
        prior = make_prior(search, language_models=engine.language_models, hotwords=hotwords)
        self._search_state = self.search.start(prior if graph is None else graph.graph)
        self._ranked: list[Hypothesis] | None = None  # cached until the next chunk
        self._growing: list[GrowingTranscript] = []
        """The transcripts of the best hypotheses of the utterance."""
        self._segment_start_frame = 0
        self.segment = 0
        """Number of utterances with text that `reset` has ended."""

    def _has_advanced(self) -> None:
        self._ranked = None

    @property
    def text(self) -> str:
        """Text of the current utterance as far as it is decoded; later words may change earlier ones."""
        return self._transcribe(1)[0].text

    def result(self) -> Transcript:
        """Transcript of the current utterance as far as it is decoded.

        Until the utterance is over, by `is_endpoint` or the end of the input, searches in which several heads choose (joint,
        attention_rescoring) give what the first of them has found, and under a graph it may stop inside a phrase; then
        all heads have chosen, and it is a whole phrase, or nothing.

        Times are seconds from the start of the stream to the emission of a token; `duration_s` is the audio received since
        the start of the stream.
        """
        best, *others = self._transcribe(self.search_config.num_best)
        return dataclasses.replace(best, alternatives=tuple(others)) if others else best

    def _transcribe(self, num_best: int) -> list[Transcript]:
        """The transcripts of the best hypotheses."""
        duration_s = self._num_samples / (self._sample_rate_hz or SAMPLE_RATE_HZ)
        ranked = self._hypotheses()[:num_best]
        while len(self._growing) < len(ranked):
            calibration = self.engine.calibrations.get(self.search_config.method)
            self._growing.append(GrowingTranscript(self.engine.tokenizer, calibration, self._segment_start_frame))
        return [growing.update(hypothesis, duration_s) for growing, hypothesis in zip(self._growing, ranked, strict=False)]

    def _hypotheses(self) -> list[Hypothesis]:
        """The best hypotheses, judged under a graph; partial ones before the utterance is over, if the search has them."""
        if self._ranked is None:
            find = self.search.hypotheses
            if self._of_utterances is not None and not self._is_over():
                find = self._of_utterances.partial_hypotheses
            (ranked,) = find([self._search_state], self.search_config.num_best)
            self._ranked = ranked if self._graph is None else judged(ranked, self._graph)
        return self._ranked

    def _is_over(self) -> bool:
        """Whether no more audio will change the utterance: its input is decoded to the end, or it has an endpoint."""
        is_decoded = not self._is_open and not self.is_ready()
        return self._is_finished or is_decoded or self.is_endpoint()

    def is_endpoint(self) -> bool:
        """Whether the endpoint rules say that the utterance is over; nothing else changes until `reset`."""
        num_frames, search = self._search_state.num_frames, self._of_utterances
        frames = (search.speech_hypothesis(self._search_state) if search is not None else self._hypotheses()[0]).frames
        num_silent = num_frames - (frames[-1] + 1 if frames else 0)
        return is_endpoint(
            self.endpoint, trailing_silence_s=num_silent * FRAME_S_25HZ, utterance_length_s=num_frames * FRAME_S_25HZ
        )

    def reset(self) -> None:
        """Start another utterance at the current position, without a gap.

        The text, hotwords and language models start over. The model keeps its left context and the last labels, and audio
        that is not decoded yet belongs to the new utterance.

        Raises:
            RuntimeError: the stream is finished.
        """
        if self._is_finished:
            raise RuntimeError("a finished stream has no next utterance; start another with Recognizer.stream()")
        self.segment += bool(self.text)
        self._segment_start_frame += self._search_state.num_frames
        self._search_state = self.search.restart(self._search_state)
        self._ranked, self._growing = None, []

    def finish(self) -> Transcript:
        """End the input unless `input_finished` has, decode the rest, and return the last utterance.

        Raises:
            RuntimeError: the stream is finished already.
        """
        self._end("result() still has the last utterance")
        self._ranked = None
        return self.result()
