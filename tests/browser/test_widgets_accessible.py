"""Each widget, as one who cannot see it well or has no mouse is told of it: axe-core finds no serious fault."""

import pytest
from axe_playwright_python.sync_playwright import Axe

NAMES = [
    "07_engine_cluster.ipynb",
    "11_asynchronous.ipynb",
    "12_distributed_array.ipynb",
]  # sliders and pictures of others have no names yet
SERIOUS = ("serious", "critical")


@pytest.mark.parametrize("notebook", NAMES, indirect=True)
def test_axe_finds_no_serious_fault_in_a_widget(notebook):
    faults = []
    for index, cell in enumerate(notebook.cells()):
        if "widget" not in cell["metadata"].get("tags", []):
            continue
        area = notebook.cell_at(index).locator(".jupyter-widgets").first
        area.scroll_into_view_if_needed()
        area.evaluate("element => element.setAttribute('data-axe', 'here')")
        found = Axe().run(area.page, context="[data-axe=here]", options={"resultTypes": ["violations"]})
        area.evaluate("element => element.removeAttribute('data-axe')")
        faults += [
            f"cell {index}: {fault['id']}, {fault['help']}: {node['html'][:200]}"
            for fault in found.response["violations"]
            if fault["impact"] in SERIOUS
            for node in fault["nodes"][:3]
        ]
    assert not faults, "\n".join(faults)
