"""Editors: the systems that the benchmark can measure. Whatever maps a case to a picture is one.

The command line's ``--system`` names them, see :mod:`.naming`.
B cases of one size, H × W their scenes' size, h × w a model's working size
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from .. import masks, prompts
from ..data.sample import pictures
from ..errors import FlexEditError
from ..files import fingerprint, read_picture, same_shape, weights
from ..masks import compositing
from ..model_folder import CONFIG_FILE
from ..models import vae as autoencoder
from ..pipeline import FlexEditPipeline, ReplyMode, usable_device
from ..request import EditRequest
from .cases import Benchmark, Case, MaskForm

if TYPE_CHECKING:
    from diffusers import StableDiffusionInstructPix2PixPipeline

BenchmarkTask = Literal["edit", "segment"]
Count = Annotated[int, Field(ge=1)]
REGION = "mask + connected change"  # what the shipped workflows composite with


@dataclass(frozen=True)
class Work:
    """A batch of cases of one size, for one form of mask and one task; ``seeds``: one per case."""

    benchmark: Benchmark
    cases: tuple[Case, ...]
    form: MaskForm
    task: BenchmarkTask
    seeds: tuple[int, ...]

    @cached_property
    def request(self) -> EditRequest:
        return self.benchmark.request(self.cases, self.form, self.task)


@dataclass(frozen=True)
class Answer:
    """picture (H, W, 3) uint8, of exactly the scene's size; reply and label of those that talk."""

    picture: np.ndarray
    reply: str = ""
    label: str = ""


class Editor(ABC):
    """What can be measured. A class of one's own derives from it and defines ``answer``; what its
    ``__init__`` takes are its options, see :mod:`.naming`.
    """

    name: str  # unique in a report, and the folder of its results
    paints: bool = False  # whether it can do ``segment``: paint the whole object that is meant
    made_with: dict[str, Any] | None = None  # what a class of one's own was made with, as JSON

    def describe(self) -> dict[str, Any]:
        """All that its results depend on, as JSON; a run goes on only if it is the same."""
        return {"kind": type(self).__name__}

    def load(self) -> None:
        """Called once before the first case; an error here ends the run and fails no case."""
        return None

    @abstractmethod
    def answer(self, work: Work) -> list[Answer]:
        """One answer per case. What it raises fails the cases of ``work``, not the run."""


class FlexEdit(Editor):
    """A FlexEdit model, used as the shipped workflows do.

    ``reply``: how edits are asked for, by default as the model recommends. The segment task always
    generates: the label it is judged by is part of the reply, which ``direct`` leaves out ·
    ``composite``: the edit is put into the scene by the mask and the connected change; a painted
    mask is read from the raw output ·
    ``strength``: λ of the subject · ``by_words``: edits without their masks, by an instruction that
    names what is meant · sampling settings that are None are the model's own advice.
    """

    def __init__(
        self,
        pipeline: FlexEditPipeline,
        reply: ReplyMode | None = None,
        composite: bool = False,
        *,
        num_steps: Count | None = None,
        edit_cfg: float | None = None,
        scene_cfg: float | None = None,
        strength: float = 1.0,
        by_words: bool = False,
        name: str | None = None,
    ) -> None:
        if reply not in (None, *get_args(ReplyMode)):
            choices = ", ".join(get_args(ReplyMode))
            raise FlexEditError(f"Unknown reply {reply!r}; choose one of {choices}.")
        if composite and by_words:
            raise FlexEditError(
                "composite needs the masks that by_words leaves out. Choose one of them."
            )
        self.pipeline, self.composite = pipeline, composite
        self.strength, self.by_words = strength, by_words
        self.paints = pipeline.config.vllm is not None and not by_words
        given = {"num_steps": num_steps, "edit_cfg": edit_cfg, "scene_cfg": scene_cfg}
        changed = {key: value for key, value in given.items() if value is not None}
        advice = pipeline.config.sampling
        self.reply = reply or advice.reply
        self.sampling = {key: changed.get(key, getattr(advice, key)) for key in given}
        parts = [
            folder_name(pipeline.folder.path),
            *(["generate"] if reply == "generate" else []),
            *(["composite"] if composite else []),
            *(f"{key}{value:g}" for key, value in changed.items()),
            *([f"strength{strength:g}"] if strength != 1 else []),
            *(["by_words"] if by_words else []),
        ]
        self.name = name or "-".join(parts)

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            **described(self.pipeline),
            "reply": self.reply,
            "composite": REGION if self.composite else "",
            **self.sampling,
            "strength": self.strength,
            **({"by_words": True} if self.by_words else {}),  # runs of older versions go on
        }

    def load(self) -> None:
        self.pipeline.load()

    def answer(self, work: Work) -> list[Answer]:
        request = work.request
        if self.by_words:
            instructions = tuple(map(named_instruction, work.cases))
            request = replace(request, mask=None, instructions=instructions)
        result = self.pipeline(
            request,
            reply="generate" if work.task == "segment" else self.reply,
            seed=work.seeds,
            **self.sampling,
            subject_strength=self.strength,
        )
        picture = result.picture.cpu()
        if self.composite and work.task == "edit":
            assert request.mask is not None
            picture, _ = compositing.put_edit(request.scene, picture, request.mask, region=REGION)
        return [
            Answer(image, reply, label)
            for image, reply, label in zip(
                to_uint8(picture), result.replies, result.labels, strict=True
            )
        ]


