// Refusals: what an error response means, in a sentence for the person at the page, with what the server said as a detail.

/** An error response, with its HTTP status; 0: there was no response. */
export class Refusal extends Error {
  constructor(status, message, detail = "") {
    super(message);
    this.status = status;
    this.detail = detail;
  }
}

export const UNREACHABLE = "The server cannot be reached. Is it still running?";

const foreignPage = () =>
  "The server took this page for one of another site and refused it. This happens behind a proxy that changes the Host header. " +
  `Whoever runs the server can let the proxy pass on that header, or start the server with --allow-origin ${location.origin}.`;

const BY_STATUS = {
  401: () => "This server requires its API key, but got none or a wrong one. Enter the key above.",
  403: foreignPage,
  408: () => "The recording arrived too slowly, or not at all. Please try again.",
  413: () => "The recording is larger than this server accepts. Compress it, or split it into parts.",
  500: () => "The server failed. Please tell whoever runs it.",
};
const BY_FIELD = {
  file: "This file cannot be transcribed. Is it audio or video, and does it play in other programs?",
  num_best: "This server has no alternatives for this recording.",
};
// A response without our JSON comes from a proxy between the page and the server.
const BY_PROXY = {
  401: "A proxy in front of the server asks for a login. Reload the page, log in, and try again.",
  403: "A proxy or a firewall in front of the server does not allow this.",
  404: "The server was not found below the address of this page. A proxy in front of it must pass on every path.",
  413: "The recording is larger than a proxy in front of the server lets through. Choose a smaller one, or ask whoever runs the proxy to raise its limit (client_max_body_size in nginx).",
  502: "The proxy in front of the server cannot reach it. Is the server still running?",
  503: "The server is not available now. Please try again later.",
  504: "The proxy in front of the server did not wait long enough for the transcript. Choose a shorter recording, or ask whoever runs the proxy to raise its time limit (proxy_read_timeout in nginx).",
};

/** The refusal for an error of the server, which has OpenAI's form. */
export function refusalOfError(status, { message, param }) {
  const said = BY_STATUS[status]?.() ?? (status === 400 && BY_FIELD[param]);
  return said ? new Refusal(status, said, status === 400 || status === 500 ? message : "") : new Refusal(status, message);
}

/** The refusal for the status and the text of an error response. */
export function refusalOf(status, text) {
  let error;
  try {
    error = JSON.parse(text).error;
  } catch {
    error = null;
  }
  if (error?.message) return refusalOfError(status, error);
  return new Refusal(status, BY_PROXY[status] ?? `A proxy in front of the server refused the request with status ${status}.`);
}

/** Why there was no response to an upload. */
export async function whyCutOff() {
  try {
    await fetch("health");
  } catch {
    return new Refusal(0, UNREACHABLE);
  }
  return new Refusal(
    0,
    "The upload was cut off, although the server can be reached. Please try again. If that does not help, a proxy in front of it may limit the size of uploads.",
  );
}

export const authorization = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

/** Why a WebSocket was refused, which the browser does not tell: asked over HTTP. */
export async function whyRefused(key) {
  try {
    const answer = await fetch("v1/models", { headers: authorization(key) });
    if (!answer.ok) return refusalOf(answer.status, await answer.text());
    const { host } = await (await fetch("health")).json();
    if (host !== location.host) return new Refusal(403, foreignPage());
  } catch {
    return new Refusal(0, UNREACHABLE);
  }
  return new Refusal(
    0,
    "The server did not accept live audio, although it can be reached. Please try again. If that does not help, a proxy in front of it does not pass on WebSockets (in nginx, the headers Upgrade and Connection).",
  );
}
