// Sends pictures to the server and shows its answers. Loads nothing from elsewhere.
import { $, answerOf, chosen, element, plural, unbroken } from "./basics.js";
import { startGallery } from "./gallery.js";

const FIRST_CLASSES = 10; // more are shown when they are asked for
const RUNNERS_UP = 2;
const UNREADABLE = "It can't be read. Is it a folder, or was it moved?";
let about, stream = null;
let mapped; // label of the class whose map is shown
let turn = 0, batch = 0, opening = 0; // of what was asked for last; answers to earlier requests are dropped

async function ask(picture, query) {
  const name = query.name ?? "This file";
  if (picture.size > about.limit) throw new Error(`${name} is larger than ${about.limit >> 20} MB. Send a smaller version.`);
  await picture.slice(0, 1).arrayBuffer().catch(() => { throw new Error(`${name}: ${UNREADABLE}`); });
  const headers = { "Content-Type": "application/octet-stream" }; // what a file is shows in its content, not in its name
  return answerOf(`predict?${new URLSearchParams(query)}`, { method: "POST", body: picture, headers });
}

// Takes back an earlier sentence, and returns a function that tells whether something newer was asked for since.
function begin(progress) {
  const mine = ++turn;
  say("");
  report(progress);
  $("clear").hidden = false;
  return () => mine !== turn;
}

// Says how far the work is; `isSeen` is false if the page shows the same elsewhere.
function report(sentence, isSeen = true) {
  $("progress").textContent = sentence;
  $("progress").className = isSeen ? "faint" : "unseen";
}

function say(sentence) {
  $("message").textContent = sentence;
  if (sentence) {
    report("");
    $("result").hidden = true; // of an earlier picture
    $("clear").hidden = false;
  }
}

function mark(shown) {
  chosen.image = null;
  for (const old of document.querySelectorAll("[aria-current]")) old.removeAttribute("aria-current");
  shown?.setAttribute("aria-current", "true");
}

// Shows the result of one picture: a blob, or a function that fetches it. `opener` is its row or its button.
async function look(picture, query, opener = null) {
  const isOld = begin(`Looking at ${query.name}…`);
  mark(opener);
  $("choice").disabled = true; // it is of an earlier picture
  try {
    const content = typeof picture === "function" ? await picture() : picture;
    const answer = await ask(content, query);
    if (isOld()) return;
    show(answer, query);
    report(`${query.name}: ${answer.verdict.filter(Boolean).join(", ")}`, false);
    if (opener) $("verdict").scrollIntoView({ block: "nearest" });
  } catch (error) {
    if (!isOld()) say(error.message);
  }
}

function show(answer, { name, truth }) {
  const [prediction, worth] = answer.verdict.map(unbroken);
  $("verdict").replaceChildren(element("span", { textContent: prediction }), element("span", { textContent: worth }));
  $("verdict").className = prediction.startsWith("✗") ? "wrong" : "";
  const [width, height] = answer.size.map((side) => side.toLocaleString("en"));
  $("preview").src = answer.preview;
  $("preview").className = Math.max(...answer.size) < 200 ? "tiny" : "";
  $("preview-caption").textContent = `${name}: ${width}\u00a0×\u00a0${height}\u00a0pixels`;
  $("pixels").src = answer.pixels;
  showMap(answer);
  const found = answer.classes.map((each, label) => ({ ...each, label })).sort((a, b) => b.probability - a.probability);
  $("classes-title").textContent = answer.map ? "Select a class to see which areas support it:" : "Probability of each class:";
  $("classes").replaceChildren(...found.map((each, place) => {
    const row = classRow(each, answer, each.label === truth);
    row.hidden = place >= FIRST_CLASSES && each.label !== truth;
    return row;
  }));
  $("all-classes").hidden = found.length <= FIRST_CLASSES;
  $("all-classes").textContent = `Show all ${found.length.toLocaleString("en")} classes`;
  $("choice").disabled = $("result").hidden = false;
}

function classRow({ name, probability, percent, label }, answer, isTruth) {
  const bar = element("div", { className: "bar" });
  bar.style.width = `${probability * 100}%`;
  const title = element("span", { className: "name" });
  if (answer.map) {
    const radio = element("input", { type: "radio", name: "class", value: label, checked: label === answer.label });
    radio.addEventListener("change", () => chooseMap(answer.pixels, label));
    title.append(radio);
  }
  title.append(element("span", { textContent: isTruth ? `${name} (actual)` : name }));
  return element(answer.map ? "label" : "div", { className: "class" }, title,
    element("div", { className: "track" }, bar), element("span", { className: "number", textContent: percent }));
}

function showMap({ map, caption, label }) {
  mapped = label;
  $("map").hidden = $("legend").hidden = !map;
  if (map) $("map").src = map;
  $("map").alt = $("map-caption").textContent = caption;
}

// Asks for the map of another class by the pixels that the network sees: the picture itself may be large.
async function chooseMap(pixels, label) {
  const isOld = begin("");
  const content = new Blob([Uint8Array.from(atob(pixels.split(",")[1]), (letter) => letter.charCodeAt(0))]);
  try {
    const answer = await ask(content, { class: label });
    if (isOld()) return;
    showMap(answer);
    report(answer.caption, false);
  } catch (error) {
    if (isOld()) return;
    $("message").textContent = error.message; // the result stays
    $("classes").querySelector(`[value="${mapped}"]`).checked = true;
  }
}

