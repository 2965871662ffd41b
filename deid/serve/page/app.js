// The page: which pictures there are, what is asked for them, and the answers. Nothing is stored.

import { Card } from "./compare.js";

const METHODS = {
  swap: ["New faces", "of people who do not exist; expression and pose stay"],
  adversarial: ["Alike to people", "but a stranger to recognizers"],
  blur: ["Blur", "softens each face"],
  pixelate: ["Pixelate", "coarse squares"],
  mask: ["Cover", "nothing of the face is left"],
  fgsm: ["Noise", "against recognizers; faces stay visible"],
  pgd: ["Noise, in steps", "the same, finer"],
};
const ORDER = Object.keys(METHODS);
const WITH_STRENGTH = ["fgsm", "pgd"], DRAWN = ["swap", "adversarial"];
const AT_ONCE = 2, TRIES = 8;
const at = (id) => document.getElementById(id);
const pictures = [];
let token = "", running = 0, limits = {};

// ---- what is served

async function begin() {
  let answer;
  try {
    answer = await fetch("/v1/models", { headers: authorization() });
  } catch {
    return wait("The service does not answer; trying again.");
  }
  if (answer.status === 401) return askForToken();
  if (answer.status === 503) return wait("The service is starting.");
  if (!answer.ok) return wait("The service has a fault; trying again.");
  limits = await answer.json();
  const model = limits.models[0];
  at("access").hidden = true;
  at("work").hidden = false;
  document.body.classList.toggle("no-keep", !limits.may_keep);
  at("limits").textContent =
    `Up to ${Math.floor(limits.max_bytes / 1e6) || 1} MB and ${Math.round(limits.max_pixels / 1e6) || 1} megapixels each`;
  at("model").textContent = `Model: ${model.name} (${model.world})`;
  showMethods(model);
}

function wait(text) {
  at("limits").textContent = text;
  setTimeout(begin, 2000);
}

function askForToken() {
  at("access-hint").textContent = token
    ? "The service does not know this token."
    : "It stays in this window and is forgotten when you close it.";
  at("access").hidden = false;
  at("work").hidden = true;
  at("token").focus();
}

const authorization = () => (token ? { authorization: `Bearer ${token}` } : {});

at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  begin();
});

// ---- how faces are changed

function showMethods(model) {
  const known = model.methods.filter((name) => name in METHODS);
  known.sort((a, b) => ORDER.indexOf(a) - ORDER.indexOf(b));
  at("methods").replaceChildren(...known.map((name) => {
    const label = document.createElement("label"), input = document.createElement("input");
    const text = document.createElement("span"), title = document.createElement("b");
    const detail = document.createElement("span");
    label.className = "method";
    Object.assign(input, {
      type: "radio", name: "method", value: name,
      checked: name === model.default_method.split("-")[0],
    });
    title.textContent = METHODS[name][0];
    detail.textContent = ` ${METHODS[name][1]}`;
    text.append(title, detail);
    label.append(input, text);
    return label;
  }));
  showSettings();
}

const checked = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;

function showSettings() {
  at("strength").hidden = !WITH_STRENGTH.includes(checked("method"));
  at("quality").hidden = !DRAWN.includes(checked("method"));
  at("epsilon-value").textContent = Number(at("epsilon").value).toFixed(2);
}

function query(picture) {
  const asked = new URLSearchParams(), method = checked("method");
  if (method) {
    asked.set("method", WITH_STRENGTH.includes(method) ? `${method}-${at("epsilon").value}` : method);
  }
  if (DRAWN.includes(method)) asked.set("quality", checked("quality"));
  for (const box of picture.keep) asked.append("keep", box);
  return asked;
}

at("options").addEventListener("input", showSettings);
at("options").addEventListener("change", () => {
  for (const picture of pictures) again(picture);
});
at("options").addEventListener("submit", (event) => event.preventDefault());

// ---- pictures in and out

