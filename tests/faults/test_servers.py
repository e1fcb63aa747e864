"""Scenes and outputs on an S3 server: one that fails and stalls now and then, and drivers that are killed."""

import random

import pytest
from buckets import Bucket
from faults.bed import (
    SLOTS,
    TIMES,
    Bed,
    InBucket,
    kill,
    records,
    snapshot,
    wait_for_blocks,
    wait_until_gone,
    workers_of,
)
from unreliable import Unreliable

SHARE = 0.06
"""Of all requests."""


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Bed:
    return Bed.make(tmp_path_factory.mktemp("servers"))


@pytest.fixture
def scene(bed, bucket) -> str:
    bucket.put("scene0.tif", bed.scene())
    return bucket.url("scene0.tif")


@pytest.mark.faults
def test_a_server_that_fails(bed, bucket: Bucket, scene, tally) -> None:
    row = tally("an S3 server fails, cuts connections and stalls", "")
    spoilt = asked = 0
    while row.times < TIMES:
        place = InBucket(bucket, f"runs/failing-{row.times}")
        with Unreliable(bucket.port, share=SHARE, silence=6, seed=row.times) as server:
            there = {"AWS_ENDPOINT_URL": server.address, "TILESEG_HTTP_TIMEOUT": "5"}
            done = bed.finish(bed.run(place, "--workers", "2", scene=scene, **there), row)
            assert {"500", "503", "cut", "silence"} <= set(server.spoilt)
        assert done.code == 0, done.stderr
        row.times += 1
        spoilt, asked = spoilt + server.spoilt.total(), asked + server.asked.total()
        bed.compare(place, row)
    row.how = (
        f"`tileseg run s3://... --out s3://... --workers 2`: {spoilt} of {asked} requests are answered with 500 or "
        "503, cut in the middle, or not answered within the 5 s that are waited"
    )
    row.check(0)


@pytest.mark.faults
def test_driver_of_a_run_in_a_bucket(bed, bucket: Bucket, scene, tally) -> None:
    how = "kill -9 of `tileseg run s3://... --out s3://... --workers 2`, at random; then the same command"
    row = tally("the driver is killed, with scene and outputs on S3", how)
    moments = random.Random(5)
    while row.times < TIMES:
        place, known = InBucket(bucket, f"runs/killed-{row.times}"), []
        process = bed.run(place, "--workers", "2", scene=scene, FAULT_SLEEP="0.3")
        while row.times < TIMES and wait_for_blocks(process, place, len(records(place)) + moments.randint(1, 8)):
            left = workers_of(process.pid)
            process.kill()
            process.wait()
            wait_until_gone(left)  # what they still finish is as good
            kill(left)
            known.append(snapshot(place))
            row.times += 1
            process = bed.run(place, "--workers", "2", scene=scene, FAULT_SLEEP="0.3")
        done = bed.finish(process, row)
        assert done.code == 0, done.stderr
        bed.compare(place, row, known=known)
    row.check(2 * SLOTS * row.times)
