/**
 * A model as `cmmd export` writes it: its networks in onnxruntime-web, its noise, codec and vocoder around the sampler.
 * @module
 */
import { LogMel } from "./mel.js";
import { Generator, exampleSeed, timeNoise } from "./noise.js";
import { alphaSigma, sample } from "./sampler.js";

/** Joins arrays end to end. */
function joined(parts) {
  const out = new Float32Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Brings (A, B, cells) to (B, A, cells). */
function swapped(values, first, second) {
  const cells = values.length / first / second;
  const out = new Float32Array(values.length);
  for (let a = 0; a < first; a++) {
    for (let b = 0; b < second; b++) {
      out.set(values.subarray((a * second + b) * cells, (a * second + b + 1) * cells), (b * first + a) * cells);
    }
  }
  return out;
}

/** A model in the browser, for clips of its own length. */
export class Model {
  /**
   * @param {object} ort The module onnxruntime-web.
   * @param {object} settings What model.json says.
   * @param {(name: string) => Promise<Uint8Array>} read Gives the file of a part, by its name.
   */
  static async load(ort, settings, read) {
    const model = new Model();
    model.ort = ort;
    model.settings = settings;
    model.clip = settings.clip;
    model.videoShape = [settings.latent_shape[0], settings.clip.num_frames, ...settings.latent_shape.slice(1)];
    const shift = settings.schedule.shift;
    model.shift = typeof shift === "number" ? { video: shift, audio: shift } : shift;
    model.mel = new LogMel(settings.clip, settings.griffin_lim);
    model.sessions = {};
    for (const name of Object.keys(settings.parts)) {
      model.sessions[name] = await ort.InferenceSession.create(await read(name), { executionProviders: ["wasm"] });
    }
    return model;
  }

  /** Runs a part on arrays with their shapes, in the order of its inputs. */
  async run(part, ...inputs) {
    const { inputs: names, outputs } = this.settings.parts[part];
    const feeds = Object.keys(names).map((name, i) => [name, new this.ort.Tensor("float32", ...inputs[i])]);
    const made = await this.sessions[part].run(Object.fromEntries(feeds));
    return outputs.map((name) => made[name].data);
  }

  /** The network, as the sampler takes it. */
  async velocities(batch, times) {
    const count = batch.length;
    const [video, audio] = await this.run(
      "network",
      [joined(batch.map((pair) => pair.video)), [count, ...this.videoShape]],
      [joined(batch.map((pair) => pair.audio)), [count, this.clip.n_mels, this.settings.mel_frames]],
      [Float32Array.from(times, (time) => time.video), [count]],
      [Float32Array.from(times, (time) => time.audio), [count]],
    );
    const part = (values, i) => values.slice((i * values.length) / count, ((i + 1) * values.length) / count);
    return batch.map((_, i) => ({ video: part(video, i), audio: part(audio, i) }));
  }

  /** Latents (C, T, h, w) with a function of value and channel applied. */
  perChannel(latents, change) {
    const cells = latents.length / this.videoShape[0];
    const { shift, scale } = this.settings.latents;
    return latents.map((value, i) => change(value, shift[Math.floor(i / cells)], scale[Math.floor(i / cells)]));
  }

  /**
   * @param {Float32Array} frames (T, 3, H, W) in [-1, 1].
   * @returns {Promise<Float32Array>} Normalised latents (C, T, h, w).
   */
  async encodeFrames(frames) {
    const { num_frames: count, height, width } = this.clip;
    const [mean] = await this.run("encoder", [frames, [count, 3, height, width]]);
    return this.perChannel(swapped(mean, count, this.videoShape[0]), (value, shift, scale) => (value - shift) / scale);
  }

  /**
   * @param {Float32Array} latents Normalised, (C, T, h, w).
   * @returns {Promise<Float32Array>} Frames (T, 3, H, W) in [-1, 1].
   */
  async decodeFrames(latents) {
    const raw = this.perChannel(latents, (value, shift, scale) => value * scale + shift);
    const [frames] = await this.run("decoder", [raw, [1, ...this.videoShape]]);
    return swapped(frames, 3, this.clip.num_frames).map((value) => Math.min(1, Math.max(-1, value)));
  }

  /**
   * @param {Float32Array} sound As long as the model's clip.
   * @returns {Float32Array} Normalised log-Mel (M, L).
   */
  encodeSound(sound) {
    const { mean, std } = this.settings.mel;
    return this.mel.encode(sound).map((value) => (value - mean) / std);
  }

  /**
   * @param {Float32Array} logMel Normalised, (M, L).
   * @returns {Promise<Float32Array>} Sound, by the model's Vocos or else by Griffin-Lim.
   */
  async decodeSound(logMel) {
    const { mel: { mean, std }, num_samples: count, mel_frames: frames } = this.settings;
    const raw = logMel.map((value) => value * std + mean);
    if (!this.sessions.vocoder) return this.mel.decode(raw, count);
    const [sound] = await this.run("vocoder", [raw, [1, this.clip.n_mels, frames]]);
    return sound.slice(0, count);
  }

  /** Noise of both modalities, as `LatentDiffusion.sample` draws it for the example "0". */
  noise(seed, purpose, generator = new Generator(exampleSeed(seed, `${purpose}/0`))) {
    const video = timeNoise(this.videoShape, this.settings.video_noise, generator);
    return { video, audio: generator.normal(this.clip.n_mels * this.settings.mel_frames) };
  }

  /**
   * Generates one clip; the same seed gives what the Python API gives.
   * @param {object} request
   * @param {import("./sampler.js").Task} request.task
   * @param {Float32Array} [request.frames] Condition (T, 3, H, W) in [-1, 1].
   * @param {Float32Array} [request.sound] Condition.
   * @param {number} request.seed
   * @param {number} request.steps
   * @param {number} request.guidance
   * @param {(step: number) => Promise<void>} [request.onStep]
   * @returns {Promise<{frames?: Float32Array, sound?: Float32Array, conditionError?: number}>} What was generated.
   */
  async generate({ task, frames, sound, seed, steps, guidance, onStep }) {
    const start = this.noise(seed, "start");
    if (task === "video_to_audio") start.video = await this.encodeFrames(frames);
    if (task === "audio_to_video") start.audio = this.encodeSound(sound);
    const conditionError = task === "joint" ? undefined : await this.conditionError(task, start);
    const made = await sample({
      network: (batch, times) => this.velocities(batch, times),
      shift: this.shift, task, start, dropped: this.noise(seed, "dropped"), steps, guidance, onStep,
    });
    return {
      frames: task === "video_to_audio" ? undefined : await this.decodeFrames(made.video),
      sound: task === "audio_to_video" ? undefined : await this.decodeSound(made.audio),
      conditionError,
    };
  }

  /** `condition_error`: how badly the model denoises the condition alone; above 1 it has not seen the like. */
  async conditionError(task, clean) {
    const given = task === "video_to_audio" ? "video" : "audio";
    const time = (2 / Math.PI) * Math.atan(this.shift[given] * 3); // where nine tenths of the power are noise
    const [alpha, sigma] = alphaSigma(this.shift[given], time);
    const noise = this.noise(0, "condition");
    const noisy = { ...noise, [given]: clean[given].map((x, i) => alpha * x + sigma * noise[given][i]) };
    const [made] = await this.velocities([noisy], [{ video: 1, audio: 1, [given]: time }]);
    const errors = made[given].map((v, i) => (v - alpha * noise[given][i] + sigma * clean[given][i]) ** 2);
    return errors.reduce((total, error) => total + error, 0) / errors.length;
  }
}
