"""The S3 client of this process, and the meaning of its failures.

The client is created once per process, at its first use. It is kept in no workflow, step or instance, because
it holds sockets, locks and credentials, which cannot be stored (tests/integration/services/test_buckets.py
shows the effect). boto3 itself does not retry: the steps do, so that retries are visible and survive the
process.
"""

from __future__ import annotations

import configparser
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.worker.buckets.bounded_http import AnswerLimits, AnswerTooLongError, bound_answers
from services.worker.buckets.errors import (
    BucketMissing,
    ObjectStoreError,
    ObjectStoreRefused,
    ObjectStoreUnavailable,
)
from services.worker.buckets.settings import BucketSettings

CONNECT_SECONDS = 3.0
_CONNECTIONS = 16
ANSWER_BYTES = 4 << 20
"""The most bytes of an answer. A thousand keys of 1,024 bytes, each byte escaped, take 3.4 MB."""
_KEY_BYTES = 1024
"""S3's own limit."""
_SIZE_LIMIT = 2**63
_ANSWER_TAGS = 64_000
"""The most tags of an answer, twice those of a thousand keys."""

_BUSY = {
    "SlowDown",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
    "Throttling",
    "RequestLimitExceeded",
}

_KEYS = ("aws_access_key_id", "aws_secret_access_key")

_client: Any = None
_building = threading.Lock()


@dataclass(frozen=True)
class Listed:
    """Objects in the server's order, each with its size in bytes. ``more``: further objects follow."""

    objects: list[tuple[str, int]]
    more: bool


def client(settings: BucketSettings) -> Any:
    """Returns the process's client. It is thread-safe."""
    global _client  # noqa: PLW0603
    with _building:
        if _client is None:
            _client = _build(settings)
        return _client


def close() -> None:
    """Closes the client. The next use creates another."""
    global _client  # noqa: PLW0603
    with _building:
        if _client is not None:
            _client.close()
        _client = None


def _build(settings: BucketSettings) -> Any:
    # Imported lazily: boto3 is slow and large, and only bucket listings need it.
    import boto3
    from botocore.config import Config

    made = boto3.Session().client(
        "s3",
        **_credentials(settings.s3_credentials_file),
        endpoint_url=settings.s3_endpoint or None,
        region_name=settings.s3_region,
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=settings.s3_timeout_seconds,
            retries={"total_max_attempts": 1},
            max_pool_connections=_CONNECTIONS,
            # Bucket names as host names need a wildcard in DNS, which only AWS certainly has.
            s3={"addressing_style": "path" if settings.s3_endpoint else "auto"},
        ),
    )
    limits = AnswerLimits(ANSWER_BYTES, _ANSWER_TAGS, settings.s3_timeout_seconds)
    bound_answers(made, limits)
    return made


def _credentials(file: Path | None) -> dict[str, str]:
    """Returns the file's credentials, which override boto3's other sources. Raises ``ObjectStoreRefused``."""
    if file is None:
        return {}
    read = configparser.ConfigParser(interpolation=None)
    try:
        read.read_string(file.read_text("utf-8"))
        found = {name: read["default"][name] for name in _KEYS}
    except (OSError, ValueError, KeyError, configparser.Error) as error:
        raise ObjectStoreRefused(
            f"HOLDFAST_S3_CREDENTIALS_FILE holds no credentials ({type(error).__name__}). It needs a section "
            f"[default] with {' and '.join(_KEYS)}."
        ) from None
    token = read["default"].get("aws_session_token")
    return {**found, **({"aws_session_token": token} if token else {})}


