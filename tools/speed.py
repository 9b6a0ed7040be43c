"""``make bench``: speed, always two things in turn within one run. Bars are printed beside figures.

``python -m tools.speed guider direct edit`` runs some of them only.
"""

from __future__ import annotations

import io
import json
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from flexedit import masks, prompts
from flexedit.benchmark.build import build
from flexedit.benchmark.run import overhead, run
from flexedit.benchmark.systems import FlexEdit
from flexedit.data.mixture import samples_from
from flexedit.data.world import World, write
from flexedit.masks.strokes import Stroke, rasterise
from flexedit.model_folder import ModelFolder
from flexedit.models.preprocess import Preprocess
from flexedit.models.vllm import VLLM
from flexedit.models.vllm.base import VLLMConfig
from flexedit.models.vllm.pictures import Pictures
from flexedit.pipeline import FlexEditPipeline
from flexedit.training.batch import collate, loader
from flexedit.training.pretrain.parts import train_tokenizer
from tools.comfyui import inside
from tools.comfyui.server import ComfyServer
from tools.sd15 import make_sd15_folder

PAIRS = 10
DRAWN = 50_000  # samples of shards


def guider() -> None:
    """FlexEdit KSampler against ComfyUI's DualCFGGuider on one UNet of SD1.5's shape."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_sd15_folder(Path(folder) / "sd15")
        for strength, tokens, bar in ((0.0, 257, 1.02), (1.0, 257, 1.05)):
            name = f"sampler, λ = {strength:g}, {tokens} subject tokens: ours / ComfyUI's guider"
            in_sd15s_shape(name, bar, "guiders", path, strength, tokens)


def systems() -> None:
    """What other systems' parts cost in a sampling run, on one UNet of SD1.5's shape."""
    for system, function, name, bar in (
        ("instructpix2pix", "instructpix2pix", "InstructPix2Pix: our nodes / ComfyUI's own", 1.02),
        ("smartedit", "bim", "a sampling run with BIM / without", 1.03),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = make_sd15_folder(Path(folder) / "sd15", system)
            in_sd15s_shape(name, bar, function, path)


def in_sd15s_shape(name: str, bar: float, function: str, path: Path, *settings: float) -> None:
    """Pairs of 8 steps on latents of 16 × 16, inside a ComfyUI."""
    found = inside.run(
        Path(inside.__file__).with_name("guiders.py"),
        function,
        path,
        *map(str, (*settings, 16, 8, PAIRS)),
        threads=2,
        timeout=3000,
    )
    report(
        name,
        found["median_ratio"],
        bar,
        f"median of {found['pairs']} pairs, {found['ratios'][0]:.3f} to "
        f"{found['ratios'][-1]:.3f}, {found['median_seconds']:.2f} s a run",
    )


def direct() -> None:
    """One prefill of prompt, reply and edit tokens against generating the edit tokens in turn."""
    vllm = ModelFolder.embedded().load_vllm()
    request = collate([World(64, "heldout", operations={"remove": 1.0})[0]]).request
    pictures = vllm.pictures(request.marked(), None, (False,))
    texts = [prompts.prompt(request.instructions[0])]
    compare_passes(
        "32 token-by-token steps / direct",
        lambda: vllm.direct(texts, pictures),
        lambda: token_by_token(vllm, texts, pictures),
        10 * PAIRS,  # short as they are, they vary by half
    )


def direct_7b() -> None:
    """The same in the widths of LLaVA-7B with 576 tokens a picture, one layer of its 32 deep: each
    layer costs alike. MGIE has 8 edit tokens, SmartEdit 32.

    Both begin with a prefill of the prompt, which is nearly all that ``direct`` costs; the tokens
    alone are measured over its kept cache.
    """
    for count in (8, 32):
        vllm = wide_vllm(count)
        pictures = vllm.pictures(torch.rand(1, 3, 336, 336), None, (False,))
        texts = [prompts.prompt("remove this")]
        where = "7B's widths, 1 of its 32 layers"
        compare_passes(
            f"{count} token-by-token steps / direct, {where}",
            lambda vllm=vllm, texts=texts, pictures=pictures: vllm.direct(texts, pictures),
            lambda vllm=vllm, texts=texts, pictures=pictures: token_by_token(vllm, texts, pictures),
            PAIRS,
        )
        one_pass, by_token = over_cache(vllm, texts, pictures)
        compare_passes(f"the {count} tokens alone, {where}", one_pass, by_token, PAIRS)


def over_cache(
    vllm: VLLM, texts: list[str], pictures: Pictures
) -> tuple[Callable[[], object], Callable[[], object]]:
    """The edit tokens in one pass, and one by one as generation does it, after a prompt."""
    sequences = vllm.tokenize(texts, pictures, [prompts.GENERIC_REPLY], edit_tokens=[False])
    ids = torch.tensor([vllm.edit_ids])
    with torch.inference_mode():
        cache = vllm.model.model(**vllm.inputs(sequences, pictures), use_cache=True).past_key_values

    @torch.inference_mode()
    def one_pass() -> None:
        vllm.model.model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache.crop(-ids.shape[1])

    @torch.inference_mode()
    def by_token() -> None:
        for token in ids.split(1, dim=1):
            vllm.model(input_ids=token, past_key_values=cache, use_cache=True)
        cache.crop(-ids.shape[1])

    return one_pass, by_token


def compare_passes(
    name: str, quick: Callable[[], object], slow: Callable[[], object], pairs: int
) -> None:
    quick(), slow()
    times = [(timed(quick), timed(slow)) for _ in range(pairs)]
    ratios = sorted(long / short for short, long in times)
    short, long = (1e3 * statistics.median(each) for each in zip(*times, strict=True))
    report(
        name,
        statistics.median(ratios),
        10,
        f"median of {len(times)} pairs, the middle half {ratios[len(ratios) // 4]:.1f} to "
        f"{ratios[3 * len(ratios) // 4]:.1f}; {long:.1f} and {short:.1f} ms",
        at_least=True,
    )


def wide_vllm(num_edit_tokens: int) -> VLLM:
    """Random weights in the widths of LLaVA-7B, behind a vision tower that costs nothing."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    words = [prompts.prompt("remove this"), prompts.GENERIC_REPLY]
    tokenizer = train_tokenizer(words, 400)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=336,
        patch_size=14,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(vocab_size=32064, num_hidden_layers=1),  # 7B's widths by default
        image_token_index=tokenizer.convert_tokens_to_ids(prompts.IMAGE),
        image_seq_length=576,
        vision_feature_layer=-1,
    )
    return VLLM(Llava(config), tokenizer, Preprocess(336), VLLMConfig(num_edit_tokens)).eval()


