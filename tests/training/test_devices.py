"""What would make a GPU wait, or cannot be done on an Apple GPU, is in no training step and in no sampling step.

The ``meta`` device stands for the accelerator: it takes the same operators, and whatever reads a value fails there.
"""

from typing import Any

import pytest
import torch
from test_module import batch_of, nudged
from tiny_training import Losses, build_data, build_model, build_trainer
from torch._dynamo import lookup_backend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cmmd_lightning.diffusion.sampling import ddim_sample, guided
from cmmd_lightning.training.ema import EMA

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")


class OnDevice(TorchDispatchMode):
    """Fail where values are read, sizes follow from values, data come over from the host, or float64 is made."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        if any(x.is_meta for x in given):
            assert name not in WAITS, f"{func} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            indices = [x for x in args[1] if x is not None]
            assert not any(x.dtype in (torch.bool, torch.uint8) for x in indices), f"{func}: a size follows from values"
        result = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.is_meta]
        assert not (made and any(not x.is_meta and x.ndim for x in given)), f"{func}: a copy from the host"
        assert not any(x.dtype in (torch.float64, torch.complex128) for x in made), f"{func}: float64 on the device"
        return result


def to_meta(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value.to("meta") for name, value in batch.items()}


@pytest.mark.parametrize("bound", ["infonce", "hinge", "linear"])
@pytest.mark.parametrize("form", ["condition", "target"])
def test_a_training_step_neither_waits_nor_copies(bound, form):
    model = nudged(build_model(objective={"bound": bound, "form": form, "contrastive_share": 0.5}))
    batch = batch_of()
    batch |= {"draws": model.drawing(batch)}
    expected = model.training_step(batch, 0)  # what is cached per size is there before
    assert torch.isfinite(expected)
    average = EMA(0.99)
    average.setup(None, model, "fit")  # type: ignore[arg-type]
    model.training_step(batch, 0).backward()
    device, batch = model.to("meta"), to_meta(batch)
    device.training_step(batch, 0)
    average._average_model.module.to("meta")
    with OnDevice():
        loss = device.training_step(batch, 0)
        loss.backward()
        average._average_model.update_parameters(device)
    assert loss.is_meta


@pytest.mark.parametrize("task", ["video_to_audio", "audio_to_video", "joint"])
def test_a_sampling_step_neither_waits_nor_copies(task):
    model = nudged(build_model()).to("meta")
    noise = torch.randn(2, 48, 8, 8, 8, device="meta"), torch.randn(2, 16, 64, device="meta")
    with torch.no_grad():
        denoiser = guided(model.network, task, noise, 2.0, 2.0)
        ddim_sample(denoiser, model.schedules, *noise, task, 1)
        with OnDevice():
            denoiser = guided(model.network, task, noise, 2.0, 2.0)
            video, _ = ddim_sample(denoiser, model.schedules, *noise, task, 3)
    assert video.is_meta


def test_the_mode_sees_what_it_is_for():
    x = torch.ones(3, device="meta")
    for act in (
        lambda: x.double(),
        lambda: torch.ones(3).to("meta"),
        lambda: x[x > 0],
        lambda: x.sum().item(),
        lambda: (x > 0).nonzero(),
    ):
        with OnDevice(), pytest.raises(Exception, match=r"float64|copy|size follows|waits"):
            act()


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_one_graph_serves_every_step(share):
    """The batch that goes through the network has one size, whatever was drawn."""
    torch._dynamo.reset()
    model = build_model(objective={"contrastive_share": share})
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    model.network.compile(backend=backend)
    for position in range(50):
        model.training_step(batch_of(4, position=position), 0)
    assert len(graphs) == 1


def test_a_compiled_network_trains_and_is_saved_as_the_other_one(clip_folder, tmp_path, monkeypatch, recwarn):
    """`CMMD(compile=...)`, with the average and checkpoints: the same losses, the same names, one graph."""
    torch._dynamo.reset()
    graphs, real = [], torch.compile

    def compile_counted(model: Any, *, mode: str) -> Any:
        assert mode == "default"

        def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
            graphs.append(graph)
            return lookup_backend("aot_eager")(graph, inputs)

        return real(model, backend=backend)

    monkeypatch.setattr(torch, "compile", compile_counted)
    losses, saved = [], []
    for mode in ("off", "default"):
        kept = Losses()
        trainer = build_trainer(tmp_path / mode, kept, max_steps=4, val_check_interval=100)
        trainer.fit(build_model(compile=mode), datamodule=build_data(clip_folder))
        losses.append([loss for _, loss in kept.train])
        saved.append(torch.load(tmp_path / mode / "step=4.ckpt", weights_only=True))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert len(graphs) == 1
    for state in ("state_dict", "current_model_state", "hyper_parameters"):
        assert list(saved[1][state]) == list(saved[0][state])
    assert not any("_orig_mod" in name for name in saved[1]["state_dict"])
    assert not any("cache" in str(one.message) for one in recwarn)  # nothing that dynamo cannot see through
