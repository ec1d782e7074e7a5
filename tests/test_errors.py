from __future__ import annotations

from litfast.errors import first_line, typed


def test_an_error_is_one_line_whatever_it_says() -> None:
    assert first_line(ValueError("\n one\n two")) == "one"
    assert first_line(AssertionError()) == first_line(AssertionError("\n")) == "AssertionError"


def test_the_type_stands_in_front_once() -> None:
    assert typed(IndexError("too far\nback")) == "IndexError: too far"
    assert typed(AssertionError()) == "AssertionError"
