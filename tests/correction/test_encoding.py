from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.correction.encoding import (
    background_value,
    check_corrections,
    class_type,
    empty_corrections,
)
from napari_attention3d.errors import InputError

NAMES = ("background", "a", "b")


def test_background_is_the_largest_value_of_the_type():
    assert background_value(np.uint8) == 255
    assert background_value(np.uint16) == 65535
    with pytest.raises(InputError, match="uint8 or uint16"):
        background_value(np.int32)


def test_type_has_room_for_the_background_marker():
    assert class_type(255) == np.uint8
    assert class_type(256) == np.uint16
    assert empty_corrections((2, 3, 4), 300).dtype == np.uint16


def test_valid_corrections_pass_and_others_say_what_is_wrong():
    painted = np.zeros((2, 3, 4), np.uint8)
    painted[0, 0] = (0, 1, 2, 255)
    check_corrections(painted, (2, 3, 4), NAMES)
    with pytest.raises(InputError, match=r"shape \(2, 3, 4\), the scan \(2, 3, 5\)"):
        check_corrections(painted, (2, 3, 5), NAMES)
    painted[1, 1, 1] = 7
    with pytest.raises(InputError, match="label 7, but the classes are 1 a, 2 b"):
        check_corrections(painted, (2, 3, 4), NAMES)
