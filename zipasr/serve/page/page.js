// The page: a recording or the microphone in, words with times and confidence out.

import { itemsOf } from "./alternatives.js";
import { connect, record, toInt16, toWav } from "./live.js";
import { Player } from "./player.js";
import { UNREACHABLE } from "./refusals.js";
import { save } from "./saving.js";
import { checkFile, durationOf, send } from "./sending.js";
import { admitFirstWord, linesOf, minutes, watchWords } from "./words.js";

const $ = (id) => document.getElementById(id);
const HOW_TO_READ = "Select a word to hear it. A stronger tint means lower confidence.";
const EXAMPLE_S = 8;
const NUM_BEST = 4; // the default beam: a wider one may find another best hypothesis
const NOTHING = { name: "", duration: 0, texts: [], segments: [], words: [], file: null };
const state = {
  server: { model: "", can_stream: false, max_upload_mb: Infinity, max_audio_s: Infinity, max_num_best_s: 0 },
  isBusy: false, cancel: null, stopRecording: null, request: "", transcript: NOTHING, cancelAlternatives: null,
};
const key = () => sessionStorage.getItem("key") ?? "";
const player = new Player($("player"), $("lines"), () => {
  $("player-note").textContent = "– this browser cannot play such a file, so its words cannot be heard here";
});

function showError(message, detail = "") {
  $("error-message").textContent = message;
  $("error-detail").textContent = detail && `The server says: ${detail}`;
  $("error").hidden = !message;
}

function showWork(label, part) {
  $("work").hidden = !label;
  if ($("work-label").textContent !== (label ?? "")) $("work-label").textContent = label ?? "";
  if (part === undefined) $("progress").removeAttribute("value");
  else $("progress").value = part;
}

/** One thing at a time: controls that would start another one are disabled. */
function showState() {
  const isRecording = state.stopRecording !== null;
  $("file").disabled = $("example").disabled = state.isBusy;
  $("microphone").disabled = state.isBusy && !isRecording;
  $("drop").classList.toggle("is-off", state.isBusy);
  $("microphone").classList.toggle("is-live", isRecording);
  $("microphone-label").textContent = isRecording ? "Stop" : "Speak";
  const hint = state.server.can_stream ? "see the text as you speak" : "see the text when you stop";
  $("microphone-hint").textContent = isRecording ? state.request || "recording …" : hint;
}

/** Run an action that takes a while; others are refused meanwhile. */
async function busy(action) {
  if (state.isBusy) return showError("A transcription is running. Wait until it is done, or cancel it, then try again.");
  state.isBusy = true;
  showError("");
  showState();
  try {
    await readServer().catch(() => {}); // it may have been restarted with another model; the action tells if it is gone
    await action();
  } catch (error) {
    if (error.status === 401) $("key-form").hidden = false;
    showError(error.message, error.detail);
  } finally {
    Object.assign(state, { isBusy: false, cancel: null, stopRecording: null, request: "" });
    showWork(null);
    showPartial();
    showState();
  }
}

function inWords(seconds) {
  const [number, unit] = seconds % 3600 === 0 ? [seconds / 3600, "hour"] : seconds % 60 === 0 ? [seconds / 60, "minute"] : [seconds, "second"];
  return `${number} ${unit}${number === 1 ? "" : "s"}`;
}

/** What the server is now: its model and its limits. */
async function readServer() {
  const health = await (await fetch("health")).json();
  if (!health.model) throw new Error(UNREACHABLE); // a proxy answered
  state.server = health;
  $("accepted").textContent =
    "Accepted are audio and video of nearly every format (WAV, MP3, M4A, FLAC, Ogg, Opus, WebM, MP4 …) " +
    `up to ${health.max_upload_mb} MB and ${inWords(health.max_audio_s)}.`;
  $("model").textContent = health.model;
  document.title = `${health.model} – zipasr`;
  showState();
}

// The transcript: final lines, and under them text that may still change

function startTranscript(name, isLive) {
  player.unload();
  closeAlternatives();
  state.transcript = { ...NOTHING, name, texts: [], segments: [], words: [] };
  $("lines").setAttribute("aria-live", isLive ? "polite" : "off"); // a screen reader would read a whole recording at once
  $("lines").replaceChildren();
  $("result").hidden = $("actions").hidden = true;
  $("detail").textContent = $("source-duration").textContent = $("player-note").textContent = "";
  $("source-name").textContent = name;
  $("status").textContent = isLive ? "Recording." : `Transcribing ${name}.`;
}

