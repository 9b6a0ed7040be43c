import numpy as np
from PIL import Image

from tools.demo import ACCENT, COLUMNS, GAP, HEAD, SIDE, TEXT, WHITE, Row, Wish, chosen, sheet

GREY, BLUE = (90, 90, 90), (20, 40, 200)


def test_the_picture_shows_scene_scribble_whole_object_and_result_in_this_order():
    scene = np.full((64, 64, 3), GREY[0], np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[24:40, 24:40] = True
    whole = Image.fromarray((mask * 255).astype(np.uint8))
    page = sheet([Row(Wish(scene, mask, "remove this"), whole, Image.new("RGB", (64, 64), BLUE))])
    middles = [
        page.getpixel((GAP + column * (SIDE + GAP) + SIDE // 2, HEAD + TEXT + SIDE // 2))
        for column in range(4)
    ]
    towards = [
        min((GREY, WHITE, ACCENT, BLUE), key=lambda color: np.abs(np.subtract(color, one)).sum())
        for one in middles
    ]
    assert COLUMNS == ("scene", "scribble", "whole object", "result")
    assert towards[0] == GREY and towards[1] == WHITE and towards[3] == BLUE
    assert middles[2][1] > middles[2][0] > GREY[0] * 0.9  # greenish, and still seen through


def test_every_edit_of_the_demo_has_a_scribble_on_its_scene():
    wishes = list(chosen(64))
    assert len(wishes) >= 3
    for wish in wishes:
        assert wish.mask.shape == wish.scene.shape[:2] and 0 < wish.mask.mean() < 0.3
        assert wish.instruction
