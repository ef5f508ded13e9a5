/**
 * New clips of the scene `bounce`, after cmmd_lightning.procedural.bounce: of the same kind, not the same clips.
 * @module
 */
import { Generator, exampleSeed } from "./noise.js";

const SIZES = [0.085, 0.16];
const PARTIALS = {
  bar: [[1, 1], [2.756, 0.5], [5.404, 0.3], [8.933, 0.15]],
  pluck: [1, 2, 3, 4, 5, 6].map((k) => [k, 1 / k]),
  bell: [[0.5, 0.3], [1, 1], [1.19, 0.5], [2, 0.5], [2.74, 0.35], [4.07, 0.2]],
};
const S60 = Math.sqrt(3) / 2;
/** Signed distance in radii, and from the centre down to the lowest point. */
const OUTLINES = {
  disc: { distance: (x, y) => Math.hypot(x, y) - 1, foot: 1 },
  square: { distance: (x, y) => Math.max(Math.abs(x), Math.abs(y)) - 0.88, foot: 0.88 },
  triangle: { distance: (x, y) => Math.max(Math.abs(x) * S60 - y * 0.5, y) - 0.66, foot: 0.66 },
  hexagon: { distance: (x, y) => Math.max(Math.abs(x) * S60 + Math.abs(y) * 0.5, Math.abs(y)) - 0.94, foot: 0.94 },
  diamond: { distance: (x, y) => (Math.abs(x) + Math.abs(y) - 1.15) * Math.SQRT1_2, foot: 1.15 },
};
const REACH = { disc: 1, square: 1.25, triangle: 1.33, hexagon: 1.1, diamond: 1.15 };

/** RGB in [0, 255] of hue, saturation and value in [0, 1]. */
function hsv(hue, saturation, value) {
  const channel = (n) => {
    const k = (n + 6 * (((hue % 1) + 1) % 1)) % 6;
    return 255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1)));
  };
  return [channel(5), channel(3), channel(1)];
}

/** Value at x of the line through the points. */
function interpolated(x, xs, ys) {
  const after = xs.findIndex((other) => other > x);
  const i = after < 0 ? xs.length - 1 : Math.max(after, 1);
  return ys[i - 1] + Math.min(1, Math.max(0, (x - xs[i - 1]) / (xs[i] - xs[i - 1]))) * (ys[i] - ys[i - 1]);
}

/** Draws the shape and its performance. */
function cast(rng, duration, number, count, taken) {
  const [least, most] = count === 1 ? [0.35, 0.9] : [0.65, 1.35];
  const beta = () => {
    for (;;) {
      const x = rng.uniform();
      if (rng.uniform(0, 0.583) < x ** 0.2 * (1 - x)) return x;
    }
  };
  const impacts = [-2 * most - rng.uniform(0, most)];
  const isFree = (time) =>
    !(time >= 0 && time < 0.05) && !(time > duration - 0.1 && time < duration) && taken.every((other) => Math.abs(other - time) >= 0.08);
  while (impacts[impacts.length - 1] < duration || impacts.length < 3) {
    const draws = Array.from({ length: 24 }, () => impacts[impacts.length - 1] + least + (most - least) * beta());
    impacts.push(draws.find(isFree) ?? draws[0]);
  }
  const radius = SIZES[0] * ((count === 1 ? SIZES[1] : 0.125) / SIZES[0]) ** rng.uniform();
  const [left, right] = [number / count + 1.3 * radius, (number + 1) / count - 1.3 * radius];
  let walk = rng.uniform();
  const steps = rng.normal(Math.max(16, impacts.length));
  const places = impacts.map((_, i) => {
    walk += Math.min(0.5, Math.max(-0.5, 0.3 * steps[i]));
    return left + (right - left) * (1 - Math.abs((((walk % 2) + 2) % 2) - 1));
  });
  const pick = (names) => names[Math.floor(rng.uniform(0, names.length))];
  return {
    impacts, places, radius, longest: most,
    flights: impacts.map((time, i) => (i ? time - impacts[i - 1] : most)),
    outline: pick(Object.keys(OUTLINES)),
    timbre: pick(["bar", "drum", "pluck", "bell"]),
    tau: (0.08 * (0.25 / 0.08) ** rng.uniform()) / 3.45,
    pitch: 200 * (SIZES[1] / radius) ** (Math.log(900 / 200) / Math.log(SIZES[1] / SIZES[0])),
  };
}

