import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexedit import masks
from flexedit.benchmark import editors
from flexedit.benchmark.cases import FORMS, Benchmark
from flexedit.benchmark.editors import (
    Answer,
    Editor,
    Finished,
    FlexEdit,
    InstructPix2Pix,
    ReturnScene,
    RoundTrip,
    Truth,
    Work,
    one_line,
    to_uint8,
)
from flexedit.benchmark.metrics import iou, psnr
from flexedit.benchmark.naming import editors_from
from flexedit.benchmark.run import run
from flexedit.errors import FlexEditError
from flexedit.pipeline import FlexEditPipeline
from tests.tiny import INSTRUCT_PIX2PIX, TINY, make_tiny_folder

SQUARE = ("world-remove", "world-replace")
ODD = "world-add"  # 54 × 61 pixels
SUBJECTS = ("world-swap", "world-insert")
FAST = {"num_steps": 2}


def editor_from(text: str, device: str | None = None) -> Editor:
    return editors_from([text], device)[0]


def work(benchmark: Benchmark, *names: str, form="free", task="edit", seed=0) -> Work:
    by_id = {case.id: case for case in benchmark.cases}
    cases = tuple(by_id[name] for name in names)
    return Work(benchmark, cases, form, task, tuple(range(seed, seed + len(cases))))


def same(answers: list[Answer], others: list[Answer], levels: int = 0) -> bool:
    return all(
        np.abs(a.picture.astype(int) - b.picture).max() <= levels
        for a, b in zip(answers, others, strict=True)
    )


@pytest.fixture(scope="module")
def pipeline(tiny) -> FlexEditPipeline:
    return FlexEditPipeline.from_pretrained(tiny, "cpu")


