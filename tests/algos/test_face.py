import doctest
import subprocess
import sys
from importlib import import_module
from inspect import signature

import palaestra.algos as algos
import pytest

MODULES = [
    "credit",
    "divergence",
    "exploration",
    "levels",
    "losses",
    "masking",
    "returns",
    "rows",
    "scan",
    "segments",
    "statistics",
    "values",
]


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    assert algos.__all__ == sorted(set(algos.__all__))
    for name in algos.__all__:
        assert (getattr(algos, name).__doc__ or "").strip(), name
    assert set(algos.__all__) <= set(dir(algos))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = algos.nonsense


def test_importing_the_room_imports_no_torch() -> None:
    code = "import sys; import palaestra.algos; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", MODULES)
def test_every_example_in_a_docstring_runs(name: str) -> None:
    module = import_module(f"palaestra.algos.{name}")
    found = doctest.testmod(module)
    assert found.failed == 0
    assert found.attempted > 0 or name == "rows"


def test_hyper_parameters_are_keywords_and_masks_are_optional() -> None:
    """Section 0.7: tensors first, everything else by name."""
    for name in ("gae", "n_step", "lambda_return", "discounted_return", "level_schedule"):
        parameters = signature(getattr(algos, name)).parameters
        for keyword in ("gamma", "lam", "n", "action_mask", "episode_id"):
            if keyword in parameters:
                assert parameters[keyword].kind is parameters[keyword].KEYWORD_ONLY
        assert parameters["action_mask"].default is None
