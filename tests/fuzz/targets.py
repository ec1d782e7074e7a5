"""Every target, in one table."""

from __future__ import annotations

from .containers import CONTAINERS
from .harness import Target
from .operators import OPERATORS
from .recipes import RECIPES
from .sets import SETS

TARGETS: list[Target] = [*RECIPES, *SETS, *CONTAINERS, *OPERATORS]