def token_by_token(vllm: VLLM, texts: list[str], pictures: Pictures) -> None:
    """The same states by transformers' own generation: the prefill, whose last state foretells the
    first edit token, then one step for each.
    """
    sequences = vllm.tokenize(texts, pictures, [prompts.GENERIC_REPLY], edit_tokens=[False])
    count = len(vllm.edit_ids)
    output = vllm.model.generate(
        **vllm.inputs(sequences, pictures),
        min_new_tokens=count + 1,  # that of the last step is not needed
        max_new_tokens=count + 1,
        do_sample=False,
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    prefill, *steps = output.hidden_states
    assert prefill[-1].shape[1] > 1 and len(steps) == count


def edit() -> None:
    """One edit by the embedded model, after loading."""
    pipeline = FlexEditPipeline.from_pretrained()
    request = collate([World(64, "heldout", operations={"remove": 1.0})[0]]).request
    for reply in ("direct", "generate"):
        once = lambda reply=reply: pipeline(request, reply=reply, num_steps=20)  # noqa: E731
        once()
        seconds = statistics.median(timed(once) for _ in range(PAIRS))
        report(
            f"one edit of 20 steps, {reply}", seconds, 3.0, f"on {torch.get_num_threads()} threads"
        )


def imports() -> None:
    """What an edit by command line imports, against the models' classes alone: all that we add."""
    with tempfile.TemporaryDirectory() as folder:
        write(World(64, "heldout", operations={"remove": 1.0}), range(1), Path(folder))
        scene, mask, out = (
            f"{folder}/{name}.png" for name in ("0000000_scene", "0000000_mask", "o")
        )
        words = ("--scene", scene, "--mask", mask, "--out", out, "--steps", "1")
        edit = ("-m", "flexedit", "edit", *words, "--instruction", "remove this")
        import_seconds(*edit), import_seconds("-c", MODEL_CLASSES)  # from now on in memory
        pairs = [(import_seconds(*edit), import_seconds("-c", MODEL_CLASSES)) for _ in range(3)]
    ratio = statistics.median(sum(ours.values()) / sum(theirs.values()) for ours, theirs in pairs)
    heaviest = sorted(pairs[-1][0].items(), key=lambda one: -one[1])[:6]
    note = ", ".join(f"{name} {seconds:.2f}" for name, seconds in heaviest)
    report("imports of an edit / of its models' classes", ratio, 1.15, f"seconds: {note}")


MODEL_CLASSES = """
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import AutoModelForImageTextToText, AutoTokenizer, Blip2QFormerModel
from transformers import CLIPVisionModelWithProjection, LlavaForConditionalGeneration
"""


def import_seconds(*words: str) -> dict[str, float]:
    """What a Python of its own spends on the modules of each package."""
    command = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds: dict[str, float] = defaultdict(float)
    for own, name in re.findall(
        r"^import time: +(\d+) \|[ \d]+\| +(\w+)", done.stderr, re.MULTILINE
    ):
        seconds[name] += int(own) / 1e6
    return seconds


def free_shapes() -> None:
    """Masks per second and core at 512 × 512."""
    torch.set_num_threads(1)
    count = 25
    rate = [
        count / timed(lambda kind=kind: [masks.draw(kind, 512, 512, seed=i) for i in range(count)])
        for kind in masks.KINDS
    ]
    report("free-shape masks a second, 512 × 512, slowest kind", min(rate), 300, at_least=True)


def strokes() -> None:
    """A crowded drawing, which takes not many times as long as one stroke of it."""
    ways = 0.5 + np.cumsum(np.random.default_rng(0).normal(0, 0.01, (200, 100, 2)), 1)
    drawing = [Stroke("brush", tuple(map(tuple, way)), True) for way in ways]
    ratio = statistics.median(
        timed(lambda: rasterise(drawing, 1024, 1024))
        / timed(lambda: rasterise(drawing[:1], 1024, 1024))
        for _ in range(PAIRS)
    )
    report("200 strokes / one stroke, 1024 × 1024", ratio, 100)


def world() -> None:
    """What a step of training waits for: its row is drawn much faster than a model reads it."""
    pipeline, rows = FlexEditPipeline.from_pretrained(), World(64)
    request = collate([rows[0]]).request
    pipeline(request, num_steps=1)
    ratio = statistics.median(
        timed(lambda index=index: rows[index]) / timed(lambda: pipeline(request, num_steps=1))
        for index in range(PAIRS)
    )
    report("drawing a row of the world / an edit of one step", ratio, 0.25)


def shards() -> None:
    """A loader of JPEG shards at 256 × 256 on one core, and what memory it takes over 50,000
    samples: half of them pairs from parquet, half captions from tars.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), 2000)
        parts = [
            {"source": "instructpix2pix:pairs", "group": "edit"},
            {"source": "cc12m:captions", "group": "edit"},
        ]
        mixture = Path(folder) / "mixture.yaml"
        mixture.write_text(json.dumps({"data": parts}))
        batches = loader(samples_from(str(mixture), 256), 50, 0, DRAWN // 50)
        deque(islice(batches, DRAWN // 500), 0)
        memory, began = resident(), time.process_time()
        deque(batches, 0)
        rate = 0.9 * DRAWN / (time.process_time() - began)
        report("samples of 256 × 256 from shards a second of a core", rate, 60, at_least=True)
        growth = resident() / memory
        report(f"memory after {DRAWN} samples / after the first tenth", growth, 1.1)


def write_shards(folder: Path, count: int) -> None:
    """Pairs as InstructPix2Pix's parquet, captions as CC12M's tars, of smooth noise."""
    import pyarrow
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    for name in ("pairs", "captions"):
        (folder / name).mkdir()
    files = []
    for _ in range(count):
        cells = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(cells).resize((256, 256)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    pictures = [{"bytes": data, "path": None} for data in files]
    columns = {"original_image": pictures, "edited_image": pictures[::-1]}
    table = pyarrow.table(columns | {"edit_prompt": ["make it so"] * count})
    parquet.write_table(table, folder / "pairs" / "0.parquet", row_group_size=100)
    with tarfile.open(folder / "captions" / "00000.tar", "w") as archive:
        for number, data in enumerate(files):
            for ending, content in (("jpg", data), ("txt", b"a picture")):
                member = tarfile.TarInfo(f"{number:09d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def resident() -> int:
    """Bytes of memory that this process has now"""
    import psutil

    return int(psutil.Process().memory_info().rss)


def startup() -> None:
    """What the pack adds to ComfyUI's start."""
    began = time.perf_counter()
    with ComfyServer() as comfy:
        seconds = time.perf_counter() - began
        report("importing the pack / ComfyUI's start", comfy.import_seconds() / seconds, 0.1)


def benchmark() -> None:
    """FSMI-Edit: how long its 205 cases take to build, and what the runner adds to a model."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "cases"
        report("FSMI-Edit, building 205 cases, seconds", timed(lambda: build(built)), 60)
        few = build(Path(folder) / "few", num_single=16, num_multi=16)
        system = FlexEdit(FlexEditPipeline.from_pretrained(), num_steps=20)
        share = overhead(run(few, system, Path(folder) / "results", progress=False))
        report("FSMI-Edit, the runner's own time / the model's", share, 0.10)


def compositing() -> None:
    """Crop and Composite against the least they could do: to read the scene and write it again."""
    shape = (16, 1024, 1024, 3)
    small = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(small, shape[1:3], mode="bicubic").clamp(0, 1)
    scene = smooth.movedim(1, -1).contiguous().movedim(-1, 1)  # as ComfyUI has it
    mask = masks.draw("circle", 1024, 1024, x=0.4, shape_width=0.2, shape_height=0.2)[None]
    for settings in (
        {},
        {"region": "mask + connected change", "grow": 4, "feather": 8},
        {"region": "mask + connected change", "grow": 4, "feather": 8, "color_match": True},
    ):

        def there_and_back(settings: dict[str, Any] = settings) -> None:
            cropped, _, crop = masks.compositing.cut(scene, mask, 512, 2.0)
            masks.compositing.put_edit(scene, cropped, mask, crop=crop, **settings)

        there_and_back()
        pairs = [(timed(there_and_back), timed(scene.clone)) for _ in range(3)]
        seconds, least = (statistics.median(each) for each in zip(*pairs, strict=True))
        report(
            f"Crop and Composite, {', '.join(settings) or 'mask alone'} / one read and write",
            seconds / least,
            60,
            f"16 × 1024², {seconds:.2f} and {least:.3f} s on {torch.get_num_threads()} threads",
        )


def stitching() -> None:
    """Crop and Composite against ComfyUI-Inpaint-CropAndStitch, if the environment variable
    CROP_AND_STITCH names a clone of it.
    """
    folder = os.environ.get("CROP_AND_STITCH")
    if not folder:
        print("Inpaint Crop and Stitch: CROP_AND_STITCH does not say where it lies")
        return
    script = Path(inside.__file__).with_name("stitching.py")
    found = inside.run(script, "seconds", Path(folder).resolve(), "16", "1024", timeout=3000)
    least = min(took for way, took in found.items() if way.startswith("theirs"))
    for way in ("ours, mask", "ours, mask + connected change"):
        note = ", ".join(f"{it} {took:.2f}" for it, took in found.items())
        report(
            f"Inpaint Crop and Stitch at its fastest / {way}",
            least / found[way],
            1,
            note,
            at_least=True,
        )


def cancel() -> None:
    """How long one waits at most for Cancel, in each kind of work, with the embedded model: CPU
    seconds of one thread.
    """
    from tests.resolve.tiny_sams import make_tiny_sam

    with tempfile.TemporaryDirectory() as folder:
        make_tiny_sam("sam", Path(folder) / "sam")
        script, model = Path(inside.__file__).with_name("cancel.py"), ModelFolder.embedded().path
        found = inside.run(script, "steps", model, f"{folder}/sam", "4000", timeout=3000)
    for kind, figures in found.items():
        note = f"between two of {figures['looks']} looks"
        report(f"Cancel in {kind}, 12 megapixels, CPU seconds", figures["longest"], 1.0, note)


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def report(what: str, figure: float, bar: float, note: str = "", *, at_least: bool = False) -> None:
    met = figure >= bar if at_least else figure <= bar
    sign = "≥" if at_least else "≤"
    verdict = "" if met else "  ← MISSED"
    print(f"{what}: {figure:.3f} (bar {sign} {bar:g}){verdict} {note}", flush=True)


ALL = (
    free_shapes,
    strokes,
    world,
    shards,
    startup,
    benchmark,
    direct,
    direct_7b,
    edit,
    imports,
    guider,
    systems,
    compositing,
    stitching,
    cancel,
)
BENCHMARKS = {run.__name__: run for run in ALL}


def main() -> None:
    for name in sys.argv[1:] or BENCHMARKS:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
