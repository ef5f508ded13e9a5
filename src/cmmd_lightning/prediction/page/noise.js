/**
 * Noise that follows from a seed as it does in Python: blake2b gives the seed, torch's Mersenne Twister the numbers.
 * @module
 */

const WORD = (1n << 64n) - 1n;
const IV = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
const ORDER = [
  "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
  "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
].map((row) => Array.from(row, (digit) => parseInt(digit, 16)));
const MIXED = [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15], [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]];

/**
 * The first 8 bytes of BLAKE2b with a digest of 8 bytes (RFC 7693), of a text of at most 128 bytes.
 * @param {string} text
 * @returns {bigint} little-endian
 */
function blake2b(text) {
  const bytes = new TextEncoder().encode(text);
  if (bytes.length > 128) throw new Error(`expected a text of at most 128 bytes, got ${bytes.length}`);
  const block = new Uint8Array(128);
  block.set(bytes);
  const words = new BigUint64Array(block.buffer);
  const first = IV[0] ^ 0x01010008n;
  const v = [first, ...IV.slice(1), ...IV];
  v[12] ^= BigInt(bytes.length);
  v[14] ^= WORD;
  const turn = (x, bits) => ((x >> bits) | (x << (64n - bits))) & WORD;
  for (let round = 0; round < 12; round++) {
    MIXED.forEach(([a, b, c, d], i) => {
      const order = ORDER[round % 10];
      for (const [word, one, two] of [[order[2 * i], 32n, 24n], [order[2 * i + 1], 16n, 63n]]) {
        v[a] = (v[a] + v[b] + words[word]) & WORD;
        v[d] = turn(v[d] ^ v[a], one);
        v[c] = (v[c] + v[d]) & WORD;
        v[b] = turn(v[b] ^ v[c], two);
      }
    });
  }
  return first ^ v[0] ^ v[8];
}

/**
 * `example_seed(seed, -1, 0, purpose)` of cmmd_lightning.data.randomness.
 * @param {number} seed
 * @param {string} purpose
 * @returns {bigint}
 */
export const exampleSeed = (seed, purpose) => blake2b(`${seed}/-1/0/${purpose}`) >> 1n;

/** `torch.Generator` of the CPU. */
export class Generator {
  /** @param {bigint} seed */
  constructor(seed) {
    const state = new Uint32Array(624);
    state[0] = Number(seed & 0xffffffffn);
    for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
    this.state = state;
    this.next = 624;
  }

  /** @returns {number} 32 random bits */
  bits() {
    const state = this.state;
    if (this.next === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.next = 0;
    }
    let y = state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /**
   * @param {number} low
   * @param {number} high
   * @returns {number} in [low, high)
   */
  uniform(low = 0, high = 1) {
    return low + (high - low) * ((this.bits() & 0xffffff) / 0x1000000);
  }

  /**
   * `torch.randn` of at least 16 numbers.
   * @param {number} count
   * @returns {Float32Array}
   */
  normal(count) {
    if (count < 16) throw new Error(`expected at least 16 numbers, got ${count}`);
    const out = new Float32Array(count);
    const fill = (start) => {
      for (let i = start; i < start + 8; i++) {
        const radius = Math.sqrt(-2 * Math.log(1 - out[i]));
        const angle = 2 * Math.PI * out[i + 8];
        out[i] = radius * Math.cos(angle);
        out[i + 8] = radius * Math.sin(angle);
      }
    };
    for (let i = 0; i < count; i++) out[i] = this.uniform();
    for (let start = 0; start + 16 <= count; start += 16) fill(start);
    if (count % 16) {
      for (let i = count - 16; i < count; i++) out[i] = this.uniform();
      fill(count - 16);
    }
    return out;
  }
}

/**
 * `TimeNoise.draw`: normal noise of one clip, alike along time.
 * @param {number[]} shape [C, T, h, w]
 * @param {{shared: number, persistence: number}} settings
 * @param {Generator} generator
 * @returns {Float32Array}
 */
export function timeNoise([channels, frames, height, width], { shared, persistence }, generator) {
  const cells = height * width;
  const noise = generator.normal(channels * frames * cells);
  const fresh = Math.sqrt(1 - persistence ** 2);
  const alike = shared ? generator.normal(channels * cells) : null;
  for (let c = 0; c < channels; c++) {
    for (let t = 1; persistence && t < frames; t++) {
      const start = (c * frames + t) * cells;
      for (let i = start; i < start + cells; i++) noise[i] = persistence * noise[i - cells] + fresh * noise[i];
    }
    for (let t = 0; shared && t < frames; t++) {
      const start = (c * frames + t) * cells;
      for (let i = 0; i < cells; i++) {
        noise[start + i] = Math.sqrt(shared) * alike[c * cells + i] + Math.sqrt(1 - shared) * noise[start + i];
      }
    }
  }
  return noise;
}
