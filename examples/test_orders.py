"""The rules and the workflow's own path, without a stack: functions are plain until a process runs them."""

from __future__ import annotations

from examples.orders import Line, Receipt, fulfil, total_cents


def test_a_tenth_less_from_a_hundred_on() -> None:
    assert total_cents([Line("pen", 3, 33_33)]) == 99_99
    assert total_cents([Line("pen", 1, 100_00)]) == 90_00


def test_what_is_sold_out_is_neither_sent_nor_charged() -> None:
    lines = [Line("pen", 2, 150), Line("ink", 0, 900)]
    receipt = fulfil("o-1", lines, packing_seconds=0)
    assert isinstance(receipt, Receipt)
    assert receipt.total_cents == 300
    assert [parcel.article for parcel in receipt.parcels] == ["pen"]
