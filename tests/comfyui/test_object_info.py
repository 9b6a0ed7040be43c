"""Our nodes against ``object_info.json``: what people's graphs rely on is only ever added to.

After something was added, refresh the file:  python -m tools.object_info
It refuses to forget anything. Where something has to break after all (before a first release, say),
`--breaking` writes it nevertheless; then say so in the changelog.
"""

import copy

import pytest

from tools import object_info
from tools.workflows import WIDGETS


@pytest.fixture
def old() -> object_info.Contract:
    return object_info.recorded()


def test_saved_graphs_find_all_that_they_rely_on(comfy, old):
    found = object_info.contract(comfy.object_info())
    broken = object_info.breaks(old, found)
    assert not broken, "\n".join(["", *broken])
    assert found == old, "Something was added. Record it: python -m tools.object_info"


COMPOSITE, SHAPE = "FlexEditComposite", "FlexEditFreeShapeMask"
NEW = {"name": "new", "type": "INT"}


def composite(change):
    """→ a change of the composite's required and optional inputs and outputs"""
    return lambda new: change(**new[COMPOSITE])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda new: new.pop(COMPOSITE), "FlexEditComposite is gone"),
        (composite(lambda required, **_: required.pop(4)), "required: grow is gone"),
        (composite(lambda outputs, **_: outputs[1].update(name="area")), "region is gone"),
        (composite(lambda required, **_: required.insert(4, required.pop(5))), "the order was"),
        (composite(lambda optional, **_: optional.insert(0, NEW)), "the order was"),
        (composite(lambda required, **_: required.append(NEW)), "Make it optional"),
        (
            composite(lambda required, **_: required[4].update(default=7)),
            "grow: default was 0 and is 7",
        ),
        (
            composite(lambda required, **_: required[1].update(type="LATENT")),
            "scene: type was 'IMAGE' and is 'LATENT'",
        ),
        (
            composite(lambda required, **_: required[3]["options"].pop(0)),
            "the option mask is gone",
        ),
    ],
)
def test_what_breaks_saved_graphs_is_named_with_what_to_do(change, message, old):
    new = copy.deepcopy(old)
    change(new)
    (broken,) = object_info.breaks(old, new)
    assert message in broken


def test_connections_are_found_by_name_wherever_they_are(old):
    new = copy.deepcopy(old)
    new[COMPOSITE]["required"][:2] = reversed(new[COMPOSITE]["required"][:2])
    assert object_info.breaks(old, new) == []


def passed_on(node: dict, index: int) -> str | None:
    """What a bypassed node gives at an output, as the page does it: the connection at the output's
    place if it has its type, else the first of that type.
    """
    inputs = [*node["required"], *node["optional"]]
    connections = [one for one in inputs if one["type"] not in WIDGETS]
    kind = node["outputs"][index]["type"]
    fitting = [one["name"] for one in connections if one["type"] == kind]
    here = connections[index]["name"] if index < len(connections) else None
    return here if here in fitting else next(iter(fitting), None)


@pytest.mark.parametrize(
    ("node", "output", "wanted"),
    [
        ("Composite", "image", "edited"),
        ("Composite", "region", "mask"),
        ("MaskInterpreter", "marked scene", "scene"),
        ("Crop", "cropped", "scene"),
        ("Crop", "cropped mask", "mask"),
        ("ResolveMask", "mask", "mask"),
        ("ResolveMask", "overlay", "scene"),
        ("FreeShapeMask", "mask", "mask"),
        ("ReadPaintedMask", "mask", None),
    ],
)
def test_a_bypassed_node_passes_on_what_it_would_have_worked_on(node, output, wanted, old):
    found = old[f"FlexEdit{node}"]
    names = [one["name"] for one in found["outputs"]]
    assert passed_on(found, names.index(output)) == wanted


def test_adding_breaks_nothing(old):
    new = copy.deepcopy(old)
    new["FlexEditNew"] = new[SHAPE]
    new[COMPOSITE]["optional"].append(NEW | {"default": 0})
    new[COMPOSITE]["outputs"].append({"name": "new", "type": "MASK"})
    new[COMPOSITE]["required"][3]["options"].insert(0, "everything")
    assert object_info.breaks(old, new) == []


def test_words_and_options_of_others_are_not_part_of_it():
    spec = ["COMBO", {"options": ["a"], "tooltip": "t", "default": "a"}]
    info = {"input": {"required": {"model": spec}}, "output": ["MODEL"], "output_name": ["model"]}
    found = object_info.contract({"FlexEditLoader": info, "LoadImage": info})
    assert found["FlexEditLoader"]["required"] == [
        {"name": "model", "type": "COMBO", "default": "a"}
    ]
    assert "LoadImage" not in found
