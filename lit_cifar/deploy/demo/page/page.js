// Sends a picture to the server and shows the answer; lays out the gallery. Loads nothing from elsewhere.
"use strict";

const $ = (id) => document.getElementById(id);
const PAGE = 48; // images of the gallery that are added at a time
const BUSY = 503; // uvicorn's own answer to too many connections has no sentence
let about, shown = 0, latest = 0, camera = null;

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function say(sentence) {
  if (sentence) $("result").hidden = true; // of an earlier picture
  $("message").textContent = sentence;
  $("message").hidden = !sentence;
}

async function answerOf(request, read, options) {
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

async function look(picture) {
  const turn = ++latest;
  say("");
  if (!picture) return say("The camera gave no picture. Try again, or choose a file.");
  if (picture.size > about.limit) {
    say(`The file is larger than ${about.limit >> 20} MB. Send a smaller picture.`);
    return;
  }
  try {
    const answer = await answerOf("predict", "json", { method: "POST", body: picture });
    if (turn === latest) show(answer); // otherwise, another picture was sent in the meantime
  } catch (error) {
    if (turn === latest) say(error.message);
  }
}

function show(answer) {
  $("picture").src = answer.picture;
  $("map").hidden = !answer.map;
  if (answer.map) $("map").src = answer.map;
  $("map-caption").textContent = answer.caption;
  const sorted = [...answer.classes].sort((a, b) => b.probability - a.probability);
  $("classes").replaceChildren(...sorted.map(({ name, probability, percent }) => {
    const bar = element("div", { className: "bar" });
    bar.style.width = `${probability * 100}%`;
    return element("li", {},
      element("span", { className: "name", textContent: name, title: name }),
      element("div", { className: "track" }, bar),
      element("span", { className: "percent", textContent: percent }));
  }));
  $("result").hidden = false;
}

function lookAtFirst(files, otherwise) {
  if (files.length) look(files[0]);
  else if (otherwise) say(otherwise);
}

function matching() {
  const { labels, predicted } = about.gallery;
  const label = $("class").value;
  return labels.map((_, i) => i).filter((i) =>
    (label === "" || labels[i] === Number(label)) && (!$("mistakes").checked || labels[i] !== predicted[i]));
}

function fillGallery(fromStart) {
  if (fromStart) {
    shown = 0;
    $("images").replaceChildren();
  }
  const found = matching();
  for (const i of found.slice(shown, shown + PAGE)) $("images").append(thumbnail(i));
  shown = Math.min(shown + PAGE, found.length);
  $("count").textContent = `${found.length.toLocaleString("en")} image${found.length === 1 ? "" : "s"}`;
  $("more").hidden = shown === found.length;
}

function thumbnail(i) {
  const truth = about.classes[about.gallery.labels[i]], guess = about.classes[about.gallery.predicted[i]];
  const img = element("img", { src: `images/${i}.png`, alt: "", width: about.size, height: about.size, loading: "lazy" });
  img.addEventListener("error", () => img.replaceWith(element("span", { className: "lost", textContent: "not loaded" })));
  const button = element("button", { type: "button" }, img, truth);
  if (truth !== guess) button.append(element("div", { className: "wrong", textContent: `✗ ${guess}` }));
  button.addEventListener("click", async () => {
    for (const other of $("images").children) other.setAttribute("aria-pressed", other === button);
    const turn = ++latest;
    try {
      const picture = await answerOf(`images/${i}.png`, "blob");
      if (turn !== latest) return;
      await look(picture);
    } catch (error) {
      return turn === latest && say(error.message);
    }
    $("result").scrollIntoView({ block: "nearest", behavior: "smooth" });
  });
  return button;
}

async function photograph() {
  if (!navigator.mediaDevices) return $("capture").click(); // browsers offer none over plain HTTP from another machine
  if (!camera) {
    try {
      camera = await navigator.mediaDevices.getUserMedia({ video: true });
    } catch {
      return say("No camera is available. Choose a picture instead.");
    }
    $("video").srcObject = camera;
    $("video").hidden = false;
    $("drop").hidden = true;
    await $("video").play();
    $("camera").textContent = "Take it";
    return;
  }
  const canvas = element("canvas", { width: $("video").videoWidth, height: $("video").videoHeight });
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  camera.getTracks().forEach((track) => track.stop());
  camera = null;
  $("video").hidden = true;
  $("drop").hidden = false;
  $("camera").textContent = "Take a photo";
  canvas.toBlob(look);
}

async function start() {
  about = await answerOf("about", "json");
  $("about").textContent = `${about.net}, recipe ${about.recipe}, ${about.classes.length} classes. ` +
    "Pictures are not stored, and never leave the machine that serves this page.";
  document.body.classList.toggle("large", about.size > 96); // larger than it is shown
  $("picture-caption").textContent = `What the network sees: ${about.size} × ${about.size} pixels`;
  $("note").textContent = about.note;
  $("note").hidden = !about.note;
  $("gallery").hidden = !about.gallery && !about.note;
  $("filters").hidden = $("more").hidden = !about.gallery;
  if (about.gallery) {
    $("gallery-title").textContent = about.gallery.title;
    about.classes.forEach((name, i) => $("class").append(new Option(name, i)));
    fillGallery(true);
  }
  for (const id of ["file", "capture"]) {
    $(id).addEventListener("change", () => {
      lookAtFirst($(id).files);
      $(id).value = ""; // the same file may be chosen again
    });
  }
  addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  addEventListener("dragleave", () => $("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    lookAtFirst(event.dataTransfer.files, "That is not a file. Save the picture first, or copy and paste it.");
  });
  addEventListener("paste", (event) => lookAtFirst(event.clipboardData.files, "The clipboard contains no picture."));
  $("camera").addEventListener("click", photograph);
  for (const id of ["class", "mistakes"]) $(id).addEventListener("change", () => fillGallery(true));
  $("more").addEventListener("click", () => fillGallery(false));
  document.body.dataset.ready = "yes";
}

start().catch((error) => say(error.message));
