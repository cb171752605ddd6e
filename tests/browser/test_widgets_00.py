"""The digit browser of notebook 00, in JupyterLab."""

import pytest
from playwright.sync_api import expect

from .lab import change, image_of, keys, move_slider, select

pytestmark = pytest.mark.parametrize("notebook", ["00_start_here.ipynb"], indirect=True)


@pytest.fixture
def area(notebook):
    return notebook.cell_output("digit-browser")


def test_it_opens_on_the_first_hundred_digits(area):
    expect(area.get_by_text("of the 50,000 of any class")).to_be_visible()
    expect(area.get_by_text("images[index]")).to_be_visible()


def test_turning_the_page_with_the_arrow_keys_shows_other_digits(area):
    picture = area.locator("img.widget-image")
    with change(lambda: image_of(picture)):
        move_slider(area, "Page", +1)
    expect(area.get_by_text("Images 101 to 200")).to_be_visible()


def test_choosing_a_class_shows_its_digits(area):
    picture = area.locator("img.widget-image")
    with change(lambda: image_of(picture)):
        select(area, "Class", "7")
    expect(area.get_by_text("Images 1 to 100 of the 5,175 labelled 7")).to_be_visible()


def test_the_class_can_be_chosen_with_the_keyboard(area):
    with change(area.inner_text):
        keys(area.get_by_label("Class"), "3")
    expect(area.get_by_text("labelled 3")).to_be_visible()


def test_the_link_to_the_primer_jumps_there_and_its_parts_open(notebook):
    page = notebook.page
    page.get_by_role("link", name="Primer", exact=True).first.click()
    expect(page.get_by_role("heading", name="Primer")).to_be_in_viewport()
    part = page.locator("details").filter(has_text="Backpropagation:")
    expect(part.get_by_text("0.718")).to_be_hidden()
    part.locator("summary").click()
    expect(part.get_by_text("0.718")).to_be_visible()