function add(files) {
  for (const file of files) {
    if (file.type && !file.type.startsWith("image/")) {
      say(`${file.name} is not a picture`);
      continue;
    }
    const dot = file.name.lastIndexOf(".");
    const [stem, suffix] = dot > 0 ? [file.name.slice(0, dot), file.name.slice(dot)] : [file.name, ""];
    const picture = {
      file, name: file.name, download: `${stem}-safe${suffix}`, keep: new Set(), state: "waiting",
      asked: 0,
    };
    picture.card = new Card(picture, { remove, toggle });
    pictures.push(picture);
    at("list").append(picture.card.root);
  }
  at("bar").hidden = !pictures.length;
  next();
}

function remove(picture) {
  pictures.splice(pictures.indexOf(picture), 1);
  picture.asked += 1;
  picture.card.close();
  at("bar").hidden = !pictures.length;
  say(`${picture.name} removed`);
  at("pictures").focus();
}

function toggle(picture, face) {
  const box = face.box.join(",");
  if (!picture.keep.delete(box)) picture.keep.add(box);
  again(picture);
}

function again(picture) {
  picture.asked += 1;
  picture.state = "waiting";
  picture.card.show();
  next();
}

function next() {
  const picture = pictures.find((one) => one.state === "waiting");
  if (!picture || running >= AT_ONCE) return;
  running += 1;
  make(picture).finally(() => { running -= 1; next(); });
  next();
}

async function make(picture) {
  const asked = picture.asked;
  picture.state = "busy";
  picture.card.show();
  const end = await answered(picture);
  if (asked !== picture.asked) return;  // something else was asked for meanwhile
  Object.assign(picture, end);
  picture.card.show();
  say(`${picture.name}: ${picture.card.sentence()[1]}`);
}

async function answered(picture) {
  for (let tried = 1; ; tried += 1) {
    let answer, body;
    try {
      answer = await fetch(`/v1/anonymize?${query(picture)}`, {
        method: "POST",
        headers: { "content-type": picture.file.type || "application/octet-stream",
          accept: "application/json", ...authorization() },
        body: picture.file,
      });
      body = await answer.json();
    } catch {
      return failed("The service does not answer");
    }
    if (answer.ok) return { state: "done", result: { ...body, blob: blobOf(body) } };
    const later = [429, 503].includes(answer.status) && !FATAL.includes(body.code);
    if (!later || tried >= TRIES) return failed(worded(body));
    const seconds = Number(answer.headers.get("retry-after")) || 1;
    await new Promise((done) => setTimeout(done, 1000 * Math.min(seconds, 10)));
  }
}

// Another try would cost the service another worker.
const FATAL = ["too_slow", "worker_lost"];

const failed = (problem) => ({ state: "failed", problem });

const WORDS = {
  no_face: "No face found, so nothing was made. If there is one, this service cannot see it",
  not_a_picture: "Not a whole picture",
  too_many_bytes: "Too large a file",
  too_slow: "It took too long",
  worker_lost: "It ended the process that worked on it",
  overloaded: "The service has too much to do; try again later",
};

function worded(problem) {
  return WORDS[problem.code] ?? problem.detail.replace(/^the picture: /, "");
}

function blobOf(body) {
  const bytes = Uint8Array.from(atob(body.image), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: body.media_type });
}

let saying = 0;
function say(text) {
  clearTimeout(saying);
  saying = setTimeout(() => { at("said").textContent = text; }, 100);
}

at("files").addEventListener("change", () => {
  add(at("files").files);
  at("files").value = "";
});
at("clear").addEventListener("click", () => { for (const picture of [...pictures]) remove(picture); });
at("all").addEventListener("click", async () => {
  for (const picture of pictures.filter((one) => one.state === "done")) {
    picture.card.part(".download").click();
    await new Promise((done) => setTimeout(done, 150));
  }
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
for (const kind of ["dragover", "dragenter"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); at("drop").classList.add("over"); });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  add(event.dataTransfer.files);
});

begin();
