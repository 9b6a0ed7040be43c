from dataclasses import field
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from flexedit.errors import FlexEditError
from flexedit.validation import STRICT, validated


@dataclass(frozen=True, config=STRICT)
class Lamp:
    type: Literal["lamp"]
    watts: float


@dataclass(frozen=True, config=STRICT)
class Chair:
    type: Literal["chair"]
    num_legs: int = Field(4, ge=0)


@dataclass(frozen=True, config=STRICT)
class Room:
    name: str
    light: Lamp
    floor: Literal["wood", "stone"] = "wood"
    warm: bool = True
    door: int | str | None = None
    things: dict[str, Chair] = field(default_factory=dict)
    lamps: list[Lamp] = field(default_factory=list)
    seat: Annotated[Lamp | Chair, Field(discriminator="type")] | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "nowhere":
            raise ValueError("nowhere is no room.")
        if self.name == "cellar":
            raise FlexEditError("Cellars are for wine.")


LAMP = {"type": "lamp", "watts": 60}
CHAIR = {"type": "chair", "num_legs": 3}
ROOM = {"name": "study", "light": LAMP}


def test_nested_records_are_made_of_plain_data():
    notes = {"deep": [{"free": None}, 1.5, float("inf")]}
    data = {"things": {"red": CHAIR}, "lamps": (LAMP,), "seat": CHAIR, "door": "2b", "notes": notes}
    room = validated(Room, ROOM | data, "house.json")
    assert room == Room(
        "study", Lamp("lamp", 60.0), things={"red": Chair("chair", 3)}, lamps=[Lamp("lamp", 60.0)],
        seat=Chair("chair", 3), door="2b", notes=notes,
    )  # fmt: skip
    assert isinstance(room.light.watts, float)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roof": 1, "attic": 2, "name": 3}, "unknown setting attic, roof"),
        ({"light": LAMP | {"volts": 1}}, "light: unknown setting volts"),
        ({"light": {}}, "light: missing setting type, watts"),
        ({"things": {"red": CHAIR | {"arms": 2}}}, "things.red: unknown setting arms"),
        ({"things": {"red": 3}}, "things.red: expected an object, found 3"),
        ({"things": [CHAIR]}, f"things is {[CHAIR]}; expected an object"),
        ({"lamps": LAMP}, f"lamps is {LAMP}; expected a list"),
        ({"lamps": [LAMP, LAMP | {"watts": "9"}]}, "lamps.1: watts is '9'; expected float"),
        ({"light": LAMP | {"watts": True}}, "light: watts is True; expected float"),
        ({"seat": CHAIR | {"num_legs": 3.0}}, "seat: num_legs is 3.0; expected int"),
        ({"seat": CHAIR | {"num_legs": -1}}, "seat: num_legs is -1; it should be greater than or"),
        ({"seat": {"type": "sofa"}}, "seat: type is 'sofa'; choose one of lamp, chair"),
        ({"seat": {}}, "seat: missing setting type"),
        ({"name": None}, "name is None; expected str"),
        ({"warm": 1}, "warm is 1; expected bool"),
        ({"door": 1.5}, "door is 1.5; expected int or str"),
        ({"floor": "lava"}, "floor is 'lava'; choose one of wood, stone"),
        ({"name": "nowhere"}, "nowhere is no room."),
    ],
)
def test_the_sentence_names_file_setting_what_is_there_and_what_is_expected(changes, message):
    with pytest.raises(FlexEditError) as caught:
        validated(Room, ROOM | changes, "house.json, line 2")
    assert str(caught.value).startswith(f"house.json, line 2: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, "study", [ROOM], 7])
def test_what_is_no_object_is_shown(data):
    with pytest.raises(FlexEditError) as caught:
        validated(Room, data, "house.json")
    assert str(caught.value) == f"house.json: expected an object, found {data!r}."


def test_missing_settings_are_named_together():
    with pytest.raises(FlexEditError, match=r"^house.json: missing setting light, name\.$"):
        validated(Room, {}, "house.json")


def test_text_that_is_no_unicode_is_an_error_too():
    with pytest.raises(FlexEditError, match=r"^house\.json: name is no valid Unicode"):
        validated(Room, ROOM | {"name": "\ud800"}, "house.json")


def test_a_record_s_own_error_keeps_its_words():
    with pytest.raises(FlexEditError, match=r"^Cellars are for wine\.$"):
        validated(Room, ROOM | {"name": "cellar"}, "house.json")
