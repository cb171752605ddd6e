from ..data.batch import Batch as Batch
