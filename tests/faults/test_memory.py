"""Workers that run out of memory: one block too many is told of, the others are finished, and nothing else is lost."""

import shutil

import pytest
from faults.bed import FEW, SLOTS, Bed, Tally, cluster, ending, records, snapshot

BLOCK = 7
GIB = 1 << 30
pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Bed:
    return Bed.make(tmp_path_factory.mktemp("memory"))


def then_without_hunger(bed: Bed, folder, row: Tally, *where: str) -> None:
    """The same command finishes the block that was left."""
    assert sorted(records(folder)) == [i for i in range(bed.blocks) if i != BLOCK]
    known = [snapshot(folder)]
    done = bed.finish(bed.run(folder, *where), row)
    assert done.code == 0, done.stderr
    bed.compare(folder, row, known=known)


def test_a_limit_of_tileseg_worker(bed, tally, tmp_path) -> None:
    row = tally(
        "a worker takes more than its --memory",
        "one block of 24 allocates 4 GiB in a `tileseg worker --memory 2GiB`, which is restarted each time",
    )
    while row.times < FEW:
        folder = bed.folder / f"limit-{row.times}"
        place = tmp_path / str(row.times)
        with cluster(bed, place, 1, "--memory", "2GiB", FAULT_HUNGRY=f"{BLOCK}:{4 * GIB}") as found:
            done = bed.finish(bed.run(folder, *found.place), row)
        row.tell_of_one_block(done, "though nothing else was computed")
        then_without_hunger(bed, folder, row, "--workers", "1")
    row.check(10 * SLOTS * row.times)


def test_no_more_address_space(bed, tally) -> None:
    row = tally(
        "a worker has no memory left",
        "RLIMIT_AS of a worker at 1 GiB above what it has; one block of 24 allocates 2 GiB",
    )
    while row.times < FEW:
        folder = bed.folder / f"space-{row.times}"
        env = {"FAULT_HUNGRY": f"{BLOCK}:{2 * GIB}", "FAULT_LIMIT": str(GIB)}
        with ending(bed.run(folder, "--workers", "1", **env)) as process:
            done = bed.finish(process, row)
        row.tell_of_one_block(done, "out of memory, though nothing else was computed")
        then_without_hunger(bed, folder, row, "--workers", "1")
    row.check(10 * SLOTS * row.times)


def test_room_for_one_block_only(bed, tally) -> None:
    """Two blocks at once take too much, one alone does not."""
    row = tally(
        "memory for one block at a time only",
        "RLIMIT_AS of a worker at 1 GiB above what it has; each of 24 blocks allocates 0.7 GiB for a while",
    )
    while row.times < FEW:
        folder = bed.folder / f"room-{row.times}"
        env = {"FAULT_HUNGRY": f"all:{7 * GIB // 10}", "FAULT_LIMIT": str(GIB)}
        with ending(bed.run(folder, "--workers", "1", **env)) as process:
            done = bed.finish(process, row)
        row.times += 1
        row.tell(done)
        assert done.code == 0, done.stderr
        bed.compare(folder, row)
        shutil.rmtree(folder)
    row.check(2 * bed.blocks * row.times)
