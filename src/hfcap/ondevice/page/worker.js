/** Loads the captioner and captions photos, away from the thread that draws the page. */

import { AutoModelForImageTextToText, AutoModelForVision2Seq, AutoTokenizer, Tensor, env } from "./vendor/transformers.min.js";

import { decode, pixelValues } from "./pixels.js";

const FOLDER = new URL("..", import.meta.url); // of the export
const SETTINGS = "hfcap_ondevice.json";
const LAYOUTS = { encoder_decoder: AutoModelForVision2Seq, decoder_only: AutoModelForImageTextToText };
const DTYPES = { none: "fp32", float16: "fp16", int8: "q8" };
const SCHEMA_VERSION = 1;

// Nothing is fetched from anywhere but the folder that this page is in.
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.useBrowserCache = false;
// transformers.js looks for a model below a folder of models; this one is the folder itself, wherever it is served.
const NAME = "hfcap-captioner";
env.fetch = (address, options) => {
  const [, file] = String(address).split(`/${NAME}/`);
  return fetch(file === undefined ? address : new URL(file, FOLDER), options);
};

let captioner;

/** An error whose message is for the person who looks at the page. */
class PageError extends Error {}

async function settingsOf(name) {
  const response = await fetch(new URL(name, FOLDER)).catch(() => null);
  if (!response?.ok) throw new PageError(`The file ${name} of the model is missing. Export the model again.`);
  return response.json().catch(() => {
    throw new PageError(`The file ${name} of the model is damaged. Export the model again.`);
  });
}

/** Whether there is a WebGPU device, which int8 graphs would run slower on. */
async function gpu(dtype) {
  return dtype !== "q8" && Boolean(await navigator.gpu?.requestAdapter().catch(() => null));
}

async function load() {
  const settings = await settingsOf(SETTINGS);
  const config = await settingsOf("config.json");
  const Model = LAYOUTS[settings.layout];
  if (settings.schema_version !== SCHEMA_VERSION || !Model) {
    throw new PageError(
      `This page runs captioners of hfcap, and the folder has a model of another kind (${config.model_type}).`,
    );
  }
  const recommended = config["transformers.js_config"]?.dtype;
  const variant = Object.keys(settings.variants).find((name) => DTYPES[name] === recommended);
  const dtype = DTYPES[variant ?? Object.keys(settings.variants)[0]];
  for (const { file } of Object.values(settings.variants[variant ?? Object.keys(settings.variants)[0]])) {
    const found = await fetch(new URL(file, FOLDER), { method: "HEAD" }).catch(() => null);
    if (!found?.ok) throw new PageError(`The file ${file} of the model is missing. Export the model again.`);
  }
  const device = (await gpu(dtype)) ? "webgpu" : "wasm";
  const build = device === "webgpu" ? ".asyncify" : "";
  env.backends.onnx.wasm.wasmPaths = {
    mjs: new URL(`./vendor/ort-wasm-simd-threaded${build}.mjs`, import.meta.url).href,
    wasm: new URL(`./vendor/ort-wasm-simd-threaded${build}.wasm`, import.meta.url).href,
  };
  // Several threads need a page that is cross-origin isolated, which plain static servers do not make it.
  if (!self.crossOriginIsolated) env.backends.onnx.wasm.numThreads = 1;
  const tokenizer = await AutoTokenizer.from_pretrained(NAME);
  const model = await Model.from_pretrained(NAME, { dtype, device });
  return { settings, tokenizer, model, device };
}

async function caption(file) {
  const { settings, tokenizer, model } = captioner;
  let image;
  try {
    image = await decode(file);
  } catch (error) {
    throw new PageError(error.message);
  }
  const { values, height, width } = pixelValues(image, settings.image_processor);
  const inputs = { pixel_values: new Tensor("float32", values, [1, 3, height, width]) };
  if (settings.layout === "decoder_only") {
    const ids = BigInt64Array.from(settings.prompt_ids, BigInt);
    inputs.input_ids = new Tensor("int64", ids, [1, ids.length]);
    inputs.attention_mask = new Tensor("int64", new BigInt64Array(ids.length).fill(1n), [1, ids.length]);
  }
  const { decoding } = settings;
  const found = await model.generate({
    ...inputs,
    max_new_tokens: decoding.max_new_tokens,
    num_beams: 1, // transformers.js has no beam search
    do_sample: false,
  });
  const tokens = found.tolist()[0].map(Number).slice(settings.prompt_ids.length);
  const clean = settings.clean_up_tokenization_spaces;
  return tokenizer.decode(tokens, { skip_special_tokens: true, clean_up_tokenization_spaces: clean }).trim();
}

/** Answer one question at a time, in order: {id, file}, or {id} to load the captioner. */
let last = Promise.resolve();
self.onmessage = ({ data: { id, file } }) => {
  last = last.then(async () => {
    try {
      captioner ??= await load();
      const started = performance.now();
      const text = file ? await caption(file) : null;
      self.postMessage({ id, text, device: captioner.device, milliseconds: performance.now() - started });
    } catch (error) {
      const said = error instanceof PageError ? error.message : `The model cannot be run here: ${error.message}`;
      self.postMessage({ id, error: said });
    }
  });
};
