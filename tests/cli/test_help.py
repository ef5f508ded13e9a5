"""Help and refusals: own flags first, at once, and every typical mistake answered with what to do."""

import inspect
import json
import subprocess
import sys
from fnmatch import fnmatch

import pytest
import torch
from command_line import cmmd
from lightning.pytorch import Trainer

from cmmd_lightning import CMMD, AudioVideoDataModule, ClipSpec, FrameAutoencoderModule, NetworkSpec, ObjectiveSpec
from cmmd_lightning.cli.commands import COMMANDS
from cmmd_lightning.cli.dispatch import _with_options_behind_classes, run
from cmmd_lightning.cli.flags import GROUPS, OF_COMMAND, nearest
from cmmd_lightning.cli.help import FUNCTIONS, LIGHTNING, page
from cmmd_lightning.cli.messages import one_line
from cmmd_lightning.cli.signatures import arguments_of
from cmmd_lightning.cli.usage import UsageError, with_successor
from cmmd_lightning.evaluation.generated import EvaluationSpec
from cmmd_lightning.media import write_sound
from cmmd_lightning.prediction.requests import GenerationSpec

pytestmark = pytest.mark.filterwarnings("ignore")


# ---- what is told of arguments is true


@pytest.mark.parametrize(
    ("place", "true"),
    [
        *zip(GROUPS.values(), (CMMD, AudioVideoDataModule, Trainer, GenerationSpec, EvaluationSpec), strict=True),
        (("cmmd_lightning.training.autoencoder", "FrameAutoencoderModule"), FrameAutoencoderModule),
        (("cmmd_lightning.data.clips", "ClipSpec"), ClipSpec),
        (("cmmd_lightning.models.unet", "NetworkSpec"), NetworkSpec),
        (("cmmd_lightning.training.module", "ObjectiveSpec"), ObjectiveSpec),  # where it is imported
        *((("cmmd_lightning.cli.commands", name), COMMANDS[name]) for name in FUNCTIONS),
    ],
)
def test_arguments_are_those_of_the_signature(place, true):
    told = {argument.name: argument for argument in arguments_of(*place)}
    assert list(told) == [name for name in inspect.signature(true).parameters if name != "self"]
    for name, parameter in inspect.signature(true).parameters.items():
        assert (told[name].default is None) == (parameter.default is inspect.Parameter.empty)
        if isinstance(parameter.default, int | float | str):
            assert told[name].default == str(parameter.default)
        if true is not Trainer:
            assert told[name].text, name


def test_kinds_and_parts_are_read_through_imports():
    clip, network, *_ = arguments_of("cmmd_lightning.training.module", "CMMD")
    parts = {part.name: part for part in clip.parts}
    assert (parts["fit"].kind, parts["fit"].default, parts["num_frames"].kind) == ("{crop,letterbox}", "crop", "int")
    assert {part.name for part in network.parts} >= {"video_channels", "fusion"}
    task, inputs, *_ = arguments_of(*GROUPS["generate"])
    assert "video_to_audio" in task.kind
    assert inputs.text == "Media files, or folders of them; none for joint."


# ---- pages


def flags_in_full(text: str) -> list[str]:
    """Those with a line of their own."""
    lines = text.splitlines()
    pairs = zip(lines, [*lines[1:], ""], strict=True)
    return [line.split()[0][2:] for line, below in pairs if line.startswith("  --") and below.startswith(" " * 8)]


def test_a_page_begins_with_what_is_the_commands_own():
    shown = page("predict")
    assert shown.startswith("usage: cmmd predict --ckpt_path FILE --generate.task TASK")
    own = [f"generate.{argument.name}" for argument in arguments_of(*GROUPS["generate"])]
    assert [name for name in flags_in_full(shown) if "." in name] == own
    assert shown.index("--generate.guidance_scale") < shown.index("--trainer.accelerator")
    assert shown.splitlines()[-1] == "cmmd predict --help_all tells all of it, Lightning's too, at length."
    assert len(shown.splitlines()) < 80


def test_the_page_of_fit_lists_the_flags_of_model_and_data():
    shown = flags_in_full(page("fit"))
    for group, found in {"model": arguments_of(*GROUPS["model"]), "data": arguments_of(*GROUPS["data"])}.items():
        for argument in found:
            names = [f"{argument.name}.{part.name}" for part in argument.parts] or [argument.name]
            assert all(f"{group}.{name}" in shown for name in names) or (group, argument.name) in {
                ("data", "clip"),  # as the model's
                ("data", "codec"),
            }


@pytest.mark.parametrize("command", [*LIGHTNING, *FUNCTIONS])
def test_usage_names_the_command(command):
    assert page(command).startswith(f"usage: cmmd {command} ")


def test_help_all_is_the_parsers_own(tmp_path):
    done = cmmd("evaluate", "--help_all", cwd=tmp_path)
    assert done.status == 0
    assert done.out.startswith("usage: cmmd evaluate ")
    done = cmmd("predict", "--help_all", cwd=tmp_path)
    assert "--trainer.enable_model_summary {true,false,null}" in done.out


