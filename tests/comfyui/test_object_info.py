"""Our nodes against ``object_info.json``: what people's graphs rely on is only ever added to.

After something was added, refresh the file:  python -m tools.object_info
It refuses to forget anything. Where something has to break after all (before a first release, say),
`--breaking` writes it nevertheless; then say so in the changelog.
"""

import copy

import pytest

from tools import object_info


@pytest.fixture
def old() -> object_info.Contract:
    return object_info.recorded()


def test_saved_graphs_find_all_that_they_rely_on(comfy, old):
    found = object_info.contract(comfy.object_info())
    broken = object_info.breaks(old, found)
    assert not broken, "\n".join(["", *broken])
    assert found == old, "Something was added. Record it: python -m tools.object_info"


def test_every_node_of_the_contract_has_inputs_or_outputs(old):
    assert len(old) >= 10
    assert all(node["outputs"] and node["required"] for node in old.values())


COMPOSITE, SHAPE = "FlexEditComposite", "FlexEditFreeShapeMask"


def remove_node(new):
    del new[COMPOSITE]


def remove_input(new):
    del new[COMPOSITE]["required"][4]


def rename_output(new):
    new[COMPOSITE]["outputs"][1]["name"] = "area"


def swap_inputs(new):
    inputs = new[COMPOSITE]["required"]
    inputs[4], inputs[5] = inputs[5], inputs[4]


def put_an_optional_input_first(new):
    new[COMPOSITE]["optional"].insert(0, {"name": "new", "type": "INT"})


def require_more(new):
    new[COMPOSITE]["required"].append({"name": "new", "type": "INT"})


def change_default(new):
    new[COMPOSITE]["required"][4]["default"] = 7


def change_type(new):
    new[COMPOSITE]["required"][0]["type"] = "LATENT"


def remove_option(new):
    new[COMPOSITE]["required"][3]["options"].pop(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_node, "FlexEditComposite is gone"),
        (remove_input, "required: grow is gone"),
        (rename_output, "outputs: region is gone"),
        (swap_inputs, "the order was"),
        (put_an_optional_input_first, "the order was"),
        (require_more, "Make it optional"),
        (change_default, "grow: default was 0 and is 7"),
        (change_type, "scene: type was 'IMAGE' and is 'LATENT'"),
        (remove_option, "the option mask is gone"),
    ],
)
def test_what_breaks_saved_graphs_is_named_with_what_to_do(change, message, old):
    new = copy.deepcopy(old)
    change(new)
    (broken,) = object_info.breaks(old, new)
    assert message in broken


def test_adding_breaks_nothing(old):
    new = copy.deepcopy(old)
    new["FlexEditNew"] = new[SHAPE]
    new[COMPOSITE]["optional"].append({"name": "new", "type": "INT", "default": 0})
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