/** From the first result on, the controls above it take less room. */
function showResult() {
  $("result").hidden = false;
  $("start").hidden = true;
  $("main").classList.add("has-result");
}

function addLines(answer) {
  const { texts, segments, words } = state.transcript, last = segments.at(-1);
  if (last && answer.segments.length) last.end = Math.min(last.end, answer.segments[0].start);
  texts.push(answer.text.trim());
  segments.push(...answer.segments);
  words.push(...answer.words);
  $("lines").append(...linesOf(answer, "final"));
  admitFirstWord($("lines"));
  showResult();
}

function showPartial(...lines) {
  $("partial").replaceChildren(...lines);
  if (lines.length) showResult();
}

function finishTranscript(file, duration) {
  const { segments, words } = state.transcript;
  Object.assign(state.transcript, { file, duration });
  showResult();
  player.load(file);
  $("source-duration").textContent = minutes(duration);
  $("actions").hidden = !segments.length;
  $("detail").textContent = segments.length ? HOW_TO_READ : "No speech was recognized.";
  $("status").textContent = `The transcript is ready: ${words.length} ${words.length === 1 ? "word" : "words"}.`;
  const isFocusLost = [document.body, $("cancel")].includes(document.activeElement); // controls were disabled or hidden
  if (isFocusLost) $("result-title").focus();
}

// Recordings

async function transcribe(file) {
  await checkFile(file, state.server.max_upload_mb);
  const labeled = (what) => `${what} ${file.name}`;
  let duration = NaN, isTooLong = false, finalText = null;
  startTranscript(file.name, false);
  showWork(labeled("Uploading"), 0);
  const { answer, cancel } = send(file, state.server.model, key(), {
    sent: (part) => showWork(labeled("Uploading"), part),
    done: (seconds) => {
      const of = duration ? ` of ${minutes(duration)}` : "";
      showWork(labeled("Transcribing") + (seconds ? `: ${minutes(seconds)}${of} done` : ""), seconds && duration ? Math.min(seconds / duration, 1) : undefined);
    },
    text: (text) => {
      finalText ??= document.createElement("p");
      finalText.textContent = text;
      showPartial(finalText);
    },
  });
  state.cancel = cancel;
  durationOf(file).then((seconds) => {
    duration = seconds;
    isTooLong = seconds > state.server.max_audio_s;
    if (isTooLong) cancel();
  });
  const found = await answer;
  if (isTooLong) {
    throw new Error(`${file.name} lasts ${minutes(duration)}, but this server accepts at most ${inWords(state.server.max_audio_s)}. Split it into parts.`);
  }
  if (!found) return void ($("result").hidden = true); // cancelled
  showPartial();
  if (found.text) addLines(found);
  finishTranscript(file, found.duration);
}

// The microphone

/** A recorder for the microphone, which starts a new transcript: how to stop it, and what it has recorded so far. */
async function startRecorder(onSamples) {
  const blocks = [];
  $("player").pause(); // or it would be recorded
  const stop = await record((samples) => {
    blocks.push(toInt16(samples));
    onSamples(samples);
  });
  startTranscript("microphone", true);
  return { stop, file: () => toWav(blocks), duration: () => blocks.reduce((sum, block) => sum + block.length, 0) / 16000 };
}

/** Call `stop` when a person stops the recording, or after some seconds; returns a function that forgets the latter. */
function stopWhenAsked(stop, maxS) {
  const timer = maxS && setTimeout(() => state.stopRecording?.(), maxS * 1000);
  state.stopRecording = stop;
  showState();
  return () => clearTimeout(timer);
}

async function transcribeLive(maxS) {
  let connection = null; // opened when the microphone is: a server disconnects a client that waits long for its person
  const recorder = await startRecorder((samples) => connection?.send(samples.buffer));
  connection = connect(key(), (result) => {
    const answer = { text: result.text, words: result.timed_words, segments: result.timed_segments };
    if (result.is_final && result.timed_segments.length) addLines(answer);
    if (result.is_final) return showPartial();
    const whole = [{ start: result.timed_words[0]?.start ?? result.start_time, text: result.text }];
    return showPartial(...(result.text.trim() ? linesOf({ ...answer, segments: whole }, "partial") : []));
  });
  const forget = stopWhenAsked(async () => {
    await recorder.stop();
    connection.finish();
  }, maxS);
  try {
    await connection.ended;
  } catch (error) {
    await recorder.stop();
    if (state.transcript.segments.length) finishTranscript(recorder.file(), recorder.duration()); // keep the text so far
    throw error;
  } finally {
    forget();
    await recorder.stop();
  }
  finishTranscript(recorder.file(), recorder.duration());
}