AT_ONCE = """
import json, sys
from cmmd_lightning.cli import main
for line in json.loads(sys.argv[1]):
    sys.argv = ["cmmd", *line.split()]
    try:
        main()
    except SystemExit as stop:
        print(stop.code)
print(sorted({"torch", "lightning", "av", "scipy"} & set(sys.modules)))
"""


def test_help_and_mistyped_flags_import_nothing_heavy(tmp_path):
    helps = [f"{command} --help" for command in (*LIGHTNING, *FUNCTIONS)]
    wrong = [f"{command} --generate.tsk x" for command in (*LIGHTNING, *FUNCTIONS)]
    run = [sys.executable, "-c", AT_ONCE, json.dumps([*helps, *wrong, "fit --config quickstart.yaml --model.lr 1"])]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    codes = [line for line in done.stdout.splitlines() if line in ("0", "1", "2")]
    assert codes == ["0"] * len(helps) + ["2"] * (len(wrong) + 1), done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


# ---- mistakes


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("model.lr", "model.learning_rate"),
        ("task", "generate.task"),
        ("gpus", "trainer.devices"),
        ("epochs", "trainer.max_epochs"),
        ("batch_size", "data.batch_size"),
        ("data.batchsize", "data.batch_size"),
        ("checkpoint", "ckpt_path"),
        ("output", "generate.output_dir"),
        ("trainr.max_steps", "trainer.max_steps"),
        ("model.clip.frames", "model.clip.num_frames"),
        ("zzz", None),
    ],
)
def test_the_nearest_flag(typed, meant):
    known = [f"{group}.{one.name}" for group in OF_COMMAND["fit"] for one in arguments_of(*GROUPS[group])]
    known += [f"generate.{one.name}" for one in arguments_of(*GROUPS["generate"])] + ["ckpt_path"]
    known += [f"model.clip.{one.name}" for one in arguments_of("cmmd_lightning.data.clips", "ClipSpec")]
    assert nearest(typed, known) == meant


QUICK = "fit --config quickstart.yaml"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (f"{QUICK} --model.lr 1", "--model.lr: did you mean --model.learning_rate? cmmd fit --help lists them"),
        ("predict --task v2a x.mp4", "--task: did you mean --generate.task? cmmd predict --help lists them"),
        ("predict --ckpt_path demo x.mp4", "x.mp4: expected a flag; files go behind --generate.inputs"),
        ("predit", "predit: expected a command of fit, *; did you mean predict?"),
        (
            "predict --ckpt_path demo --generate.task dub",
            "--generate.task: expected one of video_to_audio, audio_to_video, joint*, got dub",
        ),
        (f"{QUICK} --model.learning_rate fast", "--model.learning_rate: expected a number, got fast"),
        (f"{QUICK} --trainer.max_steps many", "--trainer.max_steps: expected a whole number, got many"),
        (f"{QUICK} --trainer.max_steps -5", "`max_steps` must be a non-negative integer or -1 * You passed in -5."),
        (f"{QUICK} --model.objective.bound x", "--model.objective.bound: expected one of linear, hinge, infonce*"),
        (f"{QUICK} --model.schedule_shift x", "--model.schedule_shift: expected a number, got x"),
        (f"{QUICK} --trainer.logger CSVLogger", "*--trainer.logger.init_args.save_dir is missing: cmmd fit --help*"),
        (f"{QUICK} --data.source Segments", "*--data.source.init_args.table is missing: cmmd fit --help*"),
        (f"{QUICK} --data.source Aist --data.source.cam x", "*Aist: Option 'cam' is not accepted"),
        (
            f"{QUICK} --data.source epic_sounds --data.source.annotations x",
            "--data.source: Expected * string: epic_sounds; with settings of its own: --data.source EpicSounds",
        ),
        (f"{QUICK} --data.segments x", "--data.segments: now --data.source.table, of --data.source Segments"),
        (f"{QUICK} --config moved.yaml", "moved.yaml: data.annotations: now --data.source.annotations, of *"),
        ("fit", "data: expected a folder of media files, got nothing there: name yours by --data.root"),
        ("evaluate --task joint", "--generated is missing: cmmd evaluate --help says what it is"),
        ("render bounce", "output_dir is missing: cmmd render --help says what it is"),
        ("predict --generate.task joint", "predict: expected --ckpt_path with a checkpoint, got none"),
        ("predict --ckpt_path text.ckpt", "text.ckpt: expected a checkpoint of cmmd_lightning, got another file *"),
        ("predict --ckpt_path demo --generate.task v2a", "*expected media files or folders*"),
        (f"{QUICK} --config wrong.yaml", "wrong.yaml: model.lr: did you mean model.learning_rate? *"),
        (f"{QUICK} --config section.yaml", "section.yaml: modle: did you mean model? *"),
        (f"{QUICK} --config broken.yaml", "broken.yaml: expected a config in YAML, got text that is none *"),
        ("fit --config quick.yaml", "quick.yaml: expected a config file or one of *"),
        (f"{QUICK} --ckpt_path demo", "fit: expected a training checkpoint, got demo, weights only: *"),
    ],
)
def test_typical_mistakes_are_answered_in_one_line(line, answer, tmp_path):
    (tmp_path / "wrong.yaml").write_text("model: {class_path: cmmd_lightning.CMMD, init_args: {lr: 1}}")
    (tmp_path / "section.yaml").write_text("modle: {}")
    (tmp_path / "broken.yaml").write_text("model: [")
    (tmp_path / "moved.yaml").write_text("data: {annotations: x}")
    (tmp_path / "text.ckpt").write_text("text")
    done = cmmd(*line.split(), cwd=tmp_path)
    assert done.status in (1, 2)
    assert len(done.errors) == 1, done.err
    said = done.errors[0].removeprefix("cmmd: error: ")
    assert fnmatch(said, answer), said
    assert "Traceback" not in done.err
    assert not any(word in said for word in ("typing.", "<class", "Parser key", "class_path"))


