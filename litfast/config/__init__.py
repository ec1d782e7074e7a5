"""What a recipe may say, and how it is read."""

from __future__ import annotations

from litfast.config.reading import OF_DATA as OF_DATA
from litfast.config.reading import coerce as coerce
from litfast.config.reading import dump as dump
from litfast.config.reading import load as load
from litfast.config.reading import parse as parse
from litfast.config.reading import read as read
from litfast.config.reading import recipes as recipes
from litfast.config.tables import Config as Config
from litfast.config.tables import DataConfig as DataConfig
from litfast.config.tables import DiscriminatorConfig as DiscriminatorConfig
from litfast.config.tables import EngineConfig as EngineConfig
from litfast.config.tables import MethodConfig as MethodConfig
from litfast.config.tables import ScoresConfig as ScoresConfig
from litfast.config.tables import StudentConfig as StudentConfig
from litfast.config.tables import TeacherConfig as TeacherConfig
