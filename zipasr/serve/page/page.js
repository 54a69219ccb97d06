// The page: a recording or the microphone in, words with times and confidence out.

import { connect, record, toWav } from "./live.js";
import { UNREACHABLE, durationOf, send } from "./sending.js";
import { admitFirstWord, linesOf, minutes, toSrt, toText, watchWords } from "./words.js";

const $ = (id) => document.getElementById(id);
const HOW_TO_READ = "A stronger tint means lower confidence. Select a word to see its time.";
const state = { model: "", canStream: false, isBusy: false, cancel: null, stopRecording: null, segments: [], name: "transcript" };
const key = () => sessionStorage.getItem("key") ?? "";

function showError(message) {
  $("error").textContent = message;
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
  $("file").disabled = state.isBusy;
  $("microphone").disabled = state.isBusy && !isRecording;
  $("drop").classList.toggle("is-off", state.isBusy);
  $("microphone").setAttribute("aria-pressed", String(isRecording));
  $("microphone-label").textContent = isRecording ? "Stop" : "Speak";
  const hint = state.canStream ? "see the text as you speak" : "see the text when you stop";
  $("microphone-hint").textContent = isRecording ? "recording …" : hint;
}

/** Run an action that takes a while; others are refused meanwhile. */
async function busy(action) {
  if (state.isBusy) return showError("A transcription is running. Wait until it is done, or cancel it, then try again.");
  state.isBusy = true;
  showError("");
  showState();
  try {
    await action();
  } catch (error) {
    if (error.status === 401) $("key-form").hidden = false;
    showError(error.message);
  } finally {
    Object.assign(state, { isBusy: false, cancel: null, stopRecording: null });
    showWork(null);
    showPartial();
    showState();
  }
}

async function showServer() {
  try {
    const health = await (await fetch("health")).json();
    state.model = health.model;
    state.canStream = health.can_stream;
    $("model").textContent = health.model;
    document.title = `${health.model} – zipasr`;
    $("key-form").hidden = !health.needs_key || key() !== "";
    showState();
  } catch {
    showError(UNREACHABLE);
  }
}

// The transcript: final lines, and under them text that may still change

function startTranscript(isLive) {
  state.segments = [];
  $("lines").setAttribute("aria-live", isLive ? "polite" : "off"); // a screen reader would read a whole recording at once
  $("lines").replaceChildren();
  $("result").hidden = $("actions").hidden = true;
  $("detail").textContent = $("status").textContent = "";
}

function addLines(answer) {
  state.segments.push(...answer.segments);
  $("lines").append(...linesOf(answer, "final"));
  admitFirstWord($("lines"));
  $("result").hidden = false;
}

function showPartial(...lines) {
  $("partial").replaceChildren(...lines);
  if (lines.length) $("result").hidden = false;
}

function finishTranscript() {
  const numWords = $("lines").querySelectorAll(".word").length;
  $("result").hidden = false;
  $("actions").hidden = !state.segments.length;
  $("detail").textContent = state.segments.length ? HOW_TO_READ : "No speech was recognized.";
  $("status").textContent = `The transcript is ready: ${numWords} ${numWords === 1 ? "word" : "words"}.`;
}

// Recordings

async function transcribe(file) {
  const labeled = (what) => `${what} ${file.name}`;
  let duration = NaN, finalText = null;
  startTranscript(false);
  showWork(labeled("Uploading"), 0);
  durationOf(file).then((seconds) => (duration = seconds));
  state.name = file.name.replace(/\.[^.]*$/, "") || "transcript";
  const { answer, cancel } = send(file, state.model, key(), {
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
  const found = await answer;
  if (!found) return void ($("result").hidden = true); // cancelled
  if (found.text) addLines(found);
  finishTranscript();
}

// The microphone

async function transcribeLive() {
  state.name = "microphone";
  const connection = connect(key(), (result) => {
    const answer = { text: result.text, words: result.timed_words, segments: result.timed_segments };
    if (result.is_final && result.timed_segments.length) addLines(answer);
    if (result.is_final) return showPartial();
    const whole = [{ start: result.timed_words[0]?.start ?? result.start_time, text: result.text }];
    return showPartial(...(result.text.trim() ? linesOf({ ...answer, segments: whole }, "partial") : []));
  });
  connection.ended.catch(() => {}); // awaited below, after the microphone
  let stop;
  try {
    stop = await record((samples) => connection.send(samples.buffer));
  } catch (error) {
    connection.finish();
    throw error;
  }
  startTranscript(true);
  state.stopRecording = async () => {
    await stop();
    connection.finish();
  };
  showState();
  try {
    await connection.ended;
  } catch (error) {
    if (state.segments.length) finishTranscript(); // keep the text so far
    throw error;
  } finally {
    await stop();
  }
  finishTranscript();
}

async function recordThenTranscribe() {
  const blocks = [];
  const stop = await record((samples) => blocks.push(samples));
  await new Promise((resolve) => {
    state.stopRecording = resolve;
    showState();
  });
  state.stopRecording = null;
  showState();
  await stop();
  if (blocks.length) await transcribe(toWav(blocks));
}

$("microphone").addEventListener("click", () => {
  if (state.stopRecording) return void state.stopRecording();
  return void busy(state.canStream ? transcribeLive : recordThenTranscribe);
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
    const file = name === "drop" && event.dataTransfer.files[0];
    if (file) busy(() => transcribe(file));
  });
}
$("cancel").addEventListener("click", () => state.cancel?.());
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!/^[\x20-\x7e]+$/.test($("key").value)) return showError("An API key has only ASCII characters. Enter it again.");
  sessionStorage.setItem("key", $("key").value);
  $("key-form").hidden = true;
  return showError("");
});

function save(text, ending, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = `${state.name}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

$("save-srt").addEventListener("click", () => save(toSrt(state.segments), "srt", "application/x-subrip"));
$("save-text").addEventListener("click", () => save(toText(state.segments), "txt", "text/plain"));
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(toText(state.segments));
    $("copy").textContent = "Copied";
    setTimeout(() => ($("copy").textContent = "Copy"), 1500);
  } catch {
    showError("The browser did not let this page copy. Select the text and copy it yourself.");
  }
});

watchWords($("transcript"), $("detail"));
showServer();