def test_a_flag_against_the_checkpoint_says_how_to_go_on(tmp_path):
    done = cmmd("predict", "--ckpt_path", "demo", "--model.clip.height", "32", "--generate.task", "joint", cwd=tmp_path)
    (line,) = done.errors
    assert line.endswith(
        "and keeps it; leave the flag out, or train another one by fit with --ckpt_path null and another "
        "--trainer.default_root_dir"
    )


def test_a_gpu_without_room_says_what_needs_less():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert one_line(error, []).startswith(
        "CUDA out of memory. Tried to allocate 2 GiB; less is needed with a smaller --data"
    )


def test_configs_and_checkpoints_of_classes_of_ones_own_are_left_to_the_parser(tmp_path):
    (tmp_path / "own.yaml").write_text("model: {class_path: mine.Model, init_args: {anything: 1}}")
    done = cmmd("fit", "--config", "own.yaml", cwd=tmp_path)
    assert "mine" in done.errors[0]
    assert "did you mean" not in done.errors[0]


@pytest.mark.parametrize(
    ("option", "successor"),
    [
        ("annotations", "annotations, of --data.source Aist, EpicSounds"),
        ("cameras", "cameras, of --data.source Aist"),
        ("max_segment_seconds", "max_segment_seconds, of --data.source EpicSounds"),
        ("render_clips", "render_clips, of --data.source Folder"),
        ("segments", "table, of --data.source Segments"),
        ("short_segments", "short_segments, of --data.source EpicSounds"),
        ("val_fraction", "val_fraction, of --data.source Folder, Aist, Grid, Segments"),
    ],
)
def test_options_that_are_the_sources_now_name_it(option, successor):
    with pytest.raises(UsageError) as refused:
        run(["prepare", f"--data.{option}", "x"])
    assert with_successor(str(refused.value)) == f"--data.{option}: now --data.source.{successor}"


@pytest.mark.parametrize(
    "message",
    [
        "--data.batch: did you mean --data.batch_size? cmmd fit --help lists them",
        "--data.source: Expected a dot import path string: Mine",
        "--trainer.logger: Expected a dot import path string: csv",
        "cmmd_lightning.data.sources: expected a folder",
        "films/data.table: expected a CSV file, got No such file or directory",
    ],
)
def test_other_messages_are_left_as_they_are(message):
    assert with_successor(message) == message


@pytest.mark.parametrize(
    ("typed", "ordered"),
    [
        ("--data.source.annotations x --data.source Aist", "--data.source Aist --data.source.annotations x"),
        ("--a.b.c 1 --a.b.d=2 --e f g --a.b=X --a.b.e 3", "--e f g --a.b=X --a.b.c 1 --a.b.d=2 --a.b.e 3"),
        ("--a.b.c.d 1 --a.b.c X --a.b Y", "--a.b Y --a.b.c X --a.b.c.d 1"),
        ("--config a --a.b 1 --config b --a.b 2", "--config a --a.b 1 --config b --a.b 2"),
        ("scene --seed 3 out", "scene --seed 3 out"),
        ("--a.b+=X --a.b.c 1 --a.b+=Y", "--a.b+=X --a.b.c 1 --a.b+=Y"),
        ("", ""),
    ],
)
def test_options_of_a_class_go_behind_the_class(typed, ordered):
    assert _with_options_behind_classes(typed.split()) == ordered.split()


def test_a_class_may_be_named_after_its_options(tmp_path):
    (tmp_path / "videos").mkdir()
    line = f"{QUICK} --data.root videos --data.source.annotations gone --data.source EpicSounds"
    done = cmmd(*line.split(), cwd=tmp_path)
    assert done.errors[0].startswith("cmmd: error: gone: expected EPIC_Sounds_train.csv or ")


def test_the_page_names_what_a_source_may_be():
    assert "  --data.source DataSource | list[Source] | {folder,aist,epic_sounds,grid} (default folder)" in page(
        "prepare"
    )


def test_short_names_of_tasks(tmp_path):
    write_sound(tmp_path / "clip.wav", torch.zeros(16000), 16000)
    for flags, task in ((("--task", "v2a"), "video_to_audio"), (("--task=a2v",), "audio_to_video")):
        done = cmmd("evaluate", *flags, "--generated", ".", cwd=tmp_path)
        assert done.errors[0].startswith(f"cmmd: error: {task}: expected a folder of references")