@pytest.fixture(scope="module")
def pix2pix(tiny, tmp_path_factory) -> Path:
    """A whole diffusers folder of InstructPix2Pix with random weights."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionInstructPix2PixPipeline,
        UNet2DConditionModel,
    )
    from transformers import AutoTokenizer, CLIPTextModel

    tokenizer = AutoTokenizer.from_pretrained(tiny / "clip", model_max_length=TINY.text_length)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("rivals") / "instruct-pix2pix"
    StableDiffusionInstructPix2PixPipeline(
        vae=AutoencoderKL.from_pretrained(tiny / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(tiny / "clip"),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=16,
            in_channels=8,
            out_channels=4,
            block_out_channels=(32, 32),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=TINY.clip_width,
            attention_head_dim=2,
        ),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tiny_benchmark, tmp_path_factory) -> Path:
    """The truths, as if another program had made them."""
    folder = tmp_path_factory.mktemp("finished") / "AnyDoor"
    folder.mkdir()
    for case in tiny_benchmark.cases:
        shutil.copy(tiny_benchmark.folder / case.truth, folder / f"{case.id}.png")
    return folder


# Every system


@pytest.mark.parametrize(
    "text",
    [
        "flexedit:{tiny},num_steps=2",
        "flexedit:{tiny},reply=generate,composite,num_steps=2,edit_cfg=1.5,scene_cfg=1",
        "instructpix2pix:{pix2pix},num_steps=2",
        "round-trip:{tiny}",
        "pictures:{finished}",
        "scene",
        "truth",
    ],
)
def test_a_system_named_on_the_command_line_answers_every_case_and_describes_itself(
    text, tiny, pix2pix, finished, tiny_benchmark
):
    system = editor_from(text.format(tiny=tiny, pix2pix=pix2pix, finished=finished), "cpu")
    system.load()
    for names in (SQUARE, [ODD], SUBJECTS):
        for form in FORMS:
            given = work(tiny_benchmark, *names, form=form)
            answers = system.answer(given)
            for case, answer in zip(given.cases, answers, strict=True):
                assert answer.picture.dtype == np.uint8
                assert answer.picture.shape == tiny_benchmark.picture(case, "scene").shape
    assert json.loads(json.dumps(system.describe())) == system.describe()


# FlexEdit


@pytest.mark.parametrize("reply", ["direct", "generate"])
def test_flexedit_answers_what_its_pipeline_paints_and_says(pipeline, tiny_benchmark, reply):
    given = work(tiny_benchmark, *SUBJECTS, seed=7)
    answers = FlexEdit(pipeline, reply, **FAST).answer(given)
    result = pipeline(given.request, reply=reply, seed=[7, 8], num_steps=2)
    assert same(answers, [Answer(one) for one in to_uint8(result.picture)])
    assert tuple(answer.reply for answer in answers) == result.replies
    assert tuple(answer.label for answer in answers) == result.labels
    assert all(answer.reply for answer in answers) == (reply == "generate")


def test_flexedit_replies_as_its_model_recommends(tmp_path, pipeline):
    speaks = make_tiny_folder(tmp_path / "speaks", sampling={"reply": "generate"})
    assert FlexEdit(FlexEditPipeline.from_pretrained(speaks, "cpu")).reply == "generate"
    assert FlexEdit(pipeline).reply == "direct"


def test_a_subject_counts_as_much_as_its_strength_says(pipeline, tiny_benchmark):
    given = work(tiny_benchmark, *SUBJECTS)
    half = FlexEdit(pipeline, strength=0.5, **FAST).answer(given)
    result = pipeline(given.request, subject_strength=0.5, seed=given.seeds, num_steps=2)
    assert same(half, [Answer(one) for one in to_uint8(result.picture)])
    assert not same(half, FlexEdit(pipeline, **FAST).answer(given))


def test_by_words_no_mask_is_shown_and_the_instruction_names_what_is_meant(
    pipeline, tiny_benchmark, monkeypatch
):
    requests = []
    paint = pipeline.__class__.__call__
    monkeypatch.setattr(
        pipeline.__class__,
        "__call__",
        lambda self, request, **given: (requests.append(request), paint(self, request, **given))[1],
    )
    given = work(tiny_benchmark, *SQUARE)
    system = FlexEdit(pipeline, by_words=True, **FAST)
    free, full = (system.answer(one) for one in (given, work(tiny_benchmark, *SQUARE, form="full")))
    assert same(free, full) and not system.paints
    assert all(request.mask is None for request in requests)
    for case, said in zip(given.cases, requests[0].instructions, strict=True):
        assert case.result_label in said if case.operation != "remove" else case.label in said
    with pytest.raises(FlexEditError, match="composite needs the masks that by_words leaves out"):
        FlexEdit(pipeline, composite=True, by_words=True)


def test_the_segment_task_is_always_answered_in_words_too(pipeline, tiny_benchmark):
    given = work(tiny_benchmark, *SQUARE, task="segment")
    direct, generate = (
        FlexEdit(pipeline, reply, composite, **FAST).answer(given)
        for reply, composite in (("direct", False), ("generate", True))
    )
    result = pipeline(given.request, reply="generate", seed=[0, 1], num_steps=2)
    assert same(direct, [Answer(one) for one in to_uint8(result.picture)])
    assert same(direct, generate)  # nor is a painted mask composited
    assert [answer.reply for answer in direct] == [answer.reply for answer in generate]
    assert all(answer.reply for answer in direct)


def test_a_composited_edit_leaves_the_rest_of_the_scene_bit_for_bit(pipeline, tiny_benchmark):
    given = work(tiny_benchmark, *SQUARE)
    raw = FlexEdit(pipeline, **FAST).answer(given)
    kept = FlexEdit(pipeline, composite=True, **FAST).answer(given)
    region = masks.connected_change(
        given.request.scene,
        torch.stack([torch.from_numpy(one.picture).permute(2, 0, 1) / 255 for one in raw]),
        given.request.mask,
        threshold=0.07 - 1 / 255,  # the pictures are rounded
    )
    region = torch.maximum(region, given.request.mask)
    for case, before, after, inside in zip(given.cases, raw, kept, region > 0, strict=True):
        scene = tiny_benchmark.picture(case, "scene")
        outside = ~inside.numpy()
        assert (after.picture[outside] == scene[outside]).all()
        mask = tiny_benchmark.picture(case, "mask")
        assert (after.picture[mask] == before.picture[mask]).all()
        assert (before.picture[mask] != scene[mask]).any()


def test_the_form_of_the_mask_and_the_seed_change_what_flexedit_paints(pipeline, tiny_benchmark):
    system = FlexEdit(pipeline, **FAST)
    plain = system.answer(work(tiny_benchmark, *SQUARE))
    assert same(plain, system.answer(work(tiny_benchmark, *SQUARE)))
    for change in ({"form": "full"}, {"seed": 3}):
        assert not same(plain, system.answer(work(tiny_benchmark, *SQUARE, **change)), levels=1)


def test_a_model_without_a_vllm_edits_but_cannot_paint_what_is_meant(tmp_path, tiny_benchmark):
    folder = make_tiny_folder(tmp_path / "text", **INSTRUCT_PIX2PIX)
    system = editor_from(f"flexedit:{folder},num_steps=2", "cpu")
    system.load()
    assert not system.paints
    assert system.answer(work(tiny_benchmark, ODD))[0].picture.shape == (61, 54, 3)


def test_settings_that_are_not_given_are_the_models_own(pipeline):
    advice = pipeline.config.sampling
    about = FlexEdit(pipeline).describe()
    assert about["num_steps"] == advice.num_steps
    assert (about["edit_cfg"], about["scene_cfg"]) == (advice.edit_cfg, advice.scene_cfg)
    assert FlexEdit(pipeline, edit_cfg=0.0).describe()["edit_cfg"] == 0.0


def test_an_unknown_reply_mode_is_refused(pipeline):
    with pytest.raises(FlexEditError, match="'shouted'; choose one of direct, generate"):
        FlexEdit(pipeline, "shouted")


# InstructPix2Pix


def test_instructpix2pix_gives_each_case_what_it_would_be_alone(pix2pix, tiny_benchmark):
    system = InstructPix2Pix(pix2pix, "cpu", num_steps=3)
    together = system.answer(work(tiny_benchmark, *SQUARE, seed=4))
    for index, name in enumerate(SQUARE):
        alone = system.answer(work(tiny_benchmark, name, seed=4 + index))
        assert same(alone, [together[index]], levels=1)
    assert not same(together, system.answer(work(tiny_benchmark, *SQUARE, seed=9)), levels=1)


def test_instructpix2pix_reads_scene_and_instruction_but_no_mask_and_no_subject(
    pix2pix, tiny_benchmark
):
    system = InstructPix2Pix(pix2pix, "cpu", num_steps=2)
    given = work(tiny_benchmark, "world-swap")
    plain = system.answer(given)
    assert same(plain, system.answer(work(tiny_benchmark, "world-swap", form="full")))
    (case,) = given.cases
    alone = dataclasses.replace(case, group="single", subject=None)
    assert same(plain, system.answer(dataclasses.replace(given, cases=(alone,))))
    for change in ({"instruction": "paint all of it"}, {"scene": case.truth}):
        other = dataclasses.replace(given, cases=(dataclasses.replace(case, **change),))
        assert not same(plain, system.answer(other), levels=1)


def test_instructpix2pix_paints_at_its_own_size(pix2pix, tiny_benchmark):
    """sample_size 16 × the VAE's ratio 4; a scene's longer side becomes that long."""
    system = InstructPix2Pix(pix2pix, "cpu", num_steps=2)
    assert system.working_size(64, 64) == (64, 64)
    assert system.working_size(512, 256) == (64, 32)
    assert system.working_size(61, 54) == (64, 57)
    large = InstructPix2Pix(pix2pix, "cpu", num_steps=2, size=96)
    assert large.working_size(61, 54) == (96, 85)
    assert large.describe() == system.describe() | {"size": 96}
    given = work(tiny_benchmark, ODD)
    assert large.answer(given)[0].picture.shape == (61, 54, 3)
    assert not same(large.answer(given), system.answer(given), levels=1)


def test_instructpix2pix_follows_its_settings(pix2pix, tiny_benchmark):
    given = work(tiny_benchmark, *SQUARE)
    plain = InstructPix2Pix(pix2pix, "cpu", num_steps=2)
    about = plain.describe()
    for change in ({"num_steps": 3}, {"edit_cfg": 2.0}, {"scene_cfg": 3.0}):
        other = InstructPix2Pix(pix2pix, "cpu", **({"num_steps": 2} | change))
        assert not same(plain.answer(given), other.answer(given), levels=1)
        ((key, value),) = change.items()
        assert other.describe() == about | {key: value}
    assert type(plain.pipeline.scheduler).__name__ == "EulerAncestralDiscreteScheduler"


def test_instructpix2pix_keeps_to_the_gpu_that_was_chosen(pix2pix, monkeypatch):
    monkeypatch.setattr(editors, "usable_device", torch.device)  # as if there were two
    system = InstructPix2Pix(pix2pix, "cuda:1")
    assert system.device == torch.device("cuda:1") and system.dtype == torch.float16
    assert system.describe()["device"] == "cuda"  # any will do to go on


def test_a_folder_that_is_no_instructpix2pix_is_an_error_on_loading(tiny):
    with pytest.raises(FlexEditError, match="InstructPix2Pix cannot be loaded"):
        InstructPix2Pix(tiny, "cpu").load()


def test_a_repository_needs_its_revision_and_is_looked_for_on_the_hub(monkeypatch):
    with pytest.raises(FlexEditError, match="REPOSITORY@REVISION"):
        InstructPix2Pix("someone/instruct-pix2pix")
    system = InstructPix2Pix("someone/instruct-pix2pix@0123abc", "cpu")
    assert system.name == "instruct-pix2pix"
    assert system.describe()["weights"] == "0123abc"
    with pytest.raises(FlexEditError, match="someone/instruct-pix2pix@0123abc"):
        system.load()  # offline


# Scene, round trip, truth


def test_returning_the_scene_changes_no_byte(tiny_benchmark):
    given = work(tiny_benchmark, *SQUARE)
    for case, answer in zip(given.cases, ReturnScene().answer(given), strict=True):
        assert (answer.picture == tiny_benchmark.picture(case, "scene")).all()
    assert not ReturnScene().paints


def test_the_round_trip_is_the_scene_as_the_vae_keeps_it(pipeline, tiny_benchmark):
    given = work(tiny_benchmark, ODD)
    (answer,) = RoundTrip(pipeline).answer(given)
    scene = tiny_benchmark.picture(given.cases[0], "scene")
    padded = np.pad(scene, ((0, 3), (0, 2), (0, 0)), mode="edge")
    pixels = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        decoded = pipeline.vae(pixels).sample  # its mode, which is what the forward pass takes
    expected = to_uint8((decoded / 2 + 0.5).clamp(0, 1))[0, :61, :54]
    assert same([answer], [Answer(expected)], levels=1)
    assert psnr(answer.picture, scene, np.ones((61, 54), bool)) < 30  # these weights are random


def test_the_truth_is_returned_and_its_painted_mask_reads_back_whole(tiny_benchmark):
    system = Truth()
    given = work(tiny_benchmark, *SQUARE, "world-swap", task="segment")
    for case, answer in zip(given.cases, system.answer(given), strict=True):
        scene = given.request.scene[[given.cases.index(case)]]
        painted = torch.from_numpy(answer.picture).permute(2, 0, 1)[None] / 255
        read = masks.read_painted(scene, painted)[0].numpy() > 0.5
        assert iou(read, tiny_benchmark.picture(case, "full_mask")) > 0.95
        assert answer.label == case.label and answer.label in answer.reply
    edits = system.answer(work(tiny_benchmark, *SQUARE))
    for case, answer in zip(given.cases, edits, strict=False):
        assert (answer.picture == tiny_benchmark.picture(case, "truth")).all()


# Finished pictures


def test_a_form_of_its_own_comes_before_the_common_picture(finished, tiny_benchmark, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "other")
    (folder / "full").mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "full" / f"{SQUARE[0]}.png")
    free, full = (
        Finished(folder).answer(work(tiny_benchmark, *SQUARE, form=form)) for form in FORMS
    )
    assert same(free, Truth().answer(work(tiny_benchmark, *SQUARE)))
    assert (full[0].picture == (255, 0, 0)).all()
    assert same(full[1:], free[1:])


def test_a_picture_of_the_scenes_shape_is_scaled_and_another_shape_is_refused(
    finished, tiny_benchmark, tmp_path
):
    folder = shutil.copytree(finished, tmp_path / "other")
    (case,) = (given := work(tiny_benchmark, SQUARE[0])).cases
    truth = Image.open(folder / f"{case.id}.png").copy()
    truth.resize((256, 258), Image.Resampling.BICUBIC).save(folder / f"{case.id}.png")
    (answer,) = Finished(folder).answer(given)
    assert answer.picture.shape == (64, 64, 3)
    assert psnr(answer.picture, np.asarray(truth), np.ones((64, 64), bool)) > 28
    truth.crop((0, 0, 64, 60)).save(folder / f"{case.id}.png")
    with pytest.raises(FlexEditError, match="64×60 pixels, but its scene 64×64: another shape"):
        Finished(folder).answer(given)


def test_a_picture_that_is_missing_or_broken_is_named(finished, tiny_benchmark, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "other")
    file = folder / f"{SQUARE[0]}.png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(FlexEditError, match=rf"{SQUARE[0]}\.png cannot be read as a picture"):
        Finished(folder).answer(work(tiny_benchmark, *SQUARE))
    file.unlink()
    with pytest.raises(FlexEditError, match=rf"There is no {SQUARE[0]}\.png in"):
        Finished(folder).answer(work(tiny_benchmark, *SQUARE))
    with pytest.raises(FlexEditError, match="There is no folder"):
        Finished(tmp_path / "nothing")


def test_a_description_changes_with_any_byte_of_the_pictures_or_weights(finished, tiny, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "AnyDoor")
    before = Finished(folder).describe()
    assert before == Finished(finished).describe()
    (folder / f"{ODD}.png").rename(folder / "another.png")
    assert Finished(folder).describe() != before

    model = shutil.copytree(tiny, tmp_path / tiny.name)
    original, copied = (editor_from(f"flexedit:{one}", "cpu").describe() for one in (tiny, model))
    assert original == copied
    with (model / "vae" / "diffusion_pytorch_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert editor_from(f"flexedit:{model}", "cpu").describe() != original


# Names


@pytest.mark.parametrize(
    "text, name",
    [
        ("flexedit:{tiny}", "tiny"),
        ("flexedit:{tiny},strength=0.5", "tiny-strength0.5"),
        ("flexedit:{tiny},composite", "tiny-composite"),
        ("flexedit:{tiny},by_words", "tiny-by_words"),
        (
            "flexedit:{tiny},reply=generate,num_steps=9,edit_cfg=2.5",
            "tiny-generate-num_steps9-edit_cfg2.5",
        ),
        ("flexedit:{tiny},name=ours", "ours"),
        ("round-trip:{tiny}", "round-trip"),
        ("instructpix2pix:{pix2pix}", "instruct-pix2pix"),
        ("pictures:{finished}", "AnyDoor"),
        ("pictures:{finished},name=Any.Door_2", "Any.Door_2"),
        ("scene", "scene"),
        ("truth,name=perfect", "perfect"),
    ],
)
def test_a_system_is_called_what_its_results_folder_will_be(text, name, tiny, pix2pix, finished):
    system = editor_from(text.format(tiny=tiny, pix2pix=pix2pix, finished=finished), "cpu")
    assert system.name == name


def test_a_folders_odd_name_still_makes_a_folder(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "Çà & là (v2)")
    assert Finished(folder).name == "l-v2"


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", "Unknown system ''"),
        ("sdxl/x:1", r"Choose one of: flexedit\[:FOLDER\].*reply=….*; scene\[,name=…\]; truth"),
        ("no_such_module:Editor", "cannot be imported"),
        ("json:dumps", "not a class that derives from"),
        ("scene:here", "'scene' has no option 'folder'"),
        ("pictures", "Write it as pictures:FOLDER"),
        ("scene,colour=red", r"'scene' has no option 'colour'. Write it as scene\[,name=…\]"),
        ("round-trip,device=cpu", "no option 'device'"),
        ("truth,name=", "name ''"),
        ("truth,name=a/b", "use letters, digits"),
        ("flexedit:{tiny},composite=perhaps", "composite='perhaps'"),
        ("flexedit:{tiny},num_steps=many", "num_steps='many'"),
        ("flexedit:{tiny},num_steps=0", "num_steps='0'"),
        ("flexedit:{tiny},reply=maybe", "reply='maybe'.*'direct' or 'generate'"),
        ("flexedit:{tiny}/nothing", "There is no model folder"),
        ("flexedit:{tiny},num_steps", "num_steps=True of .* valid integer"),
        ("flexedit,folder", "folder=True of .*give a folder's path"),
        ("nothing.yaml", "nothing.yaml cannot be read"),
    ],
)
def test_a_system_that_cannot_be_understood_says_what_can(text, complaint, tiny):
    with pytest.raises(FlexEditError, match=complaint):
        editor_from(text.format(tiny=tiny))


WITH_A_MODEL = """
class WithAModel(Dark):
    def __init__(self, pipeline, name="with-a-model"):
        super().__init__(name=name)
        self.pipeline = pipeline


