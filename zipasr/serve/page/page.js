// The page: a recording or the microphone in, words with times and confidence out.

import { connect, listen, toWav } from "./live.js";

const $ = (id) => document.getElementById(id);
const state = { model: "", canStream: false, request: null, stopListening: null, segments: [], name: "transcript" };

const key = () => sessionStorage.getItem("key") ?? "";
const clock = (s, point = ".") => {
  const ms = Math.max(0, Math.round(s * 1000)), pad = (n, width = 2) => String(n).padStart(width, "0");
  return `${pad(Math.floor(ms / 3600000))}:${pad(Math.floor(ms / 60000) % 60)}:${pad(Math.floor(ms / 1000) % 60)}${point}${pad(ms % 1000, 3)}`;
};
const minutes = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

function showError(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

function showWork(label, part) {
  $("work").hidden = !label;
  $("work-label").textContent = label ?? "";
  if (part === undefined) $("progress").removeAttribute("value");
  else $("progress").value = part;
}

async function greet() {
  try {
    const health = await (await fetch("health")).json();
    state.model = health.model;
    state.canStream = health.can_stream;
    $("model").textContent = health.model;
    document.title = `${health.model} – zipasr`;
    $("microphone-hint").textContent = health.can_stream ? "and read along" : "and read when you stop";
    $("key-form").hidden = !health.needs_key || key() !== "";
  } catch {
    showError("The server cannot be reached. Is it still running?");
  }
}

// Words

function showDetail(word) {
  const { start, end, confidence } = word.dataset;
  $("detail").textContent = `“${word.textContent}”: ${clock(+start)} – ${clock(+end)}, ${Math.round(confidence * 100)} % sure`;
}

function wordElement({ word, start, end, confidence }) {
  const element = document.createElement("span");
  element.className = "word";
  element.textContent = word;
  element.tabIndex = -1;
  Object.assign(element.dataset, { start, end, confidence });
  element.style.setProperty("--doubt", Math.min(1, Math.max(0, 1.6 * (1 - confidence))).toFixed(3));
  element.title = `${clock(start)} – ${clock(end)}, ${Math.round(confidence * 100)} % sure`;
  return element;
}

function showTranscript(answer) {
  state.segments = answer.segments;
  const joiner = answer.words.length > 1 && !answer.text.includes(" ") ? "" : " ";
  const paragraphs = answer.segments.map((segment) => {
    const paragraph = document.createElement("p"), time = document.createElement("time");
    time.textContent = minutes(segment.start);
    paragraph.append(time);
    return paragraph;
  });
  let segment = 0;
  for (const word of answer.words) {
    while (segment + 1 < answer.segments.length && word.start >= answer.segments[segment + 1].start - 0.001) segment++;
    paragraphs[segment].append(wordElement(word), joiner);
  }
  if (!answer.words.length) answer.segments.forEach((one, i) => paragraphs[i].append(one.text));
  $("transcript").replaceChildren(...paragraphs);
  const first = $("transcript").querySelector(".word");
  if (first) first.tabIndex = 0;
  $("detail").textContent = answer.text
    ? "The darker the tint, the less sure the model is. Point at a word, or use the arrow keys, for its time."
    : "No words were heard in this recording.";
  $("actions").hidden = !answer.text;
  $("result").hidden = false;
}

$("transcript").addEventListener("pointerover", ({ target }) => target.classList.contains("word") && showDetail(target));
$("transcript").addEventListener("click", ({ target }) => target.classList.contains("word") && target.focus());
$("transcript").addEventListener("focusin", ({ target }) => target.classList.contains("word") && showDetail(target));
$("transcript").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const words = [...$("transcript").querySelectorAll(".word")], now = words.indexOf(document.activeElement);
  if (!step || now < 0 || !words[now + step]) return;
  event.preventDefault();
  words[now].tabIndex = -1;
  words[now + step].tabIndex = 0;
  words[now + step].focus();
});

// Recordings

function readEvents(text) {
  return text.split("\n\n").filter((part) => part.startsWith("data: ")).map((part) => JSON.parse(part.slice(6)));
}

function errorOf(request) {
  try {
    return JSON.parse(request.responseText).error.message;
  } catch {
    return request.status ? `The server answered ${request.status}.` : "The server cannot be reached. Is it still running?";
  }
}

