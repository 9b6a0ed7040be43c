from tests.cli.shell import complaint, run


def test_an_unknown_stage_of_training_is_refused_before_anything_starts(tmp_path, capsys):
    assert run("train", "mini", "--out", tmp_path / "run", "--stages", "parts,nonsense") == 2
    assert "Unknown stage 'nonsense'" in complaint(capsys)
    assert not (tmp_path / "run").exists()


def test_training_goes_on_from_a_model_folder_that_there_is(capsys, tmp_path):
    assert run("train", "mini", "--out", tmp_path / "run", "--start", tmp_path / "none") == 2
    assert "no model folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
