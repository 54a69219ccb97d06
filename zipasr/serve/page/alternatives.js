// Alternatives: the other n-best hypotheses of a recording, with the words marked that differ from the transcript.

const spaced = (text) => (text.includes(" ") ? text.split(" ") : [text]);

/** For each of some words, whether it is in the longest common subsequence with others. */
function isCommon(words, others) {
  const longest = Array.from({ length: words.length + 1 }, () => new Uint16Array(others.length + 1));
  for (let i = words.length - 1; i >= 0; i--) {
    for (let j = others.length - 1; j >= 0; j--) {
      longest[i][j] = words[i] === others[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const common = words.map(() => false);
  for (let i = 0, j = 0; i < words.length && j < others.length; ) {
    if (words[i] === others[j]) {
      common[i++] = true;
      j++;
    } else if (longest[i + 1][j] >= longest[i][j + 1]) i++;
    else j++;
  }
  return common;
}

/** A list element for each hypothesis. */
export function itemsOf(hypotheses, transcript) {
  return hypotheses.map((text) => {
    const item = document.createElement("li"), words = spaced(text), common = isCommon(words, spaced(transcript));
    for (let i = 0, end; i < words.length; i = end) { // runs of words that are all common, or all different
      for (end = i + 1; end < words.length && common[end] === common[i]; ) end++;
      const run = document.createElement(common[i] ? "span" : "mark");
      run.textContent = words.slice(i, end).join(" ");
      item.append(...(i ? [" "] : []), run);
    }
    return item;
  });
}
