"""The type checker of the tests: beartype, to which an int is a float too, as PEP 484 has it."""

import beartype

check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
