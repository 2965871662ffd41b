// One picture as a person sees it: before and after, its verdict, and a choice for each face.

const MADE_BY = {
  swap: "a new face", adversarial: "alike, but a stranger to recognizers", fgsm: "noise",
  pgd: "noise", blur: "blurred", pixelate: "pixelated", mask: "covered",
};
const plural = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;

export class Card {
  // `picture`: {file, name, result, keep: Set of box names, state, problem}; `act`: what it asks for
  constructor(picture, act) {
    this.picture = picture;
    this.act = act;
    this.root = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.part = (selector) => this.root.querySelector(selector);
    this.part(".name").textContent = picture.name;
    const remove = this.part(".remove");
    remove.setAttribute("aria-label", `Remove ${picture.name}`);
    remove.addEventListener("click", () => act.remove(picture));
    const slider = this.part(".slider");
    slider.setAttribute("aria-label", `${picture.name}: how much of the original is shown`);
    slider.addEventListener("input", () => this.divide(slider.value));
    this.originalUrl = URL.createObjectURL(picture.file);
    this.part(".original").src = this.originalUrl;
    this.part(".original").addEventListener("error", () => this.part(".original").remove());
    this.part(".safe").addEventListener("load", () => this.drawFaces());
    this.part(".safe").addEventListener("error", () => {
      this.part(".compare").hidden = true;
      this.note(["This browser cannot show the format; the file is in its own."]);
    });
    this.divide(50);
    this.show();
  }

  divide(percent) {
    this.part(".compare").style.setProperty("--at", `${percent}%`);
    this.part(".slider").setAttribute("aria-valuetext", `${percent} percent original`);
  }

  close() {
    URL.revokeObjectURL(this.originalUrl);
    if (this.safeUrl) URL.revokeObjectURL(this.safeUrl);
    this.root.remove();
  }

  // What it is now, in a sentence; also said aloud.
  sentence() {
    const { state, problem, result } = this.picture;
    if (state === "waiting") return ["busy", "Waiting"];
    if (state === "busy") return ["busy", "Making it safe"];
    if (state === "failed") return ["bad", problem];
    const kept = result.faces.filter((face) => face.verdict === "kept").length;
    const masked = result.faces.filter((face) => face.verdict === "masked").length;
    const changed = result.faces.length - kept;
    if (!result.faces.length) return ["warn", "No face found; look for yourself before you share it"];
    if (!changed) return ["warn", `${plural(kept, "face")} kept by you, none changed`];
    const said = [`${plural(changed, "face")} changed and verified`];
    if (masked) said.push(`${masked} of them covered`);
    if (kept) said.push(`${kept} kept by you`);
    return [kept ? "warn" : "good", said.join(", ")];
  }

  show() {
    const { state, result } = this.picture;
    const [mood, text] = this.sentence();
    this.part(".verdict").className = `verdict ${mood}`;
    this.part(".verdict").textContent = text;
    this.root.setAttribute("aria-busy", String(state === "busy" || state === "waiting"));
    const safe = state === "done";
    this.part(".actions").hidden = !safe;
    if (state === "failed") {  // an older answer is not what was asked for by now
      for (const name of [".compare", ".faces", ".notes"]) this.part(name).hidden = true;
    }
    if (!safe) return;
    if (this.safeUrl) URL.revokeObjectURL(this.safeUrl);
    this.safeUrl = URL.createObjectURL(result.blob);
    this.part(".compare").hidden = this.part(".faces").hidden = false;
    this.part(".safe").src = this.safeUrl;
    this.part(".safe").alt = `${this.picture.name}, made safe`;
    if (this.part(".original")) this.part(".original").alt = "";
    const link = this.part(".download");
    link.href = this.safeUrl;
    link.download = this.picture.download;
    link.setAttribute("aria-label", `Download ${this.picture.download}`);
    this.note(result.notes);
    this.part(".faces").hidden = !result.faces.length;
  }

  note(notes) {
    const list = this.part(".notes");
    list.replaceChildren(...notes.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
    list.hidden = !notes.length;
  }

  drawFaces() {
    const image = this.part(".safe");
    const wide = image.naturalWidth / image.naturalHeight;
    this.part(".compare").style.setProperty("--wide", wide);  // so that a tall one fits the screen
    const focused = document.activeElement;
    const place = this.root.contains(focused) ? focused.dataset.face : undefined;
    const boxes = [], rows = [];
    this.picture.result.faces.forEach((face, index) => {
      boxes.push(this.box(face, index, image));
      rows.push(this.row(face, index, image));
    });
    this.part(".boxes").replaceChildren(...boxes);
    this.part(".faces ol").replaceChildren(...rows);
    if (place !== undefined) this.root.querySelector(`[data-face="${place}"]`)?.focus();
  }

  toggle(face, index, where) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.face = `${where}${index}`;
    button.setAttribute("aria-pressed", String(face.verdict === "kept"));
    button.addEventListener("click", () => this.act.toggle(this.picture, face));
    return button;
  }

  box(face, index, image) {
    const [x0, y0, x1, y1] = face.box;
    const button = this.toggle(face, index, "box");
    const label = document.createElement("span");
    label.textContent = index + 1;
    button.append(label);
    button.setAttribute("aria-label", `Keep face ${index + 1} as it is`);
    button.title = face.verdict === "kept" ? "Kept; click to change it" : "Changed; click to keep it";
    Object.assign(button.style, {
      left: `${100 * x0 / image.naturalWidth}%`, top: `${100 * y0 / image.naturalHeight}%`,
      width: `${100 * (x1 - x0) / image.naturalWidth}%`,
      height: `${100 * (y1 - y0) / image.naturalHeight}%`,
    });
    return button;
  }

  row(face, index, image) {
    const item = document.createElement("li"), said = document.createElement("div");
    const title = document.createElement("b"), detail = document.createElement("small");
    title.textContent = `Face ${index + 1}`;
    detail.textContent = this.told(face);
    said.append(title, detail);
    const button = this.toggle(face, index, "row");
    button.textContent = face.verdict === "kept" ? "Kept" : "Keep";
    button.setAttribute("aria-label", `Keep face ${index + 1} as it is`);
    item.append(this.thumbnail(face, image), said, button);
    return item;
  }

  told(face) {
    if (face.verdict === "kept") return "kept as it is, by you";
    const method = face.method.split("+")[0].split("-")[0];
    const made = MADE_BY[method] ?? method;
    const tries = face.level > 1 ? `, at try ${face.level}` : "";
    if (face.verdict === "masked") return `covered${tries}`;
    return `${made}${tries}; no recognizer knows it again`;
  }

  thumbnail(face, image) {
    const [x0, y0, x1, y1] = face.box, side = Math.max(x1 - x0, y1 - y0) * 1.25;
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 88;
    canvas.setAttribute("aria-hidden", "true");
    canvas.getContext("2d").drawImage(
      image, (x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side, side, 0, 0, 88, 88);
    return canvas;
  }
}
