import pytest

from tests.cli.shell import complaint, run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--stages", "parts,nonsense"), "Unknown stage 'nonsense'"),
        (("--start", "nowhere"), "no model folder"),
    ],
)
def test_a_training_that_cannot_start_makes_no_folder(words, message, tmp_path, capsys):
    assert run("train", "mini", "--out", tmp_path / "run", *words) == 2
    assert message in complaint(capsys)
    assert not (tmp_path / "run").exists()
