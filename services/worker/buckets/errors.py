# ruff: noqa: N818 - as in holdfast.errors
"""Why a bucket could not be listed."""

from holdfast.errors import HoldfastError


class ObjectStoreError(HoldfastError):
    """The S3 server could not be listed. Check the HOLDFAST_S3_ settings, then list it again."""


class ObjectStoreUnavailable(ObjectStoreError):
    """The S3 server does not answer at the moment. Check that it runs, then list it again."""


class ObjectStoreRefused(ObjectStoreError):
    """The S3 server refuses these credentials. Check HOLDFAST_S3_CREDENTIALS_FILE."""


class BucketMissing(ObjectStoreError):
    """There is no bucket of this name on the S3 server. Check its name."""


class BucketUnordered(ObjectStoreError):
    """The S3 server lists keys in no known order, so ranges of keys mean nothing. List another bucket."""