def named_instruction(case: Case) -> str:
    """What a person says who has no mask; the case's own words where nobody knows the names."""
    if not case.label or not case.result_label:
        return case.instruction
    new = f"a {case.result_label}" if case.subject is None else "the object in [pic2]"
    return {
        "remove": f"remove the {case.label}",
        "replace": f"replace the {case.label} with {new}",
        "add": f"add {new}",
    }[case.operation]


class InstructPix2Pix(Editor):
    """A diffusers folder of InstructPix2Pix, or ``REPOSITORY@REVISION`` on the hub.

    It sees the scene as it is and reads the instruction; of mask and subject it knows nothing.
    As in its authors' program: 100 Euler-ancestral steps, the scene scaled so that its longer side
    is what the UNet was made for (``size`` sets another), and the output scaled back.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str | None = None,
        *,
        num_steps: Count = 100,
        edit_cfg: float = 7.5,
        scene_cfg: float = 1.5,
        size: Count | None = None,
        name: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.repository, _, self.revision = str(folder).partition("@")
        if not self.folder.is_dir() and not self.revision:
            raise FlexEditError(
                f"There is no folder {folder}. A repository on the hub is written with its "
                "revision: instructpix2pix:REPOSITORY@REVISION."
            )
        self.device = usable_device(device)
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.float16
        self.sampling = {"num_steps": num_steps, "edit_cfg": edit_cfg, "scene_cfg": scene_cfg}
        self.size = size
        model = self.folder if self.folder.is_dir() else Path(self.repository)
        self.name = name or folder_name(model)

    def describe(self) -> dict[str, Any]:
        is_folder = self.folder.is_dir()
        return {
            **super().describe(),
            "model": self.folder.resolve().name if is_folder else self.repository,
            "weights": fingerprint(weights(self.folder)) if is_folder else self.revision,
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            **self.sampling,
            "size": self.size,
        }

    def load(self) -> None:
        self.pipeline.set_progress_bar_config(disable=True)

    @cached_property
    def pipeline(self) -> StableDiffusionInstructPix2PixPipeline:
        from diffusers import EulerAncestralDiscreteScheduler as EulerAncestral
        from diffusers import StableDiffusionInstructPix2PixPipeline

        is_folder = self.folder.is_dir()
        try:
            pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(
                self.folder if is_folder else self.repository,
                revision=None if is_folder else self.revision,
                local_files_only=is_folder,
                torch_dtype=self.dtype,
                use_safetensors=True,
                safety_checker=None,  # it would black pictures out
                requires_safety_checker=False,
            )
            pipeline.scheduler = EulerAncestral.from_config(pipeline.scheduler.config)
            return pipeline.to(self.device)
        except Exception as error:  # the loaders' and the hub's errors share no base
            raise FlexEditError(
                f"InstructPix2Pix cannot be loaded from {self.folder} ({one_line(error)}). It must "
                "be a whole diffusers folder with .safetensors weights."
            ) from error

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """H, W → h, w: the longer side as long as the model's own."""
        own = self.pipeline.unet.config.sample_size
        ratio = autoencoder.ratio(self.pipeline.vae)
        side = self.size or (own * ratio if own else max(height, width))
        scale = side / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def answer(self, work: Work) -> list[Answer]:
        height, width = work.request.height, work.request.width
        inner = self.working_size(height, width)
        scene = masks.resize(work.request.scene, *inner)
        output = self.pipeline(
            prompt=list(work.request.instructions),
            image=masks.pad_to_multiple(scene, autoencoder.ratio(self.pipeline.vae)),
            num_inference_steps=self.sampling["num_steps"],
            guidance_scale=self.sampling["edit_cfg"],
            image_guidance_scale=self.sampling["scene_cfg"],
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in work.seeds],
            output_type="pt",
        ).images
        edited = masks.unpad(output.float().cpu(), *inner)
        return [Answer(image) for image in to_uint8(masks.resize(edited, height, width))]


class ReturnScene(Editor):
    """Changes nothing: what an edit must beat."""

    def __init__(self, name: str = "scene") -> None:
        self.name = name

    def answer(self, work: Work) -> list[Answer]:
        return [Answer(work.benchmark.picture(case, "scene")) for case in work.cases]


