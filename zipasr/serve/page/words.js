// Transcripts: their elements and keyboard navigation.

export const minutes = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

const instant = (s) => `${minutes(s)}.${String(Math.floor((s % 1) * 100)).padStart(2, "0")}`;

const describe = ({ start, end, confidence }) => `${instant(+start)} – ${instant(+end)}, confidence ${Math.round(confidence * 100)}\u00a0%`;

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
  words.dir = "auto"; // the page does not know the language
  paragraph.append(time, words);
  return paragraph;
}

/** Lines for segments {start, end, text}; they contain the words {word, start, end, confidence}, if there are any. */
export function linesOf({ segments, words, text }, className) {
  const joiner = words.length > 1 && !text.includes(" ") ? "" : " ";
  const lines = segments.map(({ start }) => line(start, className));
  let i = 0, end = 0; // of the last word in the text, where Chinese and English may be mixed
  for (const word of words) {
    while (i + 1 < segments.length && word.start >= segments[i + 1].start - 0.001) i++;
    const at = text.indexOf(word.word, end);
    if (at >= 0) end = at + word.word.length;
    lines[i].lastChild.append(wordElement(word), at >= 0 && end < text.length && text[end] !== " " ? "" : joiner);
  }
  if (!words.length) segments.forEach((segment, k) => lines[k].lastChild.append(segment.text));
  return lines;
}

/**
 * Make one word the stop of the tab key, and a button. A screen reader reads the others as running text, which it could not
 * if every word were a button; the arrow keys make another word the button.
 */
function makeStop(root, word) {
  root.querySelectorAll('.word[tabindex="0"]').forEach((other) => {
    other.tabIndex = -1;
    other.removeAttribute("role");
  });
  word.tabIndex = 0;
  word.setAttribute("role", "button");
}

/** Make the first word reachable with the tab key, unless another word is. */
export function admitFirstWord(root) {
  const first = root.querySelector(".word");
  if (first && !root.querySelector('.word[tabindex="0"]')) makeStop(root, first);
}

/**
 * Let words be chosen by mouse and keyboard: onChoose(word) follows a click, Enter or Space. Time and confidence of the hovered
 * or focused word are shown in `detail`.
 */
export function watchWords(root, detail, onChoose) {
  const wordOf = ({ target }) => (target.classList.contains("word") ? target : null);
  const tell = (event) => {
    const word = wordOf(event);
    if (word) detail.textContent = `“${word.textContent}”: ${describe(word.dataset)}`;
  };
  root.addEventListener("pointerover", tell);
  root.addEventListener("focusin", tell);
  root.addEventListener("focusin", (event) => wordOf(event) && makeStop(root, event.target));
  root.addEventListener("click", (event) => {
    if (!wordOf(event) || !getSelection().isCollapsed) return; // the end of a selection is no click on a word
    event.target.focus();
    onChoose(event.target);
  });
  root.addEventListener("keydown", (event) => {
    const word = wordOf(event);
    if (!word || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return void onChoose(word);
    }
    const words = [...root.querySelectorAll(".word")], now = words.indexOf(word);
    const next = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: words.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    words[next]?.focus();
  });
}
