// Calls of the page's modules, read as JSON: {page, runtime?, export?, calls: [[what, argument], ...]}; results as JSON.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const request = JSON.parse(readFileSync(0, "utf8"));
const load = (folder, file) => import(pathToFileURL(`${folder}/${file}`));
const { Generator, exampleSeed, timeNoise } = await load(request.page, "noise.js");
const { LogMel } = await load(request.page, "mel.js");
const { alphaSigma } = await load(request.page, "sampler.js");
const { Model } = await load(request.page, "model.js");
const { bounce } = await load(request.page, "scene.js");
const { matches, motion, onsets } = await load(request.page, "events.js");

let model;
if (request.runtime) {
  const ort = await load(request.runtime, "ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = readFileSync(`${request.runtime}/ort-wasm-simd-threaded.wasm`);
  const settings = JSON.parse(readFileSync(`${request.export}/model.json`));
  model = await Model.load(ort, settings, (name) => readFileSync(`${request.export}/${name}.onnx`));
}

const floats = (values) => values && Float32Array.from(values);
const calls = {
  seed: ([seed, purpose]) => String(exampleSeed(seed, purpose)),
  normal: ([seed, count]) => new Generator(BigInt(seed)).normal(count),
  timeNoise: ([seed, shape, settings]) => timeNoise(shape, settings, new Generator(BigInt(seed))),
  alphaSigma: ([shift, t]) => alphaSigma(shift, t),
  mel: ({ clip, sound }) => new LogMel(clip).encode(floats(sound)),
  sound: ({ clip, mel, numSamples }) => new LogMel(clip).decode(floats(mel), numSamples),
  bounce: ({ seed, clip, numSamples }) => bounce(seed, clip, numSamples),
  onsets: ({ clip, sound }) => onsets(new LogMel(clip), floats(sound), clip.sample_rate),
  motion: ({ frames, count }) => motion(floats(frames), count),
  matches: ([truth, made]) => matches(truth, made),
  noise: ([seed, purpose]) => model.noise(seed, purpose),
  encodeFrames: (frames) => model.encodeFrames(floats(frames)),
  generate: ({ frames, sound, ...rest }) => model.generate({ frames: floats(frames), sound: floats(sound), ...rest }),
};
const results = [];
for (const [what, argument] of request.calls) results.push(await calls[what](argument));
const plain = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
process.stdout.write(JSON.stringify(results, plain));
