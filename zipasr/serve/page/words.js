// Transcripts: their elements, keyboard navigation, and the files that are saved.

export const minutes = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

const clock = (s) => {
  const ms = Math.max(0, Math.round(s * 1000)), pad = (n, width = 2) => String(n).padStart(width, "0");
  return `${pad(Math.floor(ms / 3600000))}:${pad(Math.floor(ms / 60000) % 60)}:${pad(Math.floor(ms / 1000) % 60)},${pad(ms % 1000, 3)}`;
};

const instant = (s) => `${minutes(s)}.${String(Math.floor((s % 1) * 100)).padStart(2, "0")}`;

const describe = ({ start, end, confidence }) => `${instant(+start)} – ${instant(+end)}, confidence ${Math.round(confidence * 100)} %`;

function wordElement({ word, start, end, confidence }) {
  const element = document.createElement("span");
  element.className = "word";
  element.textContent = word;
  element.tabIndex = -1;
  Object.assign(element.dataset, { start, end, confidence });
  element.style.setProperty("--doubt", Math.min(1, Math.max(0, 1.6 * (1 - confidence))).toFixed(3));
  return element;
}

/** A line with its start time and an empty element for its words. */
function line(start, className) {
  const paragraph = document.createElement("p"), time = document.createElement("time"), words = document.createElement("span");
  paragraph.className = className;
  time.textContent = minutes(start);
  paragraph.append(time, words);
  return paragraph;
}

/** Lines for segments {start, end, text}; they contain the words {word, start, end, confidence}, if there are any. */
export function linesOf({ segments, words, text }, className) {
  const joiner = words.length > 1 && !text.includes(" ") ? "" : " ";
  const lines = segments.map(({ start }) => line(start, className));
  let i = 0;
  for (const word of words) {
    while (i + 1 < segments.length && word.start >= segments[i + 1].start - 0.001) i++;
    lines[i].lastChild.append(wordElement(word), joiner);
  }
  if (!words.length) segments.forEach((segment, k) => lines[k].lastChild.append(segment.text));
  return lines;
}

export const toText = (segments) => segments.map(({ text }) => `${text}\n`).join("");
export const toSrt = (segments) =>
  segments.map(({ start, end, text }, i) => `${i + 1}\n${clock(start)} --> ${clock(end)}\n${text}\n`).join("\n");

/** Show time and confidence of the hovered or focused word in `detail`; one word of `root` at a time is in the tab order. */
export function watchWords(root, detail) {
  const all = () => [...root.querySelectorAll(".word")];
  const tell = ({ target }) => {
    if (target.classList.contains("word")) detail.textContent = `“${target.textContent}”: ${describe(target.dataset)}`;
  };
  root.addEventListener("pointerover", tell);
  root.addEventListener("focusin", tell);
  root.addEventListener("click", ({ target }) => target.classList.contains("word") && target.focus());
  root.addEventListener("focusin", ({ target }) => {
    if (!target.classList.contains("word")) return;
    root.querySelectorAll('.word[tabindex="0"]').forEach((word) => (word.tabIndex = -1));
    target.tabIndex = 0;
  });
  root.addEventListener("keydown", (event) => {
    const words = all(), now = words.indexOf(document.activeElement);
    const next = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: words.length - 1 }[event.key];
    if (now < 0 || next === undefined || !words[next]) return;
    event.preventDefault();
    words[next].focus();
  });
}

/** Make the first word reachable with the tab key, unless another word is. */
export function admitFirstWord(root) {
  const first = root.querySelector(".word");
  if (first && !root.querySelector('.word[tabindex="0"]')) first.tabIndex = 0;
}
