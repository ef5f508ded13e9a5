/**
 * Sound to log-Mel and back by Griffin-Lim, as cmmd_lightning.codecs.mel and .vocoders have them.
 * @module
 */

/**
 * The discrete Fourier transform of one length.
 * @param {number} size A power of two.
 * @returns {(re: Float64Array, im: Float64Array) => void} In place.
 */
function fourier(size) {
  if (size & (size - 1)) throw new Error(`expected n_fft to be a power of two, got ${size}`);
  const cos = Float64Array.from({ length: size / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / size));
  const sin = Float64Array.from({ length: size / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / size));
  return (re, im) => {
    for (let i = 1, j = 0; i < size; i++) {
      let bit = size >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) [re[i], re[j], im[i], im[j]] = [re[j], re[i], im[j], im[i]];
    }
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const a = start + k, b = a + half;
          const c = cos[k * stride], s = -sin[k * stride];
          const x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
          re[b] = re[a] - x;
          im[b] = im[a] - y;
          re[a] += x;
          im[a] += y;
        }
      }
    }
  };
}

/** The log-Mel of a model, both ways. */
export class LogMel {
  /**
   * @param {object} clip `clip` of model.json.
   * @param {{n_iter: number, momentum: number}} [griffinLim]
   */
  constructor(clip, griffinLim = { n_iter: 32, momentum: 0.99 }) {
    this.size = clip.n_fft;
    this.hop = clip.hop_length;
    this.bands = clip.n_mels;
    this.floor = clip.mel_floor;
    this.bins = this.size / 2 + 1;
    this.iterations = griffinLim.n_iter;
    this.momentum = griffinLim.momentum / (1 + griffinLim.momentum);
    this.transform = fourier(this.size);
    this.window = Float64Array.from({ length: this.size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / this.size));
    this.bank = bank(this.bins, this.bands, clip.sample_rate);
    this.inverse = null;
  }

  /**
   * The spectra of windows that are centred on multiples of the hop, the ends mirrored.
   * @param {Float64Array | Float32Array} sound
   * @param {number} frames
   * @returns {{re: Float64Array[], im: Float64Array[]}}
   */
  spectra(sound, frames) {
    const re = [], im = [];
    const last = sound.length - 1;
    for (let l = 0; l < frames; l++) {
      const x = new Float64Array(this.size), y = new Float64Array(this.size);
      for (let i = 0; i < this.size; i++) {
        let n = l * this.hop - this.size / 2 + i;
        if (n < 0) n = -n;
        if (n > last) n = 2 * last - n;
        x[i] = this.window[i] * (sound[n] ?? 0);
      }
      this.transform(x, y);
      re.push(x);
      im.push(y);
    }
    return { re, im };
  }

  /**
   * @param {Float32Array} sound At least half a window long.
   * @returns {Float32Array} (M, L) log-Mel, not normalised.
   */
  encode(sound) {
    const frames = Math.ceil(sound.length / this.hop);
    const { re, im } = this.spectra(sound, frames);
    const out = new Float32Array(this.bands * frames);
    for (let l = 0; l < frames; l++) {
      const magnitude = Float64Array.from({ length: this.bins }, (_, k) => Math.hypot(re[l][k], im[l][k]));
      for (let m = 0; m < this.bands; m++) {
        const level = this.bank[m].reduce((total, weight, k) => total + weight * magnitude[k], 0);
        out[m * frames + l] = Math.log(Math.max(level, this.floor));
      }
    }
    return out;
  }

  /**
   * The least-squares linear spectrum of a log-Mel, its floor taken off, negative values cut.
   * @param {Float32Array} logMel (M, L)
   * @returns {Float64Array[]} L times F
   */
  magnitudes(logMel) {
    this.inverse ??= inverseOf(this.bank);
    const frames = logMel.length / this.bands;
    return Array.from({ length: frames }, (_, l) => {
      const spectrum = new Float64Array(this.bins);
      for (let m = 0; m < this.bands; m++) {
        const level = Math.sqrt(Math.max(0, Math.exp(2 * logMel[m * frames + l]) - this.floor ** 2));
        for (let k = 0; level && k < this.bins; k++) spectrum[k] += this.inverse[m][k] * level;
      }
      return spectrum.map((value) => Math.max(0, value));
    });
  }

