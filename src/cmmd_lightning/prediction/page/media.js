/**
 * Clips from files, and clips to look at and listen to.
 * @module
 */

/** @typedef {{frames?: Float32Array, sound?: Float32Array, events?: number[]}} Clip Frames (T, 3, H, W) in [-1, 1]. */

/** Waits for one event of an element, or its error. */
const once = (element, name) =>
  new Promise((resolve, reject) => {
    element.addEventListener(name, resolve, { once: true });
    element.addEventListener("error", () => reject(new Error("no video that this browser can read")), { once: true });
  });

/** The part of a picture that is shown, and where, so that it fills (crop) or fits (letterbox) the model's frame. */
function placed(video, { width, height, fit }) {
  const scale = Math[fit === "crop" ? "max" : "min"](width / video.videoWidth, height / video.videoHeight);
  const [w, h] = [video.videoWidth * scale, video.videoHeight * scale];
  return [(width - w) / 2, (height - h) / 2, w, h];
}

/** Frames of the file from its beginning, as many as the clip has. */
async function readFrames(file, clip) {
  const video = document.createElement("video");
  video.muted = true;
  video.preload = "auto";
  video.src = URL.createObjectURL(file);
  try {
    await once(video, "loadeddata");
    if (!video.videoWidth) return undefined;
    if (video.duration < clip.num_frames / clip.fps - 0.5 / clip.fps) {
      throw new Error(`expected at least ${clip.num_frames / clip.fps} s of video, got ${video.duration.toFixed(2)} s`);
    }
    const canvas = new OffscreenCanvas(clip.width, clip.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    const size = clip.width * clip.height;
    const frames = new Float32Array(clip.num_frames * 3 * size);
    for (let t = 0; t < clip.num_frames; t++) {
      const seeked = once(video, "seeked");
      video.currentTime = Math.min(video.duration, (t + 0.01) / clip.fps);
      await seeked;
      context.fillRect(0, 0, clip.width, clip.height);
      context.drawImage(video, ...placed(video, clip));
      const pixels = context.getImageData(0, 0, clip.width, clip.height).data;
      for (let i = 0; i < 3 * size; i++) frames[(t * 3 + (i % 3)) * size + Math.floor(i / 3)] = pixels[4 * Math.floor(i / 3) + (i % 3)] / 127.5 - 1;
    }
    return frames;
  } finally {
    URL.revokeObjectURL(video.src);
  }
}

/** Mono sound of the file at the model's rate, from its beginning. */
async function readSound(file, clip, numSamples) {
  const context = new OfflineAudioContext(1, numSamples, clip.sample_rate);
  const buffer = await context.decodeAudioData(await file.arrayBuffer());
  if (buffer.length < numSamples - clip.sample_rate / clip.fps / 2) {
    throw new Error(`expected at least ${numSamples / clip.sample_rate} s of sound, got ${buffer.duration.toFixed(2)} s`);
  }
  const sound = new Float32Array(numSamples);
  for (let c = 0; c < buffer.numberOfChannels; c++) {
    const channel = buffer.getChannelData(c);
    for (let n = 0; n < Math.min(numSamples, channel.length); n++) sound[n] += channel[n] / buffer.numberOfChannels;
  }
  return sound;
}

/**
 * The beginning of a file, at the rates and size of the model.
 * @param {File} file
 * @param {object} clip `clip` of model.json.
 * @param {number} numSamples
 * @returns {Promise<Clip>} With what the file has of frames and sound.
 */
export async function readClip(file, clip, numSamples) {
  const [frames, sound] = await Promise.allSettled([readFrames(file, clip), readSound(file, clip, numSamples)]);
  if (!frames.value && !sound.value) {
    throw new Error(`${file.name}: ${(frames.reason ?? sound.reason).message}`);
  }
  return { frames: frames.value, sound: sound.value };
}

/** A clip on the page: picture, waveform with its events, motion of the picture, and a button to play it. */
export class ClipView {
  /**
   * @param {HTMLElement} root With a canvas .picture, a canvas .timeline and a button.
   * @param {object} clip `clip` of model.json.
   */
  constructor(root, clip) {
    this.spec = clip;
    this.picture = root.querySelector(".picture");
    this.timeline = root.querySelector(".timeline");
    this.button = root.querySelector("button");
    this.button.onclick = () => this.play();
    [this.picture.width, this.picture.height] = [clip.width, clip.height];
    this.show({});
  }

  /**
   * @param {Clip} content
   * @param {number[]} [motion]
   */
  show(content, motion) {
    this.content = { ...content, motion };
    this.button.disabled = !content.frames && !content.sound;
    this.drawFrame(0);
    this.drawTimeline();
  }

  drawFrame(t) {
    const { frames } = this.content, { width, height } = this.spec;
    const context = this.picture.getContext("2d"), size = width * height;
    context.clearRect(0, 0, width, height);
    if (!frames) return;
    const image = context.createImageData(width, height);
    for (let i = 0; i < size; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = (frames[(t * 3 + c) * size + i] + 1) * 127.5;
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }

  drawTimeline(time) {
    const { sound, motion, events = [] } = this.content;
    const { width, height } = this.timeline, context = this.timeline.getContext("2d");
    const { num_frames: count, fps } = this.spec;
    context.clearRect(0, 0, width, height);
    if (motion) {
      context.fillStyle = "#f5c26b";
      motion.forEach((value, t) => context.fillRect((t * width) / count, height - value * height * 0.5, width / count - 1, height));
    }
    if (sound) {
      context.fillStyle = "#3465a4";
      const greatest = sound.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-3);
      for (let x = 0; x < width; x++) {
        const part = sound.subarray(Math.floor((x * sound.length) / width), Math.floor(((x + 1) * sound.length) / width));
        const level = part.reduce((a, b) => Math.max(a, Math.abs(b)), 0) / greatest;
        context.fillRect(x, (height / 2) * (1 - level), 1, Math.max(1, height * level));
      }
    }
    const line = (at, color) => {
      context.fillStyle = color;
      context.fillRect((at * fps * width) / count - 1, 0, 2, height);
    };
    events.forEach((event) => line(event, "#cc0000"));
    if (time !== undefined) line(time, "#555");
  }

  /** Plays the clip once, the picture by the clock of the sound. */
  async play() {
    ClipView.context ??= new AudioContext();
    const context = ClipView.context, { sound } = this.content, { num_frames: count, fps } = this.spec;
    await context.resume();
    ClipView.source?.stop();
    const source = new AudioBufferSourceNode(context);
    ClipView.source = source;
    if (sound) {
      source.buffer = new AudioBuffer({ length: sound.length, sampleRate: this.spec.sample_rate });
      source.buffer.copyToChannel(sound, 0);
    }
    source.connect(context.destination);
    const begin = context.currentTime + 0.05;
    source.start(begin);
    const step = () => {
      const time = Math.max(0, context.currentTime - begin);
      const running = time < count / fps && ClipView.source === source;
      this.drawFrame(running ? Math.min(count - 1, Math.floor(time * fps)) : 0);
      this.drawTimeline(running ? time : undefined);
      if (running) requestAnimationFrame(step);
    };
    step();
  }
}
