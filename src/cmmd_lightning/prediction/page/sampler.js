/**
 * DDIM of video and sound together, as cmmd_lightning.diffusion.sampling has it: velocities, one schedule each.
 * @module
 */

/** @typedef {"video_to_audio" | "audio_to_video" | "joint"} Task */
/** @typedef {{video: Float32Array, audio: Float32Array}} Pair Latents (C, T, h, w) and log-Mel (M, L), normalised. */
/**
 * @callback Network
 * @param {Pair[]} batch Noisy data, one pair per example.
 * @param {{video: number, audio: number}[]} times Their times.
 * @returns {Promise<Pair[]>} Velocities.
 */

/**
 * Factors of signal and noise of the cosine schedule at time t, exact at both ends.
 * @param {number} shift
 * @param {number} t
 * @returns {[number, number]} alpha and sigma
 */
export function alphaSigma(shift, t) {
  const signal = shift * Math.sin((1 - t) * (Math.PI / 2));
  const noise = Math.sin(t * (Math.PI / 2));
  const norm = Math.hypot(signal, noise);
  return [signal / norm, noise / norm];
}

/**
 * One deterministic step from time t down to time s.
 * @param {number} shift
 * @param {Float32Array} z
 * @param {Float32Array} v
 * @param {number} t
 * @param {number} s
 * @returns {Float32Array}
 */
export function ddimStep(shift, z, v, t, s) {
  const [alpha, sigma] = alphaSigma(shift, t);
  const [alphaAfter, sigmaAfter] = alphaSigma(shift, s);
  return z.map((value, i) => alphaAfter * (alpha * value - sigma * v[i]) + sigmaAfter * (sigma * value + alpha * v[i]));
}

/**
 * Velocities led away from those without a partner: v_away + scale (v - v_away), all forwards in one batch.
 * @param {Network} network
 * @param {Task} task
 * @param {Pair} dropped Noise that stands for the dropped modality.
 * @param {number} scale
 * @returns {(z: Pair, times: {video: number, audio: number}) => Promise<Pair>}
 */
export function guided(network, task, dropped, scale) {
  const audio = task !== "audio_to_video" && scale !== 1;
  const video = task !== "video_to_audio" && scale !== 1;
  return async (z, times) => {
    const batch = [z], at = [times];
    if (audio) {
      batch.push({ video: dropped.video, audio: z.audio });
      at.push({ video: 1, audio: times.audio });
    }
    if (video) {
      batch.push({ video: z.video, audio: dropped.audio });
      at.push({ video: times.video, audio: 1 });
    }
    const made = await network(batch, at);
    const lead = (v, away) => v.map((value, i) => away[i] + scale * (value - away[i]));
    return {
      audio: audio ? lead(made[0].audio, made[1].audio) : made[0].audio,
      video: video ? lead(made[0].video, made[made.length - 1].video) : made[0].video,
    };
  };
}

/**
 * Draws what the task generates; a condition is held clean and comes back as it was given.
 * @param {object} run
 * @param {Network} run.network
 * @param {{video: number, audio: number}} run.shift Of the schedules.
 * @param {Task} run.task
 * @param {Pair} run.start Noise, or the clean condition.
 * @param {Pair} run.dropped
 * @param {number} run.steps
 * @param {number} run.guidance
 * @param {(step: number) => Promise<void>} [run.onStep]
 * @returns {Promise<Pair>}
 */
export async function sample({ network, shift, task, start, dropped, steps, guidance, onStep }) {
  if (!["video_to_audio", "audio_to_video", "joint"].includes(task)) {
    throw new Error(`task must be video_to_audio, audio_to_video or joint, got ${task}`);
  }
  if (!(steps >= 1)) throw new Error(`steps must be at least 1, got ${steps}`);
  const denoise = guided(network, task, dropped, guidance);
  let z = start;
  for (let i = 0; i < steps; i++) {
    const [t, s] = [1 - i / steps, 1 - (i + 1) / steps];
    const v = await denoise(z, { video: task === "video_to_audio" ? 0 : t, audio: task === "audio_to_video" ? 0 : t });
    z = {
      video: task === "video_to_audio" ? z.video : ddimStep(shift.video, z.video, v.video, t, s),
      audio: task === "audio_to_video" ? z.audio : ddimStep(shift.audio, z.audio, v.audio, t, s),
    };
    await onStep?.(i);
  }
  return z;
}