  /**
   * Sound of a log-Mel by the fast Griffin-Lim algorithm, its phases starting at zero.
   * @param {Float32Array} logMel (M, L), not normalised.
   * @param {number} numSamples At most L hops.
   * @returns {Float32Array}
   */
  decode(logMel, numSamples) {
    const spectrum = this.magnitudes(logMel);
    const frames = Math.max(spectrum.length, Math.floor(this.size / 2 / this.hop) + 1);
    while (spectrum.length < frames + 1) spectrum.push(spectrum[spectrum.length - 1]);
    let re = spectrum.map((row) => row.slice()), im = spectrum.map((row) => new Float64Array(row.length));
    let before = null;
    for (let round = 0; round < this.iterations; round++) {
      const rebuilt = this.spectra(this.overlapped(re, im, frames * this.hop), frames + 1);
      for (let l = 0; l <= frames; l++) {
        for (let k = 0; k < this.bins; k++) {
          const x = rebuilt.re[l][k] - (before ? this.momentum * before.re[l][k] : 0);
          const y = rebuilt.im[l][k] - (before ? this.momentum * before.im[l][k] : 0);
          const scale = spectrum[l][k] / (Math.hypot(x, y) + 1e-16);
          re[l][k] = x * scale;
          im[l][k] = y * scale;
        }
      }
      before = rebuilt;
    }
    return Float32Array.from(this.overlapped(re, im, frames * this.hop).subarray(0, numSamples));
  }

  /** The sound of spectra: inverse transforms under the window, overlapped and added, over the windows' squares. */
  overlapped(re, im, length) {
    const half = this.size / 2;
    const sound = new Float64Array(length + this.size), power = new Float64Array(length + this.size);
    const x = new Float64Array(this.size), y = new Float64Array(this.size);
    for (let l = 0; l < re.length; l++) {
      for (let k = 0; k <= half; k++) {
        // the inverse is the forward transform of the conjugate; the sound is real
        x[k] = re[l][k];
        y[k] = k % half ? -im[l][k] : 0;
        if (k % half) {
          x[this.size - k] = re[l][k];
          y[this.size - k] = im[l][k];
        }
      }
      this.transform(x, y);
      for (let i = 0; i < this.size; i++) {
        sound[l * this.hop + i] += (this.window[i] * x[i]) / this.size;
        power[l * this.hop + i] += this.window[i] ** 2;
      }
    }
    return sound.subarray(half, half + length).map((value, i) => value / Math.max(power[half + i], 1e-11));
  }
}

/** Triangles on the HTK scale from 0 Hz to half the rate, not normalised: M times F. */
function bank(bins, bands, rate) {
  const toMel = (hertz) => 2595 * Math.log10(1 + hertz / 700);
  const edges = Array.from({ length: bands + 2 }, (_, i) => 700 * (10 ** ((toMel(rate / 2) * i) / (bands + 1) / 2595) - 1));
  return Array.from({ length: bands }, (_, m) => {
    const [low, centre, high] = edges.slice(m, m + 3);
    return Float64Array.from({ length: bins }, (_, k) => {
      const hertz = (rate / 2) * (k / (bins - 1));
      return Math.max(0, Math.min((hertz - low) / (centre - low), (high - hertz) / (high - centre)));
    });
  });
}

/** The pseudoinverse of a bank of independent bands, M times F: the bank over its Gram matrix, by Gauss-Jordan. */
function inverseOf(bands) {
  const size = bands.length;
  const dot = (a, b) => a.reduce((total, value, k) => total + value * b[k], 0);
  const rows = bands.map((one) => bands.map((other) => dot(one, other)));
  const out = bands.map((one) => one.slice());
  for (let p = 0; p < size; p++) {
    const pivot = rows[p][p];
    if (Math.abs(pivot) < 1e-12) throw new Error("expected independent Mel bands: use a larger n_fft or fewer bands");
    rows[p] = rows[p].map((value) => value / pivot);
    out[p] = out[p].map((value) => value / pivot);
    for (let r = 0; r < size; r++) {
      const factor = rows[r][p];
      if (r === p || !factor) continue;
      rows[r] = rows[r].map((value, c) => value - factor * rows[p][c]);
      out[r] = out[r].map((value, k) => value - factor * out[p][k]);
    }
  }
  return out;
}
