"""What is wrong with a notebook is found: the helpers know JupyterLab's and ipywidgets' own names for it."""

import pytest
from nbformat import v4

from .lab import change, image_of, move_slider, play, press, select, tick

WIDGETS = """
import ipywidgets as widgets
slider = widgets.IntSlider(description="Slide")
button = widgets.Button(description="Divide", icon="gear")
button.on_click(lambda _: 1 / 0)
menu = widgets.Dropdown(options=["one", "two"], description="Menu")
flag = widgets.Checkbox(description="Flag")
player = widgets.Play()
shown = widgets.HTML()
pixel = widgets.Image(format="gif")
def show(_=None):
    shown.value = f"{slider.value} {menu.value} {flag.value} {'moves' if player.value else 'rests'}"
    pixel.value = b"GIF87a" + shown.value.encode()
for widget in (slider, menu, flag, player):
    widget.observe(show, "value")
show()
widgets.VBox([slider, button, menu, flag, player, shown, pixel])
"""
NO_VIEW = """
from traitlets import Unicode
class NoView(widgets.HTML):
    _view_name = Unicode("NoView").tag(sync=True)
NoView()
"""
PICTURE = """
from IPython.display import HTML, display
display(HTML('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" alt=" ">'))
"""


@pytest.fixture(scope="module")
def faulty(lab):
    """A notebook with faults, run as far as it goes, and what run_all said of it."""
    cells = [v4.new_code_cell(source) for source in (WIDGETS, NO_VIEW, PICTURE, "{}['key']", "'not reached'")]
    lab.write(
        "faulty.ipynb",
        v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}),
    )
    with lab.open_notebook("faulty.ipynb") as notebook:
        with pytest.raises(AssertionError) as raised:
            notebook.run_all()
        yield notebook, str(raised.value)


def test_a_cell_that_raises_is_named(faulty):
    said = faulty[1]
    assert "cell 3 (\"{}['key']\"): KeyError: 'key'" in said
    assert "cell 4 (\"'not reached'\") is the first that was not run" in said


def test_a_widget_that_cannot_be_shown_is_found(faulty):
    assert any("NoView" in error for error in faulty[0].outputs_with_errors())


def test_a_picture_without_alt_text_is_found(faulty):
    assert len(faulty[0].images_without_alt()) == 1


def test_an_error_in_a_callback_is_found(faulty):
    notebook, _ = faulty
    assert "ZeroDivisionError" not in "".join(notebook.outputs_with_errors())
    press(notebook.cell_output("IntSlider"), "Divide")
    assert "a widget's callback: ZeroDivisionError: division by zero" in notebook.outputs_with_errors()


def test_widgets_move_by_their_descriptions(faulty):
    area = faulty[0].cell_output("IntSlider")
    shown, picture = area.locator(".widget-html-content"), area.locator("img")
    moves = [
        (lambda: move_slider(area, "Slide", 1), "1 one False rests"),
        (lambda: select(area, "Menu", "two"), "1 two False rests"),
        (lambda: tick(area, "Flag"), "1 two True rests"),
        (lambda: play(area), "1 two True moves"),
    ]
    for move, says in moves:
        with change(shown.inner_text), change(lambda: image_of(picture)):
            move()
        assert shown.inner_text() == says
        assert image_of(picture) == b"GIF87a" + says.encode()


def test_a_picture_that_stays_the_same_is_found():
    with pytest.raises(AssertionError, match="nothing changed"), change(lambda: "the same", limit=0):
        pass
