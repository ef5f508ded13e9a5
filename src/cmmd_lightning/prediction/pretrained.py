"""Models from checkpoints: which weights, under which names, and which classes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.cloud_io import get_filesystem

from cmmd_lightning.codecs.foreign import refuse_foreign
from cmmd_lightning.prediction.requests import GenerationSpec, Weights
from cmmd_lightning.prediction.sharing import checkpoint_file, push_to_hub, save_pretrained


def raw_weights(checkpoint: Mapping[str, Any], path: object) -> dict[str, Any]:
    """The weights of a training checkpoint that averaging has changed, as the optimizer left them."""
    if "current_model_state" not in checkpoint and "optimizer_states" not in checkpoint:
        raise ValueError(f"{path}: expected a training checkpoint, got one that holds averaged weights only")
    return dict(checkpoint.get("current_model_state", {}))


_COMPILED = "_orig_mod."


def _without_compile_prefix(module: torch.nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Keep the names of weights as they are where a part was replaced by ``torch.compile(part)``."""
    for key in [key for key in state if _COMPILED in key]:
        state[key.replace(_COMPILED, "")] = state.pop(key)


def _with_own_prefix(module: torch.nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename weights to what they are called in this module, whichever of the two is compiled."""
    own = [name for name, _ in [*module.named_parameters(), *module.named_buffers()]]
    names = {prefix + name.replace(_COMPILED, ""): prefix + name for name in own}
    for key in list(state):
        plain = key.replace(_COMPILED, "")
        if names.get(plain, plain) != key:
            state[names.get(plain, plain)] = state.pop(key)


def _opened(path: Any) -> AbstractContextManager[Any]:
    """A file that is given by path or address, or is open already."""
    if isinstance(path, str | os.PathLike):
        return cast("AbstractContextManager[Any]", get_filesystem(os.fspath(path)).open(os.fspath(path), "rb"))
    return nullcontext(path)


class Pretrained(pl.LightningModule):
    """A module that comes from checkpoints safely, whether its parts are compiled or not.

    Attributes:
        generation: What `CMMD.predict_step` generates, and with which weights; never part of a checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generation: GenerationSpec | None = None
        self.register_state_dict_post_hook(_without_compile_prefix)
        self.register_load_state_dict_pre_hook(_with_own_prefix)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, trust: Sequence[str] = (), **kwargs: Any) -> Self:
        """The model of a checkpoint; see Lightning's method of this name.

        Args:
            checkpoint_path: The file.
            args: As Lightning's.
            trust: Paths of classes from outside of this package that the checkpoint may name as its codec or vocoder.
            kwargs: As Lightning's; ``codec`` and ``vocoder`` among them replace the checkpoint's.

        Raises:
            ValueError: If it names another class.
        """
        kwargs = {"weights_only": True, **kwargs}
        with _opened(checkpoint_path) as file:
            stored = torch.load(file, map_location="cpu", weights_only=True).get("hyper_parameters", {})
            file.seek(0)
        refuse_foreign({k: v for k, v in stored.items() if k not in kwargs}, trust, checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, name: str, *, weights: Weights = "averaged", **kwargs: Any) -> Self:
        """The model of a checkpoint, in eval mode.

        Args:
            name: Path of a ``.ckpt`` file, ``demo`` for the packaged one, a folder of `save_pretrained`, or a hub
                repository ``owner/name`` (or ``owner/name@revision``) of `push_to_hub`.
            weights: The ``averaged`` ones, or the ``raw`` ones that a training checkpoint holds beside them.
            kwargs: Passed to ``load_from_checkpoint``.

        Raises:
            FileNotFoundError: If none of them is there.
            ValueError: If there are no raw weights.
        """
        with checkpoint_file(name) as path:
            model = cls.load_from_checkpoint(path, **{"map_location": "cpu", **kwargs})
            if weights == "raw":
                checkpoint = torch.load(path, map_location="cpu", weights_only=True)
                model.load_state_dict({**model.state_dict(), **raw_weights(checkpoint, name)})
        return model.eval()

    def save_pretrained(self, folder: str, **card: Any) -> Path:
        """Write the model to a folder that `from_pretrained` reads; see `sharing.save_pretrained`."""
        return save_pretrained(self, folder, **card)

    def push_to_hub(self, repo: str, **card: Any) -> str:
        """Upload the model to the hub; see `sharing.push_to_hub`."""
        return push_to_hub(self, repo, **card)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the weights that `generation` asks for."""
        super().on_load_checkpoint(checkpoint)
        if self.generation is not None and self.generation.weights == "raw":
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **raw_weights(checkpoint, "generate.weights raw")}
