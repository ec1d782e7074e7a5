"""The composition root: the one place where a config becomes models, loaders and phases."""

from __future__ import annotations

from litfast.build.checks import warnings as warnings
from litfast.build.data import data as data
from litfast.build.experiment import Experiment as Experiment
from litfast.build.experiment import device as device
from litfast.build.experiment import experiment as experiment
from litfast.build.experiment import fast_bf16 as fast_bf16
from litfast.build.experiment import judging as judging
from litfast.build.experiment import resolve as resolve
from litfast.build.method import method_options as method_options
from litfast.build.method import teacher_options as teacher_options
from litfast.build.method import trains_generator as trains_generator
from litfast.build.models import links as links
from litfast.build.models import model as model
from litfast.build.models import model_input as model_input
from litfast.build.splits import Data as Data
