// The microphone: sound in, to a server that streams as it comes, to one that does not as a recording when it ends.

import { Refusal, whyRefused } from "./sending.js";

async function opened() {
  if (!navigator.mediaDevices) {
    throw new Error("The browser gives its microphone to pages over https or from this machine only. Open this page so, or choose a recording.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  } catch (error) {
    if (error.name === "NotAllowedError") {
      throw new Error("The browser did not let this page listen. Allow the microphone for this page in the browser's settings, then try again.");
    }
    if (error.name === "NotFoundError") throw new Error("No microphone was found. Connect one, then try again.");
    throw new Error(`The microphone cannot be used: ${error.message}`);
  }
}

/** A context for the sound of a microphone, at 16 kHz where the browser can change rates, and its source in it. */
function sourceOf(stream) {
  let context;
  try {
    context = new AudioContext({ sampleRate: 16000 });
    return context.createMediaStreamSource(stream);
  } catch {
    context?.close();
    return new AudioContext().createMediaStreamSource(stream);
  }
}

/** Samples of the microphone as they come; a function that ends them is returned. */
export async function listen(onSamples) {
  const stream = await opened();
  let context;
  const stop = async () => {
    stream.getTracks().forEach((track) => track.stop());
    if (context && context.state !== "closed") await context.close();
  };
  try {
    const source = sourceOf(stream);
    context = source.context;
    await context.audioWorklet.addModule("microphone.js");
    const node = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => onSamples(data);
    source.connect(node);
  } catch (error) {
    await stop();
    throw new Error(`The microphone cannot be used: ${error.message}`);
  }
  return stop;
}

/** A connection for live sound; onResult gets each JSON, and the promise `ended` holds until all has been said. */
export function connect(key, onResult) {
  const protocols = ["zipasr"];
  if (key) protocols.push("zipasr.key." + btoa(key).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", ""));
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/online`, protocols);
  const waiting = [];
  let isOpen = false, isDone = false;
  const ended = new Promise((resolve, reject) => {
    socket.onopen = () => {
      isOpen = true;
      waiting.splice(0).forEach((message) => socket.send(message));
    };
    socket.onmessage = ({ data }) => {
      if (data === "Done!") isDone = true;
      else onResult(JSON.parse(data));
    };
    socket.onclose = async ({ code, reason }) => {
      if (isDone && code !== 1012) resolve();
      else if (reason) reject(new Refusal(0, reason));
      else if (isOpen) reject(new Refusal(0, "The connection to the server broke."));
      else reject((await whyRefused(key)) ?? new Refusal(0, "The server did not take the connection. Please try again."));
    };
  });
  const send = (message) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(message);
    else if (socket.readyState === WebSocket.CONNECTING) waiting.push(message);
  };
  return { send, finish: () => send("Done"), ended };
}

/** Samples at 16 kHz as a WAV file. */
export function toWav(blocks) {
  const numSamples = blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * numSamples));
  const write = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  write(0, "RIFF"); view.setUint32(4, 36 + 2 * numSamples, true); write(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, 16000, true); view.setUint32(28, 32000, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  write(36, "data"); view.setUint32(40, 2 * numSamples, true);
  let at = 44;
  for (const block of blocks) {
    for (const value of block) {
      view.setInt16(at, Math.max(-32768, Math.min(32767, Math.round(value * 32768))), true);
      at += 2;
    }
  }
  return new File([view], "microphone.wav", { type: "audio/wav" });
}
