"""Drawing functions, and widgets with some of what their controls do; they take tensors and models from anywhere."""

import io
import tempfile

import numpy as np
import rehearsal
import torch
from ipywidgets import Image
from PIL import Image as Picture
from rehearsal import on_the_cpu, once
from rehearsed import examples
from rehearsed.examples import dbn, images, labels, net, rbm, rows

from dlkit import data, ui
from dlkit.models import ConvNet, LocallyConnected2d
from dlkit.training import CD, PCD, Experiment

square = (3, 4)  # of the models' 12 pixels


def digits(on):
    return on.inputs(images(6, 28)), on.inputs(labels())


def pictures(widget):
    """The pictures inside a widget, as numbers that can be compared."""
    found, inside = [], [widget]
    while inside:
        one = inside.pop()
        inside.extend(getattr(one, "children", ()))
        found += [pixels(one.value)] if isinstance(one, Image) else []
    return found


def pixels(file):
    """Of a picture as a file; from 0 to 1, as its file would be another one where one of them is rounded otherwise."""
    return torch.from_numpy(np.array(Picture.open(io.BytesIO(file)))) / 255 if file else torch.zeros(0)


def drawn(picture):
    return pixels(picture.png)


def drawn_file(picture):
    return pixels(picture.value)


def browser(on):
    widget = ui.DigitBrowser(data.Split(on.inputs(images()), on.inputs(labels())))
    widget.label.value = 1
    return pictures(widget)


def code_map(on, code):
    small = rows().view(-1, *square)
    widget = ui.CodeMap(on.model(examples.autoencoder(code)), on.inputs(small), on.inputs(labels(20)))
    widget.x.value, widget.t.value = widget.x.min, 0.25
    widget.first.value = 3
    return pictures(widget)


def dreamer(on, start=True):
    widget = ui.Dreamer(on.model(dbn()), on.inputs(rows(4).view(-1, *square)) if start else None, square)
    widget.step_button.click()
    widget.label.value = 1
    if start:
        widget.hold.value = "top half"
        widget.step_button.click()
    widget.noise_button.click()
    return [*pictures(widget), widget.image(0)]


def player(on):
    widget = ui.GibbsPlayer(on.model(rbm()), on.inputs(rows(4)), square)
    widget.hold.value = "left half"
    widget.step_button.click()
    widget.show.value = "means"
    widget.noise_button.click()
    return pictures(widget)


def explorer(on):
    widget = ui.MapExplorer(on.model(net()), on.inputs(images()), on.inputs(labels()))
    widget.layer.value, widget.map.value = "c2", 2
    widget.show(on.inputs(images()[3]))
    return pictures(widget)


def occluder(on):
    widget = ui.Occluder(on.model(net()), on.inputs(images()), on.inputs(labels()))
    widget.size.value, widget.label.value = 3, 1
    widget.show(on.inputs(images()[3]))
    return pictures(widget)


def reader(on):
    torch.manual_seed(0)
    given = on.inputs(images(1, 28)[0])
    widget = ui.DigitReader({"a net": on.model(ConvNet())}, {"an image": lambda: given})
    widget.buttons[0].click()
    widget.show(given)
    return pictures(widget)


def splitter(on):
    widget = ui.Splitter({"a net": on.model(net())}, (16, 16))
    for split_by in widget.split_by.options:
        widget.split_by.value = split_by
    return len(widget.table.value)


def stack(on):
    layers = on.model(dbn(labels=None))
    small, kinds = on.inputs(rows().view(-1, *square)), on.inputs(labels(20))
    widget = ui.StackExplorer(layers, small, kinds, after=layers.classifier(3))
    widget.layer.value, widget.sort.value, widget.net.value = 1, 1, "after"
    return pictures(widget)


def stepper(on):
    whole = on.model(net())
    widget = ui.ConvolutionStepper(on.inputs(images()), whole.c1[0], whole.c1[1], whole.s1[0])
    widget.mode.value = "Sub-sampling"
    widget.next.click()
    return pictures(widget)


