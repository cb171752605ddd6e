"""The pad, the stepper, the explorer and the dreams of notebook 05, in JupyterLab."""

import re

import pytest
from playwright.sync_api import expect

from .lab import change, image_of, keys, pause, play, press, select
from .strokes import DRAWN

pytestmark = pytest.mark.parametrize("notebook", ["05_cnn_feature_maps.ipynb"], indirect=True)
DIGITS, HANDS = [digit for digit, _ in DRAWN], [strokes for _, strokes in DRAWN]
EMPTY = "When the pen is lifted, the nets read it"


@pytest.fixture
def reader(notebook):
    area = notebook.cell_output("pad")
    area.locator("canvas.pad").scroll_into_view_if_needed()
    return area


@pytest.fixture
def pad(reader):
    """The pad, cleared."""
    press(reader, "Clear")
    expect(reader).to_contain_text(EMPTY)
    return reader.locator("canvas.pad")


def sheet(reader):
    return lambda: image_of(reader.locator("img.widget-image").last)


def places(pad, points):
    box = pad.bounding_box()
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]


def draw(pad, strokes):
    """Draw with the mouse."""
    mouse = pad.page.mouse
    for points in strokes:
        first, *others = places(pad, points)
        mouse.move(*first)
        mouse.down()
        for place in others:
            mouse.move(*place)
        mouse.up()


@pytest.mark.parametrize(("digit", "strokes"), [DRAWN[5], DRAWN[15]], ids=["2", "7"])
def test_what_is_drawn_is_read_and_each_map_redrawn(reader, pad, digit, strokes):
    with change(sheet(reader)):
        draw(pad, strokes)
    expect(reader).to_contain_text(f"LeNet-5 reads {digit} (p =")
    expect(reader.get_by_role("img", name=re.compile(r"p\(digit\), the survey.s"))).to_be_visible()


def test_of_twenty_drawn_digits_nearly_all_are_read_right(reader, pad):
    read = []
    for strokes in HANDS:
        press(reader, "Clear")
        expect(reader).to_contain_text(EMPTY)
        draw(pad, strokes)
        expect(reader).to_contain_text("As drawn")
        pad.page.wait_for_timeout(300)  # a second stroke is read after the first
        read.append(int(re.search(r"LeNet-5 reads (\d)", reader.inner_text())[1]))
    right = sum(one == other for one, other in zip(read, DIGITS, strict=True))
    print(f"read right: {right} of {len(DIGITS)}")
    assert right >= 18, list(zip(DIGITS, read, strict=True))


def test_a_finger_draws_too(reader, pad):
    touch = pad.page.context.new_cdp_session(pad.page)

    def send(kind, *points):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    first, *others = places(pad, HANDS[2][0])
    send("touchStart", first)
    for place in others:
        send("touchMove", place)
    send("touchEnd")
    expect(reader).to_contain_text("LeNet-5 reads 1 (p =")


def test_the_keyboard_draws_takes_back_and_clears(reader, pad):
    pad.focus()
    keys(pad, *["ArrowUp"] * 5, "Space", *["ArrowDown"] * 9, "Space")
    expect(reader).to_contain_text("LeNet-5 reads 1 (p =")
    pen_up = image_of(pad)
    keys(pad, "ArrowLeft")
    assert "LeNet-5 reads 1 (p =" in reader.inner_text()  # the pen is up: its cursor moves, and nothing is drawn
    assert image_of(pad) != pen_up
    keys(pad, "Backspace")
    expect(reader).to_contain_text(EMPTY)
    keys(pad, "Space", "ArrowDown", "Delete")
    expect(reader).to_contain_text(EMPTY)


def test_a_stroke_is_taken_back_by_button(reader, pad):
    draw(pad, HANDS[8])
    expect(reader).to_contain_text("LeNet-5 reads 4 (p =")
    with change(sheet(reader)):
        press(reader, "Undo")
    with change(sheet(reader)):
        press(reader, "Undo")
    expect(reader).to_contain_text(EMPTY)


def test_another_net_and_another_image(reader, pad):
    draw(pad, HANDS[0])
    with change(sheet(reader)):
        press(reader, "LeNet-5")
    with change(sheet(reader)):
        press(reader, "Read a test digit")
    expect(reader).not_to_contain_text("As drawn")
    press(reader, "the survey's net")


@pytest.fixture
def stepper(notebook):
    area = notebook.cell_output("stepper")
    area.locator("img.pointed").first.scroll_into_view_if_needed()
    press(area, "Convolution")
    return area


def test_pointing_at_the_image_or_the_map_goes_to_a_cell(stepper):
    image, cells = stepper.locator("img.pointed").all()
    for picture in (image, cells):
        with change(stepper.inner_text):
            picture.hover(position={"x": 60, "y": 40})
        with change(stepper.inner_text):
            picture.hover(position={"x": 100, "y": 120})
    expect(stepper).to_contain_text("sum of 25 products")


def test_arrow_keys_and_buttons_go_from_cell_to_cell(notebook, stepper):
    picture = stepper.locator("img.pointed").first
    with change(stepper.inner_text):
        picture.click(position={"x": 60, "y": 60})
    notebook.settle()  # where the pointer went on its way there has been answered too
    where = re.compile(r"row (\d+), column (\d+) \(counted")
    row, column = map(int, where.search(stepper.inner_text()).groups())
    keys(picture, "ArrowDown", "ArrowRight", "ArrowRight")
    expect(stepper).to_contain_text(f"row {row + 1}, column {column + 2} (counted")
    press(stepper, "Next cell")
    expect(stepper).to_contain_text(f"row {row + 1}, column {column + 3} (counted")


def test_sub_sampling_is_stepped_the_same_way_and_by_itself(stepper):
    with change(stepper.inner_text):
        press(stepper, "Sub-sampling")
    expect(stepper).to_contain_text("average")
    with change(stepper.inner_text):
        play(stepper)
    pause(stepper)


@pytest.fixture
def explorer(notebook):
    return notebook.cell_output("explorer")


def test_the_table_lights_up_what_feeds_a_map(explorer):
    select(explorer, "Layer", "c2: 6 maps of 8x8")
    expect(explorer.get_by_role("img", name="Connection table: map 0 sees map 0 below")).to_be_visible()
    press(explorer, "Next map")
    expect(explorer.get_by_role("img", name="Connection table: map 1 sees maps 0 and 1 below")).to_be_visible()


def test_a_unit_is_chosen_by_pointer_and_keys(explorer):
    unit = explorer.locator("img.pointed")
    with change(explorer.inner_text):
        unit.click(position={"x": 30, "y": 30})
    with change(explorer.inner_text):
        keys(unit, "ArrowRight")
    box = explorer.get_by_label("Image", exact=True)
    with change(explorer.inner_text):
        box.fill("4")
        box.press("Enter")


def test_a_dream_is_dropped_into_the_reader(notebook):
    dreams = notebook.cell_output("dreams")
    press(dreams, "Step")
    with change(sheet(dreams)):
        press(dreams, "Read dream 1")
    with change(sheet(dreams)):
        press(dreams, "Read dream 2")
    expect(dreams).to_contain_text("LeNet-5 reads")
