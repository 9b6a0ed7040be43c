import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from safetensors.torch import load_file, save_file

from flexedit.data.world import World
from flexedit.errors import FlexEditError
from flexedit.model_folder import WEIGHTS_FILE, ModelFolder
from flexedit.systems import FOLDER
from studies.ablation.__main__ import main
from studies.ablation.tables import RECIPE
from studies.logs import Log, read_logs
from studies.recipe import Recipe, SomeByWords
from studies.run import Study, VariantTraining
from studies.systems.__main__ import main as systems_main
from studies.systems.tables import RECIPE as SYSTEMS


@pytest.fixture(scope="module")
def ablation(trained, tmp_path_factory) -> Study:
    return study(RECIPE, trained, tmp_path_factory.mktemp("ablation"))


def study(recipe: Recipe, trained: Path, folder: Path) -> Study:
    """A small one, from a tiny model."""
    stages = {
        name: stage.with_settings(steps=1, batch_size=2, log_every=1)
        for name, stage in recipe.stages.items()
    }
    small = dataclasses.replace(recipe, stages=stages, num_single=3, num_multi=2)
    return Study(small, ModelFolder(trained / "flexedit-mini"), folder, folder / "logs")


SECTIONS = {  # of the config that differ
    "no-ca": {"adapter"},
    "no-dca": {"adapter"},
    "literal-eq6": {"adapter"},
    "shared-kv": {"adapter"},
    "clean-input": {"vae_input"},
    "instructpix2pix": {"vllm", "bridge", "adapter"},
}


@pytest.mark.parametrize(
    "name", [name for name, variant in RECIPE.models.items() if variant.trains]
)
def test_every_variant_trains_and_becomes_a_model(ablation, name):
    folder, variant = ablation.out / f"{name}-0", RECIPE.variants[name]
    assert VariantTraining(folder, ablation.start, ablation.recipe, variant, seed=0).run()
    full, config = ablation.start.config.to_dict(), ModelFolder(folder / "model").config.to_dict()
    differing = {key for key, value in config.items() if value != full[key]}
    assert differing == SECTIONS.get(name, set()) | {"name"}


def test_the_adapter_starts_anew_and_all_else_from_the_finished_model(ablation, monkeypatch):
    inherited = {}
    monkeypatch.setattr(
        VariantTraining, "system", lambda _, name, model, start, **settings: inherited.update(start)
    )
    monkeypatch.setattr(VariantTraining, "fit_system", lambda *_: False)
    variant = RECIPE.variants["full"]
    VariantTraining(ablation.out / "x", ablation.start, ablation.recipe, variant, seed=0).run()
    prefixes = {key.split(".")[0] for key in inherited}
    assert prefixes == {"unet", "qformer", "tokens", "lora", "null"}


def test_variants_are_measured_once_and_their_tables_printed(ablation, capsys):
    names = ("full", "no-dca", "start")
    ablation.run(names, seeds=(0,))
    written = {path: path.stat().st_mtime_ns for path in ablation.logs.glob("*.jsonl")}
    strengths = RECIPE.strengths
    sweeps = [f"{name}-strength-{s:g}" for name in ("full", "start") for s in strengths]
    runs = {f"{name}-0" for name in (*names, "generate", *sweeps)}
    assert {path.stem for path in written} == runs
    assert {path.stem for path in (ablation.logs / "pictures").iterdir()} == runs
    shutil.rmtree(ablation.out / "full-0")  # the logs are what counts
    ablation.run(names, seeds=(0,))
    assert {path: path.stat().st_mtime_ns for path in ablation.logs.glob("*.jsonl")} == written
    assert not (ablation.out / "full-0").exists()

    log = Log.read(ablation.logs / "full-0.jsonl")
    assert log.facts["steps"] == 1 and len(log.curve) == 1
    assert {row["form"] for row in log.rows} == {"free", "full"} and len(log.rows) == 10
    capsys.readouterr()
    assert main(["tables", "--logs", str(ablation.logs)]) == 0
    printed = capsys.readouterr().out
    for name in (*names, "generate"):
        assert RECIPE.variants[name].title in printed
    for strength in (*strengths, 1):
        assert printed.count(f"| λ = {strength:g} |") == 2
    assert "22.4391" not in printed and "(paper)" in printed

    packed = ablation.out / "logs.parquet"
    assert main(["pack", "--logs", str(ablation.logs), "--out", str(packed)]) == 0
    capsys.readouterr()
    assert read_logs(packed) == read_logs(ablation.logs)
    assert main(["tables", "--logs", str(packed)]) == 0
    assert capsys.readouterr().out == printed

    start = Log.read(ablation.logs / "start-0.jsonl")
    assert "steps" not in start.facts and not start.curve
    swept = {row["case"] for row in Log.read(ablation.logs / "full-strength-0-0.jsonl").rows}
    assert swept == {row["case"] for row in log.rows if row["group"] == "multi"}
    words = ["figures", "--logs", str(ablation.logs), "--out", str(ablation.out)]
    assert main(words) == 0
    for name in ("curves.png", "cases.png", "strengths.png"):
        assert (ablation.logs / name).is_file()


