"""The settings of the showcase's processes: the platform's and those of each feature."""

from services.api.users.settings import CredentialSettings
from services.worker.buckets.settings import BucketSettings
from services.worker.fibonacci.settings import FibonacciSettings
from services.worker.pulse.settings import PulseSettings


class ShowcaseSettings(FibonacciSettings, CredentialSettings, BucketSettings, PulseSettings):
    """Every option of a showcase process, read and validated together."""
