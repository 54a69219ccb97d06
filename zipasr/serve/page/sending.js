// Recordings: uploads a file, reports progress and final text, and returns the transcript.

/** An error response, with its HTTP status; 0: there was no response. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const UNREACHABLE = "The server cannot be reached. Is it still running?";

function refusalOf(status, text) {
  try {
    return new Refusal(status, JSON.parse(text).error.message);
  } catch {
    return new Refusal(status, status ? `The server responded with status ${status}.` : UNREACHABLE);
  }
}

export const authorization = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

/** Why the server refuses requests; null if it accepts them. */
export async function whyRefused(key) {
  try {
    const answer = await fetch("v1/models", { headers: authorization(key) });
    return answer.ok ? null : refusalOf(answer.status, await answer.text());
  } catch {
    return new Refusal(0, UNREACHABLE);
  }
}

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

/**
 * Upload a file and transcribe it.
 * on: `sent(part)` during the upload, `done(seconds)` during transcription, `text(text)` with all final text so far.
 * Returns { answer, cancel }: a promise of verbose_json, or of null after cancel(), and the function that cancels.
 */
export function send(file, model, key, on) {
  const form = new FormData(), request = new XMLHttpRequest();
  form.append("model", model);
  form.append("response_format", "verbose_json");
  form.append("stream", "true");
  form.append("timestamp_granularities[]", "word");
  form.append("timestamp_granularities[]", "segment");
  form.append("file", file, file.name);
  let numRead = 0, text = "", last = null;

  /** Process the events received since the last call. */
  function read() {
    for (let end; (end = request.responseText.indexOf("\n\n", numRead)) >= 0; numRead = end + 2) {
      const event = request.responseText.slice(numRead, end), done = event.match(/^: ([\d.]+) s done$/);
      if (done) on.done(+done[1]);
      if (!event.startsWith("data: ")) continue;
      last = JSON.parse(event.slice(6));
      if (last.type === "transcript.text.delta") on.text((text += last.delta));
    }
  }

  const answer = new Promise((resolve, reject) => {
    request.upload.onprogress = ({ loaded, total }) => on.sent(loaded / total);
    request.upload.onload = () => on.done(0);
    request.onprogress = () => request.status === 200 && read();
    request.onload = () => {
      if (request.status !== 200) return reject(refusalOf(request.status, request.responseText));
      read();
      if (last?.error) return reject(new Refusal(request.status, last.error.message));
      if (last?.type === "transcript.text.done") return resolve(last);
      return reject(new Refusal(0, "The connection was lost before the transcript was complete. Please try again."));
    };
    request.onerror = () => reject(refusalOf(request.status, request.responseText));
    request.onabort = () => resolve(null);
  });
  request.open("POST", "v1/audio/transcriptions");
  Object.entries(authorization(key)).forEach(([name, value]) => request.setRequestHeader(name, value));
  request.send(form);
  return { answer, cancel: () => request.abort() };
}
