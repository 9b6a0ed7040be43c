from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_tree_names_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.partition("## The tree\n\n```\n")[2].partition("```")[0]
    named, parents = set(), [ROOT]
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for name in line.strip().partition("  ")[0].split():
            path = parents[depth] / name
            assert path.exists(), name
            named.add(path)
        parents[depth + 1 :] = [path]
    rooms = [*(ROOT / "flexedit").iterdir(), *(ROOT / "flexedit" / "models").iterdir()]
    packages = {room for room in rooms if (room / "__init__.py").is_file()}
    modules = {room for room in (ROOT / "flexedit").glob("*.py") if room.name[0] != "_"}
    assert packages | modules <= named
