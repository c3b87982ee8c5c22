"use strict";
const study = JSON.parse(document.getElementById("study").textContent);
const images = study.images;
const place = `xreal-synth-readers/${study.study}/${study.reader}`;
const byId = (id) => document.getElementById(id);
let answers = {};
let at = 0;
let question = 0;
let inverted = false;

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(place) || "{}");
    answers = kept.answers || {};
    at = Math.min(Math.max(0, kept.at || 0), images.length - 1);
  } catch (error) {
    byId("warning").textContent = "This browser keeps nothing: do not close the page before you have saved your answers.";
  }
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify({ answers, at }));
  } catch (error) {
    byId("warning").textContent = "This browser keeps nothing: do not close the page before you have saved your answers.";
  }
}

const whole = (image) => study.questions.every((one) => (answers[image.name] || {})[one.name] !== undefined);
const missing = () => images.map((image, number) => (whole(image) ? 0 : number + 1)).filter(Boolean);

function option(one, value, text) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  const face = document.createElement("span");
  input.type = "radio";
  input.name = one.name;
  input.value = value;
  input.addEventListener("change", () => answer(one, value));
  face.textContent = text;
  label.append(input, face);
  return label;
}

function build() {
  study.questions.forEach((one, number) => {
    const set = document.createElement("fieldset");
    const legend = document.createElement("legend");
    const ranks = document.createElement("div");
    legend.id = `legend-${one.name}`;
    ranks.className = "ranks";
    one.options.forEach(([value, text]) => ranks.append(option(one, value, text)));
    set.append(legend, ranks);
    if (one.ends) {
      const ends = document.createElement("div");
      ends.className = "ends";
      one.ends.forEach((text) => ends.appendChild(document.createElement("span")).append(text));
      set.append(ends);
    }
    set.addEventListener("focusin", () => { question = number; mark(); });
    byId("questions").append(set);
  });
}

function mark() {
  document.querySelectorAll("fieldset").forEach((set, number) => set.classList.toggle("now", number === question));
}

function show() {
  const image = images[at];
  const given = answers[image.name] || {};
  byId("image").src = image.png;
  byId("image").alt = `Image ${at + 1}`;
  byId("count").textContent = `Image ${at + 1} of ${images.length}`;
  byId("labelled").textContent = image.findings;
  study.questions.forEach((one) => {
    byId(`legend-${one.name}`).textContent = one.text.replace("%s", image.findings);
    document.querySelectorAll(`input[name="${one.name}"]`).forEach((input) => {
      input.checked = String(given[one.name]) === input.value;
    });
  });
  question = Math.max(0, study.questions.findIndex((one) => given[one.name] === undefined));
  reset();
  mark();
  tell();
}

function tell() {
  const left = missing();
  byId("done").max = images.length;
  byId("done").value = images.length - left.length;
  byId("complete").textContent = `${images.length - left.length} of ${images.length} complete`;
  byId("left").replaceChildren();
  if (left.length === 0) {
    byId("left").textContent = "All images are complete: save your answers and send the file back.";
  } else if (left.length <= 12) {
    byId("left").append("Without all answers: ");
    left.forEach((number) => {
      const link = document.createElement("a");
      link.href = "#";
      link.textContent = number;
      link.addEventListener("click", (event) => { event.preventDefault(); go(number - 1); });
      byId("left").append(link);
    });
  }
}

function answer(one, value) {
  const name = images[at].name;
  answers[name] = Object.assign({}, answers[name], { [one.name]: one.number ? Number(value) : value });
  keep();
  document.querySelectorAll(`input[name="${one.name}"]`).forEach((input) => { input.checked = input.value === String(value); });
  const number = study.questions.indexOf(one);
  question = Math.min(number + 1, study.questions.length - 1);
  mark();
  tell();
}

function go(number) {
  at = Math.min(Math.max(0, number), images.length - 1);
  document.activeElement && document.activeElement.blur();
  keep();
  show();
}

function reset() {
  inverted = false;
  byId("brightness").value = 100;
  byId("contrast").value = 100;
  look();
}

function look() {
  byId("image").style.filter =
    `brightness(${byId("brightness").value}%) contrast(${byId("contrast").value}%)` + (inverted ? " invert(1)" : "");
}

function save(text, kind, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = `reader-${study.reader}-${study.study}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function results() {
  return JSON.stringify({ format: study.format, study: study.study, reader: study.reader, answers }, null, 1) + "\n";
}

function table() {
  const names = study.questions.map((one) => one.name);
  const rows = images.map((image) => [study.study, study.reader, image.name, ...names.map((name) => (answers[image.name] || {})[name] ?? "")]);
  return [["study", "reader", "image", ...names], ...rows].map((row) => row.join(",")).join("\n") + "\n";
}

function key(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.type === "range") return;
  if (event.key === "Enter" && ["BUTTON", "A"].includes(event.target.tagName)) return;
  const one = study.questions[question];
  const chosen = one.options.find(([value, text, letter]) => event.key.toLowerCase() === (letter || value));
  if (chosen) answer(one, chosen[0]);
  else if (event.key === "ArrowRight" || event.key === "Enter") go(at + 1);
  else if (event.key === "ArrowLeft") go(at - 1);
  else if (event.key === "ArrowDown") { question = Math.min(question + 1, study.questions.length - 1); mark(); }
  else if (event.key === "ArrowUp") { question = Math.max(question - 1, 0); mark(); }
  else if (event.key === "i") { inverted = !inverted; look(); }
  else return;
  event.preventDefault();
}

build();
load();
show();
byId("next").addEventListener("click", () => go(at + 1));
byId("back").addEventListener("click", () => go(at - 1));
byId("reset").addEventListener("click", reset);
byId("brightness").addEventListener("input", look);
byId("contrast").addEventListener("input", look);
byId("json").addEventListener("click", () => save(results(), "application/json", "json"));
byId("csv").addEventListener("click", () => save(table(), "text/csv", "csv"));
document.addEventListener("keydown", key, true);
document.body.dataset.ready = "yes";
