from __future__ import annotations

import pytest

from litfast.registry import Registry, UnknownNameError, unknown


@pytest.fixture
def colours() -> Registry[int]:
    registry: Registry[int] = Registry("colour")
    registry.update(red=1, green=2)
    return registry


def test_a_known_name_gives_its_object(colours: Registry[int]) -> None:
    assert colours["green"] == 2


def test_an_unknown_name_is_answered_with_all_known_names_and_the_nearest(colours: Registry[int]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        colours["gren"]
    assert str(caught.value) == "colour must be one of green, red, got 'gren'; did you mean 'green'?"


def test_an_unknown_name_is_a_value_error_for_users_and_a_key_error_for_dicts(colours: Registry[int]) -> None:
    with pytest.raises(ValueError, match="colour must be one of"):
        colours["blue"]
    with pytest.raises(KeyError):
        colours["blue"]
    assert colours.get("blue") is None


def test_a_name_that_is_like_no_other_gets_no_hint() -> None:
    assert unknown("colour", "xyzzy", ["red", "green"]) == "colour must be one of green, red, got 'xyzzy'"
