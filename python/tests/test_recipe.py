"""Recipes as the library reads them."""

import nibble
import pytest
from conftest import SOURCE


def test_every_recipe_file_is_known_and_read():
    files = {p.stem for p in (SOURCE / "recipes").rglob("*.toml")}
    assert set(nibble.recipes()) >= files
    for name in files:
        assert nibble.recipe(name).name == name


def test_operands_stand_where_they_do_in_the_file():
    recipe = nibble.recipe("quartet2")
    assert (recipe.fprop.x.operand, recipe.fprop.w.operand) == ("fprop.x", "fprop.w")
    assert (recipe.dgrad.dy.operand, recipe.dgrad.w.operand) == ("dgrad.dy", "dgrad.w")
    assert (recipe.wgrad.dy.operand, recipe.wgrad.x.operand) == ("wgrad.dy", "wgrad.x")
    assert recipe.fprop.x.element == "e2m1" and recipe.fprop.x.scale == "nvfp4"
    assert "four-over-six" in str(recipe.fprop.x)


def test_a_recipe_comes_from_a_path_or_a_text_too():
    path = SOURCE / "recipes" / "nvfp4.toml"
    assert nibble.recipe(path).text == nibble.recipe("nvfp4").text
    text = 'name = "mine"\n[fprop]\nx = { element = "e2m1", granularity = 32, scale = "ocp-floor" }\n'
    mine = nibble.parse_recipe(text)
    assert mine.fprop.x == nibble.QuantSpec(element="e2m1", granularity=32, scale="ocp-floor")
    assert ("fprop.x", "scale") not in mine.differences(mine)
    assert any(what.startswith("fprop.x") for what, _, _ in mine.differences(nibble.recipe("bf16")))


def test_layers_and_stages_resolve_as_in_training():
    zhou = nibble.recipe("zhou2025")
    assert zhou.resolve("layers.0.mlp.down", 0, 12).fprop.x.element == "e2m1"
    assert zhou.resolve("layers.0.attention.qkv", 0, 12).fprop.x.element == "e4m3"
    assert zhou.stages == 2
    assert zhou.resolve("layers.0.mlp.down", 0, 12, 1).fprop.x.element == "bf16"
    with pytest.raises(nibble.UserError, match="stage is 2, the recipe 'zhou2025' has 2"):
        zhou.resolve("layers.0.mlp.down", 0, 12, 2)
    assert nibble.recipe("nvfp4").is_exempt("layers.11.mlp.down", 11, 12)


def test_a_wrong_recipe_says_where():
    with pytest.raises(nibble.UserError, match="recipe:2: key 'fprop.x'"):
        nibble.parse_recipe('name = "mine"\nfprop.x = 3\n')
