"""Every target, in one table."""

from __future__ import annotations

from .archives import ARCHIVES
from .harness import Target
from .operators import OPERATORS
from .recipes import RECIPES
from .sets import SETS
from .weights import WEIGHTS

TARGETS: list[Target] = [*RECIPES, *SETS, *ARCHIVES, *WEIGHTS, *OPERATORS]
