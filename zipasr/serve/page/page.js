// The page: a recording or the microphone in, words with times and confidence out.

import { connect, listen, toWav } from "./live.js";
import { UNREACHABLE, durationOf, send } from "./sending.js";
import { admitFirstWord, linesOf, minutes, toSrt, toText, watchWords } from "./words.js";

const $ = (id) => document.getElementById(id);
const HOW_TO_READ = "The stronger the tint, the less sure. Choose a word for its time.";
const state = { model: "", canStream: false, isBusy: false, cancel: null, stopListening: null, segments: [], name: "transcript" };
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

/** One thing at a time: what cannot be begun now cannot be pressed either. */
function showState() {
  const isListening = state.stopListening !== null;
  $("file").disabled = state.isBusy;
  $("microphone").disabled = state.isBusy && !isListening;
  $("drop").classList.toggle("is-off", state.isBusy);
  $("microphone").setAttribute("aria-pressed", String(isListening));
  $("microphone-label").textContent = isListening ? "Stop" : "Speak";
  $("microphone-hint").textContent = isListening ? "listening …" : state.canStream ? "and read along" : "and read when you stop";
}

/** Do something that takes a while, alone. */
async function busy(action) {
  if (state.isBusy) return showError("Something is in work. Wait until it is done, or cancel it, then try again.");
  state.isBusy = true;
  showError("");
  showState();
  try {
    await action();
  } catch (error) {
    if (error.status === 401) $("key-form").hidden = false;
    showError(error.message);
  } finally {
    Object.assign(state, { isBusy: false, cancel: null, stopListening: null });
    showWork(null);
    showPartial();
    showState();
  }
}

async function greet() {
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

// The transcript: lines that stand, and under them what may still change

function beginTranscript(isLive) {
  state.segments = [];
  $("lines").setAttribute("aria-live", isLive ? "polite" : "off"); // a whole recording would be read out at once
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
  $("detail").textContent = state.segments.length ? HOW_TO_READ : "No words were heard.";
  $("status").textContent = `The transcript is ready: ${numWords} ${numWords === 1 ? "word" : "words"}.`;
}

// Recordings

async function transcribe(file) {
  const labelled = (what) => `${what} ${file.name}`;
  let duration = NaN, certain = null;
  beginTranscript(false);
  showWork(labelled("Sending"), 0);
  durationOf(file).then((seconds) => (duration = seconds));
  state.name = file.name.replace(/\.[^.]*$/, "") || "transcript";
  const { answer, cancel } = send(file, state.model, key(), {
    sent: (part) => showWork(labelled("Sending"), part),
    done: (seconds) => {
      const of = duration ? ` of ${minutes(duration)}` : "";
      showWork(labelled("Listening to") + (seconds ? `: ${minutes(seconds)}${of} done` : ""), seconds && duration ? Math.min(seconds / duration, 1) : undefined);
    },
    text: (text) => {
      certain ??= document.createElement("p");
      certain.textContent = text;
      showPartial(certain);
    },
  });
  state.cancel = cancel;
  const found = await answer;
  if (!found) return void ($("result").hidden = true); // cancelled
  if (found.text) addLines(found);
  finishTranscript();
}

// The microphone

async function listenLive() {
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
    stop = await listen((samples) => connection.send(samples.buffer));
  } catch (error) {
    connection.finish();
    throw error;
  }
  beginTranscript(true);
  state.stopListening = async () => {
    await stop();
    connection.finish();
  };
  showState();
  try {
    await connection.ended;
  } catch (error) {
    if (state.segments.length) finishTranscript(); // what was said until then
    throw error;
  } finally {
    await stop();
  }
  finishTranscript();
}

async function listenThenSend() {
  const blocks = [];
  const stop = await listen((samples) => blocks.push(samples));
  await new Promise((resolve) => {
    state.stopListening = resolve;
    showState();
  });
  state.stopListening = null;
  showState();
  await stop();
  if (blocks.length) await transcribe(toWav(blocks));
}

$("microphone").addEventListener("click", () => {
  if (state.stopListening) return void state.stopListening();
  return void busy(state.canStream ? listenLive : listenThenSend);
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
  if (!/^[\x20-\x7e]+$/.test($("key").value)) return showError("A key has letters of ASCII only. Type it again.");
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
greet();