def list_objects(settings: BucketSettings, bucket: str, prefix: str, start_after: str, limit: int) -> Listed:
    """Lists at most ``limit`` (1,000 on most servers) objects after a key. Blocks.

    Raises ``BucketMissing``, ``ObjectStoreRefused``, ``ObjectStoreUnavailable`` (worth a retry),
    ``ObjectStoreError``.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    given = {"Bucket": bucket, "MaxKeys": limit}
    given |= {"Prefix": prefix} if prefix else {}
    given |= {"StartAfter": start_after} if start_after else {}
    try:
        answer = client(settings).list_objects_v2(**given)
        return _checked(answer, limit)
    except ClientError as error:
        raise _refusal(error.response, bucket) from error
    except (BotoCoreError, OSError) as error:
        raise _failure(error, settings) from error
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        # Of botocore's parser too, for a number or a time that is none.
        raise _unusable(f"a value in it cannot be read ({type(error).__name__})") from error


def _checked(answer: dict[str, Any], limit: int) -> Listed:
    """Returns the objects of an answer. Raises ``ObjectStoreError`` for more or larger ones than can be."""
    contents = answer.get("Contents", [])
    if len(contents) > limit:
        raise _unusable(f"it has {len(contents):,} keys, and {limit:,} were asked for")
    objects = [(found["Key"], int(found.get("Size", 0))) for found in contents]
    for key, size in objects:
        if len(key.encode()) > _KEY_BYTES:
            raise _unusable(f"a key in it is longer than {_KEY_BYTES:,} bytes")
        if not 0 <= size < _SIZE_LIMIT:
            raise _unusable("the size of an object is out of range")
    return Listed(objects, bool(answer.get("IsTruncated")))


def _unusable(reason: str) -> ObjectStoreError:
    """Returns the error for an answer that no attempt would make better."""
    return ObjectStoreError(
        f"The S3 server's answer cannot be used: {reason}. Check that HOLDFAST_S3_ENDPOINT is an S3 server."
    )


def _refusal(response: dict[str, Any], bucket: str) -> ObjectStoreError:
    """Converts the server's answer to an error. Keeps only its code: the text may quote signed data."""
    code = str(response.get("Error", {}).get("Code", "unknown"))[:60]
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    answer = f"(HTTP {status}, {code})"
    if status >= 500 or status == 429 or code in _BUSY:
        return ObjectStoreUnavailable(f"The S3 server cannot answer at the moment {answer}. Try again later.")
    if status == 403 or code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"):
        return ObjectStoreRefused(
            f"The S3 server refuses to list bucket {bucket} {answer}. Check HOLDFAST_S3_CREDENTIALS_FILE and "
            "what these credentials may do."
        )
    if status == 404 or code == "NoSuchBucket":
        return BucketMissing(f"There is no bucket {bucket} on the S3 server {answer}. Check its name.")
    return ObjectStoreError(
        f"The S3 server cannot list bucket {bucket} {answer}. Check HOLDFAST_S3_ENDPOINT "
        "and HOLDFAST_S3_REGION."
    )


def _failure(error: Exception, settings: BucketSettings) -> ObjectStoreError:
    """Converts a missing or unreadable answer to an error."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    kind = type(error).__name__
    if isinstance(error, exceptions.HTTPClientError) and isinstance(
        error.kwargs.get("error"), AnswerTooLongError
    ):
        return _unusable(f"it has more than {ANSWER_BYTES:,} bytes or {_ANSWER_TAGS:,} tags")
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return ObjectStoreRefused(
            "There are no credentials for the S3 server. Set HOLDFAST_S3_CREDENTIALS_FILE to a file that has "
            "them, and restart the workers."
        )
    # All other failures of the connection: refused, reset, timed out, cut short, not XML.
    passing = (
        exceptions.HTTPClientError,
        exceptions.ConnectionError,
        exceptions.IncompleteReadError,
        exceptions.ResponseStreamingError,
    )
    if isinstance(error, (*passing, ResponseParserError, OSError)):
        where = settings.s3_endpoint or "AWS"
        return ObjectStoreUnavailable(
            f"The S3 server does not answer at {where} ({kind}). Check HOLDFAST_S3_ENDPOINT and that it runs."
        )
    return ObjectStoreError(f"The S3 client cannot do this ({kind}). Check the HOLDFAST_S3_ settings.")