function send(file) {
  const form = new FormData();
  const fields = {
    model: [state.model], response_format: ["verbose_json"], stream: ["true"], "timestamp_granularities[]": ["word", "segment"],
  };
  for (const [name, values] of Object.entries(fields)) values.forEach((value) => form.append(name, value));
  form.append("file", file, file.name);
  const request = new XMLHttpRequest();
  request.open("POST", "v1/audio/transcriptions");
  if (key()) request.setRequestHeader("Authorization", `Bearer ${key()}`);
  return new Promise((resolve, reject) => {
    request.upload.onprogress = ({ loaded, total }) => showWork(`Sending ${file.name}`, loaded / total);
    request.upload.onload = () => showWork("Listening to it");
    request.onprogress = () => {
      const done = request.responseText.match(/: ([\d.]+) s done\n\n$/);
      if (done) showWork(`Listening to it: ${minutes(+done[1])} done`);
    };
    request.onload = () => {
      if (request.status === 401) $("key-form").hidden = false;
      if (request.status !== 200) return reject(new Error(errorOf(request)));
      const last = readEvents(request.responseText).at(-1);
      if (last?.error) return reject(new Error(last.error.message));
      if (last?.type !== "transcript.text.done") return reject(new Error("The connection broke before the answer was whole. Please try again."));
      return resolve(last);
    };
    request.onerror = () => reject(new Error(errorOf(request)));
    request.onabort = () => resolve(null);
    state.request = request;
    request.send(form);
  });
}

async function transcribe(file) {
  if (state.request || state.stopListening) return;
  showError("");
  $("result").hidden = true;
  showWork(`Sending ${file.name}`, 0);
  state.name = file.name.replace(/\.[^.]*$/, "") || "transcript";
  try {
    const answer = await send(file);
    if (answer) showTranscript(answer);
  } catch (error) {
    showError(error.message);
  } finally {
    state.request = null;
    showWork(null);
  }
}

// The microphone

function showLive(finals, partial) {
  const paragraphs = [...finals, ...(partial ? [partial] : [])].map((one) => {
    const paragraph = document.createElement("p"), time = document.createElement("time");
    time.textContent = minutes(one.start);
    paragraph.className = one.isFinal ? "final" : "partial";
    paragraph.append(time, one.text);
    return paragraph;
  });
  $("transcript").replaceChildren(...paragraphs);
  $("result").hidden = false;
  $("actions").hidden = !finals.length;
  $("detail").textContent = "";
}

function showListening(isListening) {
  $("microphone").setAttribute("aria-pressed", String(isListening));
  $("microphone-label").textContent = isListening ? "Stop" : "Speak";
}

async function listenLive() {
  const finals = [];
  state.name = "microphone";
  state.segments = finals;
  const connection = connect(key(), (result) => {
    const end = result.start_time + (result.timestamps.at(-1) ?? 0) + 0.04;
    const start = result.start_time + (result.timestamps[0] ?? 0);
    const one = { text: result.text.trim(), start, end, isFinal: result.is_final };
    if (result.is_final && one.text) finals.push(one);
    showLive(finals, !result.is_final && one.text ? one : null);
  });
  let stop = null;
  const ended = connection.ended.finally(() => stop?.());
  ended.catch(() => {}); // reported below
  try {
    stop = await listen((samples) => connection.send(samples.buffer));
  } catch (error) {
    connection.finish();
    throw error;
  }
  state.stopListening = async () => {
    await stop();
    connection.finish();
  };
  showListening(true);
  await ended;
}

async function listenThenSend() {
  const blocks = [];
  const stop = await listen((samples) => blocks.push(samples));
  showListening(true);
  await new Promise((resolve) => {
    state.stopListening = resolve;
  });
  await stop();
  state.stopListening = null;
  showListening(false);
  if (blocks.length) await transcribe(toWav(blocks));
}

$("microphone").addEventListener("click", async () => {
  if (state.stopListening) return void state.stopListening();
  if (state.request) return;
  showError("");
  $("result").hidden = true;
  try {
    await (state.canStream ? listenLive() : listenThenSend());
  } catch (error) {
    showError(error.message);
  } finally {
    state.stopListening = null;
    showListening(false);
  }
});

// Files in and out

$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) transcribe(target.files[0]);
  target.value = "";
});
for (const [name, isOver] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("is-over", isOver);
    if (name === "drop" && event.dataTransfer.files[0]) transcribe(event.dataTransfer.files[0]);
  });
}
$("cancel").addEventListener("click", () => state.request?.abort());
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  $("key-form").hidden = true;
  showError("");
});

function save(text, ending, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = `${state.name}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const toSrt = () => state.segments.map(({ start, end, text }, i) => `${i + 1}\n${clock(start, ",")} --> ${clock(end, ",")}\n${text}\n`).join("\n");
const toText = () => state.segments.map(({ text }) => `${text}\n`).join("");

$("save-srt").addEventListener("click", () => save(toSrt(), "srt", "application/x-subrip"));
$("save-text").addEventListener("click", () => save(toText(), "txt", "text/plain"));
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(toText());
    $("copy").textContent = "Copied";
    setTimeout(() => ($("copy").textContent = "Copy"), 1500);
  } catch {
    showError("The browser did not let this page copy. Select the text and copy it yourself.");
  }
});

greet();
