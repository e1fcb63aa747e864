import multiprocessing
import time

import pytest

from tileseg.errors import LockedError
from tileseg.run.ledger import BlockRecord, Ledger


def test_records_come_back_in_order(tmp_path) -> None:
    ledger = Ledger(tmp_path)
    records = [BlockRecord(i, i * 10, {"read": 0.5}, ("batch 2 -> 1",) if i % 2 else ()) for i in (1203, 7, 0)]
    for record in records:
        ledger.record_done(record)
    assert ledger.done() == {0, 7, 1203}
    assert ledger.record(7) == records[1]
    assert ledger.record(8) is None
    assert list(ledger.records()) == sorted(records, key=lambda r: r.index)


def test_torn_writes_do_not_count(tmp_path) -> None:
    ledger = Ledger(tmp_path)
    ledger.record_done(BlockRecord(3, 1))
    (tmp_path / "done" / "000000" / ".000000004.json.123.partial").write_text('{"ind')
    assert ledger.done() == {3}


def hold(root, ready) -> None:
    with Ledger(root).lock():
        ready.set()
        time.sleep(60)


def test_a_second_process_is_locked_out_until_the_first_is_killed(tmp_path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    holder = spawn.Process(target=hold, args=(tmp_path, ready))
    holder.start()
    try:
        assert ready.wait(30)
        with pytest.raises(LockedError, match=f"process {holder.pid} on"), Ledger(tmp_path).lock():
            pass
    finally:
        holder.kill()
        holder.join()
    with Ledger(tmp_path).lock():
        pass
