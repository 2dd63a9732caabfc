"""The options of the S3 server whose buckets are listed."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from holdfast.settings import Settings


class BucketSettings(Settings):
    """A process's settings with those of the S3 server."""

    s3_endpoint: str = Field(
        "",
        pattern=r"^(https?://[^\s/?#@]+(/[^\s?#]*)?)?$",
        description="the S3 server whose buckets are listed (http://127.0.0.1:8333); empty: AWS",
    )
    s3_region: str = Field("us-east-1", pattern=r"^[a-z0-9-]{1,40}$", description="its region")
    s3_credentials_file: Path | None = Field(
        None, description="an AWS credentials file, profile default; none: wherever boto3 looks"
    )
    s3_timeout_seconds: float = Field(
        10.0, gt=0, le=120, description="longest wait for an answer and its end"
    )
    s3_max_pages: int = Field(1000, ge=1, le=10_000, description="pages that one listing has at most")