class RoundTrip(Editor):
    """The scene through a model's VAE and back: what any edit by it loses, edited or not."""

    def __init__(self, pipeline: FlexEditPipeline, name: str = "round-trip") -> None:
        self.pipeline, self.name = pipeline, name

    def describe(self) -> dict[str, Any]:
        return super().describe() | described(self.pipeline)

    def load(self) -> None:
        _ = self.pipeline.vae  # loaded when it is first touched

    @torch.inference_mode()
    def answer(self, work: Work) -> list[Answer]:
        vae, request = self.pipeline.vae, work.request
        latent = autoencoder.encode(vae, request.scene.to(self.pipeline.device))
        trip = autoencoder.decode(vae, latent * vae.config.scaling_factor)
        edited = masks.unpad(trip, request.height, request.width)
        return [Answer(image) for image in to_uint8(edited)]


class Truth(Editor):
    """The perfect system: it knows the answers."""

    paints = True

    def __init__(self, name: str = "truth") -> None:
        self.name = name

    def answer(self, work: Work) -> list[Answer]:
        answers = []
        for case in work.cases:
            edits = work.task == "edit"
            picture = work.benchmark.picture(case, "truth") if edits else self.painted(work, case)
            answers.append(Answer(picture, prompts.naming_reply(case.label), case.label))
        return answers

    def painted(self, work: Work, case: Case) -> np.ndarray:
        """The whole object in the colour that is farthest from all of the scene's own."""
        scene = work.benchmark.picture(case, "scene")
        colors = np.rint(255 * np.array(list(masks.COLORS.values()))).astype(np.uint8)
        pixels = scene.reshape(-1, 1, 3).astype(np.float32)
        nearest = np.quantile(np.linalg.norm(pixels - colors, axis=-1), 0.01, axis=0)
        picture = scene.copy()
        picture[work.benchmark.picture(case, "full_mask")] = colors[nearest.argmax()]
        return picture


class Finished(Editor):
    """Pictures another program has made: ``<case id>.png``, or ``free/`` and ``full/<case id>.png``
    where they differ by the mask's form.

    A picture of another size but the scene's shape is scaled to it; one of another shape was
    cropped or squashed, no one knows how, and fails.
    """

    def __init__(self, folder: str | Path, name: str | None = None) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FlexEditError(f"There is no folder {folder} with finished pictures.")
        self.name = name or folder_name(self.folder)

    def describe(self) -> dict[str, Any]:
        files = sorted(self.folder.rglob("*.png"))
        names = "\n".join(file.relative_to(self.folder).as_posix() for file in files)
        return {
            **super().describe(),
            "folder": self.folder.resolve().name,
            "pictures": fingerprint(files, names),
        }

    def answer(self, work: Work) -> list[Answer]:
        scenes = (work.benchmark.picture(case, "scene") for case in work.cases)
        return [
            Answer(self.picture(case, work.form, *scene.shape[:2]))
            for case, scene in zip(work.cases, scenes, strict=True)
        ]

    def picture(self, case: Case, form: MaskForm, height: int, width: int) -> np.ndarray:
        files = (self.folder / form / f"{case.id}.png", self.folder / f"{case.id}.png")
        path = next((file for file in files if file.is_file()), None)
        if path is None:
            raise FlexEditError(f"There is no {case.id}.png in {self.folder} or {files[0].parent}.")
        picture = read_picture(path)
        if not same_shape(picture.shape[:2], (height, width)):
            raise FlexEditError(
                f"{path.name} has {picture.shape[1]}×{picture.shape[0]} pixels, but its scene "
                f"{width}×{height}: another shape. "
                "Undo the crop or the stretch, so that it lies over the scene."
            )
        return to_uint8(masks.resize(pictures([picture]), height, width))[0]


# What editors share


def to_uint8(batch: Tensor) -> np.ndarray:
    """(B, 3, H, W) in 0..1 → (B, H, W, 3) uint8, rounded, so that n / 255 is n again.

    Raises FlexEditError for NaN, which would become black.
    """
    if batch.isnan().any():
        raise FlexEditError(
            "The output is not a picture: its numbers overflowed. Let it compute in a wider type."
        )
    return (batch * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy(force=True)


def described(pipeline: FlexEditPipeline) -> dict[str, Any]:
    folder = pipeline.folder.path
    return {
        "model": folder.resolve().name,
        "weights": fingerprint([folder / CONFIG_FILE, *weights(folder)]),
        "device": pipeline.device.type,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        **({"vllm_bits": pipeline.vllm_bits} if pipeline.vllm_bits else {}),
    }


def folder_name(path: Path) -> str:
    """A path's last part with all but letters, digits, ``.``, ``_`` and ``-`` made ``-``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).strip("-.") or "system"


def one_line(error: BaseException) -> str:
    """What a person reads of an error: a FlexEditError's own words, else its type before them."""
    text = " ".join(str(error).split())
    return (
        text if isinstance(error, FlexEditError) else f"{type(error).__name__}: {text}".rstrip(": ")
    )
