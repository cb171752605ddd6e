from .cluster import Cluster as Cluster
from .engines import ClusterError as ClusterError
from .placement import Placement as Placement
from .placement import placements as placements
from .slow_engine import slowed as slowed
from .split_run import RankReport as RankReport
from .split_run import SplitRun as SplitRun