def monitored(learner):
    @once
    def monitor():
        """In a thread, on the default device: while it trains, and when the model has come back."""
        experiment = Experiment(rbm, rows(24), learner, batch_size=6, epochs=2, row_every=1)
        widget = ui.TrainingMonitor(experiment, rows(9), shape=square)
        widget.start()
        widget.wait()
        assert widget.error is None, widget.error
        assert widget.run.device.type == rehearsal.DEVICE
        assert widget.health is not None

    return monitor


def array_grid(on):
    widget = ui.ArrayGrid(on.inputs(images()))
    widget.window.value, widget.rank.value = 9, 3
    return drawn_file(widget.picture)


def place_filters(on):
    layer = LocallyConnected2d(1, 2, 5, (16, 16), generator=examples.seeded())
    widget = ui.PlaceFilters(on.model(layer), on.inputs(images()), on.inputs(torch.ones(2, 1, 5, 5)))
    widget.picture.go_to(3, 4)
    return drawn_file(widget.picture)


def unit_finder(on):
    widget = ui.UnitFinder(on.inputs(images(6)), on.inputs(labels()), {"some": on.inputs(images(6).flatten(1))})
    widget.show_best()
    return len(widget.chart.value)


NO_TENSORS = dict.fromkeys(
    ("BLACK", "BLUE", "GREEN", "ORANGE", "PURPLE", "SKY", "VERMILION", "KIND_COLOURS"), "colours"
)
NO_TENSORS |= {
    "CDExplorer": "numbers; it trains an RBM of its own on the CPU",
    "CommandTape": "an experiment, in simulated time on the CPU",
    "LiveCluster": "a cluster, and an experiment that it sends there",
    "NetOnPaper": "a function that makes nets, on the meta device",
    "Race": "a cluster, and experiments that it sends there",
    "StalenessExplorer": "an experiment, in simulated time on the CPU",
    "TimelineView": "a timeline",
    "draw_timeline": "a timeline",
    "figure": "sizes",
    "show": "a figure",
}


def predictions(on):
    with tempfile.TemporaryDirectory() as folder:
        asked = ui.Predictions("a notebook", folder)
        asked.number("mean", "How many pixels are on?")
        return repr(asked.was("mean", on.inputs(rows()).mean()))


CASES = {
    "ArrayGrid": on_the_cpu(array_grid),
    "CodeMap": {"of two": on_the_cpu(lambda on: code_map(on, 2)), "of more": on_the_cpu(lambda on: code_map(on, 4))},
    "ConvolutionStepper": on_the_cpu(stepper),
    "DigitBrowser": on_the_cpu(browser),
    "DigitReader": on_the_cpu(reader),
    "Dreamer": {"from images": on_the_cpu(dreamer), "from noise": on_the_cpu(lambda on: dreamer(on, False))},
    "GibbsPlayer": on_the_cpu(player),
    "MapExplorer": on_the_cpu(explorer),
    "Occluder": on_the_cpu(occluder),
    "PlaceFilters": on_the_cpu(place_filters),
    "Predictions": on_the_cpu(predictions),
    "Splitter": on_the_cpu(splitter),
    "StackExplorer": on_the_cpu(stack),
    "TrainingMonitor": {"CD": monitored(CD()), "PCD": monitored(PCD())},
    "UnitFinder": on_the_cpu(unit_finder),
    "draw_histograms": on_the_cpu(
        lambda on: ui.draw_histograms(on.model(rbm()), {"W": on.inputs(torch.full((12, 6), 1e-3))}) and None
    ),
    "draw_probabilities": lambda on: ui.draw_probabilities(on.inputs(rows())) and None,
    "draw_rbm": on_the_cpu(
        lambda on: drawn(ui.draw_rbm(on.model(rbm()), on.inputs(rows()[0]), on.inputs(rows(9, 6)[0])))
    ),
    "enlarged": lambda on: ui.enlarged(on.inputs(images()), 2),
    "grid": on_the_cpu(lambda on: drawn(ui.grid(on.inputs(images()), "six images", symmetric=True))),
    "small_images": on_the_cpu(lambda on: drawn(ui.small_images(on.inputs(images()), "six images", 3))),
}
