"""A finished run in the folder layout of `s4al run`, for the tests of what is made from it."""

import pytest

from orchestrator.folder.recipe_file import write_recipe
from orchestrator.recipe.provenance import provenance as _provenance
from tests.small import small_config, small_run

OVERRIDES = ("train.epochs=1", "cycles=2", "reference=true", "query.threshold=0.2", "model.dropout=0")


@pytest.fixture(scope="session")
def finished(toy_data, tmp_path_factory):
    """Run folder of two queries and a reference; treat it as read-only."""
    root = tmp_path_factory.mktemp("finished") / "run"
    write_recipe(root / "recipe.yaml", small_config(*OVERRIDES), _provenance(toy_data, root / "backbone.safetensors"))
    small_run(toy_data.root, root, *OVERRIDES)
    return root
