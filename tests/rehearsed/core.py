import torch
from rehearsed.examples import rows

from dlkit import core

NO_TENSORS = {
    "ShardedGenerator": "every run draws from one, on its device",
    "Slice": "numbers of rows",
    "slice_of": "numbers of rows",
    "format_bytes": "numbers",
    "format_seconds": "numbers",
}
p = 0.1 + 0.8 * rows(5, 4)
CASES = {
    "bernoulli": lambda on: core.bernoulli(on.inputs(p), on.generator()),
    "categorical": lambda on: core.categorical(on.inputs(p), on.generator()),
    "normal": lambda on: core.normal(on.inputs(p), on.generator()),
    "uniform": {
        "rows": lambda on: core.uniform(on.inputs(p), on.generator()),
        "columns": lambda on: core.uniform(on.inputs(p), on.generator(), dim=1),
        "float64": lambda on: core.uniform(on.inputs(p.double()), on.generator()),
        "bfloat16": lambda on: core.uniform(on.inputs(p.to(torch.bfloat16)), on.generator()),
    },
}
