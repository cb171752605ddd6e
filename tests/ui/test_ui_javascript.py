"""The JavaScript of widgets is one module each, with what it imports inside."""

import pytest

from dlkit.ui.controls.dragged_lines import DraggedLines
from dlkit.ui.controls.drawing_pad import DrawingPad
from dlkit.ui.controls.javascript import bundled
from dlkit.ui.controls.pointed_image import PointedImage
from dlkit.ui.controls.zoomed_image import ZoomedImage


def test_an_import_is_replaced_by_the_file(tmp_path):
    (tmp_path / "common.js").write_text("export const two = 2;\n")
    (tmp_path / "widget.js").write_text('import { two } from "./common.js";\n\nexport default { two };\n')
    assert bundled(tmp_path / "widget.js") == "export const two = 2;\n\nexport default { two };\n"


@pytest.mark.parametrize("widget", [DraggedLines, DrawingPad, PointedImage, ZoomedImage])
def test_a_widget_needs_no_other_file(widget):
    script = widget()._esm
    assert "import " not in script
    assert script.count("export default") == 1
    assert widget()._css


@pytest.mark.parametrize(
    ("widget", "line"),
    [
        (DraggedLines, "DraggedLines(rows=[], columns=[])"),
        (DrawingPad, "DrawingPad(140x140 pixels)"),
        (PointedImage, "PointedImage(place=[0.5, 0.5], cells=[])"),
        (ZoomedImage, "ZoomedImage(box=[0.0, 1.0])"),
    ],
)
def test_the_text_that_stands_in_for_the_widget_is_short(widget, line):
    assert repr(widget()) == line
