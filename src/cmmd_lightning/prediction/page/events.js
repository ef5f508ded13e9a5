/**
 * What happens when, by simple rules: enough to look at, no measure. `cmmd evaluate` measures.
 * @module
 */

/**
 * Onsets: local peaks of the mean rise of the log-Mel, at least 80 ms apart and a quarter of the greatest.
 * @param {import("./mel.js").LogMel} mel
 * @param {Float32Array} sound
 * @param {number} sampleRate
 * @returns {number[]} seconds
 */
export function onsets(mel, sound, sampleRate) {
  const levels = mel.encode(sound);
  const frames = levels.length / mel.bands;
  const rise = new Float64Array(frames);
  for (let m = 0; m < mel.bands; m++) {
    for (let l = 1; l < frames; l++) rise[l] += Math.max(0, levels[m * frames + l] - levels[m * frames + l - 1]) / mel.bands;
  }
  const least = Math.max(0.1, rise.reduce((a, b) => Math.max(a, b)) / 4);
  const gap = Math.ceil((0.08 * sampleRate) / mel.hop);
  const found = [];
  for (let l = 1; l < frames; l++) {
    const near = rise.subarray(Math.max(0, l - gap), l + gap + 1);
    if (rise[l] >= least && near.every((value) => value <= rise[l])) found.push((l * mel.hop + mel.size / 4) / sampleRate);
  }
  return found;
}

/**
 * How much each frame differs from the one before, the greatest being 1.
 * @param {Float32Array} frames (T, 3, H, W)
 * @param {number} count T
 * @returns {number[]}
 */
export function motion(frames, count) {
  const size = frames.length / count;
  const change = Array.from({ length: count }, (_, t) => {
    let total = 0;
    for (let i = t * size; t && i < (t + 1) * size; i++) total += Math.abs(frames[i] - frames[i - size]);
    return total;
  });
  const greatest = Math.max(...change) || 1;
  return change.map((value) => value / greatest);
}

/**
 * How many of the true events have a generated one within 50 ms, each used once.
 * @param {number[]} truth
 * @param {number[]} generated
 * @returns {number}
 */
export function matches(truth, generated) {
  const left = [...generated];
  return truth.filter((time) => {
    const i = left.findIndex((other) => Math.abs(other - time) <= 0.05);
    if (i >= 0) left.splice(i, 1);
    return i >= 0;
  }).length;
}
