"""Metrics of the credential cache."""

from prometheus_client import Counter, Histogram

from holdfast.runtime import SECONDS

CREDENTIAL_REQUESTS = Counter(
    "holdfast_credential_cache_requests_total", "Uses of the credential cache", ["result"]
)
CREDENTIAL_SECONDS = Histogram(
    "holdfast_credential_fetch_seconds", "Time to fetch a credential", buckets=SECONDS
)