def test_the_systems_are_trained_alike_measured_and_compared(trained, tmp_path, capsys):
    """Each from the same UNet, with the parts of its own preset; with masks and by words."""
    systems = study(SYSTEMS, trained, tmp_path)
    systems.run(seeds=(0,))
    for name, variant in SYSTEMS.variants.items():
        config = ModelFolder(tmp_path / f"{name}-0" / "model").config
        published = yaml.safe_load((FOLDER / f"{variant.system}.yaml").read_text())
        for slot in ("bridge", "interaction", "adapter"):
            part, type_ = getattr(config, slot), (published[slot] or {}).get("type")
            assert type_ == (part and part.type)
        assert config.unet == systems.start.config.unet
        assert (tmp_path / f"{name}-0" / "align").is_dir() == (config.vllm is not None)
        words = Log.read(systems.logs / f"{name}-words-0.jsonl").rows
        assert {row["group"] for row in words} == {"single"} and len(words) == 3
    assert systems_main(["tables", "--logs", str(systems.logs)]) == 0
    printed = capsys.readouterr().out
    assert all(variant.title in printed for variant in SYSTEMS.variants.values())
    assert "words alone" in printed and "21.95" in printed


def test_a_share_of_the_edits_is_told_by_words_alone():
    world = World(32, seed=3)
    some = [SomeByWords(world, 0.25)[index] for index in range(400)]
    edits = [sample for sample in some if sample.task == "edit"]
    told = [sample for sample in edits if sample.mask is None]
    assert 0.18 < len(told) / len(edits) < 0.32
    assert all(sample.instruction == sample.caption for sample in told)
    assert all(sample.mask is not None for sample in some if sample.task != "edit")


def test_what_another_process_works_on_is_left_to_it(ablation, monkeypatch):
    asked = []
    monkeypatch.setattr(Study, "train_and_measure", lambda _, name, __: asked.append(name))
    with FileLock(ablation.out / "no-ca-7.lock"):
        ablation.run(("no-ca", "shared-kv"), seeds=(7,))
    assert asked == ["shared-kv"]


def test_variants_of_two_starts_are_not_mixed(ablation, trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained / "flexedit-mini", other)
    file = other / WEIGHTS_FILE
    tensors = load_file(file)
    tensors["null.edit"] += 1
    save_file(tensors, file)
    moved = dataclasses.replace(ablation, start=ModelFolder(other), logs=tmp_path / "logs")
    ablation.run((), seeds=())
    with pytest.raises(FlexEditError, match="started from other weights"):
        moved.run((), seeds=())
    for seed, start in enumerate((ablation.origin, "other")):
        log = Log({"variant": "full", "seed": seed, "start": start}, (), ())
        log.write(tmp_path / "logs" / f"full-{seed}.jsonl")
        elsewhere = dataclasses.replace(moved, out=tmp_path / "out")
        with pytest.raises(FlexEditError, match=r"started from (other|different) weights"):
            elsewhere.run((), seeds=())


def test_logs_of_another_judge_are_not_added_to(ablation, tmp_path):
    log = Log({"variant": "full", "seed": 0, "start": ablation.origin, "judge": "other"}, (), ())
    log.write(tmp_path / "full-0.jsonl")
    with pytest.raises(FlexEditError, match="judged by another judge than this version's"):
        dataclasses.replace(ablation, logs=tmp_path).run((), seeds=())


def test_an_unknown_variant_is_refused(ablation):
    with pytest.raises(FlexEditError, match="Unknown variant 'half'; choose from full, no-ca"):
        ablation.run(("half",))


def test_what_measuring_needs_is_told_before_anything_is_trained(ablation, tmp_path, monkeypatch):
    monkeypatch.setattr("flexedit.benchmark.extra.find_spec", lambda _: None)
    with pytest.raises(FlexEditError, match="pip install torchmetrics"):
        dataclasses.replace(ablation, out=tmp_path / "out").run(("full",), seeds=(0,))
    assert not (tmp_path / "out").exists()


def test_verdicts_of_two_judges_are_not_mixed(tmp_path):
    for seed, judge in enumerate("ab"):
        Log({"variant": "full", "seed": seed, "judge": judge}, (), ()).write(
            tmp_path / f"{seed}.jsonl"
        )
    with pytest.raises(FlexEditError, match="were judged by different judges"):
        read_logs(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"curve": {}})])
def test_a_file_that_is_no_log_is_named(tmp_path, text):
    (tmp_path / "full-0.jsonl").write_text(text)
    with pytest.raises(FlexEditError, match=r"full-0.jsonl is not a log of a study"):
        read_logs(tmp_path)


def test_a_folder_without_logs_and_a_file_of_another_kind_are_named(tmp_path):
    with pytest.raises(FlexEditError, match="There are no logs in"):
        read_logs(tmp_path)
    (tmp_path / "logs.parquet").write_bytes(b"no")
    with pytest.raises(FlexEditError, match=r"logs\.parquet has no logs"):
        read_logs(tmp_path / "logs.parquet")


@pytest.mark.parametrize(
    "arguments",
    [("tables", "--seed", 77), ("tables", "--out", "runs"), ("figures", "--variant", "no-ca")],
)
def test_an_option_without_an_effect_is_refused(arguments, capsys):
    assert main([str(argument) for argument in arguments]) == 2
    assert "No such option" in capsys.readouterr().err