async function lookAtAll(files, otherwise) {
  files = [...files];
  if (!files.length) return otherwise && say(otherwise);
  clear();
  if (files.length === 1) return look(files[0], { name: files[0].name });
  begin("");
  const mine = batch;
  $("several").hidden = false;
  for (const [done, file] of files.entries()) {
    $("several-title").textContent = `${done} of ${plural(files.length, "file")}`;
    const row = await fileRow(file);
    if (mine !== batch) return; // cleared meanwhile
    $("files").append(row);
  }
  const bad = $("files").querySelectorAll(".wrong").length;
  $("several-title").textContent = plural(files.length, "file");
  report(`${plural(files.length, "file")} done${bad ? `, ${bad} without a result` : ""}. Choose a row to see more.`);
}

async function fileRow(file) {
  const row = element("tr", {});
  try {
    const answer = await ask(file, { name: file.name });
    const [best, ...others] = [...answer.classes].sort((a, b) => b.probability - a.probability);
    const open = element("button", { type: "button", textContent: file.name });
    const image = element("img", { src: answer.pixels, alt: "" });
    row.append(element("th", { scope: "row" }, element("div", {}, image, open)), element("td", { textContent: best.name }),
      element("td", { className: "number", textContent: best.percent }),
      element("td", { textContent: others.slice(0, RUNNERS_UP).map(({ name, percent }) => unbroken(`${name} ${percent}`)).join(", ") }));
    row.addEventListener("click", () => look(file, { name: file.name }, row));
  } catch (error) {
    row.append(element("th", { scope: "row", textContent: file.name }), element("td", { colSpan: 3, className: "wrong", textContent: error.message }));
  }
  return row;
}

function clear() {
  batch++;
  begin("");
  mark(null);
  $("result").hidden = $("several").hidden = $("clear").hidden = true;
  $("files").replaceChildren();
}

async function photograph() {
  if (!navigator.mediaDevices) { // over plain HTTP from another machine
    if (matchMedia("(pointer: coarse)").matches) return $("capture").click(); // which opens a phone's own camera
    return say("Browsers let a page use the camera only at an https address or on the same machine. Choose a picture instead.");
  }
  $("viewfinder").showModal();
  const mine = ++opening;
  try {
    const found = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (mine !== opening) return found.getTracks().forEach((track) => track.stop()); // cancelled meanwhile
    $("video").srcObject = stream = found;
    await $("video").play();
    $("video").hidden = false;
    $("waiting").hidden = true;
    $("take").disabled = false;
    $("take").focus();
  } catch (error) {
    if (mine !== opening) return;
    $("viewfinder").close();
    const why = {
      NotAllowedError: "This page may not use the camera. Allow it in the browser, or choose a picture instead.",
      NotFoundError: "No camera was found. Choose a picture instead.",
    };
    say(why[error.name] ?? "The camera can't be used; another program may be using it. Choose a picture instead.");
  }
}

function take() {
  const canvas = element("canvas", { width: $("video").videoWidth, height: $("video").videoHeight });
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  $("viewfinder").close();
  canvas.toBlob((photo) => photo ? lookAtAll([new File([photo], "photo")]) : say("The camera gave no picture. Try again, or choose a file."));
}

function release() {
  opening++;
  stream?.getTracks().forEach((track) => track.stop());
  stream = $("video").srcObject = null;
  $("video").hidden = $("take").disabled = true;
  $("waiting").hidden = false;
}

async function start() {
  about = await answerOf("about");
  document.title = `${about.run}: try it`;
  const facts = { Run: about.run, Network: about.net, Data: about.data, Accuracy: about.accuracy };
  for (const [term, text] of Object.entries(facts)) $("about").append(element("dt", { textContent: term }), element("dd", { textContent: text }));
  $("pixels-caption").textContent = `What the network sees: ${about.size}\u00a0×\u00a0${about.size}\u00a0pixels`;
  $("pixels").alt = "The picture as the network sees it";
  $("legend-colours").src = about.legend;
  $("file").accept = about.accept;
  startGallery(about, look);
  for (const id of ["file", "capture"]) {
    $(id).addEventListener("change", () => {
      lookAtAll($(id).files);
      $(id).value = ""; // the same file may be chosen again
    });
  }
  addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  addEventListener("dragleave", () => $("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    lookAtAll(event.dataTransfer.files, "That is not a file. Save the picture first, or copy and paste it.");
  });
  addEventListener("paste", (event) => lookAtAll(event.clipboardData.files, "The clipboard contains no picture."));
  $("camera").addEventListener("click", photograph);
  $("take").addEventListener("click", take);
  $("cancel").addEventListener("click", () => $("viewfinder").close());
  $("viewfinder").addEventListener("close", release); // by Cancel, by Escape, or with a photo
  $("clear").addEventListener("click", () => { clear(); $("file").focus(); });
  $("all-classes").addEventListener("click", () => {
    $("all-classes").hidden = true;
    const added = $("classes").querySelectorAll("[hidden]");
    for (const row of added) row.hidden = false;
    added[0].querySelector("input")?.focus();
  });
  document.body.dataset.ready = "yes";
}

start().catch((error) => say(error.message));