/** A wall, its texture and the floor: (H, W, 3), and the colours that go with it. */
function backdrop(rng, height, width, floor) {
  const dark = rng.uniform() < 0.65, hue = rng.uniform();
  const value = dark ? rng.uniform(0.16, 0.38) : rng.uniform(0.78, 0.96);
  const saturation = dark ? rng.uniform(0.15, 0.6) : rng.uniform(0.05, 0.3);
  const contrast = rng.uniform(0.08, 0.22);
  const below = hsv(hue + rng.uniform(-0.12, 0.12), saturation * rng.uniform(0.7, 1.2), value * (dark ? rng.uniform(0.45, 0.7) : rng.uniform(0.6, 0.8)));
  const kind = Math.floor(rng.uniform(0, 4));
  const angle = rng.uniform(0, 2 * Math.PI), scale = rng.uniform(2, 4.5), phase = rng.uniform(0, 2 * Math.PI);
  const wave = (x) => Math.sin(2 * Math.PI * scale * x + phase);
  const wall = hsv(hue, saturation, value);
  const image = new Float32Array(3 * height * width);
  for (let i = 0; i < height * width; i++) {
    const v = (Math.floor(i / width) + 0.5) / height, u = ((i % width) + 0.5) / width;
    const along = Math.cos(angle) * (u - 0.5) + Math.sin(angle) * (v - 0.5);
    const pattern = [
      1.5 * along, 1 - 3.2 * ((u - 0.5) ** 2 + (v - 0.4) ** 2), 0.5 * Math.tanh(3 * wave(along)), 0.5 * Math.tanh(4 * wave(u) * wave(v)),
    ][kind];
    const texture = 1 + contrast * Math.min(1, Math.max(-1, pattern));
    const edge = Math.min(1, Math.max(0, Math.floor(i / width) + 1 - floor * height));
    const shade = 1 + (0.25 * (v - floor)) / (1 - floor);
    for (let c = 0; c < 3; c++) image[3 * i + c] = wall[c] * texture * (1 - edge) + below[c] * shade * edge;
  }
  return { image, dark, hue };
}

/** Paints a stretched outline onto a picture (H, W, 3), in place. */
function paint(picture, width, x, y, [rx, ry], color, opacity, softness = 1, distance = OUTLINES.disc.distance) {
  const smallest = Math.min(rx, ry);
  for (let i = 0; opacity > 0.004 && i < picture.length / 3; i++) {
    const away = distance(((i % width) + 0.5 - x) / rx, (Math.floor(i / width) + 0.5 - y) / ry) * smallest;
    const cover = opacity * Math.min(1, Math.max(0, 0.5 - away / softness));
    for (let c = 0; cover && c < 3; c++) picture[3 * i + c] += cover * (color[c] - picture[3 * i + c]);
  }
}

/** Paints a shape at a time, with its shadow and the glow of its impacts. */
function paintShape(picture, { height, width }, shape, color, time, floor) {
  const { impacts, places, flights, longest } = shape;
  const radius = shape.radius * Math.min(height, width), outline = OUTLINES[shape.outline];
  const after = Math.min(impacts.findIndex((impact) => impact > time), impacts.length - 1);
  const near = impacts.findIndex((impact) => impact > time - 0.09);
  const squash = interpolated(time - impacts[near], [-0.03, 0, 0.04, 0.09], [0, 1, 1, 0]) * (0.6 + (0.4 * flights[near]) / longest);
  const wide = radius * (1 + 0.35 * squash), tall = radius * (1 - 0.42 * squash);
  const lift = (4 * (time - impacts[after - 1]) * (impacts[after] - time)) / longest ** 2;
  const span = Math.max(floor - (outline.foot + REACH[shape.outline]) * radius - 0.03 * height, 0.1 * height);
  const x = interpolated(time, impacts, places) * width, y = floor - lift * span - outline.foot * tall;
  const ground = floor + 0.25 * radius;
  const light = color.map((value) => value + (255 - value) * 0.55);
  paint(picture, width, x, ground, [radius * (1.15 - 0.35 * lift), 0.32 * radius], [0, 0, 0], 0.15 + 0.4 * (1 - lift) ** 3, 0.25 * radius);
  const glow = Math.exp(-(time - impacts[after - 1]) / 0.09), spread = radius * (2 - 0.9 * glow);
  paint(picture, width, places[after - 1] * width, ground, [spread, 0.3 * spread], light, 0.9 * glow, 0.4 * radius);
  paint(picture, width, x, y, [wide, tall], color, 1, 1, outline.distance);
  paint(picture, width, x - 0.3 * wide, y - 0.3 * tall * outline.foot, [0.22 * wide, 0.22 * tall], light, 0.8);
}

