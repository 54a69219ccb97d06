// The microphone: sound in, to a server that streams as it comes, to one that does not as a recording when it ends.

/** Samples of the microphone as they come; a function that ends them is returned. */
export async function listen(onSamples) {
  if (!navigator.mediaDevices) {
    throw new Error("The browser gives its microphone to pages over https or from this machine only. Open this page so, or choose a recording.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  } catch (error) {
    if (error.name === "NotAllowedError") {
      throw new Error("The browser did not let this page listen. Allow the microphone for this page in the browser's settings, then try again.");
    }
    if (error.name === "NotFoundError") throw new Error("No microphone was found. Connect one, then try again.");
    throw new Error(`The microphone cannot be used: ${error.message}`);
  }
  let context = new AudioContext({ sampleRate: 16000 }), source;
  try {
    source = context.createMediaStreamSource(stream);
  } catch { // a browser that does not change rates
    await context.close();
    context = new AudioContext();
    source = context.createMediaStreamSource(stream);
  }
  await context.audioWorklet.addModule("microphone.js");
  const node = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 0 });
  node.port.onmessage = ({ data }) => onSamples(data);
  source.connect(node);
  return async () => {
    stream.getTracks().forEach((track) => track.stop());
    if (context.state !== "closed") await context.close();
  };
}

/** A connection for live sound; onResult gets each JSON, and the promise `ended` holds until all has been said. */
export function connect(key, onResult) {
  const protocols = ["zipasr"];
  if (key) protocols.push("zipasr.key." + btoa(key).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", ""));
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/online`, protocols);
  const waiting = [];
  let isDone = false;
  const ended = new Promise((resolve, reject) => {
    socket.onopen = () => waiting.splice(0).forEach((message) => socket.send(message));
    socket.onmessage = ({ data }) => {
      if (data === "Done!") isDone = true;
      else onResult(JSON.parse(data));
    };
    socket.onclose = ({ code, reason }) => {
      if (isDone) resolve();
      else if (reason) reject(new Error(reason));
      else reject(new Error(code === 1006 ? "The server cannot be reached, or is busy. Please try again." : "The server ended the connection."));
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
