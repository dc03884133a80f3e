// The gallery: test images, filtered and sorted, each of which opens its result.
import { $, answerOf, chosen, element, plural, unbroken } from "./basics.js";

const PAGE = 48; // images that are added at a time
let about, look, shown = 0;

function matching() {
  const { labels, predicted, probability } = about.gallery;
  const [actual, guess, order] = ["actual", "predicted", "order"].map((id) => $(id).value);
  const found = labels.map((_, i) => i).filter((i) =>
    (actual === "" || labels[i] === Number(actual)) && (guess === "" || predicted[i] === Number(guess)) &&
    (!$("mistakes").checked || labels[i] !== predicted[i]));
  return found.sort((a, b) => Number(order) * (probability[a] - probability[b])); // which is stable
}

function fill(fromStart) {
  if (fromStart) {
    shown = 0;
    $("images").replaceChildren();
  }
  const found = matching();
  const added = found.slice(shown, shown + PAGE).map(thumbnail);
  $("images").append(...added);
  if (!fromStart) added[0]?.querySelector("button").focus(); // "Show more" may be gone
  shown = Math.min(shown + PAGE, found.length);
  $("count").textContent = found.length ? plural(found.length, "image") : "No image is like this.";
  $("more").hidden = shown === found.length;
}

function thumbnail(i) {
  const [prediction, truth] = about.gallery.captions[i].map(unbroken);
  const img = element("img", { src: `images/${i}.png`, alt: "", loading: "lazy" });
  img.addEventListener("error", () => img.replaceWith(element("span", { className: "lost", textContent: "not loaded" })));
  const button = element("button", { type: "button" }, img, element("span", { textContent: prediction, className: truth ? "wrong" : "" }));
  if (truth) button.append(element("span", { textContent: truth }));
  if (i === chosen.image) button.setAttribute("aria-current", "true");
  button.addEventListener("click", () => {
    look(() => answerOf(`images/${i}.png`, {}, "blob"), { name: "test image", truth: about.gallery.labels[i] }, button);
    chosen.image = i;
  });
  return element("li", {}, button);
}

export function startGallery(given, show) {
  [about, look] = [given, show];
  $("note").textContent = about.note;
  $("gallery").hidden = !about.gallery && !about.note;
  $("filters").hidden = $("more").hidden = !about.gallery;
  $("gallery-title").textContent = about.gallery?.title ?? "Gallery";
  if (!about.gallery) return;
  for (const id of ["actual", "predicted"]) about.classes.forEach((name, label) => $(id).append(new Option(name, label)));
  for (const id of ["actual", "predicted", "order", "mistakes"]) $(id).addEventListener("change", () => fill(true));
  $("more").addEventListener("click", () => fill(false));
  fill(true);
}