/** Adds the sound of an impact, in place. */
function strike(sound, rate, time, shape, gain, rng) {
  const first = Math.max(0, Math.ceil(time * rate)), last = Math.min(sound.length, first + rate);
  const noise = rng.normal(Math.max(16, last - first));
  const { pitch, tau } = shape;
  const partials = (PARTIALS[shape.timbre] ?? []).filter(([ratio]) => ratio * pitch < 0.45 * rate);
  const total = 0.75 * (PARTIALS[shape.timbre] ?? []).reduce((sum, [, level]) => sum + level, 0);
  for (let n = first; n < last; n++) {
    const since = n / rate - time, attack = 1 - Math.exp(-since / 0.0003);
    let value;
    if (shape.timbre === "drum") {
      const turn = 2 * Math.PI * pitch * (since + 0.015 * (1 - Math.exp(-since / 0.015)));
      value = attack * Math.exp(-since / tau) * Math.sin(turn + 0.8) + 0.25 * noise[n - first] * Math.exp(-since / 0.006);
    } else {
      value = 0.25 * noise[n - first] * Math.exp(-since / 0.002);
      for (const [ratio, level] of partials) {
        value += (level / total) * Math.exp((-since * Math.sqrt(Math.max(ratio, 1))) / tau) * Math.sin(2 * Math.PI * ratio * pitch * since);
      }
      value *= attack;
    }
    sound[n] += gain * value;
  }
}

/**
 * Draws a clip.
 * @param {number} seed
 * @param {object} clip `clip` of model.json.
 * @param {number} numSamples
 * @returns {{frames: Float32Array, sound: Float32Array, events: number[]}} Frames (T, 3, H, W) in [-1, 1], sound, and
 *   the times of the impacts in seconds.
 */
export function bounce(seed, clip, numSamples) {
  const rng = new Generator(exampleSeed(seed, "page/bounce"));
  const { num_frames: count, fps, height, width, sample_rate: rate } = clip;
  const duration = count / fps, shapes = [];
  const number = rng.uniform() < 0.3 ? 2 : 1;
  for (let i = 0; i < number; i++) shapes.push(cast(rng, duration, i, number, shapes.flatMap((shape) => shape.impacts)));
  const floor = rng.uniform(0.82, 0.9);
  const { image, dark, hue } = backdrop(rng, height, width, floor);
  const first = hue + rng.uniform(0.25, 0.75), second = first + rng.uniform(0.3, 0.7);
  const colors = [first, second].map((own) => hsv(own, rng.uniform(0.45, 0.95), dark ? rng.uniform(0.88, 1) : rng.uniform(0.35, 0.7)));
  const frames = new Float32Array(count * 3 * height * width);
  for (let t = 0; t < count; t++) {
    const picture = image.slice();
    shapes.forEach((shape, i) => paintShape(picture, clip, shape, colors[i], t / fps, floor * height));
    for (let i = 0; i < picture.length; i++) {
      frames[(t * 3 + (i % 3)) * height * width + Math.floor(i / 3)] = Math.min(255, Math.max(0, picture[i])) / 127.5 - 1;
    }
  }
  const room = 10 ** (rng.uniform(-58, -44) / 20);
  const sound = rng.normal(numSamples).map((value) => value * room);
  const events = strikes(shapes, duration, sound, rate, rng);
  return { frames, sound: sound.map((value) => Math.min(1, Math.max(-1, value))), events };
}

/** Adds all impacts to the sound, in place; their times. */
function strikes(shapes, duration, sound, rate, rng) {
  const events = [], gain = rng.uniform(-8, -4);
  for (const shape of shapes) {
    shape.impacts.forEach((time, i) => {
      if (time < 0 || time >= duration) return;
      const level = gain + 28 * Math.log10(shape.flights[i] / shape.longest);
      strike(sound, rate, time, shape, 10 ** (level / 20), rng);
      events.push(time);
    });
  }
  return events.sort((a, b) => a - b);
}
