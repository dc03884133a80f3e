// What the other scripts share: elements, numbers in words, and requests whose failures become sentences.
export const $ = (id) => document.getElementById(id);
export const chosen = { image: null }; // index of the gallery's image whose result is shown
const BUSY = 503; // uvicorn's own answer to too many connections has no sentence

export function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

export const unbroken = (text) => text.replaceAll(" %", "\u00a0%"); // a percentage stays on one line

export async function answerOf(request, options, read = "json") {
  let response, content;
  try {
    response = await fetch(request, options);
    content = await response.blob(); // the server may be gone before its end
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok && read === "blob") return content;
  const answer = await content.text().then(JSON.parse).catch(() => null);
  if (answer?.error) throw new Error(answer.error);
  if (response.status === BUSY) throw new Error("The server is busy. Try again in a moment.");
  if (!response.ok || !answer?.classes) throw new Error(`The server's answer is unreadable (status ${response.status}). Reload the page.`);
  return answer;
}
