"""Why there is no credential."""

from holdfast.errors import Unavailable


class CredentialUnavailable(Unavailable):
    """The credential's source could not be read. Check HOLDFAST_CREDENTIAL_FILE, then try again."""
