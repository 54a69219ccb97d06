// Saving: a transcript as the text of a file. The server decides on subtitles; their lines and times are only written here.

/** Time as hours, minutes, seconds and milliseconds, as in subtitles. */
const clock = (s, point) => {
  const ms = Math.max(0, Math.round(s * 1000)), pad = (n, width = 2) => String(n).padStart(width, "0");
  return `${pad(Math.floor(ms / 3600000))}:${pad(Math.floor(ms / 60000) % 60)}:${pad(Math.floor(ms / 1000) % 60)}${point}${pad(ms % 1000, 3)}`;
};

const times = ({ start, end }, point) => `${clock(start, point)} --> ${clock(end, point)}`;
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** The writers by file name extension; a transcript has `name`, `duration`, `texts`, `segments` and `words`. */
export const WRITERS = {
  txt: ({ texts }) => texts.map((text) => `${text}\n`).join(""),
  srt: ({ segments }) => segments.map((one, i) => `${i + 1}\n${times(one, ",")}\n${one.lines.join("\n")}\n\n`).join(""),
  vtt: ({ segments }) => "WEBVTT\n" + segments.map((one) => `\n${times(one, ".")}\n${escaped(one.lines.join("\n"))}\n`).join(""),
  json: ({ name, duration, texts, segments, words }) =>
    JSON.stringify({ audio: name, duration, text: texts.join("\n"), segments, words }, null, 1) + "\n",
};

const TYPES = { txt: "text/plain", srt: "application/x-subrip", vtt: "text/vtt", json: "application/json" };

/** Let the browser save a transcript under the name of its recording. */
export function save(transcript, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([WRITERS[ending](transcript)], { type: TYPES[ending] }));
  link.download = `${transcript.name.replace(/\.[^.]*$/, "") || "transcript"}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
