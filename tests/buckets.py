"""A bucket of an S3 server, looked into with boto3, which tileseg does not use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY, SECRET = "an-access-key", "hush-a-secret-key"


@dataclass(frozen=True)
class Bucket:
    """A bucket of the server, empty at first."""

    name: str
    port: int
    client: Any

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def put(self, key: str, data: bytes | Path) -> None:
        body = data.read_bytes() if isinstance(data, Path) else data
        self.client.put_object(Bucket=self.name, Key=key, Body=body, ACL="public-read")

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def stat(self, key: str) -> tuple[str, Any]:
        found = self.client.head_object(Bucket=self.name, Key=key)
        return found["ETag"], found["LastModified"]

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]

    def contents(self, prefix: str) -> dict[str, bytes]:
        return {key.removeprefix(prefix).lstrip("/"): self.get(key) for key in self.keys(prefix)}


def forget_stores() -> None:
    """Stores are kept by address, and endpoints are part of the environment."""
    from tileseg.storage import remote

    remote._bucket.cache_clear()
    remote._web.cache_clear()
