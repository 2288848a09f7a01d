/** Pixel values of photos: what `hfcap.ondevice.image_processing` computes, for the browser. */

import { resize } from "./resize.js";

// Above this many pixels a canvas may come back empty on a phone, without an error.
const MAX_PIXELS = 120_000_000;

/**
 * Decode a photo: upright, without its color profile, on white where it is transparent.
 *
 * @param {Blob} file
 * @returns {Promise<{data: Uint8ClampedArray, width: number, height: number}>} RGB, three bytes per pixel
 * @throws {Error} with a message for people, where the browser cannot decode the file
 */
export async function decode(file) {
  // Pillow does not apply color profiles; browsers do unless told otherwise.
  const options = { colorSpaceConversion: "none", imageOrientation: "from-image" };
  const bitmap = await createImageBitmap(file, options).catch(() => {
    throw new Error("This file cannot be read as a photo: save it as JPEG or PNG and choose it again.");
  });
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) {
    throw new Error(`This photo has ${width} x ${height} pixels, too many for a browser: make it smaller and choose it again.`);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8ClampedArray(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { data, width, height };
}

/**
 * Resize, crop and normalize a photo by the settings of an image processor.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image RGB
 * @param {object} settings `image_processor` of hfcap_ondevice.json
 * @returns {{values: Float32Array, height: number, width: number}} channels first
 */
export function pixelValues(image, settings) {
  if (settings.do_resize) image = resized(image, settings);
  if (settings.do_center_crop) image = centerCrop(image, settings.crop_size.height, settings.crop_size.width);
  const size = image.width * image.height;
  const values = new Float32Array(3 * size);
  for (let channel = 0; channel < 3; channel++) {
    const table = valueOfByte(settings, channel);
    for (let place = 0; place < size; place++) values[channel * size + place] = table[image.data[3 * place + channel]];
  }
  return { values, height: image.height, width: image.width };
}

function resized(image, settings) {
  const { size, resample } = settings;
  if (settings.image_processor_type === "ConvNextImageProcessor") {
    const edge = size.shortest_edge;
    if (edge >= 384) return resize(image, edge, edge, resample);
    const [height, width] = sizeOfShortestEdge(image, Math.trunc(edge / settings.crop_pct));
    return centerCrop(resize(image, width, height, resample), edge, edge);
  }
  const [height, width] = size.shortest_edge
    ? sizeOfShortestEdge(image, size.shortest_edge)
    : [size.height, size.width];
  return resize(image, width, height, resample);
}

function sizeOfShortestEdge({ width, height }, edge) {
  const short = Math.min(width, height);
  const long = Math.trunc((edge * Math.max(width, height)) / short);
  return width <= height ? [long, edge] : [edge, long];
}

/** The middle of an image, with black around it where it is smaller. */
function centerCrop({ data, width, height }, toHeight, toWidth) {
  const left = Math.floor((width - toWidth) / 2);
  const top = Math.floor((height - toHeight) / 2);
  const result = new Uint8ClampedArray(toWidth * toHeight * 3);
  for (let y = Math.max(0, -top); y < Math.min(toHeight, height - top); y++) {
    const firstColumn = Math.max(0, -left);
    const lastColumn = Math.min(toWidth, width - left);
    const from = ((y + top) * width + firstColumn + left) * 3;
    result.set(data.subarray(from, from + (lastColumn - firstColumn) * 3), (y * toWidth + firstColumn) * 3);
  }
  return { data: result, width: toWidth, height: toHeight };
}

/** What each byte becomes in a channel, rounded to 32 bits where NumPy rounds. */
function valueOfByte(settings, channel) {
  const of = (value) => Math.fround(Array.isArray(value) ? value[channel] : value);
  return Float32Array.from({ length: 256 }, (_, byte) => {
    let value = settings.do_rescale ? Math.fround(byte * settings.rescale_factor) : byte;
    if (settings.do_rescale && settings.rescale_offset) value = Math.fround(value - 1);
    if (settings.do_normalize) value = Math.fround(Math.fround(value - of(settings.image_mean)) / of(settings.image_std));
    return settings.include_top ? value / of(settings.image_std) : value;
  });
}