async function recordThenTranscribe(maxS) {
  const recorder = await startRecorder(() => {});
  await new Promise((resolve) => stopWhenAsked(resolve, maxS));
  state.stopRecording = null;
  showState();
  await recorder.stop();
  if (recorder.duration()) await transcribe(recorder.file());
}

const listen = (maxS = 0) => busy(() => (state.server.can_stream ? transcribeLive : recordThenTranscribe)(maxS));

$("microphone").addEventListener("click", () => {
  if (state.stopRecording) return void state.stopRecording();
  return void listen();
});
$("example").addEventListener("click", () => {
  if (!state.isBusy) state.request = "count aloud to ten …";
  listen(EXAMPLE_S);
});

// Alternatives

function closeAlternatives() {
  state.cancelAlternatives?.();
  state.cancelAlternatives = null;
  $("others").hidden = true;
  $("alternatives").setAttribute("aria-expanded", "false");
}

/** The other hypotheses, for which the server searches again; a recording that it cuts into pieces has none. */
async function findAlternatives({ file, duration, texts }) {
  await readServer().catch(() => {});
  const longest = state.server.max_num_best_s;
  if (duration > longest) {
    return [`Only recordings up to ${inWords(longest)} have alternatives; this one, of ${minutes(duration)}, is transcribed in pieces.`, []];
  }
  await checkFile(file, state.server.max_upload_mb); // it may have been moved meanwhile
  const { answer, cancel } = send(file, state.server.model, key(), {}, NUM_BEST);
  state.cancelAlternatives = cancel;
  const found = await answer;
  if (!found) return null;
  const shown = texts.join(" "), all = [found.text, ...found.alternatives.map(({ text }) => text)];
  const others = [...new Set(all)].filter((text) => text && text !== shown);
  return [others.length ? "What the recognizer considered too, the most probable first:" : "The recognizer found nothing else.", itemsOf(others, shown)];
}

$("alternatives").addEventListener("click", async () => {
  if (!$("others").hidden) return closeAlternatives();
  $("others").hidden = false;
  $("alternatives").setAttribute("aria-expanded", "true");
  $("others-note").textContent = "Looking for alternatives …";
  $("others-list").replaceChildren();
  const { transcript } = state;
  const [note, items] = (await findAlternatives(transcript).catch((error) => [error.message, []])) ?? [];
  if (!items || transcript !== state.transcript) return; // cancelled
  state.cancelAlternatives = null;
  $("others-note").textContent = note;
  $("others-list").replaceChildren(...items);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const isInAlternatives = document.activeElement === $("alternatives") || $("others").contains(document.activeElement);
  if (isInAlternatives && !$("others").hidden) {
    closeAlternatives();
    $("alternatives").focus();
  } else $("player").pause();
});

// Files in and out

$("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (file) busy(() => transcribe(file));
});
for (const [name, isOver] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("is-over", isOver && !state.isBusy);
    const files = name === "drop" ? [...event.dataTransfer.files] : [];
    if (files.length > 1) return showError("Drop one recording at a time.");
    if (files.length) busy(() => transcribe(files[0]));
  });
}
$("cancel").addEventListener("click", () => state.cancel?.());
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const entered = $("key").value.trim(); // it may have been pasted with a space
  if (!/^[\x20-\x7e]+$/.test(entered)) return showError("An API key has only ASCII characters. Enter it again.");
  sessionStorage.setItem("key", entered);
  $("key-form").hidden = true;
  return showError("");
});

for (const [id, ending] of [["save-srt", "srt"], ["save-vtt", "vtt"], ["save-json", "json"], ["save-text", "txt"]]) {
  $(id).addEventListener("click", () => save(state.transcript, ending));
}
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(state.transcript.texts.join("\n"));
    $("copy").textContent = "Copied";
    setTimeout(() => ($("copy").textContent = "Copy"), 1500);
  } catch {
    showError("The browser did not let this page copy. Select the text and copy it yourself.");
  }
});

watchWords($("transcript"), $("detail"), (word) => player.playFrom(word));
$("api").textContent = new URL("v1", document.baseURI).href;
readServer().then(
  () => ($("key-form").hidden = !state.server.needs_key || key() !== ""),
  () => showError(UNREACHABLE),
);
