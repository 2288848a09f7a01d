/**
 * Pillow's resizing, in JavaScript: the same bytes as `Image.resize` of Pillow 13.
 *
 * A canvas resizes with a filter of its own choice, and captions depend on it. Followed is `ImagingResample` for 8 bits
 * (src/libImaging/Resample.c of Pillow 13.0): fixed-point coefficients of 22 bits, each pass rounded to bytes.
 * `tests/ondevice/test_page_pixels.py` compares the bytes.
 */

const PRECISION_BITS = 32 - 8 - 2;

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

/** Filters by Pillow's number: half their width, and their value at a distance. */
const FILTERS = {
  1: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)], // LANCZOS
  2: [1, (x) => Math.max(0, 1 - Math.abs(x))], // BILINEAR
  3: [2, bicubic],
  4: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)], // BOX
};

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/**
 * Resize an image.
 *
 * @param {{data: Uint8ClampedArray | Uint8Array, width: number, height: number}} image RGB, three bytes per pixel.
 * @param {number} width of the result
 * @param {number} height of the result
 * @param {number} filter Pillow's number: 1 Lanczos, 2 bilinear, 3 bicubic, 4 box
 * @returns {{data: Uint8ClampedArray, width: number, height: number}} RGB
 */
export function resize(image, width, height, filter) {
  if (image.width === width && image.height === height) return image;
  if (!(filter in FILTERS)) throw new Error(`no filter ${filter}`);
  const horizontal = (one) => (one.width === width ? one : resizeRows(one, width, filter));
  const vertical = (one) => (one.height === height ? one : resizeColumns(one, height, filter));
  // As Pillow decides since version 13; the two orders round differently.
  const removed = image.height - height;
  const verticalFirst = removed > 0 && removed > 2 * (image.width - width);
  return verticalFirst ? horizontal(vertical(image)) : vertical(horizontal(image));
}

/** For each place of the result: the first place of the source that counts, and the weights from there on. */
function coefficients(from, to, filter) {
  const [halfWidth, weight] = FILTERS[filter];
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = halfWidth * stretch;
  const found = [];
  for (let place = 0; place < to; place++) {
    const center = (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const weights = [];
    let sum = 0;
    for (let x = start; x < end; x++) {
      weights.push(weight((x - center + 0.5) * (1 / stretch)));
      sum += weights.at(-1);
    }
    const fixed = weights.map((one) => {
      const scaled = (sum === 0 ? one : one / sum) * (1 << PRECISION_BITS);
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    found.push({ start, weights: Int32Array.from(fixed) });
  }
  return found;
}

function resizeRows({ data, width, height }, to, filter) {
  const result = new Uint8ClampedArray(to * height * 3);
  const places = coefficients(width, to, filter);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < to; x++) {
      weigh(data, (y * width + places[x].start) * 3, 3, places[x].weights, result, (y * to + x) * 3);
    }
  }
  return { data: result, width: to, height };
}

function resizeColumns({ data, width, height }, to, filter) {
  const result = new Uint8ClampedArray(width * to * 3);
  const places = coefficients(height, to, filter);
  for (let y = 0; y < to; y++) {
    for (let x = 0; x < width; x++) {
      weigh(data, (places[y].start * width + x) * 3, width * 3, places[y].weights, result, (y * width + x) * 3);
    }
  }
  return { data: result, width, height: to };
}

/** Write one pixel: the weighted sum of pixels `step` bytes apart. */
function weigh(data, start, step, weights, result, place) {
  const half = 1 << (PRECISION_BITS - 1);
  let red = half;
  let green = half;
  let blue = half;
  for (let i = 0, at = start; i < weights.length; i++, at += step) {
    red += data[at] * weights[i];
    green += data[at + 1] * weights[i];
    blue += data[at + 2] * weights[i];
  }
  result[place] = red >> PRECISION_BITS; // a clamped array, as Pillow's clip8
  result[place + 1] = green >> PRECISION_BITS;
  result[place + 2] = blue >> PRECISION_BITS;
}
