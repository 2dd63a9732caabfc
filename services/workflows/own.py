"""The former import path of the public names. New modules write ``from holdfast import ...``."""

from holdfast import *  # noqa: F403
from holdfast import __all__  # noqa: F401
