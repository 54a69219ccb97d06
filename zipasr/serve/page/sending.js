// Recordings: uploads a file, reports progress and final text, and returns the transcript.

import { Refusal, authorization, refusalOf, refusalOfError, whyCutOff } from "./refusals.js";

/** Length of a recording in seconds; NaN if the browser cannot determine it. */
export function durationOf(file) {
  return new Promise((resolve) => {
    const audio = new Audio(), url = URL.createObjectURL(file);
    const end = (seconds) => {
      URL.revokeObjectURL(url);
      resolve(Number.isFinite(seconds) ? seconds : NaN);
    };
    audio.preload = "metadata";
    audio.onloadedmetadata = () => end(audio.duration);
    audio.onerror = () => end(NaN);
    audio.src = url;
  });
}

/** Throw an Error in plain words for a file that cannot be read or that the server would refuse. */
export async function checkFile(file, maxUploadMb) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Error(`${file.name} cannot be read. Choose a file, not a folder, that is still where it was.`);
  }
  if (!file.size) throw new Error(`${file.name} is empty. Copy it or record it again.`);
  if (file.size > maxUploadMb * 1e6) {
    throw new Error(`${file.name} has ${Math.ceil(file.size / 1e6)} MB, but this server accepts at most ${maxUploadMb} MB. Compress it, or split it into parts.`);
  }
}

/**
 * Upload a file and transcribe it.
 * on: `sent(part)` during the upload, `done(seconds)` during transcription, `text(text)` with all final text so far.
 * numBest: size of the n-best list; 0: only the best hypothesis.
 * Returns { answer, cancel }: a promise of verbose_json, or of null after cancel(), and the function that cancels.
 */
export function send(file, model, key, on, numBest = 0) {
  const form = new FormData(), request = new XMLHttpRequest();
  form.append("model", model);
  form.append("response_format", "verbose_json");
  form.append("stream", "true");
  form.append("timestamp_granularities[]", "word");
  form.append("timestamp_granularities[]", "segment");
  if (numBest) form.append("num_best", numBest);
  form.append("file", file, file.name);
  let numRead = 0, text = "", last = null;

  /** Process the events received since the last call. */
  function read() {
    for (let end; (end = request.responseText.indexOf("\n\n", numRead)) >= 0; numRead = end + 2) {
      const event = request.responseText.slice(numRead, end), done = event.match(/^: ([\d.]+) s done$/);
      if (done) on.done?.(+done[1]);
      if (!event.startsWith("data: ")) continue;
      last = JSON.parse(event.slice(6));
      if (last.type === "transcript.text.delta") on.text?.((text += last.delta));
    }
  }

  const answer = new Promise((resolve, reject) => {
    request.upload.onprogress = ({ loaded, total }) => on.sent?.(loaded / total);
    request.upload.onload = () => on.done?.(0);
    request.onprogress = () => request.status === 200 && read();
    request.onload = () => {
      if (request.status !== 200) return reject(refusalOf(request.status, request.responseText));
      read();
      if (last?.error) return reject(refusalOfError(last.error.type === "server_error" ? 503 : 400, last.error));
      if (last?.type === "transcript.text.done") return resolve(last);
      return reject(new Refusal(0, "The connection was lost before the transcript was complete. Please try again."));
    };
    request.onerror = async () => reject(await whyCutOff());
    request.onabort = () => resolve(null);
  });
  request.open("POST", "v1/audio/transcriptions");
  Object.entries(authorization(key)).forEach(([name, value]) => request.setRequestHeader(name, value));
  request.send(form);
  return { answer, cancel: () => request.abort() };
}
