from . import analysis as analysis
from . import cluster as cluster
from . import core as core
from . import data as data
from . import distributed as distributed
from . import doctor as doctor
from . import exercises as exercises
from . import models as models
from . import papers as papers
from . import strategies as strategies
from . import training as training
from . import ui as ui
from .cluster.cluster import Cluster as Cluster
from .training.experiment import Experiment as Experiment
from .training.run import Run as Run

__version__: str
