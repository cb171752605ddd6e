"""Contrastive divergence on the 4x4 bars and stripes, beside the exact likelihood and gradient."""

import ipywidgets as widgets

from dlkit.analysis.cd_bias import KS, CDTraining, train_by_cd
from dlkit.ui.controls.elements import FULL_LABEL
from dlkit.ui.draw.cd_chart import CDChart

RATES = (0.05, 0.1, 0.2, 0.5, 1.0)
HIDDEN = (2, 4, 6, 8, 10, 12)


class CDExplorer(widgets.VBox):
    """Train an RBM by CD with another k, learning rate or number of hidden units, and see what it has learnt."""

    def __init__(self, k: int = 1, rate: float = 0.5, hidden: int = 8):
        options = {"continuous_update": False, "layout": {"width": "300px"}, "style": FULL_LABEL}
        self.k = widgets.SelectionSlider(options=KS, value=k, description="k", **options)
        self.rate = widgets.SelectionSlider(options=RATES, value=rate, description="Rate", **options)
        self.hidden = widgets.SelectionSlider(options=HIDDEN, value=hidden, description="Hidden units", **options)
        self.picture = widgets.Image(format="png", layout={"width": "900px"})
        self.caption = widgets.HTML()
        self.training: CDTraining | None = None
        self._chart = CDChart()
        for slider in (self.k, self.rate, self.hidden):
            slider.observe(self._train, "value")
        self._train()
        super().__init__([widgets.HBox([self.k, self.rate, self.hidden]), self.caption, self.picture])

    def __repr__(self) -> str:
        return f"CDExplorer(k={self.k.value}, rate={self.rate.value:g}, hidden={self.hidden.value})"

    def _train(self, change: object = None) -> None:
        before = self.training

        def show(training: CDTraining) -> None:
            self.picture.value = self._chart.png(training, before)
            self.caption.value = str(training)

        self.training = train_by_cd(self.k.value, self.rate.value, self.hidden.value, show)
        show(self.training)
