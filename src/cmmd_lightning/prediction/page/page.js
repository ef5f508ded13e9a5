/**
 * The page: what is picked, what is generated, and both beside each other.
 * @module
 */
import { matches, motion, onsets } from "./events.js";
import { ClipView, readClip } from "./media.js";
import { Model } from "./model.js";
import { bounce } from "./scene.js";

const element = (id) => document.getElementById(id);
const say = (text) => (element("status").textContent = text);
const pause = () => new Promise((resolve) => setTimeout(resolve));

/** The bytes of a part of this page: gzip in base64. */
async function embedded(name) {
  const answer = await fetch(`data:application/octet-stream;base64,${element(name).textContent.trim()}`);
  return new Uint8Array(await new Response(answer.body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

/** onnxruntime-web, from the page itself. */
async function runtime() {
  const address = async (name, type) => URL.createObjectURL(new Blob([await embedded(name)], { type }));
  const ort = await import(await address("ort.mjs", "text/javascript"));
  ort.env.wasm.numThreads = 1; // more would need a server that isolates the page
  ort.env.wasm.wasmPaths = {
    mjs: await address("ort-wasm.mjs", "text/javascript"), wasm: await address("ort.wasm", "application/wasm"),
  };
  return ort;
}

const page = { truth: {}, made: {} };

/** Shows a clip in a view, with the onsets of its sound where its events are not known. */
function show(view, clip) {
  const { mel, clip: spec } = page.model;
  clip.events ??= clip.sound && onsets(mel, clip.sound, spec.sample_rate);
  page[view].show(clip, clip.frames && motion(clip.frames, spec.num_frames));
}

function choose(clip, name) {
  page.truth = clip;
  element("source").textContent = name;
  show("left", clip);
  show("right", {});
}

function draw() {
  const seed = Number(element("scene").value);
  const { clip, settings } = page.model;
  choose(bounce(seed, clip, settings.num_samples), `drawn clip ${seed}`);
}

async function open(file) {
  say(`Reading ${file.name} ...`);
  choose(await readClip(file, page.model.clip, page.model.settings.num_samples), file.name);
  say(`${file.name}: its first ${page.model.settings.clip.num_frames / page.model.clip.fps} s.`);
}

/** What a person sees at a glance of the result. */
function verdict(made, seconds) {
  const parts = [`Generated in ${seconds.toFixed(1)} s.`];
  if (made.sound && page.truth.events && element("task").value !== "joint") {
    const { truth } = page;
    parts.push(`${matches(truth.events, made.events)} of ${truth.events.length} events of the true clip have an onset within 50 ms; ${made.events.length} onsets generated.`);
  }
  if (made.conditionError > 1) {
    parts.push(`This clip is unlike those that the model was trained on (condition error ${made.conditionError.toFixed(2)}, theirs is below 1): expect noise.`);
  }
  return parts.join(" ");
}

async function generate() {
  const began = performance.now();
  const task = element("task").value, steps = Number(element("steps").value);
  const needed = { video_to_audio: "frames", audio_to_video: "sound" }[task];
  if (needed && !page.truth[needed]) throw new Error(`${task} needs a clip with ${needed === "frames" ? "a picture" : "sound"}`);
  const made = await page.model.generate({
    task, steps, ...page.truth, seed: Number(element("seed").value), guidance: Number(element("guidance").value),
    onStep: async (step) => {
      say(`Step ${step + 1} of ${steps} ...`);
      await pause();
    },
  });
  made.frames ??= page.truth.frames;
  if (!made.sound) [made.sound, made.events] = [page.truth.sound, page.truth.events];
  page.made = made;
  show("right", made);
  say(verdict(made, (performance.now() - began) / 1000));
}

/** Runs one action at a time, and says what went wrong. */
async function run(action) {
  const controls = document.querySelectorAll("#controls button, #controls input, #controls select");
  controls.forEach((control) => (control.disabled = true));
  try {
    await action();
    document.body.dataset.state = "ready";
  } catch (error) {
    say(error.message);
    document.body.dataset.state = "failed";
  } finally {
    controls.forEach((control) => (control.disabled = false));
  }
}

async function start() {
  say("Loading the model ...");
  const settings = JSON.parse(element("model.json").textContent);
  page.model = await Model.load(await runtime(), settings, (name) => embedded(`${name}.onnx`));
  for (const side of ["left", "right"]) page[side] = new ClipView(element(side), settings.clip);
  draw();
  await generate();
  document.body.dataset.firstSound = (performance.now() / 1000).toFixed(2);
}

element("draw").onclick = () => run(() => {
  element("scene").value = Number(element("scene").value) + 1;
  draw();
  return generate();
});
element("scene").onchange = () => run(() => draw());
element("generate").onclick = () => run(generate);
element("file").onchange = (event) => event.target.files.length && run(() => open(event.target.files[0]));
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) run(() => open(event.dataTransfer.files[0]));
};
globalThis.cmmd = page;
run(start);
