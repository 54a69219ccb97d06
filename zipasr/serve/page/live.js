// The microphone: records audio, streams it to a server with a streaming model, and makes a WAV file for other servers.

import { Refusal, whyRefused } from "./refusals.js";

async function opened() {
  if (!navigator.mediaDevices) {
    throw new Error("The browser allows the microphone only for pages over https or from this machine. Open this page over https, or choose a recording.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  } catch (error) {
    if (error.name === "NotAllowedError") {
      throw new Error("The browser did not let this page use the microphone. Allow it for this page in the browser's settings, then try again.");
    }
    if (error.name === "NotFoundError") throw new Error("No microphone was found. Connect one, then try again.");
    throw new Error(`The microphone cannot be used: ${error.message}`);
  }
}

/** A source node for a microphone, in an audio context at 16 kHz if the browser can resample. */
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

/** Record from the microphone and pass each block of samples to onSamples; returns a function that stops. */
export async function record(onSamples) {
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

/** A connection for live audio; onResult receives each JSON, and the promise `ended` resolves after the last one. */
export function connect(key, onResult) {
  const protocols = ["zipasr"];
  if (key) protocols.push("zipasr.key." + btoa(key).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", ""));
  const url = new URL("online", document.baseURI); // relative, for a proxy that serves the page below a path
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(url, protocols);
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
      else if (isOpen) reject(new Refusal(0, "The connection to the server was lost."));
      else reject(await whyRefused(key));
    };
  });
  const send = (message) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(message);
    else if (socket.readyState === WebSocket.CONNECTING) waiting.push(message);
  };
  return { send, finish: () => send("Done"), ended };
}

/** A block of samples in the form in which `toWav` keeps them, 16-bit integers. */
export const toInt16 = (block) => Int16Array.from(block, (value) => Math.max(-32768, Math.min(32767, Math.round(value * 32768))));

/** A WAV file of blocks of 16-bit samples at 16 kHz. */
export function toWav(blocks) {
  const numBytes = 2 * blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44));
  const write = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  write(0, "RIFF"); view.setUint32(4, 36 + numBytes, true); write(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, 16000, true); view.setUint32(28, 32000, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  write(36, "data"); view.setUint32(40, numBytes, true);
  return new File([view, ...blocks], "microphone.wav", { type: "audio/wav" }); // every browser's machine is little-endian
}
