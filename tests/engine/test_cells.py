"""The count of KV cells against a plain model of who holds what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.cells import Cells

SEQUENCES, CONTEXT, TOTAL = 4, 12, 24


@given(st.data())
def test_any_mix_of_operations_keeps_the_books(data: st.DataObject) -> None:
    cells = Cells(TOTAL, SEQUENCES, CONTEXT)
    model: list[list[object]] = [[] for _ in range(SEQUENCES)]
    for _ in range(data.draw(st.integers(0, 40))):
        one = data.draw(st.integers(0, SEQUENCES - 1))
        other = data.draw(st.integers(0, SEQUENCES - 1))
        match data.draw(st.sampled_from(["extend", "append", "share", "cut"])):
            case "extend":
                count = data.draw(st.integers(0, min(cells.free, CONTEXT - len(model[one]))))
                cells.extend(one, count)
                model[one] += [object() for _ in range(count)]
            case "append" if cells.free and len(model[one]) < CONTEXT:
                cells.append(one)
                model[one].append(object())
            case "share" if one != other:
                count = data.draw(st.integers(0, len(model[one])))
                cells.cut(other, 0)
                cells.share(one, other, count)
                model[other] = model[one][:count]
            case "cut":
                length = data.draw(st.integers(0, len(model[one])))
                cells.cut(one, length)
                del model[one][length:]
        held = {cell for sequence in model for cell in sequence}
        assert cells.used == len(held)
        assert cells.free == TOTAL - len(held)
        for index, sequence in enumerate(model):
            assert cells.owned(index).size == len(sequence)
            others = {cell for i, s in enumerate(model) if i != index for cell in s}
            assert cells.exclusive(index) == len(set(sequence) - others)
    for index in range(SEQUENCES):
        cells.cut(index, 0)
    assert cells.free == TOTAL
