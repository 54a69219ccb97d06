// The player: plays a recording from any word, and marks the word that is being spoken.

const STAYS_S = 0.5; // a word stays marked in a pause up to this long, so that the mark does not flicker between words
const BAR_PX = 70; // height of the bars that stay at the top and the bottom of the window

export class Player {
  /** A player for an audio element and the words in `root`; onFailure is called if the browser cannot play a recording. */
  constructor(audio, root, onFailure) {
    this.audio = audio;
    this.root = root;
    this.words = [];
    this.marked = this.last = null;
    audio.addEventListener("play", () => this.follow());
    for (const name of ["timeupdate", "seeked", "pause"]) audio.addEventListener(name, () => this.mark());
    audio.addEventListener("ended", () => this.move(null));
    audio.addEventListener("error", () => {
      if (!this.isLoaded) return; // the element reports that it has no recording any more
      this.unload();
      onFailure();
    });
  }

  get isLoaded() {
    return this.audio.hasAttribute("src");
  }

  /** Take a recording; its words must be in `root`. */
  load(file) {
    this.unload();
    this.words = [...this.root.querySelectorAll(".word")].map((element) => ({ element, start: +element.dataset.start, end: +element.dataset.end }));
    this.audio.src = URL.createObjectURL(file);
    this.audio.hidden = false;
  }

  unload() {
    this.audio.pause();
    this.audio.hidden = true;
    this.move(null);
    this.last = null;
    this.words = [];
    if (!this.isLoaded) return;
    URL.revokeObjectURL(this.audio.src);
    this.audio.removeAttribute("src");
    this.audio.load();
  }

  /** Play from a word. */
  playFrom(element) {
    if (!this.isLoaded) return;
    this.audio.currentTime = +element.dataset.start;
    this.move(element);
    this.audio.play().catch(() => {}); // a recording that cannot be played reports an error; one that was replaced need not
  }

  /** Keep the mark at the spoken word while the recording plays; `timeupdate` comes only four times a second. */
  follow() {
    this.mark();
    if (!this.audio.paused) requestAnimationFrame(() => this.follow());
  }

  mark() {
    if (!this.audio.ended) this.move(this.wordAt(this.audio.currentTime));
  }

  /** The word that is spoken at a time, or null. */
  wordAt(seconds) {
    let low = 0, high = this.words.length; // the words before `low` have started, those from `high` on have not
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.words[middle].start <= seconds + 0.001) low = middle + 1;
      else high = middle;
    }
    const word = this.words[low - 1];
    return word && seconds < word.end + STAYS_S ? word.element : null;
  }

  /** Move the mark; scroll with it if the last marked word is in view, so that a reader elsewhere is not interrupted. */
  move(element) {
    if (element === this.marked) return;
    this.marked?.removeAttribute("aria-current");
    this.marked = element;
    if (!element) return;
    element.setAttribute("aria-current", "true");
    if (this.last && isInView(this.last) && !isInView(element)) element.scrollIntoView({ block: "center" });
    this.last = element;
  }
}

/** Whether an element is in the part of the window that the player above and the details below leave free. */
function isInView(element) {
  const { top, bottom } = element.getBoundingClientRect();
  return top >= BAR_PX && bottom <= innerHeight - BAR_PX;
}