class Odd(Dark):
    def __init__(self, level: "Unknown" = 1, fails=False):
        if fails:
            raise KeyError("no such key")
        self.level = level
"""


@pytest.fixture
def my_systems(tmp_path, monkeypatch):
    """The class of the documentation, in a module of the present folder."""
    page = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    section = page.partition("### A system of your own\n")[2]
    (own,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_systems.py").write_text(own + WITH_A_MODEL)
    yield
    sys.modules.pop("my_systems", None)


def test_a_system_of_ones_own_is_named_by_module_and_class(my_systems, tiny, tiny_benchmark):
    dark, other, mini = editors_from(
        [
            "my_systems:Dark,level=0,name=black",
            f"my_systems:WithAModel,folder={tiny}",
            f"flexedit:{tiny}",
        ],
        "cpu",
    )
    assert other.pipeline is mini.pipeline
    result = run(tiny_benchmark, dark, "results", progress=False)
    assert result.folder == Path("results/black")
    for case in tiny_benchmark.cases:
        expected = tiny_benchmark.picture(case, "scene").copy()
        expected[tiny_benchmark.picture(case, "mask")] = 0
        assert (result.picture(case.id) == expected).all()
    with pytest.raises(FlexEditError, match=r"made_with\.level was 0\.0 and is 0\.5"):
        (gray,) = editors_from(["my_systems:Dark,level=0.5,name=black"])
        run(tiny_benchmark, gray, "results", progress=False)
    about = json.loads((result.folder / "system.json").read_text())
    del about["made_with"]  # as older versions wrote it
    (result.folder / "system.json").write_text(json.dumps(about))
    assert run(tiny_benchmark, dark, "results", progress=False).results == result.results
    assert other.made_with.keys() >= {"model", "weights"} and mini.made_with is None


@pytest.mark.parametrize(
    ("options", "complaint"), [("", "The name None"), (",fails", "KeyError: 'no such key'")]
)
def test_what_a_class_of_ones_own_does_wrong_is_one_sentence(my_systems, options, complaint):
    with pytest.raises(FlexEditError, match=complaint):
        editors_from([f"my_systems:Odd,level=2{options}"])


def test_a_yaml_file_names_a_system_and_its_options(my_systems, tiny, tmp_path):
    (tmp_path / "own.yaml").write_text("{kind: 'my_systems:Dark', level: 0.25}")
    (tmp_path / "mini.yml").write_text(
        f"kind: flexedit\nfolder: {tiny}\ncomposite: true\nedit_cfg: 2\nname: mine\n"
    )
    own, mini = editors_from(["own.yaml", "mini.yml"], "cpu")
    assert (own.level, mini.name) == (0.25, "mine")
    assert mini.describe() == editor_from(f"flexedit:{tiny},composite,edit_cfg=2", "cpu").describe()
    (tmp_path / "none.yaml").write_text("reply: direct")
    with pytest.raises(FlexEditError, match="says no `kind` of system"):
        editor_from("none.yaml")


def test_two_systems_of_one_name_are_refused(finished):
    with pytest.raises(FlexEditError, match=r"Two systems are called 'scene'.*name=other"):
        editors_from(["scene", "truth", "scene"])
    assert [one.name for one in editors_from(["scene", "scene,name=again"])] == ["scene", "again"]


def test_systems_of_one_model_folder_share_its_parts(tiny):
    plain, composite, trip = editors_from(
        [f"flexedit:{tiny}", f"flexedit:{tiny},composite", f"round-trip:{tiny}"], "cpu"
    )
    assert plain.pipeline is composite.pipeline is trip.pipeline


def test_outputs_are_rounded_to_the_nearest_level():
    levels = torch.arange(256) / 255
    batch = torch.stack([levels - 0.4 / 255, levels, levels + 0.4 / 255])[None, :, None]
    assert (to_uint8(batch)[0, 0] == np.arange(256)[:, None]).all()


def test_an_output_that_overflowed_is_no_black_picture():
    batch = torch.zeros(2, 3, 4, 4)
    batch[1, 0, 2, 2] = torch.nan
    with pytest.raises(FlexEditError, match="numbers overflowed"):
        to_uint8(batch)


def test_an_error_becomes_one_line():
    assert one_line(FlexEditError("Paint\n  over it.")) == "Paint over it."
    assert one_line(ValueError("two\nlines")) == "ValueError: two lines"
    assert one_line(ValueError()) == "ValueError"
