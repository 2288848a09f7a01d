/** The page: choose or drop photos, read, edit and copy their alt texts. All of it stays in this browser. */

const chooser = document.getElementById("chooser");
const drop = document.getElementById("drop");
const list = document.getElementById("photos");
const template = document.getElementById("photo");
const status = document.getElementById("status");
const problem = document.getElementById("problem");
const copyAll = document.getElementById("copy-all");

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let lastId = 0;

worker.onmessage = ({ data }) => {
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error) reject(new Error(data.error));
  else resolve(data);
};
worker.onerror = (event) => {
  event.preventDefault();
  const error = new Error("A file of this page is missing or damaged. Export the model again with --web.");
  for (const { reject } of waiting.values()) reject(error);
  waiting.clear();
  fail(error);
};

function ask(question) {
  const id = ++lastId;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, ...question });
  });
}

function fail(error) {
  problem.textContent = error.message;
  problem.hidden = false;
  status.textContent = "No captions: see the message above.";
  chooser.disabled = true;
}

const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

let asked = 0;
let done = 0;
let unread = 0;

function say() {
  const left = unread ? ` ${counted(unread, "file")} could not be read.` : "";
  status.textContent = done < asked ? `Captioning: ${done} of ${asked} done.` : `${counted(asked - unread, "photo")} done.${left}`;
}

async function add(file) {
  const item = template.content.firstElementChild.cloneNode(true);
  const [image, name, text, message, copy] = ["img", "h3", "textarea", ".message", ".copy"].map((one) => item.querySelector(one));
  const id = `photo-${list.children.length + 1}`;
  name.id = `${id}-name`;
  name.textContent = file.name;
  text.id = id;
  item.querySelector("label").htmlFor = id;
  text.setAttribute("aria-describedby", name.id);
  copy.setAttribute("aria-label", `Copy the alt text of ${file.name}`);
  image.src = URL.createObjectURL(file);
  list.append(item);
  try {
    const { text: caption } = await ask({ file });
    text.value = caption;
    image.alt = caption;
    text.disabled = copy.disabled = false;
    message.textContent = caption ? "" : "The model said nothing about this photo.";
  } catch (error) {
    unread += 1;
    item.classList.add("failed");
    item.querySelector("figure").remove();
    item.querySelector(".edit").remove();
    message.textContent = error.message;
  }
  text.addEventListener("input", () => (image.alt = text.value));
  copy.addEventListener("click", async () => {
    message.textContent = (await copied(text.value)) ? "Copied." : "Copying is not allowed here; select the text instead.";
  });
  done += 1;
  copyAll.hidden = false;
  say();
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // no permission, or a page that is not served over HTTPS or from this machine
  }
}

async function addAll(files) {
  asked += files.length;
  say();
  await Promise.all(files.map(add)); // the worker answers one after another
}

chooser.addEventListener("change", () => {
  const files = [...chooser.files];
  chooser.value = ""; // the same file can be chosen again
  addAll(files);
});
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (!chooser.disabled) addAll([...event.dataTransfer.files]);
});
copyAll.addEventListener("click", async () => {
  const rows = [...list.querySelectorAll("li:not(.failed)")];
  const lines = rows.map((row) => `${row.querySelector("h3").textContent}\t${row.querySelector("textarea").value}`);
  const isCopied = await copied(lines.join("\n"));
  status.textContent = isCopied ? `${counted(rows.length, "alt text")} copied.` : "Copying is not allowed here.";
});

ask({}).then(
  ({ device }) => {
    chooser.disabled = false;
    status.textContent = `The model is ready (${device === "webgpu" ? "WebGPU" : "WebAssembly"}). Choose photos.`;
  },
  fail,
);
